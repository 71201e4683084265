"""`pilotlight record` as people use it, and as it is misused."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiler.formats.json import read_json
from profiler.formats.pprof_read import read_pprof
from tests.live.support import PILOTLIGHT, Compile, assert_truthful, busy_in_cgroup, count_of

CAPABILITIES = "+perfmon,+bpf,+sys_ptrace,+syslog"


def pilotlight(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [PILOTLIGHT, *arguments], capture_output=True, text=True, timeout=120, **options
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """It ended with the code and one sentence that holds the parts."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("pilotlight")
    for part in parts:
        assert part in last


def folded_total(text: str) -> int:
    return sum(int(line.rpartition(" ")[2]) for line in text.splitlines())


def test_every_format_holds_the_same_total_to_the_sample(compile_c: Compile, tmp_path: Path) -> None:
    outputs = [tmp_path / f"x{extension}" for extension in (".svg", ".folded", ".pb.gz", ".speedscope.json", ".json")]
    arguments = [part for output in outputs for part in ("-o", str(output))]
    done = pilotlight("record", "-F", "99", "-d", "3", *arguments)
    assert done.returncode == 0, done.stderr
    svg, folded, pprof, speedscope, own = (output.read_bytes() for output in outputs)
    profile = read_json(own)
    assert_truthful(profile)
    total = profile.accounting.sampled
    assert folded_total(folded.decode()) == total
    assert read_pprof(pprof).profiles[0].accounting.sampled == total
    assert sum(json.loads(speedscope)["profiles"][0]["weights"]) == total
    assert f"{total:,} shown".encode() in svg
    assert f"{total:,} shown" in done.stderr
    go = subprocess.run(["go", "tool", "pprof", "-raw", str(outputs[2])], capture_output=True, text=True, check=True)
    rows = go.stdout.partition("Samples:")[2].partition("Locations")[0].splitlines()
    assert sum(int(row.split()[0]) for row in rows if row.split()[:1] and row.split()[0].isdigit()) == total


def test_the_command_runs_as_itself_and_its_exit_code_is_ours(tmp_path: Path) -> None:
    done = pilotlight("record", "-o", str(tmp_path / "x.json"), "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err" in done.stderr
    assert (tmp_path / "x.json").exists()


def test_a_command_ended_by_a_signal_gives_its_number(tmp_path: Path) -> None:
    done = pilotlight("record", "-o", str(tmp_path / "x.json"), "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 128 + 9


def test_a_command_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    refused(pilotlight("record", "-o", str(tmp_path / "x.svg"), "--", "no-such-program"), 1, "no-such-program")
    assert not (tmp_path / "x.svg").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_writes_what_was_collected(number: signal.Signals, compile_c: Compile, tmp_path: Path) -> None:
    busy = subprocess.Popen([str(compile_c("chains")), "60"])
    process = subprocess.Popen([PILOTLIGHT, "record", "-o", "x.json"], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        time.sleep(4)
        process.send_signal(number)
        assert process.wait(30) == 130
    finally:
        busy.kill()
        busy.wait()
    profile = read_json((tmp_path / "x.json").read_bytes())
    assert_truthful(profile)
    assert count_of(profile, "hot_inner") > 0


def test_a_second_interrupt_does_without_debug_information_that_is_slow_to_come(tmp_path: Path) -> None:
    (tmp_path / "busy.c").write_text("int main() { volatile long x = 0; for (;;) x++; }")
    subprocess.run(["gcc", "-s", "-Wl,--build-id", "-o", "busy", "busy.c"], cwd=tmp_path, check=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it is connected to, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "DEBUGINFOD_CACHE_PATH": str(tmp_path / "fetched"), "DEBUGINFOD_TIMEOUT": "1000"}
        busy = subprocess.Popen([str(tmp_path / "busy")])
        command = [PILOTLIGHT, "record", "-p", str(busy.pid), "-o", "x.json", "--debuginfod", url]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "Debug information is being read" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            connection.close()
        finally:
            busy.kill()
            busy.wait()
            process.kill()
            process.wait()
    assert read_json((tmp_path / "x.json").read_bytes()).accounting.sampled > 0


def test_interrupting_ends_the_command_too(compile_c: Compile, tmp_path: Path) -> None:
    command = [PILOTLIGHT, "record", "-o", "x.json", "--", str(compile_c("chains")), "60"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (130, 128 + signal.SIGTERM)
    profile = read_json((tmp_path / "x.json").read_bytes())
    (pid,) = {sample.pid for sample in profile.samples if sample.process == "chains"}
    assert not os.path.exists(f"/proc/{pid}")


def test_stdout_is_a_format_by_extension(compile_c: Compile) -> None:
    done = pilotlight("record", "-o", "-.folded", "--", str(compile_c("chains")), "0.5")
    assert done.returncode == 0
    assert folded_total(done.stdout) > 0 and "main;hot_outer;hot_inner" in done.stdout


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    command = f"{PILOTLIGHT} record -d 2 -o {tmp_path}/x.json"
    on_terminal = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, timeout=60)
    assert "samples" in on_terminal.stdout and "top: " in on_terminal.stdout
    assert "top: " not in pilotlight("record", "-d", "2", "-o", str(tmp_path / "x.json")).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["-F", "0"], 1, ["between 1 and 10,000 Hz"]),
        (["-F", "10001"], 1, ["between 1 and 10,000 Hz"]),
        (["-F", "fast"], 2, ["'fast'"]),
        (["-d", "-1"], 2, ["'-1'"]),
        (["-d", "nan"], 2, ["'nan'"]),
        (["-p", "4194305"], 1, ["4194305"]),
        (["-p", "x"], 2, ["'x'"]),
        (["-o", "x.png"], 2, ["x.png", ".folded", ".svg"]),
        (["-o", "/no/such/dir/x.svg"], 1, ["/no/such/dir"]),
        (["--cgroup", "no/such"], 2, ["no/such"]),
        (["-p", "1", "--", "true"], 2, ["not both"]),
    ],
)
def test_wrong_use_is_refused_in_a_sentence_before_any_sampling(
    arguments: list[str], code: int, parts: list[str], tmp_path: Path
) -> None:
    refused(pilotlight("record", *arguments, cwd=tmp_path), code, *parts)
    assert list(tmp_path.iterdir()) == []


def test_without_privileges_one_sentence_says_what_is_missing(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", PILOTLIGHT]
    done = subprocess.run([*command, "record", "-d", "1", "-o", "-.folded"], capture_output=True, text=True)
    refused(done, 1, "root or CAP_PERFMON")
    checked = subprocess.run([*command, "check"], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "NOT MET   CAP_BPF" in checked.stdout and "Traceback" not in checked.stderr


def test_the_four_capabilities_are_enough(compile_c: Compile) -> None:
    program = compile_c("syscalls")
    for folder in [program.parent, *program.parent.parents[:3]]:
        folder.chmod(folder.stat().st_mode | 0o755)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [f"--inh-caps=-all,{CAPABILITIES}", f"--ambient-caps=-all,{CAPABILITIES}"]
    busy = subprocess.Popen([str(program), "60"])
    try:
        done = subprocess.run(
            [*command, PILOTLIGHT, "record", "-d", "2", "-o", "-.folded"], capture_output=True, text=True
        )
    finally:
        busy.kill()
        busy.wait()
    assert done.returncode == 0, done.stderr
    assert re.search(r"main;read_zeroes;.*\bread_zero_\[k\]", done.stdout)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "full"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_loses_no_profile(full_disk: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    done = pilotlight("record", "-d", "2", "-o", str(full_disk / "x.svg"), "-o", str(good))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if "could not be written" in line)
    assert "No space left" in line
    kept = Path(line.partition("kept in ")[2].partition(",")[0])
    assert read_json(kept.read_bytes()) == read_json(good.read_bytes())
    kept.unlink()
    assert list(full_disk.iterdir()) == []


def test_an_older_output_survives_a_failed_write(full_disk: Path) -> None:
    older = full_disk / "x.svg"
    older.write_text("older")
    done = pilotlight("record", "-d", "1", "-o", str(older))
    assert done.returncode == 1
    assert older.read_text() == "older"
    Path(done.stderr.partition("kept in ")[2].partition(",")[0]).unlink()


def test_a_recording_can_be_rendered_later(compile_c: Compile, tmp_path: Path) -> None:
    pilotlight("record", "-o", str(tmp_path / "x.json"), "--", str(compile_c("chains")), "0.5", check=True)
    profile = read_json((tmp_path / "x.json").read_bytes())
    pilotlight("render", str(tmp_path / "x.json"), "-o", str(tmp_path / "x.folded"), check=True)
    pilotlight("render", str(tmp_path / "x.json"), "-o", str(tmp_path / "x.pb.gz"), check=True)
    assert folded_total((tmp_path / "x.folded").read_text()) == profile.accounting.sampled
    for name in ("x.folded", "x.pb.gz"):
        pilotlight("render", str(tmp_path / name), "-o", str(tmp_path / "y.svg"), check=True)
        assert b"hot_inner" in (tmp_path / "y.svg").read_bytes()
    refused(pilotlight("render", "/no/such.json", "-o", str(tmp_path / "y.svg")), 2, "/no/such.json")
    (tmp_path / "broken.json").write_bytes(b"{")
    refused(pilotlight("render", str(tmp_path / "broken.json"), "-o", str(tmp_path / "y.svg")), 2, "broken.json")
    (tmp_path / "broken.pb.gz").write_bytes(gzip.compress(b"\xff" * 100)[:-3])
    refused(pilotlight("render", str(tmp_path / "broken.pb.gz"), "-o", str(tmp_path / "y.svg")), 2, "broken.pb.gz")


def test_check_says_that_this_machine_can_do_it() -> None:
    done = pilotlight("check")
    assert done.returncode == 0, done.stdout
    assert "NOT MET" not in done.stdout
    for requirement in ("BTF", "CAP_BPF", "sampler", "process records", "kernel symbols"):
        assert requirement in done.stdout


def test_shares_and_totals_agree_with_perf_in_the_same_seconds(compile_c: Compile, tmp_path: Path) -> None:
    own = tmp_path / "x.folded"
    with busy_in_cgroup(str(compile_c("chains")), "120") as group:
        theirs = perf_stacks(tmp_path / "perf.data", group, beside=["record", "-d", "8", "-o", str(own)])
    ours: Counter[tuple[str, ...]] = Counter()
    for line in own.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if frames[0] == "chains":
            ours[tuple(frame.removesuffix("_[k]") for frame in frames[1:])] += int(count)
    chain = ("main", "hot_outer", "hot_inner")

    def hits(stacks: Counter[tuple[str, ...]]) -> int:
        return sum(count for stack, count in stacks.items() if set(chain) <= set(stack))

    total_ours, total_theirs = sum(ours.values()), sum(theirs.values())
    assert total_theirs > 100
    # Both tick at 99 Hz on their own clocks; what they see of one busy process differs by the start and the end.
    assert abs(total_ours - total_theirs) <= 0.1 * total_theirs
    share_ours, share_theirs = hits(ours) / total_ours, hits(theirs) / total_theirs
    error = (2 * 0.25 * 0.75 / min(total_ours, total_theirs)) ** 0.5
    assert abs(share_ours - share_theirs) < 4 * error

    def from_main(stacks: Counter[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """What is above main where the CPU was in user code."""
        found = {stack[stack.index("main") :] for stack in stacks if set(chain) <= set(stack)}
        return {stack for stack in found if len(stack) <= len(chain)}

    assert from_main(ours) == from_main(theirs) == {chain}


def perf_stacks(data: Path, group: str, beside: list[str]) -> Counter[tuple[str, ...]]:
    """The stacks of a cgroup, root first, that perf records while pilotlight runs with the arguments `beside`."""
    recording = subprocess.Popen(
        ["perf", "record", "-q", "-B", "-F", "99", "-a", "-g", "-e", "cpu-clock", "-G", group]
        + ["-o", str(data), "--", "sleep", "8"]
    )
    done = pilotlight(*beside)
    assert done.returncode == 0, done.stderr
    assert recording.wait(60) == 0
    command = ["perf", "script", "-i", str(data), "--no-inline", "-F", "comm,pid,ip,sym"]
    script = subprocess.run(command, capture_output=True, text=True)
    stacks: Counter[tuple[str, ...]] = Counter()
    assert script.returncode == 0, script.stderr
    for block in script.stdout.strip("\n").split("\n\n"):
        _, *frames = block.strip("\n").splitlines()
        stacks[tuple(frame.split(maxsplit=1)[1] for frame in reversed(frames))] += 1
    return stacks


def test_the_tools_these_tests_need_are_here() -> None:
    for tool in ("perf", "go", "setpriv", "script", "mount"):
        assert shutil.which(tool), f"{tool} is missing: `make setup-dev` installs it"
    assert sys.version_info >= (3, 11)
