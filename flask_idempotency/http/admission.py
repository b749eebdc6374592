"""The way of every request through the library, up to the handler: key, fingerprint, principal, claim."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from werkzeug import Request

from ..engine.attempt import Attempt, State
from ..engine.digests import digest
from ..engine.engine import Engine, Refuse, Unprotected
from ..engine.events import Outcome
from ..engine.policy import Policy
from ..engine.records import StoredResponse
from .body import Body, BodyIncomplete, drain_some
from .header import MalformedKey, check_key, environ_name, parse_key
from .principal import SignedIn, call_with_request, caller_of
from .problems import Problem, problem

logger = logging.getLogger("flask_idempotency")

#: Where the environ carries the attempt that the request is in.
ATTEMPT = "flask_idempotency.attempt"

#: Where the environ carries what is known of a kept request that is worked on again. No client can set it.
RESUMED = "flask_idempotency.resumed"


@dataclass(frozen=True, slots=True)
class Resumed:
    """A kept request that enters the application again, without the credentials that came with it.

    `fingerprint` is that of its claim: a session, which it does not have any more, may have joined it.
    """

    key: str
    principal: bytes
    fingerprint: bytes
    context: Any


def in_attempt(environ: dict[str, Any]) -> bool:
    """Whether a front end further out has claimed for this request.

    An attempt that has ended protects nothing: whoever comes with it comes again, as from a middleware that retries.
    """
    attempt: Attempt | None = environ.get(ATTEMPT)
    return attempt is not None and attempt.state is not State.DONE


def place_body(environ: dict[str, Any], policy: Policy) -> Body | None:
    """Put a rereadable body into the environ, before anything reads it; None where the request passes by."""
    if (
        not policy.required
        and environ_name(policy.header) not in environ
        and policy.key_from is None
        and RESUMED not in environ
    ):
        return None
    return Body(environ, policy)


def admit(
    environ: dict[str, Any],
    body: Body | None,
    *,
    request: Callable[[], Request],
    engine: Engine,
    policy: Policy,
    limit: int | None = None,
    signed_in: SignedIn | None = None,
) -> Attempt | StoredResponse | Problem | None:
    """Decide over a request that the policy covers.

    An `Attempt`: it runs, under this. A `StoredResponse`: this is the answer. A `Problem`: this is. None: it runs as if
    there were no keys, since it carries none and needs none, or since the policy says so of a store out of reach.

    `request` gives the request for those who ask it: callables of the policy, and `signed_in`. `limit`: bytes that the
    body may have, as the application sets it. Raises werkzeug's 413 beyond.
    """
    resumed: Resumed | None = environ.get(RESUMED)
    try:
        if resumed is not None:
            key: str | None = resumed.key
        elif policy.key_from is not None:
            key = _key_elsewhere(request, policy.key_from)
        else:
            value = environ.get(environ_name(policy.header))
            key = None if value is None else parse_key(value, strict=policy.strict)
        if key is None:
            if not policy.required:
                return None
            engine.tell(Outcome.MISSING)
            drain_some(environ)
            return problem("idempotency-key-missing")
        assert body is not None, "a key came in after the body was placed"
        request_fingerprint = body.finish(limit=limit, request=request)
    except MalformedKey as error:
        engine.tell(Outcome.MALFORMED)
        drain_some(environ)
        return problem("idempotency-key-malformed", reason=str(error))
    except BodyIncomplete:
        return problem("body-incomplete")
    if not engine.placed:
        _look_around(environ, engine)
    if resumed is not None:
        principal, fingerprint = resumed.principal, resumed.fingerprint
    else:
        caller = caller_of(environ, request, policy, signed_in)
        principal, joins = caller.principal, caller.joins_fingerprint
        fingerprint = digest(request_fingerprint + joins) if joins else request_fingerprint
    decision = engine.begin(
        key=key,
        principal=principal,
        fingerprint=fingerprint,
        request_fingerprint=request_fingerprint,
        policy=policy,
        method=environ["REQUEST_METHOD"],
        path=environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
        # One of several processes with one thread each cannot see the others: were all to wait, nobody would serve.
        may_wait=bool(policy.wait and (environ.get("wsgi.multithread") or not environ.get("wsgi.multiprocess"))),
    )
    if isinstance(decision, Refuse):
        return problem(decision.refusal, retry_after=decision.retry_after, record_id=decision.record_id)
    return None if decision is Unprotected.RUN else decision


def _look_around(environ: dict[str, Any], engine: Engine) -> None:
    """Warn, at the first request, of a server whose processes do not share the store."""
    engine.placed = True
    if environ.get("wsgi.multiprocess") and getattr(engine.store, "of_one_process", False):
        logger.warning(
            "The server has several processes, and the store is the memory of each: a retry that comes to another one "
            "runs again. Set IDEMPOTENCY_STORE_URL to a store that they share, such as sqlite:///idempotency.db."
        )


def _key_elsewhere(request: Callable[[], Request], key_from: Callable[..., str | None]) -> str | None:
    try:
        key = call_with_request(key_from, request())
    except (LookupError, TypeError):  # `request.json["id"]`, and there is none, or no object to have it
        return None
    return None if key is None else check_key(key)
