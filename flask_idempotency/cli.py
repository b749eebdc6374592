"""`flask idempotency …`: what an operator does by hand, or by a timer."""

import sys
from collections import Counter

import click
from flask import current_app
from flask.cli import AppGroup

cli = AppGroup("idempotency", help="Look after idempotency keys.")


@cli.command("complete")
@click.option("--limit", default=100, show_default=True, help="Requests to work on at most.")
def complete(limit: int) -> None:
    """Finish the work of requests that a crash interrupted and no client came back for.

    Needs the option keep_request. Each kept request enters the application again under its key, so that it hears the
    kept answer, or runs. Exits with 1 where a request was answered with an error; it stays for the next time.
    """
    statuses = Counter(
        status for _, status in current_app.extensions["idempotency"].request_keeping.complete(limit=limit)
    )
    in_progress = statuses.pop(409, 0)
    done = sum(count for status, count in statuses.items() if 200 <= status < 300)
    failed = {status: count for status, count in sorted(statuses.items()) if not 200 <= status < 300}
    click.echo(f"{done} completed, {in_progress} in progress or refused, {sum(failed.values())} failed")
    for status, count in failed.items():
        click.echo(f"  {count} answered with {status}")
    sys.exit(1 if failed else 0)
