"""What files hold, rendered: the pictures, and what profiler/formats writes; one profile, or the difference of two."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from typing import Final

import numpy as np

from profiler.accounting import account_lines
from profiler.event_names import is_cpu, unit_of
from profiler.formats.by_extension import WRITERS, writer_for
from profiler.formats.folded import write_differential
from profiler.formats.json import heading_object
from profiler.formats.read import ASSUMED, profiles_of
from profiler.formats.reading import ReadFile
from profiler.grouping import check_labels
from profiler.model import Accounting, Profile, StackTable, common_rate, merge, stack_table
from web.flamegraph.calltree import build_tree
from web.flamegraph.diff import at_rate, build_diff, diff_to_json, names_only
from web.flamegraph.diff_report import diff_report
from web.flamegraph.diff_svg import write_diff_svg
from web.flamegraph.names import visible
from web.flamegraph.svg import Caption, write_svg

PICTURES: Final = (".svg", ".html")
EXTENSIONS: Final = (*PICTURES, *WRITERS)
UNGROUPED: Final = f"stacks can be grouped in {' and '.join(PICTURES)} only"
DIFFERENCES: Final = (*PICTURES, ".folded", ".json", ".txt")


@dataclass(frozen=True, slots=True)
class Options:
    """How to render: the picture's title, which event of files with several, stacks from the leaf on, and labels of
    samples that they are grouped by."""

    title: str = ""
    event: str = ""
    reverse: bool = False
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """The file to write, and sentences about what is not in it."""

    data: bytes
    problems: tuple[str, ...] = ()


def render(files: Sequence[ReadFile], extension: str, options: Options, *, script_href: str | None = None) -> Rendered:
    """All profiles of one event of these files, merged, in one of EXTENSIONS.

    Raises ValueError, with a sentence, for an event that no file has, for rates that cannot be merged, for labels
    that samples cannot have, and for numbers that the format cannot hold. The script of a picture is at `script_href`
    where that is given.
    """
    tables = [table for file in files for table in file.tables]
    if len(tables) == 2 and len(files) == 1:
        return render_difference(files, files, extension, options, script_href=script_href)
    if len(tables) == len(files) == 1 and extension in PICTURES and not (options.event or options.group_by):
        return Rendered(_picture(tables[0], Caption(options.title), extension, options, script_href))
    profile, problems = merged(files, options.event)
    if extension in PICTURES:
        check_labels(profile, options.group_by)
        table = stack_table(profile, options.group_by)
        described = replace(caption(profile, options.title), per_sample=_per_sample(files, profile))
        return Rendered(_picture(table, described, extension, options, script_href), problems)
    if options.reverse:
        raise ValueError(f"stacks can be turned round in {' and '.join(PICTURES)} only")
    if options.group_by:
        raise ValueError(UNGROUPED)
    return Rendered(writer_for(extension)(profile), problems)


def render_profile(profile: Profile, extension: str, group_by: Sequence[str] = ()) -> bytes:
    """One profile in one of EXTENSIONS; in pictures grouped by labels, whether it has values of them or not."""
    if extension in PICTURES:
        return _picture(stack_table(profile, group_by), caption(profile, ""), extension, Options())
    return writer_for(extension)(profile)


def render_difference(
    before: Sequence[ReadFile],
    after: Sequence[ReadFile],
    extension: str,
    options: Options,
    *,
    absolute: bool = False,
    script_href: str | None = None,
) -> Rendered:
    """What changed from some files to others, in one of DIFFERENCES. Raises ValueError, with a sentence.

    Shares are compared, or counts where `absolute`, brought to one rate. `before` and `after` may be one file of
    stacks with two counts each.
    """
    if extension not in DIFFERENCES:
        raise ValueError(f"a difference can be written as {', '.join(DIFFERENCES)}, not as {extension}")
    if options.group_by:
        raise ValueError("the difference of two profiles cannot be grouped")
    old, new = _sides(before, after, options)
    problems = tuple(dict.fromkeys((*old.problems, *new.problems)))
    tables = _scaled(old, new) if absolute else (old.table, new.table)
    if any(any(table.binaries) for table in tables) != all(any(table.binaries) for table in tables):
        tables = names_only(tables[0]), names_only(tables[1])
        problems += ("One side knows no binaries: functions are compared by their names alone.",)
    if options.reverse:
        tables = _reversed(tables[0]), _reversed(tables[1])
    if extension == ".folded":
        return Rendered(write_differential(*tables), problems)
    if extension == ".txt":
        text = diff_report(*tables, notes=_notes(old, new), unit=unit_of(new.event), absolute=absolute)
        return Rendered(text.encode(errors="backslashreplace"), problems)
    tree = build_diff(*tables)
    if extension == ".json":
        document = {
            "format": "pilotlight-diff",
            "version": 1,
            "before": old.heading,
            "after": new.heading,
            "absolute": absolute,
            **diff_to_json(tree, absolute=absolute),
        }
        return Rendered(json.dumps(document, separators=(",", ":")).encode(), problems)
    how = "counts" if absolute else "shares"
    described = Caption(
        options.title or f"{old.name} → {new.name}",
        f"{new.event}: {how} before and after" if new.event else f"{how} before and after",
        _notes(old, new),
        unit=unit_of(new.event),
        background="cpu" if is_cpu(new.event) or not new.heading else "other",
        accounts=old.accounts + new.accounts,
        rate=" and ".join(dict.fromkeys(f"{side.hz} Hz" for side in (old, new) if side.accounts)),
    )
    svg = write_diff_svg(tree, described, absolute=absolute, script_href=script_href)
    return Rendered(svg if extension == ".svg" else _page(svg, described.title), problems)


def merged(files: Sequence[ReadFile], event: str = "") -> tuple[Profile, tuple[str, ...]]:
    """One profile of all that files hold of an event: that named, else what the first file presents first.

    Says which others there are. Raises ValueError where no file has the event, and for rates without a common one.
    """
    profiles = [profile for file in files for profile in profiles_of(file)]
    events = events_of(files)
    chosen = event or events[0]
    if chosen not in events:
        raise ValueError(f"there is no event {chosen[:100]!r}; there are {', '.join(events)}")
    problems: tuple[str, ...] = ()
    if len(events) > 1 and not event:
        others = ", ".join(other for other in events if other != chosen)
        problems = (f"This is {chosen}; --event chooses another: {others}.",)
    fitting = sorted((p for p in profiles if p.event == chosen), key=lambda p: p.window.start_ns)
    if len(fitting) == 1:
        return fitting[0], problems
    one = merge(fitting)
    hosts = ", ".join(dict.fromkeys(profile.host for profile in fitting if profile.host))
    common = {key: value for key, value in one.labels.items() if all(p.labels.get(key) == value for p in fitting)}
    return replace(one, host=hosts, labels=common), problems


def _per_sample(files: Sequence[ReadFile], one: Profile) -> int:
    """The most that a sample of the files counts for in what merged() made of them."""
    return one.hz // min(p.hz for file in files for p in profiles_of(file) if p.event == one.event)


def events_of(files: Sequence[ReadFile]) -> tuple[str, ...]:
    """The events that files hold, in their order."""
    return tuple(dict.fromkeys(event for file in files for event in _events(file)))


def _events(file: ReadFile) -> list[str]:
    return [profile.event for profile in file.profiles] or [ASSUMED[0]]


def caption(profile: Profile, title: str) -> Caption:
    """What stands around the picture of a profile."""
    counts_time = unit_of(profile.event) == "samples"
    parts = []
    if profile.window.start_ns:
        start = datetime.fromtimestamp(profile.window.start_ns / 1e9).astimezone()
        parts.append(f"{start:%Y-%m-%d %H:%M:%S %z}")
    if profile.window.seconds:
        parts.append(f"{profile.window.seconds:.1f} s")
    if counts_time:
        rate = f"at {profile.hz} Hz"
        parts = [*parts[:-1], f"{parts[-1]} {rate}"] if parts else [rate]
    return Caption(
        title or " · ".join(part for part in (profile.host, profile.event) if part),
        ", ".join(parts),
        account_lines(profile.accounting),
        unit=unit_of(profile.event),
        background="cpu" if is_cpu(profile.event) else "memory" if unit_of(profile.event) == "bytes" else "other",
        seconds_per_sample=1 / profile.hz if counts_time else None,
        accounts=(("", profile.accounting),),
        rate=f"{profile.hz} Hz" if counts_time else "",
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a difference. `heading` is None where a file holds stacks alone."""

    name: str
    table: StackTable
    event: str
    hz: int
    heading: dict[str, object] | None
    notes: tuple[str, ...]
    accounts: tuple[tuple[str, Accounting], ...]
    problems: tuple[str, ...]


def _sides(before: Sequence[ReadFile], after: Sequence[ReadFile], options: Options) -> tuple[_Side, _Side]:
    if before is after:
        tables = [table for file in before for table in file.tables]
        if len(tables) != 2:
            raise ValueError("name two files, or one of stacks that have two counts each")
        return _stacks_alone(tables[0], "before"), _stacks_alone(tables[1], "after")
    old, new = _side(before, "before", options.event), _side(after, "after", options.event)
    if old.event and new.event and old.event != new.event and None not in (old.heading, new.heading):
        raise ValueError(f"{old.event} cannot be compared with {new.event}: choose one event with --event")
    return old, new


def _side(files: Sequence[ReadFile], name: str, event: str) -> _Side:
    tables = [table for file in files for table in file.tables]
    if len(tables) == len(files) == 1:
        return _stacks_alone(tables[0], name)
    profile, problems = merged(files, event)
    called = f"{name}: {profile.host}" if profile.host else name
    notes = tuple(f"{name}: {line}" for line in account_lines(profile.accounting)[:2])
    return _Side(
        called,
        replace(stack_table(profile), per_sample=_per_sample(files, profile)),
        profile.event,
        profile.hz,
        heading_object(profile),
        notes,
        ((name, profile.accounting),),
        problems,
    )


def _stacks_alone(table: StackTable, name: str) -> _Side:
    note = f"{name}: {int(table.counts.sum()):,} samples, of which nothing else is known"
    return _Side(name, table, "", ASSUMED[1], None, (note,), (), ())


def _notes(old: _Side, new: _Side) -> tuple[str, ...]:
    return (*old.notes, *new.notes)


def _scaled(old: _Side, new: _Side) -> tuple[StackTable, StackTable]:
    """Both tables at one rate, so that a count stands for as much time in both."""
    if None in (old.heading, new.heading) or old.hz == new.hz:
        return old.table, new.table
    rate = common_rate((old.hz, new.hz))
    if rate is None:
        raise ValueError(f"counts at {old.hz} Hz and {new.hz} Hz have no common rate: compare shares")
    return (
        at_rate(old.table, rate // old.hz),
        at_rate(new.table, rate // new.hz),
    )


def _picture(
    table: StackTable, described: Caption, extension: str, options: Options, script_href: str | None = None
) -> bytes:
    svg = write_svg(build_tree(_reversed(table) if options.reverse else table), described, script_href=script_href)
    return svg if extension == ".svg" else _page(svg, described.title)


def _reversed(table: StackTable) -> StackTable:
    """Each stack from its leaf on: what is wide at the root then is where time is spent, and above it who called."""
    return replace(
        table,
        index=table.index[::-1],
        offsets=np.asarray(table.offsets[-1] - table.offsets[::-1], np.int64),
        counts=table.counts[::-1],
    )


def _page(svg: bytes, title: str) -> bytes:
    """The picture as a page of HTML that needs nothing else."""
    picture = svg.removeprefix(b'<?xml version="1.0" encoding="UTF-8"?>\n')
    head = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(visible(title))}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{margin:0}</style></head>\n<body>\n'
    )
    return head.encode() + picture + b"</body>\n</html>\n"


def writers(group_by: Sequence[str] = ()) -> dict[str, Callable[[Profile], bytes]]:
    """A writer for each of EXTENSIONS; those of pictures group by labels."""

    def picture(extension: str) -> Callable[[Profile], bytes]:
        return lambda profile: render_profile(profile, extension, group_by)

    return {extension: picture(extension) for extension in PICTURES} | dict(WRITERS)
