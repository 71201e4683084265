"""What was pushed, as Profiles: one for each event and set of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from profiler.formats.folded import read_folded
from profiler.formats.otlp_dictionary import MAX_DEPTH
from profiler.formats.otlp_foreign import Meaning
from profiler.formats.reading import plain_accounting
from profiler.model import Profile, Sample, StackTable, Window
from symbolizer.types import Binary, Kind, Location
from web.pyroscope.application import MAX_NAME, Origin, checked_labels, origin
from web.pyroscope.pprof import MAX_FRAMES, Row
from web.store.rows import bounded

MAX_SERIES: Final = 1000  # sets of labels in one profile
_MAX_PID: Final = (1 << 32) - 1
_PID_LABELS: Final = ("pid", "process_id")
_THREAD_LABELS: Final = ("thread_name", "thread")
_OWN: Final = (*_PID_LABELS, *_THREAD_LABELS, "process", "container", "cpu_kind")
_UNFIT: Final = re.compile(r"^[^A-Za-z_]|[^A-Za-z0-9_.\-/]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OF_ONE_REQUEST: Final = ("profile_id", "span_id", "trace_id")  # a set of labels each would be a series each
_KIND_OF_SPY: Final = (
    ("pyspy", Kind.PYTHON),
    ("python", Kind.PYTHON),
    ("nodespy", Kind.JIT),
    ("rbspy", Kind.JIT),
    ("phpspy", Kind.JIT),
    ("javaspy", Kind.JIT),
    ("dotnetspy", Kind.JIT),
)


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a push besides its samples. `labels` hold for all of them, `application` is a name's."""

    application: str
    labels: Mapping[str, str]
    peer: str
    window: Window


def kind_of(spy: str) -> Kind:
    """The kind of code that a profiler of this name sees, as far as that is one kind."""
    return next((kind for name, kind in _KIND_OF_SPY if spy.endswith(name)), Kind.NATIVE)


def profiles_of(source: Source, meaning: Meaning, rows: Sequence[Row], place: int) -> list[Profile]:
    """The values at `place` of all rows as profiles, one for each set of labels; values of 0 are no samples.

    Raises ValueError, with a sentence, for labels that cannot be used.
    """
    counts = meaning.counts([row.values[place] for row in rows])
    found: dict[Origin, list[Sample]] = {}
    known: dict[tuple[tuple[str, str], ...], tuple[Origin, Mapping[str, str]]] = {}
    for row, count in zip(rows, counts, strict=True):
        if not count:
            continue
        key = tuple(row.labels.items())
        if key not in known:
            known[key] = _of_sample(source, row.labels)
            if len(known) > 100 * MAX_SERIES:
                raise ValueError(f"the samples have more than {100 * MAX_SERIES:,} sets of labels: send fewer labels")
        of, own = known[key]
        if of not in found and len(found) == MAX_SERIES:
            raise ValueError(f"the samples have more than {MAX_SERIES:,} sets of labels: send fewer labels")
        process = own.get("process") or of.service
        thread = next((own[name] for name in _THREAD_LABELS if own.get(name)), process)
        pid = next((_pid(own[name]) for name in _PID_LABELS if own.get(name)), 0)
        sample = Sample(
            row.stack, pid, process, thread, count, of.service, own.get("container", ""), own.get("cpu_kind", "")
        )
        found.setdefault(of, []).append(sample)
    return [
        Profile(
            of.host,
            meaning.event,
            meaning.hz,
            source.window,
            tuple(samples),
            plain_accounting(samples, sum(sample.count for sample in samples)),
            dict(of.labels),
        )
        for of, samples in found.items()
    ]


def _of_sample(source: Source, labels: Mapping[str, str]) -> tuple[Origin, Mapping[str, str]]:
    """Where a sample comes from, and its labels that have a meaning in a sample.

    Programs choose the labels of samples, so these are made to fit rather than refused.
    """
    fitting = {_UNFIT.sub("_", name)[:MAX_NAME]: bounded(value) for name, value in labels.items() if name}
    every = checked_labels({**source.labels, **{name: _CONTROL.sub(" ", value) for name, value in fitting.items()}})
    own = {name: value for name, value in every.items() if name in _OWN}
    rest = {name: value for name, value in every.items() if name not in _OWN and name not in _OF_ONE_REQUEST}
    return origin(rest, source.application, source.peer), own


def _pid(text: str) -> int:
    return min(int(text), _MAX_PID) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def folded_rows(text: bytes, kind: Kind) -> tuple[list[Row], list[str]]:
    """Rows of folded stacks, and sentences about lines that were left out. Native frames become those of `kind`.

    Raises ValueError, with a sentence, if there is no stack in it.
    """
    # Elsewhere a line that begins with # is a comment; here it is a stack like any other.
    table, problems = read_folded(re.sub(rb"(?m)^#", rb"\\x23", text))
    return table_rows(table, kind), problems


def table_rows(table: StackTable, kind: Kind) -> list[Row]:
    """The stacks of a table as rows of one value. Raises ValueError, with a sentence, for what is too large."""
    if len(table.index) > MAX_FRAMES:
        raise ValueError(f"the stacks have more than {MAX_FRAMES:,} frames: send shorter profiles")
    locations = [
        Location(
            0, Binary(path) if path else None, (replace(frame, kind=kind) if frame.kind is Kind.NATIVE else frame,)
        )
        for frame, path in zip(table.frames, table.binaries, strict=True)
    ]
    index, offsets = table.index.tolist(), table.offsets.tolist()
    rows = []
    for start, end, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True):
        if end - start > MAX_DEPTH:
            raise ValueError(f"a stack has more than {MAX_DEPTH:,} frames")
        rows.append(Row(tuple(locations[i] for i in reversed(index[start:end])), (count,), {}))
    return rows
