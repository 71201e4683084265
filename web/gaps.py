"""Which hosts of a selection have no windows for a part of its range, for pages and pictures alike."""

from __future__ import annotations

from typing import Final

from web import urls
from web.parts import Gap, Gaps
from web.store.coverage import Coverage
from web.store.queries import Queries
from web.store.selection import Selection

_WINDOW_S: Final = 10
_ARRIVES_S: Final = 25  # a window arrives some seconds after it has ended, and has ten
_NO_GAP_S: Final = 15
_MOST_NAMED: Final = 10  # hosts that a line of text names


def gaps_of(queries: Queries, selection: Selection, query: urls.Query, now: float) -> Gaps:
    """The hosts of a resolved selection, which the address `query` asks for, that have gaps; the largest gap first."""
    until = min(selection.until, now - _ARRIVES_S)
    whole = until - selection.since
    hosts = queries.coverage(selection)
    found = []
    for host in hosts:
        missing = whole - host.seconds
        if _is_gap(host, missing):
            page = urls.flamegraph((*(pair for pair in query if pair[0] != "host"), ("host", host.host)))
            found.append(Gap(host.host, missing, missing / whole, host.first, host.last, host.nothing, page))
    return Gaps(found, len(hosts), _title(len(found), len(hosts)))


def _is_gap(host: Coverage, missing: float) -> bool:
    """A window may lie across the range's ends, but in as much time as it has, one begins."""
    return missing >= _WINDOW_S if host.nothing else missing > _NO_GAP_S


def _title(gaps: int, hosts: int) -> str:
    return f"{gaps:,} of {hosts:,} {'host' if hosts == 1 else 'hosts'} with gaps" if gaps else "no gaps"


def gaps_line(gaps: Gaps) -> str:
    """The hosts with gaps in a line of a picture's account; "" for none."""
    if not gaps.found:
        return ""
    worst = [_words(gap) for gap in gaps.found[:_MOST_NAMED]]
    if len(gaps.found) > len(worst):
        worst.append(f"{len(gaps.found) - len(worst):,} more")
    return f"gaps: nothing came from {', '.join(worst)}"


def _words(gap: Gap) -> str:
    return f"{gap.host} {gap.seconds:,.0f} s ({gap.share:.0%}{gap.nothing and f', {gap.nothing}'})"
