"""The walk said once more, in plain Python and from the descriptions of tables and rules alone, to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.stacks import CUT_MARK, MAX_FRAMES
from profiler.unwind.table import CfaKind, RegisterKind
from tests.replay.replayer import End
from tests.replay.worlds import PROCESS, World

MOST_FRAMES_WALKED, ROOT_FRAMES = 16384, 32
LEAF_FRAMES = MAX_FRAMES - 1 - ROOT_FRAMES
_RBX, _RBP, _RSP = 3, 6, 7
_UCONTEXT = 40
_UCONTEXT_ORDER = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, _RBP, _RBX, 1, 0, 2, _RSP]  # then rip
_WANTED_PROCESS = 1 << 32
_SIGRETURNS = (b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", b"\xb8\x0f\x00\x00\x00\x0f\x05")
_U64 = 2**64


class _EndedError(Exception):
    def __init__(self, end: End) -> None:
        self.end = end


@dataclass(slots=True)
class Frame:
    """A frame: rbx is where it was saved, or None while it is in the register."""

    ip: int
    registers: list[int]
    rbx_at: int | None
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Expected:
    end: End
    addresses: tuple[int, ...]
    by_frame_pointer: tuple[bool, ...]
    wanted: int


def expected_walk(world: World, start: np.void, process: int = PROCESS) -> Expected:
    """What a walk from a START must come to."""
    frame = Frame(int(start["ip"]), start["registers"].tolist(), None, True)
    model = Model(world, process)
    addresses, marks, end = list[int](), list[bool](), End.TOO_DEEP
    try:
        while len(addresses) < MOST_FRAMES_WALKED:
            addresses.append((frame.ip - (not frame.interrupted)) % _U64)
            marks.append(False)
            frame, marks[-1] = model.caller(frame, addresses[-1])
    except _EndedError as ended:
        end = ended.end
    return Expected(end, *cut(addresses, marks), model.wanted)


def cut(addresses: list[int], marks: list[bool]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """A stack as it is kept: where it is too deep, its two ends with CUT_MARK between."""
    if len(addresses) <= MAX_FRAMES:
        return tuple(addresses), tuple(marks)
    return (
        (*addresses[:LEAF_FRAMES], CUT_MARK, *addresses[-ROOT_FRAMES:]),
        (*marks[:LEAF_FRAMES], False, *marks[-ROOT_FRAMES:]),
    )


class Model:
    """Steps in one world."""

    def __init__(self, world: World, process: int) -> None:
        self.world, self.process, self.wanted = world, process, 0

    def caller(self, frame: Frame, address: int) -> tuple[Frame, bool]:
        """The next frame, and whether a frame pointer led there. Raises _EndedError."""
        why, rule = self._rule(address, frame.interrupted)
        if rule is None:
            return self._by_frame_pointer(frame, why)
        kind, rsp, rbp = int(rule["cfa"]), frame.registers[_RSP], frame.registers[_RBP]
        match kind:
            case CfaKind.ROOT:
                raise _EndedError(End.ROOT)
            case CfaKind.SIGNAL:
                return self._interrupted(rsp), False
            case CfaKind.PLT:
                cfa = rsp + 8 + (8 if frame.ip % 16 >= int(rule["cfa_offset"]) % 2**32 else 0)
            case CfaKind.REGISTER | CfaKind.DEREF:
                cfa = self._base(frame, int(rule["cfa_register"])) + int(rule["cfa_offset"])
                if kind == CfaKind.DEREF:
                    cfa = self._word(cfa) + int(rule["add"])
            case _:
                raise _EndedError(End.UNSUPPORTED_RULE)
        cfa %= _U64
        if cfa <= rsp:
            raise _EndedError(End.NOT_GROWING)
        self._word(cfa - 16)
        back = self._word(cfa - 8)
        if not back:
            raise _EndedError(End.ROOT)
        own_rbp = rsp <= rbp < cfa
        bases = {RegisterKind.AT_CFA: cfa, RegisterKind.AT_RSP: rsp}
        if own_rbp:
            bases[RegisterKind.AT_RBP] = rbp
        caller = Frame(back, list(frame.registers), frame.rbx_at, False)
        caller.registers[_RSP] = cfa
        if rule["rbp"] == RegisterKind.UNDEFINED:
            caller.registers[_RBP] = 1
        elif (base := bases.get(RegisterKind(rule["rbp"]))) is not None:
            caller.registers[_RBP] = self._word(base + int(rule["rbp_offset"]))
        if (base := bases.get(RegisterKind(rule["rbx"]))) is not None:
            caller.rbx_at = (base + int(rule["rbx_offset"])) % _U64
        return caller, False

    def _rule(self, address: int, interrupted: bool) -> tuple[End, np.void | None]:
        if self.process != PROCESS:
            self.wanted = _WANTED_PROCESS | self.process
            return End.NO_PROCESS, None
        mapping = self._mapping(address)
        if mapping is None:
            if interrupted:
                self.wanted = _WANTED_PROCESS | self.process
            return End.NO_MAPPING, None
        _, bias, _, file = mapping
        table = self.world.tables[file - 1] if file else None
        if file and table is None:
            self.wanted = file
            return End.TABLE_NOT_LOADED, None
        if table is None or len(table.page_starts) < 2:
            return End.NO_TABLE, None
        rule = table.find((address + bias) % _U64)
        return End.NO_ROW, rule if rule["cfa"] != CfaKind.NONE else None

    def _mapping(self, address: int) -> tuple[int, int, int, int] | None:
        return next((m for m in self.world.mappings if m[0] <= address < m[0] + m[2] * 4096), None)

    def _by_frame_pointer(self, frame: Frame, why: End) -> tuple[Frame, bool]:
        rbp, rsp = frame.registers[_RBP], frame.registers[_RSP]
        if not frame.interrupted and self._read(frame.ip, 9).startswith(_SIGRETURNS):
            return self._interrupted(rsp), False
        root = End.ROOT if why in (End.NO_TABLE, End.NO_ROW) and not frame.interrupted else why
        if not rbp and not frame.interrupted:
            raise _EndedError(root)
        pair = self._read(rbp, 16)
        if rbp % 8 or not rsp <= rbp <= rsp + (64 << 20) or not pair:
            raise _EndedError(why)
        back = int.from_bytes(pair[8:], "little")
        if not back:
            raise _EndedError(root)
        if back < 4096 or (self.process == PROCESS and self._mapping(back - 1) is None):
            raise _EndedError(why)
        registers = list(frame.registers)
        registers[_RSP], registers[_RBP] = rbp + 16, int.from_bytes(pair[:8], "little")
        return Frame(back, registers, None, False), True

    def _interrupted(self, rsp: int) -> Frame:
        context = self._read(rsp + _UCONTEXT, 8 * 17)
        if not context:
            raise _EndedError(End.UNREADABLE)
        words: list[int] = np.frombuffer(context, "<u8").tolist()
        registers = [0] * 16
        for number, word in zip(_UCONTEXT_ORDER, words, strict=False):
            registers[number] = word
        return Frame(words[16], registers, None, True)

    def _base(self, frame: Frame, register: int) -> int:
        if register == _RBX and frame.rbx_at is not None:
            return self._word(frame.rbx_at)
        if register not in (_RSP, _RBP, _RBX) and not frame.interrupted:
            raise _EndedError(End.UNSUPPORTED_RULE)
        return frame.registers[register]

    def _word(self, address: int) -> int:
        data = self._read(address % _U64, 8)
        if not data:
            raise _EndedError(End.UNREADABLE)
        return int.from_bytes(data, "little")

    def _read(self, address: int, size: int) -> bytes:
        """All of it or nothing; no two regions of a world touch."""
        address %= _U64
        for start, contents in self.world.memory:
            if start <= address and address + size <= start + len(contents):
                return contents[address - start : address - start + size]
        return b""


def marks_and_addresses(steps: NDArray[np.void]) -> tuple[list[int], list[bool]]:
    """What the steps (STEP) of a walk went through."""
    return steps["address"].tolist(), steps["by_frame_pointer"].astype(bool).tolist()
