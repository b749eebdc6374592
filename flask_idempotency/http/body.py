"""The request's body: read once, digested on the way, and handed on unread."""

from collections.abc import Iterator
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge

from ..engine.policy import FingerprintBy
from .fingerprint import Digester, start_fingerprint

#: Bodies up to this many bytes stay in memory, larger ones go to a temporary file.
SPOOL_BYTES = 256 * 1024

_CHUNK = 64 * 1024

#: Digits of a Content-Length that can be meant.
_LENGTH_DIGITS = 18


class BrokenBody(BadRequest):
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

    _digester: Digester | None = None
    _kept: IO[bytes] | None = None
    _count = 0
    _finished = False  # what is kept is the whole body

    def __init__(self, environ: dict[str, Any], by: FingerprintBy) -> None:
        self._environ = environ
        self._source: IO[bytes] = environ["wsgi.input"]
        self._by = by
        environ["wsgi.input"] = self

    def finish(self, *, limit: int | None = None) -> bytes:
        """Read what nobody has read yet, make the whole body readable again, and return the fingerprint.

        Raises `BrokenBody`, werkzeug's 413 where the body is longer than `limit` bytes, and `MalformedMultipart`.
        """
        length = self._length()
        if limit is not None and length is not None and length > limit:
            raise RequestEntityTooLarge
        if self._kept is None and length is not None and length <= _CHUNK:
            kept: IO[bytes] = BytesIO(self._read_small(length))
        else:
            self._read_rest(length, limit)
            kept = self._kept or BytesIO()
            kept.seek(0)
        digester = self._digester or self._start()
        fingerprint = digester.digest()
        self._kept = kept
        self._finished = True
        self._environ["wsgi.input"] = kept
        return fingerprint

    def rewind(self) -> None:
        """Hand the body on unread, whoever has read of it meanwhile: what looks for a key or a principal may do so.

        Raises `BrokenBody`.
        """
        if self._kept is None:
            self._environ["wsgi.input"] = self._source
            return
        if not self._finished:
            self._read_rest(self._length(), None)
            self._finished = True
        self._kept.seek(0)
        self._environ["wsgi.input"] = self._kept

    def _length(self) -> int | None:
        text = self._environ.get("CONTENT_LENGTH") or ""
        # Python refuses to make a number of some thousand digits.
        if text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS:
            return int(text)
        if text:
            raise BrokenBody
        # Without a length, only a server that ends the input itself lets it be read to its end.
        if self._environ.get("wsgi.input_terminated"):
            return None
        if "HTTP_TRANSFER_ENCODING" in self._environ:
            # There is a body, but none that could be digested; the application may have its own way to it, as on uWSGI.
            raise BrokenBody
        return 0

    def _start(self) -> Digester:
        return start_fingerprint(self._environ, self._by)

    def _read_small(self, length: int) -> bytes:
        data = self._read_source(length) if length else b""
        while len(data) < length:
            more = self._read_source(length - len(data))
            if not more:
                raise BrokenBody
            data += more
        self._digester = self._start()
        self._digester.update(data)
        return data

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
        except HTTPException:
            raise
        except Exception as error:  # every server has errors of its own; gunicorn's of chunks are no OSErrors
            raise BrokenBody from error

    def _keep(self, data: bytes) -> bytes:
        if self._kept is None:
            self._digester = self._start()
            self._kept = _Spool(SPOOL_BYTES)
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
