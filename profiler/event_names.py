"""What is counted, told from the name of a profile's event.

Time on the CPU and samples of it have the names of perf's events. Other times, as "off-cpu" and "delay", are named by
what passed. What is no time at all has its unit in the name: "alloc_space:bytes", "contentions:count".
"""

from __future__ import annotations

from typing import Final

UNITS: Final = ("count", "bytes")
_CPU: Final = ("cpu", "cycles", "task-clock", "instructions")


def event_of(name: str, unit: str) -> str:
    """The event for values of a type that is neither time nor samples of it."""
    if unit not in UNITS:
        name, unit = f"{name}_{unit}".strip("_"), "count"
    return f"{name or 'value'}:{unit}"


def type_and_unit(event: str) -> tuple[str, str] | None:
    """What event_of was given; None for events that are time or samples of it."""
    name, _, unit = event.rpartition(":")
    return (name, unit) if name and unit in UNITS else None


def unit_of(event: str) -> str:
    """What is counted, in the plural: "samples", "bytes", or, of other things, what the event calls them."""
    found = type_and_unit(event)
    if found is None:
        return "samples"
    name, unit = found
    return unit if unit != "count" else name


def time_name(event: str) -> str:
    """The name of a sample type for what passed, as pprof and OTLP write such names."""
    return "cpu" if is_cpu(event) else event.replace("-", "_") or "time"


def is_cpu(event: str) -> bool:
    """Whether counts are of time on the CPU, or of what it did in it."""
    return event.startswith(_CPU) and type_and_unit(event) is None
