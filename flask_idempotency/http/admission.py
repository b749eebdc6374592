"""The way of every request through the library, up to the handler: key, principal, fingerprint, claim."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from werkzeug import Request

from ..engine.attempt import Attempt, State
from ..engine.engine import Engine, Refuse, Replay, Run
from ..engine.events import Outcome
from ..engine.policy import Policy
from .body import Body, BrokenBody
from .fingerprint import MalformedMultipart
from .header import MalformedKey, check_key, environ_name, parse_key
from .principal import SignedIn, call_with_request, principal_of
from .problems import Problem, problem

#: Where the environ carries the attempt that the request is in.
ATTEMPT = "flask_idempotency.attempt"


#: Where the environ carries what is known of a kept request that is worked on again. No client can set it.
RESUMED = "flask_idempotency.resumed"


@dataclass(frozen=True, slots=True)
class Resumed:
    """A kept request that enters the application again, without the credentials that came with it."""

    key: str
    principal: bytes
    context: Any


def in_attempt(environ: dict[str, Any]) -> bool:
    """Whether a front end further out has claimed for this request.

    An attempt that has ended protects nothing: whoever comes with it comes again, as from a middleware that retries.
    """
    attempt: Attempt | None = environ.get(ATTEMPT)
    return attempt is not None and attempt.state is not State.DONE


def place_body(environ: dict[str, Any], policy: Policy) -> Body | None:
    """Put a rereadable body into the environ, before anything reads it; None where there is no key to read it for."""
    if RESUMED not in environ and policy.key_from is None and environ_name(policy.header) not in environ:
        return None
    return Body(environ, policy.fingerprint)


def admit(
    environ: dict[str, Any],
    body: Body | None,
    *,
    request: Callable[[], Request],
    engine: Engine,
    policy: Policy,
    limit: int | None = None,
    signed_in: SignedIn | None = None,
) -> Run | Replay | Problem | None:
    """Decide over a request that the policy covers; None where it carries no key and needs none.

    `request` gives the request for those who ask it: callables of the policy, and `signed_in`. `limit`: bytes that the
    body may have, as the application sets it. Raises werkzeug's 413 beyond.
    """
    try:
        key = _key(environ, request, policy)
        if key is None:
            if not policy.required:
                return None
            engine.tell(Outcome.MISSING)
            return problem("idempotency-key-missing")
        assert body is not None, "a key came in after the body was placed"
        fingerprint = body.finish(limit=limit)
    except MalformedKey as error:
        engine.tell(Outcome.MALFORMED)
        return problem("idempotency-key-malformed", reason=str(error))
    except (BrokenBody, MalformedMultipart) as error:
        return problem("request-body-malformed", reason=_reason(error))
    resumed: Resumed | None = environ.get(RESUMED)
    principal = resumed.principal if resumed else principal_of(environ, request, policy, signed_in)
    decision = engine.begin(
        key=key,
        principal=principal,
        fingerprint=fingerprint,
        policy=policy,
        # One of several processes with one thread each cannot see the others: were all to wait, nobody would serve.
        may_wait=bool(policy.wait and (environ.get("wsgi.multithread") or not environ.get("wsgi.multiprocess"))),
    )
    if isinstance(decision, Refuse):
        return problem(decision.refusal, retry_after=decision.retry_after)
    return decision


def _key(environ: dict[str, Any], request: Callable[[], Request], policy: Policy) -> str | None:
    resumed: Resumed | None = environ.get(RESUMED)
    if resumed is not None:
        return resumed.key
    if policy.key_from is not None:
        try:
            key = call_with_request(policy.key_from, request())
        except (LookupError, TypeError):  # `request.json["id"]`, and there is none, or no object to have it
            return None
        return None if key is None else check_key(key)
    value = environ.get(environ_name(policy.header))
    return None if value is None else parse_key(value, strict=policy.strict)


def _reason(error: Exception) -> str:
    return "it broke off or has no valid length" if isinstance(error, BrokenBody) else "it is not a multipart form"
