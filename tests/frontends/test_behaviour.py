"""The behaviour table, over hooks, decorator and middleware alike."""

import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from freezegun import freeze_time
from werkzeug.datastructures import FileStorage
from werkzeug.test import stream_encode_multipart

from flask_idempotency.engine.digests import digest
from flask_idempotency.engine.events import Event, Outcome
from flask_idempotency.engine.policy import Policy
from flask_idempotency.engine.records import RecordKey
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.http.principal import caller_of
from flask_idempotency.stores import EncryptedStore, MemoryStore
from tests.frontends.builders import FRONT_ENDS, NAMESPACE, Shop


@pytest.fixture(params=FRONT_ENDS)
def front_end(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def shop(front_end: str) -> Shop:
    return Shop(front_end)


@pytest.fixture
def clock() -> Iterator[Any]:
    with freeze_time("2026-11-24 12:00:00") as frozen:
        yield frozen


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_pass_untouched(shop: Shop, method: str) -> None:
    for _ in range(2):
        answer = shop.post(method=method)
        assert answer.status_code in (200, 201)
        assert "Idempotent-Replayed" not in answer.headers
    assert len(shop.runs) == (0 if method == "OPTIONS" else 2)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_repeat_hears_the_first_answer_to_the_byte(shop: Shop, method: str) -> None:
    first, again = (shop.post(method=method, data="a") for _ in range(2))
    assert first.status == again.status == "201 CREATED"
    assert first.data == again.data
    assert "Idempotent-Replayed" not in first.headers
    assert list(again.headers) == [*first.headers, ("Idempotent-Replayed", "true")]
    assert len(shop.runs) == 1


def test_the_quoted_and_the_bare_form_name_the_same_key(shop: Shop) -> None:
    assert shop.post(key="a-b").data == shop.post(key='"a-b"').data == shop.post(key=' "a-b" ').data
    assert len(shop.runs) == 1


def test_no_key_is_refused(shop: Shop) -> None:
    answer = shop.post(key=None)
    assert (answer.status_code, shop.slug(answer)) == (400, "idempotency-key-missing")
    assert shop.runs == []


def test_no_key_simply_runs_where_none_is_required(front_end: str) -> None:
    shop = Shop(front_end, required=False)
    assert [shop.post(key=None, data="a").json["body"] for _ in range(2)] == ["a", "a"]
    assert len(shop.runs) == 2
    assert [shop.post().status_code for _ in range(2)] == [201, 201]
    assert len(shop.runs) == 3


BAD_KEYS = {
    "empty": "",
    "blank": "  ",
    "quoted empty": '""',
    "256 characters": "k" * 256,
    "256 quoted": f'"{"k" * 256}"',
    "control": "a\x01b",
    "NUL": "a\x00b",
    "DEL": "a\x7fb",
    "tab": "a\tb",
    "non-ASCII": "caf\xe9",
    "quoted non-ASCII": '"caf\xe9"',
    "open quote": '"abc',
    "closing quote": 'abc"',
    "quote within": 'a"b',
    "bad escape": '"a\\b"',
    "escape at the end": '"a\\"',
    "list": "a, b",
    "quoted list": '"a", "b"',
    "quoted parameters": '"abc";p=1',
    "inner list": '("a" "b")',
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_malformed_key_is_refused_without_repeating_it(shop: Shop, key: str) -> None:
    answer = shop.post(key=key)
    assert (answer.status_code, shop.slug(answer)) == (400, "idempotency-key-malformed")
    assert len(key.strip()) < 4 or key.strip() not in answer.text
    assert shop.runs == []
    assert shop.store._records == {}  # type: ignore[attr-defined]


def test_a_key_sent_twice_is_refused(shop: Shop) -> None:
    answer = shop.client.post("/echo", headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    assert (answer.status_code, shop.slug(answer)) == (400, "idempotency-key-malformed")


GOOD_KEYS = [
    "k" * 255,
    f'"{"k" * 255}"',
    "../../etc/passwd",
    '"; DROP TABLE idempotency_records; --"',
    '"a, b;c \\" \\\\"',
    "'; DROP TABLE idempotency_records; --",
    "two words",
    "abc;p=1",
    "back\\slash",
    "aGk=+/",
    "!",
]


@pytest.mark.parametrize("key", GOOD_KEYS)
def test_whatever_else_is_printable_is_an_opaque_key(shop: Shop, key: str) -> None:
    assert [shop.post(key=key).json for _ in range(2)] == [{"run": 1, "body": "", "form": {}}] * 2


def test_strict_accepts_the_quoted_form_only(front_end: str) -> None:
    shop = Shop(front_end, strict=True)
    assert shop.slug(shop.post(key="abc")) == "idempotency-key-malformed"
    assert shop.post(key='"abc"').status_code == 201


@pytest.mark.parametrize(
    "change",
    [{"data": "b"}, {"path": "/echo?x=1"}, {"path": "/empty"}, {"method": "PATCH"}],
    ids=["payload", "query", "path", "method"],
)
def test_another_request_under_the_key_is_refused(shop: Shop, change: dict[str, Any]) -> None:
    shop.post(data="a")
    answer = shop.post(**({"data": "a"} | change))
    assert (answer.status_code, shop.slug(answer)) == (422, "idempotency-key-reused")
    assert len(shop.runs) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299, 301, 302, 303])
def test_success_is_kept(shop: Shop, status: int) -> None:
    answers = [shop.post(f"/status?status={status}") for _ in range(2)]
    assert [answer.text for answer in answers] == ["" if status == 204 else "run 1"] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert len(shop.runs) == 1


@pytest.mark.parametrize(
    "query",
    [
        "status=304",
        "status=307",
        "status=308",
        "status=400",
        "status=401",
        "status=429",
        "status=500",
        "status=404&abort=1",
    ],
)
def test_anything_else_gives_the_key_back(shop: Shop, query: str) -> None:
    assert {shop.post(f"/status?{query}").status_code for _ in range(3)} == {int(query[7:10])}
    assert len(shop.runs) == 3
    assert shop.post("/echo", data="another payload").status_code == 201


def test_an_exception_gives_the_key_back(shop: Shop) -> None:
    assert [shop.post("/error").status_code for _ in range(2)] == [500, 500]
    assert len(shop.runs) == 2


def test_an_exception_that_passes_by_gives_the_key_back(shop: Shop) -> None:
    shop.app.config["PROPAGATE_EXCEPTIONS"] = True
    for _ in range(2):
        with pytest.raises(ValueError, match="the handler failed"):
            shop.post("/error")
    assert len(shop.runs) == 2


def test_keep_all_keeps_whatever_the_handler_answered(front_end: str) -> None:
    shop = Shop(front_end, keep="all")
    assert {shop.post("/status?status=402", key="a").text for _ in range(2)} == {"run 1"}
    assert {shop.post("/error", key="b").status_code for _ in range(2)} == {500}
    assert len(shop.runs) == 2
    assert shop.slug(shop.post(key=None)) == "idempotency-key-missing"


def test_a_callable_says_what_is_kept(front_end: str) -> None:
    shop = Shop(front_end, keep=lambda status: status in (200, 402))
    for query in ("status=402", "status=201"):
        for _ in range(2):
            shop.post(f"/status?{query}", key=query)
    assert len(shop.runs) == 3


def test_headers_are_kept_in_their_order_but_for_what_is_the_moments(shop: Shop) -> None:
    first, again = (shop.post("/headers") for _ in range(2))
    assert again.status == "299 Quite Well"
    assert first.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    dropped = ("Set-Cookie", "Date")
    assert list(again.headers) == [
        *((name, value) for name, value in first.headers if name not in dropped),
        ("Idempotent-Replayed", "true"),
    ]
    assert again.headers.getlist("X-B") == ["1", "3"]


def test_cookies_are_kept_where_the_policy_asks(front_end: str) -> None:
    shop = Shop(front_end, keep_cookies=True)
    assert [shop.post("/headers").headers.getlist("Set-Cookie") for _ in range(2)] == [["a=1", "b=2"]] * 2


def test_a_binary_body_and_an_empty_one_are_kept(shop: Shop) -> None:
    assert [shop.post("/binary", key="b").data for _ in range(2)] == [bytes(range(256))] * 2
    answers = [shop.post("/empty", key="e") for _ in range(2)]
    assert [(answer.status_code, answer.data) for answer in answers] == [(204, b"")] * 2
    assert shop.runs == ["binary", "empty"]


def test_an_answer_is_kept_for_a_day_and_no_longer(shop: Shop, clock: Any) -> None:
    assert shop.post().json["run"] == 1
    clock.tick(24 * 60 * 60 - 1)
    assert shop.post().json["run"] == 1
    clock.tick(1)
    assert shop.post(data="even another payload").json["run"] == 2


def test_retention_is_the_policys(front_end: str, clock: Any) -> None:
    shop = Shop(front_end, retention=60)
    shop.post()
    clock.tick(59.9)
    assert shop.post().json["run"] == 1
    clock.tick(0.1)
    assert shop.post().json["run"] == 2


def record_of(key: str) -> bytes:
    """The id of the record of an anonymous caller."""
    anonymous = caller_of({}, NotImplemented, Policy()).principal
    return RecordKey.of(anonymous, key, namespace=digest(NAMESPACE.encode())).id


class Paused:
    """A request whose handler is held in mid-work until it is let go."""

    def __init__(self, shop: Shop, **request: Any) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.shop = shop
        echo = shop.runs.append

        class Gate(list[str]):
            def append(gate, name: str) -> None:
                echo(name)
                if threading.current_thread() is self.thread:
                    self.entered.set()
                    assert self.go.wait(20)

        shop.runs = Gate()
        self.answer: Any = None
        self.thread = threading.Thread(target=lambda: setattr(self, "answer", shop.post(**request)))
        self.thread.start()
        assert self.entered.wait(20)

    def finish(self) -> Any:
        self.go.set()
        self.thread.join(20)
        return self.answer


def test_a_repeat_in_flight_is_told_to_wait(shop: Shop) -> None:
    paused = Paused(shop, data="a")
    repeat, other = shop.post(data="a"), shop.post(data="b")
    assert (repeat.status_code, shop.slug(repeat)) == (409, "request-in-progress")
    assert 1 <= int(repeat.headers["Retry-After"]) <= 30
    assert (other.status_code, shop.slug(other)) == (422, "idempotency-key-reused")
    first = paused.finish()
    assert first.status_code == 201
    assert shop.post(data="a").data == first.data


def test_a_repeat_that_may_wait_hears_the_first_answer(front_end: str) -> None:
    shop = Shop(front_end, wait=20)
    paused = Paused(shop)
    heard: list[Any] = []
    waiting = threading.Thread(target=lambda: heard.append(shop.post()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    first = paused.finish()
    waiting.join(20)
    assert heard[0].data == first.data
    assert heard[0].headers["Idempotent-Replayed"] == "true"


def test_waiting_ends(front_end: str) -> None:
    shop = Shop(front_end, wait=0.1)
    paused = Paused(shop)
    assert shop.slug(shop.post()) == "request-in-progress"
    paused.finish()


def test_a_lapsed_claim_is_rerun_and_its_holder_is_fenced(front_end: str) -> None:
    store = MemoryStore()
    shop = Shop(front_end, store)
    paused = Paused(shop, data="a")
    store._records[record_of("k")].lease_ends = 0.0
    assert shop.slug(shop.post(data="b")) == "idempotency-key-reused"
    winner = shop.post(data="a")
    assert winner.status_code == 201
    fenced = paused.finish()
    assert (fenced.status_code, shop.slug(fenced)) == (409, "claim-lost")
    assert fenced.headers["Retry-After"] == "1"
    assert shop.post(data="a").data == winner.data


def test_a_lapse_is_refused_where_the_policy_says_so(front_end: str) -> None:
    store = MemoryStore()
    shop = Shop(front_end, store, on_lapse="refuse")
    paused = Paused(shop, data="a")
    store._records[record_of("k")].lease_ends = 0.0
    refused = shop.post(data="a")
    assert (refused.status_code, shop.slug(refused)) == (409, "outcome-unknown")
    assert shop.slug(shop.post(data="b")) == "idempotency-key-reused"
    first = paused.finish()  # it was only slow: now the outcome is known
    assert shop.post(data="a").data == first.data


def test_a_stream_is_kept_once_it_has_ended_whole(shop: Shop) -> None:
    first = shop.post("/stream")
    assert shop.slug(shop.post("/stream")) == "request-in-progress"
    assert first.data == b"0123456789"
    assert shop.post("/stream").data == b"0123456789"
    assert len(shop.runs) == 1


def test_a_stream_that_breaks_off_is_never_run_again(shop: Shop) -> None:
    first = shop.post("/stream?break=5")
    with pytest.raises(ConnectionError):
        _ = first.data
    first.close()
    refused = shop.post("/stream?break=5")
    assert (refused.status_code, shop.slug(refused)) == (409, "response-not-kept")
    assert len(shop.runs) == 1


def test_a_stream_that_the_client_leaves_is_never_run_again(shop: Shop) -> None:
    first = shop.post("/stream")
    assert next(iter(first.response)) == b"0"
    first.close()
    assert shop.slug(shop.post("/stream")) == "response-not-kept"


@pytest.mark.parametrize("path", ["/large?size=101", "/stream?times=11"])
def test_a_response_too_large_to_keep_arrives_whole_and_is_never_run_again(front_end: str, path: str) -> None:
    shop = Shop(front_end, max_response_bytes=100)
    first = shop.post(path)
    assert len(first.data) > 100
    assert shop.slug(shop.post(path)) == "response-not-kept"
    assert len(shop.runs) == 1


def test_a_response_of_just_the_limit_is_kept(front_end: str) -> None:
    shop = Shop(front_end, max_response_bytes=100)
    assert [len(shop.post("/large?size=100").data) for _ in range(2)] == [100, 100]
    assert len(shop.runs) == 1


class LostStore(MemoryStore):
    """A store that cannot be reached while `lost`."""

    lost = False

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        if self.lost:
            raise StoreUnavailable("down")
        return super().claim(*args, **kwargs)

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        if self.lost:
            raise StoreUnavailable("down")
        return super().complete(*args, **kwargs)


def test_without_the_store_a_request_is_refused(front_end: str) -> None:
    store = LostStore()
    shop = Shop(front_end, store)
    store.lost = True
    answer = shop.post()
    assert (answer.status_code, shop.slug(answer)) == (503, "store-unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert shop.runs == []


def test_without_the_store_a_request_runs_where_the_policy_says_so(front_end: str) -> None:
    store = LostStore()
    shop = Shop(front_end, store, on_store_error="run")
    store.lost = True
    assert [shop.post().status_code for _ in range(2)] == [201, 201]
    assert len(shop.runs) == 2


def test_what_is_unreadable_is_refused_even_where_the_policy_runs_without_the_store(front_end: str) -> None:
    inner = MemoryStore()
    first = Shop(front_end, EncryptedStore(inner, ["one key " * 5]), on_store_error="run")
    assert first.post().status_code == 201
    stranger = Shop(front_end, EncryptedStore(inner, ["another " * 5]), on_store_error="run")
    answer = stranger.post()
    assert (answer.status_code, stranger.slug(answer)) == (503, "store-unavailable")
    assert stranger.runs == []


def test_an_answer_that_cannot_be_kept_is_sent_and_kept_as_soon_as_it_can(front_end: str) -> None:
    store = LostStore()
    events: list[Outcome] = []
    kept = threading.Event()

    def observe(event: Event) -> None:
        events.append(event.outcome)
        if event.outcome is Outcome.COMPLETED_LATE:
            kept.set()

    shop = Shop(front_end, store, observers=[observe])
    paused = Paused(shop)
    store.lost = True
    first = paused.finish()
    assert first.status_code == 201
    assert shop.slug(shop.post()) == "request-in-progress"
    store.lost = False
    # Nobody has to wait for the background: the process that knows the answer keeps it before it is asked for.
    assert shop.post().data == first.data
    assert kept.wait(20)
    assert Outcome.DEFERRED in events


def test_one_caller_never_hears_anothers_answer(shop: Shop) -> None:
    for name in ("a", "b", None):
        headers = {} if name is None else {"Authorization": f"Bearer {name}"}
        assert [shop.post(data="x", headers=headers).json["run"] for _ in range(2)] == [len(shop.runs)] * 2
    assert len(shop.runs) == 3


@pytest.mark.parametrize("principal", [["X-Tenant", "X-User"], lambda request: request.headers.get("X-User")])
def test_the_policy_says_who_the_principal_is(front_end: str, principal: Any) -> None:
    shop = Shop(front_end, principal=principal)
    for user in ("a", "b"):
        for token in ("1", "2"):  # refreshed between two attempts: the same principal
            shop.post(headers={"X-User": user, "Authorization": f"Bearer {token}"})
    assert len(shop.runs) == 2


@pytest.mark.parametrize("principal", [["X-User"], ["cookie:user"], lambda request: request.cookies.get("user")])
def test_whom_the_policys_principal_does_not_name_is_anonymous_and_its_cookies_do_not_count(
    front_end: str, principal: Any
) -> None:
    shop = Shop(front_end, principal=principal)
    for cookie in ("a=1", "a=2"):
        assert shop.post(headers={"Cookie": cookie}).json["run"] == 1
    assert shop.post(headers={"Cookie": "user=7", "X-User": "7"}).json["run"] == 2


def test_callers_that_need_no_telling_apart_share_their_keys(front_end: str) -> None:
    shop = Shop(front_end, principal=None)
    callers = [{}, {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}, {"Cookie": "a=1"}, {"Cookie": "a=2"}]
    assert {shop.post(headers=headers).json["run"] for headers in callers} == {1}


def test_the_host_that_was_asked_for_counts(shop: Shop) -> None:
    def ask(base_url: str) -> Any:
        return shop.post(base_url=base_url)

    first, same, other = (ask(f"http://{host}") for host in ("shop.example", "SHOP.example:80", "other.example"))
    assert first.status_code == 201
    assert same.data == first.data
    assert shop.slug(other) == "idempotency-key-reused"


def test_a_callable_of_the_policy_says_what_a_request_asks_for(front_end: str) -> None:
    shop = Shop(front_end, fingerprint=lambda request: request.get_json()["order"])
    first, same, other = (shop.post(json={"order": order, "n": n}) for order, n in ((1, 1), (1, 2), (2, 3)))
    assert first.json["body"] == '{"n": 1, "order": 1}'
    assert same.data == first.data
    assert shop.slug(other) == "idempotency-key-reused"


def test_a_refusal_may_be_dressed_and_a_replay_is_none(front_end: str) -> None:
    def dress(problem: Any, response: Any) -> Any:
        response.headers["X-Problem"] = f"{problem.slug} {problem.status} {problem.title}"
        return response

    shop = Shop(front_end, refusal=dress)
    refused = shop.post(key=None)
    assert refused.headers["X-Problem"] == "idempotency-key-missing 400 An idempotency key is required"
    assert shop.slug(refused) == "idempotency-key-missing"
    assert not any("X-Problem" in shop.post().headers for _ in range(2))


def test_a_refusal_whose_dress_fails_goes_out_as_it_is(front_end: str) -> None:
    for dress in (lambda problem, response: 1 / 0, lambda problem, response: "no response"):
        shop = Shop(front_end, refusal=dress)
        assert shop.slug(shop.post(key=None)) == "idempotency-key-missing"
        assert shop.runs == []


def test_a_refusal_names_the_record_that_stands_behind_it(shop: Shop) -> None:
    shop.post(data="a")
    assert shop.post(data="b").json["instance"] == f"urn:flask-idempotency:record:{record_of('k').hex()}"
    assert "instance" not in shop.post(key=None).json


def test_a_missing_key_is_told_whatever_the_state_of_the_store(front_end: str) -> None:
    store = LostStore()
    store.lost = True
    for on_store_error in ("refuse", "run"):
        shop = Shop(front_end, store, on_store_error=on_store_error)
        assert shop.slug(shop.post(key=None)) == "idempotency-key-missing"
        assert shop.slug(shop.post(key="a,b")) == "idempotency-key-malformed"


@pytest.mark.parametrize("query", ["/error", "/status?status=500"])
def test_an_error_leaves_the_outcome_unknown_where_the_policy_refuses_doubt(front_end: str, query: str) -> None:
    shop = Shop(front_end, on_error="refuse")
    assert shop.post(query).status_code == 500
    refused = shop.post(query)
    assert (refused.status_code, shop.slug(refused)) == (409, "outcome-unknown")
    assert "Retry-After" not in refused.headers
    assert len(shop.runs) == 1


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_refusal_of_the_handlers_own_is_no_doubt(front_end: str, status: int) -> None:
    shop = Shop(front_end, on_error="refuse")
    assert [shop.post(f"/status?status={status}").status_code for _ in range(2)] == [status] * 2
    assert len(shop.runs) == 2


@pytest.mark.parametrize("status", [401, 407, 408, 425, 429, 503])
def test_keep_all_keeps_nothing_that_asks_to_come_again(front_end: str, status: int) -> None:
    shop = Shop(front_end, keep="all")
    assert {shop.post(f"/status?status={status}").text for _ in range(2)} == {"run 1", "run 2"}


def test_an_answer_that_cannot_be_kept_is_withheld_where_the_policy_says_so(front_end: str) -> None:
    store = LostStore()
    shop = Shop(front_end, store, on_completion_error="refuse")
    paused = Paused(shop)
    store.lost = True
    answer = paused.finish()
    assert (answer.status_code, shop.slug(answer)) == (503, "store-unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    store.lost = False
    assert shop.post().headers["Idempotent-Replayed"] == "true"


def test_more_than_may_wait_are_told_to_come_again(front_end: str) -> None:
    shop = Shop(front_end, wait=20, max_waiters=0)
    paused = Paused(shop)
    assert shop.slug(shop.post()) == "request-in-progress"
    paused.finish()


def test_the_key_may_stand_in_the_body(front_end: str) -> None:
    shop = Shop(front_end, key_from=lambda request: request.get_json()["id"])
    answers = [shop.post(key=None, json={"id": "evt_1"}) for _ in range(2)]
    assert [answer.json["run"] for answer in answers] == [1, 1]
    assert answers[0].json["body"] == '{"id": "evt_1"}'
    for nothing in ({}, [1], {"id": None}):
        assert shop.slug(shop.post(key=None, json=nothing)) == "idempotency-key-missing"
    assert shop.slug(shop.post(key=None, json={"id": "x" * 256})) == "idempotency-key-malformed"
    assert shop.slug(shop.post(key=None, json={"id": 7})) == "idempotency-key-malformed"
    assert shop.post(key=None, data="no JSON").status_code in (400, 415)


def form(text: str = "x", content: bytes = b"file\r\n--\x00") -> dict[str, Any]:
    return {"text": text, "file": (io.BytesIO(content), "a.bin")}


def test_a_multipart_retry_has_another_boundary_and_is_the_same_request(shop: Shop) -> None:
    answers = []
    for boundary in ("one", "two"):
        file = FileStorage(io.BytesIO(b"file\r\n--\x00"), "a.bin")
        stream, _, _ = stream_encode_multipart({"text": "x", "file": file}, boundary=boundary)
        content_type = f"multipart/form-data; boundary={boundary}"
        answers.append(shop.post("/upload", data=stream.read(), content_type=content_type))
    assert answers[0].json == {"form": {"text": "x"}, "files": {"file": ["a.bin", "file\r\n--\x00"]}}
    assert answers[1].json == answers[0].json
    assert len(shop.runs) == 1


@pytest.mark.parametrize("other", [{"text": "y"}, {"content": b"other"}])
def test_another_form_is_another_request(shop: Shop, other: dict[str, Any]) -> None:
    shop.post("/upload", data=form())
    assert shop.slug(shop.post("/upload", data=form(**other))) == "idempotency-key-reused"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no boundary here", "multipart/form-data; boundary=b"),
        (b"--b\r\nno disposition\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\ncut", "multipart/form-data; boundary=b"),
        (b"x", "multipart/form-data"),
    ],
)
def test_a_malformed_multipart_body_is_the_handlers_and_counts_by_its_bytes(
    shop: Shop, body: bytes, content_type: str
) -> None:
    answers = [shop.post("/binary", data=body, content_type=content_type) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert shop.runs == ["binary"]
    assert shop.slug(shop.post("/binary", data=body + b"x", content_type=content_type)) == "idempotency-key-reused"


@pytest.mark.parametrize("length", ["5", "99999999", "-1", "abc", "1e3"])
def test_a_content_length_that_lies_is_refused(shop: Shop, length: str) -> None:
    environ = {"CONTENT_LENGTH": length, "wsgi.input": io.BytesIO(b"abc"), "HTTP_IDEMPOTENCY_KEY": "k"}
    answer = shop.client.open("/echo", method="POST", environ_overrides=environ)
    assert (answer.status_code, shop.slug(answer)) == (400, "body-incomplete")
    assert shop.store._records == {}  # type: ignore[attr-defined]


def test_nothing_is_read_past_content_length(shop: Shop) -> None:
    class Socket(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= 3 - self.tell(), "this read would hang the server"
            return super().read(size)

    answer = shop.client.open(
        "/echo",
        method="POST",
        environ_overrides={"CONTENT_LENGTH": "3", "wsgi.input": Socket(b"abcdef"), "HTTP_IDEMPOTENCY_KEY": "k"},
    )
    assert answer.json["body"] == "abc"


def test_a_body_larger_than_the_spool_reaches_the_handler_whole(shop: Shop) -> None:
    body = "0123456789" * 100_000
    assert shop.post(data=body).json["body"] == body
    assert shop.post(data=body).headers["Idempotent-Replayed"] == "true"
    assert shop.slug(shop.post(data=body[:-1] + "x")) == "idempotency-key-reused"


def test_json_counts_by_its_value_where_the_policy_says_so(front_end: str) -> None:
    shop = Shop(front_end, fingerprint="json")
    same = ['{"a": 1, "b": [1.50, "x"]}', '{"b":[1.5,"x"],"a":1.0}', '{ "b" : [15e-1, "\\u0078"], "a": 1e0 }']
    assert {shop.post(data=body, content_type="application/json").json["run"] for body in same} == {1}
    for other in ('{"a": 1, "b": ["x", 1.5]}', '{"a": "1", "b": [1.5, "x"]}', '{"a": 1, "b": [1.5, "x"], "c": null}'):
        assert shop.slug(shop.post(data=other, content_type="application/json")) == "idempotency-key-reused"


def test_observers_hear_what_happened_and_no_key(front_end: str) -> None:
    events: list[Event] = []
    shop = Shop(front_end, observers=[events.append])
    shop.post(key="secret-key")
    shop.post(key="secret-key")
    shop.post(key="secret-key", data="b")
    shop.post(key=None)
    assert [event.outcome for event in events] == [
        Outcome.CLAIMED, Outcome.COMPLETED, Outcome.REPLAYED, Outcome.REUSED, Outcome.MISSING,
    ]  # fmt: skip
    assert "secret-key" not in repr(events)


def test_an_observer_that_fails_harms_nothing(front_end: str) -> None:
    def fail(event: Event) -> None:
        raise ValueError

    shop = Shop(front_end, observers=[fail])
    assert [shop.post().status_code for _ in range(2)] == [201, 201]
    assert len(shop.runs) == 1


def test_of_64_threads_one_runs_and_all_hear_the_same(front_end: str) -> None:
    shop = Shop(front_end)
    barrier = threading.Barrier(64)
    heard: list[Any] = []

    def ask() -> None:
        client = shop.app.test_client()
        barrier.wait(20)
        while True:
            answer = client.post("/echo", headers={"Idempotency-Key": "k"})
            if answer.status_code != 409:
                heard.append(answer.data)
                return

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(heard) == 64
    assert len(set(heard)) == 1
    assert len(shop.runs) == 1
