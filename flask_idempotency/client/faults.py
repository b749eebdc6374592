"""Failures that no retry can mend."""

import ssl


def is_certificate_refused(error: BaseException) -> bool:
    """Whether a connection failed since the server's certificate was not accepted, however deep that is wrapped."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        current = queue.pop()
        if isinstance(current, ssl.SSLCertVerificationError):
            return True
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # urllib3 keeps the cause of a MaxRetryError in `reason`, and both libraries wrap errors in arguments.
        queue += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
    return False
