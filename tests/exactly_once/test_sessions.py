"""Whatever a view does with its sessions, its rows stand with its answer or not at all; what cannot join is told."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask import Blueprint, Flask, request
from sqlalchemy import Engine, MetaData, String, create_engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import QueuePool

from flask_idempotency import Idempotency, Policy
from flask_idempotency.exactly_once import proof_table
from flask_idempotency.stores import MemoryStore
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "session_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(100))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    renew(engine)
    yield engine
    engine.dispose()


def renew(engine: Engine) -> None:
    """No lines, and no proofs of what other tests have done."""
    Base.metadata.drop_all(engine)
    proof_table(MetaData()).drop(engine, checkfirst=True)
    Base.metadata.create_all(engine)


def lines(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return sorted(session.scalars(select(Line.item)))


class Counter:
    """An app without Flask-SQLAlchemy."""

    def __init__(self, sessions: Any, **policy: Any) -> None:
        self.app = Flask(__name__)
        self.app.config["PROPAGATE_EXCEPTIONS"] = False
        self.sessions = sessions
        self.idempotency = Idempotency(
            self.app, store=MemoryStore(), policy=Policy(**({"atomic": True} | policy)), session=sessions
        )
        self.app.teardown_appcontext(lambda error: sessions.remove())

    def ask(self, view: Callable[[], Any]) -> Any:
        self.app.add_url_rule("/orders", "orders", view, methods=["POST"])
        return self.app.test_client().post("/orders", headers=KEY)


MAKE: dict[str, Callable[[Engine], Any]] = {
    "sessionmaker": lambda engine: scoped_session(sessionmaker(engine)),
    "a function": lambda engine: scoped_session(lambda: Session(engine)),
    "a scope of its own": lambda engine: scoped_session(sessionmaker(engine), scopefunc=lambda: 1),
    "an engine with options": lambda engine: scoped_session(
        sessionmaker(engine.execution_options(isolation_level="SERIALIZABLE"))
    ),
}


@pytest.mark.parametrize("make", list(MAKE.values()), ids=list(MAKE))
@pytest.mark.parametrize("status", [201, 500])
def test_plain_scoped_sessions_join(engine: Engine, make: Any, status: int) -> None:
    sessions = make(engine)
    counter = Counter(sessions)

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        sessions.remove()
        sessions.add(Line(item="b"))
        sessions.commit()
        return "answer", status

    assert counter.ask(view).status_code == status
    assert lines(engine) == (["a", "b"] if status == 201 else [])


@pytest.mark.parametrize("status", [201, 500])
def test_a_session_that_the_view_makes_with_options_of_its_own_joins(engine: Engine, status: int) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.remove()
        session = sessions(autoflush=False, expire_on_commit=False)
        assert session.autoflush is False
        session.add(Line(item="a"))
        session.commit()
        return "answer", status

    assert Counter(sessions).ask(view).status_code == status
    assert lines(engine) == (["a"] if status == 201 else [])


@pytest.mark.parametrize("status", [201, 500])
def test_blocks_of_a_session_join(engine: Engine, status: int) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        with sessions.begin():
            sessions.add(Line(item="a"))
        with sessions.begin(), sessions.begin_nested():
            sessions.add(Line(item="b"))
            with sessions.begin_nested() as innermost:
                sessions.add(Line(item="undone"))
                innermost.rollback()
        with suppress(ZeroDivisionError), sessions.begin():
            sessions.add(Line(item="undone, too"))
            raise ZeroDivisionError
        sessions.close()
        sessions.execute(text("INSERT INTO session_lines (id, item) VALUES (99, 'c')"))
        sessions.connection().execute(text("INSERT INTO session_lines (id, item) VALUES (98, 'd')"))
        sessions.commit()
        return "answer", status

    assert Counter(sessions).ask(view).status_code == status
    assert lines(engine) == (["a", "b", "c", "d"] if status == 201 else [])


def test_a_view_that_commits_its_connection_is_stopped_before_it_does(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    reached = []

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.flush()
        reached.append("before")
        sessions.connection().commit()
        reached.append("after")
        return "answer", 201

    assert Counter(sessions).ask(view).status_code == 500
    assert reached == ["before"]
    assert lines(engine) == []


def test_a_view_that_rolls_its_connection_back_leaves_nothing(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        sessions.connection().get_transaction().rollback()  # the outermost one
        return "answer", 201

    counter = Counter(sessions)
    assert counter.ask(view).status_code == 500
    assert lines(engine) == []


def test_other_connections_of_the_engine_commit_as_ever(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("on SQLite the view's transaction keeps every other from writing")
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.execute(select(Line))
        with engine.begin() as other:
            other.execute(text("INSERT INTO session_lines (id, item) VALUES (99, 'another connection')"))
        with Session(engine) as session:
            session.add(Line(item="another session"))
            session.commit()
        return "answer", 500

    assert Counter(sessions).ask(view).status_code == 500
    assert lines(engine) == ["another connection", "another session"]


def test_an_engine_without_transactions_is_refused_and_nothing_is_done(postgresql_url: str, mariadb_url: str) -> None:
    for url in (postgresql_url, mariadb_url):
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        renew(engine)
        sessions = scoped_session(sessionmaker(engine))
        counter = Counter(sessions)
        counter.app.config["PROPAGATE_EXCEPTIONS"] = True

        def view(sessions: Any = sessions) -> Any:
            sessions.add(Line(item="a"))
            sessions.commit()
            return "answer", 201

        with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            counter.ask(view)
        assert lines(engine) == []
        engine.dispose()


def test_an_engine_without_transactions_of_the_driver_serves_on_sqlite(tmp_path: Any) -> None:
    """There, the library begins itself."""
    engine = create_engine(f"sqlite:///{tmp_path / 'lines.db'}", isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(engine)
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        return "answer", 500

    assert Counter(sessions).ask(view).status_code == 500
    assert lines(engine) == []


@pytest.mark.parametrize("autocommit", [True, False])
def test_an_engine_with_the_newer_transaction_control_of_sqlite_is_refused_in_words(
    tmp_path: Any, autocommit: bool
) -> None:
    """As Python 3.12 and later can make it: a commit of the driver's would be none, or not ours."""

    class Newer(sqlite3.Connection):
        pass

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "lines.db", factory=Newer)
        connection.autocommit = autocommit  # type: ignore[attr-defined,unused-ignore]
        return connection

    engine = create_engine(f"sqlite:///{tmp_path / 'lines.db'}", creator=connect)
    renew(engine)
    sessions = scoped_session(sessionmaker(engine))
    counter = Counter(sessions)
    counter.app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(RuntimeError, match="autocommit"):
        counter.ask(lambda: "never")
    engine.dispose()


def test_a_view_that_wants_another_isolation_level_for_its_transaction_hears_that_it_cannot(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        sessions.add(Line(item="a"))
        sessions.commit()
        return "answer", 201

    assert Counter(sessions).ask(view).status_code == 500
    assert lines(engine) == []


def test_sessions_that_are_bound_to_no_engine_are_refused_in_words() -> None:
    counter = Counter(scoped_session(sessionmaker()))
    counter.app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(RuntimeError, match="bound to an Engine"):
        counter.ask(lambda: "never")


def test_a_session_is_left_as_it_was_found(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    counter = Counter(sessions)
    seen: list[Session] = []

    def view() -> Any:
        seen.append(sessions())
        assert sessions().join_transaction_mode == "create_savepoint"
        return "answer", 201

    with counter.app.app_context():
        before = sessions()
        assert counter.ask(view).status_code == 201
    assert seen == [before]
    assert "get_bind" not in vars(before)
    assert before.join_transaction_mode == "conditional_savepoint"


def test_where_one_session_cannot_be_let_go_the_others_are(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    made: list[Session] = []

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    def view() -> Any:
        for item in ("a", "b", "c"):
            made.append(session := sessions())
            session.add(Line(item=item))
            session.commit()
            session.add(Line(item="not committed"))
            session.flush()
            event.listen(session, "after_soft_rollback", fail)
            sessions.registry.clear()  # forgotten, not closed
        return "answer", 201

    assert Counter(sessions).ask(view).status_code == 500
    assert ["get_bind" in vars(session) for session in made] == [False] * 3
    assert lines(engine) == []
    assert Counter(scoped_session(sessionmaker(engine))).ask(lambda: ("answer", 201)).status_code == 201


def test_an_asynchronous_view_joins(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    for status, expected in ((500, []), (201, ["a"])):
        counter = Counter(sessions)

        async def view(status: int = status) -> Any:
            sessions.add(Line(item="a"))
            sessions.commit()
            sessions.remove()
            return "answer", status

        assert counter.ask(view).status_code == status
        assert lines(engine) == expected


def test_flask_sqlalchemy_removes_its_session_after_us_whatever_the_order_of_the_extensions(database_url: str) -> None:
    """Its teardown meets a session that is its own again."""
    shop = Shop(database_url, MemoryStore())  # Idempotency first, then the database
    seen: list[Session] = []

    def view() -> Any:
        seen.append(shop.db.session())
        shop.db.session.add(shop.Order(item="a"))
        shop.db.session.commit()
        return "answer", 201

    @shop.app.teardown_request
    def use_session(error: Any) -> None:
        assert "get_bind" not in vars(seen[0])
        shop.db.session.add(shop.Order(item="from a teardown"))
        shop.db.session.commit()

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).status_code == 201
    assert shop.items() == ["a", "from a teardown"]
    with shop.app.app_context():
        assert shop.db.session() is not seen[0]


def test_one_connection_is_enough_though_an_earlier_hook_has_used_it(database_url: str) -> None:
    options = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    store = DyingStore()
    shop = Shop(database_url, store, engine_options=options)

    @shop.app.before_request
    def look() -> None:
        shop.db.session.query(shop.Order).count()

    def view() -> Any:
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    store.dead = True
    assert client.post("/orders", headers=KEY).status_code == 201
    store.die()
    again = client.post("/orders", headers=KEY)  # which looks for the proof
    assert (again.status_code, again.headers.get("Idempotent-Replayed")) == (201, "true")
    assert shop.items() == ["book"]


def test_an_after_request_hook_commits_for_itself(database_url: str) -> None:
    shop = Shop(database_url, MemoryStore())

    @shop.app.after_request
    def log(response: Any) -> Any:
        shop.db.session.add(shop.Order(item=f"log {response.status_code}"))
        shop.db.session.commit()
        return response

    def view() -> Any:
        shop.db.session.add(shop.Order(item="undone"))
        shop.db.session.commit()
        return "answer", 500

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    shop.app.test_client().post("/orders", headers=KEY)
    assert shop.items() == ["log 500"]


def test_another_bind_does_not_join(database_url: str, tmp_path: Any) -> None:
    """As documented: what goes to a second database stands by itself."""
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    shop = Shop(database_url, MemoryStore(), config={"SQLALCHEMY_BINDS": {"elsewhere": elsewhere}})
    with shop.app.app_context():
        other = shop.db.engines["elsewhere"]
        with other.begin() as connection:
            connection.execute(text("CREATE TABLE notes (text VARCHAR(10))"))

    def view() -> Any:
        shop.db.session.add(shop.Order(item="here"))
        shop.db.session.execute(text("INSERT INTO notes VALUES ('there')"), bind_arguments={"bind": other})
        shop.db.session.commit()
        return "answer", 500

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert shop.app.test_client().post("/orders", headers=KEY).status_code == 500
    assert shop.items() == []
    with other.connect() as connection:
        assert list(connection.execute(text("SELECT * FROM notes")).scalars()) == ["there"]
    other.dispose()


def by_an_engine_of_the_request(sessions: Any, engine: Engine, options: dict[str, Any]) -> None:
    sessions.remove()
    sessions(bind=engine.execution_options(**options))


def by_the_connection(sessions: Any, engine: Engine, options: dict[str, Any]) -> None:
    sessions.connection(execution_options=options)


@pytest.mark.parametrize("choose", [by_an_engine_of_the_request, by_the_connection])
@pytest.mark.parametrize("status", [201, 500])
def test_each_request_can_turn_to_the_schema_of_a_tenant(postgresql_url: str, choose: Any, status: int) -> None:
    engine = create_engine(postgresql_url)
    renew(engine)
    tenants = ["tenant_a", "tenant_b"]
    for tenant in tenants:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {tenant} CASCADE"))
            connection.execute(text(f"CREATE SCHEMA {tenant}"))
        Base.metadata.create_all(engine.execution_options(schema_translate_map={None: tenant}))
    sessions = scoped_session(sessionmaker(engine))
    counter = Counter(sessions)

    @counter.app.before_request
    def turn() -> None:
        if choose is by_an_engine_of_the_request and request.args["tenant"]:
            choose(sessions, engine, {"schema_translate_map": {None: request.args["tenant"]}})

    def view() -> Any:
        if choose is by_the_connection and request.args["tenant"]:
            choose(sessions, engine, {"schema_translate_map": {None: request.args["tenant"]}})
        sessions.add(Line(item=request.args["tenant"]))
        sessions.commit()
        return "answer", status

    counter.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = counter.app.test_client()
    for tenant in tenants:
        heard = client.post(f"/orders?tenant={tenant}", headers={"Idempotency-Key": tenant})
        assert heard.status_code == status
        found = lines(engine.execution_options(schema_translate_map={None: tenant}))
        assert found == ([tenant] if status == 201 else [])
    assert client.post("/orders?tenant=", headers=KEY).status_code == status  # in nobody's
    assert lines(engine) == ([""] if status == 201 else [])
    with engine.connect() as connection:  # in one place
        proofs = connection.execute(proof_table(MetaData()).select()).all()
    assert len(proofs) == (3 if status == 201 else 0)
    engine.dispose()


def test_sessions_that_want_different_options_of_one_connection_are_refused(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))

    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        sessions.remove()
        sessions(bind=engine.execution_options(tenant="another"))
        sessions.add(Line(item="b"))
        sessions.commit()
        return "answer", 201

    assert Counter(sessions).ask(view).status_code == 500
    assert lines(engine) == []


def test_what_was_loaded_before_the_view_can_be_changed_in_it(database_url: str) -> None:
    """The signed-in user, say."""
    shop = Shop(database_url, MemoryStore())
    with shop.app.app_context():
        shop.db.session.add(shop.Order(id=1, item="loaded"))
        shop.db.session.commit()
    loaded: list[Any] = []
    shop.app.before_request(lambda: loaded.append(shop.db.session.get(shop.Order, 1)))

    def view() -> Any:
        loaded[-1].item = "changed"
        shop.db.session.commit()
        return loaded[-1].item, request.get_json()["status"]

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = shop.app.test_client()
    assert client.post("/orders", headers=KEY, json={"status": 500}).status_code == 500
    assert shop.items() == ["loaded"]
    assert client.post("/orders", headers=KEY, json={"status": 201}).data == b"changed"
    assert shop.items() == ["changed"]


def test_each_request_of_a_thread_has_a_transaction_of_its_own(engine: Engine) -> None:
    """A thread's session outlives the request where nobody removes it."""
    sessions = scoped_session(sessionmaker(engine))
    app = Flask(__name__)
    Idempotency(app, store=MemoryStore(), policy=Policy(atomic=True), session=sessions)

    def view() -> Any:
        wanted = request.get_json()
        sessions.add(Line(item=wanted["item"]))
        sessions.commit()
        return "answer", wanted["status"]

    app.add_url_rule("/orders", "orders", view, methods=["POST"])
    client = app.test_client()
    for number, status in enumerate((201, 500, 201)):
        wanted = {"item": str(number), "status": status}
        answer = client.post("/orders", headers={"Idempotency-Key": str(number)}, json=wanted)
        assert answer.status_code == status
    sessions.remove()
    assert lines(engine) == ["0", "2"]


def test_views_of_blueprints_and_decorated_ones_join(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    counter = Counter(sessions, atomic=False)
    blueprint = Blueprint("shop", __name__)

    @blueprint.post("/lines")
    @counter.idempotency.view(atomic=True)
    def view() -> Any:
        sessions.add(Line(item="a"))
        sessions.commit()
        return "answer", 500

    counter.app.register_blueprint(blueprint)
    assert counter.app.test_client().post("/lines", headers=KEY).status_code == 500
    assert lines(engine) == []


@pytest.mark.parametrize("status", [201, 500])
def test_a_view_that_is_asked_by_another_has_a_transaction_of_its_own(database_url: str, status: int) -> None:
    """Flask gives both requests one session. SQLite, with its one writer, refuses the inner one."""
    writers = 1 if database_url.startswith("sqlite") else 2
    shop = Shop(database_url, MemoryStore(), engine_options={} if writers == 2 else {"connect_args": {"timeout": 0.1}})
    client = shop.app.test_client

    def order(item: str) -> None:
        shop.db.session.add(shop.Order(item=item))
        shop.db.session.commit()

    def inner() -> Any:
        order("inner")
        return "answer", 201

    def outer() -> Any:
        order("before")
        asked = client().post("/inner", headers={"Idempotency-Key": "inner-1"})
        assert asked.status_code == (201 if writers == 2 else 503)
        order("after")
        return "answer", status

    shop.app.add_url_rule("/inner", "inner", inner, methods=["POST"])
    shop.app.add_url_rule("/orders", "orders", outer, methods=["POST"])
    assert client().post("/orders", headers=KEY).status_code == status
    stand = ["inner"] * (writers - 1) + (["after", "before"] if status == 201 else [])
    assert shop.items() == sorted(stand)
