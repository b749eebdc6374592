"""`flask idempotency …`: what an operator does by hand, or by a timer."""

import sys

import click
from flask import current_app
from flask.cli import AppGroup

from .engine.store import StoreUnavailable

cli = AppGroup("idempotency", help="Look after idempotency keys.")

_RECORD_URN = "urn:flask-idempotency:record:"


def _record_id(ctx: click.Context, param: click.Parameter, value: str) -> bytes:
    """A record as a refusal names it: the `instance` of its problem document, or the hexadecimal end of that."""
    try:
        record_id = bytes.fromhex(value.removeprefix(_RECORD_URN))
    except ValueError:
        record_id = b""
    if not record_id:
        raise click.BadParameter(f"{value!r} is not a record: it is {_RECORD_URN}… or hexadecimal digits.", ctx, param)
    return record_id


@cli.command("resolve")
@click.argument("record", callback=_record_id)
@click.option("--done/--not-done", default=None, help="Whether the work was done. One of them must be said.")
def resolve(record: bytes, done: bool | None) -> None:
    """Settle an outcome that nobody but a person can know.

    RECORD is the `instance` of the problem document `outcome-unknown`. With --done, its work is never done again, and
    a repeat hears that its response was not kept; with --not-done, the next repeat runs.
    """
    if done is None:  # click 8.3 does not ask for a flag that is required
        raise click.UsageError("Say --done or --not-done.")
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
    it came from (login_as) or into a view that needs none (completable), so that it hears the kept answer, or runs.
    Exits with 1 where one could not be finished; it stays for the next time, until its retention is over.
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
