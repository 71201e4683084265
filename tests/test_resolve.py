"""From raw addresses to named samples: which program, which locations, and the account of the frames."""

from __future__ import annotations

import numpy as np

from profiler.accounting import TickCounts
from profiler.cgroups import Cgroups
from profiler.model import Window
from profiler.processes import Processes
from profiler.records import Batch
from profiler.resolve import Resolved, lookup_addresses, resolve
from profiler.sampler import MAX_FRAMES, SAMPLE_KEY, RawWindow, Stacks
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Reason
from tests.test_processes import NOBODY, Record, fork, mapped, name

PID = NOBODY + 1


def stacks_of(*stacks: list[int]) -> Stacks:
    """Stacks with the ids 1, 2, 3 …"""
    offsets = np.cumsum([0] + [len(stack) for stack in stacks])
    addresses = np.array([address for stack in stacks for address in stack], np.uint64)
    return Stacks(np.arange(1, len(stacks) + 1, dtype=np.uint64), offsets.astype(np.int64), addresses)


def resolved(stacks: Stacks, rows: list[tuple[int, int, int, bytes, int]], *records: Record) -> Resolved:
    """Of rows (pid, kernel stack, user stack, comm, count), after the records."""
    keys = np.zeros(len(rows), SAMPLE_KEY)
    for row, (pid, kernel, user, comm, _) in zip(keys, rows, strict=True):
        row["tgid"], row["kernel_stack"], row["user_stack"], row["comm"] = pid, kernel, user, comm
    counts = np.array([row[-1] for row in rows], np.uint64)
    raw = RawWindow(Window(0, 10**10), 0, 1000, 20.0, keys, counts, stacks, TickCounts())
    processes = Processes()
    processes.apply(Batch(list(records), 0))
    return resolve(raw, processes, Symbolizer(), Cgroups())


def test_return_addresses_are_looked_up_one_byte_before_and_leaves_as_they_are() -> None:
    assert lookup_addresses(stacks_of([10, 20, 30], [40], [], [50, 60])).tolist() == [10, 19, 29, 40, 50, 59]


def test_an_address_outside_known_mappings_is_in_none_even_if_the_process_is_gone() -> None:
    records = [name(1, PID, b"x", execed=True), mapped(2, PID, 0x1000, 0x2000, b"/no/such/file", build_id=bytes(20))]
    found = resolved(stacks_of([0x1500, 0x9001]), [(PID, 0, 1, b"x", 3)], *records)
    (sample,) = found.samples
    assert [frame.reason for location in sample.stack for frame in location.frames] == [
        Reason.FILE_MISSING,
        Reason.NO_MAPPING,
    ]
    assert found.frames_unknown == {"file missing": 3, "no mapping": 3} and found.frames_named == 0


def test_a_process_that_nothing_is_known_of_is_gone() -> None:
    (sample,) = resolved(stacks_of([0x1500]), [(PID, 0, 1, b"ghost", 1)]).samples
    assert sample.stack[0].frames[0].reason is Reason.PROCESS_GONE
    assert (sample.process, sample.thread) == ("ghost", "ghost")


def test_of_two_programs_in_one_window_the_one_that_covers_the_stack_is_taken() -> None:
    records = [
        fork(1, PID, 1),
        name(2, PID, b"first", execed=True),
        mapped(3, PID, 0x1000, 0x2000, b"/bin/first", build_id=b"a" * 20),
        name(500, PID, b"second", execed=True),
        mapped(501, PID, 0x8000, 0x9000, b"/bin/second", build_id=b"b" * 20),
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
