r"""Folded stacks, the text that flame graph tools have in common: `root;caller;leaf COUNT` a line.

The suffixes that stackcollapse-perf.pl puts on names say their kind: `_[k]` kernel, `_[i]` inlined,
`_[j]` JIT. A stack stands on its process's name, and on its thread's where that differs.

Names are escaped where they would otherwise be read as something else, here or by flamegraph.pl,
inferno or speedscope: `;`, control characters and line ends anywhere, spaces at an end or before a
trailing number (a second number makes a file a differential one), and an `_[k]` that is really part
of the name. An escape is `\xHH` or `\uHHHH`, with `\x5c` for a backslash that would start one.

Accounting is not written: there are no comments in this format. The tools above skip a line that is
no stack, though not without a warning, and those that sort, count or merge lines do not.
"""

from __future__ import annotations

import re
from array import array
from itertools import repeat
from typing import Final

import numpy as np

from profiler.formats.names import frame_named
from profiler.model import Profile, StackTable, stack_table
from symbolizer.types import Frame, Kind

_SUFFIX: Final = {
    Kind.KERNEL: "_[k]",
    Kind.MODULE: "_[k]",
    Kind.BPF: "_[k]",
    Kind.INLINED: "_[i]",
    Kind.JIT: "_[j]",
}
_KIND: Final = {"_[k]": Kind.KERNEL, "_[i]": Kind.INLINED, "_[j]": Kind.JIT, "_[w]": Kind.NATIVE}

_UNSAFE: Final = re.compile(
    r"[;\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    r"|\\(?=x[0-9a-f]{2}|u[0-9a-f]{4})"
    r"|^\s|\s$"
    r"|_(?=\[[kijw]\]$)"
)
_BEFORE_NUMBER: Final = re.compile(r"\s(?=\d+(?:\.\d*)?$)")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))")
_COUNT: Final = re.compile(rb"(\d{1,18})(\.\d*)?")
_MAX_COUNT: Final = (1 << 63) - 1
_CHUNK: Final = 1 << 14  # lines read at a time, so that their split names are not all in memory at once


def write_folded(profile: Profile) -> bytes:
    """The profile's stacks as sorted lines in UTF-8, equal ones merged; empty if there are no samples."""
    table = stack_table(profile)
    names = [_name(frame) for frame in table.frames]
    index = [names[i] for i in table.index.tolist()]
    offsets = table.offsets.tolist()
    totals: dict[str, int] = {}
    for start, end, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True):
        stack = ";".join(index[start:end])
        totals[stack] = totals.get(stack, 0) + count
    return "".join(f"{stack} {count}\n" for stack, count in sorted(totals.items())).encode()


def _name(frame: Frame) -> str:
    name = _UNSAFE.sub(_escape, frame.function or "[unnamed]") + _SUFFIX.get(frame.kind, "")
    return _BEFORE_NUMBER.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class _Numbers(dict[bytes, int]):
    """Numbers words in the order of their first appearance."""

    def __missing__(self, word: bytes) -> int:
        number = self[word] = len(self)
        return number


def read_folded(data: bytes) -> tuple[StackTable, list[str]]:
    """Reads folded stacks; returns them with one sentence for each kind of problem found.

    Lines that are not stacks are left out and counted, blank ones and `#` comments silently so.
    Suffixes become kinds, names in [brackets] unknown frames, all others native ones; fractions of
    counts are rounded. Raises ValueError if there is not a single stack in lines that are not blank.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    numbers = _Numbers()
    index = array("I")
    lengths: list[int] = []
    counts: list[int] = []
    malformed: list[int] = []
    fractions = 0
    lines = data.split(b"\n")
    for first in range(0, len(lines), _CHUNK):
        stacks: list[bytes] = []
        for number, line in enumerate(lines[first : first + _CHUNK], first + 1):
            stack, _, count = line.rstrip().rpartition(b" ")
            if not (stack and count.isdigit() and len(count) < 19):
                parsed = _unusual(line)
                if parsed is None:
                    if line.strip() and not line.startswith(b"#"):
                        malformed.append(number)
                    continue
                stack, value, is_fraction = parsed
                fractions += is_fraction
                counts.append(value)
            else:
                counts.append(int(count))
            stacks.append(stack)
        split = list(map(bytes.split, stacks, repeat(b";")))
        lengths.extend(map(len, split))
        for words in split:
            index.extend(map(numbers.__getitem__, words))
    problems = []
    if malformed:
        where = f"line {malformed[0]}" + (f" and {len(malformed) - 1:,} more" if malformed[1:] else "")
        if not counts:
            raise ValueError(f"no folded stacks found: {where} should read name;name;name COUNT")
        problems.append(f"{where} left out: not a stack and a whole number")
    if fractions:
        problems.append(f"{fractions:,} counts had fractions and were rounded")
    if sum(counts) > _MAX_COUNT:
        raise ValueError(f"the counts add up to {sum(counts)}, more than 64 bits hold")
    return _table(numbers, index, lengths, counts), problems


def _unusual(line: bytes) -> tuple[bytes, int, bool] | None:
    """A stack, its count, and whether that was a fraction, of a line with tabs, fractions or huge numbers."""
    words = line.rsplit(None, 1)
    match = _COUNT.fullmatch(words[1]) if len(words) == 2 else None
    if match is None:
        return None
    fraction = (match[2] or b"").rstrip(b"0") not in (b"", b".")
    count = round(float(words[1])) if fraction else int(match[1])
    return words[0].strip(), count, fraction


def _table(numbers: _Numbers, index: array[int], lengths: list[int], counts: list[int]) -> StackTable:
    frames: list[Frame] = []
    ids: dict[Frame, int] = {}
    id_of_number = np.empty(len(numbers), np.uint32)
    for number, word in enumerate(numbers):
        frame = _frame(word.decode(errors="surrogateescape"))
        if frame not in ids:
            ids[frame] = len(frames)
            frames.append(frame)
        id_of_number[number] = ids[frame]
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return StackTable(
        frames,
        [""] * len(frames),
        id_of_number[np.frombuffer(index, np.uint32)],
        offsets,
        np.array(counts, np.int64),
    )


def _frame(name: str) -> Frame:
    kind = _KIND.get(name[-4:])
    if kind is not None:
        name = name[:-4]
    if "\\" in name:
        name = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), name)
    return frame_named(name, Kind.NATIVE) if kind is None else Frame(name or "[unnamed]", kind)
