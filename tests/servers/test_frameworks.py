"""The middleware around real applications of three frameworks, on a real server."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import ask
from tests.servers.launch import Server, serve

FRAMEWORKS = ("django", "django with lengths", "falcon", "flask")


@pytest.fixture(scope="module", params=FRAMEWORKS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("framework")
    environment = {"FOLDER": str(folder), "FRAMEWORK": request.param}
    with serve("gunicorn gthread", "tests.servers.frameworks:app", env=environment) as server:
        yield server, folder


@pytest.fixture
def server(served: tuple[Server, Path]) -> Server:
    return served[0]


def did(server: Server) -> Any:
    return ask(server, "GET", "/did", None).json["did"]


def test_a_keyed_post_its_replay_and_what_is_refused(server: Server) -> None:
    before = len(did(server))
    first, again = (ask(server, path="/order", key="order") for _ in range(2))
    assert (first.status, first.json["body"], first.replayed) == (201, "book", False)
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    cookies = first.headers.get_all("Set-Cookie")
    assert [cookie.partition(";")[0] for cookie in cookies or []] == ["a=1", "b=2"]
    assert again.headers.get_all("Set-Cookie") == cookies
    assert ask(server, path="/order", key="order", body=b"pen").problem == "idempotency-key-reused"
    assert ask(server, path="/order").problem == "idempotency-key-missing"
    assert did(server)[before:] == ["order"]


@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_an_upload_arrives_whole_and_its_retry_with_another_boundary_is_a_replay(server: Server, size: int) -> None:
    file = os.urandom(size)

    def upload(boundary: str, file: bytes) -> Any:
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="text"\r\n\r\nwords\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        ).encode()
        body += file + f"\r\n--{boundary}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={boundary}"
        return ask(server, path="/upload", key=f"upload-{size}", body=body, Content_Type=content_type)

    before = len(did(server))
    first, again, other = upload("one", file), upload("two", file), upload("two", file[1:])
    assert (first.status, first.json) == (200, {"sha256": hashlib.sha256(file).hexdigest(), "text": "words"})
    assert (again.body, again.replayed) == (first.body, True)
    assert other.problem == "idempotency-key-reused"
    assert did(server)[before:] == ["upload"]


def test_a_stream_is_kept_once_it_has_ended(server: Server) -> None:
    first, again = (ask(server, path="/stream", key="stream") for _ in range(2))
    assert (first.body, first.replayed) == (b"one two", False)
    assert (again.body, again.replayed) == (b"one two", True)


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_file_is_sent_whole_and_kept_if_it_is_small(served: tuple[Server, Path], size: int) -> None:
    server, folder = served
    (folder / "file.bin").write_bytes(os.urandom(size))
    first, again = (ask(server, path="/file", key=f"file-{size}") for _ in range(2))
    assert (first.status, first.body) == (200, (folder / "file.bin").read_bytes())
    if size > 1024 * 1024:
        assert again.problem == "response-not-kept"
    else:
        assert (again.body, again.replayed) == (first.body, True)


def test_a_request_that_fails_runs_again(server: Server) -> None:
    before = len(did(server))
    assert [ask(server, path="/fail", key="fail").status for _ in range(2)] == [500, 500]
    assert did(server)[before:] == ["fail", "fail"]


def test_django_hears_of_the_end_of_each_of_its_responses_once(served: tuple[Server, Path]) -> None:
    server, folder = served
    if "closed" not in ask(server, "GET", "/did", None).json:
        pytest.skip("only Django tells")
    (folder / "file.bin").write_bytes(b"x")

    def closed() -> int:
        count: int = ask(server, "GET", "/did", None).json["closed"]
        return count

    for path in ("/order", "/stream", "/file", "/fail"):
        before = closed()
        ask(server, path=path, key=f"closed{path}")
        # The two requests that ask are responses too; the latter's end comes after it has answered.
        assert closed() - before == 2
        ask(server, path=path, key=f"closed{path}")
        assert closed() - before == (4 if path == "/fail" else 3)
