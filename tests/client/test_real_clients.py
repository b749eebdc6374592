"""Clients that others wrote, and ours, against the real extension through a network that loses things."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .browser.paying_page import our_browser
from .faulty_network import Fault, FaultyNetwork
from .flask_till import FlaskTill
from .payment_server import Running
from .real_clients import OTHERS, OURS, Errand, Run, requests_without_keys

AMOUNTS = list(range(101, 107))
#: Each of the payments fails at first, whatever their order, and a few do so again.
FAULTS = [
    Fault.LOSE_REQUEST,
    Fault.LOSE_ANSWER,
    Fault.HOLD_ANSWER,
    Fault.HOLD_REQUEST,
    Fault.LOSE_ANSWER,
    Fault.RESET,
    Fault.LOSE_ANSWER,
    Fault.LOSE_REQUEST,
]


@pytest.fixture
def flask_till(tmp_path: Path) -> FlaskTill:
    return FlaskTill(tmp_path)


@pytest.fixture
def network(running: Running, flask_till: FlaskTill) -> Iterator[FaultyNetwork]:
    running.app = flask_till.app
    with FaultyNetwork(running.address, FAULTS) as made:
        yield made


def errand(network: FaultyNetwork) -> Errand:
    return Errand(url=network.url, amounts=AMOUNTS, workers=len(AMOUNTS), timeout=1.5)


@pytest.mark.parametrize("run", [*OURS, our_browser, *OTHERS], ids=lambda run: run.__name__)
def test_each_logical_payment_is_charged_once_and_answered(
    run: Run, network: FaultyNetwork, flask_till: FlaskTill
) -> None:
    receipts = run(errand(network))
    network.settle()

    assert sorted(flask_till.charges) == AMOUNTS
    assert [receipt.amount for receipt in receipts] == AMOUNTS
    # Each heard of the payment that was made for it.
    assert [flask_till.charges[int(receipt.id.removeprefix("pi_")) - 1] for receipt in receipts] == AMOUNTS
    assert network.attempts[: len(FAULTS)] == FAULTS
    # A busy machine may miss a time-out of its own making, and then sees an attempt more.
    assert len(network.attempts) >= len(AMOUNTS) + len(FAULTS)


def test_without_the_extension_the_same_network_charges_more(running: Running, tmp_path: Path) -> None:
    bare = FlaskTill(tmp_path, protected=False)
    running.app = bare.app
    with FaultyNetwork(running.address, FAULTS) as network:
        requests_without_keys(errand(network))
        network.settle()

    assert sorted(set(bare.charges)) == AMOUNTS
    # Whatever was done before its answer was lost or held was done again.
    assert len(bare.charges) >= len(AMOUNTS) + len(FAULTS) - FAULTS.count(Fault.LOSE_REQUEST)
