"""Names of code in other namespaces and in files that are gone, replaced or only in memory, as `record` gives them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from profiler.model import Profile, Sample
from symbolizer.types import Kind, Reason
from tests.live.support import Build, Record, functions, libraries

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="its machine code is for x86-64")

FOREVER = "100000"
# What nameless code in memory is called, by what the memory is.
MEMORY = {
    "heap": "[heap: anonymous memory]",
    "stack": "[stack: anonymous memory]",
    "memfd": "[memfd:code of a compiler: anonymous memory]",
    "shared": "[/dev/zero: anonymous memory]",
    "System V": "[SYSV00000000: anonymous memory]",
}


@contextmanager
def running(*command: str | Path, inside: bool = False) -> Iterator[int]:
    """The pid of a started `places`, once it is ready; `inside`: it is the first child's, of unshare."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        pid = process.pid
        if inside:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        yield pid
    finally:
        process.kill()
        process.wait()


def sampled(record: Record, pids: Sequence[int]) -> dict[int, list[Sample]]:
    """What `record` saw of running processes."""
    arguments = [part for pid in pids for part in ("-p", str(pid))]
    profile: Profile = record("-F", "499", "-d", "2", *arguments)
    return {pid: [sample for sample in profile.samples if sample.pid == pid] for pid in pids}


def shares(samples: Sequence[Sample]) -> dict[str, int]:
    """Ticks by the function they were in, in user space."""
    found: dict[str, int] = {}
    for sample in samples:
        user = [frame for location in sample.stack for frame in location.frames if frame.kind is not Kind.KERNEL]
        if user:
            found[user[0].function] = found.get(user[0].function, 0) + sample.count
    return found


def with_library(build: Build, folder: Path, own: str, library: str) -> Path:
    """`places` and its library at fixed places in a folder, their functions so named."""
    folder.mkdir(parents=True)
    shutil.move(build("gcc -O0 -shared -fPIC", "places.c", f"-DLIBRARY_WORK={library}"), folder / "libplaces.so")
    flags = [f"-DOWN={own}", "-DWITH_LIBRARY", f"-L{folder}", "-lplaces", f"-Wl,-rpath,{folder}"]
    shutil.move(build("gcc -O0", "places.c", *flags), folder / "places")
    return folder / "places"


def test_a_process_in_its_own_mount_pid_and_user_namespace_has_the_names_of_its_own_files(
    build: Build, record: Record, tmp_path: Path
) -> None:
    """Its program and libraries are at paths where this host has others, and its perf map is in its /tmp."""
    folder, root = tmp_path / "app", tmp_path / "root"
    program = with_library(build, folder, "inside_work", "inside_library")
    inside = root / folder.relative_to("/")
    for file in [program, *map(Path, libraries(program))]:
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    (root / "tmp").mkdir(exist_ok=True)
    libc = next(root.glob("**/libc.so.6"))
    subprocess.run(["strip", libc], check=True)  # its own: without names but those of its dynamic symbols
    shutil.rmtree(folder)
    with_library(build, folder, "outside_work", "outside_library")
    assert (inside / "places").read_bytes() != (folder / "places").read_bytes()
    with ExitStack() as stack:
        unshare: list[str | Path] = ["unshare", "-Urmpf", "--kill-child", f"--root={root}", program, FOREVER]
        in_namespace = stack.enter_context(running(*unshare, inside=True))
        outside = stack.enter_context(running(program, FOREVER))
        assert (root / "tmp" / "perf-1.map").exists()
        found = sampled(record, [in_namespace, outside])
    Path(f"/tmp/perf-{outside}.map").unlink()
    mine, theirs = shares(found[outside]), shares(found[in_namespace])
    for expected in ("inside_work", "inside_library", "memfrob", "compiled_work", MEMORY["memfd"]):
        assert theirs.get(expected), theirs
    for expected in ("outside_work", "outside_library", "memfrob", "compiled_work"):
        assert mine.get(expected), mine
    assert not {"outside_work", "outside_library"} & theirs.keys()
    assert not {"inside_work", "inside_library"} & mine.keys()
    chains = [functions(sample) for sample in found[in_namespace]]
    assert any(chain[:3] == ["inside_library", "library_work", "main"] for chain in chains), chains


def test_programs_that_are_deleted_replaced_or_in_memory_only_have_the_names_of_what_runs(
    build: Build, record: Record, tmp_path: Path
) -> None:
    deleted, upgraded, hidden = tmp_path / "deleted", tmp_path / "upgraded", tmp_path / "hidden"
    for path, own in [(deleted, "deleted_work"), (upgraded, "before_work"), (hidden, "hidden_work")]:
        shutil.move(build("gcc -O0", "places.c", f"-DOWN={own}"), path)
    newer = build("gcc -O0", "places.c", "-DOWN=after_work")
    from_memory = (
        f"import os; fd = os.memfd_create('program', os.MFD_CLOEXEC); os.write(fd, open({str(hidden)!r}, 'rb').read());"
        f"os.execve(fd, ['hidden', {FOREVER!r}], os.environ)"
    )
    with ExitStack() as stack:
        pids = {"deleted_work": stack.enter_context(running(deleted, FOREVER))}
        pids["before_work"] = stack.enter_context(running(upgraded, FOREVER))
        pids["hidden_work"] = stack.enter_context(running(sys.executable, "-c", from_memory))
        deleted.unlink()
        hidden.unlink()
        shutil.copy(newer, tmp_path / "upgraded.new")
        (tmp_path / "upgraded.new").rename(upgraded)
        pids["after_work"] = stack.enter_context(running(upgraded, FOREVER))
        found = sampled(record, list(pids.values()))
    for own, pid in pids.items():
        Path(f"/tmp/perf-{pid}.map").unlink()
        seen = shares(found[pid])
        assert seen.get(own), (own, seen)
        assert not (pids.keys() - {own}) & seen.keys(), (own, seen)
        binaries = {
            location.binary.path
            for sample in found[pid]
            for location in sample.stack
            if location.binary and location.frames[0].function == own
        }
        shown = {"deleted_work": str(deleted), "hidden_work": "/memfd:program"}
        assert binaries == {shown.get(own, str(upgraded))}


def test_a_library_that_an_overlay_shows_in_place_of_another_is_the_one_that_is_named(
    build: Build, record: Record, tmp_path: Path
) -> None:
    """As in containers: one path, and below it one file for the process that runs on, another for all that come."""
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    program = with_library(build, merged, "own_work", "lower_library")
    merged.rename(lower)
    merged.mkdir()
    layers = tmp_path / "layers"
    layers.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "layers", layers], check=True)  # an overlay cannot be on another's upper
    try:
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        options = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no overlay file system: {mounted.stderr.decode()}")
        try:
            with running(program, FOREVER) as old:
                newer = build("gcc -O0 -shared -fPIC", "places.c", "-DLIBRARY_WORK=upper_library")
                shutil.copy(newer, merged / "libplaces.new")
                (merged / "libplaces.new").rename(merged / "libplaces.so")
                with running(program, FOREVER) as new:
                    found = sampled(record, [old, new])
                for pid in (old, new):
                    Path(f"/tmp/perf-{pid}.map").unlink()
        finally:
            subprocess.run(["umount", "-l", merged], check=True)
    finally:
        subprocess.run(["umount", "-l", layers], check=True)
    before, after = shares(found[old]), shares(found[new])
    assert before.get("own_work") and before.get("lower_library") and "upper_library" not in before, before
    assert after.get("own_work") and after.get("upper_library") and "lower_library" not in after, after


def test_nameless_code_says_where_it_is(build: Build, record: Record, tmp_path: Path) -> None:
    """What memory it is in, or, of a program without symbols, which function it is of."""
    places = build("gcc -O0", "places.c", "-DOWN=own_work")
    whole, stripped = build("gcc -O0", "places.c", "-DOWN=stripped_work"), tmp_path / "stripped"
    symbols = subprocess.run(["nm", whole], capture_output=True, text=True, check=True).stdout.splitlines()
    starts = {line.split()[2]: int(line.split()[0], 16) for line in symbols if len(line.split()) == 3}
    subprocess.run(["strip", "-o", stripped, whole], check=True)
    with running(places, FOREVER) as pid, running(stripped, FOREVER) as nameless:
        found = sampled(record, [pid, nameless])
    for each in (pid, nameless):
        Path(f"/tmp/perf-{each}.map").unlink()
    seen = shares(found[pid])
    for expected in ("own_work", "memfrob", "compiled_work", *MEMORY.values()):
        assert seen.get(expected), seen
    binaries = {
        location.frames[0].function: location.binary.path
        for sample in found[pid]
        for location in sample.stack
        if location.binary and location.frames[0].reason is Reason.ANONYMOUS
    }
    assert set(MEMORY.values()) <= binaries.keys()
    assert all(name.startswith(f"{binary[:-1]}: ") for name, binary in binaries.items())
    own, main = (f"[stripped+{starts[name]:#x}: {Reason.NO_SYMBOLS}]" for name in ("stripped_work", "main"))
    assert any(functions(sample)[:2] == [own, main] for sample in found[nameless]), shares(found[nameless])
    frames = {frame for sample in found[nameless] for location in sample.stack for frame in location.frames}
    assert {frame.reason for frame in frames if frame.function in (own, main)} == {Reason.NO_SYMBOLS}
