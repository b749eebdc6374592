"""`flask idempotency …`: what an operator does by hand, or by a timer."""

import sys

import click
from flask import current_app
from flask.cli import AppGroup

cli = AppGroup("idempotency", help="Look after idempotency keys.")


@cli.command("complete")
@click.option("--limit", default=100, show_default=True, help="Requests to work on at most.")
def complete(limit: int) -> None:
    """Finish the work of requests that a crash interrupted and no client came back for.

    Needs the option keep_request. Each kept request enters the application again under its key, so that it hears the
    kept answer, or runs. Exits with 1 where one could not be finished; it stays for the next time, until its retention
    is over.
    """
    from .extension.database import NoDatabase
    from .extension.request_keeping import DONE, UNPROTECTED, UNREADABLE, WAITING

    try:
        fates = current_app.extensions["idempotency"].request_keeping.complete(limit=limit)
    except NoDatabase as error:
        raise click.ClickException(str(error)) from error
    done, waiting = fates.pop(DONE, 0), fates.pop(WAITING, 0)
    click.echo(f"{done} completed, {waiting} in progress or refused, {fates.total()} failed")
    said = {
        UNREADABLE: "cannot be read: is a key missing from IDEMPOTENCY_ENCRYPTION_KEYS?",
        UNPROTECTED: "not worked on: no key is in force for its view any more",
    }
    for fate, count in sorted(fates.items(), key=str):
        click.echo(f"  {count} {said.get(fate, f'answered with {fate}')}")
    sys.exit(1 if fates else 0)
