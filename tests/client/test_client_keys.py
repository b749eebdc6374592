"""Keys that are pinned to a business object, and survive the client."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

from flask_idempotency.client import KeyOutlived, PendingKeys, key_for, new_key


def test_the_key_for_an_object_is_the_same_for_ever() -> None:
    # A literal: a release that changed it would charge everybody twice who retried across the update.
    assert key_for("charge", 17) == key_for("charge", "17") == "200a8ad3-7f9d-50ac-8284-b508884bd329"


def test_the_key_for_an_object_can_be_computed_elsewhere() -> None:
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "urn:flask-idempotency:key")

    assert key_for("charge", "Zoë", 2) == str(uuid.uuid5(namespace, '["charge","Zoë","2"]'))


def test_operations_and_objects_do_not_run_into_each_other() -> None:
    arguments: list[Any] = [("charge", "17"), ("refund", "17"), ("charge", "1", "7"), ("charge1", "7")]
    arguments += [("charge", '1","7')]

    assert len({key_for(*each) for each in arguments}) == len(arguments)


@pytest.mark.parametrize("ids", [(), (None,), ("",), (1.5,), (True,), ("17", None), (b"17",)])
def test_an_id_that_is_missing_makes_no_key(ids: Any) -> None:
    with pytest.raises(ValueError):
        key_for("charge", *ids)


def test_new_keys_differ() -> None:
    assert len({new_key() for _ in range(100)}) == 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pending.db"


def test_an_operation_keeps_its_key_until_it_is_done(path: Path) -> None:
    keys = PendingKeys(path)
    with pytest.raises(ZeroDivisionError), keys.pinned("order-17") as first:
        _ = 1 / 0
    assert keys.unfinished() == {"order-17": first}

    with keys.pinned("order-17") as second, keys.pinned("order-18") as other:
        pass

    assert second == first != other
    assert keys.unfinished() == {}
    with keys.pinned("order-17") as third:
        assert third != first


def test_a_key_outlives_a_client_that_was_killed_in_mid_payment(path: Path) -> None:
    killed = (
        "import os, sys; from flask_idempotency.client import PendingKeys\n"
        "with PendingKeys(sys.argv[1]).pinned('order-17') as key:\n"
        "    print(key, flush=True); os.kill(os.getpid(), 9)"
    )
    process = subprocess.run(
        [sys.executable, "-c", killed, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == -9, process.stderr

    with PendingKeys(path).pinned("order-17") as key:
        assert key == process.stdout.strip()


def test_many_that_pin_one_operation_at_once_get_one_key(path: Path) -> None:
    PendingKeys(path)

    def pin(_: int) -> str:
        with pytest.raises(KeyError), PendingKeys(path).pinned("order-17") as key:
            raise KeyError
        return key

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(pin, range(32)))) == 1


def test_one_who_is_done_late_does_not_drop_the_key_of_the_next_operation(path: Path) -> None:
    keys = PendingKeys(path)
    with keys.pinned("top-up"):
        keys.forget("top-up")
        with pytest.raises(KeyError), keys.pinned("top-up") as second:
            raise KeyError

    assert keys.unfinished() == {"top-up": second}


def test_a_key_older_than_the_servers_records_is_not_handed_out(path: Path) -> None:
    keys = PendingKeys(path, max_age=3600)
    with freeze_time("2030-01-01") as clock:
        with pytest.raises(KeyError), keys.pinned("order-17") as first:
            raise KeyError
        clock.tick(3599)
        with pytest.raises(KeyError), keys.pinned("order-17") as again:
            raise KeyError
        assert again == first

        clock.tick(2)
        with pytest.raises(KeyOutlived, match="order-17"), keys.pinned("order-17"):
            pytest.fail("the block was run")
        assert keys.unfinished() == {"order-17": first}

        keys.forget("order-17")
        with keys.pinned("order-17") as fresh:
            assert fresh != first


def test_a_key_is_on_disk_before_it_is_used(path: Path) -> None:
    with PendingKeys(path).pinned("order-17") as key:
        copy = path.with_name("copy.db")
        copy.write_bytes(path.read_bytes())
        assert PendingKeys(copy).unfinished() == {"order-17": key}
