"""Pages of other sites read profiles with leave alone: which addresses, which sites, and never by a token's right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from profiler.arguments import origin
from profiler.cli import main
from web.app import ServerOptions, create_app
from web.store.store import Store

SITE = "https://www.speedscope.app"
ASKED = {"origin": SITE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
ALLOWED = "access-control-allow-origin"


def serving(tmp_path: Path, token: str | None = None, *origins: str) -> Iterator[TestClient]:
    store = Store(f"chdb://{tmp_path}/store")
    options = ServerOptions(store.url, token=token, commit_seconds=0, allow_origins=origins)
    with TestClient(create_app(store, options), "http://127.0.0.1", follow_redirects=False) as client:
        yield client
    store.close()


def test_no_site_is_let_in_by_default(tmp_path: Path) -> None:
    for client in serving(tmp_path):
        answer = client.get("/flamegraph.json", headers=ASKED)
        assert ALLOWED not in answer.headers


def test_a_site_that_is_let_in_reads_profiles_and_nothing_else(tmp_path: Path) -> None:
    for client in serving(tmp_path, None, SITE):
        for path in ("/flamegraph.json", "/flamegraph.speedscope.json", "/captures/1.json"):
            answer = client.get(path, headers=ASKED)
            assert answer.headers[ALLOWED] == SITE and "Origin" in answer.headers["vary"]
            other = client.get(path, headers={**ASKED, "origin": "https://example.org"})
            assert ALLOWED not in other.headers and "Origin" in other.headers["vary"]
        for path in ("/", "/flamegraph", "/hosts.json", "/api/v1/hosts", "/settings.json", "/metrics"):
            assert ALLOWED not in client.get(path, headers=ASKED).headers
        asked = client.post("/captures/1.json", headers=ASKED)
        assert asked.status_code == 403 and ALLOWED not in asked.headers
        assert ALLOWED not in client.options("/flamegraph.json", headers=ASKED).headers


def test_a_token_is_not_spared(tmp_path: Path) -> None:
    for client in serving(tmp_path, "a token of some length", SITE):
        answer = client.get("/flamegraph.json", headers=ASKED)
        assert answer.status_code == 401
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("text", "read"),
    [(SITE, SITE), (f"{SITE}/", SITE), ("http://LOCALHOST:8080", "http://localhost:8080")],
)
def test_a_site_is_its_scheme_host_and_port(text: str, read: str) -> None:
    assert origin(text) == read


@pytest.mark.parametrize("text", ["*", "www.speedscope.app", "https://x.org/path", "https://u@x.org", "file:///x", ""])
def test_what_is_no_site_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["server", "--allow-origin", text])
    assert ended.value.code == 2
    assert "is no address of a site such as https://www.speedscope.app" in capsys.readouterr().err
