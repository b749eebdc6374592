"""create_once: a unique constraint decides, and the row that exists is the answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Engine, String, UniqueConstraint, create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_idempotency.exactly_once import create_once


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "once_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    number: Mapped[str | None] = mapped_column(String(20), unique=True)
    item: Mapped[str] = mapped_column(String(100))


class Transfer(Base):
    __tablename__ = "once_transfers"
    __table_args__ = (UniqueConstraint("tenant", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(20))
    key: Mapped[str] = mapped_column(String(255))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def count(session: Session, model: type[Base]) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


def test_the_first_creates_and_the_second_finds(engine: Engine) -> None:
    with Session(engine) as session:
        first, created = create_once(session, Order(idempotency_key="k", item="book"))
        session.commit()
        assert created
        wanted = first.id
    with Session(engine) as session:
        again, created = create_once(session, Order(idempotency_key="k", item="pen"))
        assert not created
        assert (again.id, again.item) == (wanted, "book")
        session.commit()
        assert count(session, Order) == 1


def test_the_transaction_around_it_goes_on_unharmed(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", item="book"))
        session.commit()
    with Session(engine) as session:
        session.add(Order(item="before"))
        assert create_once(session, Order(idempotency_key="k", item="pen"))[1] is False
        session.add(Order(item="after"))
        session.commit()
        assert session.scalars(select(Order.item).order_by(Order.id)).all() == ["book", "before", "after"]


def test_what_is_not_committed_is_not_there(engine: Engine) -> None:
    with Session(engine) as session:
        assert create_once(session, Order(idempotency_key="k", item="book"))[1] is True
        session.rollback()
        assert create_once(session, Order(idempotency_key="k", item="book"))[1] is True


def test_another_violated_constraint_is_the_callers_to_hear_of(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", number="1", item="book"))
        with pytest.raises(IntegrityError):
            create_once(session, Order(idempotency_key="other", number="1", item="book"))
        session.commit()
        assert count(session, Order) == 1


def test_several_columns_can_be_the_key_together(engine: Engine) -> None:
    with Session(engine) as session:
        outcomes = [
            create_once(session, Transfer(tenant=tenant, key="k"), key=("tenant", "key"))[1] for tenant in "aab"
        ]
        session.commit()
    assert outcomes == [True, False, True]


def test_a_row_without_a_key_is_refused(engine: Engine) -> None:
    with Session(engine) as session, pytest.raises(ValueError, match=r"Order\.idempotency_key must be set"):
        create_once(session, Order(item="book"))


def test_of_16_that_race_one_creates_and_all_hear_of_its_row(engine: Engine) -> None:
    start = Barrier(16)

    def order(number: int) -> tuple[int, bool]:
        with Session(engine) as session:
            session.connection()
            start.wait(timeout=30)
            row, created = create_once(session, Order(idempotency_key="k", item=f"book {number}"))
            session.commit()
            return row.id, created

    engine.dispose()
    wide = create_engine(engine.url, pool_size=16, connect_args={"timeout": 30} if "sqlite" in str(engine.url) else {})
    engine = wide
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(order, range(16)))
    wide.dispose()
    assert len({row_id for row_id, _ in outcomes}) == 1
    assert sum(created for _, created in outcomes) == 1
