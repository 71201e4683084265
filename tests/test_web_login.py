"""Who may ask, and what: the token, logins, sessions, other sites' pages, and names that lead to this server."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from web import auth
from web.app import ServerOptions, create_app
from web.store.store import Store

from .sent_profiles import INGEST, PROTOBUF, body, profile
from .test_web_http import PAGES

TOKEN = "a token of some length"


@pytest.fixture
def guarded(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, "0.0.0.0", token=TOKEN, commit_seconds=0))
    with TestClient(app, "http://profiles.example.net", follow_redirects=False) as client:
        yield client


def test_without_the_token_nothing_is_told_or_taken(guarded: TestClient) -> None:
    for path in [*PAGES, "/none"]:
        open_to_all = path in ("/healthz", "/readyz", "/login") or path.startswith("/static/")
        assert guarded.get(path).status_code == (200 if open_to_all else 401), path
    assert guarded.post(INGEST, content=body(profile()), headers=PROTOBUF).status_code == 401
    wrong = {"authorization": f"Bearer {TOKEN}x"}
    assert guarded.get("/api/v1/hosts", headers=wrong).status_code == 401
    assert guarded.get("/api/v1/hosts", headers={"authorization": "Bearer"}).status_code == 401


def test_the_token_opens_api_and_ingest(guarded: TestClient) -> None:
    right = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **right}).status_code == 200
    assert guarded.get("/api/v1/hosts", headers=right).json()[0]["host"] == "web-1"


def test_people_log_in_once_and_come_back_to_where_they_were_going(guarded: TestClient) -> None:
    asked = guarded.get("/flamegraph?host=a%26b", headers={"accept": "text/html"})
    assert asked.status_code == 303
    form = guarded.get(asked.headers["location"]).text
    assert 'value="/flamegraph?host=a%26b"' in form
    assert guarded.post("/login", data={"token": "wrong", "next": "/"}).status_code == 403
    done = guarded.post("/login", data={"token": TOKEN, "next": "/flamegraph?host=a%26b"})
    assert done.status_code == 303 and done.headers["location"] == "/flamegraph?host=a%26b"
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and TOKEN not in cookie
    assert guarded.get("/").status_code == 200
    # Another site's page could send the cookie along with a push: that takes proof of who asks.
    assert guarded.post(INGEST, content=body(profile()), headers=PROTOBUF).status_code == 401


OURS = (
    {"sec-fetch-site": "same-origin"},
    {"origin": "http://profiles.example.net"},
    {"origin": "https://profiles.example.net"},
)
FOREIGN = (
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://profiles.example.net"},
    {"origin": "http://evil.example"},
    {"origin": "http://profiles.example.net.evil.example"},
    {"origin": "http://profiles.example.net:81"},
    {"origin": "null"},
)


@pytest.mark.parametrize("headers", OURS)
def test_a_login_may_change_things_from_our_own_pages(guarded: TestClient, headers: dict[str, str]) -> None:
    guarded.post("/login", data={"token": TOKEN})
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers}).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_sites_page_changes_nothing(guarded: TestClient, client: TestClient, headers: dict[str, str]) -> None:
    guarded.post("/login", data={"token": TOKEN})
    answer = guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers})
    assert (answer.status_code, "another site" in answer.json()["error"]) == (403, True)
    # Nor where there is no token, and only this machine can ask: its browser can.
    assert client.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers}).status_code == 403
    assert client.get("/debug/pprof/profile?seconds=1", headers=headers).status_code == 403
    assert guarded.get("/api/v1/hosts", headers=headers).status_code == 200  # which it cannot read: no CORS
    basic = {"authorization": "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers, **basic}).status_code == 403
    right = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers, **right}).status_code == 200


def test_the_token_may_be_the_password_of_an_address(guarded: TestClient) -> None:
    def ask(credentials: bytes) -> int:
        given = "Basic " + base64.b64encode(credentials).decode()
        return int(guarded.get("/api/v1/hosts", headers={"authorization": given}).status_code)

    assert ask(f"any:{TOKEN}".encode()) == ask(f":{TOKEN}".encode()) == 200
    for wrong in (TOKEN.encode(), f"any:{TOKEN}x".encode(), f"{TOKEN}:".encode(), b"", b"\xff:\xff"):
        assert ask(wrong) == 401
    assert guarded.get("/api/v1/hosts", headers={"authorization": "Basic ?"}).status_code == 401
    pushed = {**PROTOBUF, "authorization": "Basic " + base64.b64encode(f"go:{TOKEN}".encode()).decode()}
    assert guarded.post(INGEST, content=body(profile()), headers=pushed).status_code == 200


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example/", "/\\evil.example", "x", "/\n/x"])
def test_a_login_leads_nowhere_else(path: str) -> None:
    assert auth.local_path(path) == "/"


def test_a_session_expires_and_dies_with_its_token() -> None:
    value = auth.session(TOKEN, now=1000)
    assert auth.valid_session(value, TOKEN, now=1000 + auth.SESSION_S - 1)
    assert not auth.valid_session(value, TOKEN, now=1000 + auth.SESSION_S + 1)
    assert not auth.valid_session(value, "another", now=1000)
    assert not auth.valid_session(f"9{value}", TOKEN, now=1000)
    for forged in ("", ".", "1e9.x", "٣.x", value[:-1], f"{'9' * 400}.x"):
        assert not auth.valid_session(forged, TOKEN, now=1000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:4099", "localhost:4099", "[::1]:4099"])
def test_a_local_server_answers_to_local_names(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/hosts", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4099", "127.0.0.1.evil.example", "", "[::2]"])
def test_a_local_server_refuses_names_that_only_lead_to_it(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/hosts", headers={"host": host}).status_code == 421
