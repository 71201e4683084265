"""Runs a program one instruction at a time and keeps its true call stack, from what calls and returns do.

Nothing here knows of unwind information, so it can tell what a walk should have found at every instruction.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Mapping
from tests.replay.core import to_start
from tests.replay.ptrace import MapsLine, Tracee, TraceError
from tests.replay.recording import PROCESS, Recording, Tables, maps_of, read_tables, rule_at
from tests.replay.replayer import Replayer, Walk

_RETURNS = (b"\xc3", b"\xc2", b"\xf3\xc3", b"\xf2\xc3")
_SYSCALL, _SIGRETURN = b"\x0f\x05", 15
_LONGEST_CALL = 8
_BELOW_STACK, _LARGEST_STACK = 256, 8 << 20


@dataclass(frozen=True, slots=True)
class Instant:
    """A program about to run an instruction.

    `registers` are USER_REGISTERS. `stack` are the addresses of a right walk, leaf first: the instruction, each return
    address less one, and in place of that the next instruction where a signal interrupted the code. `after_syscall`
    says that the mappings may be others now.
    """

    registers: NDArray[Any]
    stack: tuple[int, ...]
    after_syscall: bool


def run(tracee: Tracee) -> Iterator[Instant]:
    """Each instruction of a program that is stopped at its first one, up to its end.

    Raises TraceError where a return does not go where its call came from.
    """
    callers: list[int] = []
    code: dict[int, bytes] = {}
    registers, after_syscall = tracee.registers(), True
    while True:
        ip = int(registers["rip"])
        yield Instant(registers, (ip, *reversed(callers)), after_syscall)
        bytes_here = code.get(ip)
        if bytes_here is None:
            bytes_here = code[ip] = tracee.read(ip, 2)
        stopped = tracee.step()
        if stopped is None:
            return
        after = tracee.registers()
        if stopped != signal.SIGTRAP:  # one step on, and before it is delivered
            _note(tracee, registers, after, bytes_here, callers)
            interrupted = int(after["rip"])
            if tracee.step(stopped) is None:
                return
            after = tracee.registers()
            restorer = _word(tracee, int(after["rsp"]))
            callers += [interrupted, restorer - 1]
        elif bytes_here == _SYSCALL and registers["rax"] == _SIGRETURN:
            if callers.pop() != after["rip"]:
                raise TraceError(f"the signal handler at {ip:#x} did not return to where it came from")
        else:
            _note(tracee, registers, after, bytes_here, callers)
        registers, after_syscall = after, bytes_here == _SYSCALL


def _note(tracee: Tracee, before: NDArray[Any], after: NDArray[Any], code: bytes, callers: list[int]) -> None:
    """Follows a call or a return."""
    ip, target, rsp = int(before["rip"]), int(after["rip"]), int(after["rsp"])
    if code.startswith(_RETURNS):
        if not callers or callers.pop() != target - 1:
            raise TraceError(f"the return at {ip:#x} did not go where its call came from")
    elif rsp == int(before["rsp"]) - 8 and not ip < target <= ip + 15:
        pushed = _word(tracee, rsp)
        if ip < pushed <= ip + _LONGEST_CALL:
            callers.append(pushed - 1)


def _word(tracee: Tracee, address: int) -> int:
    return int.from_bytes(tracee.read(address, 8), "little")


class Follower:
    """Hands a replayer what is needed of a stepped program to walk its stack at each instruction."""

    def __init__(self, tracee: Tracee, replayer: Replayer) -> None:
        self._tracee, self._replayer = tracee, replayer
        self._lines: list[MapsLine] = []
        self._main_rsp = 0
        self._rules: dict[int, np.void | None] = {}
        self.recording = Recording((), (), ())
        self.tables = Tables({}, (), (), {})

    def walk(self, instant: Instant) -> Walk:
        """Walks the stack of this instant; to be called for each one."""
        if instant.after_syscall:
            self._look_at_mappings()
        self._give_stacks(int(instant.registers["rsp"]))
        (walk,) = self._replayer.walk(PROCESS, to_start(instant.registers))
        return walk

    def rule(self, address: int) -> np.void | None:
        """The RULE of the table for an address to look up; None where there is none."""
        if address not in self._rules:
            self._rules[address] = rule_at(self.recording, self.tables, address)
        return self._rules[address]

    def _look_at_mappings(self) -> None:
        self._lines = [line for line in self._tracee.maps() if line.path != "[vsyscall]"]
        code = [line for line in self._lines if "x" in line.permissions]
        mappings = tuple(Mapping(line.start, line.end, line.offset, line.path) for line in code)
        if mappings == self.recording.mappings:
            return
        memory = tuple((line.start, self._tracee.read(line.start, line.end - line.start)) for line in code)
        self.recording = Recording((), memory, mappings)
        self.tables = read_tables(self.recording)
        self._rules.clear()
        self._replayer.set_maps(maps_of(self.recording, self.tables))
        self._replayer.set_memory([(0, b""), (0, b""), *memory])  # the first two are for stacks

    def _give_stacks(self, rsp: int) -> None:
        main = next(line for line in self._lines if line.path == "[stack]")
        if rsp < main.end and rsp > main.end - _LARGEST_STACK:
            self._main_rsp = rsp
            self._give(1, 0, 0)
        else:
            other = next(line for line in self._lines if line.start <= rsp < line.end)
            self._give(1, rsp - _BELOW_STACK, other.end)
        self._give(0, self._main_rsp - _BELOW_STACK, main.end)

    def _give(self, region: int, start: int, end: int) -> None:
        self._replayer.set_region(region, start, self._tracee.read(start, end - start))
