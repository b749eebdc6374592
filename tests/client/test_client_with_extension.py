"""Our clients and our server, hand in hand."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response

from flask_idempotency import Policy
from flask_idempotency.client import PendingKeys, RetryPolicy, key_for

from .client_kinds import NETWORK_ERRORS, QUICK, Client
from .faulty_network import PATIENCE, Fault, FaultyNetwork
from .flask_till import FlaskTill
from .payment_server import Running

PAYMENT = {"amount": 500, "currency": "eur"}
MakeTill = Callable[..., FlaskTill]
MakeNetwork = Callable[..., FaultyNetwork]


@pytest.fixture
def make_till(running: Running, tmp_path: Path) -> MakeTill:
    """Makes a till under this policy, and puts it behind the server."""

    def make(policy: Policy = FlaskTill.PATIENT) -> FlaskTill:
        till = FlaskTill(tmp_path, policy=policy)
        running.app = till.app
        return till

    return make


@pytest.fixture
def network(running: Running) -> Iterator[MakeNetwork]:
    networks: list[FaultyNetwork] = []

    def make(*faults: Fault) -> FaultyNetwork:
        networks.append(FaultyNetwork(running.address, faults))
        return networks[-1]

    yield make
    for made in networks:
        made.close()


def test_a_lost_answer_is_replayed_and_the_caller_can_see_it(
    client: Client, make_till: MakeTill, network: MakeNetwork
) -> None:
    till = make_till()

    answer = client.send("POST", network(Fault.LOSE_ANSWER).url + "/v1/payment_intents", json=PAYMENT)

    assert answer.json()["id"] == "pi_1"
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert till.charges == [500]


def test_a_payment_slower_than_the_clients_time_out_is_made_once(
    make_client: Callable[..., Client], make_till: MakeTill, network: MakeNetwork
) -> None:
    # The short lease makes for a Retry-After of a second; the heartbeat renews it for as long as the payment takes.
    till = make_till(Policy(lease=1.0))
    asked_again = threading.Event()
    till.before_charge = lambda: asked_again.wait(PATIENCE)

    @till.app.after_request
    def notice(answer: Response) -> Response:
        if answer.status_code == 409:
            asked_again.set()
        return answer

    client = make_client(RetryPolicy(attempts=10, deadline=60.0, backoff=0.01), timeout=0.5)

    answer = client.send("POST", network().url + "/v1/payment_intents", json=PAYMENT)

    assert answer.json()["id"] == "pi_1"
    assert asked_again.is_set()
    assert till.charges == [500]


def test_a_strict_server_takes_the_quoted_form(
    make_client: Callable[..., Client], make_till: MakeTill, network: MakeNetwork
) -> None:
    till = make_till(Policy(strict=True))
    url = network(Fault.LOSE_ANSWER).url + "/v1/payment_intents"

    bare = make_client().send("POST", url, json=PAYMENT)
    quoted = make_client(RetryPolicy(quoted=True)).send("POST", url, json=PAYMENT)

    assert (bare.status_code, quoted.status_code) == (400, 200)
    assert till.charges == [500]


def test_a_client_that_starts_again_takes_its_payment_up_under_the_key_of_the_order(
    make_client: Callable[..., Client], make_till: MakeTill, network: MakeNetwork
) -> None:
    till = make_till()
    url = network(*[Fault.LOSE_ANSWER] * QUICK.attempts).url + "/v1/payment_intents"

    def retry_payment(payment: dict[str, Any], key: str) -> Any:
        """What the client's program does, in this life and the next."""
        return make_client().send("POST", url, json=payment, headers={"Idempotency-Key": key})

    with pytest.raises(NETWORK_ERRORS):
        retry_payment(PAYMENT, key_for("charge", 17))
    answer = retry_payment(PAYMENT, key_for("charge", 17))
    other = retry_payment(PAYMENT, key_for("charge", 18))

    assert (answer.json()["id"], other.json()["id"]) == ("pi_1", "pi_2")
    assert till.charges == [500, 500]


def test_a_client_that_starts_again_takes_up_what_is_pending(
    make_client: Callable[..., Client], make_till: MakeTill, network: MakeNetwork, tmp_path: Path
) -> None:
    till = make_till()
    url = network(*[Fault.LOSE_ANSWER] * QUICK.attempts).url + "/v1/payment_intents"

    def charge(operation: str) -> int:
        with PendingKeys(tmp_path / "pending.db").pinned(operation) as key:
            answer = make_client().send("POST", url, json=PAYMENT, headers={"Idempotency-Key": key})
            answer.raise_for_status()
            return answer.status_code

    with pytest.raises(NETWORK_ERRORS):
        charge("top-up")
    (operation,) = PendingKeys(tmp_path / "pending.db").unfinished()

    assert charge(operation) == 200
    assert till.charges == [500]
    assert charge("top-up") == 200
    assert till.charges == [500, 500]
