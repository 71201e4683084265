"""Finding kernel headers, and what is said where bcc cannot do its part."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from profiler import bcc
from profiler.bcc import Headers, compile_sampler, find_headers
from profiler.libbpf import BpfError
from profiler.sampler import Filters

ARCH = {"x86_64": "x86", "aarch64": "arm64"}[os.uname().machine]


def make_source(folder: Path) -> Path:
    (folder / "include/linux").mkdir(parents=True)
    (folder / "include/linux/kconfig.h").write_text("#include <generated/autoconf.h>\n")
    (folder / "arch" / ARCH / "include").mkdir(parents=True, exist_ok=True)
    return folder


def make_build(folder: Path, *, arch: str = ARCH) -> Path:
    (folder / "include/generated").mkdir(parents=True)
    (folder / "include/generated/autoconf.h").touch()
    (folder / "arch" / arch / "include/generated").mkdir(parents=True)
    return folder


def make_whole(folder: Path) -> Path:
    return make_source(make_build(folder))


@pytest.fixture
def with_headers(tmp_path: Path) -> Path:
    make_whole(tmp_path / "lib/modules" / os.uname().release / "build")
    return tmp_path


def the_sentence(root: Path) -> str:
    with pytest.raises(BpfError) as refused:
        compile_sampler(Filters(), 64, root=root)
    sentence = str(refused.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def test_without_headers_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    sentence = the_sentence(tmp_path)
    assert "needs kernel headers" in sentence
    assert "apt-get install linux-headers-" in sentence


def test_the_running_kernels_headers_come_first(tmp_path: Path) -> None:
    own = make_whole(tmp_path / "lib/modules/5.4.0/build")
    make_whole(tmp_path / "lib/modules/6.9.0/build")
    make_whole(tmp_path / "usr/src/linux-headers-6.9.0")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/kheaders.tar.xz").touch()
    assert find_headers(tmp_path, "5.4.0") == Headers((own,))


def test_headers_split_into_build_and_source_are_used_together(tmp_path: Path) -> None:
    build = make_build(tmp_path / "lib/modules/5.4.0/build")
    source = make_source(tmp_path / "lib/modules/5.4.0/source")
    assert find_headers(tmp_path, "5.4.0") == Headers((source, build))


@pytest.mark.parametrize("named", ["/usr/src/linux-headers-6.1.0-9-common", "../linux-headers-6.1.0-9-common"])
def test_the_source_of_split_headers_is_the_one_their_makefile_names(tmp_path: Path, named: str) -> None:
    build = make_build(tmp_path / "usr/src/linux-headers-6.1.0-9-amd64")
    (build / "Makefile").write_text(f"# made by a package\ninclude {named}/Makefile\n")
    source = make_source(tmp_path / "usr/src/linux-headers-6.1.0-9-common")
    (first, second) = find_headers(tmp_path, "6.18.0").folders
    assert (first.resolve(), second) == (source, build)


def test_the_kernels_own_archive_is_preferred_to_another_kernels_headers(tmp_path: Path) -> None:
    make_whole(tmp_path / "usr/src/linux-headers-6.9.0")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/kheaders.tar.xz").touch()
    assert find_headers(tmp_path, "5.4.0") == Headers(archive=tmp_path / "sys/kernel/kheaders.tar.xz")


def test_of_other_kernels_headers_the_newest_that_are_whole_and_of_this_machine_are_taken(tmp_path: Path) -> None:
    make_whole(tmp_path / "usr/src/linux-headers-6.9.0")
    newest = make_whole(tmp_path / "usr/src/linux-headers-6.10.0")
    make_build(tmp_path / "usr/src/linux-headers-6.11.0")
    make_source(make_build(tmp_path / "usr/src/linux-headers-6.12.0", arch="sparc"))
    (tmp_path / "lib/modules/6.13.0").mkdir(parents=True)
    (tmp_path / "lib/modules/6.13.0/build").symlink_to("/nowhere")
    assert find_headers(tmp_path, "5.4.0") == Headers((newest,))


def test_without_bcc_one_sentence_says_what_to_install(with_headers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc, "_PYTHON", sys.executable)  # of a virtual environment, which has no bcc
    assert "apt-get install python3-bpfcc" in the_sentence(with_headers)


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import nothing_of_that_name", "exit code 1: ModuleNotFoundError"),
        ("import time; time.sleep(600)", "not have the sampler ready in"),
        ("import sys; sys.stderr.write('x' * 5_000_000)", "exit code 0"),
    ],
)
def test_a_child_that_dies_or_hangs_ends_in_a_sentence_and_is_gone(
    child: str, said: str, with_headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "child.py"
    stand_in.write_text(child)
    monkeypatch.setattr(bcc, "_CHILD", stand_in)
    if "sleep" in child:
        monkeypatch.setattr(bcc, "_LONGEST_SECONDS", 0.5)
    assert said in the_sentence(with_headers)
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(stand_in) in command_line(pid)]


def test_an_archive_of_headers_that_is_broken_is_said(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/kheaders.tar.xz").write_bytes(b"\xfd7zXZ\x00" + bytes(100))
    sentence = the_sentence(tmp_path)
    assert "kheaders.tar.xz cannot be unpacked" in sentence


def test_a_kernel_that_keeps_too_few_frames_is_said_with_the_way_to_raise_it(
    with_headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "perf_event_max_stack"
    limit.write_text("64\n")
    monkeypatch.setattr(bcc, "_MAX_STACK", limit)
    assert "sysctl kernel.perf_event_max_stack=127" in the_sentence(with_headers)
