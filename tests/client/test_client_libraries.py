"""What our adapter and transports keep of the libraries they belong to."""

import asyncio
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3 import Timeout

from flask_idempotency.client import (
    AsyncIdempotencyTransport,
    IdempotencyAdapter,
    IdempotencyTransport,
    RetryPolicy,
)

from .client_kinds import NETWORK_ERRORS, QUICK, Client, Requests
from .faulty_network import Fault, FaultyNetwork
from .payment_server import Canned, Running, Till

Network = Callable[..., FaultyNetwork]


def test_both_rounds_of_an_authentication_carry_one_key(client: Client, till: Till, server: Running) -> None:
    challenge = 'Digest realm="till", nonce="n0nce", qop="auth", algorithm=SHA-256'
    till.canned.append(Canned(401, (("WWW-Authenticate", challenge),)))
    auth = requests.auth.HTTPDigestAuth if isinstance(client, Requests) else httpx.DigestAuth

    answer = client.send("POST", server.url + "/pay", json={"amount": 5}, auth=auth("ann", "secret"))

    assert answer.status_code == 201
    assert len(till.seen) == 2
    assert len(set(till.keys)) == 1


def test_an_adapter_survives_pickling(till: Till, network: Network) -> None:
    net = network(Fault.LOSE_ANSWER)
    session = requests.Session()
    session.mount("http://", IdempotencyAdapter(policy=QUICK, timeout=3.0))

    with pickle.loads(pickle.dumps(session)) as copy:
        adapter = copy.get_adapter(net.url)
        assert (adapter.policy, adapter.timeout) == (QUICK, 3.0)
        assert copy.post(net.url).status_code == 201


@pytest.mark.parametrize("timeout", [0.3, (5, 0.3), (None, 0.3), Timeout(total=0.3), Timeout(read=0.3)])
def test_a_time_out_that_the_caller_of_requests_gave_holds_for_each_attempt(
    timeout: Any, till: Till, network: Network
) -> None:
    net = network(*[Fault.HOLD_ANSWER] * 2)
    with requests.Session() as session:
        session.mount("http://", IdempotencyAdapter(policy=RetryPolicy(attempts=2, backoff=0.001)))

        with pytest.raises(requests.exceptions.ReadTimeout):
            session.post(net.url, timeout=timeout)

    assert len(net.attempts) == 2


def test_a_time_out_of_httpx_may_be_none_and_the_deadline_still_ends_it(network: Network) -> None:
    net = network(*[Fault.HOLD_ANSWER] * 9)
    transport = IdempotencyTransport(policy=RetryPolicy(deadline=0.5, backoff=0.001))

    with httpx.Client(transport=transport, timeout=None) as client, pytest.raises(httpx.ReadTimeout):
        client.post(net.url)


def test_httpx_transports_wrap_another(till: Till) -> None:
    till.canned.append(Canned(503))
    inner = httpx.WSGITransport(till)

    with httpx.Client(transport=IdempotencyTransport(inner, policy=QUICK)) as client:
        assert client.post("http://till/pay").status_code == 201

    assert len(set(till.keys)) == 1
    assert len(till.seen) == 2


def test_a_wrapped_transport_is_entered_and_left_with_the_client() -> None:
    told: list[str] = []

    class Inner(httpx.MockTransport):
        def __enter__(self) -> "Inner":
            told.append("entered")
            return self

        async def __aenter__(self) -> "Inner":
            told.append("entered")
            return self

        def __exit__(self, *_: object) -> None:
            told.append("left")

        async def __aexit__(self, *_: object) -> None:
            told.append("left")

        def close(self) -> None:
            told.append("closed")

    inner = Inner(lambda request: httpx.Response(204))

    async def visit() -> None:
        async with httpx.AsyncClient(transport=AsyncIdempotencyTransport(inner)) as client:
            await client.post("http://till")

    with httpx.Client(transport=IdempotencyTransport(inner)) as client:
        client.post("http://till")
    asyncio.run(visit())
    IdempotencyTransport(inner).close()

    assert told == ["entered", "left", "entered", "left", "closed"]


def test_the_callers_httpx_request_is_changed_by_nothing_but_its_key(network: Network) -> None:
    with httpx.Client(transport=IdempotencyTransport(policy=QUICK), timeout=7.0) as client:
        request = client.build_request("POST", network(Fault.LOSE_ANSWER).url, json={})
        before = dict(request.headers)
        client.send(request)

        assert request.headers.pop("Idempotency-Key")
        assert dict(request.headers) == before
        assert request.extensions["timeout"] == httpx.Timeout(7.0).as_dict()


def test_a_broken_request_is_not_retried(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    schemes = requests.exceptions.InvalidSchema, httpx.UnsupportedProtocol
    caplog.set_level("DEBUG", logger="flask_idempotency.client")

    with pytest.raises(schemes):
        client.send("POST", "gopher://127.0.0.1/")

    assert [entry for entry in caplog.records if entry.name == "flask_idempotency.client"] == []


def test_a_cancelled_request_stays_cancelled(network: Network) -> None:
    net = network(*[Fault.HOLD_ANSWER] * 9)

    async def pay() -> None:
        transport = AsyncIdempotencyTransport(policy=QUICK)
        async with httpx.AsyncClient(transport=transport, timeout=30) as client:
            task = asyncio.create_task(client.post(net.url))
            while not net.attempts:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(pay(), 20))
    assert len(net.attempts) == 1


def test_the_async_transport_runs_under_trio(till: Till, network: Network) -> None:
    import trio

    net = network(Fault.LOSE_ANSWER, Fault.CUT_ANSWER)

    async def pay() -> httpx.Response:
        async with httpx.AsyncClient(transport=AsyncIdempotencyTransport(policy=QUICK)) as client:
            return await client.post(net.url)

    assert trio.run(pay).json() == {"charge": 1}
    assert len(net.attempts) == 3


def test_many_requests_at_once_share_a_transport_and_no_key(till: Till, network: Network) -> None:
    net = network(*[Fault.LOSE_ANSWER] * 10)

    async def pay() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=AsyncIdempotencyTransport(policy=QUICK)) as client:
            return await asyncio.gather(*[client.post(net.url, json=number) for number in range(20)])

    answers = asyncio.run(pay())

    assert {answer.json()["charge"] for answer in answers} == set(range(1, 21))
    assert len(till.charges) == 20
    assert len(set(till.keys)) == 20


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """A TLS server whose certificate nobody vouches for: its URL, and the connections it saw."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "stranger.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            seen.append(1)
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}", seen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)


def test_a_certificate_that_is_refused_is_refused_once(
    make_client: Callable[..., Client], stranger: tuple[str, list[int]]
) -> None:
    url, seen = stranger
    client = make_client()
    if isinstance(client, Requests):
        client.session.mount("https://", IdempotencyAdapter(policy=QUICK))

    with pytest.raises(NETWORK_ERRORS, match=r"(?i)certificate"):
        client.send("POST", url)

    assert len(seen) == 1
