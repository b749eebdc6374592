"""A small shop whose clients may retry anything: `flask --app example_app run`.

Each resource shows one pattern of the field:

- payments: an idempotency key; the extension answers a repeat with the kept response.
- orders: the database itself refuses a second row with the same key; the row that exists is the answer.
- transfers: money moves in the transaction that notes the key, so it moves once whatever happens to the answer.
- users: PUT writes the same values again to the same effect, DELETE answers 204 every time; no key needed.

The page at `/` breaks the network on purpose, so that one sees the patterns at work: in a shop of its own, and for
browsers on this machine only. `FLASK_SHOP_PAGE=false` leaves it away, as anything but a demonstration should.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from flask import Flask, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, abort

from example_page import add_page
from flask_idempotency import Idempotency

idempotency = Idempotency()

SCHEMA = """
CREATE TABLE IF NOT EXISTS payments (
    id TEXT PRIMARY KEY, amount INTEGER NOT NULL CHECK (amount > 0), currency TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL CHECK (quantity > 0),
    idempotency_key TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0)
);
INSERT OR IGNORE INTO accounts VALUES ('alice', 1000), ('bob', 1000);
CREATE TABLE IF NOT EXISTS transfers (
    id TEXT PRIMARY KEY, source TEXT NOT NULL REFERENCES accounts, target TEXT NOT NULL REFERENCES accounts,
    amount INTEGER NOT NULL CHECK (amount > 0), idempotency_key TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
"""


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the shop and its page. `config` overrides; `SHOP_PAGE` of False leaves the page away."""
    app = create_shop(config)
    if app.config["SHOP_PAGE"]:
        add_page(app, create_page_shop, database)
    else:
        app.add_url_rule("/", view_func=index)
    return app


def create_shop(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the shop. `config` overrides; `SHOP_DATABASE` is the path of the business database."""
    app = Flask(__name__)
    app.config["SHOP_PAGE"] = True
    app.config["SHOP_DATABASE"] = Path(app.instance_path) / "shop.db"
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    idempotency.init_app(app)
    app.teardown_appcontext(close_database)
    app.register_error_handler(HTTPException, as_problem)

    app.add_url_rule("/api/payments", view_func=create_payment, methods=["POST"])
    app.add_url_rule("/api/payments", view_func=list_payments)
    app.add_url_rule("/api/payments/<payment_id>", view_func=read_payment)
    app.add_url_rule("/api/orders", view_func=create_order, methods=["POST"])
    app.add_url_rule("/api/orders", view_func=list_orders)
    app.add_url_rule("/api/orders/<order_id>", view_func=read_order)
    app.add_url_rule("/api/accounts", view_func=list_accounts)
    app.add_url_rule("/api/transfers", view_func=create_transfer, methods=["POST"])
    app.add_url_rule("/api/transfers", view_func=list_transfers)
    app.add_url_rule("/api/users/<user_id>", view_func=put_user, methods=["PUT"])
    app.add_url_rule("/api/users/<user_id>", view_func=delete_user, methods=["DELETE"])
    app.add_url_rule("/api/users/<user_id>", view_func=read_user)
    return app


def create_page_shop(config: Mapping[str, Any]) -> Flask:
    """Make the shop that the page breaks: the same, and beside it what it would be without keys."""
    app = create_shop(config)
    app.add_url_rule("/api/unprotected/transfers", view_func=create_unprotected_transfer, methods=["POST"])
    return app


def index() -> ResponseReturnValue:
    """Say what is here."""
    rules = sorted(rule.rule for rule in current_app.url_map.iter_rules() if rule.rule.startswith("/api/"))
    return {"paths": list(dict.fromkeys(rules))}


# Payments: the extension does it all.


class Payment(TypedDict):
    """What a client asks to pay: the amount in the currency's smallest unit."""

    amount: int
    currency: str


def create_payment() -> ResponseReturnValue:
    """Charge once for each idempotency key."""
    wanted = Payment(amount=positive("amount"), currency=text("currency"))
    if not (len(wanted["currency"]) == 3 and wanted["currency"].isalpha()):
        abort(400, "'currency' must be a code of three letters.")
    payment_id = new_id("pay")
    with transaction() as db:
        db.execute("INSERT INTO payments VALUES (?, ?, ?)", (payment_id, wanted["amount"], wanted["currency"]))
    location = f"/api/payments/{payment_id}"
    return {"id": payment_id, **wanted, "status": "succeeded"}, 201, {"Location": location}


def list_payments() -> ResponseReturnValue:
    """All payments, the oldest first."""
    return jsonify(rows("SELECT id, amount, currency, 'succeeded' AS status FROM payments ORDER BY rowid"))


def read_payment(payment_id: str) -> ResponseReturnValue:
    """One payment."""
    return one("SELECT id, amount, currency, 'succeeded' AS status FROM payments WHERE id = ?", payment_id)


# Orders: the unique constraint holds even where the kept answer is gone, after a crash or a day later.


def create_order() -> ResponseReturnValue:
    """Order once for each idempotency key: 201 for a new row, 200 for the row that was there."""
    item, quantity, key = text("item"), positive("quantity"), current_key()
    with transaction() as db:
        inserted = db.execute(
            "INSERT INTO orders VALUES (?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING",
            (new_id("ord"), item, quantity, key),
        )
        order = one("SELECT id, item, quantity FROM orders WHERE idempotency_key = ?", key)
    if (order["item"], order["quantity"]) != (item, quantity):
        abort(422, "The idempotency key was used for another order.")
    return order, 201 if inserted.rowcount else 200, {"Location": f"/api/orders/{order['id']}"}


def list_orders() -> ResponseReturnValue:
    """All orders, the oldest first."""
    return jsonify(rows("SELECT id, item, quantity FROM orders ORDER BY rowid"))


def read_order(order_id: str) -> ResponseReturnValue:
    """One order."""
    return one("SELECT id, item, quantity FROM orders WHERE id = ?", order_id)


# Transfers: the key and the money are written in one transaction.


def create_transfer() -> ResponseReturnValue:
    """Move money once for each idempotency key."""
    source, target, amount, key = text("from"), text("to"), positive("amount"), current_key()
    columns = "SELECT id, source AS 'from', target AS 'to', amount FROM transfers"
    with transaction() as db:
        moved = rows(f"{columns} WHERE idempotency_key = ?", key)
        if not moved:
            transfer_id = new_id("tr")
            move_money(db, source, target, amount)
            db.execute("INSERT INTO transfers VALUES (?, ?, ?, ?, ?)", (transfer_id, source, target, amount, key))
            moved = rows(f"{columns} WHERE id = ?", transfer_id)
    transfer = moved[0]
    if (transfer["from"], transfer["to"], transfer["amount"]) != (source, target, amount):
        abort(422, "The idempotency key was used for another transfer.")
    return transfer, 201


def move_money(db: sqlite3.Connection, source: str, target: str, amount: int) -> None:
    """Take `amount` from one account and give it to the other, or refuse."""
    for account in (source, target):
        one("SELECT id FROM accounts WHERE id = ?", account)
    if source == target:
        abort(400, "'from' and 'to' must be two accounts.")
    taken = db.execute(
        "UPDATE accounts SET balance = balance - ? WHERE id = ? AND balance >= ?", (amount, source, amount)
    )
    if not taken.rowcount:
        abort(409, "The account does not hold that much.")
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))


@idempotency.exempt
def create_unprotected_transfer() -> ResponseReturnValue:
    """Move money on each request, as a server does that knows no keys. Only the shop behind the page has this."""
    source, target, amount = text("from"), text("to"), positive("amount")
    transfer_id = new_id("tr")
    with transaction() as db:
        move_money(db, source, target, amount)
        db.execute("INSERT INTO transfers VALUES (?, ?, ?, ?, ?)", (transfer_id, source, target, amount, transfer_id))
    return {"id": transfer_id, "from": source, "to": target, "amount": amount}, 201


def list_transfers() -> ResponseReturnValue:
    """All transfers, the oldest first."""
    return jsonify(rows("SELECT id, source AS 'from', target AS 'to', amount FROM transfers ORDER BY rowid"))


def list_accounts() -> ResponseReturnValue:
    """All accounts and what they hold."""
    return jsonify(rows("SELECT id, balance FROM accounts ORDER BY id"))


# Users: PUT and DELETE are idempotent by nature.


def put_user(user_id: str) -> ResponseReturnValue:
    """Create or replace: the same values again, the same result. 201 for a new user, 200 for one that was there."""
    name, email = text("name"), text("email")
    with transaction() as db:
        existed = rows("SELECT 1 FROM users WHERE id = ?", user_id)
        db.execute(
            "INSERT INTO users VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email",
            (user_id, name, email),
        )
    return {"id": user_id, "name": name, "email": email}, 200 if existed else 201


def delete_user(user_id: str) -> ResponseReturnValue:
    """See to it that there is no such user: 204 the first time and every time after."""
    with transaction() as db:
        db.execute("DELETE FROM users WHERE id = ?", (user_id,))
    return "", 204


def read_user(user_id: str) -> ResponseReturnValue:
    """One user."""
    return one("SELECT id, name, email FROM users WHERE id = ?", user_id)


# What the views share


def current_key() -> str:
    """The idempotency key of this request; the extension has made sure that there is one."""
    attempt = idempotency.attempt
    if attempt is None:
        abort(503, "Idempotency keys cannot be checked now.")
    return attempt.key


def text(field: str) -> str:
    """A field of the JSON body that must be a text."""
    value = body().get(field)
    if not isinstance(value, str) or not value.strip():
        abort(400, f"'{field}' must be a text.")
    return value


def positive(field: str) -> int:
    """A field of the JSON body that must be a whole number above 0, and one that the database can hold."""
    value = body().get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        abort(400, f"'{field}' must be a whole number above 0.")
    return value


def body() -> dict[str, Any]:
    """The JSON body, which must be an object."""
    value = request.get_json()
    if not isinstance(value, dict):
        abort(400, "The body must be a JSON object.")
    return value


def new_id(prefix: str) -> str:
    """An identifier that no other row has."""
    return f"{prefix}_{uuid.uuid4().hex}"


def rows(query: str, *parameters: object) -> list[dict[str, Any]]:
    """The rows that a query finds."""
    return [dict(row) for row in database().execute(query, parameters)]


def one(query: str, *parameters: object) -> dict[str, Any]:
    """The row that a query finds; 404 where there is none."""
    found = rows(query, *parameters)
    if not found:
        abort(404)
    return found[0]


def database() -> sqlite3.Connection:
    """The business database, with its tables."""
    if "database" not in g:
        path = Path(current_app.config["SHOP_DATABASE"])
        path.parent.mkdir(parents=True, exist_ok=True)
        g.database = sqlite3.connect(path, isolation_level=None, timeout=30)
        g.database.row_factory = sqlite3.Row
        g.database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; {SCHEMA}")
    connection: sqlite3.Connection = g.database
    return connection


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """All of it or nothing. It locks at the start, so that what is read inside stays true."""
    db = database()
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def close_database(error: BaseException | None) -> None:
    """Close the connection of this request."""
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


def as_problem(error: HTTPException) -> ResponseReturnValue:
    """Every error as a problem document (RFC 9457)."""
    response = jsonify(title=error.name, status=error.code, detail=error.description)
    response.content_type = "application/problem+json"
    return response, error.code or 500, [header for header in error.get_headers() if header[0] != "Content-Type"]


app = create_app()
