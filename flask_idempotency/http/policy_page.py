"""The page on which a resource publishes its idempotency policy, for people (HTML) and for programs (JSON).

The draft asks for it in section 2.2: the rules, expiry included, are to be published, and errors to link there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from werkzeug import Request, Response

from ..engine.policy import Policy
from .problems import PROBLEMS, Docs


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy and the URL rules it is in force for; no rules: for everything that has none of its own.

    A policy of None: they are exempt.
    """

    policy: Policy | None
    paths: tuple[str, ...] = ()


def answer(request: Request, rules: Sequence[Rules], docs: Docs) -> Response:
    """The page in the form that the request accepts."""
    document = _document(rules, docs.below(request.environ.get("SCRIPT_NAME", "")))
    if request.accept_mimetypes.best_match(["text/html", "application/json"], "text/html") == "application/json":
        response = Response(json.dumps(document, indent=2) + "\n", content_type="application/json")
    else:
        response = Response(_html(document), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    response.headers["Vary"] = "Accept"
    return response


def _document(rules: Sequence[Rules], docs: Docs) -> dict[str, Any]:
    return {
        "policies": _policies(rules),
        "exempt_paths": sorted({path for each in rules if each.policy is None for path in each.paths}),
        "problems": [
            {"type": docs.type_of(slug), "status": known.status, "title": known.title, "name": slug}
            for slug, known in PROBLEMS.items()
        ],
    }


def _policies(rules: Sequence[Rules]) -> list[dict[str, object]]:
    """Each policy once: those that read the same are in force for the paths of all of them."""
    described: list[tuple[dict[str, object], list[str]]] = []
    for each in rules:
        if each.policy is None:
            continue
        description = _describe(each.policy)
        for known, paths in described:
            if known == description:
                # No paths: in force for all others, and so for these.
                paths.extend(path for path in each.paths if paths and path not in paths)
                break
        else:
            described.append((description, list(each.paths)))
    return [{"paths": paths or "all others"} | description for description, paths in described]


def _describe(policy: Policy) -> dict[str, object]:
    return {
        "key": "taken from the request" if policy.key_from else policy.header,
        "methods": list(policy.methods),
        "required": policy.required,
        "quoted_form_only": policy.strict,
        "principal": _principal(policy),
        "fingerprint": _fingerprint(policy),
        "retention_seconds": policy.retention,
        "kept_responses": policy.keep if isinstance(policy.keep, str) else "chosen by status",
        "kept_cookies": policy.keep_cookies,
        "max_response_bytes": policy.max_response_bytes,
        "wait_seconds": policy.wait,
        "max_waiters": policy.max_waiters,
        "lease_seconds": policy.lease,
        "max_run_seconds": policy.max_run,
        "on_lapse": policy.on_lapse,
        "on_error": policy.on_error,
        "on_conflict": policy.on_conflict,
        "on_store_error": policy.on_store_error,
        "on_completion_error": policy.on_completion_error,
        "atomic": policy.atomic,
        "durable_claims": policy.durable_claims,
        "kept_requests": bool(policy.keep_request),
        "completable": policy.completable,
    }


def _principal(policy: Policy) -> str:
    if policy.principal is None:
        return "nobody is told apart"
    if isinstance(policy.principal, tuple):
        return ", ".join(policy.principal)
    if isinstance(policy.principal, str):
        return "who is signed in, else the Authorization header, else the session"
    return "chosen by the application"


def _fingerprint(policy: Policy) -> str:
    if not isinstance(policy.fingerprint, str):
        return "chosen by the application"
    return f"host, method, path, query and {'JSON value' if policy.fingerprint == 'json' else 'payload'}"


_LABELS = {
    "key": "Idempotency key",
    "methods": "Methods",
    "required": "Key required",
    "quoted_form_only": "Quoted form only",
    "principal": "Whose key it is",
    "fingerprint": "What makes a request the same",
    "retention_seconds": "Answers are kept for (seconds)",
    "kept_responses": "Responses kept",
    "kept_cookies": "Cookies are replayed",
    "max_response_bytes": "Largest response kept (bytes)",
    "wait_seconds": "A concurrent repeat waits for (seconds)",
    "max_waiters": "So many wait at once in a process",
    "lease_seconds": "A claim lapses after (seconds)",
    "max_run_seconds": "A request may run for (seconds)",
    "on_lapse": "When the first request's server vanished",
    "on_error": "When the first request failed",
    "on_conflict": "When two requests meet at the same data",
    "on_store_error": "When keys cannot be checked",
    "on_completion_error": "When an answer cannot be kept yet",
    "atomic": "The answer is kept in the work's own transaction",
    "durable_claims": "A claim survives power loss",
    "kept_requests": "Requests are kept until they are done",
    "completable": "What a crash left half-done may be completed without credentials",
}

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
caption { text-align: start; font-weight: bold; padding: .4rem 0 }
th, td { text-align: start; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886 }
th { font-weight: normal; width: 50%; overflow-wrap: anywhere }
:target { background: #fd04 }
"""


def _html(document: dict[str, Any]) -> str:
    tables = "".join(
        _table(
            "In force for " + (", ".join(each["paths"]) if isinstance(each["paths"], list) else "all other paths"),
            "".join(_row(label, _text(each[name])) for name, label in _LABELS.items()),
        )
        for each in document["policies"]
    )
    exempt = document["exempt_paths"]
    without = f"<p>Without idempotency keys: {escape(', '.join(exempt))}</p>" if exempt else ""
    problems = "".join(
        _row(each["type"], f"{each['status']} {each['title']}", anchor=each["name"]) for each in document["problems"]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Idempotency policy</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Idempotency policy</h1>"
        "<p>Send a new idempotency key with each operation, and the same key with each retry of it: the operation is "
        "done once, and every retry hears the first answer.</p>"
        f"{tables}{without}{_table('Problems', problems)}</body></html>\n"
    )


def _table(caption: str, rows: str) -> str:
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"


def _row(name: str, text: str, *, anchor: str = "") -> str:
    named = f' id="{escape(anchor)}"' if anchor else ""
    return f'<tr{named}><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'


def _text(value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
