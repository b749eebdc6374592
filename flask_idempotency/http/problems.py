"""The refusals, as problem documents (RFC 9457)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from werkzeug.http import HTTP_STATUS_CODES

#: What the `type` of every problem starts with. An identifier, not an address: it stays the same wherever the policy
#: is documented; the `Link` header points there.
TYPE_PREFIX = "urn:flask-idempotency:"


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One refusal: its `type` ends in the slug. `retry_after`: whole seconds, where asking again may help.

    `status_line` is what WSGI wants: the status code with its phrase. `body` is the document.
    """

    slug: str
    status: int
    title: str
    detail: str
    retry_after: int | None = None
    status_line: str = field(init=False)
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        document = {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        object.__setattr__(self, "status_line", f"{self.status} {HTTP_STATUS_CODES[self.status].upper()}")
        object.__setattr__(self, "body", json.dumps(document).encode() + b"\n")

    def headers(self, docs_url: str | None) -> list[tuple[str, str]]:
        """The header fields of the response, in their order."""
        return list(_headers(self, docs_url))


# A refusal must cost less than what it refuses. What it says is told once: no client has a say in it.
@lru_cache(maxsize=256)
def _headers(told: Problem, docs_url: str | None) -> tuple[tuple[str, str], ...]:
    headers = [("Content-Type", "application/problem+json")]
    if docs_url is not None:
        headers.append(("Link", f'<{docs_url}>; rel="describedby"'))
    if told.retry_after is not None:
        headers.append(("Retry-After", str(told.retry_after)))
    # Another moment, another answer: nothing in between may keep this one.
    headers.append(("Cache-Control", "no-store"))
    headers.append(("Content-Length", str(len(told.body))))
    return tuple(headers)


_ALL = (
    Problem(
        "idempotency-key-missing",
        400,
        "An idempotency key is required",
        "This operation is done at most once for each idempotency key, and the request carries none.",
    ),
    Problem("idempotency-key-malformed", 400, "The idempotency key is malformed", "The key cannot be used: {reason}."),
    Problem(
        "idempotency-key-reused",
        422,
        "The idempotency key was used for another request",
        "The key names a request with another method, path, query or payload. A new operation needs a new key.",
    ),
    Problem(
        "request-in-progress",
        409,
        "A request with this idempotency key is in progress",
        "The first request with this key has not ended yet. Send the same request again later.",
    ),
    Problem(
        "outcome-unknown",
        409,
        "The outcome of the first request is unknown",
        "The server stopped while it worked on the first request with this key. Whether the work was done must be "
        "found out before anyone tries again.",
    ),
    Problem(
        "response-not-kept",
        409,
        "The request was done, but its response was not kept",
        "The first request with this key was carried out. Its response was too large to keep or broke off, so it "
        "cannot be repeated; the request will not be carried out again.",
    ),
    Problem(
        "claim-fenced",
        409,
        "Another attempt with this idempotency key counts",
        "This attempt took so long that another one was let in, and that one's answer counts. Send the same request "
        "again to hear it.",
    ),
    Problem(
        "store-unavailable",
        503,
        "Idempotency keys cannot be checked now",
        "The store of idempotency keys cannot be reached, and the request was not carried out. Send the same request "
        "again later.",
    ),
    Problem(
        "transaction-conflict",
        503,
        "The request met another one at the same data",
        "The request was undone, since another one changed the same data meanwhile. Send the same request again.",
    ),
    Problem(
        "request-body-malformed",
        400,
        "The request body is malformed",
        "The body does not match the headers that describe it: {reason}.",
    ),
)

#: Every problem that the library answers with, by its slug.
PROBLEMS: Mapping[str, Problem] = MappingProxyType({problem.slug: problem for problem in _ALL})


@lru_cache(maxsize=256)
def problem(slug: str, *, reason: str | None = None, retry_after: int | None = None) -> Problem:
    """The problem with this slug, told in particular."""
    known = PROBLEMS[slug]
    detail = known.detail if reason is None else known.detail.format(reason=reason)
    return Problem(known.slug, known.status, known.title, detail, retry_after)
