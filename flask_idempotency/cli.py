"""`flask idempotency …`: what an operator does by hand, or by a timer."""

import sys
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from .engine.store import StoreUnavailable

cli = AppGroup("idempotency", help="Look after idempotency keys.")


_RECORD_URN = "urn:flask-idempotency:record:"


class _RecordId(click.ParamType):
    """A record as a refusal names it: the `instance` of its problem document, or the hexadecimal end of that."""

    name = "record"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The identity of the record."""
        if isinstance(value, bytes):
            return value
        try:
            return bytes.fromhex(str(value).removeprefix(_RECORD_URN))
        except ValueError:
            self.fail(f"{value!r} is not a record: it is {_RECORD_URN}… or hexadecimal digits.", param, ctx)


@cli.command("resolve")
@click.argument("record", type=_RecordId())
@click.option("--done/--not-done", required=True, default=None, help="Whether the work was done.")
def resolve(record: bytes, done: bool) -> None:
    """Settle an outcome that nobody but a person can know.

    RECORD is the `instance` of the problem document `outcome-unknown`. With --done, its work is never done again, and
    a repeat hears that its response was not kept; with --not-done, the next repeat runs.
    """
    hooks = current_app.extensions["idempotency"]
    try:
        resolved = hooks.engine.store.resolve(record, done=done, retention=hooks.policy.retention)
    except StoreUnavailable as error:
        raise click.ClickException(f"The store cannot be reached: {error}") from error
    if not resolved:
        raise click.ClickException("There is no such record whose outcome is unknown.")
    click.echo("Resolved: done." if done else "Resolved: not done, a repeat will run.")


@cli.command("complete")
@click.option("--limit", default=100, show_default=True, help="Requests to work on at most.")
def complete(limit: int) -> None:
    """Finish the work of requests that a crash interrupted and no client came back for.

    Needs the option keep_request. Each kept request enters the application again under its key, as the principal that
    it came from (login_as) or into a view that needs none (completable), so that it hears the kept answer, or runs. Exits with 1 where one could not be finished; it stays for the next time, until its retention
    is over.
    """
    from .extension.database import NoDatabase
    from .extension.request_keeping import DONE, NO_ENTRY, UNPROTECTED, UNREADABLE, WAITING

    try:
        fates = current_app.extensions["idempotency"].request_keeping.complete(limit=limit)
    except NoDatabase as error:
        raise click.ClickException(str(error)) from error
    done, waiting = fates.pop(DONE, 0), fates.pop(WAITING, 0)
    click.echo(f"{done} completed, {waiting} in progress or refused, {fates.total()} failed")
    said = {
        UNREADABLE: "cannot be read: is a key missing from IDEMPOTENCY_ENCRYPTION_KEYS?",
        UNPROTECTED: "not worked on: no key is in force for its view any more",
        NO_ENTRY: "left waiting: login_as does not say how to enter as its principal, and its view is not completable",
    }
    for fate, count in sorted(fates.items(), key=str):
        click.echo(f"  {count} {said.get(fate, f'answered with {fate}')}")
    sys.exit(1 if fates else 0)
