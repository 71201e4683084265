"""From raw addresses to named samples: which program, which locations, and the account of the frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.accounting import TickCounts
from profiler.cgroups import Cgroups
from profiler.model import Passage, Unwinding, Window
from profiler.processes import Processes
from profiler.records import Batch
from profiler.resolve import Resolved, resolve
from profiler.sampler import SAMPLE_KEY, RawWindow
from profiler.stacks import CUT_MARK, END_ROOT, END_UNKNOWN, MAX_FRAMES, STACK, WALK_ENDS, Stacks, to_look_up
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Reason
from tests.test_processes import NOBODY, Record, fork, mapped, name

PID = NOBODY + 1


def drained(*stacks: list[int], end: int = END_UNKNOWN, by_frame_pointer: int = 0) -> NDArray[np.void]:
    """Stacks as they come from the kernel; `by_frame_pointer` has a bit for each frame."""
    found = np.zeros(len(stacks), STACK)
    for row, stack in zip(found, stacks, strict=True):
        row["length"], row["end"] = len(stack), end
        row["by_frame_pointer"] = by_frame_pointer & (1 << 64) - 1, by_frame_pointer >> 64
        row["addresses"][: len(stack)] = stack
    return found


def stacks_of(*stacks: list[int], end: int = END_UNKNOWN, by_frame_pointer: int = 0) -> Stacks:
    """Stacks of addresses to look up, with the ids 1, 2, 3 …"""
    found = drained(*stacks, end=end, by_frame_pointer=by_frame_pointer)
    returns = np.arange(MAX_FRAMES) > 0
    if end == END_UNKNOWN:
        found["addresses"] += (returns & (np.arange(MAX_FRAMES) < found["length"][:, None])).astype(np.uint64)
    return to_look_up([(np.arange(1, len(stacks) + 1, dtype=np.uint64), found)])


def resolved(stacks: Stacks, rows: list[tuple[int, int, int, bytes, int]], *records: Record) -> Resolved:
    """Of rows (pid, kernel stack, user stack, comm, count), after the records."""
    keys = np.zeros(len(rows), SAMPLE_KEY)
    for row, (pid, kernel, user, comm, _) in zip(keys, rows, strict=True):
        row["tgid"], row["kernel_stack"], row["user_stack"], row["comm"] = pid, kernel, user, comm
    counts = np.array([row[-1] for row in rows], np.uint64)
    raw = RawWindow(Window(0, 10**10), 99, 0, 1000, 20.0, keys, counts, stacks, TickCounts())
    processes = Processes()
    processes.apply(Batch(list(records), 0))
    return resolve(raw, processes, Symbolizer(), Cgroups())


def test_return_addresses_are_looked_up_one_byte_before_and_leaves_as_they_are() -> None:
    ids = np.array([4, 3, 2, 1], np.uint64)
    stacks = to_look_up([(ids, drained([10, 20, 30], [40], [], [50, 60]))])
    assert stacks.ids.tolist() == [1, 2, 3, 4]
    assert stacks.addresses.tolist() == [50, 59, 40, 10, 19, 29]
    assert stacks.offsets.tolist() == [0, 2, 2, 3, 6]


def test_stacks_come_in_chunks_each_of_which_may_be_where_the_one_before_was() -> None:
    ids, found = np.empty(2, np.uint64), drained([], [])

    def chunks() -> Iterator[tuple[NDArray[np.uint64], NDArray[Any]]]:
        for numbers, stacks in (((7, 2), drained([10, 20], [30])), ((5, 1), drained([40], [50, 60, 70], end=END_ROOT))):
            ids[:], found[:] = numbers, stacks
            yield ids, found

    stacks = to_look_up(chunks())
    assert stacks.ids.tolist() == [1, 2, 5, 7]
    assert stacks.offsets.tolist() == [0, 3, 4, 5, 7]
    assert stacks.addresses.tolist() == [50, 60, 70, 30, 40, 10, 19]
    assert stacks.ends.tolist() == [END_ROOT, END_UNKNOWN, END_ROOT, END_UNKNOWN]
    assert len(to_look_up([]).ids) == 0


def test_addresses_that_the_unwinder_found_are_looked_up_as_they_are() -> None:
    stacks = to_look_up([(np.array([1], np.uint64), drained([10, 20, 30], end=END_ROOT, by_frame_pointer=0b010))])
    assert stacks.addresses.tolist() == [10, 20, 30]
    assert stacks.by_frame_pointer.tolist() == [False, True, False]


def test_an_address_outside_known_mappings_is_in_none_even_if_the_process_is_gone() -> None:
    records = [name(1, PID, b"x", execed=True), mapped(2, PID, 0x1000, 0x2000, b"/no/such/file")]
    found = resolved(stacks_of([0x1500, 0x9001]), [(PID, 0, 1, b"x", 3)], *records)
    (sample,) = found.samples
    assert [frame.reason for location in sample.stack for frame in location.frames] == [
        Reason.FILE_MISSING,
        Reason.NO_MAPPING,
    ]
    assert found.frames_unknown == {"file missing": 3, "no mapping": 3} and found.frames_named == 0


def test_samples_have_the_name_of_their_kind_of_cpu() -> None:
    keys = np.zeros(3, SAMPLE_KEY)
    keys["tgid"], keys["comm"], keys["cpu_kind"] = PID, b"x", (1, 0, 2)
    counts = np.array([5, 6, 7], np.uint64)
    kinds = ("", "big", "little")
    raw = RawWindow(Window(0, 10**10), 99, 0, 1000, 20.0, keys, counts, stacks_of(), TickCounts(), kinds)
    found = resolve(raw, Processes(), Symbolizer(), Cgroups()).samples
    assert [(sample.cpu_kind, sample.count) for sample in found] == [("big", 5), ("", 6), ("little", 7)]


def test_a_process_that_nothing_is_known_of_is_gone() -> None:
    (sample,) = resolved(stacks_of([0x1500]), [(PID, 0, 1, b"ghost", 1)]).samples
    assert sample.stack[0].frames[0].reason is Reason.PROCESS_GONE
    assert (sample.process, sample.thread) == ("ghost", "ghost")


def test_of_two_programs_in_one_window_the_one_that_covers_the_stack_is_taken() -> None:
    records = [
        fork(1, PID, 1),
        name(2, PID, b"first", execed=True),
        mapped(3, PID, 0x1000, 0x2000, b"/bin/first"),
        name(500, PID, b"second", execed=True),
        mapped(501, PID, 0x8000, 0x9000, b"/bin/second"),
    ]
    stacks = stacks_of([0x1500, 0x1600], [0x8500])
    rows = [(PID, 0, 1, b"first", 1), (PID, 0, 2, b"second", 2), (PID, 0, 2, b"worker", 4), (PID, 0, 0, b"first", 8)]
    found = resolved(stacks, rows, *records)
    assert [(s.process, s.thread, s.count) for s in found.samples] == [
        ("first", "first", 1),
        ("second", "second", 2),
        ("second", "worker", 4),
        ("first", "first", 8),
    ]


def test_a_stack_that_fills_its_place_is_marked_as_cut_at_the_root() -> None:
    (sample,) = resolved(stacks_of([0x1000] * MAX_FRAMES), [(PID, 0, 1, b"deep", 1)]).samples
    assert len(sample.stack) == MAX_FRAMES + 1
    assert sample.stack[-1].frames[0].reason is Reason.TRUNCATED


def test_a_stack_that_was_not_walked_to_its_root_says_why_at_the_root() -> None:
    end = WALK_ENDS.index(Reason.NO_UNWIND_ROW)
    found = resolved(stacks_of([0x1000, 0x2000], end=end), [(PID, 0, 1, b"x", 3)])
    (sample,) = found.samples
    assert sample.stack[-1].frames[0].function == "[stack cut: address outside unwind information]"
    assert found.frames_unknown[Reason.NO_UNWIND_ROW.value] == 3
    assert found.unwinding.cut == {Reason.NO_UNWIND_ROW.value: 3} and found.unwinding.whole == 0


def test_where_frames_were_left_out_of_a_deep_stack_is_marked() -> None:
    (sample,) = resolved(stacks_of([0x1000, CUT_MARK, 0x2000], end=END_ROOT), [(PID, 0, 1, b"deep", 1)]).samples
    assert [location.frames[0].reason is Reason.TRUNCATED for location in sample.stack] == [False, True, False]


def test_for_each_binary_it_is_counted_how_stacks_passed_through_it_and_where_they_ended() -> None:
    records = [
        name(1, PID, b"x", execed=True),
        mapped(2, PID, 0x1000, 0x2000, b"/no/one"),
        mapped(3, PID, 0x4000, 0x5000, b"/no/two"),
    ]
    end = WALK_ENDS.index(Reason.STACK_UNREADABLE)
    stacks = stacks_of([0x1100, 0x1200, 0x4100, 0x4200], end=end, by_frame_pointer=0b0100)
    unwinding = resolved(stacks, [(PID, 0, 1, b"x", 5), (PID, 0, 1, b"y", 2)], *records).unwinding
    assert unwinding.binaries == {
        "/no/one": Passage(by_table=14),
        "/no/two": Passage(by_frame_pointer=7, ended={Reason.STACK_UNREADABLE.value: 7}),
    }
    assert Unwinding.from_counts(unwinding.counts()) == unwinding


def test_samples_whose_stack_did_not_come_are_counted_and_left_out() -> None:
    found = resolved(stacks_of([0x1000]), [(PID, 0, 1, b"x", 1), (PID, 0, 77, b"x", 5), (PID, 78, 1, b"x", 6)])
    assert sum(sample.count for sample in found.samples) == 1
    assert found.without_stack == 11


def test_kernel_frames_come_before_user_frames_and_one_address_is_one_location() -> None:
    with open("/proc/kallsyms") as file:
        text = next(int(line.split()[0], 16) for line in file if line.endswith(" T _text\n"))
    stacks = stacks_of([text + 0x100000, text + 0x200000], [0x1000])
    first, second = resolved(stacks, [(PID, 1, 2, b"x", 1), (PID, 1, 0, b"y", 1)]).samples
    assert [frame.kind for location in first.stack for frame in location.frames] == ["kernel", "kernel", "unknown"]
    assert second.stack[0] is first.stack[0]


def test_names_with_control_characters_are_made_visible() -> None:
    (sample,) = resolved(stacks_of([0x1000]), [(PID, 0, 1, b"a\x1b[31mb", 1)]).samples
    assert "\x1b" not in sample.thread and "[31mb" in sample.thread
