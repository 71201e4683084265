"""Names of kernel code."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from symbolizer.kallsyms import HiddenError, KernelSymbols, parse_kallsyms
from symbolizer.kernel import RETRY_SECONDS, Kernel
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
            "bpf_prog_6deef7357e7b4530_sched", Kind.BPF, Binary("[bpf]"), 0xFFFFFFFFC0200010,
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
    monkeypatch.setattr("symbolizer.kernel.time.monotonic", lambda: now[0])
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

    monkeypatch.setattr("symbolizer.kernel.time.monotonic", lambda: now[0])
    monkeypatch.setattr("symbolizer.kernel.read_kallsyms", read)
    kernel = host(tmp_path)
    for _ in range(60):  # ten minutes of windows
        assert one(kernel, 0xFFFFFFFFC0500004).frames[0].reason is Reason.OUTSIDE_SYMBOLS
        now[0] += 10
    assert 3 <= len(reads) <= 8
    late = TEXT + b"ffffffffc0500000 t late\t[late]\n"
    monkeypatch.setattr("symbolizer.kernel.read_kallsyms", lambda *_: parse_kallsyms(late))
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


def test_this_kernel_is_read_as_a_plain_reading_of_its_lines_has_it() -> None:
    text = Path("/proc/kallsyms").read_bytes()
    lines = [line.split() for line in text.splitlines()]
    code = sorted((int(line[0], 16), line[2]) for line in lines if line[1] in b"tTwW")
    if not code or not code[-1][0]:
        pytest.skip("kernel addresses are hidden from this user")
    symbols = parse_kallsyms(text)
    etext = next(int(line[0], 16) for line in lines if line[2] == b"_etext")
    addresses = np.array([a for a, _ in code], np.uint64)
    names: dict[int, set[bytes]] = {}
    for address, name in code:
        names.setdefault(address, set()).add(name)
    chosen = random.Random(1)
    picked = [address for address in (chosen.randrange(code[0][0], etext) for _ in range(2000))]
    for address, i in zip(picked, symbols.table.find(np.array(picked, np.uint64)), strict=True):
        start = int(addresses[np.searchsorted(addresses, address, "right") - 1])
        assert symbols.name(i) in names[start]


def test_kernel_code_of_this_host_has_its_build_id() -> None:
    if not os.access("/sys/kernel/notes", os.R_OK):
        pytest.skip("no /sys/kernel/notes")
    assert (
        len(
            parse_kallsyms(Path("/proc/kallsyms").read_bytes() if os.geteuid() == 0 else TEXT).owners[0].binary.build_id
        )
        == 40
    )
