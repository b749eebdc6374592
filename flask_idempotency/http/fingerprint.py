"""Digests what a request asks for: host, method, path, query and payload."""

import json
from collections.abc import Iterable
from decimal import Decimal
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Protocol

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from ..engine.digests import digest, start_digest
from ..engine.policy import FingerprintBy

#: JSON is digested by value up to this many bytes, by its bytes beyond.
MAX_JSON_BYTES = 1024 * 1024

_MAX_PENDING_BYTES = 512 * 1024

#: What the multipart decoder is given at a time, well below the limit of what it may hold.
_SLICE = 64 * 1024

#: No line of a boundary is longer than this.
_MAX_LINE = 1024

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Digester(Protocol):
    """Takes the payload as it is read, and yields the fingerprint at its end."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes of the payload."""
        ...

    def digest(self) -> bytes:
        """The fingerprint."""
        ...


def start_fingerprint(environ: dict[str, Any], by: FingerprintBy) -> Digester:
    """Begin the fingerprint of the request; the payload follows with `update`."""
    content_type: str = environ.get("CONTENT_TYPE") or ""
    if content_type[:10].lower() == "multipart/" and _media_type(content_type) == "multipart/form-data":
        return _MultipartDigester(environ, content_type)
    if by == "json" and _is_json(content_type):
        return _JSONDigester(environ)
    return _head(environ, "bytes")


def fingerprint_of(environ: dict[str, Any], by: FingerprintBy, payload: bytes) -> bytes:
    """The fingerprint of a request whose payload is at hand."""
    if by == "bytes" and (environ.get("CONTENT_TYPE") or "")[:10].lower() != "multipart/":
        return digest(_asked(environ, "bytes") + payload)
    digester = start_fingerprint(environ, by)
    digester.update(payload)
    return digester.digest()


def fingerprint_of_value(value: object) -> bytes:
    """The fingerprint, where a callable of the policy says what the request asks for. Raises `TypeError`."""
    if isinstance(value, bytes):
        return digest(b"value bytes " + value)
    try:
        text = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        # Most objects have a text that is another in each request: no retry would ever be known for one.
        named = type(value).__qualname__
        raise TypeError(f"fingerprint must return a string, bytes, or what JSON can hold, not {named}.") from error
    return digest(b"value json " + text.encode())


def _head(environ: dict[str, Any], kind: str) -> blake2b:
    return start_digest(_asked(environ, kind))


def _asked(environ: dict[str, Any], kind: str) -> bytes:
    """What comes before the payload. Of each part that a client may choose the length stands first: none reads as two.

    The host is what the request asks for, not what it came in by; that a port is the scheme's own need not be said.
    """
    host = environ.get("HTTP_HOST") or f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}"
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(environ.get("wsgi.url_scheme", "http"), ":"))
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query = environ.get("QUERY_STRING", "")
    asked = f"{kind} {environ['REQUEST_METHOD']} {len(host)} {host} {len(path)} {path} {len(query)} {query}\n"
    return asked.encode("utf-8", "surrogatepass")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    media_type = _media_type(content_type)
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


class _JSONDigester:
    """Digests JSON by its value: white space, the order of members and the spelling of numbers do not count."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self._by_bytes = _head(environ, "bytes")
        self._kept: bytearray | None = bytearray()

    def update(self, data: bytes) -> None:
        self._by_bytes.update(data)
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > MAX_JSON_BYTES:
                self._kept = None

    def digest(self) -> bytes:
        try:
            if self._kept is None:
                return self._by_bytes.digest()
            value = json.loads(self._kept, object_pairs_hook=_members, parse_float=_number, parse_int=_number)
            canonical = ascii(value)
        except (ValueError, ArithmeticError, RecursionError):
            # Not JSON, or JSON that parsers read differently: then only the bytes say what it asks for.
            return self._by_bytes.digest()
        by_value = _head(self._environ, "json")
        by_value.update(canonical.encode("ascii"))
        return by_value.digest()


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(sorted(pairs, key=itemgetter(0)))
    if len(members) < len(pairs):
        raise ValueError("a member name occurs twice")
    return members


def _number(text: str) -> tuple[int, str, int]:
    """The exact value: a Decimal that is normalised would round to 28 digits."""
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    written = "".join(map(str, digits))
    significant = written.rstrip("0")
    if not significant:
        return 0, "0", 0
    return sign, significant.lstrip("0"), exponent + len(written) - len(significant)


class _MultipartDigester:
    """Digests a form by its parts, since a retry has another boundary; what is no form, by its bytes."""

    def __init__(self, environ: dict[str, Any], content_type: str) -> None:
        self._by_bytes = _head(environ, "bytes")
        self._by_parts = _head(environ, "multipart")
        self._part: blake2b | None = None
        self._unread = bytearray()
        self._rest = b""
        self._decoder: MultipartDecoder | None = None
        boundary = parse_options_header(content_type)[1].get("boundary", "")
        if boundary:
            # The limit is for what has no end, such as a header; the data of a part is digested as it comes.
            self._decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), _MAX_PENDING_BYTES)

    def update(self, data: bytes) -> None:
        self._by_bytes.update(data)
        if self._decoder is None:
            return
        # In slices that are the same however the body arrives, so that what the decoder makes of it is, too.
        self._unread += data
        while self._decoder is not None and len(self._unread) >= _SLICE:
            slice_, self._unread = bytes(self._unread[:_SLICE]), self._unread[_SLICE:]
            self._decode(self._decoder, slice_)

    def digest(self) -> bytes:
        decoder = self._decoder
        if decoder is not None:
            try:
                self._pass_on(decoder, bytes(self._unread))
                decoder.receive_data(self._rest)
                decoder.receive_data(None)
                if self._take(decoder):
                    return self._by_parts.digest()
            except (ValueError, RequestEntityTooLarge):
                pass
        return self._by_bytes.digest()

    def _decode(self, decoder: MultipartDecoder, data: bytes) -> None:
        try:
            self._pass_on(decoder, data)
        except (ValueError, RequestEntityTooLarge):
            self._decoder = None
            self._unread.clear()

    def _pass_on(self, decoder: MultipartDecoder, data: bytes) -> None:
        # In whole lines: of a boundary that is torn before its last byte, the decoder takes the CR for data. And never
        # up to a blank line: it ends the head of a part, and may belong to the boundary that follows at once.
        data = self._rest + data
        lines = data.rfind(b"\n") + 1
        text = len(data[:lines].rstrip(b"\r\n"))
        end = text + (2 if data[text : text + 2] == b"\r\n" else 1) if text else 0
        if len(data) - end > _MAX_LINE:
            end = lines if len(data) - lines <= _MAX_LINE else len(data)
        self._rest = data[end:]
        if end:
            decoder.receive_data(data[:end])
            self._take(decoder)

    def _take(self, decoder: MultipartDecoder) -> bool:
        """Digest what has arrived; True once the form has ended."""
        while not isinstance(event := decoder.next_event(), NeedData):
            if isinstance(event, Field | File):
                self._part = start_digest(_describe(event))
            elif isinstance(event, Data):
                self._take_data(event)
            elif isinstance(event, Epilogue):
                return True
        return False

    def _take_data(self, event: Data) -> None:
        assert self._part is not None
        self._part.update(event.data)
        if not event.more_data:
            # A digest of fixed length for each part: no part can pass for two.
            self._by_parts.update(self._part.digest())


def _describe(part: Event) -> bytes:
    assert isinstance(part, Field | File)
    described: Iterable[object] = (
        type(part).__name__,
        part.name,
        getattr(part, "filename", None),
        part.headers.get("Content-Type"),
    )
    return (json.dumps(list(described)) + "\n").encode("ascii")
