"""What fuzzing starts from: small files of every kind, compiled, dumped and written when they are needed."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from profiler.better_names import encode
from symbolizer.debuginfo.symfile import pack_symfile
from symbolizer.debuginfo.symfile_build import build_symfile
from symbolizer.naming.demangle import function_names
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from tests.symbolizer_programs import Files

_C = """
extern int puts(const char *); extern int atoi(const char *);
static inline int twice(int x) { return puts("2") + 2 * x; }
__attribute__((noinline)) static int local(int x) { return x < 2 ? atoi("1") : local(x - 1) + twice(x); }
int global(int x) { return local(x) + twice(x); }
__attribute__((weak, alias("global"))) int weak_name(int x);
typedef struct { int a; char b[12]; } Pair;
int pair(Pair *p) { for (int i = 0; i < 12; i++) p->a += p->b[i]; return p->a; }
static int chosen(void) { return 3; }
static void *choose(void) { return chosen; }
int resolved(void) __attribute__((ifunc("choose")));
int call(void) { return resolved(); }
"""
_PLAIN_C = "static inline int f(int x) { return x * x; } int g(int x) { return f(x) + 1; } int h(void) { return g(3); }"
_CPP = """
namespace outer { template <class T, int N> struct Box { T items[N]; T sum() const {
  T all{}; for (const T& x : items) all += x; return all; } }; }
int total(const outer::Box<int, 4>& box) { auto twice = [](int x) { return 2 * x; }; return twice(box.sum()); }
"""
_RUST = """
#![no_std]
#[panic_handler] fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
#[inline(always)] fn twice(x: u32) -> u32 { x.wrapping_mul(2) }
#[no_mangle] pub extern "C" fn entry(x: u32) -> u32 { (0..x).map(twice).fold(0, u32::wrapping_add) }
"""
_SHARED = ("-shared", "-nostdlib", "-fPIC", "-Wl,--build-id", "-Wl,-z,noseparate-code")


class Corpus:
    """Seeds by kind, those that take a compiler made once, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._anywhere = f"-ffile-prefix-map={folder}=/src"  # the same files wherever they are made
        for name, text in {"a.c": _C, "b.c": _PLAIN_C, "c.cc": _CPP, "d.rs": _RUST}.items():
            (folder / name).write_text(text)
        self._elf: list[bytes] = []
        self._pairs: list[bytes] = []

    def _run(self, *command: str) -> None:
        if shutil.which(command[0]) is None:
            raise SystemExit(f"{command[0]} is not installed: `make setup-dev` installs it")
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")

    def elf(self) -> list[bytes]:
        """ELF files: with and without symbols and debug information, of several compilers, formats and machines."""
        if self._elf:
            return self._elf
        for name, *command in (
            ("gcc", "gcc", "-g", "-O2", *_SHARED, "a.c"),
            ("dwarf4", "gcc", "-gdwarf-4", "-O2", *_SHARED, "c.cc"),
            ("dwarf2", "gcc", "-gdwarf-2", "-gstrict-dwarf", "-O1", *_SHARED, "b.c"),
            ("dwarf3-32", "clang", "-m32", "-gdwarf-3", "-O1", *_SHARED, "b.c"),
            ("clang", "clang", "-g", "-O2", *_SHARED, "c.cc"),
            ("lazy", "gcc", "-O1", *_SHARED, "-Wl,-z,lazy", "-Wl,--no-eh-frame-hdr", "a.c"),
            ("zlib", "gcc", "-g", "-O2", "-gz=zlib", *_SHARED, "c.cc"),
            ("split", "clang", "-g", "-gsplit-dwarf", "-O1", *_SHARED, "b.c"),
            ("object", "gcc", "-g", "-O2", "-c", "c.cc"),
            ("arm", "clang", "--target=aarch64-linux-gnu", "-g", "-O1", "-c", "b.c"),
            ("big", "clang", "--target=powerpc-linux-gnu", "-g", "-O1", "-c", "b.c"),
            ("rust", "rustc", "-g", "-O", "-Cpanic=abort", "--crate-type=lib", "--emit=obj", "d.rs"),
        ):
            anywhere = f"--remap-path-prefix={self.folder}=/src" if command[0] == "rustc" else self._anywhere
            self._run(*command, anywhere, "-o", name)
        self._run("objcopy", "--compress-debug-sections=zstd", "gcc", "zstd")
        self._run("objcopy", "--compress-debug-sections=zlib-gnu", "clang", "zlib-gnu")
        self._run("objcopy", "--only-keep-debug", "gcc", "gcc.debug")
        self._run("strip", "-o", "linked", "gcc")
        self._run("xz", "-k", "lazy")
        for section, content in (("debuglink", "gcc.debug"), ("debugdata", "lazy.xz")):
            add = ["--add-gnu-debuglink=gcc.debug"] if section == "debuglink" else []
            add = add or [f"--add-section=.gnu_{section}={content}"]
            self._run("objcopy", *add, "linked")
        (self.folder / "alt").write_bytes(b"../shared.debug\0" + bytes(range(20)))
        (self.folder / "sup").write_bytes(b"\5\0\0shared.debug\0\x14" + bytes(range(20)))
        add = [f"--add-section={name}={file}" for name, file in ((".gnu_debugaltlink", "alt"), (".debug_sup", "sup"))]
        self._run("objcopy", *add, "linked", "linked-alt")
        names = "gcc dwarf4 dwarf2 dwarf3-32 clang lazy zlib split object arm big rust zstd zlib-gnu gcc.debug linked"
        self._elf = [(self.folder / name).read_bytes() for name in [*names.split(), "linked-alt"]]
        return self._elf

    def dwz(self) -> list[bytes]:
        """pair()s of a debug file and the supplementary file that dwz made of what it shares with others."""
        if not self._pairs:
            self.elf()
            for version in (4, 5):
                files = [f"dwz{version}-{number}" for number in range(2)]
                for file in files:
                    debug = (f"-gdwarf-{version}", "-O2", "-Wl,--build-id", self._anywhere)
                    self._run("gcc", *debug, *_SHARED, "c.cc", "-o", file)
                self._run("dwz", *(["--dwarf-5"] if version == 5 else []), "-m", f"sup{version}", *files)
                shared = (self.folder / f"sup{version}").read_bytes()
                self._pairs.append(pair((self.folder / files[0]).read_bytes(), shared))
        return self._pairs

    def symfiles(self) -> list[bytes]:
        """Symbol files, of debug information and of symbols alone."""
        return [_symfile(data) for data in self.elf()[:7]] + [_small_symfile()]

    def symcaches(self) -> list[bytes]:
        """What symbolic makes of debug information."""
        from symbolic.debuginfo import Archive

        found = []
        for data in self.elf()[:6]:
            for part in Archive.from_bytes(data).iter_objects():
                found.append(part.make_symcache().open_stream().read())  # type: ignore[no-untyped-call]
        return found


def pair(first: bytes, second: bytes) -> bytes:
    """Two files in one input."""
    return struct.pack("<I", len(first)) + first + second


def unpaired(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < 4:
        return data, b""
    size = int.from_bytes(data[:4], "little")
    return data[4 : 4 + size], data[4 + size :]


def in_memory(data: bytes) -> int:
    """A descriptor of a file of these bytes, which the caller closes."""
    handle = os.memfd_create("fuzz")
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
    return handle


def _symfile(data: bytes) -> bytes:
    handle = in_memory(data)
    try:
        return build_symfile(lambda offset, size: data[offset : offset + size], Files(handle))
    finally:
        os.close(handle)


def _small_symfile() -> bytes:
    strings = b"\0outer\0inner\0/src/a.c\0.text\0"
    nodes = np.array([[0, 0, 1], [0, 1, 7], [0, 13, 13], [0, 7, 9]], np.uint32)
    rows = np.array([0, 16, 32], np.uint32), np.array([1, 2, 0], np.uint32)
    return pack_symfile(0x1000, *rows, list(nodes), strings, note=1, sections={22: 0})


def notes() -> list[bytes]:
    """ELF notes in both byte orders, a build id among them."""
    found = []
    for order in "<>":
        build_id = struct.pack(order + "III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
        other = struct.pack(order + "III", 4, 16, 1) + b"GNU\0" + struct.pack(order + "IIII", 0, 3, 2, 0)
        properties = struct.pack(order + "III", 4, 16, 5) + b"GNU\0" + struct.pack(order + "IIII", 0xC0000002, 4, 3, 0)
        core = struct.pack(order + "III", 5, 8, 0x46494C45) + b"CORE\0\0\0\0" + bytes(8)
        found += [build_id, other + properties + build_id, core + build_id]
    return found


MAPS = b"""\
55d0c0a00000-55d0c0a2c000 r--p 00000000 fd:01 1835010                    /usr/bin/bash
55d0c0a2c000-55d0c0b0b000 r-xp 0002c000 fd:01 1835010                    /usr/bin/bash
55d0c2b5e000-55d0c2d0b000 rwxp 00000000 00:00 0                          [heap]
7f1c3c000000-7f1c3c021000 rwxp 00000000 00:00 0
7f1c40000000-7f1c40100000 r-xp 00000000 00:00 0                          [anon:V8 code]
7f1c48a00000-7f1c48a26000 r-xs 00000000 00:01 2051                       /memfd:code (deleted)
7f1c48b00000-7f1c48b01000 r-xp 00000000 fd:01 777                        /tmp/jit-4242.dump
7f1c48c00000-7f1c48c01000 r-xp 00001000 fd:01 778                        /tmp/with\\012newline\\134and blank
7ffd5e7e0000-7ffd5e7f0000 rw-p 00000000 00:00 0
7ffd5e7f0000-7ffd5e801000 rwxp 00000000 00:00 0                          [stack]
7ffd5e9a4000-7ffd5e9a6000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def maps() -> list[bytes]:
    """What /proc/PID/maps and /proc/PID/status hold."""
    status = b"Name:\tnode\nState:\tS (sleeping)\nPid:\t4242\nNSpid:\t4242\t7\nUid:\t1000\t1000\t1000\t1000\n"
    return [MAPS, MAPS + status, status]


_JIT_NAMES = [
    *(b"JS:*run /srv/app.js:12:7", b"LazyCompile:~get name file:///srv/a%20b.js:3", b"Script:^ node:internal/x:1:1"),
    *(b"py::work:/srv/app.py", b"Ljava/util/HashMap;get(Ljava/lang/Object;[I)Ljava/lang/Object;", b"_ZN3foo3barEi"),
    *(b"Ljava/lang/String;::hashCode in Lorg/x/Main;::run", b"a.B::c->d.E::f", b"Interpreter", b"\xff\x1b[31m"),
    *(b"int32 [System.Private.CoreLib] System.String::IndexOf(char)[Optimized]", b"_RNvC1a4main"),
]


def perf_maps() -> list[bytes]:
    lines = [b"%x %x %s\n" % (0x7F0000000000 + 0x80 * i, 0x90, name) for i, name in enumerate(_JIT_NAMES)]
    return [
        b"".join(lines),
        b"".join(lines + lines[::-1]),
        b"0x10 0x20 a b\n10 8 c\n18 10 d\nffffffffffffffff 1 z\nbad\n",
    ]


def jitdumps() -> list[bytes]:
    """jitdump files in both byte orders, with lines and moves."""
    found = []
    for order in "<>":
        parts = [struct.pack(order + "6I2Q", 0x4A695444, 1, 40, 62, 0, 4242, 0, 0)]
        for index, name in enumerate(_JIT_NAMES):
            start = 0x7F0000000000 + 0x100 * index
            entries = [(0, 10, b"/srv/app.js"), (8, 11, b"\xff"), (32, 5, b"HashMap.java")]
            lines = b"".join(
                struct.pack(order + "Q2I", start + at, line, 0) + file + b"\0" for at, line, file in entries
            )
            parts.append(_record(order, 2, struct.pack(order + "2Q", start, len(entries)) + lines))
            load = struct.pack(order + "2I4Q", 7, 7, start, start, 0x80, index)
            parts.append(_record(order, 0, load + name + b"\0" + b"\x90" * 16))
            if index % 3 == 0:
                parts.append(_record(order, 1, struct.pack(order + "2I5Q", 7, 7, 0, start, start + 64, 0x80, index)))
        parts.append(_record(order, 3, b""))
        found.append(b"".join(parts))
    return found


def _record(order: str, kind: int, body: bytes) -> bytes:
    return struct.pack(order + "2IQ", kind, 16 + len(body), 5) + body


def kallsyms() -> list[bytes]:
    """What /proc/kallsyms shows with a module, BPF programs and trampolines, hidden and on a 32-bit kernel too."""
    base = 0xFFFFFFFF81000000
    names = (
        b"T _stext|T _text|T __x64_sys_read|t __do_sys_read|T schedule|W weak_one|t __sched_text_start|T _etext".split(
            b"|"
        )
    )
    lines = [b"0000000000000000 D per_cpu_start"]
    lines += [b"%016x %s" % (base + 0x40 * (i // 2), name) for i, name in enumerate(names)]
    lines += [b"%016x T _sinittext" % (base + 0x1000), b"%016x T _einittext" % (base + 0x2000)]
    lines += [b"%016x t ext4_%d\t[ext4]" % (0xFFFFFFFFC0100000 + 0x20 * i, i) for i in range(4)]
    lines += [b"%016x t bpf_prog_6deef7357e7b4530_count\t[bpf]" % 0xFFFFFFFFC0200000]
    lines += [b"%016x t ftrace_trampoline\t[__builtin__ftrace]" % 0xFFFFFFFFC0300000]
    lines += [b"%016x t nf\t[nf-nat]" % 0xFFFFFFFFC0400000]
    text = b"\n".join(lines) + b"\n"
    hidden = b"".join(b"0" * 16 + line[16:] + b"\n" for line in lines)
    short = b"".join(b"c0%06x T f%d\n" % (i * 64, i) for i in range(5))
    return [text, hidden, short]


_MANGLED = [
    b"_Z3foov.cold", b"_ZNSt6vectorIiSaIiEE9push_backERKi@@V1", b"_Z3maxIiET_S0_S0_", b"_ZTVN3foo3BarE", b"foo.part.0",
    b"_ZN4core3fmt9Formatter9write_str17h1234567890abcdefE", b"_ZZ4mainENKUlT_E_clIiEEDaS_", b"_ZThn16_N1A1fEv",
    b"_ZN50_$LT$T$u20$as$u20$core..convert..Into$LT$U$GT$$GT$4into17h1234567890abcdefE.llvm.123", b"_ZN1AcvT_IiEEv",
    b"_RNvNtCs43NoKGl62Ug_14rustc_demangle2v010basic_type", b"_RINvNtC3std3mem8align_ofNtNtC3std3mem12DiscriminantE",
    b"_RNvXs_C1aINtB4_1bTReEE1c", b"_RINvC1a1bKj1f_Kc41_Kb1_E", b"_ZN9__gnu_cxx17__normal_iteratorIPKcSsEdeEv",
    b"_ZNKSt8functionIFvRKN2v84TaskEiEEclES5_i", b"_ZSt4moveIRiEONSt16remove_referenceIT_E4typeEOS2_",
    b"_Z1fIJidcEEvDpT_", b"_ZN1SIXadL_Z1gvEEE1hEv", b"_Z1fIiEDTplfp_Li1EET_", b"_ZGVZ4mainE1x", b"_ZTc0_n16_N1B1fEv",
    b"$s4main3FooV3baryySiF", b"$s10Foundation4DataV5countSivg", b"_$s4main3fooyyF", b"$sSaySiGMa", b"malloc@plt",
    b"$s4main5ShapeP4areaSdvgTj", b"$s4main3fooyyFyycfU_", b"$sSS7cStringSSSPys4Int8VG_tcfC",
    b"_D3std5stdio4File5closeMFZv", b"_D4test3fooFAyaZv.part.0", b"_D3std5range__T4iotaTiTiZ4iotaFNaNbNiNfiiZ6Result",
    b"_D3foo3BarC6__ctorMFNaNbNiNfiZCQu", b"runtime.mallocgc", b"_Dmain", b"_ZNSt3mapISsiE2atERKSs.constprop.0",
]  # fmt: skip
_READABLE = [
    b"slices.Sort[go.shape.[]int,go.shape.int]", b"main.(*Box[...]).Put", b"foo(int) [clone .cold]", b"[a.so: gone]",
    b"std::function<void (int (*)(char), std::map<a, b>)>::operator()(int) const &&", b"a<(b > c)>::d(e)::{lambda(f)#}",
    b"<alloc::vec::Vec<T> as core::ops::Drop>::drop::h1234567890abcdef", b"operator<< <char>(std::ostream&)@plt",
    b"(1) await resume partial function for main.foo<A>(A) async throws -> Swift.Int in outer", b"f.llvm.123.cold",
    b"immutable(char)[] std.format!(int).format(int)", b"main.Foo.bar : Swift.Int", b"non-virtual thunk to A::f()",
]  # fmt: skip


def mangled_names() -> list[bytes]:
    return list(_MANGLED)


def readable_names() -> list[bytes]:
    return [*_READABLE, *(function_names(name)[0].encode() for name in _MANGLED)]


def jit_names() -> list[bytes]:
    return list(_JIT_NAMES)


def better_names() -> list[bytes]:
    """Messages as agents send them."""
    frames: Sequence[tuple[Frame, ...]] = [
        (Frame("inner", Kind.INLINED, "_Z5innerv", "/src/a.cc", 3), Frame("outer", Kind.NATIVE, "", "/src/a.cc", 9)),
        (Frame("do_sys", Kind.KERNEL),),
        (Frame("[lib.so+0x10: no symbols]", Kind.NATIVE, reason=Reason.NO_SYMBOLS),),
        (Frame("fn", Kind.JIT, line=2**32 - 1),),
    ]
    locations = [Location(0x1000 * i, Binary("/bin/x", f"{i:040x}"), each) for i, each in enumerate(frames)]
    return [message.body for message in (*encode(locations), *encode(locations[:1]))]
