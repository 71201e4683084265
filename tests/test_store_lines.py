"""A function by line of its source: exact by sample, recursion counted once a line, and what has no lines said so."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.store.store import Store

START = int(time.time()) // 10 * 10 - 600
LONG = "f" * 5000
ODD = "two\nlines\u202e"


def location(number: int, *frames: tuple[str, int], binary: str = "/opt/app") -> Location:
    """A place in a program; several frames, callee first, where functions were inlined."""
    kinds = [Kind.INLINED] * (len(frames) - 1) + [Kind.NATIVE]
    return Location(
        number,
        Binary(binary, "ab"),
        tuple(
            Frame(name, kind, "", "app.c" if line else "", line)
            for (name, line), kind in zip(frames, kinds, strict=True)
        ),
    )


PLACES = [
    location(1, ("main", 5)),
    location(2, ("work", 10)),
    location(3, ("work", 11)),
    location(4, ("inner", 70), ("work", 12)),
    location(5, ("work", 0)),
    location(6, ("work", 10), binary="/opt/other"),
    location(7, (LONG, 3)),
    location(8, (ODD, 4)),
]


def samples_of(seed: int) -> list[Sample]:
    rng = random.Random(seed)
    return [Sample(tuple(rng.choices(PLACES, k=rng.randint(1, 6))), 1, "app", "app", count) for count in range(1, 120)]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    store = Store(f"chdb://{tmp_path}/store")
    with TestClient(create_app(store, ServerOptions(store.url, commit_seconds=0)), "http://127.0.0.1") as client:
        for number in range(3):
            samples = samples_of(number)
            total = sum(sample.count for sample in samples)
            window = Window((START + 10 * number) * 10**9, (START + 10 * number + 10) * 10**9)
            made = Profile("web-1", "cpu-clock", 99, window, tuple(samples), Accounting(total, total, 0, 0, total))
            answer = client.post(
                "/v1development/profiles",
                content=write_otlp(made, PushIdentity("agent", 1, number)),
                headers={"content-type": "application/x-protobuf"},
            )
            assert answer.status_code == 200
        yield client
    store.close()


def ask(client: TestClient, **parameters: Any) -> Any:
    return client.get("/api/v1/lines", params={"from": START, "until": START + 60, **parameters})


def by_hand(name: str, binary: str = "/opt/app") -> tuple[dict[int, list[int]], int]:
    """[self, total] by line, and the samples that have the function on their stack, one sample after the other."""
    found: dict[int, list[int]] = {}
    whole = 0
    for sample in (sample for seed in range(3) for sample in samples_of(seed)):
        frames = [(frame, place) for place in sample.stack for frame in place.frames]  # leaf first
        lines = {f.line for f, place in frames if f.function == name and place.binary and place.binary.path == binary}
        for line in lines:
            found.setdefault(line, [0, 0])[1] += sample.count
        whole += sample.count if lines else 0
        leaf, place = frames[0]
        if leaf.function == name and place.binary and place.binary.path == binary:
            found[leaf.line][0] += sample.count
    return found, whole


@pytest.mark.parametrize(("name", "kind"), [("work", "native"), ("inner", "inlined"), ("main", "native")])
def test_lines_are_exact_and_a_sample_counts_once_for_each(client: TestClient, name: str, kind: str) -> None:
    expected, whole = by_hand(name)
    found = ask(client, function=name, kind=kind, binary="/opt/app").json()
    assert {row["line"]: [row["self"], row["total"]] for row in found["by_line"]} == expected
    assert found["total"] == whole and found["self"] == sum(own for own, _ in expected.values())
    assert found["lines"] == len(expected)
    totals = [row["total"] for row in found["by_line"]]
    assert totals == sorted(totals, reverse=True)
    assert all((row["file"] == "app.c") == (row["line"] > 0) for row in found["by_line"])


def test_functions_of_one_name_are_told_apart_or_taken_together(client: TestClient) -> None:
    other = ask(client, function="work", binary="/opt/other").json()
    assert {row["line"]: [row["self"], row["total"]] for row in other["by_line"]} == by_hand("work", "/opt/other")[0]
    both = ask(client, function="work").json()
    assert both["total"] > max(other["total"], by_hand("work")[1])


@pytest.mark.parametrize("name", [LONG, "f" * 999 + "…", ODD, "two␊lines⟨U+202E⟩"])
def test_a_name_is_found_as_it_is_and_as_pictures_show_it(client: TestClient, name: str) -> None:
    found = ask(client, function=name).json()
    assert [row["line"] for row in found["by_line"]] in ([3], [4])


def test_other_units_and_fewer_lines(client: TestClient) -> None:
    samples = ask(client, function="work", limit=1).json()
    seconds = ask(client, function="work", limit=1, values="cpu-seconds").json()
    assert len(samples["by_line"]) == 1 < samples["lines"]
    assert seconds["by_line"][0]["total"] == pytest.approx(samples["by_line"][0]["total"] / 99)


def test_what_is_not_there_is_said(client: TestClient) -> None:
    absent = ask(client, function="nothing")
    assert absent.status_code == 404 and "No function in this range has that name" in absent.json()["error"]
    assert ask(client, function="work", kind="kernel").status_code == 404
    assert ask(client).status_code == 400
    assert ask(client, function="work", **{"from": START + 5000, "until": START + 6000}).status_code == 404
