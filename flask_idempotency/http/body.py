"""The request's body: read once, digested on the way, and handed on unread."""

from collections.abc import Callable, Iterator
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from werkzeug import Request
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge

from ..engine.policy import Policy
from .fingerprint import Digester, fingerprint_of, fingerprint_of_value, start_fingerprint
from .principal import call_with_request

_CHUNK = 64 * 1024

#: Digits of a Content-Length that can be meant.
_LENGTH_DIGITS = 18

#: How much of a body is read for a client that is to hear a refusal.
_DRAINED = 1024 * 1024


class BodyIncomplete(BadRequest):
    """The client broke off in mid-body, or its Content-Length is none."""

    description = "The body ended before it was whole, or its Content-Length is not a number."


class _Spool(SpooledTemporaryFile[bytes]):
    """A temporary file that goes without a warning: it lives as long as the request, and nobody closes it."""

    def __del__(self) -> None:
        self.close()


class Body:
    """Stands in for `wsgi.input`: whatever reads the body, early or late, it is digested and kept for rereading.

    The front end puts it in place before anything else reads, and calls `finish` when the fingerprint is due. It never
    reads past Content-Length: beyond lies silence, and reading it would hang the server.
    """

    __slots__ = ("_count", "_digester", "_environ", "_kept", "_policy", "_source", "_whole")

    def __init__(self, environ: dict[str, Any], policy: Policy) -> None:
        self._environ = environ
        self._policy = policy
        self._source: IO[bytes] = environ["wsgi.input"]
        self._digester: Digester | None = None
        self._kept: IO[bytes] | None = None
        self._count = 0
        self._whole = False  # what is kept is the whole body
        environ["wsgi.input"] = self

    def finish(self, *, limit: int | None = None, request: Callable[[], Request] | None = None) -> bytes:
        """Read what nobody has read yet, make the whole body readable again, and return the fingerprint.

        `request`: gives the request to a policy that asks it for the fingerprint. Raises `BodyIncomplete`, and
        werkzeug's 413 where the body is longer than `limit` bytes.
        """
        environ, policy = self._environ, self._policy
        length = _content_length(environ)
        if limit is not None and length is not None and length > limit:
            self.drain_some()
            raise RequestEntityTooLarge
        if self._kept is None and length is not None and length <= _CHUNK and length <= policy.spool_bytes:
            payload = self._read_source(length) if length else b""
            if len(payload) < length:
                payload = self._read_on(payload, length)
            self._kept = self._source = environ["wsgi.input"] = BytesIO(payload)
            self._whole = True
            by = policy.fingerprint
            if not callable(by):
                return fingerprint_of(environ, by, payload)
        else:
            if not self._read_up_to(length, limit):
                self.drain_some()
                raise RequestEntityTooLarge
            self._hand_on(self._kept or BytesIO())
        if callable(policy.fingerprint):
            return self._ask(policy.fingerprint, request)
        return (self._digester or self._start()).digest()

    def digest_by(self, policy: Policy) -> None:
        """Digest by another policy, whatever has been read by now."""
        self._policy = policy
        if self._kept is None or self._digester is None:
            return
        self._digester = self._start()
        end = self._kept.tell()
        self._kept.seek(0)
        while data := self._kept.read(_CHUNK):
            self._digester.update(data)
        self._kept.seek(end)

    def rewind(self) -> None:
        """Hand the body on unread, whoever has read of it meanwhile: what looks for a key or a principal may do so.

        Raises `BodyIncomplete`.
        """
        if self._kept is None:
            self._environ["wsgi.input"] = self._source
            return
        if not self._whole:
            self._read_up_to(_content_length(self._environ), None)
        self._hand_on(self._kept)

    def drain_some(self, limit: int = _DRAINED) -> None:
        """Read up to about `limit` bytes more. Where that is all, they can be read again, by whoever notes refusals."""
        if self._whole:
            return
        try:
            if self._read_up_to(_content_length(self._environ), self._count + limit):
                self._hand_on(self._kept or BytesIO())
        except HTTPException:  # there is nothing more to come
            return

    def _start(self) -> Digester:
        by = self._policy.fingerprint
        return _NoDigester() if callable(by) else start_fingerprint(self._environ, by)

    def _hand_on(self, kept: IO[bytes]) -> None:
        kept.seek(0)
        self._kept = self._source = self._environ["wsgi.input"] = kept
        self._whole = True

    def _ask(self, by: Callable[..., object], request: Callable[[], Request] | None) -> bytes:
        asked = Request(self._environ, populate_request=False) if request is None else request()
        # The stream that an earlier look at the body has made and used up.
        asked.__dict__.pop("stream", None)
        fingerprint = fingerprint_of_value(call_with_request(by, asked))
        asked.__dict__.pop("stream", None)
        assert self._kept is not None
        self._hand_on(self._kept)
        return fingerprint

    def _read_on(self, data: bytes, length: int) -> bytes:
        """The rest of a body that comes piece by piece, after `data`."""
        while len(data) < length:
            more = self._read_source(length - len(data))
            if not more:
                raise BodyIncomplete
            data += more
        return data

    def _read_up_to(self, length: int | None, limit: int | None) -> bool:
        """Whether the body ends before it is longer than `limit` bytes."""
        while length is None or self._count < length:
            wanted = _CHUNK if length is None else min(_CHUNK, length - self._count)
            data = self._read_source(wanted)
            if not data:
                if length is not None:
                    raise BodyIncomplete
                return True
            self._keep(data)
            if limit is not None and self._count > limit:
                return False
        return True

    def _read_source(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except HTTPException:
            raise
        except Exception as error:  # every server has errors of its own; gunicorn's of chunks are no OSErrors
            raise BodyIncomplete from error

    def _keep(self, data: bytes) -> bytes:
        if self._kept is None or self._digester is None:
            self._digester = self._start()
            spool_bytes = self._policy.spool_bytes
            self._kept = spool = _Spool(spool_bytes)
            if not spool_bytes:  # to the file class, it means "without limit"
                spool.rollover()
        self._digester.update(data)
        self._kept.write(data)
        self._count += len(data)
        return data

    def _tee(self, read: Callable[[int], bytes], size: int | None) -> bytes:
        if size is None:
            size = -1
        if self._whole:
            return read(size)
        length = _content_length(self._environ)
        if length is not None:
            left = length - self._count
            size = min(size, left) if size >= 0 else left
        return self._keep(read(size)) if size else b""

    # What PEP 3333 asks of wsgi.input, for those who read before `finish`, and for those who still hold it thereafter.

    def read(self, size: int | None = -1) -> bytes:
        return self._tee(self._source.read, size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._tee(self._source.readline, size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def drain_some(environ: dict[str, Any], limit: int = _DRAINED) -> None:
    """Read some of a body that is refused unread, if there is one in place.

    A server that closes upon unread input resets the connection, and the client never hears why.
    """
    body = environ["wsgi.input"]
    if isinstance(body, Body):
        body.drain_some(limit)


class _NoDigester:
    """Where a callable says what the request asks for."""

    def update(self, data: bytes, /) -> None:
        pass

    def digest(self) -> bytes:
        return b""


def _content_length(environ: dict[str, Any]) -> int | None:
    """How long the body is; None where it ends by itself. Raises `BodyIncomplete`."""
    if "HTTP_TRANSFER_ENCODING" in environ and environ.get("wsgi.input_terminated"):
        return None  # where both say how long it is, the chunks count (RFC 9112, section 6.3)
    text: str = environ.get("CONTENT_LENGTH") or ""
    # Python refuses to make a number of some thousand digits.
    if text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS:
        return int(text)
    if text:
        raise BodyIncomplete
    # Without a length, only a server that ends the input itself lets it be read to its end.
    if environ.get("wsgi.input_terminated"):
        return None
    if "HTTP_TRANSFER_ENCODING" in environ:
        # There is a body, but none that could be digested; the application may have its own way to it, as on uWSGI.
        raise BodyIncomplete
    return 0
