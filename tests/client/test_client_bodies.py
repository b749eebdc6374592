"""A body is sent whole on each attempt, or the request is refused before the first."""

import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from flask_idempotency.client import UnrepeatableBody

from .client_kinds import NETWORK_ERRORS, QUICK, AsyncHttpx, Client, Httpx, Requests
from .faulty_network import Fault, FaultyNetwork
from .payment_server import Canned, Running, Till

Network = Callable[..., FaultyNetwork]


@pytest.fixture
def upload(tmp_path: Path) -> Iterator[io.BufferedReader]:
    path = tmp_path / "invoice.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    with path.open("rb") as file:
        yield file


def generator_for(client: Client) -> Iterator[bytes] | AsyncIterator[bytes]:
    async def later() -> AsyncIterator[bytes]:
        yield b"once"

    return later() if isinstance(client, AsyncHttpx) else (part for part in [b"once"])


class Parts:
    """A body that gives its parts to whoever iterates it, as often as they like."""

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"part one,", b"part two")


class AsyncParts:
    """The same for an asynchronous client."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in Parts():
            yield part


def test_a_generator_is_refused_before_anything_is_sent(client: Client, till: Till, server: Running) -> None:
    with pytest.raises(UnrepeatableBody, match="only once"):
        client.send("POST", server.url + "/pay", content=generator_for(client))

    assert till.seen == []


def test_a_generator_without_a_key_is_sent_once(client: Client, till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)

    with pytest.raises(NETWORK_ERRORS):
        client.send("PUT", net.url + "/pay", content=generator_for(client))

    assert [request.body for request in till.seen] == [b"once"]


def test_a_body_that_can_be_iterated_again_is_sent_again(client: Client, till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)

    client.send("POST", net.url + "/pay", content=AsyncParts() if isinstance(client, AsyncHttpx) else Parts())

    assert [request.body for request in till.seen] == [b"part one,part two"] * 2


def test_a_pipe_is_refused_before_anything_is_sent(sync_client: Requests | Httpx, till: Till, server: Running) -> None:
    reading, writing = os.pipe()
    os.close(writing)

    with os.fdopen(reading, "rb") as pipe, pytest.raises(UnrepeatableBody):
        sync_client.send("POST", server.url + "/pay", content=pipe)

    assert till.seen == []


def test_a_file_is_sent_whole_on_each_attempt(
    sync_client: Requests | Httpx, till: Till, network: Network, upload: io.BufferedReader
) -> None:
    net = network(Fault.LOSE_ANSWER, Fault.CUT_ANSWER)

    sync_client.send("POST", net.url + "/pay", content=upload)

    whole = bytes(range(256)) * 1000
    assert [request.body == whole for request in till.seen] == [True, True, True]


def test_a_file_is_sent_from_where_it_stood(requests_client: Requests, till: Till, network: Network) -> None:
    # Of requests only: httpx announces the length of the whole file.
    net = network(Fault.LOSE_ANSWER)
    file = io.BytesIO(b"header|payload")
    file.seek(7)

    requests_client.send("POST", net.url + "/pay", content=file)

    assert [request.body for request in till.seen] == [b"payload", b"payload"]


def test_a_file_is_whole_again_for_who_sends_the_failed_request_again(
    sync_client: Requests | Httpx, till: Till, network: Network, upload: io.BufferedReader
) -> None:
    net = network(*[Fault.LOSE_REQUEST] * QUICK.attempts)
    with pytest.raises(NETWORK_ERRORS) as failed:
        sync_client.send("POST", net.url + "/pay", content=upload)

    sync_client.again(failed.value.request)

    assert till.charges == [bytes(range(256)) * 1000]


def test_a_file_is_whole_again_where_a_redirect_points(
    sync_client: Requests | Httpx, till: Till, server: Running, upload: io.BufferedReader
) -> None:
    till.canned.append(Canned(307, (("Location", "/new/pay"),)))

    answer = sync_client.send("POST", server.url + "/pay", content=upload, follow_redirects=True)

    assert answer.status_code == 201
    assert till.charges == [bytes(range(256)) * 1000]


def test_a_form_with_a_file_is_the_same_on_each_attempt(
    client: Client, till: Till, network: Network, upload: io.BufferedReader
) -> None:
    net = network(Fault.LOSE_ANSWER)

    client.send("POST", net.url + "/pay", data={"order": "17"}, files={"invoice": upload})

    first, second = (request.body for request in till.seen)
    assert bytes(range(256)) * 1000 in first
    assert first == second


def test_a_form_with_a_pipe_is_read_beforehand_or_refused(client: Client, till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)

    with os.fdopen(reading, "rb") as pipe:
        if isinstance(client, Requests):  # it reads the files of a form when it prepares the request
            client.send("POST", net.url + "/pay", files={"invoice": pipe})
            assert [b"from a pipe" in request.body for request in till.seen] == [True, True]
        else:
            with pytest.raises(UnrepeatableBody):
                client.send("POST", net.url + "/pay", files={"invoice": pipe})
            assert till.seen == []
