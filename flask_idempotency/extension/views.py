"""Which policy is in force for which view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from flask import Flask, Request

from ..engine.policy import Policy
from ..http.header import environ_name
from ..http.policy_page import Rules

#: The attribute of a view, a view class or a blueprint that says what is special about it. `functools.wraps` copies
#: it, so that decorators above ours do not hide it.
_MARK = "__idempotency__"

#: What a decorated view guards in an application whose hooks guard nothing (`IDEMPOTENCY_METHODS = ()`).
_UNSAFE = ("POST", "PATCH")

Marked = TypeVar("Marked")


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator said about a view. Options of None: exempt."""

    options: Mapping[str, Any] | None


EXEMPT = Mark(None)


def mark(target: Marked, options: Mapping[str, Any] | None) -> Marked:
    """Put options, or the exemption, on a view function, a view class or a blueprint."""
    try:
        setattr(target, _MARK, EXEMPT if options is None else Mark(MappingProxyType(dict(options))))
    except AttributeError:
        raise TypeError(f"A view function, a view class or a blueprint is wanted here, not {target!r}.") from None
    return target


@dataclass(frozen=True, slots=True)
class InForce:
    """The policy of one view and method. `decorated`: the view's own decorator claims, not the hooks.

    `optional`: the place in the environ without which the request passes by; None where none may.
    """

    policy: Policy
    decorated: bool
    optional: str | None

    @classmethod
    def by(cls, policy: Policy, *, decorated: bool) -> InForce:
        """`policy`, with what is asked on every request worked out once."""
        may_pass = not policy.required and policy.key_from is None
        return cls(policy, decorated, environ_name(policy.header) if may_pass else None)

    def lets_pass(self, environ: Mapping[str, Any]) -> bool:
        """Whether the request needs no key and has none."""
        return self.optional is not None and self.optional not in environ


class ViewPolicies:
    """The policies of one application's views."""

    def __init__(self, app: Flask, policy: Policy) -> None:
        self._app = app
        self._policy = policy
        #: The methods that decorated views guard, and so all that any view does.
        self.guarded = frozenset(policy.methods or _UNSAFE)
        self._known: dict[tuple[str, str], tuple[Callable[..., Any], InForce | None]] = {}

    def decorated(self, options: Mapping[str, Any]) -> InForce:
        """What is in force for a view that is decorated with these options."""
        return InForce.by(self._with_options(options), decorated=True)

    def _with_options(self, options: Mapping[str, Any]) -> Policy:
        """The application's policy with the options of a view."""
        return replace(self._policy, methods=self._policy.methods or _UNSAFE, **options)

    def of(self, request: Request) -> InForce | None:
        """What is in force for a request that was routed; None: leave it alone."""
        method = request.method
        if method not in self.guarded:
            return None
        rule = request.url_rule
        if rule is None or request.routing_exception is not None:
            return None
        endpoint = rule.endpoint
        view = self._app.view_functions.get(endpoint)
        if view is None:
            return None
        found = self._known.get((endpoint, method))
        if found is None or found[0] is not view:
            found = self._known[endpoint, method] = view, self._find(view, method, request.blueprints)
        return found[1]

    def published(self) -> list[Rules]:
        """The rules in force, for the policy page: those of the application, and those of its views."""
        published = [Rules(self._policy)] if self._policy.methods else []
        for rule in self._app.url_map.iter_rules():
            view = self._app.view_functions.get(rule.endpoint)
            if view is None:
                continue
            blueprints = _blueprints(rule.endpoint)
            for method in sorted(self.guarded.intersection(rule.methods or ())):
                in_force = self._find(view, method, blueprints)
                if in_force is not None:
                    published.append(Rules(in_force.policy, (rule.rule,)))
                elif self._said(view, method, blueprints) is EXEMPT:
                    published.append(Rules(None, (rule.rule,)))
        return published

    def exempts(self, request: Request) -> bool:
        """Whether the view of the request is exempt, whatever decorators stand around it."""
        view = self._app.view_functions.get(request.endpoint or "")
        said = view and self._said(view, request.method, request.blueprints)
        return bool(said) and said is EXEMPT

    def _find(self, view: Callable[..., Any], method: str, blueprints: list[str]) -> InForce | None:
        said = self._said(view, method, blueprints)
        if said is None:
            return InForce.by(self._policy, decorated=False) if method in self._policy.methods else None
        if said.options is None:
            return None
        policy = self._with_options(said.options)
        return InForce.by(policy, decorated=True) if method in self.guarded else None

    def _said(self, view: Callable[..., Any], method: str, blueprints: list[str]) -> Mark | None:
        marks = (getattr(place, _MARK, None) for place in self._places(view, method, blueprints))
        return next((found for found in marks if found is not None), None)

    def _places(self, view: Callable[..., Any], method: str, blueprints: list[str]) -> Iterator[object]:
        """Where a mark may stand, the nearest to the handler first."""
        view_class = getattr(view, "view_class", None)
        yield getattr(view_class, method.lower(), None)
        yield getattr(view_class, "dispatch_request", None)
        yield view
        yield view_class
        for name in blueprints:
            yield self._app.blueprints.get(name)


def _blueprints(endpoint: str) -> list[str]:
    """The names of the blueprints an endpoint is in, the innermost first."""
    names = endpoint.split(".")[:-1]
    return [".".join(names[:length]) for length in range(len(names), 0, -1)]
