"""Reads the policy, the store and the rest from the application's configuration."""

from collections.abc import Mapping
from typing import Any

from flask import Flask

from ..engine.policy import OPTIONS, Policy, PolicyError, check_names
from ..engine.store import Store
from ..http.problems import Docs
from ..stores import open_store

_PREFIX = "IDEMPOTENCY_"
_STORE_URL = _PREFIX + "STORE_URL"
_DURABLE = _PREFIX + "DURABLE"
_ENCRYPTION_KEYS = _PREFIX + "ENCRYPTION_KEYS"
_ENCRYPTION_ID_KEY = _PREFIX + "ENCRYPTION_ID_KEY"
_NAMESPACE = _PREFIX + "NAMESPACE"
_DOCS_URL = _PREFIX + "DOCS_URL"
_DOCS_PATH = _PREFIX + "DOCS_PATH"

#: What the configuration sets beside the policy.
OTHER_KEYS = (_STORE_URL, _DURABLE, _ENCRYPTION_KEYS, _ENCRYPTION_ID_KEY, _NAMESPACE, _DOCS_URL, _DOCS_PATH)

#: What holds the records unless the configuration says otherwise: a file in the application's instance folder.
DEFAULT_STORE_URL = "sqlite:///idempotency.db"

#: Where the page stands that documents the policies, unless the configuration says otherwise (RFC 8615).
DEFAULT_DOCS_PATH = "/.well-known/idempotency"


def read_policy(config: Mapping[str, Any], given: Policy | None) -> Policy:
    """The policy that was given, or that the configuration sets. Raises `PolicyError` for a key that does not exist."""
    known = {_PREFIX + option.upper(): option for option in OPTIONS}
    ours = [key for key in config if key.startswith(_PREFIX)]
    check_names(ours, known={*known, *OTHER_KEYS})
    options = {known[key]: config[key] for key in ours if key in known}
    if given is None:
        return Policy(**options)
    if not isinstance(given, Policy):
        raise PolicyError(f"policy must be a Policy, or None, not {given!r}.")
    if options:
        keys = ", ".join(key for key in ours if key in known)
        raise PolicyError(f"The policy is given in code, and the configuration sets {keys}, too: one place decides.")
    return given


def read_store(config: Mapping[str, Any], given: Store | None, *, directory: str) -> Store:
    """The store that was given, or that the configuration names; with encryption, where it has keys."""
    store = _open(config, directory) if given is None else _as_given(config, given)
    if config.get(_ENCRYPTION_KEYS) is None:
        if config.get(_ENCRYPTION_ID_KEY) is not None:
            raise ValueError(f"{_ENCRYPTION_ID_KEY} needs {_ENCRYPTION_KEYS}, too: by itself it encrypts nothing.")
        return store
    from ..stores.encrypted import EncryptedStore

    return EncryptedStore(store, config[_ENCRYPTION_KEYS], id_key=config.get(_ENCRYPTION_ID_KEY))


def read_namespace(app: Flask, given: str | None) -> str:
    """What keeps the application's records apart from those of others on the same store."""
    namespace = app.config.get(_NAMESPACE, app.import_name) if given is None else given
    if not isinstance(namespace, str):
        raise PolicyError(f"{_NAMESPACE} must be a string, not {namespace!r}.")
    return namespace


def read_docs(config: Mapping[str, Any]) -> Docs:
    """Where the policies are documented."""
    return Docs(url=config.get(_DOCS_URL), path=config.get(_DOCS_PATH, DEFAULT_DOCS_PATH))


def _open(config: Mapping[str, Any], directory: str) -> Store:
    url = config.get(_STORE_URL, DEFAULT_STORE_URL)
    if not isinstance(url, str):
        raise PolicyError(f"{_STORE_URL} must be a URL such as {DEFAULT_STORE_URL!r}.")
    durable = config.get(_DURABLE)
    if durable is None:
        return open_store(url, directory=directory)
    if not isinstance(durable, bool):
        raise PolicyError(f"{_DURABLE} must be True or False, not {durable!r}.")
    return open_store(url, directory=directory, durable=durable)


def _as_given(config: Mapping[str, Any], given: Store) -> Store:
    if config.get(_DURABLE) is not None:
        raise PolicyError(
            f"{_DURABLE} is for stores that a URL names; the store that is given has an option of its own."
        )
    return given
