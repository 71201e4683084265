"""Better names as a message: what is worth sending, that it comes through whole, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.better_names import MAX_BODY, MAX_LISTS, MAX_SIZE, Quality, decode, encode, key_of, quality, size
from symbolizer.types import Binary, Frame, Kind, Location, Reason

INLINED = (Frame("callee", Kind.INLINED, "", "x.h", 3), Frame("caller", Kind.NATIVE, "_Z6callerv", "x.c", 9))

texts = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too: bytes that were not UTF-8
frames = st.builds(
    Frame,
    texts,
    st.sampled_from([kind for kind in Kind if kind not in (Kind.PROCESS, Kind.THREAD, Kind.UNKNOWN)]),
    texts,
    texts,
    st.integers(0, (1 << 32) - 1),
    st.none() | st.sampled_from(Reason),
)
named = st.builds(
    Location,
    st.integers(0, (1 << 63) - 1),
    st.builds(Binary, st.just(""), texts.filter(bool)),
    st.lists(frames, min_size=1, max_size=4).map(tuple),
)


@given(st.lists(named, max_size=20))
def test_what_is_encoded_comes_out_the_same(locations: list[Location]) -> None:
    messages = encode(locations)
    assert [location for message in messages for location in decode(message.body)] == locations
    assert sum(message.locations for message in messages) == len(locations)
    assert all(message.body.isascii() for message in messages)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((Frame("[x: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS),), Quality.UNKNOWN),
        ((Frame("x+0x10", Kind.NATIVE, reason=Reason.NO_SYMBOLS),), Quality.MADE_UP),
        ((Frame("f", Kind.NATIVE),), Quality.NAMED),
        ((Frame("f", Kind.NATIVE, file="f.c"),), Quality.NAMED),
        ((Frame("f", Kind.NATIVE, file="f.c", line=1),), Quality.DETAILED),
        ((Frame("g", Kind.INLINED), Frame("f", Kind.NATIVE)), Quality.DETAILED),
        ((), Quality.UNKNOWN),
    ],
)
def test_more_told_is_better(frames: tuple[Frame, ...], expected: Quality) -> None:
    assert quality(frames) is expected


@pytest.mark.parametrize(
    ("binary", "address", "known"),
    [
        (Binary("/lib/x.so", "ab"), 16, True),
        (Binary("/lib/x.so", "content:12"), 16, True),
        (Binary("[kernel]", "ab"), 0x1234, True),
        (Binary("[kernel]", "ab"), 0xFFFFFFFF81000000, False),
        (Binary("/lib/x.so", ""), 16, False),
        (None, 16, False),
    ],
)
def test_only_an_offset_in_a_file_with_a_build_id_can_be_named_later(
    binary: Binary | None, address: int, known: bool
) -> None:
    location = Location(address, binary, INLINED)
    assert (key_of(location) is not None) is known
    assert len(encode([location])) == known


def test_what_has_no_name_is_not_sent() -> None:
    unknown = Frame("[x: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
    assert encode([Location(16, Binary("/lib/x.so", "ab"), (unknown,))]) == []


def test_many_names_become_several_messages_each_within_the_bounds() -> None:
    long = "\U0001f525" * 1024  # twelve bytes a character in JSON
    locations = [
        Location(i, Binary("", "ab"), (Frame(f"{long}{i}", Kind.NATIVE, long, long, i + 1),) * 2) for i in range(500)
    ]
    too_large = Location(1, Binary("", "ab"), (Frame("x" * MAX_SIZE, Kind.NATIVE),))
    messages = encode([too_large, *locations])
    assert len(messages) > 1 and all(len(message.body) <= MAX_BODY for message in messages)
    assert [location for message in messages for location in decode(message.body)] == locations


def test_names_that_unfold_beyond_the_bound_are_refused() -> None:
    name = Frame("x" * 10_000, Kind.NATIVE)
    document = json.loads(encode([Location(1, Binary("", "ab"), (name,))])[0].body)
    document["locations"] *= MAX_SIZE // size(Location(1, Binary("", "ab"), (name,)))
    assert decode(json.dumps(document).encode())
    document["locations"] *= 2
    with pytest.raises(ValueError, match="send fewer"):
        decode(json.dumps(document).encode())


def changed(**parts: Any) -> bytes:
    document = json.loads(encode([Location(16, Binary("", "ab"), INLINED)])[0].body)
    return json.dumps({**document, **parts}).encode()


def test_a_body_of_objects_is_refused_before_they_take_memory() -> None:
    body = b'{"format":"pilotlight-names","builds":[' + b"{}," * 1_000_000 + b"{}]}"
    tracemalloc.start()
    with pytest.raises(ValueError, match="an object within another"):
        decode(body)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 2000,
        b"[" * (MAX_LISTS + 1),
        b" " * (MAX_BODY + 1),
        changed(format="x"),
        changed(version=2),
        changed(version=[[]]),
        changed(builds=None),
        changed(builds=[1]),
        changed(builds=[""]),
        changed(frames=[]),
        changed(frames=[["f"]]),
        changed(frames=5),
        changed(frames=[["f", "native", "", "", -1, None]] * 2),
        changed(frames=[["f", "native", "", "", 1 << 32, None]] * 2),
        changed(frames=[["f", "native", "", "", 1.5, None]] * 2),
        changed(frames=[["f", "native", "", "", True, None]] * 2),
        changed(frames=[["f", "process", "", "", 1, None]] * 2),
        changed(frames=[["f", "no kind", "", "", 1, None]] * 2),
        changed(frames=[["f", "native", "", "", 1, "no reason"]] * 2),
        changed(frames=[["f", "unknown", "", "", 1, "no symbols"]] * 2),
        changed(locations=[[0, 16, []]]),
        changed(locations=[[0, 16, [2]]]),
        changed(locations=[[0, 16, [-1]]]),
        changed(locations=[[-1, 16, [0]]]),
        changed(locations=[[1, 16, [0]]]),
        changed(locations=[[0, 1 << 63, [0]]]),
        changed(locations=[[0, "16", [0]]]),
        changed(locations=[0]),
        changed(locations={"a": 1}),
        changed(builds={}),
        changed(builds=[{}, {}]),
        b'{"format":"pilotlight-names","version":1}',
        b'{"format":"pilotlight-names","version":1,"builds":[' + b"[" * 900 + b"]" * 900 + b"]}",
    ],
)
def test_what_is_malformed_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(ValueError) as refused:
        decode(body)
    assert 10 < len(str(refused.value)) < 300 and "\n" not in str(refused.value)


@given(st.binary(max_size=200))
def test_no_body_does_worse_than_be_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(["builds", "frames", "locations"]), json_values)
def test_no_table_does_worse_than_be_refused(table: str, value: Any) -> None:
    try:
        decode(changed(**{table: value}))
    except ValueError as error:
        assert str(error)
