"""One small application behind each of the three front ends, so that the same cases run over all of them."""

from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask, Response, abort, jsonify, request

from flask_idempotency import Idempotency, IdempotencyMiddleware, Policy
from flask_idempotency.engine.policy import VIEW_OPTIONS
from flask_idempotency.engine.store import Store
from flask_idempotency.stores import MemoryStore

PAGE = "/.well-known/idempotency"

NAMESPACE = "shop"

FRONT_ENDS = ("hooks", "decorator", "middleware")


class Shop:
    """The application under test: what it ran is in `runs`."""

    def __init__(self, front_end: str, store: Store | None = None, observers: Any = (), **options: Any) -> None:
        self.front_end = front_end
        self.store = MemoryStore() if store is None else store
        self.runs: list[str] = []
        self.app = app = Flask(__name__)
        app.config["PROPAGATE_EXCEPTIONS"] = False
        decorate: Callable[[Any], Any] = lambda view: view  # noqa: E731
        if front_end == "hooks":
            Idempotency(app, store=self.store, policy=Policy(**options), namespace=NAMESPACE, observers=observers)
        elif front_end == "decorator":
            # Nothing is covered but by the decorators.
            policy = Policy(methods=(), **{name: value for name, value in options.items() if name not in VIEW_OPTIONS})
            idempotency = Idempotency(app, store=self.store, policy=policy, namespace=NAMESPACE, observers=observers)
            decorate = idempotency.view(**{name: value for name, value in options.items() if name in VIEW_OPTIONS})
        for name in ("echo", "status", "error", "headers", "binary", "empty", "stream", "large", "upload"):
            view = decorate(getattr(self, name))
            app.add_url_rule(f"/{name}", name, view, methods=["GET", "POST", "PATCH", "PUT", "DELETE"])
        if front_end == "middleware":
            app.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
                app.wsgi_app,
                store=self.store,
                policy=Policy(**options),
                namespace=NAMESPACE,
                docs_path=PAGE,
                observers=observers,
            )
        self.client = app.test_client(use_cookies=False)

    def post(self, path: str = "/echo", key: str | None = "k", method: str = "POST", **request: Any) -> Any:
        """Ask, under a key unless it is None."""
        headers = dict(request.pop("headers", {}))
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.client.open(path, method=method, headers=headers, **request)

    def slug(self, response: Any) -> str:
        """The name of the problem that was answered."""
        assert response.content_type == "application/problem+json", response.text
        assert response.json["status"] == response.status_code
        assert response.json["title"]
        assert response.json["detail"]
        link, slug = response.json["type"].rpartition("#")[::2]
        assert response.headers["Link"] == f'<{link}>; rel="describedby"'
        assert link == PAGE
        return str(slug)

    def echo(self) -> Any:
        self.runs.append("echo")
        return jsonify(run=len(self.runs), body=request.get_data(as_text=True), form=request.form.to_dict()), 201

    def status(self) -> Any:
        self.runs.append("status")
        status = int(request.args["status"])
        return abort(status) if "abort" in request.args else (f"run {len(self.runs)}", status)

    def error(self) -> Any:
        self.runs.append("error")
        raise ValueError("the handler failed")

    def headers(self) -> Any:
        self.runs.append("headers")
        response = Response("one", status="299 Quite Well")
        for name, value in (("X-B", "1"), ("X-A", "2"), ("X-B", "3"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")):
            response.headers.add(name, value)
        response.headers["Date"] = "Tue, 24 Nov 2026 12:00:00 GMT"
        response.headers["Content-Encoding"] = "x-none"
        return response

    def binary(self) -> Any:
        self.runs.append("binary")
        return Response(bytes(range(256)), mimetype="application/octet-stream")

    def empty(self) -> Any:
        self.runs.append("empty")
        return "", 204

    def stream(self) -> Any:
        self.runs.append("stream")
        stop = int(request.args.get("break", 10))

        def chunks() -> Iterator[bytes]:
            for number in range(10):
                if number == stop:
                    raise ConnectionError("the stream broke")
                yield b"%d" % number * int(request.args.get("times", 1))

        from flask import stream_with_context

        return Response(stream_with_context(chunks()), mimetype="text/event-stream")

    def large(self) -> Any:
        self.runs.append("large")
        return Response(b"x" * int(request.args["size"]))

    def upload(self) -> Any:
        self.runs.append("upload")
        files = {name: (file.filename, file.read().decode("latin-1")) for name, file in request.files.items()}
        return {"form": request.form.to_dict(), "files": files}
