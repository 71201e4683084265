"""CFA programs: the instructions of a CIE or FDE (DWARF 5, 6.4.2) made into rows of rules.

Programs are few: compilers begin most functions alike. So each is run once for all functions that have the same bytes.
Followed are the CFA, rbp, rbx and the return address; what is said of other registers changes nothing.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field

import numpy as np

from profiler.unwind.encodings import DAMAGE, DamagedError, FrameSection, pointer, sleb, uleb
from profiler.unwind.expressions import Cfa, cfa_expression, saved_register
from profiler.unwind.table import (
    END,
    MAX_ROWS,
    MAX_RULES,
    NONE_RULE,
    RULE,
    UNSUPPORTED_RULE,
    CfaKind,
    Programs,
    RegisterKind,
)

_RBX, _RBP, RETURN_ADDRESS = 3, 6, 16
_MAX_REMEMBERED = 256
_MAX_STATES = 1 << 18
_MAX_PROGRAM_ROWS = 1 << 18  # the largest functions known have some ten thousand

Saved = tuple[int, int]
"""RegisterKind and offset of a register, or _ELSEWHERE."""

State = tuple[int, int, Cfa | None, Saved, Saved, Saved]
"""CFA as a register and an offset, or as an expression where there is one; rbp; rbx; return address."""

_SAME: Saved = (RegisterKind.SAME, 0)
_UNDEFINED: Saved = (RegisterKind.UNDEFINED, 0)
_ELSEWHERE: Saved = (-1, 0)  # somewhere that no rule can say
_AT_CFA = int(RegisterKind.AT_CFA)
_RETURN_ADDRESS_PUSHED: Saved = (_AT_CFA, -8)

_NO_REGISTER = -1
INITIAL: State = (_NO_REGISTER, 0, None, _SAME, _SAME, _ELSEWHERE)
"""Before the first instruction of a CIE: it has to say where the CFA and the return address are."""

_Rule = tuple[int, int, int, int, int, int, int, int]

_U2, _U4 = struct.Struct("<H"), struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Cie:
    """What functions have in common: factors, the encoding of pointers, the state their programs begin with.

    `known` has their programs by their bytes. `fixed` is the rule of every function whatever its program says.
    """

    code_factor: int
    data_factor: int
    encoding: int
    augmented: bool
    initial: State
    fixed: CfaKind | None
    known: dict[bytes, int] = field(default_factory=dict, compare=False)


class ProgramRunner:
    """Runs CFA programs and keeps what they come to, rules that are the same as one."""

    def __init__(self) -> None:
        self._starts = array("I", [0])
        self._offsets = array("I")
        self._row_rules = array("H")
        self._damaged = array("B")
        self._rules: dict[_Rule, int] = {}
        self._states: dict[State, int] = {}
        self._fixed: dict[CfaKind, int] = {}
        self._rule((CfaKind.NONE, 0, 0, 0, 0, 0, 0, 0))
        self._rule((CfaKind.UNSUPPORTED, 0, 0, 0, 0, 0, 0, 0))

    def programs(self) -> Programs:
        """All that were run."""
        return Programs(
            np.array(self._starts, np.uint32),
            np.array(self._offsets, np.uint32),
            np.array(self._row_rules, np.uint16),
            np.array(list(self._rules), RULE),
        )

    def damaged(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Of each program whether it breaks off; its rows from there on are UNSUPPORTED."""
        return np.array(self._damaged, bool)

    def fixed(self, kind: CfaKind) -> int:
        """The number of a program that is one rule from beginning to end."""
        if kind not in self._fixed:
            self._fixed[kind] = self._add([0], [self._rule((kind, 0, 0, 0, 0, 0, 0, 0))], False)
        return self._fixed[kind]

    def number(self, cie: Cie, section: FrameSection, at: int, end: int, begin: int) -> int:
        """The number of the program in section.data[at:end], of a function at `begin`.

        Raises DamagedError when programs have more rows than a table may have.
        """
        if cie.fixed is not None:
            return self.fixed(cie.fixed)
        code = section.data[at:end]
        found = cie.known.get(code)
        if found is None:
            if len(self._offsets) >= MAX_ROWS:
                raise DamagedError("programs have more rows than a table may have")
            offsets, rules, _, damaged, placed = self.run(code, cie, section, at, begin)
            found = self._add(offsets, rules, damaged)
            if not placed:
                cie.known[code] = found
        return found

    def run(
        self, code: bytes, cie: Cie, section: FrameSection, at: int, begin: int
    ) -> tuple[list[int], list[int], State, bool, bool]:
        """Runs a program that is at `at` in the section, of a function at `begin`.

        Returns offsets and rules of its rows, the state it ends in, whether it breaks off, and whether what it says
        depends on where it is.
        """
        initial, code_factor, data_factor = cie.initial, cie.code_factor, cie.data_factor
        register, offset, expression, rbp, rbx, return_address = initial
        states = self._states
        remembered: list[State] = []
        offsets: list[int] = []
        rules: list[int] = []
        location, i, end = 0, 0, len(code)
        damaged = placed = False
        changed = True
        try:
            while i < end:
                operation = code[i]
                i += 1
                high = operation & 0xC0
                if high == 0x80:  # offset
                    column = operation & 0x3F
                    value = code[i]
                    i += 1
                    if value > 0x7F:
                        value, i = uleb(code, i - 1)
                    saved = (_AT_CFA, value * data_factor)
                elif high == 0x40 or 0x01 <= operation <= 0x04:
                    if high:  # advance_loc
                        to = location + (operation & 0x3F) * code_factor
                    elif operation == 0x02:  # advance_loc1
                        to = location + code[i] * code_factor
                        i += 1
                    elif operation == 0x03:  # advance_loc2
                        to = location + _U2.unpack_from(code, i)[0] * code_factor
                        i += 2
                    elif operation == 0x04:  # advance_loc4
                        to = location + _U4.unpack_from(code, i)[0] * code_factor
                        i += 4
                    else:  # set_loc
                        placed = True
                        to, i = pointer(cie.encoding, section, at + i)
                        to, i = to - begin, i - at
                    if to == location:
                        continue
                    if to < location:
                        raise DamagedError("a program goes back")
                    if changed:
                        state = register, offset, expression, rbp, rbx, return_address
                        rule = states.get(state)
                        if rule is None:
                            rule = self._rule_of(state)
                        if not rules or rules[-1] != rule:
                            if len(rules) == _MAX_PROGRAM_ROWS:
                                raise DamagedError("a program has too many rows")
                            offsets.append(location)
                            rules.append(rule)
                        changed = False
                    location = to
                    if location >= END:
                        break
                    continue
                elif high == 0xC0 or operation == 0x06:  # restore, restore_extended
                    column = operation & 0x3F
                    if not high:
                        column, i = uleb(code, i)
                    saved = initial[3] if column == _RBP else initial[4] if column == _RBX else initial[5]
                elif operation == 0x0E:  # def_cfa_offset
                    offset = code[i]
                    i += 1
                    if offset > 0x7F:
                        offset, i = uleb(code, i - 1)
                    changed = True
                    continue
                elif operation == 0x00:  # nop
                    continue
                elif operation == 0x0A:  # remember_state
                    if len(remembered) == _MAX_REMEMBERED:
                        raise DamagedError("a program remembers too much")
                    remembered.append((register, offset, expression, rbp, rbx, return_address))
                    continue
                elif operation == 0x0B:  # restore_state
                    register, offset, expression, rbp, rbx, return_address = remembered.pop()
                    changed = True
                    continue
                elif operation == 0x0C or operation == 0x12:  # def_cfa, def_cfa_sf
                    register, i = uleb(code, i)
                    if operation == 0x0C:
                        offset, i = uleb(code, i)
                    else:
                        offset, i = sleb(code, i)
                        offset *= data_factor
                    expression = None
                    changed = True
                    continue
                elif operation == 0x0D:  # def_cfa_register
                    register, i = uleb(code, i)
                    expression = None
                    changed = True
                    continue
                elif operation == 0x13:  # def_cfa_offset_sf
                    offset, i = sleb(code, i)
                    offset *= data_factor
                    changed = True
                    continue
                elif operation == 0x0F:  # def_cfa_expression
                    size, i = uleb(code, i)
                    if size > end - i:
                        raise DamagedError("an expression is cut short")
                    expression = cfa_expression(code[i : i + size])
                    i += size
                    changed = True
                    continue
                elif operation == 0x10 or operation == 0x16:  # expression, val_expression
                    column, i = uleb(code, i)
                    size, i = uleb(code, i)
                    if size > end - i:
                        raise DamagedError("an expression is cut short")
                    saved = _saved_at(code[i : i + size]) if operation == 0x10 else _ELSEWHERE
                    i += size
                elif operation == 0x07:  # undefined
                    column, i = uleb(code, i)
                    saved = _UNDEFINED
                elif operation == 0x08:  # same_value
                    column, i = uleb(code, i)
                    saved = _SAME
                elif operation == 0x05:  # offset_extended
                    column, i = uleb(code, i)
                    value, i = uleb(code, i)
                    saved = (_AT_CFA, value * data_factor)
                elif operation == 0x11 or operation == 0x2F:  # offset_extended_sf, GNU_negative_offset_extended
                    column, i = uleb(code, i)
                    value, i = sleb(code, i) if operation == 0x11 else uleb(code, i)
                    saved = (_AT_CFA, value * data_factor if operation == 0x11 else -value * data_factor)
                elif operation in (0x09, 0x14, 0x15):  # register, val_offset, val_offset_sf
                    column, i = uleb(code, i)
                    _, i = uleb(code, i)
                    saved = _ELSEWHERE
                elif operation == 0x2E:  # GNU_args_size
                    _, i = uleb(code, i)
                    continue
                else:
                    raise DamagedError("a program has an unknown instruction")
                if column == _RBP:
                    rbp = saved
                elif column == _RBX:
                    rbx = saved
                elif column == RETURN_ADDRESS:
                    return_address = saved
                else:
                    continue
                changed = True
        except DAMAGE:
            damaged, changed = True, True
        state = register, offset, expression, rbp, rbx, return_address
        if changed:
            rule = UNSUPPORTED_RULE if damaged else self._rule_of(state)
            if not rules or rules[-1] != rule:
                offsets.append(location)
                rules.append(rule)
        return offsets, rules, state, damaged, placed

    def _add(self, offsets: list[int], rules: list[int], damaged: bool) -> int:
        self._offsets.extend(offsets)
        self._offsets.append(END)
        self._row_rules.extend(rules)
        self._row_rules.append(NONE_RULE)
        self._starts.append(len(self._offsets))
        self._damaged.append(damaged)
        return len(self._damaged) - 1

    def _rule_of(self, state: State) -> int:
        found = self._states.get(state)
        if found is None:
            found = self._rule(_as_rule(state))
            if len(self._states) < _MAX_STATES:
                self._states[state] = found
        return found

    def _rule(self, rule: _Rule) -> int:
        found = self._rules.get(rule)
        if found is None:
            if len(self._rules) == MAX_RULES:
                return UNSUPPORTED_RULE
            found = self._rules[rule] = len(self._rules)
        return found


def _saved_at(code: bytes) -> Saved:
    kind, offset = saved_register(code)
    return _ELSEWHERE if kind == RegisterKind.UNDEFINED else (kind, offset)


def _as_rule(state: State) -> _Rule:
    """The rule of a state: UNSUPPORTED where the CFA or the return address cannot be said in one."""
    register, offset, expression, rbp, rbx, return_address = state
    if return_address == _UNDEFINED:
        return CfaKind.ROOT, 0, 0, 0, 0, 0, 0, 0
    kind, register, offset, add = expression or (CfaKind.REGISTER, register, offset, 0)
    unsupported = kind == CfaKind.UNSUPPORTED or return_address != _RETURN_ADDRESS_PUSHED
    if unsupported or not (0 <= register < 16 and _fits(offset, 31) and _fits(add, 31)):
        return CfaKind.UNSUPPORTED, 0, 0, 0, 0, 0, 0, 0
    (rbp_kind, rbp_offset), (rbx_kind, rbx_offset) = _as_saved(rbp), _as_saved(rbx)
    return kind, register, rbp_kind, rbx_kind, offset, rbp_offset, rbx_offset, add


def _as_saved(saved: Saved) -> Saved:
    return saved if saved != _ELSEWHERE and _fits(saved[1], 15) else _UNDEFINED


def _fits(value: int, bits: int) -> bool:
    return -(1 << bits) <= value < 1 << bits
