"""A response on its way to the client, watched so that its end can be told."""

import weakref
from collections.abc import Callable, Iterable, Iterator


class Closing:
    """A body with a `close` of its own. A server that goes through it goes through `chunks` themselves."""

    __slots__ = ("_chunks", "close")

    def __init__(self, chunks: Iterable[bytes], close: Callable[[], object]) -> None:
        self._chunks = chunks
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)


class Recording:
    """What has passed of a body, as long as it fits into `limit` bytes."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._taken: bytearray | None = bytearray()

    def take(self, data: bytes) -> None:
        """Note the next bytes."""
        if self._taken is None:
            return
        self._taken += data
        if len(self._taken) > self._limit:
            self._taken = None

    def whole(self, *, length: int | None) -> bytes | None:
        """The body, now that it has ended; None where it is larger than the limit or not as long as promised."""
        if self._taken is None or length not in (None, len(self._taken)):
            return None
        return bytes(self._taken)


class _End:
    """The end of a stream, which is told once. It does not hold the stream, so that one that is dropped goes."""

    __slots__ = ("_conclude", "_told")

    def __init__(self, conclude: Callable[[bytes | None], object]) -> None:
        self._conclude = conclude
        self._told = False

    def tell(self, body: bytes | None) -> None:
        if not self._told:
            self._told = True
            self._conclude(body)


class WatchedStream:
    """Passes a body on chunk by chunk, holding nothing back, and tells once how it ended.

    `conclude` is called exactly once, with the whole body where it ended whole, else with None: also where whoever
    answers something else closes only its own, and drops this. `length`: what Content-Length promised.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        conclude: Callable[[bytes | None], object],
        *,
        recording: Recording,
        length: int | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        self._chunks = iter(chunks)
        self._recording = recording
        self._length = length
        self._close = close
        self._end = _End(conclude)
        weakref.finalize(self, self._end.tell, None).atexit = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self._end.tell(self._recording.whole(length=self._length))
            raise
        self._recording.take(chunk)
        return chunk

    def close(self) -> None:
        """Close the source. A body that was not passed on to its end has broken off."""
        try:
            if self._close is not None:
                self._close()
        finally:
            self._end.tell(None)
