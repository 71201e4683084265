"""`pilotlight symbolize`: the answers of addr2line, for a file or a running process, one sentence for the rest."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from profiler.processes import read_maps
from profiler.symbolize import SymbolizeError, SymbolizeOptions, parse_address, run_symbolize
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.kernel.kernel import Kernel

PILOTLIGHT = str(Path(sys.executable).with_name("pilotlight"))
NOBODY = 65534
C_SOURCE = """
#include <stdio.h>
#include <stdlib.h>
struct order { int count, price; };
static inline __attribute__((always_inline)) int price_of(const struct order *o) { return o->count * o->price; }
static inline __attribute__((always_inline)) int with_tax(const struct order *o) {
	return price_of(o) * 119 / 100;
}
__attribute__((noinline)) int total(const struct order *orders, int n) {
	int sum = 0;
	for (int i = 0; i < n; i++)
		sum += with_tax(&orders[i]);
	return sum;
}
int main(int argc, char **argv) {
	struct order orders[2] = {{argc, 3}, {2, atoi(argc > 1 ? argv[1] : "5")}};
	printf("%d\\n", total(orders, 2));
	fflush(stdout);
	return getchar() == 'x';
}
"""
CPP_SOURCE = """
#include <vector>
static inline __attribute__((always_inline)) int tripled(int x) { return x * 3; }
namespace shop {
template <class T> __attribute__((noinline)) T total(const std::vector<T> &all) {
	T sum = 0;
	for (auto one : all)
		sum += tripled(one);
	return sum;
}
}
int main(int argc, char **) { return shop::total(std::vector<int>{argc, 2, 3}); }
"""
OPTIONS = ["", "f", "a", "i", "fi", "fia", "fiap", "p", "pa", "pf", "pi", "fC", "fiCps", "s", "fips", "faiC"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def c_program(folder: Path) -> Path:
    return build(folder, "orders.c", C_SOURCE, "gcc")


@pytest.fixture(scope="module")
def cpp_program(folder: Path) -> Path:
    return build(folder, "shop.cpp", CPP_SOURCE, "g++")


@pytest.fixture(scope="module")
def symfiles(folder: Path) -> Iterator[SymFiles]:
    opened = SymFiles(folder / "cache")
    yield opened
    opened.close()


def build(folder: Path, name: str, source: str, compiler: str) -> Path:
    (folder / name).write_text(source)
    target = folder / name.partition(".")[0]
    subprocess.run([compiler, "-g", "-O2", "-o", target, folder / name], check=True)
    return target


def function_range(program: Path, name: str) -> range:
    """The addresses of the function whose symbol contains `name`."""
    for line in subprocess.run(["nm", "-S", program], capture_output=True, text=True, check=True).stdout.splitlines():
        fields = line.split()
        if len(fields) == 4 and name in fields[3] and fields[2] in "tTW" and not fields[3].endswith(".cold"):
            start = int(fields[0], 16)
            return range(start, start + int(fields[1], 16))
    raise AssertionError(f"no symbol {name} in {program}")


def with_addr2line(program: Path, options: str, addresses: list[str]) -> str:
    command = ["addr2line", "-e", str(program), *([f"-{options}"] if options else []), *addresses]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r" \(discriminator \d+\)$", "", answer, flags=re.M)


def ours(symfiles: SymFiles | None, **options: Any) -> int:
    return run_symbolize(SymbolizeOptions(**options), symfiles)


def flags(options: str) -> dict[str, bool]:
    return {
        "functions": "f" in options,
        "inlines": "i" in options,
        "show_addresses": "a" in options,
        "pretty": "p" in options,
        "base_names": "s" in options,
        "demangle": "C" in options,
    }


def pilotlight(*arguments: str, given: str = "", user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PILOTLIGHT, "symbolize", "--symbol-cache-size", "0", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        user=user,
        extra_groups=None if user is None else [],
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_c_is_answered_as_by_addr2line(
    options: str, c_program: Path, symfiles: SymFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    code = [*function_range(c_program, "main"), *function_range(c_program, "total")]
    addresses = [*map(hex, code), f"{code[0]:X}", "0", "ffffffffffffffff"]
    assert len(addresses) > 100
    assert ours(symfiles, elf=str(c_program), addresses=tuple(addresses), **flags(options)) == 0
    assert capsys.readouterr().out == with_addr2line(c_program, options, addresses)


@pytest.mark.parametrize("options", [options for options in OPTIONS if "C" not in options])
def test_cpp_is_answered_as_by_addr2line_but_for_the_names_of_the_inlined(
    options: str, cpp_program: Path, symfiles: SymFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """addr2line gives the innermost function of C++ the outermost one's name."""
    addresses = [hex(address) for name in ("main", "total") for address in function_range(cpp_program, name)]
    ours(symfiles, elf=str(cpp_program), addresses=tuple(addresses), inlines=True, json=True)
    inlined = {line["address"] for line in map(json.loads, capsys.readouterr().out.splitlines()) if line["frames"][1:]}
    assert inlined, "nothing was inlined"
    if "f" in options:
        addresses = [address for address in addresses if address not in inlined]
    assert addresses
    ours(symfiles, elf=str(cpp_program), addresses=tuple(addresses), **flags(options))
    assert capsys.readouterr().out == with_addr2line(cpp_program, options, addresses)


def test_an_inlined_function_is_named_with_its_callers(
    cpp_program: Path, symfiles: SymFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = tuple(map(hex, function_range(cpp_program, "total")))
    ours(symfiles, elf=str(cpp_program), addresses=addresses, functions=True, inlines=True, pretty=True, short=True)
    printed = capsys.readouterr().out.splitlines()
    position = next(i for i, line in enumerate(printed) if line.startswith("tripled"))
    assert re.fullmatch(r"tripled at \S+/shop\.cpp:3", printed[position])
    assert re.fullmatch(r" \(inlined by\) shop::total(<\S+>)? at \S+/shop\.cpp:8", printed[position + 1])


def test_a_name_of_a_symbol_table_has_no_file(
    c_program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    subprocess.run(["strip", "--strip-debug", "-o", plain, c_program], check=True)
    address = hex(function_range(c_program, "total").start + 1)
    ours(None, elf=str(plain), addresses=(address, "1"), functions=True, pretty=True)
    assert capsys.readouterr().out == with_addr2line(plain, "fp", [address, "1"])


def test_json_says_all_that_is_known(cpp_program: Path, symfiles: SymFiles, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = [*map(hex, function_range(cpp_program, "total")), "0x1"]
    ours(symfiles, elf=str(cpp_program), addresses=tuple(addresses), json=True)
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["address"] for answer in answers] == addresses
    notes = subprocess.run(["readelf", "-n", cpp_program], capture_output=True, text=True, check=True).stdout
    for answer in answers:
        assert answer["binary"] == {
            "path": os.path.realpath(cpp_program),
            "build_id": re.findall(r"Build ID: (\w+)", notes)[0],
        }
        assert all(frame["function"] for frame in answer["frames"])
    inner, outer = next(answer["frames"] for answer in answers if len(answer["frames"]) == 2)
    assert inner["kind"] == "inlined" and inner["function"] == "tripled" and inner["line"] == 3
    assert outer["kind"] == "native" and outer["system_name"].startswith("_ZN4shop5total") and outer["line"] == 8
    assert answers[-1]["frames"][0]["reason"] == "address outside symbols"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10c0", 0x10C0),
        ("0x10C0", 0x10C0),
        ("0X10c0", 0x10C0),
        ("  10c0 main", 0x10C0),
        ("ffffffffffffffff", 2**64 - 1),
        ("", None),
        ("main", None),
        ("0x", None),
        ("-1", None),
        ("1_0", None),
        ("10c0+4", None),
        ("１０", None),
        ("1ffffffffffffffff", None),
    ],
)
def test_an_address_is_hexadecimal(text: str, address: int | None) -> None:
    assert parse_address(text) == address


def test_what_is_no_address_is_told_once_the_others_are_answered(
    c_program: Path, symfiles: SymFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    main = hex(function_range(c_program, "main").start)
    with pytest.raises(SymbolizeError, match=r"^'zz' is no hexadecimal address\.$"):
        ours(symfiles, elf=str(c_program), addresses=("zz", main, "yy"), functions=True, show_addresses=True)
    answered = capsys.readouterr().out.splitlines()
    assert len(answered) == 9, "a program that reads along would lose its place"
    assert answered[4] == "main"
    with pytest.raises(SymbolizeError):
        ours(symfiles, elf=str(c_program), addresses=("zz",), json=True)
    assert json.loads(capsys.readouterr().out)["error"] == "not a hexadecimal address"


def test_lines_of_stdin_are_answered_one_by_one(c_program: Path) -> None:
    """As a coprocess: the next question is asked once the last one is answered."""
    questions = [hex(address) for address in function_range(c_program, "total")][:5] + ["", "0x1"]
    with subprocess.Popen(
        [PILOTLIGHT, "symbolize", "--symbol-cache-size", "0", "-f", "-e", str(c_program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for question in questions:
            process.stdin.write(f"{question}\n".encode())
            answer = b""
            while answer.count(b"\n") < 2:
                assert select.select([process.stdout], [], [], 30)[0], f"no answer to {question!r}"
                answer += (piece := os.read(process.stdout.fileno(), 4096))
                assert piece, "it ended"
            assert answer == (b"total\n??:?\n" if len(question) > 3 else b"??\n??:0\n")
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_last_line_without_its_end_is_answered_too(c_program: Path) -> None:
    total = hex(function_range(c_program, "total").start)
    done = pilotlight("-fe", str(c_program), given=f"{total}\n{total}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "total\n??:?\n" * 2, "")


def test_a_line_without_end_is_cut_short(c_program: Path) -> None:
    done = pilotlight("-e", str(c_program), given="z" * (1 << 20) + "\n")
    assert (done.returncode, done.stdout) == (1, "??:0\n")
    assert len(done.stderr) < 100


@pytest.fixture
def running(c_program: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the C program that waits for input."""
    process = subprocess.Popen([c_program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_addresses_of_a_process_are_named_kernel_ones_too(
    running: subprocess.Popen[bytes],
    c_program: Path,
    symfiles: SymFiles,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Kernel, "file", lambda kernel, binary: f"/boot/{binary.path.strip('[]')}")
    mapping = next(m for m in read_maps(running.pid) if m.path == os.path.realpath(c_program))
    total = function_range(c_program, "total")
    at = [hex(mapping.start - mapping.offset + address) for address in total]
    symbols = re.findall(r"^(\w+) [tT] (\w+)$", Path("/proc/kallsyms").read_text(), re.M)
    kernel, name = next((address, name) for address, name in symbols if name == "do_exit")
    assert int(kernel, 16), "the kernel's addresses are hidden: run as root"
    vdso = next(m for m in read_maps(running.pid) if m.path == "[vdso]")

    ours(symfiles, pid=running.pid, addresses=(*at, kernel, "1", hex(vdso.end - 1)), json=True)
    *in_total, in_kernel, nowhere, in_vdso = map(json.loads, capsys.readouterr().out.splitlines())
    assert {answer["frames"][-1]["function"] for answer in in_total} == {"total"}
    assert any([frame["function"] for frame in a["frames"]] == ["price_of", "with_tax", "total"] for a in in_total)
    assert [int(answer["offset"], 16) for answer in in_total] == [
        int(a, 16) - mapping.start + mapping.offset for a in at
    ]
    assert in_kernel["frames"][-1]["function"] == name and in_kernel["frames"][-1]["kind"] == "kernel"
    assert in_kernel["binary"]["file"] == "/boot/kernel" and "file" not in in_total[0]["binary"]
    assert nowhere["frames"] == [
        {"function": "[no mapping]", "short": "[no mapping]", "kind": "unknown", "reason": "no mapping"}
    ]
    assert in_vdso["binary"]["path"] == "[vdso]"

    ours(symfiles, pid=running.pid, addresses=(at[0], kernel, "1"), functions=True, pretty=True, base_names=True)
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"total at orders\.c:\d+", first)
    assert second.startswith(f"{name} at ")
    assert third == "[no mapping] ??:0"


def test_a_process_that_ends_meanwhile_is_still_answered_for(running: subprocess.Popen[bytes], c_program: Path) -> None:
    mapping = next(m for m in read_maps(running.pid) if m.path == os.path.realpath(c_program))
    total = f"{mapping.start - mapping.offset + function_range(c_program, 'total').start:x}\n".encode()
    command = [PILOTLIGHT, "symbolize", "--symbol-cache-size", "0", "-f", "--pid", str(running.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(total)
        assert process.stdout.readline() == b"total\n"
        process.stdout.readline()
        running.kill()
        running.wait()
        process.stdin.write(total + b"1\n")
        process.stdin.close()
        assert process.stdout.read().splitlines() == [b"total", b"??:?", b"[process gone]", b"??:0"]
        assert process.wait(30) == 0


def test_the_program_of_a_process_can_be_named_by_its_link(
    running: subprocess.Popen[bytes], c_program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = f"/proc/{running.pid}/exe"
    ours(None, elf=link, addresses=(hex(function_range(c_program, "total").start),), functions=True)
    assert capsys.readouterr().out.startswith("total\n")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("missing", "{} cannot be read (No such file or directory)."),
        ("text", "There are no names in {}: not an ELF file."),
        ("empty", "There are no names in {}: not an ELF file."),
        ("folder", "{} cannot be read (it is not a regular file)."),
        ("fifo", "{} cannot be read (it is not a regular file)."),
        ("loop", "{} cannot be read (Too many levels of symbolic links)."),
        ("device", "{} cannot be read (it is not a regular file)."),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_sentence(what: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / what
    match what:
        case "text":
            path.write_text("#!/bin/sh\n")
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "device":
            path.symlink_to("/dev/zero")
    done = pilotlight("-e", str(path), "1")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"pilotlight: {sentence.format(path)}\n")


def test_a_damaged_file_is_told_in_one_sentence(c_program: Path, tmp_path: Path) -> None:
    whole = c_program.read_bytes()
    for size in (5, 20, 63, 64, 100, len(whole) // 2):
        path = tmp_path / f"cut-{size}"
        path.write_bytes(whole[:size])
        done = pilotlight("-fe", str(path), "10c0")
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
        assert done.stdout == "??\n??:0\n" if done.returncode == 0 else done.stderr.count("\n") == 1


def test_what_the_user_may_not_read_is_told_in_one_sentence(c_program: Path) -> None:
    with open(os.devnull) as null:
        command = [PILOTLIGHT, "symbolize", "--symbol-cache-size", "0"]
        done = subprocess.run(
            [*command, "--pid", str(os.getpid()), "1"],
            stdin=null,
            capture_output=True,
            text=True,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
        )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"pilotlight: The mappings of process {os.getpid()} cannot be read: Permission denied.\n"


def test_a_process_that_is_gone_is_told_in_one_sentence() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    done = pilotlight("--pid", str(process.pid), "1")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr == f"pilotlight: The mappings of process {process.pid} cannot be read: there is no such process.\n"
    )


def test_control_characters_of_a_path_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path comes from the file, whoever made it: a newline in it would be taken for the next answer."""
    source = tmp_path / "evil.c"
    source.write_text(
        '#line 7 "/tmp/\\033[31m\\n0x1"\nint work(int x) { return x * 3; }\nint main(void) { return work(1); }\n'
    )
    subprocess.run(["gcc", "-g", "-O1", "-o", tmp_path / "evil", source], check=True)
    symfiles = SymFiles(tmp_path / "cache")
    try:
        address = hex(function_range(tmp_path / "evil", "work").start)
        ours(symfiles, elf=str(tmp_path / "evil"), addresses=(address,))
    finally:
        symfiles.close()
    assert capsys.readouterr().out == "/tmp/\\x1b[31m\\x0a0x1:7\n"


def test_debug_information_of_a_stripped_file_is_found_by_its_link(
    c_program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, debug = tmp_path / "program", tmp_path / "program.debug"
    shutil.copy(c_program, program)
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["strip", "--remove-section=.comment", program], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", program], check=True, cwd=tmp_path)
    addresses = [hex(address) for address in function_range(c_program, "total")]
    symfiles = SymFiles(tmp_path / "cache")
    try:
        ours(symfiles, elf=str(program), addresses=tuple(addresses), **flags("fiap"))
    finally:
        symfiles.close()
    assert capsys.readouterr().out == with_addr2line(program, "fiap", addresses)
