"""What OTLP profiles mean that say nothing of pilotlight: their events, counts, names and labels.

opentelemetry-ebpf-profiler, for one, sends a resource for each process or container, the sample
types samples/count (period in cpu/nanoseconds) and off_cpu/nanoseconds (formerly events/nanoseconds),
a timestamp for each sample and no value, and native frames as addresses without names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from symbolizer.types import Binary, Frame, Kind, Reason
from symbolizer.unknown import file_name, unknown

Value = str | int | float | bool

ASSUMED_HZ: Final = 100
_NANOSECONDS: Final = {
    "nanoseconds": 1,
    "ns": 1,
    "microseconds": 1_000,
    "us": 1_000,
    "milliseconds": 1_000_000,
    "ms": 1_000_000,
    "seconds": 1_000_000_000,
    "s": 1_000_000_000,
}
_TIME_HZ: Final = 1_000_000  # times are counted in microseconds
_ON_CPU: Final = frozenset({"samples", "sample", "cpu", "on_cpu"})
_OFF_CPU: Final = frozenset({"off_cpu", "offcpu", "events"})
_KIND_OF_TYPE: Final = {
    "": Kind.NATIVE,
    "kernel": Kind.KERNEL,
    "native": Kind.NATIVE,
    "go": Kind.NATIVE,
    "rust": Kind.NATIVE,
    "cpython": Kind.PYTHON,
}
_MEANT: Final = frozenset({"host.name", "service.name", "container.id", "host.cpu.model.name"})
_LABEL: Final = "pilotlight.label."
_NO_LABELS: Final = ("pilotlight.", "process.", "thread.", "telemetry.")


class Unusable(Exception):
    """A profile that is not about time on or off the CPU; the text is a sentence that says so."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A sample's value times `numerator` / `denominator` is its count of 1/`hz` seconds each.

    A sample with timestamps and no values is worth `per_timestamp` for each of them. `assumed` is a
    sentence about what the profile does not say, or "".
    """

    event: str
    hz: int
    numerator: int = 1
    denominator: int = 1
    per_timestamp: int = 1
    assumed: str = ""

    def counts(self, values: Sequence[int]) -> list[int]:
        """Values as counts; what rounding takes from one it gives to the next, so totals agree."""
        if self.numerator == self.denominator:
            return list(values)
        counts = []
        total = counted = 0
        for value in values:
            total += value
            count = (total * self.numerator + self.denominator // 2) // self.denominator - counted
            counted += count
            counts.append(count)
        return counts


def meaning(sample_type: tuple[str, str], period_type: tuple[str, str], period: int) -> Meaning:
    """What values of a sample type (name, unit) stand for, given the period between two samples.

    Raises Unusable for values that are neither time nor samples of it.
    """
    name, unit = sample_type
    nanoseconds = _NANOSECONDS.get(unit)
    period_ns = max(period, 0) * _NANOSECONDS.get(period_type[1], 0)
    if name in _ON_CPU and unit == "count":
        event = "cycles" if "cycles" in period_type else "cpu-clock"
        if not period_ns:
            return Meaning(
                event,
                ASSUMED_HZ,
                assumed=f"A profile of {name}/{unit} gives no period of time: {ASSUMED_HZ} Hz assumed.",
            )
        if period_ns <= 1_000_000_000:
            return Meaning(event, round(1e9 / period_ns))
        return Meaning(event, _TIME_HZ, period_ns, 1000)
    if name and nanoseconds:
        if name in _ON_CPU and 0 < period_ns <= 1_000_000_000:
            per_timestamp = max(period_ns // nanoseconds, 1)
            return Meaning("cpu-clock", round(1e9 / period_ns), nanoseconds, period_ns, per_timestamp)
        event = "cpu-clock" if name in _ON_CPU else "off-cpu" if name in _OFF_CPU else name.replace("_", "-")
        return Meaning(event, _TIME_HZ, nanoseconds, 1000)
    raise Unusable(f"A profile of {name or '?'}/{unit or '?'} was left out: only samples/count and times can be kept.")


def has_meaning(key: str) -> bool:
    """Whether a resource attribute of this name is something else than a label."""
    return not key or key in _MEANT or key.startswith(_NO_LABELS)


def labels(resource: Mapping[str, Value]) -> tuple[tuple[str, str], ...]:
    """A resource's labels, sorted."""
    found = {}
    for key, value in resource.items():
        if key.startswith(_LABEL):
            found[key.removeprefix(_LABEL)] = text(value)
        elif not has_meaning(key):
            found[key] = text(value)
    return tuple(sorted(found.items()))


def text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def process_name(attributes: Mapping[str, Value]) -> str:
    """The best name there is for the process of a sample."""
    name = attributes.get("process.executable.name")
    if name is None and "process.executable.path" in attributes:
        name = text(attributes["process.executable.path"]).rpartition("/")[2]
    for key in ("process.command", "service.name", "thread.name"):
        if name is None:
            name = attributes.get(key)
    return "unknown" if name is None else text(name)


def kind(frame_type: str, function: str, *, inlined: bool) -> Kind:
    """The kind that a frame of a location with this profile.frame.type has if nothing else is said.

    Managed languages other than Python count as JIT code.
    """
    if not function:
        return Kind.UNKNOWN
    if inlined:
        return Kind.INLINED
    return _KIND_OF_TYPE.get(frame_type, Kind.JIT)


def unnamed(binary: Binary | None) -> Frame:
    """The frame of an address whose sender gave no name for it."""
    if binary is None or not binary.path:
        return unknown(Reason.NO_MAPPING)
    return unknown(Reason.NO_SYMBOLS, file_name(binary.path))
