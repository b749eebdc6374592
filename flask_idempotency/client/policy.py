"""Which requests get a key, and how often and how long they are repeated."""

import math
from dataclasses import dataclass

#: Methods that HTTP itself calls idempotent (RFC 9110, section 9.2.2): they may be repeated without a key.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The bounds within which a client repeats a request. Durations are seconds.

    Raises `ValueError` on creation where a bound makes no sense.
    """

    #: How often a request is sent at most, the first time included.
    attempts: int = 20
    #: How long all attempts and the waits between them may take. No attempt begins after it, none waits past it for
    #: the server's next bytes, and an answer that still drips in then is given up. A server's lease is 30 s, so this
    #: outlasts a worker that died.
    deadline: float = 60.0
    #: Before attempt n + 1 the client waits a random time, up to `backoff * 2 ** (n - 1)` and never more than
    #: `backoff_max`: full jitter, so that clients that failed together do not come back together.
    backoff: float = 0.1
    backoff_max: float = 2.0
    #: The methods whose requests get a key. Requests with another method are repeated where they carry a key, or
    #: where HTTP calls the method idempotent.
    methods: tuple[str, ...] = ("POST", "PATCH")
    header: str = "Idempotency-Key"
    #: Whether new keys are sent in the draft's quoted form, the only one that a `strict` server accepts. The bare form
    #: is what most other servers expect.
    quoted: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"attempts must be a whole number, 1 or more, not {self.attempts!r}.")
        for name in ("deadline", "backoff", "backoff_max"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be a number of seconds, more than 0, not {value!r}.")
        if isinstance(self.methods, str):
            raise ValueError("methods must be a tuple of names, such as ('POST', 'PATCH'), not one string.")
        object.__setattr__(self, "methods", tuple(method.upper() for method in self.methods))
