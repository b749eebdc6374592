"""The request's body: read once, digested on the way, and handed on unread."""

from collections.abc import Callable, Iterator
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from .fingerprint import Digester

#: Bodies up to this many bytes stay in memory, larger ones go to a temporary file.
SPOOL_BYTES = 256 * 1024

_CHUNK = 64 * 1024

#: Digits of a Content-Length that can be meant.
_LENGTH_DIGITS = 18


class BrokenBody(BadRequest):
    """The client broke off in mid-body, or its Content-Length is none."""

    description = "The body ended before it was whole, or its Content-Length is not a number."


class Body:
    """Stands in for `wsgi.input`: whatever reads the body, early or late, it is digested and kept for rereading.

    The front end puts it in place before anything else reads, and calls `finish` when the fingerprint is due. It never
    reads past Content-Length: beyond lies silence, and reading it would hang the server.
    """

    def __init__(self, environ: dict[str, Any], start: Callable[[], Digester]) -> None:
        self._environ = environ
        self._source: IO[bytes] = environ["wsgi.input"]
        self._start = start
        self._digester: Digester | None = None
        self._kept: IO[bytes] | None = None
        self._count = 0
        environ["wsgi.input"] = self

    def finish(self, *, limit: int | None = None) -> bytes:
        """Read what nobody has read yet, make the whole body readable again, and return the fingerprint.

        Raises `BrokenBody`, werkzeug's 413 where the body is longer than `limit` bytes, and `MalformedMultipart`.
        """
        length = self._length()
        if limit is not None and length is not None and length > limit:
            raise RequestEntityTooLarge
        if self._kept is None and length is not None and length <= _CHUNK:
            kept = self._read_small(length)
        else:
            self._read_rest(length, limit)
            kept = self._kept or BytesIO()
        digester = self._digester or self._start()
        fingerprint = digester.digest()
        kept.seek(0)
        self._environ["wsgi.input"] = kept
        return fingerprint

    def _length(self) -> int | None:
        text = self._environ.get("CONTENT_LENGTH") or ""
        # Python refuses to make a number of some thousand digits.
        if text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS:
            return int(text)
        if text:
            raise BrokenBody
        # Without a length, only a server that ends the input itself lets it be read to its end.
        return None if self._environ.get("wsgi.input_terminated") else 0

    def _read_small(self, length: int) -> IO[bytes]:
        data = self._read_source(length) if length else b""
        while len(data) < length:
            more = self._read_source(length - len(data))
            if not more:
                raise BrokenBody
            data += more
        self._digester = self._start()
        self._digester.update(data)
        return BytesIO(data)

    def _read_rest(self, length: int | None, limit: int | None) -> None:
        while length is None or self._count < length:
            wanted = _CHUNK if length is None else min(_CHUNK, length - self._count)
            data = self._read_source(wanted)
            if not data:
                if length is not None:
                    raise BrokenBody
                return
            self._keep(data)
            if limit is not None and self._count > limit:
                raise RequestEntityTooLarge

    def _read_source(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except (OSError, ValueError) as error:
            raise BrokenBody from error

    def _keep(self, data: bytes) -> bytes:
        if self._kept is None:
            self._digester = self._start()
            self._kept = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - lives as long as the request
        assert self._digester is not None
        self._digester.update(data)
        self._kept.write(data)
        self._count += len(data)
        return data

    # What PEP 3333 asks of wsgi.input, for those who read before `finish`.

    def read(self, size: int = -1) -> bytes:
        return self._keep(self._source.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._keep(self._source.readline(size))

    def readlines(self, hint: int = -1) -> list[bytes]:
        return [self._keep(line) for line in self._source.readlines(hint)]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")
