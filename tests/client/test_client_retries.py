"""What every client of ours does when the network or the server fails: the same key until there is an answer."""

import email.utils
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_idempotency.client import RetryPolicy

from .client_kinds import NETWORK_ERRORS, QUICK, TIMEOUT, Client
from .faulty_network import PATIENCE, Fault, FaultyNetwork
from .payment_server import Canned, Running, Till

Network = Callable[..., FaultyNetwork]
DRIPS = 200


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_a_payment_through_a_failing_network_is_made_once_and_answered(
    fault: Fault, make_client: Callable[..., Client], till: Till, network: Network
) -> None:
    held = fault in (Fault.HOLD_ANSWER, Fault.HOLD_REQUEST)
    client = make_client(timeout=1.0 if held else TIMEOUT)
    net = network(fault)

    answer = client.send("POST", net.url + "/pay", json={"amount": 5})
    net.settle()

    assert (answer.status_code, answer.json()) == (201, {"charge": 1})
    assert net.attempts[0] is fault
    assert set(net.attempts[1:]) == {Fault.NONE}
    assert len(till.charges) == 1
    assert len(set(till.keys)) == 1


def test_without_a_key_the_same_network_charges_twice(network: Network, till: Till, client: Client) -> None:
    net = network(Fault.LOSE_ANSWER)
    # PUT is retried without a key: it shows that the till itself forgives nothing.
    client.send("PUT", net.url + "/pay", json={"amount": 5})

    assert till.keys == [None, None]
    assert len(till.charges) == 2


def test_two_requests_are_two_operations(client: Client, till: Till, server: Running) -> None:
    client.send("POST", server.url + "/pay", json={"amount": 5})
    client.send("POST", server.url + "/pay", json={"amount": 5})

    assert len(till.charges) == 2
    assert len(set(till.keys)) == 2


def test_patch_gets_a_key_and_get_does_not(client: Client, till: Till, server: Running) -> None:
    client.send("PATCH", server.url + "/pay")
    client.send("GET", server.url + "/pay")

    patched, got = till.keys
    assert patched is not None
    assert got is None


def test_a_key_that_the_caller_gave_wins(client: Client, till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)

    client.send("POST", net.url + "/pay", headers={"idempotency-key": "order-17"})

    assert till.keys == ["order-17", "order-17"]


def test_a_key_from_the_caller_makes_any_method_repeat(client: Client, till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)

    client.send("MERGE", net.url + "/pay", headers={"Idempotency-Key": "order-17"})

    assert till.keys == ["order-17", "order-17"]


def test_a_method_that_is_neither_keyed_nor_idempotent_is_sent_once(
    client: Client, till: Till, network: Network
) -> None:
    net = network(Fault.LOSE_ANSWER)

    with pytest.raises(NETWORK_ERRORS):
        client.send("MERGE", net.url + "/pay")

    assert till.keys == [None]


def test_a_new_key_is_quoted_where_the_server_is_strict(
    make_client: Callable[..., Client], till: Till, server: Running
) -> None:
    make_client(RetryPolicy(quoted=True)).send("POST", server.url + "/pay")

    (key,) = till.keys
    assert key is not None
    assert key[0] == key[-1] == '"'


def test_another_header_may_carry_the_key(make_client: Callable[..., Client], till: Till, server: Running) -> None:
    answer = make_client(RetryPolicy(header="X-Request-Key")).send("POST", server.url + "/pay")

    assert answer.request.headers["X-Request-Key"]
    assert till.keys == [None]


@pytest.mark.parametrize("status", [425, 429, 500, 502, 503, 504])
def test_these_answers_are_followed_by_another_attempt(
    status: int, client: Client, till: Till, server: Running
) -> None:
    till.canned.append(Canned(status))

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == 201
    assert len(set(till.keys)) == 1
    assert len(till.seen) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 408, 409, 410, 422, 501, 505])
def test_these_answers_are_the_last_word(status: int, client: Client, till: Till, server: Running) -> None:
    till.canned.append(Canned(status))

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == status
    assert len(till.seen) == 1


@pytest.mark.parametrize(
    "conflict",
    [
        Canned.problem(409, "request-in-progress", ("Retry-After", "0")),
        Canned.problem(409, "claim-lost", ("Retry-After", "0")),
        Canned.problem(409, "seat-held-by-another", ("Retry-After", "0")),
        Canned(409, (("Retry-After", "0"),), b"no JSON"),
        Canned(409, (("Retry-After", "soon"),)),
    ],
)
def test_a_conflict_that_says_when_to_come_back_is_waited_out(
    conflict: Canned, client: Client, till: Till, server: Running
) -> None:
    till.canned.append(conflict)

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == 201
    assert len(till.seen) == 2


@pytest.mark.parametrize(
    "conflict",
    [
        Canned.problem(409, "request-in-progress"),
        Canned.problem(409, "outcome-unknown"),
        Canned.problem(409, "response-not-kept"),
        Canned(409, body=b"seat taken"),
    ],
)
def test_a_conflict_that_says_no_time_is_the_last_word(
    conflict: Canned, client: Client, till: Till, server: Running
) -> None:
    till.canned.append(conflict)

    answer = client.send("POST", server.url + "/pay")

    assert (answer.status_code, answer.content) == (409, conflict.body)
    assert len(till.seen) == 1


@pytest.mark.parametrize("status", [409, 500, 503])
def test_a_replayed_failure_is_the_last_word_since_it_will_not_change(
    status: int, client: Client, till: Till, server: Running
) -> None:
    till.canned.append(Canned(status, (("Idempotent-Replayed", "true"), ("Retry-After", "0"))))

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == status
    assert len(till.seen) == 1


def test_after_the_last_attempt_the_caller_gets_the_answer(client: Client, till: Till, server: Running) -> None:
    till.canned.extend([Canned(503, body=b"busy"), Canned(503, body=b"still busy")] * 2)

    answer = client.send("POST", server.url + "/pay")

    assert (answer.status_code, answer.content) == (503, b"still busy")
    assert len(till.seen) == QUICK.attempts


def test_after_the_last_attempt_the_caller_gets_the_librarys_own_error(
    client: Client, till: Till, network: Network
) -> None:
    net = network(*[Fault.LOSE_ANSWER] * QUICK.attempts)

    with pytest.raises(NETWORK_ERRORS):
        client.send("POST", net.url + "/pay")

    assert len(net.attempts) == QUICK.attempts


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.CUT_ANSWER])
def test_a_request_that_failed_can_be_sent_again_under_its_key(
    fault: Fault, client: Client, till: Till, network: Network
) -> None:
    net = network(*[fault] * QUICK.attempts)
    with pytest.raises(NETWORK_ERRORS) as failed:
        client.send("POST", net.url + "/pay", json={"amount": 5})

    answer = client.again(failed.value.request)

    assert answer.json() == {"charge": 1}
    assert len(till.charges) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirected_request_keeps_its_key(status: int, client: Client, till: Till, server: Running) -> None:
    till.canned.append(Canned(status, (("Location", "/new/pay"),)))

    answer = client.send("POST", server.url + "/pay", json={"amount": 5}, follow_redirects=True)

    assert answer.status_code == 201
    assert [request.path for request in till.seen] == ["/pay", "/new/pay"]
    assert len(set(till.keys)) == 1


def test_a_server_that_refuses_connections_is_tried_again(client: Client, server: Running) -> None:
    with FaultyNetwork(server.address) as gone:
        url = gone.url
    before = time.monotonic()

    with pytest.raises(NETWORK_ERRORS):
        client.send("POST", url + "/pay")

    assert time.monotonic() - before < 10


def test_retry_after_in_seconds_is_waited_for(client: Client, till: Till, server: Running) -> None:
    till.canned.append(Canned(503, (("Retry-After", "1"),)))
    before = time.monotonic()

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == 201
    assert time.monotonic() - before >= 1


def test_retry_after_as_a_date_is_waited_for_by_the_servers_clock(client: Client, till: Till, server: Running) -> None:
    tomorrow = time.time() + 86_400
    now, then = (email.utils.formatdate(at, usegmt=True) for at in (tomorrow, tomorrow + 1))
    till.canned.append(Canned(429, (("Date", now), ("Retry-After", then))))
    before = time.monotonic()

    answer = client.send("POST", server.url + "/pay")

    assert answer.status_code == 201
    assert time.monotonic() - before >= 1


def test_a_wait_past_the_deadline_is_not_begun(make_client: Callable[..., Client], till: Till, server: Running) -> None:
    till.canned.append(Canned(503, (("Retry-After", "25"),), b"come back later"))
    before = time.monotonic()

    answer = make_client().send("POST", server.url + "/pay")

    assert (answer.status_code, answer.content) == (503, b"come back later")
    assert time.monotonic() - before < QUICK.deadline
    assert len(till.seen) == 1


def test_the_deadline_ends_an_attempt_that_would_wait_longer(
    make_client: Callable[..., Client], network: Network
) -> None:
    net = network(*[Fault.HOLD_ANSWER] * 50)
    patient = make_client(RetryPolicy(attempts=50, deadline=1.0, backoff=0.01), timeout=60.0)
    before = time.monotonic()

    with pytest.raises(NETWORK_ERRORS):
        patient.send("POST", net.url + "/pay")

    assert 0.9 < time.monotonic() - before < 15
    assert len(net.attempts) < 50


@pytest.mark.parametrize("headers", [[], [("Content-Length", str(DRIPS))]], ids=["until-it-closes", "of-known-length"])
def test_the_deadline_ends_an_answer_that_drips(
    headers: list[tuple[str, str]], make_client: Callable[..., Client], running: Running
) -> None:
    def dripping(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", headers)
        for _ in range(DRIPS):
            time.sleep(PATIENCE / DRIPS)
            yield b"."

    running.app = dripping

    # No wait for the next byte is long, and in the end the answer would be whole.
    with pytest.raises(NETWORK_ERRORS):
        make_client(RetryPolicy(deadline=1.0)).send("POST", running.url + "/pay")


def test_a_request_that_http_calls_idempotent_is_retried_without_a_key(
    client: Client, till: Till, network: Network
) -> None:
    net = network(Fault.LOSE_ANSWER)

    answer = client.send("GET", net.url + "/pay")

    assert answer.status_code == 201
    assert till.keys == [None, None]


def test_the_log_tells_of_a_retry_but_not_of_the_key_or_the_url(
    client: Client, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyNetwork(server.address) as gone:
        url = gone.url
    caplog.set_level("DEBUG", logger="flask_idempotency.client")

    # The text of this error names the URL, in requests.
    with pytest.raises(NETWORK_ERRORS):
        client.send("POST", url + "/pay?token=secret", headers={"Idempotency-Key": "order-17"})

    told = [entry.getMessage() for entry in caplog.records if entry.name == "flask_idempotency.client"]
    assert [line.partition(" (Connect")[0] for line in told] == [f"Attempt {n} failed" for n in (1, 2, 3)]
    assert "order-17" not in "".join(told)
    assert "secret" not in "".join(told)
