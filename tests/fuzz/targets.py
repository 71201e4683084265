"""The targets: each reads one kind of input that other people write, and checks what can be said of any answer."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from profiler.better_names import MAX_SIZE, decode, encode, size
from profiler.processes import parse_maps
from symbolizer.code import Code
from symbolizer.debuginfo.dwz import merged
from symbolizer.debuginfo.image import SECTIONS
from symbolizer.debuginfo.symcache import read_symcache
from symbolizer.debuginfo.symfile import MAX_INLINED, SymFile, SymFileError
from symbolizer.debuginfo.symfile_build import build_symfile
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.elf import Elf, ElfError, build_id_of_notes, read_elf, virtual_addresses
from symbolizer.elf_content import debug_data, debug_link, section_content, supplement, supplement_identity
from symbolizer.elf_symbols import read_symbols
from symbolizer.function_bounds import bounds, starts_of
from symbolizer.identity import code_identity
from symbolizer.jit.jit import Jit
from symbolizer.jit.jitdump import JitDump, JitDumpError
from symbolizer.jit.names import jit_frames
from symbolizer.jit.perfmap import PerfMap
from symbolizer.kernel.files import symbol_address
from symbolizer.kernel.kallsyms import HiddenError, parse_kallsyms
from symbolizer.names import MAX_NAME, clean_name
from symbolizer.naming.demangle import function_names
from symbolizer.naming.short_names import short_name
from symbolizer.process import Process, inner_pid_and_users
from symbolizer.types import Binary
from tests.fuzz import seeds
from tests.fuzz.driver import Target
from tests.fuzz.elf_edits import elf_changes
from tests.fuzz.mutate import Mutate, change_bytes, text_changes
from tests.fuzz.profiles import PROFILE_TARGETS
from tests.fuzz.seeds import Corpus, in_memory, pair, unpaired
from tests.symbolizer_programs import Files

_PROBES = [0, 1, 0x1000, 0x1010, 0x1FFF, 0x400000, 2**31, 2**32, 2**63, 2**64 - 1]
_MOST_UNPACKED = 8 << 20


def _elf(data: bytes) -> Elf | None:
    try:
        return read_elf(lambda offset, size: data[offset : offset + size] if 0 <= offset and size > 0 else b"")
    except ElfError:
        return None


# ELF files


def _headers(data: bytes) -> None:
    if (elf := _elf(data)) is None:
        return
    assert len(elf.build_id()) <= 40 and elf.end >= 0
    elf.content_id(len(data))
    code_identity(elf)
    for name in (b".debug_info", b".eh_frame", b".symtab"):
        elf.section(name)
    for section in elf.sections[:100]:
        assert len(elf.section_name(section)) <= 64
    assert all(0 <= address < 2**64 for address in virtual_addresses(elf.loads, _PROBES))


def _symbols(data: bytes) -> None:
    if (elf := _elf(data)) is None:
        return
    with suppress(ElfError):
        symbol_address(elf, b"global")
    code = Code(Binary("/bin/fuzzed"))
    code.load(elf)
    code.name(_PROBES)
    with suppress(ElfError):
        table = read_symbols(elf)
        start, end = table.ranges.start, table.ranges.end
        assert bool((start[:-1] <= start[1:]).all()) and bool((start < end).all())
        found = table.find([*_PROBES, *start[:100].tolist()])
        for symbol in found:
            assert symbol < 0 or len(table.best_name(symbol)) <= 1 << 13
        assert all(symbol >= 0 for symbol in found[len(_PROBES) :])


def _bounds(data: bytes) -> None:
    if (elf := _elf(data)) is None:
        return
    functions = bounds(elf)
    starts, ends = functions.start, functions.end
    assert bool((starts < ends).all()) and bool((ends[:-1] <= starts[1:]).all())
    assert starts_of(functions, starts[:100].tolist()) == starts[:100].tolist()


def _notes(data: bytes) -> None:
    assert len(build_id_of_notes(data)) <= 40


def _links(data: bytes) -> None:
    if (elf := _elf(data)) is None:
        return
    for read in (debug_link, supplement, supplement_identity, lambda elf: debug_data(elf, _MOST_UNPACKED)):
        with suppress(ElfError):
            read(elf)
    for section in elf.sections[:100]:
        with suppress(ElfError):
            assert len(section_content(elf, section, _MOST_UNPACKED)) <= _MOST_UNPACKED


def _change_either(change: Mutate) -> Mutate:
    """Changes one file of a pair by `change`, or exchanges it for another's."""

    def changed(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        files = list(unpaired(data))
        which = random.randrange(2)
        theirs = [unpaired(other)[which] for other in others[:20]]
        files[which] = random.choice(theirs) if random.random() < 0.05 else change(random, files[which], theirs)
        return pair(*files)

    return changed


# Debug information


def _dwz(data: bytes) -> None:
    elves = [_elf(part) for part in unpaired(data)]
    files: list[dict[bytes, bytes]] = []
    for elf in elves:
        if elf is None:
            return
        try:
            parts = {name: part for name in SECTIONS if (part := elf.section(name)) is not None}
            files.append({name: section_content(elf, part, _MOST_UNPACKED) for name, part in parts.items()})
        except ElfError:
            return
    with suppress(ElfError):
        both = merged(*files)
        for name in (b".debug_info", b".debug_abbrev", b".debug_str"):
            assert len(both.get(name, b"")) == sum(len(file.get(name, b"")) for file in files)


def _look_up(symbols: SymFile, *, whole: bool) -> None:
    """One address at a time and many at once, which are searched for in ways that differ, agree if it is `whole`."""
    addresses = [base + offset for base in (0, 0x1000, 0x400000) for offset in range(0, 4096, 64)]
    many = symbols.lookup([*_PROBES, *addresses])
    few = [symbols.lookup([address])[0] for address in (*_PROBES, *addresses)]
    assert many == few or not whole
    assert all(len(frames) <= MAX_INLINED for frames in (*many, *few))
    assert symbols.lookup([-1, 2**64, 2**70]) == [(), (), ()]


def _build(data: bytes, supplement: bytes | None = None) -> None:
    handles = [in_memory(part) for part in (data, supplement) if part is not None]
    try:
        made = build_symfile(
            lambda at, size: data[at : at + size], Files(handles[0], handles[1] if supplement else None)
        )
    except SymFileError as error:
        assert str(error)
        return
    finally:
        for handle in handles:
            os.close(handle)
    _symfile(made, whole=True)


def _symfile(data: bytes, *, whole: bool = False) -> None:
    handle = in_memory(data)
    try:
        symbols = SymFile.open(handle)
    except SymFileError:
        assert not whole
        return
    finally:
        os.close(handle)
    _look_up(symbols, whole=whole)
    assert symbols.note is not None and len(symbols.sections) <= 256
    symbols.close()


def _symcache(data: bytes) -> None:
    with suppress(SymFileError):
        found = read_symcache(data)
        assert bool((found.depth <= MAX_INLINED).all())
        for file in range(min(len(found.path), 50)):
            found.file_path(file)


@cache
def _symfiles() -> SymFiles:
    return SymFiles(None)


def _builder(data: bytes) -> None:
    """What the agent does with a binary; whatever becomes of the process that builds, the next one has its turn."""
    handle = in_memory(data)
    symfiles = _symfiles()
    key = os.urandom(20).hex()
    try:
        symfiles.request(key, handle, "/usr/bin/fuzzed")
        assert symfiles.settle(60)
    finally:
        os.close(handle)
    found = symfiles.get(key)
    if found is None:
        assert symfiles.why_not(key)
    else:
        _look_up(found, whole=True)
    assert key in symfiles.poll()


# Code compiled at run time


def _perf_map(data: bytes) -> None:
    """Read at once, and in two parts."""
    whole, grown = PerfMap(), PerfMap()
    handle = in_memory(data[: len(data) // 2])
    try:
        grown.refresh(handle)
        os.pwrite(handle, data[len(data) // 2 :], len(data) // 2)
        grown.refresh(handle)
        whole.refresh(handle)
    finally:
        os.close(handle)
    probes = np.array([*_PROBES, *(0x7F0000000000 + 0x80 * i for i in range(20)), 0x10, 0x18, 0x28], np.uint64)
    named = []
    for perf_map in (whole, grown):
        named.append([perf_map.frames(i) if i >= 0 else () for i in perf_map.find(probes)])
    assert named[0] == named[1] and whole.malformed == grown.malformed


def _jitdump(data: bytes) -> None:
    """Read at once, and in two parts."""
    handle = in_memory(data[: len(data) // 2])
    probes = [*_PROBES, *(0x7F0000000000 + 0x40 * i for i in range(60))]
    try:
        grown, whole = JitDump(), JitDump()
        try:
            grown.refresh(handle)
            os.pwrite(handle, data[len(data) // 2 :], len(data) // 2)
            grown.refresh(handle)
            whole.refresh(handle)
        except JitDumpError as error:
            assert str(error)
            return
        named = []
        for dump in (whole, grown):
            numbers = dump.find(np.array(probes, np.uint64))
            named.append([dump.frames(i, at, handle) if i >= 0 else () for i, at in zip(numbers, probes, strict=True)])
        assert named[0] == named[1] and all(len(frames) < 10 for frames in named[0])
    finally:
        os.close(handle)


def _jit_names(data: bytes) -> None:
    frames = jit_frames(data)
    assert frames and all(frame.function for frame in frames) or not data


# The kernel's texts


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pilotlight-fuzz-proc-"))
    (folder / "7").mkdir()
    return folder


def _kallsyms(data: bytes) -> None:
    try:
        symbols = parse_kallsyms(data, str(_folder()))
    except HiddenError:
        return
    assert len(symbols.owner) == len(symbols.table)
    for i in range(min(len(symbols.table), 200)):
        symbols.name(i)
        symbols.owner_of(i)
    assert all(symbol < len(symbols.table) for symbol in symbols.table.find(_PROBES))


def _maps(data: bytes) -> None:
    for mapping in parse_maps(data):
        assert mapping.start >= 0 and mapping.inode >= 0
    folder = _folder()
    for name in ("maps", "status"):
        (folder / "7" / name).write_bytes(data)
    with Process(7, (), str(folder)) as process:
        assert isinstance(process.memory_name(0x55D0C2B5E010), str)
        Jit(1 << 20).locations(process, [0x7F1C3C000010])
    inner_pid_and_users(7, str(folder))


# Names


def _demangled(data: bytes) -> None:
    function_names.cache_clear()
    function, system = function_names(data)
    assert function or not data.partition(b"@")[0]
    assert len(function) <= MAX_NAME + 4 and len(system) <= MAX_NAME + 4
    assert function.isprintable() and system.isprintable()
    assert short_name(function) or not function


def _short(data: bytes) -> None:
    name = clean_name(data)
    short = short_name(name)
    assert bool(short) == bool(name)


def _better_names(data: bytes) -> None:
    try:
        locations = decode(data)
    except ValueError as error:
        assert str(error)
        return
    assert sum(map(size, locations)) <= MAX_SIZE
    assert [location for message in encode(locations) for location in decode(message.body)] == locations


_OF_SYMBOLS = (b".symtab", b".dynsym", b".strtab", b".dynstr", b".plt", b".rela", b".gnu.version", b".text")
_LINKS = (b".gnu_debuglink", b".gnu_debugaltlink", b".debug_sup", b".gnu_debugdata", b".debug_", b".zdebug_")
_JIT_TOKENS = (
    b"JS:*",
    b"Script:",
    b" /a:1:2",
    b"L",
    b";",
    b"::",
    b"->",
    b" in ",
    b"(",
    b"[[I",
    b"py::",
    b"file:///",
    b"%",
)
_MAPS_TOKENS = (
    b"[stack]",
    b"[anon:x]",
    b" ",
    b"\n",
    b"/memfd:x (deleted)",
    b"\\012",
    b"0",
    b"NSpid:\t1",
    b"Uid:\t",
    b"9",
)
_KALLSYMS_TOKENS = (
    b"\t[bpf]",
    b"\t[",
    b"]",
    b" T ",
    b" t _text\n",
    b"_etext",
    b"0",
    b" ",
    b"\t[__builtin__x]",
    b"/../",
)
_CPP = (
    b"_Z N E I J S_ S0_ T_ St 1a 3foo Dp Dt DT L X P R K F v i C1 D0 cv cl sr Z Ul Li1E sZ fp_ on nw .cold B5cxx11 99"
)
_OTHERS = (
    b"_R C s_ u M X Y N Nt B_ B0_ K j1f_ p 17h0123456789abcdefE $LT$ .. $u20$ _D Q Qa F Z H A $s $s4main Say Sg yy y_ G"
)
_SHORT_TOKENS = (
    b"< > ( ) [ ] { } :: operator -> , ...|const|&&|[clone .x]|{lambda(|#1}|[abi:|in|as|impl|@plt|.llvm.1|\xe2\x80\xa6"
)
_JSON_TOKENS = (
    b'[ ] { } " , : null true 1e999 -1 1.5 NaN "native" "inlined" "no symbols" "\\ud800" 9999999999999999999 "process"'
)

TARGETS = (
    Target("elf", Corpus.elf, _headers, elf_changes(b".note", b".gnu", b".shstrtab")),
    Target("symbols", Corpus.elf, _symbols, elf_changes(*_OF_SYMBOLS)),
    Target("bounds", Corpus.elf, _bounds, elf_changes(b".eh_frame")),
    Target("notes", lambda _: seeds.notes(), _notes, change_bytes),
    Target("links", Corpus.elf, _links, elf_changes(*_LINKS)),
    Target("dwz", Corpus.dwz, _dwz, _change_either(elf_changes(b".debug_info", b".debug_abbrev", b".debug_str"))),
    Target("build", Corpus.elf, _build, elf_changes(b".debug_", b".rela.debug", b".symtab", b".gnu_debug"), 512 << 20),
    Target(
        "build-dwz",
        Corpus.dwz,
        lambda data: _build(*unpaired(data)),
        _change_either(elf_changes(b".debug_info", b".debug_abbrev", b".gnu_debugaltlink")),
        512 << 20,
    ),
    Target(
        "builder",
        Corpus.elf,
        _builder,
        elf_changes(b".debug_", b".symtab"),
        elsewhere=lambda: _symfiles().cpu_ns() / 1e9,
    ),
    Target("symfile", Corpus.symfiles, _symfile, change_bytes),
    Target("symcache", Corpus.symcaches, _symcache, change_bytes),
    Target("perf-map", lambda _: seeds.perf_maps(), _perf_map, text_changes(*_JIT_TOKENS, b"0x", b" ", b"\n")),
    Target("jitdump", lambda _: seeds.jitdumps(), _jitdump, change_bytes),
    Target("jit-names", lambda _: seeds.jit_names(), _jit_names, text_changes(*_JIT_TOKENS)),
    Target("kallsyms", lambda _: seeds.kallsyms(), _kallsyms, text_changes(*_KALLSYMS_TOKENS)),
    Target("maps", lambda _: seeds.maps(), _maps, text_changes(*_MAPS_TOKENS)),
    Target("demangle", lambda _: seeds.mangled_names(), _demangled, text_changes(*_CPP.split(), *_OTHERS.split())),
    Target(
        "short-names", lambda _: seeds.readable_names(), _short, text_changes(*re.split(rb"[ |]", _SHORT_TOKENS), b" ")
    ),
    Target("better-names", lambda _: seeds.better_names(), _better_names, text_changes(*_JSON_TOKENS.split(b" "))),
    *PROFILE_TARGETS,
)
