"""The refusals, as problem documents (RFC 9457)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import quote

from werkzeug.http import HTTP_STATUS_CODES

from ..engine.engine import STORE_RETRY_AFTER
from ..engine.policy import PolicyError

#: What the `type` of a problem starts with where nothing documents it.
TYPE_PREFIX = "urn:flask-idempotency:"

#: What the `instance` of a problem starts with: the record that stands behind it.
RECORD_PREFIX = "urn:flask-idempotency:record:"

#: Where a problem leads when the application documents nothing.
_DRAFT = "https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"


@dataclass(frozen=True, slots=True, eq=False)
class Docs:
    """Where the policies are documented: at `url`, if it is set, else at `path`, where the front end serves the page.

    Both may be None. A path is the application's own, below where it is mounted. Raises `PolicyError`.
    """

    url: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None and not _can_be_linked(self.path, "/"):
            raise PolicyError(f"docs_path must be a path that starts with '/', or None, not {self.path!r}.")
        if self.url is not None and not _can_be_linked(self.url, "/", "http://", "https://"):
            raise PolicyError(
                f"docs_url must be an http(s) URL, a path that starts with '/', or None, not {self.url!r}."
            )

    def below(self, script_name: str) -> "Docs":
        """The same for an application that is mounted at `script_name`, the environ's `SCRIPT_NAME`."""
        return _below(self, script_name) if script_name else self

    @property
    def link(self) -> str:
        """Where a problem leads."""
        return self.url or self.path or _DRAFT

    def type_of(self, slug: str) -> str:
        """The `type` of a problem: where it is documented, or at least a name of its own."""
        page = self.url or self.path
        return TYPE_PREFIX + slug if page is None else f"{page.partition('#')[0]}#{slug}"


def _can_be_linked(target: object, *beginnings: str) -> bool:
    """Whether it can stand in a `Link` as it is: visible ASCII, nothing that closes a `<…>` reference."""
    return (
        isinstance(target, str)
        and target.startswith(beginnings)
        and all("!" <= char <= "~" for char in target)
        and not set('<>"') & set(target)
    )


# Bounded, since clients may have a say in where an application is mounted.
@lru_cache(maxsize=256)
def _below(docs: Docs, script_name: str) -> Docs:
    # Decoded as PEP 3333 has it; a header takes it only encoded.
    place = script_name.strip("/").encode("latin-1", "replace")
    mounted = "/" + quote(place, safe="/:@!$&'()*+,;=~") if place else ""

    def under(page: str | None) -> str | None:
        return mounted + page if page is not None and page.startswith("/") else page

    return Docs(under(docs.url), under(docs.path))


@dataclass(frozen=True, slots=True, eq=False)
class ProblemType:
    """What all refusals of one kind have in common. `detail` may have a place for the `{reason}`.

    `retry_after`: whole seconds after which asking again may help, unless the particular case says otherwise.
    """

    slug: str
    status: int
    title: str
    detail: str
    retry_after: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """A problem as it is told, whoever hears it."""

    type: ProblemType
    detail: str
    retry_after: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One refusal. `record_id`: the record that stands behind it, if there is one."""

    told: _Told
    record_id: bytes | None = None

    @property
    def slug(self) -> str:
        """The name of the problem: its `type` ends in it."""
        return self.told.type.slug

    @property
    def status(self) -> int:
        """The status code."""
        return self.told.type.status

    @property
    def status_line(self) -> str:
        """What WSGI wants: the status code with its phrase."""
        return _render(self.told, _UNDOCUMENTED).status_line

    @property
    def title(self) -> str:
        """What it is, the same for every occurrence."""
        return self.told.type.title

    @property
    def detail(self) -> str:
        """What it is this time."""
        return self.told.detail

    @property
    def retry_after(self) -> int | None:
        """Whole seconds, where asking again may help."""
        return self.told.retry_after

    @property
    def instance(self) -> str | None:
        """The name of the record that stands behind it."""
        return None if self.record_id is None else RECORD_PREFIX + self.record_id.hex()

    def document(self, docs: Docs) -> bytes:
        """The body of the response."""
        rendered = _render(self.told, docs)
        if self.record_id is None:
            return rendered.document
        return b"%b%b%b" % (rendered.up_to_record, self.record_id.hex().encode(), _BEHIND_RECORD)

    def headers(self, docs: Docs) -> list[tuple[str, str]]:
        """The header fields of the response, in their order."""
        rendered = _render(self.told, docs)
        if self.record_id is None:
            length = len(rendered.document)
        else:
            length = len(rendered.up_to_record) + 2 * len(self.record_id) + len(_BEHIND_RECORD)
        return [*rendered.headers, ("Content-Length", str(length))]


@dataclass(frozen=True, slots=True, eq=False)
class _Rendered:
    """What of a response does not depend on the record."""

    status_line: str
    headers: tuple[tuple[str, str], ...]
    document: bytes
    up_to_record: bytes


_UNDOCUMENTED = Docs()

_BEHIND_RECORD = b'"}\n'


# A refusal must cost less than what it refuses: what no client has a say in is written once.
@lru_cache(maxsize=256)
def _render(told: _Told, docs: Docs) -> _Rendered:
    kind = told.type
    members = {
        "type": docs.type_of(kind.slug),
        "title": kind.title,
        "status": kind.status,
        "detail": told.detail,
    }
    headers = [("Content-Type", "application/problem+json"), ("Link", f'<{docs.link}>; rel="describedby"')]
    if told.retry_after is not None:
        headers.append(("Retry-After", str(told.retry_after)))
    # Another moment, another answer: nothing in between may keep this one.
    headers.append(("Cache-Control", "no-store"))
    with_record = json.dumps(members | {"instance": RECORD_PREFIX})
    return _Rendered(
        f"{kind.status} {HTTP_STATUS_CODES[kind.status].upper()}",
        tuple(headers),
        json.dumps(members).encode() + b"\n",
        with_record.removesuffix('"}').encode(),
    )


_ALL = (
    ProblemType(
        "idempotency-key-missing",
        400,
        "An idempotency key is required",
        "This operation is done at most once for each idempotency key, and the request carries none.",
    ),
    ProblemType(
        "idempotency-key-malformed",
        400,
        "The idempotency key is malformed",
        "The key cannot be used: {reason}.",
    ),
    ProblemType(
        "body-incomplete",
        400,
        "The request body is incomplete",
        "The body ended before it was whole, or its Content-Length is no number. The request was not carried out; send "
        "it again.",
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        "The idempotency key was used for another request",
        "The key names a request with another method, address or payload, or one that came under another session. A "
        "new operation needs a new key.",
    ),
    ProblemType(
        "request-in-progress",
        409,
        "A request with this idempotency key is in progress",
        "The first request with this key has not ended yet. Send the same request again later.",
    ),
    ProblemType(
        "outcome-unknown",
        409,
        "The outcome of the first request is unknown",
        "The server stopped or failed while it worked on the first request with this key. Whether the work was done "
        "must be found out before anyone tries again.",
    ),
    ProblemType(
        "response-not-kept",
        409,
        "The request was done, but its response was not kept",
        "The first request with this key was carried out. Its response was too large to keep or broke off, so it "
        "cannot be repeated; the request will not be carried out again.",
    ),
    ProblemType(
        "claim-lost",
        409,
        "Another attempt with this idempotency key counts",
        "This attempt took so long that another one was let in, and that one's answer counts. Send the same request "
        "again to hear it.",
        retry_after=1,
    ),
    ProblemType(
        "store-unavailable",
        503,
        "Idempotency keys cannot be checked now",
        "The store of idempotency keys cannot be reached. Send the same request again later.",
        retry_after=STORE_RETRY_AFTER,
    ),
    ProblemType(
        "transaction-conflict",
        503,
        "The request met another one at the same data",
        "The request was undone, since another one changed the same data meanwhile. Send the same request again.",
        retry_after=1,
    ),
)

#: Every problem that the library answers with, by its slug.
PROBLEMS: Mapping[str, ProblemType] = MappingProxyType({known.slug: known for known in _ALL})


def problem(
    slug: str, *, reason: str | None = None, retry_after: int | None = None, record_id: bytes | None = None
) -> Problem:
    """The problem with this slug, told in particular."""
    return Problem(_tell(slug, reason, retry_after), record_id)


@lru_cache(maxsize=256)
def _tell(slug: str, reason: str | None, retry_after: int | None) -> _Told:
    known = PROBLEMS[slug]
    detail = known.detail if reason is None else known.detail.format(reason=reason)
    return _Told(known, detail, known.retry_after if retry_after is None else retry_after)
