"""For httpx: transports that give each logical request one key and retry under it."""

from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

try:
    import httpx
except ImportError as error:
    raise ImportError(
        "IdempotencyTransport needs the httpx package: pip install 'flask-idempotency[httpx]'."
    ) from error

from .bodies import UnrepeatableBody, can_seek, is_file
from .faults import is_certificate_refused
from .keys import sign
from .policy import IDEMPOTENT_METHODS, RetryPolicy
from .repeat import Deadline, repeat, repeat_async
from .verdict import asks_again


class IdempotencyTransport(httpx.BaseTransport):
    """Gives each POST and PATCH one key, and sends it again under that key until it has its answer.

        client = httpx.Client(transport=IdempotencyTransport())

    `transport` does the sending: `httpx.HTTPTransport()` where none is given. A client that is given a transport
    leaves `verify`, `http2`, `limits` and the environment's proxies to it, so those options go there:
    `IdempotencyTransport(httpx.HTTPTransport(http2=True))`. `policy` says how often and how long; the client's own
    time-outs hold for each attempt.

    A key that the caller put into the header wins. The key is left in the request's headers, so that to send the same
    `httpx.Request` again (`client.send(error.request)`) is to repeat it, never a second operation.

    Requests with an idempotent method are retried too, without a key; one whose body cannot be read again is sent
    once. An answer to a request under a key is read to its end before it is handed on, so that one cut in mid-body is
    retried. A transport cannot see `client.stream(…)`; whoever means to read such an answer as it comes says so with
    `extensions={"stream": True}`, and is then the one to see a cut. Answers without a key are never read ahead.

    After the last attempt the caller gets its answer, or httpx's own exception. Raises `UnrepeatableBody`, before
    anything is sent, for a body under a key that can be read only once.
    """

    def __init__(self, transport: httpx.BaseTransport | None = None, *, policy: RetryPolicy | None = None) -> None:
        self._transport = transport or httpx.HTTPTransport()
        self._policy = policy or RetryPolicy()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request until it has its answer."""
        exchange = _Exchange(request, self._policy)
        if not exchange.repeats:
            return self._transport.handle_request(request)

        def attempt(deadline: Deadline) -> httpx.Response:
            response = self._transport.handle_request(exchange.next_attempt(deadline.left))
            if not exchange.reads(response):
                return response
            try:
                assert isinstance(response.stream, Iterable)
                return _whole(response, [_in_time(part, deadline) for part in response.stream])
            finally:
                response.close()

        with exchange:
            return repeat(attempt, self._policy, _is_fault)

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Close the transport that does the sending."""
        self._transport.close()


class AsyncIdempotencyTransport(httpx.AsyncBaseTransport):
    """`IdempotencyTransport` for `httpx.AsyncClient`, on asyncio and trio.

    client = httpx.AsyncClient(transport=AsyncIdempotencyTransport())
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None, *, policy: RetryPolicy | None = None) -> None:
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._policy = policy or RetryPolicy()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request until it has its answer."""
        exchange = _Exchange(request, self._policy)
        if not exchange.repeats:
            return await self._transport.handle_async_request(request)

        async def attempt(deadline: Deadline) -> httpx.Response:
            response = await self._transport.handle_async_request(exchange.next_attempt(deadline.left))
            if not exchange.reads(response):
                return response
            try:
                assert isinstance(response.stream, AsyncIterable)
                return _whole(response, [_in_time(part, deadline) async for part in response.stream])
            finally:
                await response.aclose()

        with exchange:
            return await repeat_async(attempt, self._policy, _is_fault)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close the transport that does the sending."""
        await self._transport.aclose()


class _Exchange:
    """One logical request, and what of it the next attempt needs."""

    def __init__(self, request: httpx.Request, policy: RetryPolicy) -> None:
        self._request = request
        self._keyed = sign(request.method, request.headers, policy)
        self._streams = bool(request.extensions.get("stream"))
        self._rewind = _rewinder(request.stream)
        if self._keyed and self._rewind is None:
            raise UnrepeatableBody
        #: Whether the request may be sent more than once.
        self.repeats = self._rewind is not None and (self._keyed or request.method in IDEMPOTENT_METHODS)

    def next_attempt(self, left: float) -> httpx.Request:
        """The request to send now: the caller's, but for time-outs cut to what is left until the deadline."""
        assert self._rewind is not None
        self._rewind()
        request = self._request
        given: dict[str, float | None] = request.extensions.get("timeout", {})
        cut = {
            phase: left if seconds is None else min(seconds, left)
            for phase in ("connect", "read", "write", "pool")
            for seconds in [given.get(phase)]
        }
        return httpx.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "timeout": cut},
        )

    def reads(self, response: httpx.Response) -> bool:
        """Whether the answer is to be read to its end here."""
        return (self._keyed and not self._streams) or asks_again(response)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # So that the request can be sent again as a whole: by the caller, or to where a redirect points.
        assert self._rewind is not None
        with suppress(OSError, ValueError):
            self._rewind()


def _rewinder(stream: Any) -> Callable[[], object] | None:
    """What puts this body back to its beginning; None where nothing can.

    httpx has no public name for what `content=` and `files=` become, so their attributes are asked for; a body of
    which nothing is known counts as one that can be read only once.
    """
    if isinstance(stream, httpx.ByteStream):
        return _nothing
    fields = getattr(stream, "fields", None)
    if fields is not None:
        # Multipart: httpx itself rewinds each file that can seek, and says nothing of one that cannot.
        files = [field.file for field in fields if hasattr(field, "file")]
        return _nothing if all(isinstance(file, str | bytes) or can_seek(file) for file in files) else None
    source = getattr(stream, "_stream", None)
    if source is None:
        return None
    if is_file(source):
        if hasattr(source, "aread") or not can_seek(source):
            return None
        start = source.tell()
        return lambda: source.seek(start)
    # A generator is its own iterator: what it has given, it does not give again.
    once = aiter(source) is source if isinstance(source, AsyncIterable) else iter(source) is source
    return None if once else _nothing


def _nothing() -> None:
    return None


def _in_time(part: bytes, deadline: Deadline) -> bytes:
    """A part of an answer, which must not go on for ever."""
    if deadline.is_past:
        raise httpx.ReadTimeout("The answer was not whole at the deadline.")
    return part


def _whole(response: httpx.Response, parts: list[bytes]) -> httpx.Response:
    """The same answer with its body at hand, as undecoded as it came, for the client to take from there."""
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=httpx.ByteStream(b"".join(parts)),
        extensions=response.extensions,
    )


def _is_fault(error: BaseException) -> bool:
    if not isinstance(error, httpx.TransportError) or is_certificate_refused(error):
        return False
    # Ours to mend, not the network's: the request itself is broken.
    return not isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol)
