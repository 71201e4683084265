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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

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
_PART: Final = 1 << 22  # bytes read at a time, so that the arrays made of them stay small
_BLOCK: Final = 64  # bytes of a line compared at a time
_LONG: Final = 512  # bytes; longer words are rare, and are not compared as arrays
_SLOT_BITS: Final = 16
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_MASKS: Final = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # the first n of eight bytes


def write_folded(profile: Profile) -> bytes:
    """The profile's stacks as sorted lines in UTF-8, equal ones merged; empty if there are no samples."""
    table = stack_table(profile)
    names = [_name(frame) for frame in table.frames]
    index = [names[i] for i in table.index.tolist()]
    offsets = table.offsets.tolist()
    totals: dict[str, int] = {}
    for start, end, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True):
        stack = ";".join(index[start:end]) or "[no stack]"
        totals[stack] = totals.get(stack, 0) + count
    return "".join(f"{stack} {count}\n" for stack, count in sorted(totals.items())).encode()


def write_differential(before: StackTable, after: StackTable) -> bytes:
    """The stacks of both, sorted, each with its count before and after: what difffolded.pl writes and flamegraph.pl
    draws as a differential flame graph."""
    totals: dict[str, list[int]] = {}
    for side, table in enumerate((before, after)):
        names = [_name(frame) for frame in table.frames]
        index = [names[i] for i in table.index.tolist()]
        offsets = table.offsets.tolist()
        for start, end, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True):
            stack = ";".join(index[start:end]) or "[no stack]"
            totals.setdefault(stack, [0, 0])[side] += count
    return "".join(f"{stack} {old} {new}\n" for stack, (old, new) in sorted(totals.items())).encode()


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


@dataclass(frozen=True, slots=True)
class _Lines:
    """The stacks of a few megabytes of text, each as what it does not share with the one before it.

    Stack i is `depth[i]` words, the first `shared[i]` of them those of stack i - 1; the others, of all
    stacks in turn, are `words`, as numbers of a _Numbers. `malformed` are places in the text of lines that
    are no stacks, `fractions` says how many counts were no whole numbers.
    """

    depth: NDArray[np.int64]
    shared: NDArray[np.int64]
    counts: NDArray[np.int64]
    words: NDArray[np.uint32]
    malformed: list[int]
    fractions: int


def read_folded(data: bytes) -> tuple[StackTable, list[str]]:
    """Reads folded stacks; returns them with one sentence for each kind of problem found.

    Lines that are not stacks are left out and counted, blank ones and `#` comments silently so.
    Suffixes become kinds, names in [brackets] unknown frames, all others native ones; fractions of
    counts are rounded. Raises ValueError if there is not a single stack in lines that are not blank.

    Folded text is mostly sorted, so that a line begins as the one before it does. What two neighbours
    share is found by comparing bytes, many lines at once; only the words after that are looked at one by
    one, and of these, only one of each spelling becomes a Python object.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    numbers = _Numbers()
    parts: list[_Lines] = []
    malformed: list[int] = []
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + _PART) + 1 or data.find(b"\n", at + _PART) + 1 or len(data)
        parts.append(_read_lines(memoryview(data)[at:end], numbers))
        malformed.extend(at + place for place in parts[-1].malformed)
        at = end
    counts = np.concatenate([np.empty(0, np.int64), *(part.counts for part in parts)])
    problems = []
    if malformed:
        number = 1 + data.count(b"\n", 0, malformed[0])
        where = f"line {number}" + (f" and {len(malformed) - 1:,} more" if malformed[1:] else "")
        if not len(counts):
            raise ValueError(f"no folded stacks found: {where} should read name;name;name COUNT")
        problems.append(f"{where} left out: not a stack and a whole number")
    if fractions := sum(part.fractions for part in parts):
        problems.append(f"{fractions:,} counts had fractions and were rounded")
    if sum(int((part.counts >> 32).sum()) for part in parts) >= 1 << 30:  # near enough to count exactly
        total = sum(counts.tolist())
        if total > _MAX_COUNT:
            raise ValueError(f"the counts add up to {total}, more than 64 bits hold")
    frames, frame_of_word = _frames(numbers)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.concatenate([np.empty(0, np.int64), *(part.depth for part in parts)]), out=offsets[1:])
    index = np.empty(int(offsets[-1]), np.uint32)
    first = 0
    for part in parts:
        stop = first + int(part.depth.sum())
        _unfold(part, frame_of_word[part.words], index[first:stop])
        first = stop
    return StackTable(frames, [""] * len(frames), index, offsets, counts), problems


def read_differential(data: bytes) -> tuple[tuple[StackTable, StackTable], list[str]]:
    """Reads stacks that end in two counts, before and after, as difffolded.pl writes them. Otherwise as read_folded."""
    lines: tuple[list[bytes], list[bytes]] = [], []
    malformed = 0
    for number, line in enumerate(data.replace(b"\r\n", b"\n").split(b"\n"), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        words = line.rsplit(None, 2)
        if len(words) < 3 or not all(_COUNT.fullmatch(word) for word in words[1:]):
            malformed = malformed or number
            continue
        for side, word in zip(lines, words[1:], strict=True):
            side.append(words[0] + b" " + word)
    if malformed:
        raise ValueError(f"line {malformed} should read name;name;name BEFORE AFTER, as the lines before it do")
    tables, problems = [], dict[str, None]()
    for side in lines:
        table, found = read_folded(b"\n".join(side))
        tables.append(table)
        problems.update(dict.fromkeys(found))
    return (tables[0], tables[1]), list(problems)


def _read_lines(data: memoryview, numbers: _Numbers) -> _Lines:
    text = np.frombuffer(b"".join((data, b"\n", bytes(_BLOCK))), np.uint8)  # so that every block read ends in it
    # Words end where the next `;` or line end is, but for the last of a stack.
    marks = np.flatnonzero((text == ord(";")) | (text == ord("\n")))
    newlines = np.flatnonzero(text[marks] == ord("\n"))
    if data[-1:].tobytes() == b"\n":
        newlines = newlines[:-1]
    ends = marks[newlines]
    starts = np.zeros(len(ends), np.int64)
    starts[1:] = ends[:-1] + 1
    first_mark = np.zeros(len(ends), np.int64)
    first_mark[1:] = newlines[:-1] + 1

    stops, counts = _counts(text, starts, ends)
    malformed: list[int] = []
    fractions = 0
    for i in np.flatnonzero(stops == 0).tolist():
        line = bytes(data[starts[i] : ends[i]])
        parsed = _unusual(line)
        if parsed is not None:
            stack, counts[i], is_fraction = parsed
            fractions += is_fraction
            starts[i] += line.index(stack)
            stops[i] = starts[i] + len(stack)
        elif line.strip() and not line.startswith(b"#"):
            malformed.append(int(starts[i]))
    if not stops.all():
        good = stops > 0
        starts, stops, counts, first_mark, newlines = (
            array[good] for array in (starts, stops, counts, first_mark, newlines)
        )

    depth = newlines - first_mark + 1
    shared = _shared_words(text, starts, stops, marks, first_mark)
    new = depth - shared
    last = np.cumsum(new)
    first = last - new
    # The mark before each new word; before the first words of a line that is the end of the line before.
    mark = np.repeat(first_mark + shared - 1 - first, new) + np.arange(int(new.sum()))
    word_start = marks[mark] + 1
    word_stop = marks[mark + 1]
    some = new > 0
    word_stop[last[some] - 1] = stops[some]
    whole = some & (shared == 0)
    word_start[first[whole]] = starts[whole]
    words = _number_words(text, word_start, word_stop - word_start, numbers)
    return _Lines(depth, shared, counts, words, malformed, fractions)


def _counts(
    text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the stacks end, and their counts, in lines that end in a space and up to 18 digits; else 0."""
    stops = np.zeros(len(ends), np.int64)
    counts = np.zeros(len(ends), np.int64)
    line = np.arange(len(ends))
    for digits in range(19):
        place = ends[line] - 1 - digits
        character = text[place]  # of an empty line, and of a number alone, what is before the line
        if digits:
            done = (character == ord(" ")) & (place > starts[line])
            stops[line[done]] = place[done]
        more = (character >= ord("0")) & (character <= ord("9")) & (place > starts[line])
        line, character = line[more], character[more]
        if digits < 18:
            counts[line] += (character.astype(np.int64) - ord("0")) * 10**digits
    counts[stops == 0] = 0
    return stops, counts


def _shared_words(
    text: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    marks: NDArray[np.int64],
    first_mark: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many words stacks begin with that the ones before them begin with as well."""
    shared = np.zeros(len(starts), np.int64)
    if len(starts) < 2:
        return shared
    blocks = sliding_window_view(text, _BLOCK)
    room = np.minimum(stops[1:] - starts[1:], stops[:-1] - starts[:-1])
    alike = room.copy()  # bytes
    pair = np.arange(len(room))
    for done in range(0, int(room.max(initial=0)), _BLOCK):
        differs = blocks[starts[pair] + done] != blocks[starts[pair + 1] + done]
        where = differs.argmax(axis=1)
        different = differs[np.arange(len(pair)), where]
        alike[pair[different]] = np.minimum(room[pair[different]], where[different] + done)
        pair = pair[~different]
        pair = pair[room[pair] > done + _BLOCK]
    # A word is shared when all its bytes are, and it ends in both stacks.
    here, before = starts[1:] + alike, starts[:-1] + alike
    complete = ((here == stops[1:]) | (text[here] == ord(";"))) & ((before == stops[:-1]) | (text[before] == ord(";")))
    shared[1:] = np.searchsorted(marks, here) - first_mark[1:] + complete
    return shared


def _number_words(
    text: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], numbers: _Numbers
) -> NDArray[np.uint32]:
    """The words' numbers. Words are told apart by a hash first, and by comparing every byte in the end."""
    chunks = list(_chunks(text, start, length))
    hashes = length.astype(np.uint64) * _ODD
    for words, eight in chunks:
        mixed = (hashes[words] ^ eight) * _ODD
        hashes[words] = mixed ^ (mixed >> np.uint64(29))
    hashes *= _ODD
    # A table as small as this stays in the cache. Of words that fall in one slot the first stays there.
    slot = (hashes >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
    table = np.zeros(1 << _SLOT_BITS, np.int64)
    table[slot[::-1]] = np.arange(len(start))[::-1]
    like = table[slot]  # the first of the words spelled alike, presumably
    other = np.flatnonzero(hashes[like] != hashes)
    _, first, which = np.unique(hashes[other], return_index=True, return_inverse=True)
    like[other] = other[first][which]

    found = np.flatnonzero(like == np.arange(len(start)))
    number = np.zeros(len(start), np.uint32)
    spelled = [
        text[a:b].tobytes() for a, b in zip(start[found].tolist(), (start + length)[found].tolist(), strict=True)
    ]
    number[found] = [numbers[word] for word in spelled]
    number = number[like]
    for i in _misspelled(chunks, length, like).tolist():
        number[i] = numbers[text[start[i] : start[i] + length[i]].tobytes()]
    return number


def _chunks(
    text: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.intp] | slice, NDArray[np.uint64]]]:
    """The first eight bytes of each word, as numbers, then the next eight of those that have more, up to _LONG."""
    numbers = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))
    words: NDArray[np.intp] | slice = slice(None)
    for done in range(0, min(int(length.max(initial=0)), _LONG), 8):
        if done:
            words = np.flatnonzero(length > done)
        yield words, numbers[start[words] + done] & _MASKS[np.minimum(length[words] - done, 8)]


def _misspelled(
    chunks: list[tuple[NDArray[np.intp] | slice, NDArray[np.uint64]]],
    length: NDArray[np.int64],
    like: NDArray[np.intp],
) -> NDArray[np.intp]:
    """The words that are not spelled as the words `like` them, and those that are too long to tell."""
    wrong = length != length[like]
    place = np.zeros(len(like), np.intp)
    for words, eight in chunks:
        place[words] = np.arange(len(eight))
        wrong[words] |= eight != eight[place[like[words]]]  # where lengths are alike, theirs has a place as well
    return np.flatnonzero(wrong | (length > _LONG))


def _unusual(line: bytes) -> tuple[bytes, int, bool] | None:
    """A stack, its count, and whether that was a fraction, of a line with tabs, fractions or spaces at its end."""
    stack, _, digits = line.rstrip().rpartition(b" ")
    if stack and digits.isdigit() and len(digits) < 19:
        return stack, int(digits), False
    words = line.rsplit(None, 1)
    match = _COUNT.fullmatch(words[1]) if len(words) == 2 else None
    if match is None:
        return None
    fraction = (match[2] or b"").rstrip(b"0") not in (b"", b".")
    count = round(float(words[1])) if fraction else int(match[1])
    return words[0].strip(), count, fraction


def _unfold(lines: _Lines, words: NDArray[np.uint32], index: NDArray[np.uint32]) -> None:
    """Writes all the stacks to `index`, what they share spelled out; `words` stands for that of `lines`."""
    depth, shared = lines.depth, lines.shared
    first = np.cumsum(depth) - depth
    first_new = np.cumsum(depth - shared) - depth  # where in `words` a stack would begin if it shared none
    levels = int(depth.max(initial=0))
    if levels > len(depth):
        for i, (at, new, deep, alike) in enumerate(zip(first, first_new, depth, shared, strict=True)):
            index[at : at + alike] = index[first[i - 1] : first[i - 1] + alike]
            index[at + alike : at + deep] = words[new + alike : new + deep]
        return
    for level in range(levels):
        # A stack that is not this deep shares no word at this level with the next, which has a new one.
        deeper = depth > level
        if not deeper.all():
            depth, shared, first, first_new = depth[deeper], shared[deeper], first[deeper], first_new[deeper]
        is_new = shared <= level
        index[first + level] = words[first_new[is_new] + level][np.cumsum(is_new) - 1]


def _frames(numbers: _Numbers) -> tuple[list[Frame], NDArray[np.uint32]]:
    """The frames that words spell, all distinct, and which of them each word spells."""
    frames: list[Frame] = []
    ids: dict[Frame, int] = {}
    frame_of_word = np.empty(len(numbers), np.uint32)
    for number, word in enumerate(numbers):
        frame = _frame(word.decode(errors="surrogateescape"))
        if frame not in ids:
            ids[frame] = len(frames)
            frames.append(frame)
        frame_of_word[number] = ids[frame]
    return frames, frame_of_word


def _frame(name: str) -> Frame:
    kind = _KIND.get(name[-4:])
    if kind is not None:
        name = name[:-4]
    if "\\" in name:
        name = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), name)
    return frame_named(name, Kind.NATIVE) if kind is None else Frame(name or "[unnamed]", kind)
