"""Request bodies under hooks: within Flask's own limits, and never read past their end."""

import functools
import io
from typing import Any

import pytest
from flask import Request, request

from tests.flask.apps import make_app, post, slug


class Socket(io.BytesIO):
    """A read beyond what was sent would hang, as that of a socket does."""

    def read(self, size: int | None = -1) -> bytes:
        left = len(self.getvalue()) - self.tell()
        assert size is not None
        assert 0 <= size <= left, "this read would hang"
        return super().read(size)

    readinto = None  # type: ignore[assignment]


def send(app: Any, data: bytes, **environ: str) -> Any:
    known = {"CONTENT_LENGTH": str(len(data)), "wsgi.input": Socket(data), "CONTENT_TYPE": "application/json"}
    return app.test_client().open("/x", method="POST", environ_overrides=known | environ)


@pytest.mark.skipif(Request.max_content_length.fset is None, reason="before Flask 3.1 only the app has a limit")
def test_a_limit_that_the_view_itself_lowers_counts() -> None:
    app, _ = make_app()

    @app.post("/x")
    def view() -> Any:
        request.max_content_length = 3
        return request.stream.read()

    assert post(app, data=b"123", key="a").data == b"123"
    assert post(app, data=b"1234", key="b").status_code == 413
    assert post(app, data=b"1234", key="b").status_code == 413  # not kept: it runs again
    assert post(app, data=b"123", key="a").headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_hook_that_reads_a_part_of_the_body_takes_nothing_from_the_view(size: int) -> None:
    app, _ = make_app()

    @app.before_request
    def peek() -> None:
        assert len(request.stream.read(7)) == 7

    app.add_url_rule("/x", "x", lambda: request.stream.read(), methods=["POST"])
    assert send(app, b"x" * size, HTTP_IDEMPOTENCY_KEY="k").data == b"x" * size


def test_a_413_of_the_applications_limit_leaves_no_claim() -> None:
    app, _ = make_app()
    app.config["MAX_CONTENT_LENGTH"] = 3
    app.add_url_rule("/x", "x", lambda: request.get_data(), methods=["POST"])
    assert post(app, data=b"1234").status_code == 413
    assert post(app, data=b"123").data == b"123"


def test_a_request_without_a_key_in_its_body_runs_where_none_is_required_and_reads_no_further() -> None:
    app, _ = make_app(required=False, key_from=lambda: None)
    app.add_url_rule("/x", "x", lambda: request.get_data(), methods=["POST"])
    assert send(app, b'{"a": 1}').data == b'{"a": 1}'


def test_a_key_that_was_looked_for_in_the_form_leaves_the_form_to_the_view() -> None:
    app, _ = make_app(required=False, key_from=lambda request: request.form.get("id"))
    app.add_url_rule("/x", "x", lambda: request.form.to_dict(), methods=["POST"])
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
    assert send(app, b"a=1", **form).json == {"a": "1"}
    assert [send(app, b"a=1&id=k", **form).json for _ in range(2)] == [{"a": "1", "id": "k"}] * 2


@pytest.mark.parametrize("key", ["a,b", "ok"])
def test_a_hook_may_look_at_the_body_of_a_refused_request_and_reads_no_further(key: str) -> None:
    app, _ = make_app()
    seen: list[bytes] = []

    @app.after_request
    def note(response: Any) -> Any:
        seen.append(request.get_data())
        return response

    app.add_url_rule("/x", "x", lambda: request.get_data(), methods=["POST"])
    answer = send(app, b"body", HTTP_IDEMPOTENCY_KEY=key)
    assert answer.status_code == (200 if key == "ok" else 400)
    assert seen == [b"body"]


def test_a_webhook_may_be_a_form_whose_key_is_read_by_a_method_without_arguments() -> None:
    class Events:
        def key(self) -> str:
            return request.form["id"]

    app, _ = make_app(key_from=Events().key)
    app.add_url_rule("/x", "x", lambda: request.form["id"], methods=["POST"])
    answers = [post(app, key=None, data={"id": "evt_1"}) for _ in range(2)]
    assert [answer.text for answer in answers] == ["evt_1"] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert slug(post(app, key=None, data={})) == "idempotency-key-missing"


def test_a_decorator_that_reads_the_upload_above_ours_takes_nothing_from_the_view() -> None:
    app, idempotency = make_app()

    def checking(view: Any) -> Any:
        @functools.wraps(view)
        def wrapper() -> Any:
            assert request.form["a"] == "1"
            return view()

        return wrapper

    @app.post("/x")
    @checking
    @idempotency.view
    def view() -> Any:
        return {"form": request.form.to_dict(), "file": request.files["f"].read().decode()}

    def upload() -> Any:
        return post(app, data={"a": "1", "f": (io.BytesIO(b"content"), "f.txt")})

    first, again = upload(), upload()
    assert first.json == {"form": {"a": "1"}, "file": "content"}
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("wraps", [True, False])
def test_a_hook_that_reads_the_form_before_a_view_that_alone_claims_takes_nothing_from_it(wraps: bool) -> None:
    app, idempotency = make_app(methods=())

    def decorating(view: Any) -> Any:
        wrapper = lambda: view()  # noqa: E731
        return functools.wraps(view)(wrapper) if wraps else wrapper

    @app.before_request
    def check() -> None:
        assert request.form["a"]

    app.add_url_rule("/x", "x", decorating(idempotency.view(lambda: request.form.to_dict())), methods=["POST"])
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "HTTP_IDEMPOTENCY_KEY": "k"}
    assert [send(app, b"a=1", **form).json for _ in range(2)] == [{"a": "1"}] * 2
    assert slug(send(app, b"a=2", **form)) == "idempotency-key-reused"
