"""Code that programs compile while they run, named by what they say of it: node, Java, CPython, and a jitdump file."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from profiler.model import Profile
from symbolizer.types import Frame, Kind
from tests.live.support import WORKLOADS, Record, functions

NODE = shutil.which("node") or ""
JAVA = shutil.which("java") and shutil.which("javac") and shutil.which("jcmd")

JAVASCRIPT = """// Busy for the CPU seconds given.
function burnJavaScript(rounds) {
  let x = 0;
  for (let i = 0; i < rounds; i++)
    x = (x * 31 + i) | 0;
  return x;
}
while (process.cpuUsage().user < Number(process.argv[2]) * 1e6) burnJavaScript(100000);
"""
PYTHON = """# Busy for the CPU seconds given.
import sys, time

class Shop:
    def price(self, rounds):
        return burn(rounds)

def burn(rounds):
    x = 0
    for i in range(rounds):
        x = (x * 31 + i) & 0xFFFF
    return x

while time.process_time() < float(sys.argv[1]):
    Shop().price(10000)
"""

# Without on-stack replacement the caller, which is called once, is never optimized, so nothing is inlined into it.
needs_node = pytest.mark.skipif(not NODE, reason="node is not installed (Debian: nodejs)")
NODE_FLAGS = ("--no-use-osr", "--interpreted-frames-native-stack")


def frames_of(profile: Profile, *kinds: Kind) -> Counter[Frame]:
    """In how many ticks each frame of these kinds was found."""
    found = Counter[Frame]()
    for sample in profile.samples:
        for frame in {frame for at in sample.stack for frame in at.frames if frame.kind in kinds}:
            found[frame] += sample.count
    return found


def ended(profile: Profile) -> Profile:
    """The profile of a command; the files that it left are removed."""
    for pid in {sample.pid for sample in profile.samples}:
        forget(pid)
    return profile


def forget(pid: int) -> None:
    for name in (f"perf-{pid}.map", f"jit-{pid}.dump"):
        Path("/tmp", name).unlink(missing_ok=True)


@contextmanager
def running(*command: str, folder: Path) -> Iterator[int]:
    """Runs a command in a folder, and yields its pid."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        forget(process.pid)


def wait_until(there: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not there():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def says(path: Path, text: bytes) -> bool:
    return path.exists() and text in path.read_bytes()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "busy.js"
    path.write_text(JAVASCRIPT)
    return path


@needs_node
def test_node_functions_have_their_tier_file_and_line(record: Record, script: Path) -> None:
    with running(NODE, "--perf-basic-prof", *NODE_FLAGS, str(script), "60", folder=script.parent) as pid:
        wait_until(lambda: says(Path(f"/tmp/perf-{pid}.map"), b":*burnJavaScript "))
        frames = frames_of(record("-F", "499", "-p", str(pid), "-d", "1"), Kind.JIT)
    burning = {frame: n for frame, n in frames.items() if frame.function == "*burnJavaScript"}
    assert sum(burning.values()) > 5, frames
    assert {(frame.file, frame.line) for frame in burning} == {(str(script), 2)}


@needs_node
def test_nodes_jitdump_file_gives_the_line_that_was_running(record: Record, script: Path) -> None:
    # node writes the file when it has much to write, or ends.
    quiet = ("--no-logfile-per-isolate", "--logfile=/dev/null")
    command = shlex.join([NODE, "--perf-prof", *quiet, *NODE_FLAGS, str(script), "1"])
    frames = frames_of(ended(record("-F", "499", "--", "sh", "-c", f"cd /tmp && exec {command}")), Kind.JIT)
    burning = {frame: n for frame, n in frames.items() if frame.function == "*burnJavaScript"}
    assert sum(burning.values()) > 5, frames
    assert {frame.file for frame in burning} == {str(script)}
    assert {frame.line for frame in burning} <= set(range(2, 7))
    assert {frame.line for frame in burning} & {4, 5}  # its loop


@pytest.mark.skipif(not JAVA, reason="java, javac and jcmd are not installed (Debian: openjdk-17-jdk-headless)")
def test_java_methods_are_named_by_the_map_that_jcmd_has_it_write_in_place(record: Record, tmp_path: Path) -> None:
    subprocess.run(["javac", "-d", str(tmp_path), str(WORKLOADS / "Busy.java")], check=True)
    flags = ["-Xbatch", "-XX:-TieredCompilation", "-XX:CompileCommand=quiet", "-XX:CompileCommand=dontinline,Busy.burn"]
    with running("java", *flags, "-cp", str(tmp_path), "Busy", "60", folder=tmp_path) as pid:
        path = Path(f"/tmp/perf-{pid}.map")
        seen: list[list[bytes]] = [[]]

        def settled() -> bool:
            """Whether what is compiled of the program is the same as when last asked."""
            subprocess.run(["jcmd", str(pid), "Compiler.perfmap"], capture_output=True)
            text = path.read_bytes() if path.exists() else b""
            seen.append(re.findall(rb".* Busy\..*", text))
            return seen[-1] == seen[-2] and any(b"Busy.burn" in line for line in seen[-1])

        wait_until(settled)
        frames = frames_of(record("-F", "499", "-p", str(pid), "-d", "1"), Kind.JIT)
    assert sum(n for frame, n in frames.items() if frame.function == "void Busy.burn(int)") > 5, frames


def pythons_that_tell() -> list[str]:
    """The CPythons from 3.12 on, which write perf maps."""
    names = [f"python3.{minor}" for minor in range(12, 20)]
    found = [path for name in names if (path := shutil.which(name)) and "/shims/" not in path]
    found += [path for name in names for path in glob.glob(os.path.expanduser(f"~/.pyenv/versions/*/bin/{name}"))]
    return sorted({os.path.realpath(path) for path in found})


def test_python_functions_are_named_with_their_file(record: Record, tmp_path: Path) -> None:
    pythons = pythons_that_tell()
    if not pythons:
        pytest.skip("no CPython from 3.12 on is installed (by its name on $PATH, or by pyenv)")
    script = tmp_path / "busy.py"
    script.write_text(PYTHON)
    for python in pythons:
        for way in ("perf", "perf_jit") if int(python.rpartition(".")[2]) >= 13 else ("perf",):
            profile = ended(record("-F", "499", "--", python, "-X", way, str(script), "1"))
            frames = frames_of(profile, Kind.PYTHON)
            assert frames[Frame("burn", Kind.PYTHON, file=str(script))] > 5, (python, way, frames)


def test_a_jitdump_file_of_java_shows_inlined_code_and_lines(record: Record, tmp_path: Path) -> None:
    with running(sys.executable, str(WORKLOADS / "jitdump.py"), "60", folder=tmp_path) as pid:
        wait_until(lambda: says(tmp_path / f"jit-{pid}.dump", b"Lcom/shop/Cart;total"))
        profile = record("-F", "499", "-p", str(pid), "-d", "1")
    frames = frames_of(profile, Kind.JIT, Kind.INLINED)
    inlined = Frame("[inlined from java/lang/Math.java]", Kind.INLINED, file="java/lang/Math.java", line=130)
    assert frames[inlined] > 5, frames
    outer = "com.shop.Cart.total(long[])"
    assert {frame.function for frame in frames if frame.kind == Kind.JIT} == {outer}
    for sample in profile.samples:
        if inlined.function in functions(sample):
            assert functions(sample)[functions(sample).index(inlined.function) + 1] == outer
