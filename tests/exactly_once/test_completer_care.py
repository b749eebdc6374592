"""What the completer must never do: work twice, work without a key, work on what is new again, or stop at one."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Table, select, text, update

from flask_idempotency import Idempotency, Policy
from flask_idempotency.engine.records import Claim
from flask_idempotency.exactly_once import request_table
from tests.exactly_once.abandoning import LEASE
from tests.exactly_once.dying import DyingStore
from tests.exactly_once.test_completer import die_in_mid_handler, make

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs, and nothing is released."""


class UnreleasingStore(DyingStore):
    """Gives nothing back while `dead`."""

    def release(self, claim: Claim, *, retention: float) -> bool:
        return True if self.dead else super().release(claim, retention=retention)


class Left:
    """An app whose one view logs each run, and requests that were left by attempts that died in it."""

    def __init__(self, tmp_path: Path, view: Callable[[], Any] | None = None, **policy: Any) -> None:
        self.store = UnreleasingStore()
        self.path = tmp_path / "kept.db"
        self.answer: Callable[[], Any] = view or (lambda: ("done", 201))
        self.runs: list[str] = []
        self.app = self.make(**policy)

    def make(self, *, rule: str | None = "/orders", exempt: bool = False, login_as: Any = None, **policy: Any) -> Flask:
        app = Flask(__name__)
        app.config.update(SQLALCHEMY_DATABASE_URI=f"sqlite:///{self.path}", SECRET_KEY="secret")
        options = {"keep_request": True, "completable": True} | policy
        self.idempotency = idempotency = Idempotency(app, store=self.store, login_as=login_as, policy=Policy(**options))
        self.db = SQLAlchemy(app)

        def view() -> Any:
            self.runs.append(request.get_json()["item"])
            return self.answer()

        if rule is not None:
            app.add_url_rule(rule, "orders", idempotency.exempt(view) if exempt else view, methods=["POST"])
        self.app = app
        with app.app_context():
            self.table: Table = request_table(self.db.metadata)
        return app

    def leave(self, key: str = "k", **more: Any) -> None:
        answer, self.answer = self.answer, self.die
        self.app.config["PROPAGATE_EXCEPTIONS"] = True
        self.store.dead = True
        with pytest.raises(Killed):
            self.ask(key, **more)
        self.store.die()
        self.answer = answer
        self.runs.clear()
        self.change(due_at=0)

    def die(self) -> Any:
        raise Killed

    def ask(self, key: str = "k", **more: Any) -> Any:
        client = self.app.test_client()
        return client.post("/orders", json={"item": key}, headers={"Idempotency-Key": key}, **more)

    def change(self, **values: Any) -> None:
        with self.app.app_context(), self.db.engine.begin() as connection:
            connection.execute(update(self.table).values(values))

    def rows(self) -> int:
        with self.app.app_context(), self.db.engine.connect() as connection:
            return len(connection.execute(select(self.table)).all())

    def complete(self, *options: str) -> tuple[int, list[str]]:
        self.app.config["PROPAGATE_EXCEPTIONS"] = False
        done = self.app.test_cli_runner().invoke(args=["idempotency", "complete", *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output.splitlines()


DONE = (0, ["1 completed, 0 in progress or refused, 0 failed"])


@pytest.mark.parametrize("required", [True, False])
def test_it_works_under_the_key_where_none_is_required_too(tmp_path: Path, required: bool) -> None:
    left = Left(tmp_path, required=required)
    left.leave()
    assert left.complete() == DONE
    assert left.ask().headers["Idempotent-Replayed"] == "true"
    assert left.runs == ["k"]


def test_two_processes_at_the_same_time_finish_it_once(database_url: str, tmp_path: Path) -> None:
    place = database_url, str(tmp_path / "idempotency.db")
    shop = make(*place, fresh=True)
    with shop.app.app_context():
        table = request_table(shop.db.metadata)
        table.drop(shop.db.engine, checkfirst=True)
    die_in_mid_handler(place)
    with shop.app.app_context(), shop.db.engine.begin() as connection:
        connection.execute(update(table).values(due_at=0))
    time.sleep(LEASE * 1.5)
    command = [sys.executable, "-m", "tests.exactly_once.completing", *place]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines()[0] for process in both]
    rest = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert shop.items() == ["book for ada"], (said, rest.stdout)
    assert [process.returncode for process in both] == [0, 0], said


def test_one_that_another_completer_is_at_is_left_to_it(tmp_path: Path) -> None:
    left = Left(tmp_path)
    heard: list[Any] = []

    def answer() -> Any:
        if len(left.runs) == 1:
            left.change(due_at=0)
            heard.append(left.complete())
        return "done", 201

    left.answer = answer
    left.leave()
    assert left.complete() == DONE
    assert heard == [(0, ["0 completed, 1 in progress or refused, 0 failed"])]
    assert left.runs == ["k"]
    assert left.rows() == 0


def test_where_the_view_was_removed_it_fails_and_stays(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave()
    left.make(rule=None)
    assert left.complete() == (1, ["0 completed, 0 in progress or refused, 1 failed", "  1 answered with 404"])
    assert left.rows() == 1


@pytest.mark.parametrize("changed", [{"exempt": True}, {"methods": ("PATCH",)}])
def test_where_no_key_is_in_force_any_more_it_does_not_run(tmp_path: Path, changed: dict[str, Any]) -> None:
    left = Left(tmp_path)
    left.leave()
    left.make(**changed).register_error_handler(Exception, lambda error: ("handled", 200))
    for _ in range(2):
        left.change(due_at=0)
        exit_code, lines = left.complete()
        assert (exit_code, lines[0]) == (1, "0 completed, 0 in progress or refused, 1 failed")
        assert "no key is in force" in lines[1]
    assert left.runs == []
    assert left.rows() == 1


def test_what_may_be_new_again_by_now_is_forgotten(tmp_path: Path) -> None:
    left = Left(tmp_path, retention=3600, lease=30)
    left.leave()
    with left.app.app_context(), left.db.engine.connect() as connection:
        expires = connection.execute(select(left.table.c.expires_at)).scalar_one()
    assert expires < time.time() + 3600 - 29  # a lease before the record could be gone
    left.change(expires_at=1)
    left.store._records.clear()
    assert left.complete() == (0, ["0 completed, 0 in progress or refused, 0 failed"])
    assert left.runs == []
    assert left.rows() == 0


def test_one_that_fails_again_and_again_lets_others_go_first(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave("bad")
    left.leave("good")
    left.answer = lambda: ("no", 500) if request.get_json()["item"] == "bad" else ("done", 201)
    assert left.complete("--limit", "1")[0] == 1
    assert left.complete("--limit", "1") == DONE
    assert left.runs == ["bad", "good"]
    assert left.complete() == (0, ["0 completed, 0 in progress or refused, 0 failed"])  # not before a lease is over
    left.change(due_at=0)
    assert left.complete()[0] == 1
    assert left.runs == ["bad", "good", "bad"]


def test_one_that_fails_does_not_stop_the_others_in_debug_mode_either(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave("bad")
    left.leave("good")
    left.app.debug = True

    def answer() -> Any:
        if request.get_json()["item"] == "bad":
            raise ZeroDivisionError
        return "done", 201

    left.answer = answer
    left.app.config["PROPAGATE_EXCEPTIONS"] = None
    done = left.app.test_cli_runner().invoke(args=["idempotency", "complete"])
    assert done.exit_code == 1
    assert done.output.splitlines() == ["1 completed, 0 in progress or refused, 1 failed", "  1 answered with 500"]
    assert left.rows() == 1


def test_without_a_database_the_command_says_what_is_missing() -> None:
    app = Flask(__name__)
    Idempotency(app, store=DyingStore())
    done = app.test_cli_runner().invoke(args=["idempotency", "complete"])
    assert done.exit_code == 1
    assert "need Flask-SQLAlchemy" in done.output
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


def test_an_error_that_is_an_answer_by_policy_is_one(tmp_path: Path) -> None:
    left = Left(tmp_path, keep="all")
    left.leave()
    left.answer = lambda: ("no", 500)
    assert left.complete() == DONE
    assert left.rows() == 0
    assert left.ask().status_code == 500
    assert left.runs == ["k"]


def test_a_page_that_a_hook_answers_with_instead_is_none(tmp_path: Path) -> None:
    """Maintenance, say, or a login form."""
    left = Left(tmp_path)
    left.leave()
    left.make().before_request(lambda: "down for maintenance")
    assert left.complete() == (1, ["0 completed, 0 in progress or refused, 1 failed", "  1 answered with 200"])
    assert left.runs == []
    assert left.rows() == 1


def test_a_conflict_of_the_applications_own_is_a_failure(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave()
    left.answer = lambda: abort(409)
    assert left.complete()[1] == ["0 completed, 0 in progress or refused, 1 failed", "  1 answered with 409"]


def test_an_unknown_outcome_is_left_to_a_person(tmp_path: Path) -> None:
    left = Left(tmp_path, on_lapse="refuse")
    left.leave()
    assert left.complete() == (0, ["0 completed, 1 in progress or refused, 0 failed"])
    assert left.runs == []
    assert left.rows() == 1


def test_what_was_done_without_an_answer_that_could_be_kept_is_done(tmp_path: Path) -> None:
    left = Left(tmp_path, max_response_bytes=3)
    left.leave()
    with left.app.app_context(), left.db.engine.connect() as connection:
        row = dict(connection.execute(select(left.table)).mappings().one())
    assert left.ask().status_code == 201  # done; then its process dies before it forgets the request
    with left.app.app_context(), left.db.engine.begin() as connection:
        connection.execute(left.table.insert().values(row))
    assert left.complete() == DONE
    assert left.runs == ["k"]
    assert left.rows() == 0


def test_it_enters_by_the_same_address(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave(base_url="https://shop.example/")
    seen: list[tuple[str, str, str]] = []

    def answer() -> Any:
        seen.append((request.url, request.headers["Idempotency-Key"], request.headers["Content-Type"]))
        return "done", 201

    left.answer = answer
    assert left.complete() == DONE
    assert seen == [("https://shop.example/orders", "k", "application/json")]


def test_middleware_that_hands_on_a_copy_of_the_environ_does_not_hide_what_became_of_it(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.leave()
    inner = left.app.wsgi_app
    left.app.wsgi_app = lambda environ, start: inner(dict(environ), start)  # type: ignore[method-assign]
    assert left.complete() == DONE


def test_a_request_that_cannot_be_forgotten_is_answered_all_the_same(tmp_path: Path) -> None:
    left = Left(tmp_path)

    def answer() -> Any:
        with left.db.engine.begin() as connection:
            connection.execute(text("ALTER TABLE idempotency_requests RENAME TO gone"))
        return "done", 201

    left.answer = answer
    assert left.ask().status_code == 201
    with left.app.app_context(), left.db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO idempotency_requests"))
    assert left.rows() == 1
    left.change(due_at=0)
    assert left.complete() == DONE  # it hears the answer
    assert len(left.runs) == 1
    assert left.rows() == 0


def test_a_request_takes_the_place_of_an_older_one_under_its_key(tmp_path: Path) -> None:
    """After the retention, say: what is finished is what was asked last."""
    left = Left(tmp_path)
    left.leave()
    left.store._records.clear()
    with left.app.app_context(), left.db.engine.begin() as connection:
        connection.execute(update(left.table).values(request=b"an older one"))
    left.leave()
    assert left.rows() == 1
    assert left.complete() == DONE


def test_a_context_that_is_no_json_gives_the_key_back(tmp_path: Path) -> None:
    left = Left(tmp_path, keep_request=lambda: object())
    left.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert [left.ask().status_code for _ in range(2)] == [500, 500]
    assert (left.runs, left.rows()) == ([], 0)


def test_nothing_left_is_nothing_done(tmp_path: Path) -> None:
    left = Left(tmp_path)
    assert left.complete() == (0, ["0 completed, 0 in progress or refused, 0 failed"])
