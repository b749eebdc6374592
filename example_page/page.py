"""Serves the page at `/`, and below `/demo/` a shop of its own to break.

That shop has its own books, in a directory that goes with the process, and claims that lapse after two seconds, so that
nobody waits for half a minute to see one taken over. The shop at `/api/` meets no faults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flask import Blueprint, Flask, abort, request, send_from_directory
from flask.typing import ResponseReturnValue
from sqlalchemy import text
from sqlalchemy.orm import scoped_session
from werkzeug import Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import flask_idempotency

from .faults import FaultyNetwork, make_frail, observe
from .timeline import SIDES, Timeline

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HERE = Path(__file__).parent
_FILES = {
    "page.js": _HERE,
    "page.css": _HERE,
    "timeline.js": _HERE,
    # As any application serves it: one file, from the package.
    "idempotency.js": Path(flask_idempotency.__file__).parent / "client" / "browser",
}

#: The page loads nothing from anywhere else, and runs nothing that stands in it.
_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: What the customer has at the start: enough for every failure that anybody will try.
_FORTUNE = 1_000_000


def add_page(app: Flask, make_shop: Callable[[dict[str, object]], Flask], session: scoped_session[Any]) -> None:
    """Serve the page, to browsers on this machine only. `session` is at the books of the current shop."""
    directory = tempfile.TemporaryDirectory(prefix="example-page-")
    shop = make_shop(
        {
            "SHOP_DATABASE": Path(directory.name) / "shop.db",
            "IDEMPOTENCY_STORE_URL": "memory://",
            "IDEMPOTENCY_LEASE": 2,
        }
    )
    for endpoint in ("api.create_transfer", "unprotected.create_unprotected_transfer"):
        make_frail(shop, endpoint)
    timeline = Timeline()
    # Kept with the app: the directory goes, and the signals fall silent, once nothing refers to them.
    app.extensions["example_page"] = directory, observe(shop)

    page = Blueprint("page", __name__)
    page.before_request(_refuse_strangers)
    shop.before_request(_refuse_strangers)

    @page.get("/")
    def index() -> Response:
        response = send_from_directory(_HERE, "index.html")
        response.headers["Content-Security-Policy"] = _SECURITY_POLICY
        return response

    @page.get("/demo/<name>")
    def file(name: str) -> Response:
        if name not in _FILES:
            abort(404)
        return send_from_directory(_FILES[name], name)

    @page.put("/demo/runs/<uuid:run>")
    def open_run(run: UUID) -> ResponseReturnValue:
        """Open the books of a run: for each side a customer and a seller."""
        accounts = [
            {"id": _account(who, run, side), "balance": balance}
            for side in SIDES
            for who, balance in (("customer", _FORTUNE), ("seller", 0))
        ]
        with shop.app_context():
            session.execute(text("INSERT OR IGNORE INTO accounts (id, balance) VALUES (:id, :balance)"), accounts)
            session.commit()
        timeline.open(str(run))
        return {side: {who: _account(who, run, side) for who in ("customer", "seller")} for side in SIDES}

    @page.get("/demo/runs/<uuid:run>")
    def read_run(run: UUID) -> ResponseReturnValue:
        """What the server did in this run, what it is still at, and what the books say."""
        # In this order: once no request is left, the books are final.
        events, working = timeline.of(str(run))
        with shop.app_context():
            books = {side: transfers_of(_account("customer", run, side)) for side in SIDES}
        return {"events": [asdict(event) for event in events], "working": working, "transfers": books}

    def transfers_of(customer: str) -> list[dict[str, object]]:
        query = text("SELECT id, amount FROM transfers WHERE source = :customer ORDER BY rowid")
        return [dict(row) for row in session.execute(query, {"customer": customer}).mappings()]

    app.register_blueprint(page)
    below: dict[str, WSGIApplication] = {"/demo/shop": FaultyNetwork(shop, timeline)}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, below)  # type: ignore[method-assign]


def _account(who: str, run: UUID, side: str) -> str:
    return f"{who}-{run}-{side}"


def _refuse_strangers() -> None:
    """Let nobody in but this machine's own browser; behind a proxy, nobody knows whose it is."""
    try:
        is_local = ip_address(request.environ.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        is_local = False
    if not is_local or "Forwarded" in request.headers or "X-Forwarded-For" in request.headers:
        abort(403, "The page that breaks the network is for browsers on this machine only.")
