"""Answers are compressed as their reader can take them, and are the same when unpacked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from backports import zstd
from fastapi.testclient import TestClient

from web.app import ServerOptions, create_app
from web.compress import SMALLEST, Compress, chosen
from web.store.store import Store


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    store = Store(f"chdb://{tmp_path}/store")
    with TestClient(create_app(store, ServerOptions(store.url, commit_seconds=0)), "http://127.0.0.1") as client:
        yield client
    store.close()


def raw(client: TestClient, path: str, accepted: str, **headers: str) -> tuple[Any, bytes]:
    """An answer and its bytes as they came."""
    with client.stream("GET", path, headers={"accept-encoding": accepted, **headers}) as answer:
        return answer, b"".join(answer.iter_raw())


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", ""),
        ("identity", ""),
        ("br", ""),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("zstd;q=0, gzip;q=0", ""),
        ("*", "zstd"),
        ("*;q=0", ""),
        ("zstd;q=0, *", "gzip"),
        ("GZIP ; q=0.3", "gzip"),
        ("gzip;q=high", ""),
        ("," * 5000 + "gzip", ""),
    ],
)
def test_the_reader_chooses_by_its_weights(accepted: str, encoding: str) -> None:
    assert chosen(accepted) == encoding


@pytest.mark.parametrize(("encoding", "decompress"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)])
@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/metrics", "/static/style.css"])
def test_texts_are_compressed_and_stay_what_they_are(
    client: TestClient, path: str, encoding: str, decompress: Any
) -> None:
    plain, body = raw(client, path, "identity")
    assert "content-encoding" not in plain.headers and plain.headers["vary"] == "Accept-Encoding"
    answer, packed = raw(client, path, encoding)
    assert answer.headers["content-encoding"] == encoding and answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers.get("content-length") in (None, str(len(packed)))
    assert len(packed) < len(body) / 2 or path == "/metrics"
    if path != "/metrics":
        assert decompress(packed) == body
    assert answer.headers["content-security-policy"] == plain.headers["content-security-policy"]


def test_what_is_small_empty_or_compressed_already_goes_out_as_it_is(client: TestClient) -> None:
    for path in ("/healthz", "/nothing.json"):
        answer, body = raw(client, path, "gzip, zstd")
        assert "content-encoding" not in answer.headers and 0 < len(body) < SMALLEST
    name = "/ingest?name=shop&format=folded"
    assert client.post(name, content=b"main;hot 3\n").status_code == 200
    answer, body = raw(client, "/flamegraph.pb.gz?from=now-1d", "gzip, zstd")
    assert "content-encoding" not in answer.headers and body[:2] == b"\x1f\x8b"
    head = client.head("/openapi.json", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in head.headers


def test_a_page_that_has_not_changed_is_not_sent_again_compressed_or_not(client: TestClient) -> None:
    plain, _ = raw(client, "/static/style.css", "identity")
    packed, _ = raw(client, "/static/style.css", "gzip")
    assert packed.headers["etag"] == "W/" + plain.headers["etag"]  # other bytes, the same content
    for tag in (plain.headers["etag"], packed.headers["etag"]):
        again, body = raw(client, "/static/style.css", "gzip", **{"if-none-match": tag})
        assert (again.status_code, body) == (304, b"") and "content-encoding" not in again.headers


def test_long_answers_are_compressed_as_they_come() -> None:
    """Part by part: the first ones are on their way before the last exists."""
    sent: list[Any] = []
    parts = [json.dumps({"part": number, "text": "x" * 50_000}).encode() for number in range(20)]
    seen_before_the_end = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen_before_the_end
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000480")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts):
            if number == len(parts) - 1:
                seen_before_the_end = sum(len(message.get("body", b"")) for message in sent)
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts) - 1})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", b"gzip")]}
    anyio.run(Compress(application), scope, receive, send)
    assert b"content-length" not in dict(sent[0]["headers"])
    assert gzip.decompress(b"".join(message["body"] for message in sent[1:])) == b"".join(parts)
    assert seen_before_the_end > 0 and sent[-1]["more_body"] is False
