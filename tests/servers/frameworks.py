"""The same shop in Django, in Falcon and in Flask, each within the middleware, for real servers."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import django  # type: ignore[import-untyped]
import falcon
import flask
from django.conf import settings  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.core.signals import request_finished  # type: ignore[import-untyped]
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

from flask_idempotency import IdempotencyMiddleware, Policy
from flask_idempotency.stores import SQLiteStore

FOLDER = Path(os.environ.get("FOLDER", "/nonexistent"))
FILE = FOLDER / "file.bin"

#: What the handlers did, and how often a response was closed by the server.
did: list[str] = []
closed: list[str] = []


def chunks() -> Iterator[bytes]:
    yield b"one "
    yield b"two"


def note_closed(**_: object) -> None:
    closed.append("closed")


def django_order(request: HttpRequest) -> HttpResponse:
    did.append("order")
    response = JsonResponse({"run": len(did), "body": request.body.decode()}, status=201)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


def django_upload(request: HttpRequest) -> HttpResponse:
    did.append("upload")
    digest = hashlib.sha256()
    for chunk in request.FILES["file"].chunks():
        digest.update(chunk)
    return JsonResponse({"sha256": digest.hexdigest(), "text": request.POST["text"]})


def django_stream(request: HttpRequest) -> HttpResponseBase:
    did.append("stream")
    return StreamingHttpResponse(chunks(), content_type="text/plain")


def django_file(request: HttpRequest) -> HttpResponseBase:
    did.append("file")
    return FileResponse(FILE.open("rb"))


def django_fail(request: HttpRequest) -> HttpResponse:
    did.append("fail")
    raise ValueError("this request fails")


def django_did(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"did": did, "closed": len(closed)})


urlpatterns = [
    path("order", django_order),
    path("upload", django_upload),
    path("stream", django_stream),
    path("file", django_file),
    path("fail", django_fail),
    path("did", django_did),
]


def make_django(*middleware: str) -> Any:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of tests", MIDDLEWARE=middleware)
    django.setup()
    request_finished.connect(note_closed)
    return WSGIHandler()


class Shop:
    def on_post_order(self, request: falcon.Request, response: falcon.Response) -> None:
        did.append("order")
        response.status = falcon.HTTP_201
        response.media = {"run": len(did), "body": request.bounded_stream.read().decode()}
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")

    def on_post_upload(self, request: falcon.Request, response: falcon.Response) -> None:
        did.append("upload")
        digest, text = hashlib.sha256(), ""
        for part in request.get_media():
            if part.name == "text":
                text = part.text
            while chunk := part.stream.read(64 * 1024):
                digest.update(chunk)
        response.media = {"sha256": digest.hexdigest(), "text": text}

    def on_post_stream(self, request: falcon.Request, response: falcon.Response) -> None:
        did.append("stream")
        response.content_type = "text/plain"
        response.stream = chunks()

    def on_post_file(self, request: falcon.Request, response: falcon.Response) -> None:
        did.append("file")
        response.set_stream(FILE.open("rb"), FILE.stat().st_size)

    def on_post_fail(self, request: falcon.Request, response: falcon.Response) -> None:
        did.append("fail")
        raise ValueError("this request fails")

    def on_get_did(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {"did": did}


def make_falcon() -> Any:
    app = falcon.App()
    for name in ("order", "upload", "stream", "file", "fail", "did"):
        app.add_route(f"/{name}", Shop(), suffix=name)
    return app


def make_flask() -> Any:
    app = flask.Flask(__name__)

    @app.post("/order")
    def order() -> Any:
        did.append("order")
        response = flask.jsonify(run=len(did), body=flask.request.get_data(as_text=True))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response, 201

    @app.post("/upload")
    def upload() -> Any:
        did.append("upload")
        digest = hashlib.sha256(flask.request.files["file"].read())
        return {"sha256": digest.hexdigest(), "text": flask.request.form["text"]}

    @app.post("/stream")
    def stream() -> Any:
        did.append("stream")
        return flask.Response(chunks(), mimetype="text/plain")

    @app.post("/file")
    def file() -> Any:
        did.append("file")
        return flask.send_file(FILE)

    @app.post("/fail")
    def fail() -> Any:
        did.append("fail")
        raise ValueError("this request fails")

    @app.get("/did")
    def what_was_done() -> Any:
        return {"did": did}

    return app


FRAMEWORKS: dict[str, Callable[[], Any]] = {
    "django": make_django,
    # It tells the length of what it answers, so that this is held back until it is kept.
    "django with lengths": partial(make_django, "django.middleware.common.CommonMiddleware"),
    "falcon": make_falcon,
    "flask": make_flask,
}


def make(name: str) -> Any:
    store = SQLiteStore(FOLDER / "idempotency.db")
    return IdempotencyMiddleware(FRAMEWORKS[name](), store=store, policy=Policy(keep_cookies=True))


if "FRAMEWORK" in os.environ:
    app = make(os.environ["FRAMEWORK"])
