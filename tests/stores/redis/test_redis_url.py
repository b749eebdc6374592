"""How the URL of a Redis server is read."""

import logging

import pytest
import redis

from flask_idempotency.engine.store import StoreUnavailable
from flask_idempotency.stores.redis import RedisStore
from flask_idempotency.stores.redis_url import read_url

from . import servers
from .calls import must_claim

SECRET = "s3cret"


def connection_of(url: str) -> dict[str, object]:
    """How the client of a URL connects."""
    client = read_url(url).connect()
    assert isinstance(client, redis.Redis)
    return {**client.get_connection_kwargs(), "class": client.connection_pool.connection_class}


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_url_names_server_database_and_credentials(scheme: str) -> None:
    found = connection_of(f"{scheme}://al%40ice:s%2Fcret@db.example:7000/3")
    assert (found["host"], found["port"], found["db"]) == ("db.example", 7000, 3)
    assert (found["username"], found["password"]) == ("al@ice", "s/cret")
    assert found["class"] is redis.Connection


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_second_s_means_tls(scheme: str) -> None:
    found = connection_of(f"{scheme}://db.example?ssl_ca_certs=/ca.pem&ssl_check_hostname=no")
    assert found["class"] is redis.SSLConnection
    assert (found["ssl_ca_certs"], found["ssl_check_hostname"]) == ("/ca.pem", False)


def test_what_is_left_out_is_the_usual() -> None:
    found = connection_of("redis://")
    assert (found["host"], found["port"], found["db"]) == ("localhost", 6379, 0)
    assert (found["socket_timeout"], found["socket_connect_timeout"]) == (2.0, 2.0)


def test_an_ipv6_address_stands_in_brackets() -> None:
    found = connection_of("redis://:pw@[::1]:7000")
    assert (found["host"], found["port"], found["password"]) == ("::1", 7000, "pw")


def test_options_of_the_connection_are_passed_on() -> None:
    found = connection_of("redis://h?socket_timeout=0.5&health_check_interval=30&client_name=orders&protocol=2")
    assert (found["socket_timeout"], found["health_check_interval"], found["client_name"]) == (0.5, 30, "orders")
    assert found["protocol"] == 2


def test_sentinels_have_credentials_of_their_own() -> None:
    client = read_url(f"redis+sentinel://app:{SECRET}@a:1,b/records/2?sentinel_password=theirs").connect()
    assert isinstance(client.connection_pool, redis.SentinelConnectionPool)
    assert client.connection_pool.service_name == "records"
    options = client.get_connection_kwargs()
    assert (options["username"], options["password"], options["db"]) == ("app", SECRET, 2)
    asked = [sentinel.get_connection_kwargs() for sentinel in client.connection_pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("a", 1), ("b", 26379)]
    assert [(one["username"], one["password"]) for one in asked] == [(None, "theirs")] * 2


@pytest.mark.parametrize("scheme", ["rediss+sentinel", "valkeys+sentinel"])
def test_sentinels_and_servers_are_both_reached_by_tls(scheme: str) -> None:
    client = read_url(f"{scheme}://a:1/records").connect()
    pool = client.connection_pool
    assert pool.connection_class is redis.SentinelManagedSSLConnection
    assert pool.sentinel_manager.sentinels[0].connection_pool.connection_class is redis.SSLConnection


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}@h/notanumber",
        f"redis://u:{SECRET}@h/0/1",
        f"redis://u:{SECRET}@a,b",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h?min_replica=1",
        f"redis://u:{SECRET}@h?min_replicas=one",
        f"redis://u:{SECRET}@h?sentinel_password=x",
        f"redis://u:{SECRET}@h?socket_keepalive=perhaps",
        f"redis://u:{SECRET}@h?max_connections={SECRET}",
        f"redis://u:{SECRET}@h?decode_responses=True",
        f"redis://u:{SECRET}/@h",
        f"redis+sentinel://u:{SECRET}@h:1",
        f"redis+sentinel://u:{SECRET}@h:1/records/0/more",
        f"redis+cluster://u:{SECRET}@h:1/1",
        f"redis+mesh://u:{SECRET}@h:1",
        f"http://u:{SECRET}@h",
        "redis",
        "",
    ],
)
def test_a_url_that_says_something_else_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        RedisStore.from_url(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"min_replicas": -1}, "min_replicas"),
        ({"replica_timeout": 0}, "replica_timeout"),
        ({"min_replicas": 1, "replica_timeout": 2.0}, "socket_timeout"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RedisStore.from_url("redis://h", **options)  # type: ignore[arg-type]


def test_what_the_url_says_comes_before_the_arguments(own_valkey: servers.Server) -> None:
    store = RedisStore.from_url(f"{own_valkey.url}/5?prefix=url:", prefix="argument:")
    must_claim(store)
    with own_valkey.client(db=5) as client:
        (key,) = client.keys()
    assert key.startswith(b"url:")


@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("trouble", ["nobody listens", "wrong password"])
def test_the_credentials_reach_no_error_and_no_log(
    kind: str, trouble: str, own_valkey: servers.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = own_valkey.port if trouble == "wrong password" else servers.free_port()
    with own_valkey.client() as client:
        client.config_set("requirepass", "another")
    path = "/records" if kind == "redis+sentinel" else ""
    store = RedisStore.from_url(f"{kind}://alice:{SECRET}@127.0.0.1:{port}{path}")
    with pytest.raises(StoreUnavailable) as unavailable:
        must_claim(store)
    error: BaseException | None = unavailable.value
    while error is not None:
        assert SECRET not in str(error) + repr(error)
        error = error.__cause__ or error.__context__
    assert SECRET not in caplog.text + repr(store)


@pytest.mark.parametrize("client", [object(), "redis://localhost", redis.asyncio.Redis(), redis.Redis().pipeline()])
def test_what_is_no_client_is_refused(client: object) -> None:
    with pytest.raises(TypeError, match="RedisStore needs"):
        RedisStore(client)  # type: ignore[arg-type]
