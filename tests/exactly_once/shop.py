"""A shop on Flask-SQLAlchemy whose views are atomic, for the tests of exactly-once."""

from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.store import Store
from flask_idempotency.exactly_once.proofs import proof_table


class Shop:
    """One application, its database, and the helpers that the tests look at it with."""

    def __init__(
        self,
        url: str,
        store: Store,
        *,
        engine_options: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        fresh: bool = True,
        login_as: Any = None,
        **policy: Any,
    ) -> None:
        class Base(DeclarativeBase):
            pass

        self.db = db = SQLAlchemy(model_class=Base)

        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            item: Mapped[str] = mapped_column(String(100))

        self.Order: Any = Order
        self.app = Flask(__name__)
        self.app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=engine_options or {})
        self.app.config.update(config or {})
        self.idempotency = Idempotency(
            self.app, store=store, policy=Policy(**({"atomic": True} | policy)), login_as=login_as
        )
        db.init_app(self.app)
        with self.app.app_context():
            self.proof_table = proof_table(Base.metadata)
            if fresh:
                Base.metadata.drop_all(db.engine)
            db.create_all()
            db.session.remove()

    def items(self) -> list[str]:
        """The items of all orders that are committed."""
        with self.app.app_context(), self.db.engine.connect() as connection:
            return sorted(connection.execute(self.db.select(self.Order.item)).scalars())

    def proofs(self) -> int:
        """How many operations are proved done."""
        return self.kinds().count("done")

    def kinds(self) -> list[str]:
        """What the rows of all operations say of them."""
        with self.app.app_context(), self.db.engine.connect() as connection:
            return sorted(connection.execute(self.db.select(self.proof_table.c.kind)).scalars())
