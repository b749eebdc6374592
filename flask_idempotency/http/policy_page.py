"""The page on which a resource publishes its idempotency policy, for people (HTML) and for programs (JSON).

The draft asks for it in section 2.2: the rules, expiry included, are to be published, and errors to link there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from urllib.parse import quote

from werkzeug import Request, Response

from ..engine.policy import Policy
from .problems import PROBLEMS, TYPE_PREFIX


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy and the URL rules it is in force for; no rules: for everything that has none of its own."""

    policy: Policy
    paths: tuple[str, ...] = ()


def answer(request: Request, rules: Sequence[Rules]) -> Response:
    """The page in the form that the request accepts."""
    if request.accept_mimetypes.best_match(["text/html", "application/json"], "text/html") == "application/json":
        response = Response(json.dumps(_document(rules), indent=2) + "\n", content_type="application/json")
    else:
        response = Response(_html(_document(rules)), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    response.headers["Vary"] = "Accept"
    return response


@lru_cache(maxsize=256)
def link_target(script_name: str, docs_url: str | None) -> str | None:
    """Where the `Link` of a problem points: a path is the application's own, below where it is mounted.

    `script_name` is the environ's `SCRIPT_NAME`.
    """
    if docs_url is None or not docs_url.startswith("/"):
        return docs_url
    # Decoded as PEP 3333 has it; a header takes it only encoded.
    return quote(script_name.rstrip("/").encode("latin-1", "replace"), safe="/:@!$&'()*+,;=~") + docs_url


def _document(rules: Sequence[Rules]) -> dict[str, object]:
    return {
        "policies": [_describe(entry) for entry in rules],
        "problems": [
            {"type": TYPE_PREFIX + known.slug, "status": known.status, "title": known.title}
            for known in PROBLEMS.values()
        ],
    }


def _describe(entry: Rules) -> dict[str, object]:
    policy = entry.policy
    return {
        "paths": list(entry.paths) or "all others",
        "key": "taken from the request" if policy.key_from else policy.header,
        "methods": list(policy.methods),
        "required": policy.required,
        "quoted_form_only": policy.strict,
        "retention_seconds": policy.retention,
        "lease_seconds": policy.lease,
        "wait_seconds": policy.wait,
        "kept_responses": policy.keep if isinstance(policy.keep, str) else "chosen by status",
        "max_response_bytes": policy.max_response_bytes,
        "on_lapse": policy.on_lapse,
        "on_store_error": policy.on_store_error,
        "fingerprint": f"method, path, query and {'JSON value' if policy.fingerprint == 'json' else 'payload'}",
    }


_LABELS = {
    "paths": "Paths",
    "key": "Idempotency key",
    "methods": "Methods",
    "required": "Key required",
    "quoted_form_only": "Quoted form only",
    "retention_seconds": "Answers are kept for (seconds)",
    "lease_seconds": "A claim lapses after (seconds)",
    "wait_seconds": "A concurrent repeat waits for (seconds)",
    "kept_responses": "Responses kept",
    "max_response_bytes": "Largest response kept (bytes)",
    "on_lapse": "When the first request's outcome is unknown",
    "on_store_error": "When keys cannot be checked",
    "fingerprint": "What makes a request the same",
}

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
caption { text-align: start; font-weight: bold; padding: .4rem 0 }
th, td { text-align: start; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886 }
th { font-weight: normal; width: 50% }
"""


def _html(document: dict[str, object]) -> str:
    policies, problems = document["policies"], document["problems"]
    assert isinstance(policies, list)
    assert isinstance(problems, list)
    tables = "".join(
        _table(
            "In force for " + (", ".join(p["paths"]) if isinstance(p["paths"], list) else "all other paths"),
            [(_LABELS[name], _text(value)) for name, value in p.items() if name != "paths"],
        )
        for p in policies
    )
    errors = _table("Problems", [(p["type"], f"{p['status']} {p['title']}") for p in problems])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Idempotency policy</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Idempotency policy</h1>"
        "<p>Send a new idempotency key with each operation, and the same key with each retry of it: the operation is "
        "done once, and every retry hears the first answer.</p>"
        f"{tables}{errors}</body></html>\n"
    )


def _table(caption: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in rows)
    return f"<table><caption>{escape(caption)}</caption>{body}</table>"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
