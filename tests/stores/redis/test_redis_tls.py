"""`rediss://`: TLS to the server, whose certificate is checked."""

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flask_idempotency.engine.records import Completed, StoredResponse
from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.testing.contract import DAY, FINGERPRINT

from . import servers
from .calls import claim, must_claim


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signed itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "valkey")])
    today = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(signed.public_bytes(pem) + private)
    return path


@pytest.fixture
def tls_port(valkey: servers.Server, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS in front of the server, which does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):
                client = context.wrap_socket(plain, server_side=True)
                server = socket.create_connection(valkey.address)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(servers.PATIENCE)


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_server_with_a_trusted_certificate_is_used(scheme: str, tls_port: int, certificate: Path) -> None:
    store = RedisStore.from_url(f"{scheme}://127.0.0.1:{tls_port}?ssl_ca_certs={certificate}")
    large = StoredResponse("200 OK", (), b"x" * 1024 * 1024)
    for _ in range(2):
        held = must_claim(store)
        assert store.renew([held], lease=60) == set()
        assert store.complete(held, large, retention=DAY) is True
        assert claim(store, held.record) == Completed(FINGERPRINT, large)
    store.close()


def test_a_server_that_nobody_vouches_for_is_not_talked_to(tls_port: int) -> None:
    with pytest.raises(StoreUnavailable, match="certificate"):
        claim(RedisStore.from_url(f"rediss://127.0.0.1:{tls_port}"))
