"""Where every tick of a window went, and how people are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from profiler.model import Accounting, Cost, Unwinding

_NO_COST, _NO_UNWINDING = Cost(), Unwinding()


@dataclass(frozen=True, slots=True)
class TickCounts:
    """What the kernel counted in one window, each number for itself. `run_ns` is the time its program took."""

    ticks: int = 0
    idle: int = 0
    filtered: int = 0
    sampled: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    run_ns: int = 0


def account(
    counted: TickCounts,
    *,
    expected: int,
    drained: int,
    without_stack: int = 0,
    frames_named: int = 0,
    frames_unknown: Mapping[str, int] | None = None,
    cost: Cost = _NO_COST,
    unwinding: Unwinding = _NO_UNWINDING,
) -> Accounting:
    """The account of a window of which samples for `drained` ticks came out of the kernel.

    Of these, `without_stack` came without the stack they name. What does not agree is not evened out but shown
    as lost: "drained short" (fewer came than the kernel says it sampled), "unaccounted" (a tick was counted,
    and nothing else was).
    """
    lost = dict(counted.lost)
    if drained < counted.sampled:
        lost["drained short"] = counted.sampled - drained
    if without_stack:
        lost["stack missing"] = without_stack
    sampled = drained - without_stack
    rest = counted.ticks - counted.idle - counted.filtered - sampled - sum(lost.values())
    if rest > 0:
        lost["unaccounted"] = rest
    return Accounting(
        expected=expected,
        ticks=counted.ticks - min(rest, 0),  # more came than ticked: those were ticks, whatever the counter says
        idle=counted.idle,
        filtered=counted.filtered,
        sampled=sampled,
        lost=lost,
        frames_named=frames_named,
        frames_unknown=frames_unknown or {},
        cost=cost,
        unwinding=unwinding,
    )


def account_lines(accounting: Accounting) -> tuple[str, ...]:
    """The account as lines of text: ticks, frames, and cost where it is known."""
    lines = [_ticks_line(accounting), _frames_line(accounting)]
    stacks = _stacks_line(accounting.unwinding)
    if stacks:
        lines.append(stacks)
    if accounting.cost.bpf_runs:
        lines.append(_cost_line(accounting.cost))
    return tuple(lines)


def _ticks_line(accounting: Accounting) -> str:
    line = (
        f"ticks: {accounting.ticks:,} = {accounting.idle:,} idle + {accounting.filtered:,} filtered + "
        f"{accounting.sampled:,} shown + {accounting.lost_total:,} lost{_by_reason(accounting.lost, ' ({})')}"
    )
    if accounting.expected:
        line += f"; {accounting.missed:,} of {accounting.expected:,} expected were missed"
    return line


def _frames_line(accounting: Accounting) -> str:
    frames = accounting.frames_named + sum(accounting.frames_unknown.values())
    share = accounting.frames_named / frames if frames else 1.0
    return f"frames: {frames:,}, {share:.1%} named{_by_reason(accounting.frames_unknown, '; without a name: {}')}"


def _stacks_line(unwinding: Unwinding) -> str:
    """How many user stacks are whole; "" where none was looked into."""
    cut = sum(unwinding.cut.values())
    if not unwinding.whole and not cut:
        return ""
    share = unwinding.whole / (unwinding.whole + cut)
    return f"user stacks: {share:.1%} whole{_by_reason(unwinding.cut, '; cut short: {}')}"


def unwinding_lines(unwinding: Unwinding, most: int = 5) -> list[str]:
    """The binaries in which most stacks ended before their root, each with why and how often."""
    ended = {path: sum(passage.ended.values()) for path, passage in unwinding.binaries.items()}
    worst = sorted((path for path in ended if ended[path]), key=lambda path: -ended[path])
    return [
        f"  {path}: {_by_reason(unwinding.binaries[path].ended, '{}')}"
        f" ({unwinding.binaries[path].by_table:,} frames by table, "
        f"{unwinding.binaries[path].by_frame_pointer:,} by frame pointer)"
        for path in worst[:most]
    ]


def _cost_line(cost: Cost) -> str:
    return (
        f"cost: {cost.bpf_ns / cost.bpf_runs:,.0f} ns of BPF a tick, "
        f"{(cost.bpf_ns + cost.agent_cpu_ns) / 1e9:.2f} s of CPU in all, {cost.rss_bytes / 1e6:.0f} MB resident, "
        f"{cost.locked_bytes / 1e6:.0f} MB of kernel memory"
    )


def _by_reason(counts: Mapping[str, int], form: str) -> str:
    listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return form.format(listed) if listed else ""
