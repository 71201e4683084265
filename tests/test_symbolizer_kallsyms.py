"""Names of kernel code."""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from pathlib import Path

import pytest

from symbolizer.kernel.kallsyms import HiddenError, KernelSymbols, parse_kallsyms
from symbolizer.kernel.kernel import RETRY_SECONDS, Kernel
from symbolizer.kernel.names import kernel_names
from symbolizer.types import Binary, Kind, Location, Reason

TEXT = b"""\
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000000 t first_function
ffffffff81000100 T read_file
ffffffff81000100 t __read_file
ffffffff81000180 W weak_one
ffffffff81000200 d not_code
ffffffff81000300 T _RNvNtCs43NoKGl62Ug_6kernel2fs4open
ffffffff81001000 T _etext
ffffffff82000000 D data
ffffffff82001000 T _sinittext
ffffffffc0100000 t ext4_read\t[ext4]
ffffffffc0100080 t ext4_write\t[ext4]
ffffffffc0200000 t bpf_prog_6deef7357e7b4530_sched\t[bpf]
ffffffffc0300000 t ftrace_trampoline\t[__builtin__ftrace]
"""


def host(folder: Path, kallsyms: bytes = TEXT) -> Kernel:
    (folder / "kallsyms").write_bytes(kallsyms)
    note = (4).to_bytes(4, "little") + (4).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"GNU\0"
    (folder / "kernel").mkdir(exist_ok=True)
    (folder / "kernel/notes").write_bytes(note + b"\xde\xad\xbe\xef")
    (folder / "module/ext4/notes").mkdir(parents=True, exist_ok=True)
    (folder / "module/ext4/notes/.note.gnu.build-id").write_bytes(note + b"\x01\x02\x03\x04")
    return Kernel(str(folder), str(folder))


def one(kernel: Kernel, address: int) -> Location:
    return kernel.locations([address])[0]


def test_code_is_named_by_who_owns_it(tmp_path: Path) -> None:
    kernel = host(tmp_path)
    found = {
        address: (location.frames[0].function, location.frames[0].kind, location.binary, location.address)
        for address in (0xFFFFFFFF8100017F, 0xFFFFFFFFC0100090, 0xFFFFFFFFC0200010, 0xFFFFFFFFC0300001)
        for location in [one(kernel, address)]
    }
    assert found == {
        0xFFFFFFFF8100017F: ("read_file", Kind.KERNEL, Binary("[kernel]", "deadbeef"), 0x17F),
        0xFFFFFFFFC0100090: ("ext4_write", Kind.MODULE, Binary("[ext4]", "01020304"), 0x90),
        0xFFFFFFFFC0200010: (
            "sched", Kind.BPF, Binary("[bpf]"), 0xFFFFFFFFC0200010,
        ),
        0xFFFFFFFFC0300001: ("ftrace_trampoline", Kind.KERNEL, Binary("[ftrace]"), 0xFFFFFFFFC0300001),
    }  # fmt: skip


def test_only_code_is_a_symbol_and_rust_names_are_read(tmp_path: Path) -> None:
    kernel = host(tmp_path)
    assert one(kernel, 0xFFFFFFFF81000250).frames[0].function == "weak_one"
    frame = one(kernel, 0xFFFFFFFF81000310).frames[0]
    assert (frame.function, frame.system_name) == ("kernel::fs::open", "_RNvNtCs43NoKGl62Ug_6kernel2fs4open")


@pytest.mark.parametrize("address", [0, 0x1000, 0xFFFFFFFFC0140000, 0xFFFFFFFFFFFFFFFF])
def test_an_address_outside_all_symbols_says_so(address: int, tmp_path: Path) -> None:
    location = one(host(tmp_path), address)
    assert location.frames[0].reason is Reason.OUTSIDE_SYMBOLS
    assert location.address == address


def test_hidden_addresses_give_a_reason_and_no_wrong_names(tmp_path: Path) -> None:
    hidden = b"".join(b"0" * 16 + line[16:] + b"\n" for line in TEXT.splitlines())
    with pytest.raises(HiddenError, match="CAP_SYSLOG"):
        parse_kallsyms(hidden)
    location = one(host(tmp_path, hidden), 0xFFFFFFFF81000100)
    assert location.frames[0].reason is Reason.KPTR_RESTRICT
    assert location.frames[0].kind is Kind.UNKNOWN


def test_no_kallsyms_gives_a_reason(tmp_path: Path) -> None:
    kernel = host(tmp_path)
    (tmp_path / "kallsyms").unlink()
    assert one(kernel, 0xFFFFFFFF81000100).frames[0].reason is Reason.UNREADABLE_FILE


def test_a_module_loaded_later_is_found_but_not_by_reading_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.kernel.kernel.time.monotonic", lambda: now[0])
    kernel = host(tmp_path)
    known = one(kernel, 0xFFFFFFFF81000100)
    (tmp_path / "kallsyms").write_bytes(TEXT + b"ffffffffc0500000 t late\t[late]\n")
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].reason is Reason.OUTSIDE_SYMBOLS
    now[0] += RETRY_SECONDS + 1
    assert one(kernel, 0xFFFFFFFFC0500008).frames[0].function == "late"
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].function == "late"
    assert one(kernel, 0xFFFFFFFF81000100) is known


def test_addresses_that_stay_unknown_make_it_look_again_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    reads: list[str] = []

    def read(path: str, sys: str) -> KernelSymbols:
        reads.append(path)
        return parse_kallsyms(TEXT, sys)

    monkeypatch.setattr("symbolizer.kernel.kernel.time.monotonic", lambda: now[0])
    monkeypatch.setattr("symbolizer.kernel.kernel.read_kallsyms", read)
    kernel = host(tmp_path)
    for _ in range(60):  # ten minutes of windows
        assert one(kernel, 0xFFFFFFFFC0500004).frames[0].reason is Reason.OUTSIDE_SYMBOLS
        now[0] += 10
    assert 3 <= len(reads) <= 8
    late = TEXT + b"ffffffffc0500000 t late\t[late]\n"
    monkeypatch.setattr("symbolizer.kernel.kernel.read_kallsyms", lambda *_: parse_kallsyms(late))
    now[0] += 601
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].function == "late"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"\n\n\n",
        b"garbage",
        b"garbage\n" * 10,
        b"ffffffff81000000 T \n",
        b"ffffffff81000000 T a",
        b"zzzzzzzzzzzzzzzz t a\nffffffff81000000 t b\n",
        TEXT[:-20],
        b"ffffffff81000000 t a]\nffffffff81000010 t b\t[\n",
        b"ffffffff81000000 t " + b"x" * 100_000 + b"\n",
    ],
)
def test_odd_kallsyms_never_raise(text: bytes, tmp_path: Path) -> None:
    assert len(host(tmp_path, text).locations([0, 0xFFFFFFFF81000000, 2**64 - 1])) == 3


def test_addresses_of_this_kernel_get_the_name_of_the_nearest_symbol() -> None:
    """2,000 random ones of its text; which of several symbols at one address that is, another test says."""
    text = Path("/proc/kallsyms").read_text()
    lines = [line.split() for line in text.splitlines()]
    bounds = {line[2]: int(line[0], 16) for line in lines if line[2] in ("_text", "_etext")}
    if not all(bounds.values()):
        pytest.skip("kernel addresses are hidden from this user")
    names: dict[int, set[str]] = {}
    for line in lines:
        if line[1] in "tTwW" and len(line) == 3:
            names.setdefault(int(line[0], 16), set()).add(line[2])
    starts = sorted(names)
    chosen = random.Random(1)
    picked = [chosen.randrange(bounds["_text"], bounds["_etext"]) for _ in range(2000)]
    for address, location in zip(picked, Kernel().locations(picked), strict=True):
        frame = location.frames[0]
        assert (frame.system_name or frame.function) in names[starts[bisect_right(starts, address) - 1]]
        assert location.address == address - bounds["_text"]


def test_kernel_code_of_this_host_has_its_build_id() -> None:
    if not os.access("/sys/kernel/notes", os.R_OK):
        pytest.skip("no /sys/kernel/notes")
    assert (
        len(
            parse_kallsyms(Path("/proc/kallsyms").read_bytes() if os.geteuid() == 0 else TEXT).owners[0].binary.build_id
        )
        == 40
    )


def test_small_numbers_are_variables_of_a_cpu_and_no_code(tmp_path: Path) -> None:
    text = b"""\
0000000000000000 D __per_cpu_start
0000000000000000 A fixed_percpu_data
0000000000001000 A cpu_debug_store
0000000000002000 T odd_one
0000000000004000 w odd_weak_one
0000000000030000 D __per_cpu_end
"""
    kernel = host(tmp_path, text + TEXT)
    for address in (0, 0x1008, 0x2000, 0x4010, 0x30000):
        assert one(kernel, address).frames[0].reason is Reason.OUTSIDE_SYMBOLS
    assert one(kernel, 0xFFFFFFFF81000110).frames[0].function == "read_file"


@pytest.mark.parametrize("etext", [b"ffffffff81001000 T _etext\n", b""])
def test_code_that_only_the_boot_ran_gives_no_names_to_what_was_loaded_in_its_place(
    etext: bytes, tmp_path: Path
) -> None:
    text = b"""\
ffffffff81000000 T _text
ffffffff81000100 T read_file
ffffffff82001000 T _sinittext
ffffffff82001000 t setup_arch
ffffffff82001800 t late_init
ffffffff82002000 T _einittext
ffffffff82001400 t reused\t[reuser]
"""
    kernel = host(tmp_path, text + etext)
    found = kernel.locations([0xFFFFFFFF81000110, 0xFFFFFFFF82001410, 0xFFFFFFFF82001000, 0xFFFFFFFF82002000])
    frames = [location.frames[0] for location in found]
    assert [frame.function for frame in frames[:2]] == ["read_file", "reused"]
    assert frames[2].reason is Reason.OUTSIDE_SYMBOLS
    assert frames[3].function == "reused"  # the last one before a gap


def test_what_began_in_the_boot_has_its_root(tmp_path: Path) -> None:
    text = b"""\
ffffffff81000000 T _text
ffffffff81001000 T _etext
ffffffff82001000 T _sinittext
ffffffff82001000 T start_kernel
ffffffff82002000 T _einittext
ffffffffc0000000 t elsewhere\t[module]
"""
    kernel = host(tmp_path, text)
    assert one(kernel, 0xFFFFFFFF82001234).frames[0].function == "start_kernel"
    assert one(kernel, 0xFFFFFFFF82002000).frames[0].reason is Reason.OUTSIDE_SYMBOLS


def test_a_trampoline_below_the_kernels_image_has_its_page_and_no_more(tmp_path: Path) -> None:
    trampolines = b"""\
fffffe0000006000 t __entry_SYSCALL_64_trampoline
fffffe0000032000 t __entry_SYSCALL_64_trampoline
"""
    kernel = host(tmp_path, trampolines + TEXT)
    for address in (0xFFFFFE0000006000, 0xFFFFFE0000006FFF, 0xFFFFFE0000032010):
        assert one(kernel, address).frames[0].function == "__entry_SYSCALL_64_trampoline"
    for address in (0xFFFFFE0000007000, 0xFFFFFE0000040000, 0xFFFFFFFF80FFFFFF):
        assert one(kernel, address).frames[0].reason is Reason.OUTSIDE_SYMBOLS


def test_of_several_symbols_at_an_address_one_is_chosen_by_rule(tmp_path: Path) -> None:
    text = b"""\
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000000 T __pi__text
ffffffff81000000 t startup_64
ffffffff81000100 T __hot_text_end
ffffffff81000100 T __sched_text_start
ffffffff81000100 t schedule_hrtimer
ffffffff81000200 T __sched_text_end
ffffffff81000240 T my_text_start
ffffffff81000300 T irq_entries_start
ffffffff81000300 T __irqentry_text_start
ffffffff81000400 t __do_sys_getpid
ffffffff81000400 T __ia32_sys_getpid
ffffffff81000400 T __x64_sys_getpid
ffffffff81000500 W weak
ffffffff81000500 t local
ffffffff81001000 T _etext
"""
    addresses = [0xFFFFFFFF81000000 + at for at in (0, 0x110, 0x210, 0x250, 0x310, 0x410, 0x510)]
    assert [location.frames[0].function for location in host(tmp_path, text).locations(addresses)] == [
        "startup_64",
        "schedule_hrtimer",
        "__sched_text_end",
        "my_text_start",
        "irq_entries_start",
        "__x64_sys_getpid",
        "weak",
    ]


@pytest.mark.parametrize(
    ("symbol", "function", "system"),
    [
        (b"bpf_prog_6deef7357e7b4530_sched_cls_main", "sched_cls_main", "bpf_prog_6deef7357e7b4530_sched_cls_main"),
        (b"bpf_prog_6deef7357e7b4530_a.b", "a.b", "bpf_prog_6deef7357e7b4530_a.b"),
        (b"bpf_prog_6deef7357e7b4530", "bpf_prog_6deef7357e7b4530", ""),
        (b"bpf_prog_6deef7357e7b4530_F", "bpf_prog_6deef7357e7b4530_F", ""),
        (b"bpf_prog_array_copy", "bpf_prog_array_copy", ""),
        (b"bpf_trampoline_6442536467", "bpf_trampoline_6442536467", ""),
        (b"bpf_dispatcher_xdp", "bpf_dispatcher_xdp", ""),
        (b"bpf__tcp_congestion_ops_cong_avoid", "bpf__tcp_congestion_ops_cong_avoid", ""),
        (b"do_work.llvm.12345678901234567890", "do_work", "do_work.llvm.12345678901234567890"),
        (b"do_work.llvm.123.cold", "do_work.cold", "do_work.llvm.123.cold"),
        (b"do_work.isra.0.cold", "do_work.isra.0.cold", ""),
        (b"do_work.llvm.", "do_work.llvm.", ""),
    ],
)
def test_kernel_code_has_the_name_people_know(symbol: bytes, function: str, system: str) -> None:
    assert kernel_names(symbol) == (function, system)


def test_trampolines_belong_to_what_made_them(tmp_path: Path) -> None:
    text = (
        TEXT
        + b"""\
ffffffffc0400000 t kprobe_insn_page\t[__builtin__kprobes]
ffffffffc0410000 t kprobe_optinsn_page\t[__builtin__kprobes]
ffffffffc0420000 t bpf_trampoline_6442536467\t[bpf]
ffffffffc0430000 t bpf_dispatcher_xdp\t[bpf]
ffffffffc0440000 t bpf__tcp_congestion_ops_ssthresh\t[bpf]
"""
    )
    kernel = host(tmp_path, text)
    found = {}
    for address in range(0xFFFFFFFFC0400010, 0xFFFFFFFFC0450000, 0x10000):
        location = one(kernel, address)
        assert location.binary is not None
        found[location.frames[0].function] = (location.binary.path, location.frames[0].kind)
    assert found == {
        "kprobe_insn_page": ("[kprobes]", Kind.KERNEL),
        "kprobe_optinsn_page": ("[kprobes]", Kind.KERNEL),
        "bpf_trampoline_6442536467": ("[bpf]", Kind.BPF),
        "bpf_dispatcher_xdp": ("[bpf]", Kind.BPF),
        "bpf__tcp_congestion_ops_ssthresh": ("[bpf]", Kind.BPF),
    }


def test_the_same_code_has_the_same_offset_wherever_the_boot_put_the_kernel(tmp_path: Path) -> None:
    moved = TEXT.replace(b"ffffffff81", b"ffffffff9a")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = one(host(tmp_path / "a"), 0xFFFFFFFF81000123), one(host(tmp_path / "b", moved), 0xFFFFFFFF9A000123)
    assert here == there
    assert here.address == 0x123


def test_offsets_in_a_module_count_from_its_text_section(tmp_path: Path) -> None:
    kernel = host(tmp_path)
    sections = tmp_path / "module/ext4/sections"
    sections.mkdir()
    (sections / ".text").write_text("0xffffffffc00ff000\n")
    assert one(kernel, 0xFFFFFFFFC0100090).address == 0x1090


def test_owners_are_told_apart_in_whatever_order_lines_come(tmp_path: Path) -> None:
    chosen = random.Random(4)
    owners = ["", "a", "ab", "nf_tables", "x_tables", "m" * 60, "m" * 59 + "n", "n" + "m" * 59, "bpf", "y" * 200]
    lines, expected = [b"ffffffff81000000 T _text\n"], {}
    for number in range(400):
        owner = chosen.choice(owners) if number % 3 else owners[number // 3 % len(owners)]
        for _ in range(chosen.randrange(1, 4)):
            address = 0xFFFFFFFF81000000 + 256 * (len(lines) + 1)
            behind = f"\t[{owner}]" if owner else ""
            lines.append(f"{address:016x} t f{len(lines)}{behind}\n".encode())
            expected[address] = f"[{owner or 'kernel'}]"
    symbols = parse_kallsyms(b"".join(lines), str(tmp_path))
    found = symbols.table.find(expected)
    assert {a: symbols.owner_of(i).binary.path for a, i in zip(expected, found, strict=True)} == expected


MODULES = b"""\
ext4 372736 1 - Live 0xffffffffc0100000
old 16384 0 - Live 0xffffffffc0500000 (OE)
"""


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.kernel.kernel.time.monotonic", lambda: now[0])
    return now


def test_a_module_where_another_one_was_gets_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    (tmp_path / "modules").write_bytes(MODULES)
    kernel = host(tmp_path, TEXT + b"ffffffffc0500000 t of_old\t[old]\n")
    own = one(kernel, 0xFFFFFFFF81000110)
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].function == "of_old"
    (tmp_path / "kallsyms").write_bytes(TEXT + b"ffffffffc0500000 t of_new\t[new]\n")
    (tmp_path / "modules").write_bytes(MODULES.replace(b"old ", b"new "))
    now[0] += RETRY_SECONDS + 1
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].function == "of_new"
    assert one(kernel, 0xFFFFFFFF81000110) is own


def test_init_code_of_a_module_has_names_until_the_module_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(monkeypatch)
    (tmp_path / "modules").write_bytes(MODULES.replace(b"Live", b"Loading"))
    kernel = host(tmp_path, TEXT + b"ffffffffc0500000 t init_module\t[ext4]\n")
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].function == "init_module"
    (tmp_path / "kallsyms").write_bytes(TEXT)
    (tmp_path / "modules").write_bytes(MODULES)
    now[0] += RETRY_SECONDS + 1
    assert one(kernel, 0xFFFFFFFFC0500004).frames[0].reason is Reason.OUTSIDE_SYMBOLS


def test_what_modules_do_is_no_matter_where_only_the_kernels_own_text_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(monkeypatch)
    kernel = host(tmp_path)
    one(kernel, 0xFFFFFFFF81000110)
    monkeypatch.setattr("symbolizer.kernel.kernel.read_kallsyms", lambda *_: pytest.fail("it was read again"))
    for number in range(3):
        (tmp_path / "modules").write_bytes(b"m%d 1 0 - Live 0xffffffffc0600000\n" % number)
        now[0] += RETRY_SECONDS + 1
        assert one(kernel, 0xFFFFFFFF81000110 + number).frames[0].function == "read_file"


def test_more_users_of_a_module_are_no_change_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    (tmp_path / "modules").write_bytes(MODULES)
    kernel = host(tmp_path)
    one(kernel, 0xFFFFFFFFC0100010)
    monkeypatch.setattr("symbolizer.kernel.kernel.read_kallsyms", lambda *_: pytest.fail("it was read again"))
    (tmp_path / "modules").write_bytes(MODULES.replace(b" 1 - ", b" 7 jbd2,mbcache, "))
    now[0] += RETRY_SECONDS + 1
    assert one(kernel, 0xFFFFFFFFC0100020).frames[0].function == "ext4_read"
