"""Blinker signals for what happens to requests: `signals.replayed.connect(…)`.

The sender is the application; the argument `event` is a `flask_idempotency.engine.events.Event`.
"""

from blinker import NamedSignal, Namespace
from flask import Flask

from ..engine.events import Event, Outcome

_namespace = Namespace()
_by_outcome: dict[Outcome, NamedSignal] = {
    outcome: _namespace.signal(f"idempotency-{outcome.value}") for outcome in Outcome
}


def __getattr__(name: str) -> NamedSignal:
    """The signal of an outcome, by the lower-case name of the `Outcome` member."""
    try:
        return _by_outcome[Outcome[name.upper()]]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


class SignalObserver:
    """Passes each event on to the signal of its outcome."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __call__(self, event: Event) -> None:
        signal = _by_outcome[event.outcome]
        if signal.receivers:
            signal.send(self._app, event=event)
