"""Replays recorded stacks, step by step.

    python -m tests.replay record PID FILE   stop a process for a moment and write its stacks to FILE, a core file
    python -m tests.replay FILE [TID]        walk the stack of each thread, or of one, in FILE; any core file will do

Run from the checkout, with its .venv. A stack is walked by profiler/bpf/unwind.bpf.h as the kernel does it, compiled
with sanitizers, by tables built from the mapped files as they are here. Of each step is told: the address that is
looked up, the file and offset that it is at, the rule in force, and the CFA, the value of rsp in the caller.
A walk that ends wrongly in production is to be recorded while it stands still: stop the process there, with SIGSTOP
or a debugger's gcore, or record it again and again.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from profiler.stacks import CUT_MARK
from profiler.unwind.table import CfaKind, RegisterKind
from symbolizer.types import Mapping
from tests.replay.core import CoreError, read_core
from tests.replay.ptrace import TraceError, record_process
from tests.replay.recording import Recording, Tables, Thread, load, mapping_at, maps_of, read_tables, walks
from tests.replay.replayer import NO_RULE, End, Replayer, ReplayError, Walk, build

_REGISTERS = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15".split()


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["record", pid, path] if pid.isdigit():
                record_process(int(pid), Path(path))
            case [path]:
                _replay(Path(path), None)
            case [path, tid] if tid.isdigit():
                _replay(Path(path), int(tid))
            case _:
                print(__doc__.strip(), file=sys.stderr)
                return 2
    except (CoreError, TraceError, ReplayError, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    return 0


def _replay(path: Path, tid: int | None) -> None:
    recording = read_core(path)
    tables = read_tables(recording)
    for file, problem in tables.problems.items():
        print(f"{file} has no table: {problem}")
    with tempfile.TemporaryDirectory() as directory, Replayer(build(Path(directory))) as replayer:
        load(replayer, recording, tables)
        for thread, walk in walks(replayer, recording):
            if tid in (None, thread.tid):
                print("\n".join(told(recording, tables, thread, walk)))


def told(recording: Recording, tables: Tables, thread: Thread, walk: Walk) -> Iterator[str]:
    """The lines that say how a thread's stack was walked."""
    rules = maps_of(recording, tables).rules
    yield f"thread {thread.tid}: {len(walk.steps)} steps, ended: {walk.end.name.replace('_', ' ').lower()}"
    for number, step in enumerate(walk.steps):
        address, end = int(step["address"]), End(step["end"])
        rule = "no rule" if step["rule"] == NO_RULE else rule_text(rules[step["rule"]])
        how = "  by frame pointer" if step["by_frame_pointer"] else ""
        result = f"CFA {int(step['next_rsp']):#x}" if end == End.UNKNOWN else end.name.replace("_", " ").lower()
        yield f"{number:5} {address:#018x}  {place(recording, address)}  [{rule}]{how}  {result}"
    if CUT_MARK in walk.addresses:
        yield f"      kept are {walk.addresses.index(CUT_MARK)} at the leaf and the last ones at the root"


def place(recording: Recording, address: int) -> str:
    """The file that an address is in, and where: "libc.so.6+0x271c9"."""
    mapping = mapping_at(recording, address)
    return f"{_name(mapping)}+{address - mapping.start + mapping.offset:#x}" if mapping else "nowhere"


def rule_text(rule: np.void) -> str:
    """A RULE in words."""
    register, offset = _REGISTERS[int(rule["cfa_register"]) & 15], int(rule["cfa_offset"])
    match int(rule["cfa"]):
        case CfaKind.REGISTER:
            cfa = f"cfa = {register}{offset:+}"
        case CfaKind.DEREF:
            cfa = f"cfa = *({register}{offset:+}){int(rule['add']):+}"
        case CfaKind.PLT:
            cfa = f"cfa = rsp+8, +16 from byte {offset} of a stub on"
        case kind:
            return CfaKind(kind).name.lower()
    saved = [_saved(name, int(rule[name]), int(rule[f"{name}_offset"])) for name in ("rbp", "rbx")]
    return ", ".join([cfa, *filter(None, saved)])


def _saved(name: str, kind: int, offset: int) -> str:
    bases = {RegisterKind.AT_CFA: "cfa", RegisterKind.AT_RBP: "rbp", RegisterKind.AT_RSP: "rsp"}
    if kind == RegisterKind.UNDEFINED:
        return f"{name} lost"
    return f"{name} at {bases[RegisterKind(kind)]}{offset:+}" if kind else ""


def _name(mapping: Mapping) -> str:
    return mapping.path.rsplit("/", 1)[-1] or "anonymous"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
