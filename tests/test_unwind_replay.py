"""The walk of profiler/bpf/unwind.bpf.h in user space, over stacks of real programs and over nonsense.

The stacks come from programs that stand still under ptrace, which needs no core_pattern, no gdb and no change to the
machine: stepped through one instruction at a time, or written to a core file and read again. Core files of the kernel
and of gdb are read too where this machine makes them.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profiler.stacks import CUT_MARK, MAX_FRAMES
from profiler.unwind.table import CfaKind
from tests.replay.__main__ import main, place
from tests.replay.core import CoreError, read_core
from tests.replay.model import MOST_FRAMES_WALKED, Expected, cut, expected_walk, marks_and_addresses
from tests.replay.ptrace import Tracee, record_process
from tests.replay.recording import Recording, load, mapping_at, read_tables, walks
from tests.replay.replayer import NO_RULE, ROOT, End, Replayer, Walk, build
from tests.replay.stepping import Follower, run
from tests.replay.worlds import PROCESS, damage, make_world

SOURCES = Path(__file__).parent / "replay"
RBX = 3
CHAIN = (  # frames.c, leaf first; where it stops, and what main() calls
    "stop in_registers with_array with_alloca realigned realigned_with_alloca by_frame_pointer many_arguments "
    "early_return plugged through_library"
).split()
RECURSIVE = ["recursive"] * 2  # of three calls the last is a jump

BUILDS = {
    "static": ("-O2", "-static"),
    "static-pie": ("-O2", "-static-pie"),
    "O0": ("-O0", "-static"),
    "O3": ("-O3", "-static", "-march=x86-64-v3"),
    "frame pointers": ("-O2", "-fno-omit-frame-pointer", "-static"),
    "clang": ("-O2", "-static"),
    "lazy": ("-O2", "-pie", "-Wl,-z,lazy"),
    "ibt": ("-O2", "-no-pie", "-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"),
    "bound": ("-O2", "-pie", "-Wl,-z,now", "-fno-plt"),
}


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("walker"))


@pytest.fixture
def replayer(walker: Path) -> Iterator[Replayer]:
    with Replayer(walker) as running:
        yield running


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_frames(tmp_path_factory.mktemp("frames"), "gcc", "-O2")


def build_frames(directory: Path, compiler: str, *flags: str) -> Path:
    """frames.c as distributions build programs, without frame pointers; unless static, plugged.c is a library."""
    program, plugged = directory / "frames", str(SOURCES / "plugged.c")
    command = [compiler, "-fomit-frame-pointer", *flags]
    if not any(flag.startswith("-static") for flag in flags):
        shared = str(directory / "libplugged.so")
        options = [flag for flag in flags if flag not in ("-pie", "-no-pie")]
        subprocess.run([command[0], *options, "-shared", "-fPIC", "-o", shared, plugged], check=True)
        plugged = shared
        command.append(f"-Wl,-rpath,{directory}")
    subprocess.run([*command, "-o", program, SOURCES / "frames.c", plugged], check=True)
    return program


@pytest.mark.parametrize("name", BUILDS)
def test_at_every_instruction_of_a_program_the_walk_finds_its_callers(
    name: str, replayer: Replayer, tmp_path: Path
) -> None:
    """From the first instruction, of ld.so or of the program, to the last, through lazy binding and signal handlers.

    What calls and returns do says what is right. Only where the compiler's own start files have no unwind information
    the walk may end, or go on by a frame pointer that leaves out a frame.
    """
    program = build_frames(tmp_path, "clang" if name == "clang" else "gcc", *BUILDS[name])
    wrong, instants, left_out, resolving = list[str](), 0, 0, 0
    with Tracee([str(program), "walk"]) as tracee:
        follower = Follower(tracee, replayer)
        for instant in run(tracee):
            walk = follower.walk(instant)
            instants += 1
            rules = [follower.rule(address) for address in instant.stack]
            known = rules.index(None) if None in rules else len(rules)
            left_out += known < len(rules)
            resolving += any(rule is not None and rule["cfa_register"] == RBX for rule in rules)
            whole = known == len(rules) and walk.end == End.ROOT and walk.addresses == instant.stack
            if not whole and (known == len(rules) or walk.addresses[: known + 1] != instant.stack[: known + 1]):
                wrong.append(
                    f"{place(follower.recording, instant.stack[0])}: {walk.end.name}\n"
                    f"  found {[place(follower.recording, address) for address in walk.addresses]}\n"
                    f"  right {[place(follower.recording, address) for address in instant.stack]}"
                )
    assert not wrong, f"{len(wrong)} of {instants} instants, among them\n" + "\n".join(wrong[:5])
    assert instants > 10_000 and left_out < 300
    assert resolving > 100 or "lazy" not in "".join(BUILDS[name]), "ld.so's resolver was to be stepped through"


@contextmanager
def stopped(*command: str | Path, directory: Path | None = None) -> Iterator[int]:
    """Runs a program until it stops itself; yields its pid."""
    limits = resource.RLIM_INFINITY, resource.RLIM_INFINITY
    process = subprocess.Popen(
        command, cwd=directory, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, limits)
    )
    try:
        for _ in range(1000):
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                break
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def names(program: Path, recording: Recording, walk: Walk) -> list[str]:
    """The functions of a walk, of the program and its library by name, of other files by the file's."""
    functions: dict[Path, list[tuple[int, str]]] = {}
    for file in (program, program.parent / "libplugged.so"):
        listed = subprocess.run(["nm", file], capture_output=True, text=True, check=True).stdout.split("\n")
        rows = [line.split() for line in listed]
        functions[file] = sorted((int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tT")
    found = []
    for address in walk.addresses:
        mapping = mapping_at(recording, address)
        assert mapping, f"{address:#x} is in no mapping"
        known = functions.get(Path(mapping.path))
        vaddr = address - mapping.start + mapping.offset  # the same in text that a linker lays out by default
        found.append([name for start, name in known if start <= vaddr][-1] if known else Path(mapping.path).name)
    return found


def replayed(replayer: Replayer, core: Path) -> tuple[Recording, list[Walk]]:
    recording = read_core(core)
    tables = read_tables(recording)
    assert not tables.problems
    load(replayer, recording, tables)
    return recording, [walk for _, walk in walks(replayer, recording)]


LIBC = "libc.so.6"
START = [LIBC, LIBC, "_start"]


def record_here(pid: int, core: Path) -> None:
    record_process(pid, core)


def record_by_gdb(pid: int, core: Path) -> None:
    if not shutil.which("gdb"):
        pytest.skip("there is no gdb here")
    command = ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", f"gcore {core}"]
    subprocess.run(command, check=True, capture_output=True)


def record_by_kernel(pid: int, core: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/", "@")) or "/" in pattern:
        pytest.skip("core files go elsewhere on this machine")
    os.kill(pid, signal.SIGABRT)  # SIGQUIT may be ignored, in what a shell runs in the background
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    (written,) = [file for file in core.parent.iterdir() if file.name.startswith(pattern.split("%")[0])]
    written.rename(core)


@pytest.mark.parametrize("record", [record_here, record_by_gdb, record_by_kernel])
def test_a_core_file_gives_the_whole_chain(
    record: Callable[[int, Path], None], frames: Path, replayer: Replayer, tmp_path: Path
) -> None:
    with stopped(frames, "wait", directory=tmp_path) as pid:
        record(pid, tmp_path / "a.core")
    recording, (walk,) = replayed(replayer, tmp_path / "a.core")
    assert walk.end == End.ROOT
    assert names(frames, recording, walk) == [*CHAIN, *RECURSIVE, "main", *START]


def test_a_signal_handler_on_an_alternate_stack_leads_to_what_it_interrupted(
    frames: Path, replayer: Replayer, tmp_path: Path
) -> None:
    with stopped(frames, "signal") as pid:
        record_process(pid, tmp_path / "a.core")
    recording, (walk,) = replayed(replayer, tmp_path / "a.core")
    assert walk.end == End.ROOT
    # of libc: where the handler returns to, and the system call that the signal came in
    between = ["on_signal", LIBC, LIBC, "interrupted", "handle"]
    assert names(frames, recording, walk) == [*CHAIN, *between, "main", *START]


def test_each_thread_has_its_stack(frames: Path, replayer: Replayer, tmp_path: Path) -> None:
    with stopped(frames, "thread") as pid:
        record_process(pid, tmp_path / "a.core")
    recording, (first, second) = replayed(replayer, tmp_path / "a.core")
    assert recording.threads[0].tid == pid
    assert (first.end, second.end) == (End.ROOT, End.ROOT)
    assert names(frames, recording, first)[-4:] == ["main", *START]
    assert names(frames, recording, second) == [*CHAIN, *RECURSIVE, "in_thread", LIBC, LIBC]


def test_a_stack_of_10_000_frames_keeps_leaf_and_root_with_the_cut_marked(
    frames: Path, replayer: Replayer, tmp_path: Path
) -> None:
    with stopped(frames, "deep", "10000") as pid:
        record_process(pid, tmp_path / "a.core")
    recording, (walk,) = replayed(replayer, tmp_path / "a.core")
    assert walk.end == End.ROOT
    assert len(walk.steps) == len(CHAIN) + 10_000 + len(START) + 1
    assert len(walk.addresses) == MAX_FRAMES
    at = walk.addresses.index(CUT_MARK)
    upper, lower = walk.addresses[:at], walk.addresses[at + 1 :]
    found = [names(frames, recording, Walk(walk.end, part, (), 0, walk.steps)) for part in (upper, lower)]
    assert found[0] == CHAIN + ["recursive"] * (at - len(CHAIN))
    assert found[1] == ["recursive"] * 28 + ["main", *START]


def test_a_file_that_was_replaced_since_is_not_taken_for_the_recorded_one(replayer: Replayer, tmp_path: Path) -> None:
    program = build_frames(tmp_path, "gcc", "-O2", "-Wl,--build-id")
    with stopped(program, "wait") as pid:
        record_process(pid, tmp_path / "a.core")
    program.unlink()
    build_frames(tmp_path, "gcc", "-O1", "-Wl,--build-id")
    recording = read_core(tmp_path / "a.core")
    tables = read_tables(recording)
    assert "build id" in tables.problems[str(program)]
    load(replayer, recording, tables)
    ((_, walk),) = walks(replayer, recording)
    assert walk.end == End.TABLE_NOT_LOADED
    assert walk.wanted == tables.numbers[str(program)]


def test_the_command_records_a_process_which_goes_on_and_shows_each_step(frames: Path, tmp_path: Path) -> None:
    core = tmp_path / "a.core"
    command = [sys.executable, "-m", "tests.replay"]
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            subprocess.run([*command, "record", str(process.pid), core], check=True, cwd=ROOT)
            os.kill(process.pid, 0)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "TracerPid:\t0" in status and "State:\tS" in status
        finally:
            process.kill()
    shown = subprocess.run([*command, core], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    lines = shown.splitlines()
    assert lines[0] == f"thread {process.pid}: {len(lines) - 1} steps, ended: root"
    assert "libc.so.6+0x" in lines[1] and "[cfa = rsp+" in lines[1]
    assert lines[-1].endswith("[root]  root") and "sleep+0x" in lines[-1]


def test_bad_input_to_the_command_gives_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("nothing of the kind")
    for arguments, said in (
        ([str(tmp_path / "text")], "replay: it is not a 64-bit ELF file\n"),
        ([sys.executable], "replay: it is no core file of x86-64\n"),
        ([str(tmp_path / "none")], "No such file"),
        (["record", "999999999", str(tmp_path / "new")], "replay: process 999999999 cannot be read"),
    ):
        assert main(arguments) == 1
        errors = capsys.readouterr().err
        assert said in errors and errors.count("\n") == 1
    assert main([]) == 2


def test_a_damaged_core_file_is_refused_or_read_in_part(frames: Path, tmp_path: Path) -> None:
    whole, damaged = tmp_path / "a.core", tmp_path / "damaged.core"
    with stopped(frames, "wait") as pid:
        record_process(pid, whole)
    data = whole.read_bytes()
    rng = np.random.default_rng(1)
    head = 1 << 14  # headers and notes
    for attempt in range(400):
        changed = bytearray(data[: rng.integers(0, head)] if attempt % 2 else data[: 2 * head])
        for at in rng.integers(0, max(len(changed), 1), 6 if changed else 0).tolist():
            changed[at] = rng.integers(0, 256)
        damaged.write_bytes(changed)
        try:
            assert isinstance(read_core(damaged), Recording)
        except CoreError as error:
            assert str(error)


def test_random_worlds_are_walked_as_the_rules_say(walker: Path) -> None:
    """Against a second walk, in Python: ends, addresses, frames by frame pointer, and what was asked for."""
    ends, ways = Counter[End](), Counter[str]()
    with Replayer(walker) as replayer:
        for seed in range(60):
            world = make_world(np.random.default_rng(seed), 40)
            replayer.set_maps(world.maps())
            replayer.set_memory(world.memory)
            for process in (PROCESS, PROCESS + 1):
                for start, walk in zip(world.starts, replayer.walk(process, world.starts), strict=True):
                    found = Expected(walk.end, walk.addresses, walk.by_frame_pointer, walk.wanted)
                    assert found == expected_walk(world, start, process), f"seed {seed}, from {start}"
                    ends[walk.end] += 1
                    ways["cut"] += CUT_MARK in walk.addresses
                    ways["by frame pointer"] += any(walk.by_frame_pointer)
    assert set(ends) >= set(End) - {End.UNKNOWN, End.TOO_DEEP}, ends
    assert min(ways.values()) > 20, ways


def test_a_million_steps_through_damaged_maps_end_and_read_nothing_outside(walker: Path) -> None:
    """The sanitizers watch; every map is an allocation of its own."""
    steps, seed, by_rule = 0, 0, 0
    with Replayer(walker) as replayer:
        while steps < 1_000_000:
            seed += 1
            rng = np.random.default_rng(seed)
            world = make_world(rng, 200)
            replayer.set_maps(damage(rng, world))
            replayer.set_memory(world.memory)
            for walk in replayer.walk(PROCESS, world.starts):
                steps += len(walk.steps)
                by_rule += int((walk.steps["rule"] != NO_RULE).sum())
                assert walk.end != End.UNKNOWN and len(walk.steps) <= MOST_FRAMES_WALKED
                assert (walk.end == End.TOO_DEEP) == (walk.steps["end"][-1] == 0)
                assert (walk.addresses, walk.by_frame_pointer) == cut(*marks_and_addresses(walk.steps)), f"seed {seed}"
    assert by_rule > steps // 2 and seed < 5000


def test_a_stack_that_leads_back_to_itself_is_given_up(replayer: Replayer) -> None:
    """A signal frame whose context is its own: each step is one that a signal frame allows."""
    world = make_world(np.random.default_rng(3), 1)
    trampoline, stack = world.mappings[0][0], 0x7FFD00000000
    context = np.zeros(17, np.uint64)
    context[15], context[16] = stack, trampoline  # rsp and rip
    world.starts["registers"][0, 7], world.starts["ip"][0] = stack, trampoline
    maps = world.maps()
    rules = maps.rules.copy()
    rules["cfa"] = CfaKind.SIGNAL
    replayer.set_maps(replace(maps, rules=rules))
    replayer.set_memory([(stack, bytes(40) + context.tobytes())])
    (walk,) = replayer.walk(PROCESS, world.starts)
    assert (walk.end, len(walk.steps), len(walk.addresses)) == (End.TOO_DEEP, MOST_FRAMES_WALKED, MAX_FRAMES)
    assert set(walk.addresses) == {trampoline, CUT_MARK}
