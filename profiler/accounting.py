"""Where every tick of a window went, and how people are told."""

from __future__ import annotations

from profiler.model import Accounting, Cost
from profiler.resolve import Resolved
from profiler.sampler import LOST_REASONS, RawWindow


def account(raw: RawWindow, resolved: Resolved, hz: int, cost: Cost) -> Accounting:
    """Where the ticks of a window went.

    The kernel counted ticks, idle, filtered, sampled and lost each for itself. What does not agree is not
    evened out but shown as lost, under "drained short" (a count was not there that should have been) or
    "unaccounted" (a tick was counted and nothing else was).
    """
    counters = raw.counters
    ticks, idle, filtered = (int(counters[name]) for name in ("ticks", "idle", "filtered"))
    lost = {reason: int(n) for reason, n in zip(LOST_REASONS, counters["lost"], strict=True) if n}
    drained = int(raw.counts.sum())
    if drained < counters["sampled"]:
        lost["drained short"] = int(counters["sampled"]) - drained
    if resolved.lost:
        lost["stack missing"] = resolved.lost
    sampled = drained - resolved.lost
    rest = ticks - idle - filtered - sampled - sum(lost.values())
    if rest > 0:
        lost["unaccounted"] = rest
    return Accounting(
        expected=round(raw.cpu_seconds * hz),
        ticks=ticks - min(rest, 0),  # more was drained than ticked: those were ticks, whatever the counter says
        idle=idle,
        filtered=filtered,
        sampled=sampled,
        lost=lost,
        frames_named=resolved.frames.named,
        frames_unknown=resolved.frames.unknown,
        cost=cost,
    )


def account_lines(accounting: Accounting) -> list[str]:
    """The account as lines of text: ticks, frames, cost."""
    return [_ticks_line(accounting), _frames_line(accounting), _cost_line(accounting.cost)]


def _ticks_line(accounting: Accounting) -> str:
    lost = ", ".join(f"{reason} {count:,}" for reason, count in accounting.lost.items())
    return (
        f"ticks: {accounting.ticks:,} = {accounting.idle:,} idle + {accounting.filtered:,} filtered + "
        f"{accounting.sampled:,} sampled + {accounting.lost_total:,} lost{f' ({lost})' if lost else ''}; "
        f"{accounting.missed:,} of {accounting.expected:,} expected were missed"
    )


def _frames_line(accounting: Accounting) -> str:
    unknown = sum(accounting.frames_unknown.values())
    share = accounting.frames_named / max(accounting.frames_named + unknown, 1)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in accounting.frames_unknown.items())
    return f"frames: {share:.1%} named{f'; not named: {reasons}' if reasons else ''}"


def _cost_line(cost: Cost) -> str:
    return (
        f"cost: {cost.bpf_ns / max(cost.bpf_runs, 1):,.0f} ns of BPF a tick, "
        f"{(cost.bpf_ns + cost.agent_cpu_ns) / 1e9:.2f} s of CPU in all, {cost.rss_bytes / 1e6:.0f} MB resident, "
        f"{cost.locked_bytes / 1e6:.0f} MB of kernel memory"
    )
