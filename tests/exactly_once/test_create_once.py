"""create_once: a unique constraint decides, and the row that exists is the answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask import Flask
from sqlalchemy import Engine, ForeignKey, Index, MetaData, String, UniqueConstraint, create_engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker

from flask_idempotency import Idempotency, Policy
from flask_idempotency.exactly_once import WinnerHidden, create_once, proof_table
from flask_idempotency.stores import MemoryStore


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


class Owner(Base):
    __tablename__ = "once_owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    things: Mapped[list["Thing"]] = relationship(back_populates="owner")


class Thing(Base):
    __tablename__ = "once_things"
    __table_args__ = (Index("once_things_key", "key", unique=True),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255))
    label: Mapped[str] = mapped_column(String(20), default="")
    owner_id: Mapped[int | None] = mapped_column(ForeignKey(Owner.id))
    owner: Mapped[Owner | None] = relationship(back_populates="things")


class Unkept(Base):
    __tablename__ = "once_unkept"
    __table_args__ = (UniqueConstraint("key", "tenant"), Index("once_unkept_key", "key"))
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255))
    tenant: Mapped[str] = mapped_column(String(20))


class Basket(Base):
    __tablename__ = "once_baskets"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(255), unique=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey(Owner.id))
    owner: Mapped[Owner | None] = relationship(lazy="joined")
    lines: Mapped[list["Line"]] = relationship(lazy="joined", order_by="Line.id")


class Line(Base):
    __tablename__ = "once_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(20))
    basket_id: Mapped[int] = mapped_column(ForeignKey(Basket.id))


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


def test_a_row_that_collided_on_another_constraint_is_never_the_answer(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", number="1", item="mine"))
        create_once(session, Order(idempotency_key="other", number="2", item="another's"))
        session.commit()
        # Both constraints are violated, by different rows: the key's row is the answer.
        found, created = create_once(session, Order(idempotency_key="k", number="2", item="new"))
        assert (found.item, created) == ("mine", False)
        # The number alone is: there is no answer.
        with pytest.raises(IntegrityError):
            create_once(session, Order(idempotency_key="new", number="2", item="new"))
        assert session.scalars(select(Order.item).order_by(Order.id)).all() == ["mine", "another's"]


def test_within_savepoints_of_the_caller_it_harms_none(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", item="first"))
        session.commit()
    with Session(engine) as session:
        session.add(Order(item="around"))
        with session.begin_nested():
            session.add(Order(item="outer"))
            with session.begin_nested():
                assert create_once(session, Order(idempotency_key="k", item="second"))[1] is False
                assert create_once(session, Order(idempotency_key="l", item="inner"))[1] is True
        with session.begin_nested() as undone:
            assert create_once(session, Order(idempotency_key="m", item="undone"))[1] is True
            undone.rollback()
        assert create_once(session, Order(idempotency_key="m", item="done"))[1] is True
        session.commit()
        items = ["first", "around", "outer", "inner", "done"]
        assert sorted(session.scalars(select(Order.item))) == sorted(items)


def test_a_row_that_a_relationship_has_brought_into_the_session_does_no_harm(engine: Engine) -> None:
    with Session(engine) as session:
        owner = Owner(things=[])
        session.add(owner)
        first, _ = create_once(session, Thing(key="k", owner=owner), key="key")
        session.commit()
        second = Thing(key="k")
        session.add(second)
        found, created = create_once(session, second, key="key")
        assert (found.id, created) == (first.id, False)
        session.add(Owner())
        session.commit()
        assert (count(session, Thing), count(session, Owner)) == (1, 2)


def test_what_a_lost_row_brought_along_is_not_left_behind(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Thing(key="k"), key="key")
        session.commit()
        found, created = create_once(session, Thing(key="k", owner=Owner()), key="key")
        session.commit()
        assert (found.owner, created, count(session, Owner)) == (None, False, 0)


def test_what_the_caller_had_not_flushed_fails_as_its_own(engine: Engine) -> None:
    """A collision of something else is not taken for one of the row."""
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", number="1", item="book"))
        session.commit()
        session.add(Order(number="1", item="another's mistake"))
        with pytest.raises(IntegrityError):
            create_once(session, Order(idempotency_key="k", item="pen"))


@pytest.mark.parametrize("key", ["key", "tenant", "nothing"])
def test_a_key_that_nothing_keeps_unique_is_refused(engine: Engine, key: str) -> None:
    row = Unkept(key="k", tenant="t")
    row.nothing = "n"  # type: ignore[attr-defined]
    with Session(engine) as session:
        with pytest.raises(ValueError, match="no unique constraint"):
            create_once(session, row, key=key)
        assert create_once(session, row, key=("tenant", "key"))[1] is True


def test_a_unique_index_and_a_primary_key_are_constraints_too(engine: Engine) -> None:
    with Session(engine) as session:
        assert [create_once(session, Thing(key="k"), key="key")[1] for _ in range(2)] == [True, False]
        assert [create_once(session, Owner(id=7), key="id")[1] for _ in range(2)] == [True, False]


def test_a_row_that_eagerly_joins_others_is_found_with_them(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Basket(key="k", lines=[Line(item="book"), Line(item="pen")]), key="key")
        session.commit()
    with Session(engine) as session:
        found, created = create_once(session, Basket(key="k"), key="key")
        assert (created, found.owner, [line.item for line in found.lines]) == (False, None, ["book", "pen"])


@pytest.mark.parametrize("default", [True, False])
def test_the_row_goes_where_its_model_is_bound_and_its_transaction_is_the_callers_there_too(
    engine: Engine, default: bool
) -> None:
    elsewhere = create_engine("sqlite://")
    with Session(elsewhere if default else None, binds={Order: engine}) as session:
        assert create_once(session, Order(idempotency_key="k", item="book"))[1] is True
        session.rollback()
        assert create_once(session, Order(idempotency_key="k", item="pen"))[1] is True
        session.commit()
    with Session(engine) as session:
        assert session.scalars(select(Order.item)).all() == ["pen"]
    elsewhere.dispose()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_row_committed_after_the_snapshot_is_found_on_mariadb_and_said_to_be_hidden_on_postgresql(
    postgresql_url: str, mariadb_url: str, level: str
) -> None:
    for url in (postgresql_url, mariadb_url):
        engine = create_engine(url, isolation_level=level)
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with Session(engine) as session, Session(engine) as other:
            session.connection().exec_driver_sql("SELECT 1 FROM once_transfers").all()  # a snapshot of all tables
            create_once(other, Order(idempotency_key="k", item="theirs"))
            other.commit()
            if url == mariadb_url:
                assert create_once(session, Order(idempotency_key="k", item="ours"))[0].item == "theirs"
            else:
                with pytest.raises(WinnerHidden):
                    create_once(session, Order(idempotency_key="k", item="ours"))
                session.rollback()
                assert create_once(session, Order(idempotency_key="k", item="ours"))[0].item == "theirs"
        engine.dispose()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_clash_on_another_constraint_with_a_row_that_is_hidden_is_that_error(postgresql_url: str, level: str) -> None:
    engine = create_engine(postgresql_url, isolation_level=level)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, Session(engine) as other:
        session.connection().exec_driver_sql("SELECT 1 FROM once_transfers").all()
        create_once(other, Order(idempotency_key="another", number="1", item="theirs"))
        other.commit()
        with pytest.raises(IntegrityError):
            create_once(session, Order(idempotency_key="k", number="1", item="ours"))
    engine.dispose()


def test_a_value_that_is_missing_is_that_error_though_the_key_is_there(engine: Engine) -> None:
    with Session(engine) as session:
        create_once(session, Order(idempotency_key="k", item="book"))
        with pytest.raises(IntegrityError):
            create_once(session, Order(idempotency_key="k"))
        session.commit()
        assert count(session, Order) == 1


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_atomic_view_runs_again_where_the_winner_is_hidden(postgresql_url: str, level: str) -> None:
    engine = create_engine(postgresql_url, isolation_level=level)
    proof_table(MetaData()).drop(engine, checkfirst=True)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    sessions = scoped_session(sessionmaker(engine))
    app = Flask(__name__)
    Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True, on_conflict="rerun"), session=sessions)
    runs: list[None] = []

    def view() -> tuple[str, int]:
        runs.append(None)
        sessions.execute(select(Transfer)).all()
        if len(runs) == 1:
            with Session(engine) as other:
                create_once(other, Order(idempotency_key="k", item="theirs"))
                other.commit()
        order, created = create_once(sessions, Order(idempotency_key="k", item="ours"))
        sessions.commit()
        return f"{order.item} {created}", 201

    app.add_url_rule("/", "orders", view, methods=["POST"])
    heard = app.test_client().post("/", headers={"Idempotency-Key": "k"})
    sessions.remove()
    assert (heard.status_code, heard.text, len(runs)) == (201, "theirs False", 2)
    engine.dispose()


def test_in_an_atomic_view_the_row_and_the_answer_stand_together(database_url: str) -> None:
    engine = create_engine(database_url)
    proof_table(MetaData()).drop(engine, checkfirst=True)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    sessions = scoped_session(sessionmaker(engine))
    app = Flask(__name__)
    idempotency = Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True), session=sessions)
    statuses = [500, 201]

    def view() -> tuple[str, int]:
        assert idempotency.attempt is not None
        outcomes = [create_once(sessions, Order(idempotency_key="k", item="book"))[1] for _ in range(2)]
        sessions.commit()
        return str(outcomes), statuses.pop(0)

    app.add_url_rule("/", "orders", view, methods=["POST"])
    heard = [app.test_client().post("/", headers={"Idempotency-Key": "k"}) for _ in range(3)]
    sessions.remove()
    assert [(each.status_code, each.text) for each in heard] == [
        (500, "[True, False]"),
        (201, "[True, False]"),
        (201, "[True, False]"),
    ]
    with Session(engine) as session:
        assert count(session, Order) == 1
    engine.dispose()
