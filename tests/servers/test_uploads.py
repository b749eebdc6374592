"""An upload of 300 MB stays on the disk: the process that takes it grows by less than 40 MB."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.client import ask
from tests.servers.launch import serve

CHUNK = bytes(range(256)) * 1024
CHUNKS = 300 * 1024 * 1024 // len(CHUNK)
SIZE = CHUNKS * len(CHUNK)

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
END = b"\r\n--b--\r\n"


def upload(before: bytes, after: bytes) -> Iterator[bytes]:
    """No two chunks are alike, so that one lost, doubled or out of its place shows."""
    yield before
    for number in range(CHUNKS):
        yield number.to_bytes(8, "big") + CHUNK[8:]
    yield after


@pytest.fixture(scope="module")
def digest() -> str:
    expected = hashlib.sha256()
    for chunk in upload(b"", b""):
        expected.update(chunk)
    return expected.hexdigest()


@pytest.mark.parametrize("app", ["hooks", "middleware"])
@pytest.mark.parametrize("kind", ["raw", "multipart"])
def test_it_grows_the_process_by_less_than_40_mb_and_arrives_intact(
    tmp_path: Path, app: str, kind: str, digest: str
) -> None:
    before, after = (FORM, END) if kind == "multipart" else (b"", b"")
    headers: dict[str, Any] = {
        "Content_Length": len(before) + SIZE + len(after),
        "Content_Type": "multipart/form-data; boundary=b" if kind == "multipart" else "application/octet-stream",
    }
    with serve("gunicorn gthread", f"tests.servers.app:{app}", env={"FOLDER": str(tmp_path)}) as server:
        ask(server, key="warm")
        start = ask(server, "GET", "/memory", None).json
        first = ask(server, path="/digest", body=upload(before, after), key="k", **headers)
        end = ask(server, "GET", "/memory", None).json
    assert (first.status, first.json["sha256"]) == (200, digest)
    assert end["VmHWM"] - start["VmRSS"] < 40 * 1024, (start, end)


@pytest.mark.parametrize("app", ["hooks", "middleware"])
def test_its_retry_is_a_replay_and_grows_the_process_no_more(tmp_path: Path, app: str, digest: str) -> None:
    with serve("gunicorn gthread", f"tests.servers.app:{app}", env={"FOLDER": str(tmp_path)}) as server:
        start = ask(server, "GET", "/memory", None).json
        first, again = (
            ask(server, path="/digest", body=upload(b"", b""), key="k", Content_Length=SIZE) for _ in range(2)
        )
        end = ask(server, "GET", "/memory", None).json
    assert (first.json["sha256"], again.body, again.replayed) == (digest, first.body, True)
    assert end["VmHWM"] - start["VmRSS"] < 40 * 1024, (start, end)
