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
    """Passes each event on to the signal of its outcome, where somebody is connected to it."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def hears(self, outcome: Outcome) -> bool:
        """Whether anybody is connected, now: they may come and go while requests are served."""
        return bool(_by_outcome[outcome].receivers)

    def __call__(self, event: Event) -> None:
        _by_outcome[event.outcome].send(self._app, event=event)
