"""Files whose samples say when they were taken: how long they are, and a part of one."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress

from profiler.formats.reading import ReadFile, plain_accounting
from profiler.model import Profile, Window


def span(file: ReadFile) -> tuple[float, float] | None:
    """When the first and the last sample of a file were taken, in its own seconds; None where it does not say."""
    known = [times for times in file.times if times]
    return (min(map(min, known)), max(map(max, known))) if known else None


def within(file: ReadFile, since: float, until: float) -> ReadFile:
    """What was taken from `since` on and before `until`, in seconds after the file's first sample.

    Profiles without times are left out, and so are those of which nothing is left. Raises ValueError where no sample
    is left, or where the file does not say when its samples were taken.
    """
    whole = span(file)
    if whole is None:
        raise ValueError(f"this {file.format} does not say when its samples were taken: it has no part to choose")
    if not 0 <= since < until:
        raise ValueError("the range must begin at 0 s or later, and end after its beginning")
    kept = []
    for profile, times in zip(file.profiles, file.times, strict=True):
        chosen = [since <= time - whole[0] < until for time in times]
        if any(chosen):
            kept.append((_part(profile, chosen, since, until), tuple(compress(times, chosen))))
    if not kept:
        raise ValueError(f"no sample was taken from {since:g} to {until:g} s; the last is of {whole[1] - whole[0]:g} s")
    return replace(file, profiles=tuple(profile for profile, _ in kept), times=tuple(times for _, times in kept))


def _part(profile: Profile, chosen: list[bool], since: float, until: float) -> Profile:
    samples = tuple(compress(profile.samples, chosen))
    window = Window(0, round(max(min(until, profile.window.seconds) - since, 0) * 1e9))
    return replace(
        profile,
        samples=samples,
        window=window,
        accounting=plain_accounting(samples, sum(sample.count for sample in samples)),
    )
