"""Names of kernel code as people know them."""

from __future__ import annotations

import re

from symbolizer.names import clean_name
from symbolizer.naming.demangle import function_names

# bpf_prog_ksym_set_name() in kernel/bpf/core.c. The rest is the function's whole name by the program's BTF, or
# without BTF the program's own, of at most 15 characters; that of a subprogram without BTF is "F".
_BPF_PROGRAM = re.compile(rb"bpf_prog_[0-9a-f]{16}_(.+)")
_NO_NAME = b"F"
# Clang's names of functions that were static before link-time optimization made them global.
_LLVM = re.compile(rb"\.llvm\.\d+")


def kernel_names(symbol: bytes) -> tuple[str, str]:
    """(name for people, symbol's own name if that differs, else "") of a symbol in /proc/kallsyms.

    A BPF program has the name that `bpftool prog` shows (which takes it, where 15 characters cut it, from the BTF as
    the kernel does), so kallsyms alone is enough to know it; the tag stays in the symbol's own name. Of suffixes
    only ".llvm.NUMBER" is left off: ".cold", ".isra.0" and their like say which part or copy of a function it is.
    """
    program = _BPF_PROGRAM.fullmatch(symbol)
    plain = program[1] if program and program[1] != _NO_NAME else _LLVM.sub(b"", symbol)
    function, system = function_names(plain)
    if plain == symbol:
        return function, system
    return function, clean_name(symbol)
