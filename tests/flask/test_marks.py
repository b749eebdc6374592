"""Options and exemptions, wherever they may be written: the nearest to the handler counts."""

from typing import Any

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView, View

from flask_idempotency import Idempotency, Policy
from flask_idempotency.stores import MemoryStore
from tests.flask.apps import make_app, post, slug


def is_exempt(app: Flask, path: str = "/x") -> bool:
    answers = [post(app, path, key=path) for _ in range(2)] + [post(app, path, key=None)]
    assert answers[0].status_code == 200
    exempt = [answer.status_code == 200 and "Idempotent-Replayed" not in answer.headers for answer in answers[1:]]
    assert exempt[0] == exempt[1]
    return exempt[0]


def test_the_only_method_of_a_view_class_may_have_options() -> None:
    app, idempotency = make_app()

    class Report(View):
        methods = ["POST"]

        @idempotency.view(required=False)
        def dispatch_request(self) -> str:
            return "done"

    app.add_url_rule("/x", view_func=Report.as_view("x"))
    assert post(app, key=None).text == "done"
    assert [post(app).headers.get("Idempotent-Replayed") for _ in range(2)] == [None, "true"]


def test_the_only_method_of_a_view_class_may_be_exempt() -> None:
    app, idempotency = make_app()

    class Report(View):
        methods = ["POST"]

        @idempotency.exempt
        def dispatch_request(self) -> str:
            return "done"

    app.add_url_rule("/x", view_func=Report.as_view("x"))
    assert is_exempt(app)


def test_a_method_may_be_exempt_in_a_class_that_is_covered() -> None:
    app, idempotency = make_app()

    class Orders(MethodView):
        decorators = [idempotency.view()]

        @idempotency.exempt
        def post(self) -> str:
            return "done"

        def patch(self) -> str:
            return "done"

    app.add_url_rule("/x", view_func=Orders.as_view("x"))
    assert is_exempt(app)
    assert slug(post(app, method="PATCH", key=None)) == "idempotency-key-missing"


def test_a_method_may_be_covered_in_a_class_that_is_exempt() -> None:
    app, idempotency = make_app()

    @idempotency.exempt
    class Orders(MethodView):
        @idempotency.view(retention=60)
        def post(self) -> str:
            return "done"

        def patch(self) -> str:
            return "done"

    app.add_url_rule("/x", view_func=Orders.as_view("x"))
    assert not is_exempt(app)
    assert post(app, method="PATCH", key=None).text == "done"


def test_a_method_that_a_subclass_writes_anew_does_not_inherit_the_options_of_the_old_one() -> None:
    app, idempotency = make_app()

    class Orders(MethodView):
        @idempotency.exempt
        def post(self) -> str:
            return "done"

    class OtherOrders(Orders):
        def post(self) -> str:
            return "done"

    app.add_url_rule("/x", view_func=Orders.as_view("x"))
    app.add_url_rule("/other", view_func=OtherOrders.as_view("other"))
    assert is_exempt(app)
    assert not is_exempt(app, "/other")


@pytest.mark.parametrize("exempt_last", [True, False])
def test_of_two_that_contradict_each_other_on_one_view_the_outer_counts(exempt_last: bool) -> None:
    app, idempotency = make_app()
    decorators = [idempotency.view(), idempotency.exempt]
    view: Any = lambda: "done"  # noqa: E731
    for decorate in decorators if exempt_last else reversed(decorators):
        view = decorate(view)
    app.add_url_rule("/x", "x", view, methods=["POST"])
    assert is_exempt(app) == exempt_last


class Handlers:
    """Views that are methods of an object."""

    def plain(self) -> str:
        return "done"

    async def asynchronous(self) -> str:
        return "done"


@pytest.mark.parametrize("name", ["plain", "asynchronous"])
def test_a_bound_method_may_be_exempt_and_its_object_is_not(name: str) -> None:
    app, idempotency = make_app()
    handlers, others = Handlers(), Handlers()
    app.add_url_rule("/x", view_func=idempotency.exempt(getattr(handlers, name)), methods=["POST"])
    app.add_url_rule("/other", "other", getattr(others, name), methods=["POST"])
    assert name in app.view_functions
    assert is_exempt(app)
    assert not is_exempt(app, "/other")


def test_an_exempt_blueprint_exempts_those_that_are_nested_in_it_but_not_what_says_otherwise() -> None:
    app, idempotency = make_app()
    outer, inner, sibling = (Blueprint(name, __name__, url_prefix=f"/{name}") for name in ("outer", "inner", "sibling"))
    idempotency.exempt(outer)
    outer.add_url_rule("/plain", "plain", lambda: "done", methods=["POST"])
    inner.add_url_rule("/plain", "plain", lambda: "done", methods=["POST"])
    inner.add_url_rule("/covered", "covered", idempotency.view(lambda: "done"), methods=["POST"])
    sibling.add_url_rule("/plain", "plain", lambda: "done", methods=["POST"])
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.register_blueprint(sibling)
    app.register_blueprint(inner, name="again", url_prefix="/again")
    assert is_exempt(app, "/outer/plain")
    assert is_exempt(app, "/outer/inner/plain")
    assert not is_exempt(app, "/outer/inner/covered")
    assert not is_exempt(app, "/sibling/plain")
    assert not is_exempt(app, "/again/plain")


@pytest.mark.parametrize("methods", [(), ("PUT",)])
def test_a_view_is_covered_under_a_decorator_that_hides_it(methods: tuple[str, ...]) -> None:
    app, idempotency = make_app(methods=methods)
    method = methods[0] if methods else "POST"
    runs: list[int] = []

    def hiding(view: Any) -> Any:
        return lambda: view()  # no functools.wraps

    @idempotency.view()
    def view() -> str:
        runs.append(1)
        return f"run {len(runs)}"

    app.add_url_rule("/x", "x", hiding(view), methods=[method])
    assert [post(app, method=method, data=b"body").text for _ in range(2)] == ["run 1"] * 2


@pytest.mark.parametrize("read", [0, 5, None])
def test_a_view_that_is_hidden_and_alone_claims_has_its_own_fingerprint(read: int | None) -> None:
    app, idempotency = make_app(methods=())
    runs: list[bytes] = []

    @app.before_request
    def look() -> None:
        if read != 0:
            request.stream.read(-1 if read is None else read)

    @idempotency.view(fingerprint="json")
    def view() -> str:
        runs.append(request.get_data())
        return "done"

    app.add_url_rule("/x", "x", lambda: view(), methods=["POST"])  # no functools.wraps
    bodies = [b'{"a": 1, "b": 2}', b'{"b":2,"a":1.0}', b'{"b":2,"a":3}']
    asked = [post(app, data=body, content_type="application/json").status_code for body in bodies]
    assert (asked, runs) == ([200, 200, 422], bodies[:1])


class AView(View):
    pass


@pytest.mark.parametrize("target", ["retention", 3600, {"retention": 3600}, Blueprint("b", __name__)])
def test_options_without_their_names_are_an_error_where_they_are_written(target: Any) -> None:
    _, idempotency = make_app()
    with pytest.raises(TypeError, match="such as retention=3600"):
        idempotency.view(target)


def test_a_view_class_is_told_how_to_be_decorated() -> None:
    _, idempotency = make_app()
    with pytest.raises(TypeError, match=r"decorators = \[idempotency.view"):
        idempotency.view(retention=3600)(AView)


@pytest.mark.parametrize("target", ["name of a view", 7, None])
def test_what_cannot_be_exempt_is_an_error_where_it_is_written(target: Any) -> None:
    _, idempotency = make_app()
    with pytest.raises(TypeError, match="a view class or a blueprint is wanted"):
        idempotency.exempt(target)


def test_one_decorated_view_serves_two_applications_each_under_its_own_policy() -> None:
    idempotency = Idempotency()
    view = idempotency.view(retention=60)(lambda: "done")
    apps = []
    for header in ("X-One", "X-Two"):
        app = Flask(__name__)
        app.config.update(IDEMPOTENCY_STORE_URL="memory://", IDEMPOTENCY_HEADER=header, IDEMPOTENCY_METHODS=())
        idempotency.init_app(app)
        app.add_url_rule("/x", "x", view, methods=["POST"])
        apps.append(app)
    for app, header in zip(apps, ("X-One", "X-Two"), strict=True):
        answers = [post(app, key=None, headers={header: "k"}) for _ in range(2)]
        assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    assert slug(post(apps[0], key=None, headers={"X-Two": "k"})) == "idempotency-key-missing"


def test_the_store_of_one_application_is_not_another_ones() -> None:
    one, two = MemoryStore(), MemoryStore()
    for store in (one, two):
        app = Flask(__name__)
        Idempotency(app, store=store)
        app.add_url_rule("/x", "x", lambda: "done", methods=["POST"])
        assert "Idempotent-Replayed" not in post(app).headers


def test_one_function_under_two_decorators_has_the_options_of_each_in_each_application() -> None:
    heard: list[Any] = []

    def view() -> str:
        attempt = idempotency.attempt
        heard.append(attempt and (attempt.policy.lease, attempt.policy.wait))
        return "ok"

    first, idempotency = make_app(wait=1)
    second = Flask(__name__)
    Idempotency(second, store=MemoryStore(), policy=Policy(wait=2))
    short, long = idempotency.view(lease=5)(view), idempotency.view(lease=50)(view)
    for app in (first, second):
        app.add_url_rule("/x", "short", short, methods=["POST"])
        app.add_url_rule("/y", "long", long, methods=["POST"])
    for app in (first, second, first):
        for path in ("/x", "/y"):
            post(app, path, key=f"{len(heard)}")
    assert heard == [(5, 1), (50, 1), (5, 2), (50, 2), (5, 1), (50, 1)]
