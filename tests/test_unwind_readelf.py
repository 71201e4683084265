"""Unwind tables of real binaries, row by row against what `readelf --debug-dump=frames-interp` makes of the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from profiler.unwind.cfi import build_table
from profiler.unwind.table import RULE, CfaKind, RegisterKind, UnwindTable
from symbolizer.elf import read_elf

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
NAMED = {
    "libc": LIBRARIES / "libc.so.6",
    "ld.so": Path("/lib64/ld-linux-x86-64.so.2"),
    "libstdc++": LIBRARIES / "libstdc++.so.6",
    "libLLVM": LIBRARIES / "libLLVM-14.so.1",
    "python3": Path("/usr/bin/python3"),
    "bash": Path("/bin/bash"),
    "git": Path("/usr/bin/git"),
    "perl": Path("/usr/bin/perl"),
    "libcrypto": LIBRARIES / "libcrypto.so.3",
    "sshd": Path("/usr/sbin/sshd"),
    "node": next(Path("/usr/lib/x86_64-linux-gnu").glob("libnode.so.*"), Path("/usr/bin/node")),
    "rust": Path(sys.executable).parent / "ruff",
}
REGISTERS = dict(
    zip("rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split(), range(17), strict=True)
)
MASK = 2**64 - 1

Interpretation = tuple[str, str, str, str, tuple[str, ...]]
"""CFA, rbx, rbp and ra as readelf has them, and the expressions of the function where one of them is one."""


@dataclass
class Function:
    begin: int
    end: int
    signal: bool
    rows: list[tuple[int, tuple[str, str, str, str]]]
    offset: str
    """of the FDE in its section"""


def _lines(*options: str) -> Iterator[str]:
    command = ["readelf", "--wide", "--debug-dump=no-follow-links", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            yield line.rstrip("\n")
    assert process.returncode == 0


def _functions(path: Path) -> Iterator[Function]:
    """All FDEs."""
    initial: dict[str, tuple[bool, tuple[str, str, str, str]]] = {}
    entry = re.compile(
        r"([0-9a-f]{8,16}) [0-9a-f]{16} [0-9a-f]{8,16} (?:CIE \"(\S*)\"|FDE cie=(\S+) pc=(\S+)\.\.(\S+))"
    )
    columns: list[int | None] = []
    current: Function | None = None
    cie = ""
    for line in _lines("--debug-dump=frames-interp", str(path)):
        if not line:
            continue
        if line[0] == "0" and (found := entry.match(line)):
            offset, augmentation, of, begin, end = found.groups()
            if current:
                yield current
                current = None
            if of is None:
                cie = offset
                initial[cie] = "S" in augmentation, ("", "", "", "")
            else:
                signal, before = initial[of]
                cie = ""
                current = Function(int(begin, 16), int(end, 16), signal, [(int(begin, 16), before)], offset)
            columns = [1, None, None, None]
        elif line.startswith("   LOC"):
            names = line.split()
            columns = [names.index(name) if name in names else None for name in ("CFA", "rbx", "rbp", "ra")]
        elif line[:16].strip("0123456789abcdef") == "" and (cie or current):
            fields = re.sub(r" \(\w+\)", "", line).split()  # "r10 (r10)" where a register is in another one
            row = tuple("" if column is None else fields[column] for column in columns)
            assert len(row) == 4
            if cie:
                initial[cie] = initial[cie][0], row
            elif current:
                current.rows.append((int(fields[0], 16), row))
    if current:
        yield current


def _expressions(path: Path) -> dict[str, tuple[str, ...]]:
    """What FDEs give as expressions, by their offset: "cfa: ..." or "rbp: ..."."""
    found: dict[str, list[str]] = {}
    offset = ""
    for line in _lines("--debug-dump=frames", str(path)):
        if " FDE cie=" in line:
            offset = line.split()[0]
        elif "DW_CFA_def_cfa_expression" in line:
            found.setdefault(offset, []).append("cfa: " + line[line.index("(") + 1 : -1])
        elif match := re.search(r"DW_CFA_expression: r\d+ \((rbp|rbx)\) \((.*)\)", line):
            found.setdefault(offset, []).append(f"{match[1]}: {match[2]}")
    return {offset: tuple(expressions) for offset, expressions in found.items()}


def _memory(address: int) -> int:
    """What this test takes to be in memory: something else at each address."""
    return (address & MASK) * 0x9E3779B97F4A7C15 + 12345 & MASK


def _evaluated(expression: str, registers: dict[str, int]) -> int | None:
    """The value of a DWARF expression as readelf writes it, None if it has operations that rules have not."""
    stack: list[int] = []
    for operation in expression.split("; "):
        name, _, operand = operation.removeprefix("DW_OP_").partition(": ")
        if based := re.fullmatch(r"breg\d+ \((\w+)\)", name):
            stack.append(registers[based[1]] + int(operand) & MASK)
        elif name == "deref":
            stack.append(_memory(stack.pop()))
        elif name == "plus_uconst":
            stack.append(stack.pop() + int(operand) & MASK)
        elif literal := re.fullmatch(r"lit(\d+)", name):
            stack.append(int(literal[1]))
        elif name in ("and", "ge", "shl", "plus"):
            b, a = stack.pop(), stack.pop()
            stack.append({"and": a & b, "ge": int(a >= b), "shl": a << b & MASK, "plus": a + b & MASK}[name])
        else:
            return None
    return stack[-1]


def _cfa_of(rule: np.void, registers: dict[int, int]) -> int:
    base = registers[int(rule["cfa_register"])] + int(rule["cfa_offset"])
    if rule["cfa"] == CfaKind.REGISTER:
        return base & MASK
    if rule["cfa"] == CfaKind.DEREF:
        return _memory(base) + int(rule["add"]) & MASK
    assert rule["cfa"] == CfaKind.PLT
    return registers[7] + 8 + (8 if registers[16] & 15 >= rule["cfa_offset"] else 0) & MASK


def _same_value(expression: str, computed: Callable[[dict[int, int]], int] | None) -> bool:
    """Whether rule and expression give the same for many values of the registers, or both give none."""
    generator = np.random.default_rng(5)
    for _ in range(64):
        values = generator.integers(0, 2**62, 17).tolist()
        expected = _evaluated(expression, dict(zip(REGISTERS, values, strict=True)))
        if expected is None or computed is None:
            return expected is None and computed is None
        if expected != computed(dict(enumerate(values))):
            return False
    return True


def _agrees(expected: Interpretation, signal: bool, rule: np.void) -> bool:
    """Whether a rule says what readelf does."""
    cfa, rbx, rbp, return_address, expressions = expected
    if signal:
        return bool(rule["cfa"] == CfaKind.SIGNAL)
    if return_address == "u":
        return bool(rule["cfa"] == CfaKind.ROOT)
    if return_address != "c-8":
        return bool(rule["cfa"] == CfaKind.UNSUPPORTED)
    if cfa == "exp":
        supported = rule["cfa"] != CfaKind.UNSUPPORTED
        compute = (lambda registers: _cfa_of(rule, registers)) if supported else None
        if not any(_same_value(e[5:], compute) for e in expressions if e.startswith("cfa: ")):
            return False
        if not supported:
            return True
    else:
        register, sign, offset = re.fullmatch(r"(\w+)([+-])(\d+)", cfa).groups()  # type: ignore[union-attr]
        if rule["cfa"] != CfaKind.REGISTER or rule["cfa_register"] != REGISTERS[register]:
            return False
        if rule["cfa_offset"] != int(sign + offset):
            return False
    return _saved_agrees(rbp, "rbp", expressions, rule) and _saved_agrees(rbx, "rbx", expressions, rule)


def _saved_agrees(expected: str, name: str, expressions: tuple[str, ...], rule: np.void) -> bool:
    kind, offset = rule[name], int(rule[f"{name}_offset"])
    if expected in ("", "u", "s"):
        return bool(kind == RegisterKind.SAME)
    if expected.startswith("c"):
        return bool(kind == RegisterKind.AT_CFA and offset == int(expected[1:]))
    if expected == "exp":
        base = {RegisterKind.AT_RBP: 6, RegisterKind.AT_RSP: 7}.get(kind)
        compute = None if base is None else (lambda registers: registers[base] + offset & MASK)
        return any(_same_value(e[5:], compute) for e in expressions if e.startswith(f"{name}: "))
    return bool(kind == RegisterKind.UNDEFINED)


def _rules_at(table: UnwindTable, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The numbers of the rules in force, 0 outside of the table."""
    pages = np.repeat(np.arange(len(table.page_starts) - 1, dtype=np.uint64), np.diff(table.page_starts))
    keys = (pages + np.uint64(table.first_page) << np.uint64(16)) + (table.rows & 0xFFFF)
    rules = (table.rows >> 16).astype(np.int64)
    at = np.searchsorted(keys, addresses, side="right")
    inside = (at > 0) & (addresses >> np.uint64(16) < np.uint64(table.first_page + len(table.page_starts) - 1))
    return np.where(inside, rules[np.maximum(at, 1) - 1], 0)


@contextmanager
def _reader(path: Path) -> Iterator[Callable[[int, int], bytes]]:
    descriptor = os.open(path, os.O_RDONLY)
    yield lambda offset, size: os.pread(descriptor, size, offset)
    os.close(descriptor)


def _table(path: Path) -> UnwindTable:
    with _reader(path) as read:
        return build_table(read, by_address=True)


def check_against_readelf(path: Path, roots: frozenset[int] = frozenset()) -> int:
    """Compares the table of a file with readelf at each address where something changes, and right before.

    Returns how many rows of readelf's were compared. The functions that begin at `roots` are to be roots instead.
    """
    table = _table(path)
    assert table.skipped == 0
    with _reader(path) as read:
        loads = [s for s in read_elf(read).segments if s.kind == "PT_LOAD" and s.executable]
        entry = int.from_bytes(read(24, 8), "little")
    functions = [
        f for f in _functions(path) if f.end > f.begin and any(s.address <= f.begin < s.address + s.size for s in loads)
    ]
    functions.sort(key=lambda f: f.begin)
    expressions: dict[str, tuple[str, ...]] | None = None
    kinds: dict[tuple[Interpretation, bool], int] = {}
    addresses: list[int] = []
    expected: list[int] = []
    gaps: list[int] = []
    rows = 0
    for function, following in zip(functions, [*functions[1:], None], strict=True):
        end = min(function.end, following.begin) if following else function.end
        places = dict(function.rows)  # of several rows at one address the last counts
        for (address, row), until in zip(places.items(), [*list(places)[1:], end], strict=True):
            until = min(until, end)
            if address >= until or function.begin in roots:
                continue
            used: tuple[str, ...] = ()
            if "exp" in row and not function.signal:
                expressions = _expressions(path) if expressions is None else expressions
                used = expressions[function.offset]
            kind = kinds.setdefault(((*row, used), function.signal), len(kinds))
            addresses += [address, until - 1]
            expected += [kind, kind]
            rows += 1
        if function.end == end and (not following or following.begin > end) and end != entry:
            gaps.append(end)
    assert all(table.find(root)["cfa"] == CfaKind.ROOT for root in roots)
    found = _rules_at(table, np.array(addresses, np.uint64))
    pairs, first = np.unique(np.array(expected, np.int64) << 16 | found, return_index=True)
    by_number = list(kinds)
    for pair, at in zip(pairs.tolist(), first.tolist(), strict=True):
        interpretation, signal = by_number[pair >> 16]
        rule = table.rules[pair & 0xFFFF]
        assert _agrees(interpretation, signal, rule), (
            f"{path} at {addresses[at]:#x}: readelf says {interpretation}, the table {rule}"
        )
    assert not _rules_at(table, np.array(gaps, np.uint64)).any(), "a gap between functions is covered"
    for address in addresses[:: max(1, len(addresses) // 200)]:
        numbers = _rules_at(table, np.array([address], np.uint64))
        assert table.find(address) == table.rules[numbers[0]]
    return rows


def test_the_check_notices_a_wrong_rule() -> None:
    right = np.array([(CfaKind.REGISTER, 7, RegisterKind.AT_CFA, 0, 16, -16, 0, 0)], RULE)[0]
    assert _agrees(("rsp+16", "u", "c-16", "c-8", ()), False, right)
    for wrong in [("rsp+24", "u", "c-16", "c-8"), ("rbp+16", "u", "c-16", "c-8"), ("rsp+16", "c-24", "c-16", "c-8")]:
        assert not _agrees((*wrong, ()), False, right)
    assert not _agrees(("rsp+16", "u", "c-16", "u", ()), False, right)
    assert not _agrees(("exp", "u", "c-16", "c-8", ("cfa: DW_OP_breg7 (rsp): 8; DW_OP_deref",)), False, right)


def _gcc(output: Path, source: Path, *options: str) -> Path:
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", output, source, *options], check=True)
    return output


DIRECTIVES = """
    .text
f:  .cfi_startproc
    .cfi_personality 0x9b, pointer
    .cfi_lsda 0x1b, f
    nop
    .cfi_remember_state
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    nop
    .cfi_remember_state
    .cfi_def_cfa_register rbp
    .cfi_rel_offset rbx, 8
    nop
    .cfi_restore rbp
    .cfi_restore rbx
    nop
    .cfi_restore_state
    .cfi_adjust_cfa_offset 24
    .cfi_val_offset rbp, -24
    nop
    .cfi_register rbx, r12
    .skip 70000, 0x90
    .cfi_same_value rbx
    .cfi_def_cfa r10, 0
    nop
    .cfi_escape 0x10, 6, 2, 0x76, 0x10           # rbp at breg6 16
    .cfi_escape 0x0f, 3, 0x76, 0x78, 6           # DRAP
    nop
    .cfi_escape 0x0f, 6, 0x77, 0xf8, 0, 6, 0x23, 8
    .cfi_escape 0x2e, 0x20                       # GNU_args_size
    nop
    .cfi_escape 0x12, 7, 0x7e, 0x13, 0x7c, 0x11, 3, 0x7d   # def_cfa_sf, def_cfa_offset_sf, offset_extended_sf
    nop
    .cfi_restore_state
    nop
    .cfi_endproc
    .skip 32, 0x90
g:  .cfi_startproc
    .cfi_undefined rip
    nop
    .cfi_register rip, rdx
    nop
    .cfi_endproc
h:  .cfi_startproc simple
    .cfi_signal_frame
    .cfi_def_cfa rsp, 160
    nop
    .cfi_endproc
    .data
    .hidden pointer
pointer: .quad 0
"""


@pytest.mark.parametrize("sections", [".eh_frame", ".debug_frame", ".eh_frame, .debug_frame"])
def test_agrees_with_readelf_on_every_directive_of_the_assembler(tmp_path: Path, sections: str) -> None:
    source = tmp_path / "source.s"
    source.write_text(f"    .cfi_sections {sections}\n{DIRECTIVES}")
    assert check_against_readelf(_gcc(tmp_path / "library.so", source)) >= 14


@pytest.mark.parametrize("options", [["-z", "lazy"], ["-z", "lazy", "-z", "ibtplt"], ["-z", "now", "-z", "ibtplt"]])
@pytest.mark.parametrize("linker", ["bfd", "gold", "lld"])
def test_agrees_with_readelf_on_procedure_linkage_tables(tmp_path: Path, linker: str, options: list[str]) -> None:
    if not shutil.which(f"ld.{linker}"):
        pytest.skip(f"ld.{linker} is not installed")
    if linker != "bfd" and "ibtplt" in options:
        pytest.skip("only GNU ld has this option")
    source = tmp_path / "source.c"
    source.write_text("int g(char *); int f(int n) { char b[n]; return g(b) + n; }\n")
    library = _gcc(tmp_path / "library.so", source, f"-fuse-ld={linker}", "-Wl," + ",".join(options))
    assert check_against_readelf(library) >= 3


def test_agrees_with_readelf_on_realigned_stacks(tmp_path: Path) -> None:
    source = tmp_path / "source.c"
    source.write_text(
        "int g(char *, char *, int);\n"
        "int f(int a, int b, int c, int d, int e, int h, int i, int j)\n"
        "{ _Alignas(64) char here[256]; char there[a]; g(here, there, i); return g(there, here, j) + b + c + d; }\n"
    )
    for level in ("-O0", "-O2", "-Os"):
        library = _gcc(tmp_path / "library.so", source, level, "-mavx2", "-mstackrealign")
        assert check_against_readelf(library) >= 4
        assert CfaKind.DEREF in _table(library).rules["cfa"] or level == "-O0"


def test_agrees_with_readelf_on_programs_of_random_instructions(tmp_path: Path) -> None:
    """A thousand functions of up to twenty instructions each, in one assembly file."""
    random = np.random.default_rng(11)
    registers = [0, 3, 3, 6, 6, 6, 12, 16]

    def saved() -> str:
        register, offset = random.choice(registers), int(random.integers(-200, 0)) * 8
        return str(
            random.choice(
                [
                    f".cfi_offset {register}, {offset}",
                    f".cfi_offset {register}, {-offset}",
                    f".cfi_offset {register}, -8",
                    f".cfi_restore {register}",
                    f".cfi_val_offset {register}, {offset}",
                    f".cfi_register {register}, {random.choice(registers)}",
                ]
            )
        )

    def instruction(depth: int) -> tuple[str, int]:
        choices = [
            (f".cfi_def_cfa {random.choice([3, 6, 7, 10])}, {random.integers(0, 4000)}", 0),
            (f".cfi_def_cfa_register {random.choice([6, 7, 13])}", 0),
            (f".cfi_def_cfa_offset {random.integers(-500, 70000)}", 0),
            (f".skip {random.choice([1, 3, 70, 300, 66000])}, 0x90", 0),
            ("nop", 0),
            (".cfi_remember_state", 1),
            *[(saved(), 0)] * 3,
        ]
        if depth:
            choices.append((".cfi_restore_state", -1))
        return choices[random.integers(len(choices))]

    lines = []
    for _ in range(1000):
        lines += [".cfi_startproc", "nop"]
        depth = 0
        for _ in range(random.integers(1, 20)):
            line, change = instruction(depth)
            lines.append(line)
            depth += change
        lines += ["nop", ".cfi_endproc"]
    source = tmp_path / "source.s"
    source.write_text("\n".join(lines) + "\n")
    assert check_against_readelf(_gcc(tmp_path / "library.so", source)) > 3000


@pytest.mark.parametrize("name", NAMED)
def test_agrees_with_readelf_on(name: str) -> None:
    if not NAMED[name].exists():
        pytest.skip(f"{NAMED[name]} is not installed")
    assert check_against_readelf(NAMED[name].resolve()) > 500


def test_agrees_with_readelf_on_a_go_program(tmp_path: Path) -> None:
    if not shutil.which("go"):
        pytest.skip("go is not installed")
    source, program = tmp_path / "main.go", tmp_path / "program"
    source.write_text('package main\n\nimport "fmt"\n\nfunc main() { fmt.Println(fmt.Sprint(1)) }\n')
    environment = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": ""}
    subprocess.run(["go", "build", "-o", program, source], check=True, env=environment, cwd=tmp_path)
    assert ".eh_frame" not in subprocess.run(["readelf", "-SW", program], capture_output=True, text=True).stdout
    symbols = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    outermost = re.findall(r"^(\w+) . runtime\.(?:goexit|mcall|systemstack)(?:\.abi0)?$", symbols, re.M)
    roots = frozenset(int(address, 16) for address in outermost)
    assert roots
    assert check_against_readelf(program, roots) > 5000


def test_agrees_with_readelf_on_a_rust_program(tmp_path: Path) -> None:
    if not shutil.which("rustc"):
        pytest.skip("rustc is not installed; ruff, which is written in Rust, is compared in any case")
    source, program = tmp_path / "main.rs", tmp_path / "program"
    source.write_text('fn main() { println!("{:?}", (0..9).collect::<Vec<u32>>()); }\n')
    subprocess.run(["rustc", "-O", "-o", program, source], check=True, cwd=tmp_path)
    assert check_against_readelf(program) > 2000


def test_agrees_with_readelf_on_the_vdso(tmp_path: Path) -> None:
    place = next((line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[vdso]")), None)
    if place is None:
        pytest.skip("this kernel maps no vdso")
    start, end = (int(part, 16) for part in place.split()[0].split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        (tmp_path / "vdso").write_bytes(memory.read(end - start))
    assert check_against_readelf(tmp_path / "vdso") > 20
