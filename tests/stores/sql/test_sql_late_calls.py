"""Calls that arrive late, twice, or that nobody heard of: what they may touch, and what they must leave alone."""

import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, cast

import pytest
from sqlalchemy import create_engine, event, make_url, text

from flask_idempotency.engine.records import Claim, Claimed, Completed, InProgress, Lapsed, RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores import SQLAlchemyStore, sqlalchemy
from flask_idempotency.stores.sqlalchemy_dialects import statements_for
from flask_idempotency.testing.contract import DAY, FINGERPRINT, OTHER_FINGERPRINT, RESPONSE, new_record
from tests.proxies import Proxy, Trouble

from .moved_time import WithMovedTime
from .usual import USUAL

#: How often a call is tried.
TRIES = 6


class StoreOnMySQL(SQLAlchemyStore):
    """Speaks to MariaDB as it would to MySQL, which cannot return what it inserted or found."""

    def _open(self) -> Any:
        database, _ = super()._open()
        return database, statements_for("mysql", self.table.name, self.step_table.name, returning=False)


class TestWithoutReturning(WithMovedTime):
    @pytest.fixture(autouse=True)
    def on(self, mariadb_url: str) -> None:
        self.url = mariadb_url

    def open_store(self) -> SQLAlchemyStore:
        return StoreOnMySQL(self.url)


@pytest.fixture(params=["postgresql", "mariadb", "mysql", "sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[SQLAlchemyStore]:
    database = "mariadb" if request.param == "mysql" else request.param
    url = request.getfixturevalue(f"{database}_url")
    store = StoreOnMySQL(url) if request.param == "mysql" else SQLAlchemyStore(url)
    yield store
    store.close()


@pytest.fixture
def elsewhere(store: SQLAlchemyStore) -> Iterator[SQLAlchemyStore]:
    """The store of another process."""
    other = type(store)(store._given)
    yield other
    other.close()


def claim(store: SQLAlchemyStore, record: RecordKey, fingerprint: bytes = FINGERPRINT, **options: Any) -> Any:
    return store.claim(record, fingerprint, **USUAL | options)


def send_again(store: SQLAlchemyStore, sent: Claim, **options: Any) -> Any:
    """What the claim is told whose token was sent before."""
    store._unheard.remember(sent, DAY)
    return claim(store, sent.record, sent.fingerprint, **options)


class TestAClaimThatIsSentAgain:
    def test_recognises_itself(self, store: SQLAlchemyStore) -> None:
        first = claim(store, new_record())
        assert send_again(store, first.claim) == first

    def test_is_still_a_takeover_where_it_was_one(self, store: SQLAlchemyStore) -> None:
        claim(store, record := new_record(), lease=0.001)
        threading.Event().wait(0.01)
        taken = claim(store, record)
        assert (taken.number, taken.lapsed) == (2, True)
        assert send_again(store, taken.claim) == taken
        assert store.complete(taken.claim, RESPONSE, retention=DAY) is True

    @pytest.mark.parametrize("response", [RESPONSE, None], ids=["response", "tombstone"])
    def test_never_touches_what_it_completed_meanwhile(self, store: SQLAlchemyStore, response: Any) -> None:
        """A claim may lie in a network for longer than its request takes."""
        first = claim(store, record := new_record())
        store.complete(first.claim, response, retention=DAY)
        assert send_again(store, first.claim) == Completed(FINGERPRINT, response)
        assert claim(store, record) == Completed(FINGERPRINT, response)

    def test_never_touches_what_it_gave_back_meanwhile(
        self, store: SQLAlchemyStore, elsewhere: SQLAlchemyStore
    ) -> None:
        first = claim(store, record := new_record())
        store.release(first.claim, retention=DAY)
        next_holder = claim(elsewhere, record)
        assert isinstance(send_again(store, first.claim), InProgress)
        assert elsewhere.complete(next_holder.claim, RESPONSE, retention=DAY) is True

    def test_is_fenced_where_another_took_over(self, store: SQLAlchemyStore, elsewhere: SQLAlchemyStore) -> None:
        first = claim(store, record := new_record(), lease=0.001)
        threading.Event().wait(0.01)
        winner = claim(elsewhere, record)
        assert isinstance(send_again(store, first.claim), InProgress)
        assert elsewhere.complete(winner.claim, RESPONSE, retention=DAY) is True


class TestAClaimThatNobodyHeardOf:
    """It stands in the database, though the request that made it was refused."""

    def unheard(self, store: SQLAlchemyStore, fingerprint: bytes = FINGERPRINT) -> RecordKey:
        made = claim(store, new_record(), fingerprint, take_over=False)
        store._unheard.remember(made.claim, DAY)
        return cast(RecordKey, made.claim.record)

    @pytest.mark.parametrize("before", [FINGERPRINT, OTHER_FINGERPRINT], ids=["the same", "another payload"])
    def test_is_this_processes_own_when_the_client_asks_again(self, store: SQLAlchemyStore, before: bytes) -> None:
        record = self.unheard(store, before)
        outcome = claim(store, record, take_over=False)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)
        assert isinstance(claim(store, record, take_over=False), InProgress)
        assert store.complete(outcome.claim, RESPONSE, retention=DAY) is True
        assert claim(store, record) == Completed(FINGERPRINT, RESPONSE)

    def test_is_undone_with_the_next_heartbeat(self, store: SQLAlchemyStore, elsewhere: SQLAlchemyStore) -> None:
        record = self.unheard(store)
        assert isinstance(claim(elsewhere, record), InProgress)
        store.renew([], lease=60)
        outcome = claim(elsewhere, record, OTHER_FINGERPRINT)
        assert isinstance(outcome, Claimed)
        assert (outcome.number, outcome.lapsed) == (1, False)

    def test_is_undone_as_if_it_had_not_been(self, store: SQLAlchemyStore, elsewhere: SQLAlchemyStore) -> None:
        """What its holder did before it took over is as unknown as before; what was given back stays so."""
        lapsed, released = new_record(), new_record()
        claim(store, lapsed, lease=0.001)
        store.release(claim(store, released).claim, retention=DAY)
        threading.Event().wait(0.01)
        for record in (lapsed, released):
            store._unheard.remember(claim(store, record).claim, DAY)
        store.renew([], lease=60)
        store.renew([], lease=60)
        assert claim(elsewhere, lapsed, OTHER_FINGERPRINT) == Lapsed(FINGERPRINT)
        outcomes = [claim(elsewhere, record) for record in (lapsed, released)]
        assert [(outcome.number, outcome.lapsed) for outcome in outcomes] == [(2, True), (2, False)]

    def test_is_not_undone_under_whoever_runs_under_it(self, store: SQLAlchemyStore) -> None:
        """The heartbeat looks at it in the very moment in which its client asks again."""
        record = self.unheard(store)
        undone: list[Claim] = []
        undo, outcomes = store._undo, []

        def ask_again_first(unheard: Claim, retention: float) -> None:
            undone.append(unheard)
            outcomes.append(claim(store, record))
            undo(unheard, retention)

        store._undo = ask_again_first  # type: ignore[assignment, method-assign]
        store.renew([], lease=60)
        assert len(undone) == 1
        assert isinstance(outcomes[0], InProgress)

    def test_is_not_a_forked_childs_too(self, store: SQLAlchemyStore) -> None:
        record = self.unheard(store)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if isinstance(claim(store, record), InProgress) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert isinstance(claim(store, record), Claimed)

    @pytest.mark.parametrize("database", ["postgresql", "mariadb"])
    def test_every_lost_reply_makes_one(self, request: pytest.FixtureRequest, database: str) -> None:
        address = make_url(request.getfixturevalue(f"{database}_url"))
        with Proxy((str(address.host), int(address.port or 0))) as proxy:
            store = SQLAlchemyStore(address.set(port=proxy.port).render_as_string())
            claim(store, new_record())
            # A prepared statement is its values alone, in binary: the lease, here.
            mark = struct.pack("!d", 60.0) if database == "postgresql" else b"INSERT INTO idempotency_records"
            proxy.fail_next(Trouble.LOSE_REPLY, matching=mark, times=TRIES)
            with pytest.raises(StoreUnavailable):
                claim(store, record := new_record())
            assert len(proxy.struck) == TRIES
            proxy.restore()
            outcome = claim(store, record)
            assert (outcome.number, outcome.lapsed) == (1, False)
            store.close()


def test_a_claim_that_the_database_neither_takes_nor_shows_is_given_up(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy, what is looked up may come from a replica that will never have it."""
    monkeypatch.setattr(sqlalchemy, "PATIENCE", 0.2)
    store = SQLAlchemyStore(postgresql_url)
    claim(store, new_record())
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(
            text("CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        )
        connection.execute(
            text("CREATE TRIGGER undo BEFORE INSERT ON idempotency_records FOR EACH ROW EXECUTE FUNCTION undo()")
        )
        try:
            with pytest.raises(StoreUnavailable):
                pool.submit(claim, store, record := new_record()).result(20)
        finally:
            connection.execute(text("DROP FUNCTION undo CASCADE"))
    assert isinstance(claim(store, record), Claimed)
    store.close()
    engine.dispose()


def test_a_forked_child_has_connections_of_its_own(store: SQLAlchemyStore) -> None:
    held = claim(store, record := new_record())

    def work() -> bool:
        # A reply that another process asked for would be the answer to the wrong question.
        return all(
            store.complete(claim(store, mine).claim, RESPONSE, retention=DAY)
            and claim(store, mine) == Completed(FINGERPRINT, RESPONSE)
            and isinstance(claim(store, record), InProgress)
            for mine in [new_record() for _ in range(20)]
        )

    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if work() else 1)
        children.append(pid)
    assert work()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert store.complete(held.claim, RESPONSE, retention=DAY) is True


def test_a_purge_leaves_a_record_that_was_claimed_since_it_looked(
    store: SQLAlchemyStore, elsewhere: SQLAlchemyStore
) -> None:
    """What one statement selects and another deletes may be somebody's in between."""
    over = new_record()
    store.complete(claim(store, over).claim, RESPONSE, retention=0.001)
    claim(elsewhere, new_record())
    threading.Event().wait(0.01)
    claiming: list[Future[Any]] = []

    def claim_in_between(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "DELETE FROM" in statement and not claiming:
            claiming.append(pool.submit(claim, elsewhere, over))
            wait(claiming, 0.5)  # where the purge has locked the record, the claim comes after it

    assert store._engine is not None
    event.listen(store._engine, "before_cursor_execute", claim_in_between)
    with ThreadPoolExecutor(1) as pool:
        while store.purge(limit=1000):
            pass
        outcome = claiming[0].result(20)
    assert isinstance(outcome, Claimed)
    assert elsewhere.complete(outcome.claim, RESPONSE, retention=DAY) is True


def test_purges_claims_and_releases_do_not_deadlock(store: SQLAlchemyStore) -> None:
    """Eight threads churn few records while four purge them all the time; engines that are handed in included."""
    claim(store, new_record())
    given = SQLAlchemyStore(create_engine(store._given), create=False)
    records = [new_record() for _ in range(6)]
    done = threading.Event()
    # SQLite has one writer and no queue for it: a crowd that writes without a pause can starve one of its own.
    alone = store._given.startswith("sqlite")
    purgers, churners = (1, 2) if alone else (4, 8)

    def churn(number: int) -> int:
        mine, claimed = (store, given)[number % 2], 0
        for turn in range(60):
            outcome = claim(mine, records[(turn * 5 + number) % 6], lease=0.002, retention=0.002)
            if isinstance(outcome, Claimed):
                claimed += 1
                if turn % 2:
                    mine.release(outcome.claim, retention=DAY)
                else:
                    mine.complete(outcome.claim, RESPONSE, retention=0.002)
                mine.renew([outcome.claim], lease=0.002)
        return claimed

    def purge(number: int) -> None:
        while not done.is_set():
            (store, given)[number % 2].purge(limit=3)
            done.wait(0.02 if alone else 0)

    with ThreadPoolExecutor(12) as pool:
        purging = [pool.submit(purge, number) for number in range(purgers)]
        try:
            claimed = sum(pool.map(churn, range(churners)))
        finally:
            done.set()
        for each in purging:
            each.result(20)
    assert claimed > 8
    assert given._engine is not None
    given._engine.dispose()


def test_a_purge_uses_its_index(postgresql_url: str) -> None:
    """Every sixteenth claim pays for a purge: it must not look at all that is kept."""
    store = SQLAlchemyStore(postgresql_url)
    claim(store, new_record())
    _, statements = store._ready()
    assert store._engine is not None
    with store._engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        plan = connection.execute(text("EXPLAIN " + statements.purge[0]), {"limit": 32}).scalars().all()
        connection.execute(text("RESET enable_seqscan"))
    assert any("Index Cond: (expires_at <=" in line for line in plan), plan
    store.close()
