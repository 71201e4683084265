"""Parts of files whose samples say when they were taken: perf script's, and OTLP profiles with timestamps."""

from __future__ import annotations

import math

import pytest

from profiler.formats import otlp_read
from profiler.formats.otlp import read_otlp
from profiler.formats.read import read_file
from profiler.formats.timed import span, within
from tests.test_formats_otlp import Foreign
from web.file_times import MOST_COLUMNS, MOST_ROWS, file_times


def script(*samples: tuple[float, str, str], event: str = "cpu-clock") -> bytes:
    pid = {comm: str(7 + i) for i, comm in enumerate(dict.fromkeys(comm for _, comm, _ in samples))}
    lines = [
        f"{comm} {pid[comm]}/{pid[comm]} [000] {time:.6f}: {event}:\n\t7f01 {name}+0x1 (/bin/app)\n"
        for time, comm, name in samples
    ]
    return "\n".join(lines).encode() + b"\n"


FILE = read_file(script((100.0, "a", "f"), (100.5, "b", "g"), (100.5, "a", "f"), (102.25, "b", "g")))


def names(file_part: tuple[float, float]) -> list[str]:
    (profile,) = within(FILE, *file_part).profiles
    assert profile.accounting.closes and profile.accounting.sampled == len(profile.samples)
    return [sample.stack[0].frames[0].function for sample in profile.samples]


def test_a_part_begins_at_its_beginning_and_ends_before_its_end() -> None:
    assert span(FILE) == (100.0, 102.25)
    assert names((0, 0.5)) == ["f"] and names((0.5, 0.6)) == ["g", "f"] and names((0, math.inf)) == ["f", "g", "f", "g"]
    assert [len(part) for part in within(FILE, 0.5, 2.25).times] == [2]


def test_parts_that_follow_on_each_other_have_all_samples_once() -> None:
    whole = read_file(script(*((100 + i / 7, f"c{i % 3}", f"f{i % 5}") for i in range(200))))
    bounds = [0, 0.3, 1, 4, 20, math.inf]
    counts = [len(within(whole, *pair).profiles[0].samples) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    assert counts == [sum(a <= i / 7 < b for i in range(200)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    assert sum(counts) == 200


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (1, 1, "end after its beginning"),
        (2, 1, "end after its beginning"),
        (-1, 1, "begin at 0"),
        (9, 10, "the last is of 2.25"),
    ],
)
def test_ranges_that_hold_nothing_are_said(since: float, until: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        within(FILE, since, until)


def otlp(*stamps_ms: list[int], values: bool = False) -> bytes:
    """A sample of another function for each list of timestamps, which are milliseconds after a second of 2023."""
    message = Foreign()
    profile = message.profile(message.resource(process_executable_name="app"), "samples", "count", 50_000_000)
    for number, stamps in enumerate(stamps_ms):
        profile.samples.add(
            stack_index=message.stack(message.location("kernel", number, (f"f{number}",))),
            timestamps_unix_nano=[1_700_000_000_000_000_000 + stamp * 1_000_000 for stamp in stamps],
            values=range(1, len(stamps) + 1) if values else (),
        )
    return message.body()


@pytest.mark.parametrize("values", [False, True])
def test_each_timestamp_of_an_otlp_file_is_a_sample_of_its_own_with_its_value(values: bool) -> None:
    data = otlp([0, 3, 900], [1, 2], values=values)
    file = read_file(data)
    (profile,), (times,) = file.profiles, file.times
    assert [sample.count for sample in profile.samples] == ([1, 2, 3, 1, 2] if values else [1] * 5)
    assert times == (0, 0.003, 0.9, 0.001, 0.002)
    assert profile.accounting.sampled == read_otlp(data).profiles[0].accounting.sampled
    (part,) = within(file, 0.001, 0.9).profiles
    assert [sample.stack[0].frames[0].function for sample in part.samples] == ["f0", "f1", "f1"]
    heat = file_times(file, "cpu-clock", (0, 0.01))
    assert heat is not None and heat.step == 0.001 and [row.name for row in heat.rows] == ["all", "app"]


def test_an_otlp_file_of_which_one_sample_has_no_time_has_no_parts() -> None:
    file = read_file(otlp([0, 1], []))
    assert file.times == ((),) and [sample.count for sample in file.profiles[0].samples] == [2, 0]


def test_an_otlp_file_of_too_many_timestamps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_read, "MAX_SAMPLES", 3)
    with pytest.raises(ValueError, match="more than 3 timestamps"):
        read_file(otlp([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="2 values at 3 timestamps"):
        message = Foreign()
        profile = message.profile(message.resource(), "samples", "count", 50_000_000)
        profile.samples.add(timestamps_unix_nano=[1, 2, 3], values=[1, 2])
        read_file(message.body())


def test_a_file_without_times_has_no_parts() -> None:
    for data in (b"a;b 3\n", b"app 7/7 [000] cpu-clock:\n\t7f01 f+0x1 (/bin/app)\n\n"):
        file = read_file(data)
        assert span(file) is None and file_times(file, "cpu-clock", None) is None
        with pytest.raises(ValueError, match="does not say when"):
            within(file, 0, 1)


def test_the_map_has_every_sample_of_what_it_shows_and_finer_steps_of_a_part() -> None:
    file = read_file(script(*((50 + i / 100, f"c{i % 14}", "f") for i in range(6000))))
    whole = file_times(file, "cpu-clock", None)
    assert whole is not None and not whole.is_part and whole.columns <= MOST_COLUMNS and whole.step == 0.2
    assert [row.samples for row in whole.rows][0] == 6000 == sum(row.samples for row in whole.rows[1:])
    assert len(whole.rows) == 1 + MOST_ROWS and whole.rows[-1].name == "5 others"
    part = file_times(file, "cpu-clock", (20, 20.5))
    assert part is not None and part.is_part and part.step == 0.005 and (part.since, part.until) == (20, 20.5)
    assert part.start == 19.75 and part.start + part.columns * part.step == pytest.approx(20.75, abs=part.step)
    assert part.rows[0].samples == pytest.approx(100, abs=2)


def test_one_sample_has_a_map_of_one_step() -> None:
    found = file_times(read_file(script((5.0, "a", "f"))), "cpu-clock", None)
    assert found is not None and (found.columns, found.rows[0].paths) == (1, [(1.0, "M0 0h1v1h-1z")])
