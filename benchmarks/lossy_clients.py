"""500 payments for each client through a network that loses much: `python benchmarks/lossy_clients.py [PAYMENTS]`.

Of all attempts, 20 % are lost before the server sees them, 20 % are done but their answer is lost, and 10 % are delayed
past the client's time-out: half of them on their way back, half on their way there, so that the server gets them when
the client has already given up and asks again. Half of all attempts succeed, so that one payment in a million is still
unanswered after 20 attempts: so many do our clients make without arguments, and those of others are given as many. The
server is a Flask app under the extension, with an SQLite store, behind waitress. The ledger counts what was charged; a
client counts as answered by a receipt for its own payment.
"""

import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from waitress.server import create_server

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.client.browser.paying_page import our_browser
from tests.client.faulty_network import Fault, FaultyNetwork
from tests.client.flask_till import FlaskTill
from tests.client.real_clients import OTHERS, OURS, Errand, Run, requests_without_keys

SEED = 8
SHARES = {
    Fault.LOSE_REQUEST: 0.20,
    Fault.LOSE_ANSWER: 0.20,
    Fault.HOLD_ANSWER: 0.05,
    Fault.HOLD_REQUEST: 0.05,
    Fault.NONE: 0.50,
}
WORKERS = 16
TIMEOUT = 1.0


def main(payments: int) -> bool:
    """Print one line for each client; whether all of them made each payment once and were told so."""
    # The clients of others warn of each retry.
    logging.disable(logging.WARNING)
    print(f"{payments} payments for each client, {WORKERS} at once, {TIMEOUT:g} s time-out, seed {SEED}\n")
    print(
        f"{'client':<24}{'charges':>8}{'answers':>8}{'attempts':>9}{'lost →':>8}{'lost ←':>8}{'delayed':>8}{'time':>8}"
    )
    all_fine = True
    for run in (*OURS, our_browser, *OTHERS):
        all_fine &= measure(run, payments, protected=True)
    print("\nwithout keys, against the same app without the extension:")
    measure(requests_without_keys, payments, protected=False)
    return all_fine


def measure(run: Run, payments: int, *, protected: bool) -> bool:
    """Let one client make all payments, each of another amount, so that the ledger shows which was made twice."""
    amounts = range(1, payments + 1)
    with tempfile.TemporaryDirectory() as directory:
        till = FlaskTill(Path(directory), protected=protected)
        with serving(till) as address, FaultyNetwork(address, fate()) as network:
            began = time.perf_counter()
            errand = Errand(url=network.url, amounts=amounts, workers=WORKERS, timeout=TIMEOUT)
            receipts = run(errand)
            took = time.perf_counter() - began
            network.settle()
    answered = sum(
        receipt.amount == till.charges[int(receipt.id.removeprefix("pi_")) - 1] == amount
        for amount, receipt in zip(amounts, receipts, strict=True)
    )
    seen = Counter(network.attempts)
    delayed = seen[Fault.HOLD_ANSWER] + seen[Fault.HOLD_REQUEST]
    print(
        f"{run.__name__:<24}{len(till.charges):>9}{answered:>9}{seen.total():>9}"
        f"{seen[Fault.LOSE_REQUEST]:>9}{seen[Fault.LOSE_ANSWER]:>9}{delayed:>9}{took:>8.1f}s",
        flush=True,
    )
    return sorted(till.charges) == list(amounts) and answered == payments


def fate() -> Callable[[], Fault]:
    """The same dice for each client."""
    dice = random.Random(SEED)
    faults, weights = list(SHARES), list(SHARES.values())
    return lambda: dice.choices(faults, weights)[0]


@contextmanager
def serving(till: FlaskTill) -> Iterator[tuple[str, int]]:
    """The app behind waitress, until the block ends."""
    server = create_server(till.app, host="127.0.0.1", port=0, threads=WORKERS)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1", int(server.effective_port)
    finally:
        server.close()
        server.task_dispatcher.shutdown()
        thread.join(10)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
