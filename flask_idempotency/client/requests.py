"""For requests: an adapter that gives each logical request one key and retries under it."""

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, cast

try:
    import requests
    from requests.adapters import HTTPAdapter
    from requests.exceptions import UnrewindableBodyError
    from requests.utils import rewind_body
    from urllib3 import HTTPResponse, Timeout
except ImportError as error:
    raise ImportError(
        "IdempotencyAdapter needs the requests package: pip install 'flask-idempotency[requests]'."
    ) from error

from .bodies import UnrepeatableBody, is_file
from .faults import is_certificate_refused
from .keys import sign
from .policy import IDEMPOTENT_METHODS, RetryPolicy
from .repeat import Deadline, repeat
from .verdict import asks_again


class IdempotencyAdapter(HTTPAdapter):
    """Gives each POST and PATCH one key, and sends it again under that key until it has its answer.

        session = requests.Session()
        session.mount("https://", IdempotencyAdapter())

    `policy` says how often and how long. `timeout`: seconds that one attempt waits for the connection, and for the
    server's next bytes, where the caller gave no time-out; without one, a lost answer would never be missed. The
    other options are those of requests' `HTTPAdapter`, whose own retries are off here, since they would multiply.

    A key that the caller put into the header wins. The key is left in the headers of the prepared request, so that to
    send the same prepared request again (`session.send(error.request)`) is to repeat it, never a second operation.

    Requests with an idempotent method are retried too, without a key; one whose body cannot be read again is sent
    once. An answer is complete when it comes back, so that one cut in mid-body is retried; with `stream=True` it is
    handed on as soon as its headers are there, and a cut is the caller's to see.

    After the last attempt the caller gets its answer, or requests' own exception. Raises `UnrepeatableBody`, before
    anything is sent, for a body under a key that can be read only once.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "policy", "timeout"]

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        timeout: float = 10.0,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        pool_block: bool = False,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.timeout = timeout
        super().__init__(pool_connections, pool_maxsize, max_retries=0, pool_block=pool_block)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send the request until it has its answer."""
        given = self.timeout if timeout is None else timeout

        def once(timeout: Any) -> requests.Response:
            return super(IdempotencyAdapter, self).send(request, stream, timeout, verify, cert, proxies)

        def attempt(deadline: Deadline) -> requests.Response:
            _rewind(request)
            response = once(_cut(given, deadline.left))
            if not stream or asks_again(response):
                _read(response, deadline)
            return response

        method = request.method or ""
        keyed = sign(method, cast("MutableMapping[str, str]", request.headers), self.policy)
        if not keyed and method.upper() not in IDEMPOTENT_METHODS:
            return once(given)
        if not _rewind(request):
            if keyed:
                raise UnrepeatableBody
            return once(given)
        return repeat(attempt, self.policy, _is_fault)


def _read(response: requests.Response, deadline: Deadline) -> None:
    """Read the answer to its end; requests keeps it for whoever asks for it."""
    raw = response.raw
    response.raw = _InTime(raw, deadline)
    try:
        _ = response.content
    except BaseException as error:
        raw.close()
        if isinstance(error, requests.RequestException):
            error.request = response.request  # requests leaves it out here
        raise
    finally:
        response.raw = raw


class _InTime:
    """What requests reads an answer from: urllib3's, which must not go on for ever."""

    def __init__(self, raw: HTTPResponse, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline

    def stream(self, amount: int, decode_content: bool) -> Iterator[bytes]:
        """The parts of the answer as they come in; `HTTPResponse.stream` waits until it has so many bytes."""
        while part := self._raw.read1(amount, decode_content):
            yield part
            if self._deadline.is_past:
                raise requests.ReadTimeout("The answer was not whole at the deadline.")


def _rewind(request: requests.PreparedRequest) -> bool:
    """Put the body back to where it was when the request was prepared; False where that cannot be."""
    body = request.body
    if body is None or isinstance(body, str | bytes | bytearray | memoryview):
        return True
    if not is_file(body):
        # A generator is its own iterator: what it has given, it does not give again.
        return iter(cast("Iterable[bytes]", body)) is not body
    try:
        rewind_body(request)
    except (UnrewindableBodyError, ValueError):  # a closed file raises the latter
        return False
    return True


def _cut(timeout: Any, left: float) -> Timeout:
    """The caller's time-out, cut to what is left until the deadline."""
    if isinstance(timeout, Timeout):
        total = min(timeout.total, left) if isinstance(timeout.total, int | float) else left
        cut = timeout.clone()
        cut.total = total
        return cut
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    return Timeout(total=left, connect=connect, read=read)


def _is_fault(error: BaseException) -> bool:
    network = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return isinstance(error, network) and not is_certificate_refused(error)
