"""pilotlight's own JSON: it says what it is, and damage is told in a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.formats.json import read_json, write_json
from profiler.model import Accounting, Cost, Passage, Profile, Sample, Unwinding, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason

LOCATION = Location(
    (1 << 64) - 1,
    Binary("/bin/x", "content:ab"),
    (Frame("i", Kind.INLINED, "_Z1i", "a.c", 3), Frame("?", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)),
)
WALKED = Unwinding(3, 1, {"truncated": 1}, {"/bin/x": Passage(2, 1, {"truncated": 1})})
PROFILE = Profile(
    "h",
    "cycles",
    49,
    Window(5, 9),
    (Sample((LOCATION, LOCATION), 1, "p", "t", 2, "svc", "c", "big"), Sample((LOCATION,), 1, "p", "t", 3)),
    Accounting(9, 8, 1, 1, 5, {"counts map full": 1}, 4, {"no symbols": 2}, Cost(1, 2, 3, 4, 5), WALKED),
    {"env": "prod"},
)


def test_what_occurs_often_is_written_once() -> None:
    document = json.loads(write_json(PROFILE))
    assert (document["format"], document["version"]) == ("pilotlight-profile", 1)
    assert [len(document[table]) for table in ("binaries", "frames", "locations", "stacks", "threads")] == [
        1,
        2,
        1,
        2,
        2,
    ]
    assert document["samples"] == [[0, 0, 2], [1, 1, 3]]
    assert document["accounting"]["lost"] == {"counts map full": 1}


def test_a_location_read_is_one_object() -> None:
    first, second = read_json(write_json(PROFILE)).samples
    assert first.stack[0] is first.stack[1] is second.stack[0]


def test_threads_of_older_files_have_no_kind_of_cpu() -> None:
    document = json.loads(write_json(PROFILE))
    assert [thread[5] for thread in document["threads"]] == ["big", ""]
    document["threads"] = [thread[:5] for thread in document["threads"]]
    assert [sample.cpu_kind for sample in read_json(json.dumps(document).encode()).samples] == ["", ""]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="this is not JSON"):
        read_json(data)


@pytest.mark.parametrize("data", [b"[]", b"null", b"{}", b'{"format": "other"}', b'{"$schema": "x"}'])
def test_json_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a pilotlight profile"):
        read_json(data)


def test_a_version_of_the_future_is_refused_with_what_to_do() -> None:
    document = {**json.loads(write_json(PROFILE)), "version": 2}
    with pytest.raises(ValueError, match="version 2 .* use the pilotlight that wrote it"):
        read_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", 1),
        ("hz", 0),
        ("hz", 1.5),
        ("hz", True),
        ("window", [1]),
        ("window", [-1, 5]),
        ("labels", {"a": 1}),
        ("labels", []),
        ("accounting", {}),
        ("accounting", None),
        ("binaries", [["/bin/x"]]),
        ("frames", [["f", "wobbly", "", "", 0, None]]),
        ("frames", [["f", "native", "", "", -1, None]]),
        ("locations", [[0, 7, [0]]]),
        ("locations", [[0, -1, [0]]]),
        ("locations", [[0, 0, []]]),
        ("locations", [[0, 0, ["0"]]]),
        ("stacks", [[9]]),
        ("threads", [["1", "p", "t", "", ""]]),
        ("samples", [[0, 0, 1]]),
        ("samples", [[0, 0, -2]]),
        ("samples", [[0, 99, 5]]),
        ("samples", "x"),
    ],
)
def test_a_damaged_field_is_told_in_a_sentence(field: str, value: Any) -> None:
    document = {**json.loads(write_json(PROFILE)), field: value}
    with pytest.raises(ValueError, match="this pilotlight profile is damaged: "):
        read_json(json.dumps(document).encode())


def test_every_missing_field_is_told_by_name() -> None:
    document = json.loads(write_json(PROFILE))
    for field in document.keys() - {"format", "version"}:
        rest = {name: value for name, value in document.items() if name != field}
        with pytest.raises(ValueError, match=f"damaged: there is no '{field}'"):
            read_json(json.dumps(rest).encode())


def test_how_stacks_were_walked_is_read_as_it_was_written() -> None:
    document = json.loads(write_json(PROFILE))
    assert document["accounting"]["unwinding"]["binaries"]["/bin/x"]["ended"] == {"truncated": 1}
    assert read_json(write_json(PROFILE)) == PROFILE


def test_a_file_from_before_the_unwinding_is_read() -> None:
    document = json.loads(write_json(PROFILE))
    del document["accounting"]["unwinding"]
    assert read_json(json.dumps(document).encode()).accounting.unwinding == Unwinding()


@pytest.mark.parametrize(
    "unwinding",
    [
        None,
        {},
        {"whole": -1, "unchecked": 0, "cut": {}, "binaries": {}},
        {"whole": 1, "unchecked": 0, "cut": [], "binaries": {}},
        {"whole": 1, "unchecked": 0, "cut": {}, "binaries": {"/a": {"by_table": 1}}},
        {"whole": 1, "unchecked": 0, "cut": {"x": "1"}, "binaries": {}},
    ],
)
def test_damaged_unwinding_is_told_in_a_sentence(unwinding: Any) -> None:
    document = json.loads(write_json(PROFILE))
    document["accounting"]["unwinding"] = unwinding
    with pytest.raises(ValueError, match="this pilotlight profile is damaged: "):
        read_json(json.dumps(document).encode())


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_file_cut_off_anywhere_is_refused(place: int) -> None:
    data = write_json(PROFILE)
    with pytest.raises(ValueError, match="this is not JSON"):
        read_json(data[: place % len(data)])
