"""Reads the policy and the store from the application's configuration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..engine.policy import OPTIONS, Policy, check_names
from ..engine.store import Store
from ..stores import open_store

_PREFIX = "IDEMPOTENCY_"
_STORE_URL = _PREFIX + "STORE_URL"
_ENCRYPTION_KEYS = _PREFIX + "ENCRYPTION_KEYS"
_ENCRYPTION_ID_KEY = _PREFIX + "ENCRYPTION_ID_KEY"
_OF_THE_STORE = {_STORE_URL, _ENCRYPTION_KEYS, _ENCRYPTION_ID_KEY}

#: What holds the records unless the configuration says otherwise: a file in the application's instance folder.
DEFAULT_STORE_URL = "sqlite:///idempotency.db"


def read_policy(config: Mapping[str, Any], base: Policy) -> Policy:
    """`base`, with what the configuration sets. Raises `PolicyError` for a key that does not exist."""
    known = {_PREFIX + option.upper(): option for option in OPTIONS}
    ours = {key: value for key, value in config.items() if key.startswith(_PREFIX)}
    check_names(ours, known={*known, *_OF_THE_STORE})
    return replace(base, **{known[key]: value for key, value in ours.items() if key not in _OF_THE_STORE})


def read_store(config: Mapping[str, Any], given: Store | None, *, directory: str) -> Store:
    """The store that was given, or that the configuration names; with encryption, where it has keys."""
    store = given or open_store(_read_store_url(config), directory=directory)
    if _ENCRYPTION_KEYS not in config:
        if config.get(_ENCRYPTION_ID_KEY) is not None:
            raise ValueError(f"{_ENCRYPTION_ID_KEY} needs {_ENCRYPTION_KEYS}, too: by itself it encrypts nothing.")
        return store
    from ..stores.encrypted import EncryptedStore

    return EncryptedStore(store, config[_ENCRYPTION_KEYS], id_key=config.get(_ENCRYPTION_ID_KEY))


def _read_store_url(config: Mapping[str, Any]) -> str:
    url = config.get(_STORE_URL, DEFAULT_STORE_URL)
    if not isinstance(url, str):
        raise TypeError(f"{_STORE_URL} must be a URL such as {DEFAULT_STORE_URL!r}.")
    return url
