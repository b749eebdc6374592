"""Whether a body can be sent again."""


class UnrepeatableBody(ValueError):
    """The request cannot be retried, since its body can be read only once. Raised before anything is sent."""

    def __init__(self) -> None:
        super().__init__(
            "The body of this request can be read only once, so that it could not be sent again after a failure. "
            "Pass bytes, or a file that can seek."
        )


def can_seek(body: object) -> bool:
    """Whether this file-like object can go back to where it was."""
    seekable = getattr(body, "seekable", None)
    if seekable is None:
        return hasattr(body, "seek") and hasattr(body, "tell")
    return bool(seekable())


def is_file(body: object) -> bool:
    """Whether HTTP libraries would `read` this body, rather than iterate it."""
    return hasattr(body, "read") or hasattr(body, "aread")
