"""Annotations: taken, kept, listed where they fit, taken back; and what is refused, in a sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from web.app import ServerOptions, create_app
from web.store.store import Store

API = "/api/v1/annotations"
TOKEN = "a token of some length"
NOW = int(time.time())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('annotations')}/store")
    app = create_app(store, ServerOptions(store.url, token=TOKEN))
    with TestClient(app, "http://127.0.0.1", headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client
    store.close()


def texts(client: TestClient, query: str) -> list[str]:
    return [found["text"] for found in client.get(f"{API}?{query}").json()]


def test_a_deploy_is_noted_once_found_and_taken_back(client: TestClient) -> None:
    deploy = {"text": "shop 2.4.1 deployed", "at": NOW - 600, "labels": {"service": "shop"}}
    made = client.post(API, json=deploy)
    assert made.status_code == 201
    assert client.post(API, json=deploy).json() == made.json()
    assert texts(client, "from=now-1d") == ["shop 2.4.1 deployed"]
    where = made.headers["location"]
    assert client.get(where).json()["labels"] == {"service": "shop"}
    assert client.delete(where).json()["text"] == "shop 2.4.1 deployed"
    assert client.get(where).status_code == client.delete(where).status_code == 404
    assert texts(client, "from=now-1d") == []
    assert client.post(API, json=deploy).status_code == 201  # meant after all
    assert texts(client, "from=now-1d") == ["shop 2.4.1 deployed"]
    client.delete(where)


def test_an_annotation_is_shown_where_its_labels_are_not_those_of_others(client: TestClient) -> None:
    for text, labels in (("all", {}), ("shop", {"service": "shop"}), ("web-1", {"host": "web-1", "rack": "a'b"})):
        client.post(API, json={"text": text, "at": NOW - 7300, "labels": labels})
    time_ = f"from={NOW - 7400}&until={NOW - 7200}"
    assert sorted(texts(client, time_)) == ["all", "shop", "web-1"]
    assert sorted(texts(client, f"{time_}&host=web-2")) == ["all", "shop"]
    assert sorted(texts(client, f"{time_}&host=web-1&q=service!=shop")) == ["all", "web-1"]
    assert sorted(texts(client, f"{time_}&q=rack=~a.*&q=service=~web|cart")) == ["all", "web-1"]
    assert client.get(f"{API}?{time_}&q=host=~(").status_code == 400


def test_what_took_a_while_is_found_from_its_beginning_to_its_end(client: TestClient) -> None:
    client.post(API, json={"text": "backup", "at": NOW - 20_000, "until": NOW - 19_000})
    assert texts(client, f"from={NOW - 19_500}&until={NOW - 19_400}") == ["backup"]
    assert texts(client, f"from={NOW - 20_100}&until={NOW - 20_000}") == []
    assert texts(client, f"from={NOW - 18_999}&until={NOW - 18_000}") == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "text: field required"),
        ({"text": ""}, "text: "),
        ({"text": "  \n"}, "say in a few words"),
        ({"text": "x" * 501}, "text: "),
        ({"text": 5}, "text: "),
        ({"text": "x", "at": "yesterday"}, "`at` is no time: 'yesterday'"),
        ({"text": "x", "at": -5}, "`at` is no time"),
        ({"text": "x", "at": 1e300}, "`at` is no time"),
        ({"text": "x", "at": [1]}, "at: "),
        ({"text": "x", "at": "now", "until": "now-1h"}, "`until` is earlier than `at`"),
        ({"text": "x", "at": NOW + 200_000}, "a day ahead at most"),
        ({"text": "x", "until": NOW + 200_000}, "a day ahead at most"),
        ({"text": "x", "at": "now-95d"}, "older than what is kept here, which is 90 days"),
        ({"text": "x", "labels": {"no label": "y"}}, "'no label' is no name for a label"),
        ({"text": "x", "labels": {"host": "y" * 1001}}, "labels: "),
        ({"text": "x", "labels": {f"l{i}": "y" for i in range(33)}}, "labels: "),
        ({"text": "x", "labels": ["host"]}, "labels: "),
        ({"text": "x", "colour": "red"}, "colour: "),
        ([], "the annotation: "),
    ],
)
def test_a_bad_annotation_is_refused_in_a_sentence(client: TestClient, body: Any, said: str) -> None:
    answer = client.post(API, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_what_is_no_json_or_too_large_is_refused(client: TestClient) -> None:
    json = {"content-type": "application/json"}
    assert client.post(API, content=b"{", headers=json).status_code == 400
    assert client.post(API, content=b'{"text": "\\ud800"}', headers=json).status_code == 400
    assert client.post(API, content=b"[" * 70_000, headers=json).status_code == 413
    assert client.post(API, content=b"text=x").status_code == 415
    assert client.get(f"{API}/nothing").json()["error"].startswith("there is no such annotation")
    assert client.delete(f"{API}/nothing").status_code == 404


def test_any_text_comes_back_as_it_was(client: TestClient) -> None:
    text = "<script>alert('x')</script> \u202e 'quoted' \\ \U0001f525 {m0:String}"
    made = client.post(API, json={"text": text, "at": NOW - 40_000, "labels": {"host": text}}).json()
    assert client.get(f"{API}/{made['id']}").json() == made
    assert made["text"] == made["labels"]["host"] == text


def test_annotations_need_the_token(client: TestClient) -> None:
    nobody = {"authorization": "", "accept": "application/json"}
    assert client.post(API, json={"text": "x"}, headers=nobody).status_code == 401
    assert client.get(API, headers=nobody).status_code == 401
    assert client.delete(f"{API}/x", headers=nobody).status_code == 401
