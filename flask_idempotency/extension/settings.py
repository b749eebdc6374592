"""Reads the policy and the store's URL from the application's configuration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..engine.policy import OPTIONS, Policy, check_names

_PREFIX = "IDEMPOTENCY_"
_STORE_URL = _PREFIX + "STORE_URL"

#: What holds the records unless the configuration says otherwise: a file in the application's instance folder.
DEFAULT_STORE_URL = "sqlite:///idempotency.db"


def read_policy(config: Mapping[str, Any], base: Policy) -> Policy:
    """`base`, with what the configuration sets. Raises `PolicyError` for a key that does not exist."""
    known = {_PREFIX + option.upper(): option for option in OPTIONS}
    ours = {key: value for key, value in config.items() if key.startswith(_PREFIX)}
    check_names(ours, known={*known, _STORE_URL})
    return replace(base, **{known[key]: value for key, value in ours.items() if key != _STORE_URL})


def read_store_url(config: Mapping[str, Any]) -> str:
    """The URL of the store."""
    url = config.get(_STORE_URL, DEFAULT_STORE_URL)
    if not isinstance(url, str):
        raise TypeError(f"{_STORE_URL} must be a URL such as {DEFAULT_STORE_URL!r}, not {url!r}.")
    return url
