"""Names of BPF programs that this kernel has loaded, against what bpftool says of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symbolizer.kernel.kernel import Kernel
from symbolizer.types import Kind

SOURCE = """\
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
__attribute__((noinline)) static int weigh_this_packet_twice(int by) { return bpf_get_prandom_u32() * by; }
SEC("socket") int NAME(struct __sk_buff *skb) {
    return weigh_this_packet_twice(skb->len) + weigh_this_packet_twice(skb->mark);
}
"""


@pytest.fixture
def pin() -> Iterator[str]:
    path = f"/sys/fs/bpf/pilotlight_test_{os.getpid()}"
    try:
        yield path
    finally:
        Path(path).unlink(missing_ok=True)


def load(folder: Path, name: str, pin: str, *flags: str) -> dict[str, Any]:
    """Loads the program and returns what bpftool says of it."""
    (folder / "program.c").write_text(SOURCE)
    subprocess.run(
        ["clang", "-O2", "-target", "bpf", f"-DNAME={name}", f"-I/usr/include/{os.uname().machine}-linux-gnu", *flags]
        + ["-c", "program.c", "-o", "program.o"],
        cwd=folder, check=True,
    )  # fmt: skip
    subprocess.run(["bpftool", "prog", "load", "program.o", pin], cwd=folder, check=True)
    done = subprocess.run(["bpftool", "-j", "prog", "show", "pinned", pin], capture_output=True, check=True)
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def code_of_programs() -> dict[str, int]:
    """Where the kernel has its BPF programs, by the names that kallsyms has for them."""
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines() if line.endswith("[bpf]")]
    return {line[2]: int(line[0], 16) for line in lines}


@pytest.mark.parametrize("name", ["count_it", "a_name_longer_than_fifteen_letters", "exactly_15_long"])
@pytest.mark.parametrize("flags", [("-g",), ()], ids=["with BTF", "without BTF"])
def test_a_bpf_program_has_the_name_that_bpftool_shows(
    name: str, flags: tuple[str, ...], pin: str, tmp_path: Path
) -> None:
    shown = load(tmp_path, name, pin, *flags)
    ours = {symbol: at for symbol, at in code_of_programs().items() if symbol.startswith(f"bpf_prog_{shown['tag']}")}
    assert ours, f"kallsyms does not have the program {shown}"
    for symbol, at in ours.items():
        location = Kernel().locations([at + 4])[0]
        assert location.binary is not None and location.binary.path == "[bpf]"
        assert (location.frames[0].function, location.frames[0].kind) == (shown["name"], Kind.BPF)
        assert location.frames[0].system_name == symbol


def test_a_subprogram_of_a_bpf_program_has_its_own_name(pin: str, tmp_path: Path) -> None:
    load(tmp_path, "main_program", pin, "-g")
    at = next(at for symbol, at in code_of_programs().items() if symbol.endswith("_weigh_this_packet_twice"))
    assert Kernel().locations([at + 4])[0].frames[0].function == "weigh_this_packet_twice"
