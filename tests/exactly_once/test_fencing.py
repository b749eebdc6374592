"""An attempt that another took over from leaves nothing behind, however it ends; one that ended is not lost."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from flask import Response

from tests.exactly_once.dying import DyingStore
from tests.exactly_once.shop import Shop

KEY = {"Idempotency-Key": "order-1"}

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.fixture
def store() -> DyingStore:
    return DyingStore()


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with more than one writer."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def ask(shop: Shop) -> Any:
    return shop.app.test_client().post("/orders", headers=KEY)


def kind(answer: Any) -> str:
    return str(answer.json["type"]).rpartition("#")[2]


class Sleeper:
    """A view whose first run sleeps until others have gone as far as they shall; each run orders, and ends its way."""

    def __init__(self, shop: Shop, store: DyingStore, *, first: int, second: int, second_waits: bool) -> None:
        self.shop, self.store = shop, store
        self.statuses = [first, second]
        self.second_waits = second_waits
        self.second_runs, self.first_has_ended = Event(), Event()
        self.second: Future[Any] | None = None
        self.pool = ThreadPoolExecutor(1)
        self.runs = 0
        shop.app.add_url_rule("/orders", "orders", lambda: self.view(), methods=["POST"])

    def view(self) -> Any:
        self.runs += 1
        run = 1 if self.second is None else 2
        self.shop.db.session.add(self.shop.Order(item=f"run {run}"))
        self.shop.db.session.commit()
        if run == 1:
            self.store.let_leases_end()
            self.second = self.pool.submit(ask, self.shop)
            assert self.second_runs.wait(60)
            if not self.second_waits:
                self.second.result(60)
        else:
            self.second_runs.set()
            if self.second_waits:
                assert self.first_has_ended.wait(60)
        return f"run {run}", self.statuses[run - 1]

    def hear(self) -> tuple[Any, Any]:
        """What the first and the second hear."""
        first = ask(self.shop)
        self.first_has_ended.set()
        assert self.second is not None
        second = self.second.result(60)
        self.pool.shutdown()
        return first, second


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("first", "second"), [(201, 201), (402, 201), (201, 402), (402, 402)])
def test_whoever_was_taken_over_from_leaves_nothing_while_the_other_runs(
    server_url: str, store: DyingStore, level: str, first: int, second: int
) -> None:
    options = {"isolation_level": level}
    shop = Shop(server_url, store, engine_options=options, lease=60.0, on_conflict="rerun")
    sleeper = Sleeper(shop, store, first=first, second=second, second_waits=True)
    lost, won = sleeper.hear()
    assert (lost.status_code, kind(lost), lost.headers["Retry-After"]) == (409, "claim-lost", "1")
    assert (won.status_code, won.text) == (second, "run 2")
    assert (shop.items(), shop.kinds()) == (["run 2"], ["done" if second == 201 else "released"])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("first", [201, 402])
@pytest.mark.parametrize("second_waits", [True, False])
def test_one_that_has_taken_over_itself_is_taken_over_from_like_the_first(
    server_url: str, store: DyingStore, level: str, first: int, second_waits: bool
) -> None:
    """It holds a row; at REPEATABLE READ, PostgreSQL says of that no more than that it has changed."""
    options = {"isolation_level": level}
    shop = Shop(server_url, store, engine_options=options, lease=60.0, on_conflict="rerun")
    sleeper = Sleeper(shop, store, first=first, second=402, second_waits=second_waits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleeper, "view", lambda: ("fails", 500))
        assert ask(shop).status_code == 500
    lost, won = sleeper.hear()
    assert (lost.status_code, kind(lost), won.status_code) == (409, "claim-lost", 402)
    assert sleeper.runs == 2
    assert (shop.items(), shop.kinds()) == (["run 2"], ["released"])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("first", [201, 402])
def test_whoever_was_taken_over_from_leaves_nothing_once_the_other_was_not_kept(
    server_url: str, store: DyingStore, level: str, first: int
) -> None:
    options = {"isolation_level": level}
    shop = Shop(server_url, store, engine_options=options, lease=60.0, on_conflict="rerun")
    lost, won = Sleeper(shop, store, first=first, second=402, second_waits=False).hear()
    assert (lost.status_code, kind(lost), won.status_code) == (409, "claim-lost", 402)
    assert (shop.items(), shop.kinds()) == (["run 2"], ["released"])


@pytest.mark.parametrize("first", [201, 402])
def test_whoever_was_taken_over_from_answers_with_what_the_other_has_done(
    server_url: str, store: DyingStore, first: int
) -> None:
    shop = Shop(server_url, store, lease=60.0)
    late, won = Sleeper(shop, store, first=first, second=201, second_waits=False).hear()
    assert [(each.status_code, each.text) for each in (late, won)] == [(201, "run 2")] * 2
    assert (shop.items(), shop.kinds()) == (["run 2"], ["done"])


@pytest.mark.parametrize("first", [201, 402])
def test_an_attempt_whose_second_holder_takes_it_up_itself_is_not_fenced_by_itself(
    database_url: str, store: DyingStore, first: int
) -> None:
    """The second attempt holds the row; the third, after its failure, takes it."""
    shop = Shop(database_url, store)
    statuses = [500, 500, first, 201]
    numbers: list[int] = []

    def view() -> Any:
        attempt = shop.idempotency.attempt
        assert attempt is not None
        numbers.append(attempt.number)
        shop.db.session.add(shop.Order(item=f"run {attempt.number}"))
        shop.db.session.commit()
        return "answer", statuses.pop(0)

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    heard = [ask(shop).status_code for _ in range(4)]
    assert heard == [500, 500, first, 201]
    assert numbers == ([1, 2, 3] if first == 201 else [1, 2, 3, 4])
    assert shop.items() == [f"run {number}" for number in numbers[2:]]


def test_what_ended_before_its_process_died_is_not_taken_for_lost(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store, lease=60.0, on_lapse="refuse")
    seen: list[tuple[int, bool]] = []

    def view() -> Any:
        attempt = shop.idempotency.attempt
        assert attempt is not None
        seen.append((attempt.number, attempt.lapsed))
        shop.db.session.add(shop.Order(item="declined"))
        shop.db.session.commit()
        return "no", 402

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    store.dead = True
    assert ask(shop).status_code == 402
    assert shop.kinds() == ["released"]
    store.die()
    assert ask(shop).status_code == 402
    assert seen == [(1, False), (2, False)]
    assert shop.items() == ["declined"] * 2


def test_what_died_before_its_end_is_seen_to_have_lapsed(database_url: str, store: DyingStore) -> None:
    shop = Shop(database_url, store, lease=60.0)
    shop.app.config["PROPAGATE_EXCEPTIONS"] = False
    seen: list[bool] = []

    class Killed(BaseException):
        pass

    def view() -> Any:
        attempt = shop.idempotency.attempt
        assert attempt is not None
        seen.append(attempt.lapsed)
        shop.db.session.add(shop.Order(item="book"))
        shop.db.session.commit()
        if len(seen) == 1:
            raise Killed
        return "answer", 201

    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    store.dead = True
    with pytest.raises(Killed):
        ask(shop)
    store.die()
    assert ask(shop).status_code == 201
    assert seen == [False, True]
    assert (shop.items(), shop.kinds()) == (["book"], ["done"])


def test_where_the_store_has_lost_its_records_the_rows_still_tell_attempts_apart(
    database_url: str, store: DyingStore
) -> None:
    shop = Shop(database_url, store)
    shop.app.add_url_rule("/orders", "orders", lambda: ("no", 402), methods=["POST"])
    assert ask(shop).status_code == 402
    store._records.clear()
    refused = ask(shop)  # for all that is known now, the row may be that of one that took over
    assert (refused.status_code, kind(refused)) == (409, "claim-lost")
    assert ask(shop).status_code == 402


@pytest.mark.parametrize("end", [lambda: Response(iter(["n", "o"]), 402), lambda: ("no", 402)])
def test_a_hook_that_raises_comes_after_the_commit_of_what_is_not_kept_too(
    database_url: str, store: DyingStore, end: Callable[[], Any]
) -> None:
    shop = Shop(database_url, store)
    raised: list[None] = []

    def spoil(response: Any) -> Any:
        if not raised:
            raised.append(None)
            raise ValueError
        return response

    def view() -> Any:
        shop.db.session.add(shop.Order(item="declined"))
        shop.db.session.commit()
        return end()

    shop.app.after_request(spoil)
    shop.app.add_url_rule("/orders", "orders", view, methods=["POST"])
    assert ask(shop).status_code == 500
    assert (shop.items(), shop.kinds()) == (["declined"], ["released"])
    assert ask(shop).status_code == 402  # the key was given back
    assert shop.items() == ["declined"] * 2
