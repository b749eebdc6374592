"""The middleware around Django and Falcon: a keyed POST, its replay, a reuse, a missing key, an upload."""

import io
from collections.abc import Callable
from typing import Any

import falcon
import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from werkzeug.test import Client

from flask_idempotency import IdempotencyMiddleware
from flask_idempotency.stores import MemoryStore

runs: list[str] = []


@csrf_exempt
def django_order(request: HttpRequest) -> HttpResponse:
    runs.append("order")
    return JsonResponse({"run": len(runs), "body": request.body.decode()}, status=201)


@csrf_exempt
def django_upload(request: HttpRequest) -> HttpResponse:
    runs.append("upload")
    return JsonResponse({"size": len(request.FILES["f"].read()), "text": request.POST["text"]})


@csrf_exempt
def django_stream(request: HttpRequest) -> StreamingHttpResponse:
    runs.append("stream")
    return StreamingHttpResponse(iter([b"a", b"b"]))


urlpatterns = [path("order", django_order), path("upload", django_upload), path("stream", django_stream)]


def make_django() -> Any:
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="s",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )
    return get_wsgi_application()


class FalconShop:
    def on_post_order(self, request: falcon.Request, response: falcon.Response) -> None:
        runs.append("order")
        response.status = falcon.HTTP_201
        response.media = {"run": len(runs), "body": request.bounded_stream.read().decode()}

    def on_post_upload(self, request: falcon.Request, response: falcon.Response) -> None:
        runs.append("upload")
        parts = {part.name: part.stream.read() for part in request.get_media()}
        response.media = {"size": len(parts["f"]), "text": parts["text"].decode()}

    def on_post_stream(self, request: falcon.Request, response: falcon.Response) -> None:
        runs.append("stream")
        response.stream = iter([b"a", b"b"])


def make_falcon() -> Any:
    app = falcon.App()
    for name in ("order", "upload", "stream"):
        app.add_route(f"/{name}", FalconShop(), suffix=name)
    return app


@pytest.fixture(params=[make_django, make_falcon], ids=["Django", "Falcon"])
def client(request: pytest.FixtureRequest) -> Client:
    make: Callable[[], Any] = request.param
    runs.clear()
    return Client(IdempotencyMiddleware(make(), store=MemoryStore()))


KEY = {"Idempotency-Key": "k"}


def test_a_keyed_post_and_its_replay(client: Client) -> None:
    first, again = (client.post("/order", data="book", headers=KEY) for _ in range(2))
    assert (first.status_code, first.json) == (201, {"run": 1, "body": "book"})
    assert (again.status_code, again.data, again.headers["Idempotent-Replayed"]) == (201, first.data, "true")
    assert client.post("/order", data="pen", headers=KEY).status_code == 422
    assert client.post("/order", data="pen").status_code == 400
    assert runs == ["order"]


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_an_upload_arrives_whole_and_its_retry_is_a_replay(client: Client, size: int) -> None:
    for _ in range(2):
        form = {"text": "x", "f": (io.BytesIO(b"f" * size), "f.bin")}
        assert client.post("/upload", data=form, headers=KEY).json == {"size": size, "text": "x"}
    assert runs == ["upload"]


def test_a_stream_is_kept_once_it_has_ended(client: Client) -> None:
    assert [client.post("/stream", headers=KEY).data for _ in range(2)] == [b"ab", b"ab"]
    assert runs == ["stream"]
