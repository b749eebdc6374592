"""When an answer counts as complete, and in what state the caller gets it."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import requests

from flask_idempotency.client import IdempotencyAdapter, IdempotencyTransport

from .client_kinds import QUICK, Client, Httpx, Requests
from .faulty_network import PATIENCE, Fault, FaultyNetwork
from .payment_server import Canned, Running, Till

Network = Callable[..., FaultyNetwork]
GZIP = ("Content-Encoding", "gzip")


def test_an_answer_of_requests_that_streams_is_the_callers_to_read(
    requests_client: Requests, till: Till, network: Network
) -> None:
    net = network(Fault.LOSE_ANSWER, Fault.CUT_ANSWER)

    answer = requests_client.send("POST", net.url + "/pay", stream=True)

    assert answer.status_code == 201
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = answer.content
    assert len(till.seen) == 2


def test_a_streamed_answer_that_asks_for_another_attempt_gets_it(
    requests_client: Requests, till: Till, network: Network
) -> None:
    in_flight = Canned.problem(409, "request-in-progress", ("Retry-After", "0"))
    till.canned.extend([Canned(503), in_flight, Canned(409, body=b"taken")])

    answer = requests_client.send("POST", network().url + "/pay", stream=True)

    assert (answer.status_code, b"".join(answer.iter_content(2))) == (409, b"taken")


def test_httpx_streams_an_answer_under_a_key_from_memory(httpx_client: Httpx, till: Till, network: Network) -> None:
    net = network(Fault.CUT_ANSWER)

    with httpx_client.client.stream("POST", net.url + "/pay") as answer:
        assert b"".join(answer.iter_raw()) == b'{"charge": 1}'

    assert len(till.charges) == 1


def test_httpx_hands_a_streamed_answer_on_where_the_request_says_so(
    httpx_client: Httpx, till: Till, network: Network
) -> None:
    net = network(Fault.LOSE_ANSWER, Fault.CUT_ANSWER)

    with (
        httpx_client.client.stream("POST", net.url + "/pay", extensions={"stream": True}) as answer,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        answer.read()

    assert len(till.seen) == 2


def test_httpx_does_not_read_an_answer_without_a_key_ahead(httpx_client: Httpx, running: Running) -> None:
    first_part_was_read = threading.Event()

    def endless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"first"
        assert first_part_was_read.wait(PATIENCE)
        yield b"last"

    running.app = endless
    with httpx_client.client.stream("GET", running.url) as answer:
        parts = answer.iter_raw()
        assert next(parts) == b"first"
        first_part_was_read.set()
        assert list(parts) == [b"last"]


def test_a_compressed_answer_is_decoded_once(client: Client, till: Till, server: Running) -> None:
    till.canned.append(Canned(201, (GZIP,), gzip.compress(b'{"charge": 9}')))

    answer = client.send("POST", server.url + "/pay")

    assert answer.json() == {"charge": 9}
    assert answer.elapsed.total_seconds() > 0


def test_a_streamed_conflict_that_is_final_is_not_read_ahead(
    requests_client: Requests, till: Till, network: Network
) -> None:
    till.canned.append(Canned(409, body=b"seat taken"))

    answer = requests_client.send("POST", network(Fault.CUT_ANSWER).url + "/pay", stream=True)

    assert answer.status_code == 409
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = answer.content
    assert len(till.seen) == 1


def test_a_garbled_answer_is_the_librarys_own_error_and_not_retried(
    client: Client, till: Till, server: Running
) -> None:
    till.canned.append(Canned(201, (GZIP,), b"no gzip at all"))

    with pytest.raises((requests.exceptions.ContentDecodingError, httpx.DecodingError)):
        client.send("POST", server.url + "/pay")

    assert len(till.seen) == 1


def test_cookies_of_the_answer_reach_the_client(client: Client, till: Till, server: Running) -> None:
    till.canned.append(Canned(201, (("Set-Cookie", "seat=7"),)))

    client.send("POST", server.url + "/pay")

    jar = client.session.cookies if isinstance(client, Requests) else client.client.cookies
    assert jar.get("seat") == "7"


@pytest.fixture
def narrow_client() -> Iterator[Requests]:
    with closing(Requests(QUICK)) as client:
        adapter = IdempotencyAdapter(policy=QUICK, pool_connections=1, pool_maxsize=1, pool_block=True)
        client.session.mount("http://", adapter)
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_requests_gives_its_connection_back_between_attempts(
    stream: bool, narrow_client: Requests, till: Till, server: Running
) -> None:
    """With a pool of one that blocks, an answer that was never let go would starve the next attempt for ever."""
    till.canned.extend([Canned(503), Canned(409, (("Retry-After", "0"),))])
    answers: list[requests.Response] = []

    # Apart, so that a starved attempt fails the test instead of hanging it.
    apart = threading.Thread(
        target=lambda: answers.append(narrow_client.send("POST", server.url, stream=stream)), daemon=True
    )
    apart.start()
    apart.join(PATIENCE)

    assert [answer.status_code for answer in answers] == [201]


def test_httpx_gives_its_connection_back_between_attempts(till: Till, network: Network) -> None:
    till.canned.extend([Canned(503), Canned(409, (("Retry-After", "0"),))])
    one = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1))
    timeout = httpx.Timeout(10, pool=0.01)

    with httpx.Client(transport=IdempotencyTransport(one, policy=QUICK), timeout=timeout) as client:
        assert client.post(network(Fault.CUT_ANSWER).url).status_code == 201
