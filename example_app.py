"""A small shop whose clients may retry anything: `flask --app example_app run`.

Each resource shows one pattern of the field:

- payments: an idempotency key; the extension answers a repeat with the kept response. The card is charged in a step.
- orders: the database itself refuses a second row with the same key; the row that exists is the answer.
- transfers: an atomic view; the money and the answer commit in one transaction, so that no crash parts them.
- users: PUT writes the same values again to the same effect, DELETE answers 204 every time; no key needed.

The page at `/` breaks the network on purpose, so that one sees the patterns at work: in a shop of its own, and for
browsers on this machine only. `FLASK_SHOP_PAGE=false` leaves it away, as anything but a demonstration should.
"""

import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, CheckConstraint, ForeignKey, delete, literal_column, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.exceptions import HTTPException, abort

from example_page import add_page
from flask_idempotency import Idempotency
from flask_idempotency.exactly_once import create_once, proof_table

# What is kept


class Base(DeclarativeBase):
    """Every row has an identifier, and says what of it is shown."""

    id: Mapped[str] = mapped_column(primary_key=True)

    def shown(self) -> dict[str, Any]:
        return {"id": self.id}


class Payment(Base):
    """Its identifier is the provider's: one charge, one row."""

    __tablename__ = "payments"
    amount: Mapped[int]
    currency: Mapped[str]

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"amount": self.amount, "currency": self.currency, "status": "succeeded"}


class Order(Base):
    """One for each key."""

    __tablename__ = "orders"
    item: Mapped[str]
    quantity: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(unique=True)

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"item": self.item, "quantity": self.quantity}


class Account(Base):
    """It never holds less than nothing."""

    __tablename__ = "accounts"
    balance: Mapped[int] = mapped_column(CheckConstraint("balance >= 0"))

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"balance": self.balance}


class Transfer(Base):
    """One for each key."""

    __tablename__ = "transfers"
    source: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    target: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    amount: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(unique=True)

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"from": self.source, "to": self.target, "amount": self.amount}


class User(Base):
    """The client chooses the identifier."""

    __tablename__ = "users"
    name: Mapped[str]
    email: Mapped[str]

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"name": self.name, "email": self.email}


db = SQLAlchemy(model_class=Base)
proof_table(Base.metadata)  # what atomic views need is made, and migrated, with the tables above
idempotency = Idempotency()
api = Blueprint("api", __name__, url_prefix="/api")


# Payments: the extension does it all. What must not be done twice, even where this process dies, is a step.


@api.post("/payments")
def create_payment() -> ResponseReturnValue:
    """Charge once for each idempotency key."""
    amount, currency = positive("amount"), text("currency")
    if not (len(currency) == 3 and currency.isalpha()):
        abort(400, "'currency' must be a code of three letters.")
    key = idempotency.derive_key("charge")
    # Charged once: where an attempt dies after this, the next gets the charge that was kept, and makes its one row.
    charge_id = idempotency.step("charge", charge_card, amount, currency, idempotency_key=key)
    payment, _ = create_once(db.session, Payment(id=charge_id, amount=amount, currency=currency), key="id")
    db.session.commit()
    return payment.shown(), 201, {"Location": f"/api/payments/{payment.id}"}


def charge_card(amount: int, currency: str, *, idempotency_key: str) -> str:
    """Stands for a call to a payment provider. A real one is sent the key, so that it recognises a repeat, too."""
    return new_id("pay")


@api.get("/payments")
def list_payments() -> ResponseReturnValue:
    """All payments, the oldest first."""
    return all_of(Payment)


@api.get("/payments/<payment_id>")
def read_payment(payment_id: str) -> ResponseReturnValue:
    """One payment."""
    return db.get_or_404(Payment, payment_id).shown()


# Orders: the unique constraint holds even where the kept answer is gone, after a crash or a day later.


@api.post("/orders")
def create_order() -> ResponseReturnValue:
    """Order once for each idempotency key: 201 for a new row, 200 for the row that was there."""
    item, quantity = text("item"), positive("quantity")
    key = idempotency.derive_key("order")  # not the client's own, which another client may use for an order of its own
    wanted = Order(id=new_id("ord"), item=item, quantity=quantity, idempotency_key=key)
    order, created = create_once(db.session, wanted)
    db.session.commit()
    if (order.item, order.quantity) != (item, quantity):
        abort(422, "The idempotency key was used for another order.")
    return order.shown(), 201 if created else 200, {"Location": f"/api/orders/{order.id}"}


@api.get("/orders")
def list_orders() -> ResponseReturnValue:
    """All orders, the oldest first."""
    return all_of(Order)


@api.get("/orders/<order_id>")
def read_order(order_id: str) -> ResponseReturnValue:
    """One order."""
    return db.get_or_404(Order, order_id).shown()


# Transfers: money, transfer and kept answer are one transaction. The key in the row outlives the kept answer.


@api.post("/transfers")
@idempotency.view(atomic=True, on_conflict="rerun")  # rows only: after a deadlock, it may run again
def create_transfer() -> ResponseReturnValue:
    """Move money once for each idempotency key."""
    source, target, amount = text("from"), text("to"), positive("amount")
    key = idempotency.derive_key("transfer")
    wanted = Transfer(id=new_id("tr"), source=source, target=target, amount=amount, idempotency_key=key)
    transfer, created = create_once(db.session, wanted)
    if created:
        move_money(source, target, amount)
    elif (transfer.source, transfer.target, transfer.amount) != (source, target, amount):
        abort(422, "The idempotency key was used for another transfer.")
    db.session.commit()
    return transfer.shown(), 201


def move_money(source: str, target: str, amount: int) -> None:
    """Take `amount` from one account and give it to the other, or refuse."""
    for account in (source, target):
        db.get_or_404(Account, account)
    if source == target:
        abort(400, "'from' and 'to' must be two accounts.")
    enough = (Account.id == source) & (Account.balance >= amount)
    take = update(Account).where(enough).values(balance=Account.balance - amount)
    if db.session.scalar(take.returning(Account.id)) is None:
        abort(409, "The account does not hold that much.")
    db.session.execute(update(Account).where(Account.id == target).values(balance=Account.balance + amount))


@api.get("/transfers")
def list_transfers() -> ResponseReturnValue:
    """All transfers, the oldest first."""
    return all_of(Transfer)


@api.get("/accounts")
def list_accounts() -> ResponseReturnValue:
    """All accounts and what they hold."""
    return jsonify([account.shown() for account in db.session.scalars(select(Account).order_by(Account.id))])


# Users: PUT and DELETE are idempotent by nature.


@api.put("/users/<user_id>")
def put_user(user_id: str) -> ResponseReturnValue:
    """Create or replace: the same values again, the same result. 201 for a new user, 200 for one that was there."""
    name, email = text("name"), text("email")
    user, created = create_once(db.session, User(id=user_id, name=name, email=email), key="id")
    user.name, user.email = name, email
    db.session.commit()
    return user.shown(), 201 if created else 200


@api.delete("/users/<user_id>")
def delete_user(user_id: str) -> ResponseReturnValue:
    """See to it that there is no such user: 204 the first time and every time after."""
    db.session.execute(delete(User).where(User.id == user_id))
    db.session.commit()
    return "", 204


@api.get("/users/<user_id>")
def read_user(user_id: str) -> ResponseReturnValue:
    """One user."""
    return db.get_or_404(User, user_id).shown()


# What the page at `/` shows beside the shop: what it would be without keys.

unprotected = idempotency.exempt(Blueprint("unprotected", __name__, url_prefix="/api/unprotected"))


@unprotected.post("/transfers")
def create_unprotected_transfer() -> ResponseReturnValue:
    """Move money on each request, as a server does that knows no keys."""
    source, target, amount, transfer_id = text("from"), text("to"), positive("amount"), new_id("tr")
    move_money(source, target, amount)
    transfer = Transfer(id=transfer_id, source=source, target=target, amount=amount, idempotency_key=transfer_id)
    db.session.add(transfer)
    db.session.commit()
    return transfer.shown(), 201


# What the views share


def text(field: str) -> str:
    """A field of the JSON body that must be a text, and one that the database can hold."""
    value = body().get(field)
    if not isinstance(value, str) or not value.strip() or value.encode(errors="replace").decode() != value:
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


def all_of(model: type[Base]) -> ResponseReturnValue:
    """All rows, in the order in which SQLite has numbered them."""
    return jsonify([row.shown() for row in db.session.scalars(select(model).order_by(literal_column("rowid")))])


def as_problem(error: HTTPException) -> ResponseReturnValue:
    """Every error as a problem document (RFC 9457)."""
    response = jsonify(title=error.name, status=error.code, detail=error.description)
    response.content_type = "application/problem+json"
    return response, error.code or 500, [header for header in error.get_headers() if header[0] != "Content-Type"]


# The application


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the shop and its page. `config` overrides; `SHOP_PAGE` of False leaves the page away."""
    app = create_shop(config)
    if app.config["SHOP_PAGE"]:
        add_page(app, create_page_shop, db.session)
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
    path = app.config["SHOP_DATABASE"] = Path(app.config["SHOP_DATABASE"]).absolute()
    app.config["SQLALCHEMY_DATABASE_URI"] = URL.create("sqlite", database=str(path))
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 30}}  # one may write, the others wait
    db.init_app(app)
    idempotency.init_app(app)
    app.register_blueprint(api)
    app.register_error_handler(HTTPException, as_problem)
    app.before_request(cache(make_tables))  # once, with the first request: to import the shop writes nothing
    return app


def create_page_shop(config: Mapping[str, Any]) -> Flask:
    """Make the shop that the page breaks: the same, and beside it what it would be without keys."""
    app = create_shop(config)
    app.register_blueprint(unprotected)
    with app.app_context():
        make_tables()
    return app


def make_tables() -> None:
    """Make the tables and two accounts, where they are missing; several processes may start at once."""
    current_app.config["SHOP_DATABASE"].parent.mkdir(parents=True, exist_ok=True)
    with db.engine.connect() as connection:
        with suppress(OperationalError):  # another process is at it
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # reading does not wait for writing
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        Base.metadata.create_all(connection)
        accounts = [{"id": "alice", "balance": 1000}, {"id": "bob", "balance": 1000}]
        connection.execute(insert(Account).on_conflict_do_nothing(), accounts)
        connection.commit()
    db.engine.dispose()  # a server that forks must not hand on a connection


def index() -> ResponseReturnValue:
    """Say what is here."""
    rules = sorted(rule.rule for rule in current_app.url_map.iter_rules() if rule.rule.startswith("/api/"))
    return {"paths": list(dict.fromkeys(rules))}


app = create_app()

if __name__ == "__main__":
    app.run()
