"""Pyroscope's profile types, NAME:TYPE:UNIT:PERIOD TYPE:PERIOD UNIT, and the events that they are in the store.

Time on the CPU is the event cpu-clock, whoever measured it; other times are events of their own, such as wall. What
is no time is an event "TYPE:UNIT", such as "alloc_space:bytes", whose counts are the values themselves (its hz is 1);
see profiler/event_names.py. Where a type occurs under a name that is not its usual one, the event says so:
"block/contentions:count".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Final

from profiler.event_names import event_of, type_and_unit
from profiler.formats.otlp_foreign import ASSUMED_HZ, Meaning
from profiler.model import MAX_HZ
from web.store.store import BadQuery

CPU_EVENT: Final = "cpu-clock"
CPU_NAME: Final = "process_cpu"
# Of times that are no whole number of periods. A multiple of 99 and 100, the common rates, so that windows at
# those can be merged with such times.
TIME_HZ: Final = 990_000
_COMMON_HZ: Final = 9_900
_SECOND: Final = 1_000_000_000
_NANOSECONDS: Final = {
    "nanoseconds": 1,
    "ns": 1,
    "microseconds": 1_000,
    "us": 1_000,
    "milliseconds": 1_000_000,
    "ms": 1_000_000,
    "seconds": _SECOND,
    "s": _SECOND,
}
_TIMES: Final = {"cpu": CPU_EVENT, "on_cpu": CPU_EVENT, "wall": "wall", "off_cpu": "off-cpu", "offcpu": "off-cpu"}
_TIME_NAMES: Final = {event: name for name, event in _TIMES.items() if name not in ("on_cpu", "offcpu")}
_COUNTED: Final = ("samples", "sample")
_USUAL_NAMES: Final = {
    **{f"{kind}_{what}": "memory" for kind in ("alloc", "inuse") for what in ("objects", "space")},
    **{f"alloc_{where}_tlab_{what}": "memory" for where in ("in_new", "outside") for what in ("objects", "bytes")},
    "objects": "memory",
    "space": "memory",
    "live": "memory",
    "goroutine": "goroutine",
    "goroutines": "goroutine",
    "contentions": "mutex",
    "delay": "mutex",
}
_PERIODS: Final = {
    "memory": ("space", "bytes"),
    "mutex": ("contentions", "count"),
    "block": ("contentions", "count"),
    "goroutine": ("goroutine", "count"),
}
_MAX_TEXT: Final = 512


@dataclass(frozen=True, slots=True)
class ProfileType:
    name: str
    sample_type: str
    sample_unit: str
    period_type: str
    period_unit: str

    @property
    def id(self) -> str:
        return ":".join((self.name, self.sample_type, self.sample_unit, self.period_type, self.period_unit))

    @property
    def is_time(self) -> bool:
        """Whether its values are nanoseconds, which the store has as counts of 1/hz seconds."""
        return self.sample_unit == "nanoseconds"


def profile_type(event: str) -> ProfileType:
    """What an event of the store is called here."""
    family, _, rest = event.rpartition("/")
    found = type_and_unit(rest)
    if found is None and rest not in _USUAL_NAMES:
        kind = _TIME_NAMES.get(event, event.replace("-", "_"))
        return ProfileType(CPU_NAME if event == CPU_EVENT else kind, kind, "nanoseconds", kind, "nanoseconds")
    kind, unit = found or (rest, "nanoseconds")
    name = family or _USUAL_NAMES.get(kind, kind)
    return ProfileType(name, kind, unit, *_PERIODS.get(name, (kind, unit)))


def parse_profile_type(text: str) -> str:
    """`text` if it has the form of a profile type's id. Raises BadQuery."""
    if len(text) > _MAX_TEXT or len(text.split(":")) != 5 or not text.isprintable():
        shown = repr(text if len(text) <= 60 else text[:60] + "…")
        raise BadQuery(
            f"{shown} is no profile type: write NAME:TYPE:UNIT:PERIOD TYPE:PERIOD UNIT, such as"
            f" {profile_type(CPU_EVENT).id}"
        )
    return text


def value(name: str, kind: str, unit: str) -> Meaning:
    """What values are that are no time on or off the CPU, such as ("memory", "alloc_space", "bytes")."""
    usual = name in ("", _USUAL_NAMES.get(kind, kind), CPU_NAME)
    family = "" if usual else f"{name}/"
    if unit in _NANOSECONDS:
        return _time(family + kind, _NANOSECONDS[unit], 0)
    return Meaning(family + event_of(kind, unit), 1)


def meanings(
    name: str, types: Sequence[tuple[str, str]], period_type: tuple[str, str], period: int, hz: int | None
) -> list[Meaning | None]:
    """What the values of each sample type (type, unit) of a profile are. `name` is that of the profile, or "".

    None for samples that are told as times too, which would count them twice. `hz` is the rate that the sender gave
    besides, or None.
    """
    period_ns = max(period, 0) * _NANOSECONDS.get(period_type[1], 0)
    has_times = any(kind in _TIMES and unit in _NANOSECONDS for kind, unit in types)
    found: list[Meaning | None] = []
    for kind, unit in types:
        if kind in _TIMES and unit in _NANOSECONDS:
            found.append(_time(_TIMES[kind], _NANOSECONDS[unit], period_ns if period_type[0] == kind else 0))
        elif kind in _COUNTED and unit == "count" and name in ("", CPU_NAME, "wall"):
            event = _TIMES.get(period_type[0], "wall" if name == "wall" else CPU_EVENT)
            found.append(None if has_times else _samples(event, period_ns, hz))
        else:
            found.append(value(name, kind, unit))
    return found


def _time(event: str, nanoseconds: int, period_ns: int) -> Meaning:
    """Values of so many nanoseconds each, which are multiples of the period where that is not 0."""
    if hz := _rate(period_ns):
        return Meaning(event, hz, nanoseconds, period_ns)
    return Meaning(event, TIME_HZ, nanoseconds * TIME_HZ, _SECOND)


def _samples(event: str, period_ns: int, hz: int | None) -> Meaning:
    if rate := _rate(period_ns):
        return Meaning(event, rate)
    if period_ns:
        return Meaning(event, TIME_HZ, period_ns * TIME_HZ, _SECOND)
    return Meaning(event, hz or ASSUMED_HZ)


def _rate(period_ns: int) -> int:
    """The rate of a period, if it is a whole one that the usual rates have a common one with; else 0."""
    if not period_ns or _SECOND % period_ns:
        return 0
    hz = _SECOND // period_ns
    return hz if lcm(hz, _COMMON_HZ) <= MAX_HZ else 0
