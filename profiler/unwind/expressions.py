"""The few DWARF expressions that call frame information is made of on x86-64, in the form of a rule."""

from __future__ import annotations

import struct

from profiler.unwind.encodings import DAMAGE, DamagedError, sleb, uleb
from profiler.unwind.table import CfaKind, RegisterKind

_RBP, _RSP = 6, 7
_DEREF, _PLUS, _MINUS, _PLUS_UCONST, _NOP = 0x06, 0x22, 0x1C, 0x23, 0x96
_LIT0, _LIT31, _BREG0, _BREG15, _BREGX = 0x30, 0x4F, 0x70, 0x7F, 0x92
_CONSTU, _CONSTS = 0x10, 0x11
_CONST = {
    0x08: struct.Struct("<B"),
    0x09: struct.Struct("<b"),
    0x0A: struct.Struct("<H"),
    0x0B: struct.Struct("<h"),
    0x0C: struct.Struct("<I"),
    0x0D: struct.Struct("<i"),
    0x0E: struct.Struct("<Q"),
    0x0F: struct.Struct("<q"),
}

_PLT_BEFORE = bytes([0x77, 8, 0x80, 0, 0x3F, 0x1A])  # breg7 8; breg16 0; lit15; and
_PLT_AFTER = bytes([0x2A, 0x33, 0x24, 0x22])  # ge; lit3; shl; plus

Cfa = tuple[CfaKind, int, int, int]
"""kind, register, offset and add of a rule."""

UNSUPPORTED: Cfa = CfaKind.UNSUPPORTED, 0, 0, 0


def cfa_expression(code: bytes) -> Cfa:
    """The CFA that a DW_CFA_def_cfa_expression gives; UNSUPPORTED where no rule can say it.

    Known are what linkers write for the procedure linkage table (a push in each entry of 16 bytes, at a place that
    differs), and a register with an offset, or what is in memory there, with a number added.
    """
    if len(code) == 11 and code[:6] == _PLT_BEFORE and code[7:] == _PLT_AFTER and _LIT0 <= code[6] <= _LIT31:
        return CfaKind.PLT, 0, code[6] - _LIT0, 0
    linear = _linear(code)
    if linear is None:
        return UNSUPPORTED
    register, offset, add = linear
    if add is None:
        return CfaKind.REGISTER, register, offset, 0
    return CfaKind.DEREF, register, offset, add


def saved_register(code: bytes) -> tuple[RegisterKind, int]:
    """Where a DW_CFA_expression says that a register is saved; UNDEFINED where no rule can say it."""
    linear = _linear(code)
    if linear is not None and linear[2] is None:
        if linear[0] == _RBP:
            return RegisterKind.AT_RBP, linear[1]
        if linear[0] == _RSP:
            return RegisterKind.AT_RSP, linear[1]
    return RegisterKind.UNDEFINED, 0


def _linear(code: bytes) -> tuple[int, int, int | None] | None:
    """(register, offset, None) for register + offset, (register, offset, add) for what is in memory there + add."""
    try:
        register, offset, at = _base(code)
        if register > 15:
            return None
        add: int | None = None
        while at < len(code):
            operation = code[at]
            at += 1
            if operation == _DEREF and add is None:
                add = 0
                continue
            if operation == _NOP:
                continue
            if operation == _PLUS_UCONST:
                value, at = uleb(code, at)
            else:
                value, at = _constant(code, at - 1)
                operation, at = code[at], at + 1
                if operation == _MINUS:
                    value = -value
                elif operation != _PLUS:
                    return None
            if add is None:
                offset += value
            else:
                add += value
    except DAMAGE:
        return None
    return register, offset, add


def _base(code: bytes) -> tuple[int, int, int]:
    """Register and offset of the DW_OP_breg that an expression begins with, and where it ends."""
    if _BREG0 <= code[0] <= _BREG15:
        offset, at = sleb(code, 1)
        return code[0] - _BREG0, offset, at
    if code[0] == _BREGX:
        register, at = uleb(code, 1)
        offset, at = sleb(code, at)
        return register, offset, at
    raise DamagedError("not a form that rules have")


def _constant(code: bytes, at: int) -> tuple[int, int]:
    operation = code[at]
    at += 1
    if _LIT0 <= operation <= _LIT31:
        return operation - _LIT0, at
    if operation == _CONSTU:
        return uleb(code, at)
    if operation == _CONSTS:
        return sleb(code, at)
    if operation in _CONST:
        return _CONST[operation].unpack_from(code, at)[0], at + _CONST[operation].size
    raise DamagedError("not a form that rules have")
