"""Derived keys: one operation has one for each name, whichever way its requests come in, as long as it lives."""

import json
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request, session
from werkzeug.test import Client

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.attempt import Attempt
from flask_idempotency.engine.engine import Engine
from flask_idempotency.engine.records import RecordKey
from flask_idempotency.exactly_once.derived_key import derive_key
from flask_idempotency.http.admission import ATTEMPT
from flask_idempotency.stores import EncryptedStore, MemoryStore

NAMES = ("charge", "mail")

NAMESPACE = "shop"

PINNED = "9e7150eb-7d46-870d-bf6b-0085a63b1e0d"
PINNED_IDENTITY = "d60e181e7c03430bc8b791126691e0fb"


def by_hook(store: Any, **policy: Any) -> Any:
    app = Flask(__name__)
    idempotency = Idempotency(app, store=store, policy=Policy(**policy), namespace=NAMESPACE)
    app.add_url_rule("/", "view", lambda: ([idempotency.derive_key(n) for n in NAMES], 503), methods=["POST"])
    return app


def by_decorator(store: Any, **policy: Any) -> Any:
    app = Flask(__name__)
    idempotency = Idempotency(app, store=store, namespace=NAMESPACE)
    view = idempotency.view(**policy)(lambda: ([idempotency.derive_key(n) for n in NAMES], 503))
    app.add_url_rule("/", "view", view, methods=["POST"])
    return app


def by_middleware(store: Any, **policy: Any) -> Any:
    def inner(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps([derive_key(environ[ATTEMPT], name) for name in NAMES]).encode()]

    return IdempotencyMiddleware(inner, store=store, policy=Policy(**policy), namespace=NAMESPACE)


WAYS = [by_hook, by_decorator, by_middleware]


def ask(make: Callable[..., Any], *, store: Any = None, key: str = "k", caller: str = "a", **policy: Any) -> list[str]:
    headers = {"Idempotency-Key": key, "Authorization": caller}
    answer = Client(make(MemoryStore() if store is None else store, **policy)).post("/", headers=headers)
    keys: list[str] = json.loads(answer.get_data())
    return keys


@pytest.mark.parametrize("policy", [{}, {"principal": ["Authorization"]}, {"principal": lambda _: "account 1"}])
def test_every_way_into_the_library_derives_the_same(policy: dict[str, Any]) -> None:
    assert len({tuple(ask(way, **policy)) for way in WAYS}) == 1


def test_the_quoted_and_the_bare_form_of_a_key_derive_the_same() -> None:
    assert ask(by_hook, key="k") == ask(by_hook, key='"k"')


@pytest.mark.parametrize("way", WAYS)
def test_another_key_principal_or_name_derives_another(way: Any) -> None:
    derived = [each for key in "kl" for caller in "ab" for each in ask(way, key=key, caller=caller)]
    assert len(set(derived)) == 2 * 2 * len(NAMES)


def test_encryption_and_its_keys_have_no_part_in_it() -> None:
    plain = ask(by_hook)
    for keys, id_key in ((["key-" * 10], None), (["key-" * 10], "ids-" * 10), (["new-" * 10], "ids-" * 10)):
        assert ask(by_hook, store=EncryptedStore(MemoryStore(), keys, id_key=id_key)) == plain


def test_it_is_the_same_in_every_version() -> None:
    """Pinned: a change here, rolled out between two attempts, charges a card twice."""
    attempt = Engine(MemoryStore()).begin(
        key="order-1", principal=bytes(16), fingerprint=b"f", request_fingerprint=b"r", policy=Policy()
    )
    assert isinstance(attempt, Attempt)
    assert derive_key(attempt, "charge") == PINNED
    assert RecordKey.of(bytes(16), "order-1").id.hex() == PINNED_IDENTITY


@pytest.mark.parametrize("way", [by_hook, by_decorator])
def test_another_namespace_derives_another(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = ask(way)
    monkeypatch.setattr(sys.modules[__name__], "NAMESPACE", "another")
    assert set(derived).isdisjoint(ask(way))


@pytest.mark.parametrize("way", WAYS)
def test_another_payload_derives_another(way: Any) -> None:
    """A key that was given back may be used for another, and the other side must not take that for a repeat."""
    client = Client(way(MemoryStore()))
    headers = {"Idempotency-Key": "k"}
    one, again, other = (json.loads(client.post("/", headers=headers, data=data).get_data()) for data in "aab")
    assert one == again
    assert set(one).isdisjoint(other)


def test_what_a_session_adds_to_the_fingerprint_has_no_part_in_it() -> None:
    app = Flask(__name__)
    app.secret_key = "secret"
    idempotency = Idempotency(app, store=MemoryStore())
    seen: list[tuple[str, bytes]] = []

    def view() -> Any:
        assert idempotency.attempt is not None
        seen.append((idempotency.derive_key("charge"), idempotency.attempt.claim.fingerprint))
        session["step"] = len(seen)
        return "no", 503

    app.add_url_rule("/", "view", view, methods=["POST"])
    client = app.test_client()
    for _ in range(3):
        client.post("/", headers={"Idempotency-Key": "k"})
    keys, fingerprints = ({each[place] for each in seen} for place in (0, 1))
    assert (len(keys), len(fingerprints)) == (1, 3)


@pytest.mark.parametrize("name", ["", "caf\xe9", "x" * 10_000, "charge\n"])
def test_any_name_derives_what_can_stand_in_a_header(name: str) -> None:
    app = Flask(__name__)
    idempotency = Idempotency(app, store=MemoryStore())

    def view() -> Any:
        derived = idempotency.derive_key(name)
        assert request.headers["Idempotency-Key"] not in derived
        return derived

    app.add_url_rule("/", "view", view, methods=["POST"])
    derived = app.test_client().post("/", headers={"Idempotency-Key": "k-secret"}).text
    assert str(uuid.UUID(derived)) == derived
    assert (uuid.UUID(derived).version, uuid.UUID(derived).variant) == (8, uuid.RFC_4122)
