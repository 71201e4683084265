"""Programs that make unwinding hard or try to mislead it: the agent stays up and counts why stacks end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from profiler.model import Profile, Sample
from symbolizer.elf import read_elf
from symbolizer.files import read_at
from symbolizer.types import Reason
from tests.live.support import (
    Build,
    Record,
    cut,
    fates,
    functions,
    longest_run,
    samples_of,
    share_to_root,
    total,
    user_functions,
)

FLAGS = ["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread", "-Wl,--build-id=uuid"]


def section(path: Path, name: str) -> tuple[int, int]:
    """Offset and size of a section in a file."""
    with open(path, "rb") as file:
        elf = read_elf(partial(read_at, file.fileno()))
        found = next(part for part in elf.sections if elf.section_name(part) == name.encode())
    return found.offset, found.size


def patch(path: Path, offset: int, data: bytes) -> None:
    """Overwrites part of a file in place: whoever maps it sees the change."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@contextmanager
def running(*command: str) -> Iterator[int]:
    process = subprocess.Popen(command)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def assert_counted(profile: Profile, samples: list[Sample], path: Path) -> None:
    """Every stack that ends early says why, and the account counts it for the file it ended in."""
    ended = profile.accounting.unwinding.binaries[str(path)].ended
    at_file = [s for s in samples if cut(s) and s.stack[-2].binary and s.stack[-2].binary.path == str(path)]
    counted: dict[str, int] = {}
    for sample in at_file:
        reason = cut(sample)
        assert reason is not None
        counted[reason.value] = counted.get(reason.value, 0) + sample.count
    assert counted == dict(ended)


def zeroes(size: int) -> bytes:
    return bytes(size)


def ones(size: int) -> bytes:
    return b"\xff" * size


def noise(size: int) -> bytes:
    return np.random.default_rng(20).bytes(size)


def cycles(size: int) -> bytes:
    """Entries of 16 bytes that all take themselves for their CIE."""
    return ((12).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"\x01zR\0\x01\x78\x10\x01") * (size // 16)


def huge(size: int) -> bytes:
    """Entries that claim to be 4 GB long."""
    return (0xFFFFFFF0).to_bytes(4, "little") * (size // 4)


@pytest.mark.parametrize("damage", [zeroes, ones, noise, cycles, huge])
def test_damaged_unwind_information_ends_stacks_with_a_reason(
    damage: Callable[[int], bytes], build: Build, record: Record
) -> None:
    program = build("gcc", "chain.c", *FLAGS)
    offset, size = section(program, ".eh_frame")
    patch(program, offset, damage(size).ljust(size, b"\0"))
    profile = record("-F", "499", "--", str(program), "0.3")
    samples = samples_of(profile, "chain")
    in_chain = [s for s in samples if any(name in ("f00", "f32", "f64") for name in user_functions(s))]
    assert total(samples) > 50 and total(in_chain) > 0
    assert all(cut(sample) for sample in in_chain), fates(in_chain)
    assert_counted(profile, samples, program)
    reasons = {Reason.NO_UNWIND_TABLE, Reason.NO_UNWIND_ROW, Reason.UNWIND_RULE_UNSUPPORTED, Reason.STACK_UNREADABLE}
    settled = reasons | {Reason.STACK_BROKEN, Reason.NO_MAPPING}
    assert total(s for s in in_chain if cut(s) in settled) > 0.5 * total(in_chain), fates(in_chain)


def test_two_thousand_mappings_in_one_process(build: Build, record: Record) -> None:
    program = build("gcc", "crowded.c", *FLAGS)
    library = build("gcc", "plugin.c", "-shared", "-fPIC", *FLAGS, to="libplugin.so")
    command = f"{program} {library} 1 0.01; sleep 0.3; {program} {library} 2000 0.5"
    profile = record("-F", "499", "--", "sh", "-c", command)
    at_work = [s for s in longest_run(samples_of(profile, "crowded")) if "f02" in user_functions(s)]
    assert total(at_work) > 100
    assert share_to_root(at_work) >= 0.99, fates(at_work)
    for sample in at_work:
        names = user_functions(sample)
        assert names[names.index("f02") :][:4] == ["f02", "f01", "f00", "main"]
    assert profile.accounting.lost_total == 0


def test_a_library_replaced_in_place_while_mapped_is_not_walked_by_its_successor(
    build: Build, record: Record, tmp_path: Path
) -> None:
    library = tmp_path / "libchain.so"
    shutil.copy(build("gcc", "chain.c", *FLAGS, "-shared", "-fPIC", "-DCHAIN_ONLY", to="libchain.so"), library)
    program = build("gcc", "chain.c", *FLAGS, "-DMAIN_ONLY", str(library))
    # The successor has the same code, without which the process could not go on, below another build id and with
    # frames of other sizes.
    successor = bytearray(library.read_bytes())
    with open(library, "rb") as file:
        known_by = bytes.fromhex(read_elf(partial(read_at, file.fileno())).build_id())
    at = successor.index(known_by)
    successor[at : at + len(known_by)] = bytes(len(known_by))
    frames, size = section(library, ".eh_frame")
    successor[frames : frames + size] = successor[frames : frames + size].replace(b"\x0e\x10", b"\x0e\x30")
    (tmp_path / "successor").write_bytes(successor)
    replace = f"sleep 1; dd if={tmp_path}/successor of={library} conv=notrunc status=none; echo"
    profile = record("-F", "499", "-a", "--", "sh", "-c", f"{{ {replace}; }} | timeout 20 {program} 1 wait")
    samples = [s for s in profile.samples if any(at.binary and "libchain" in at.binary.path for at in s.stack)]
    assert total(samples) > 300
    for sample in samples:
        # Walked by the successor's rows, stacks would hold frames that are none.
        assert not [at for at in sample.stack[:-1] if at.binary is None], functions(sample)
    assert Reason.UNWIND_TABLE_NOT_LOADED in {cut(sample) for sample in samples}
    assert_counted(profile, samples, library)


def test_a_program_replaced_while_it_runs_is_walked_as_what_it_was(
    build: Build, record: Record, tmp_path: Path
) -> None:
    program = tmp_path / "upgraded"
    shutil.copy(build("gcc", "chain.c", *FLAGS), program)
    with running(str(program), "60") as pid:
        time.sleep(0.5)
        program.unlink()
        shutil.copy(build("gcc", "chain.c", *FLAGS, "-DVARIABLE"), program)
        profile = record("-F", "499", "-p", str(pid), "-d", "2")
    in_chain = [s for s in profile.samples if any(name == "go_down" or name == "f00" for name in user_functions(s))]
    late = [s for s in in_chain if cut(s) != Reason.UNWIND_TABLE_NOT_LOADED]
    assert total(late) > 300
    for sample in late:
        names = [name for name in user_functions(sample) if name[1:].isdigit()]
        assert names == [f"f{number:02}" for number in reversed(range(len(names)))]
    assert share_to_root(late) >= 0.99, fates(late)


def test_the_agent_goes_on_after_all_of_them(record: Record) -> None:
    profile = record("-F", "199", "--", sys.executable, "-c", "sum(range(40_000_000))")
    assert profile.accounting.sampled > 10
