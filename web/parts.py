"""What pages are made of: rows, charts, menus and the like, which contexts.py puts together."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.model import Accounting, Profile
from web.store.captures import Capture


@dataclass(frozen=True, slots=True)
class Chart:
    """Values over time as two SVG paths: the line, and the area below it. Both "" where there is none."""

    line: str
    area: str


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host and event. Figures are averages and sums over the page's range; see queries.Queries.hosts.

    `hz` is the rate of sampling now, `rates` are those of the range. `busy` and `cpus` count CPUs (`cpus` None
    where unknown), `agent_cpu` is a share of one CPU, `bpf_ns` that of one tick or None. `live` says that a
    window came lately. `unknown` is the share of frames without a name, None where there are none. `sparkline` is CPUs
    busy over the range in a box of 120 x 24, `peak` the most of it; `flamegraph` and `page` are addresses.
    `late_s` is how long after its end a window was received at the soonest, None where unknown; below 0
    where the host's clock is ahead of the server's. `clock` says so where that is much, else it is "". `twins` says
    that several agents push under the host's name, or is "".
    """

    host: str
    event: str
    hz: int
    rates: list[int]
    last_seen: float
    last_seen_s: float
    late_s: float | None
    clock: str
    twins: str
    live: bool
    windows: int
    busy: float
    cpus: float | None
    peak: float
    samples: int
    lost: int
    lost_by: dict[str, int]
    missed: int
    ticks: int
    unknown: float | None
    agent_cpu: float
    bpf_ns: float | None
    rss_bytes: int
    locked_bytes: int
    labels: dict[str, str]
    sparkline: Chart
    flamegraph: str
    page: str


@dataclass(frozen=True, slots=True)
class Sort:
    """A column that can be sorted by: its heading, where that leads, and how it is sorted: ascending, descending, or
    ""."""

    label: str
    href: str
    order: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that sets one thing: what it is called, where it leads, whether it is set now."""

    text: str
    href: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A name with its part of the samples, and the page that shows it alone."""

    name: str
    samples: int
    share: float
    href: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Chip:
    """A selector in force, and the page without it."""

    text: str
    href: str


@dataclass(frozen=True, slots=True)
class ExportMenu:
    """What a flame graph can be had as: `files` in words with their addresses, the `picture` as a file that needs no
    server, pages of other sites that show it (`elsewhere`), whether some `may_be_read` from there and `needs_token`,
    commands with what they are for, and the address that always shows it."""

    files: list[tuple[str, str]]
    picture: str
    elsewhere: list[tuple[str, str]]
    may_be_read: bool
    needs_token: bool
    commands: list[tuple[str, str]]
    permalink: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A selection that holds something: its picture's address, its accounting, and what it is made of.

    `rates` says at which rate it was taken, in words, `per_sample` the most that a sample counts for. `start` and
    `end` are seconds. `truncated` are user stacks that were not walked to their root, None where nobody looked.
    `compare`, `top` and `lines` are the addresses of its comparison with the hour before, of its functions, and, with a
    function, of its lines.
    """

    svg: str
    event: str
    hosts: tuple[str, ...]
    rates: str
    per_sample: int
    windows: int
    start: float
    end: float
    accounting: Accounting
    gaps: Gaps
    truncated: int | None
    cpu_seconds: float
    comms: list[Share]
    exports: ExportMenu
    compare: str
    top: str
    lines: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A host that has no windows for `seconds` of a range, with the first and the last time that it has some of, in
    seconds since 1970, and the page of that host's own. Where it has none at all, `nothing` says so instead."""

    host: str
    seconds: float
    share: float
    first: float | None
    last: float | None
    nothing: str
    href: str


@dataclass(frozen=True, slots=True)
class Gaps:
    """Hosts that have no windows for a part of a range, out of so many `hosts`, which have some or were asked for by
    name; and the `title` that says so in words."""

    found: list[Gap]
    hosts: int
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """templates/flamegraph_timeline.html: the time around what is shown, which is from `since` until `until` (seconds).

    `heatmap` and `annotations` are addresses that a range, rows and columns are still added to. `base` is the range
    that is compared with, if one was chosen, and `diff` the page that does. `by` is what the rows are, of `rows`.
    `live` says that it ends now. The others are pages of the times beside this one.
    """

    since: int
    until: int
    live: bool
    heatmap: str
    annotations: str
    by: str
    rows: list[tuple[str, str]]
    base: tuple[int, int] | None
    diff: str
    earlier: str
    later: str
    wider: str
    narrower: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a function weighs before and after, in per cent of either side or in counts, and by how much it grew;
    `significant` says that this is beyond chance."""

    before: float
    after: float
    change: float
    significant: bool


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A function that changed: by what it ran itself (`own`), and by what it ran with all that it called. `kind` is as
    pictures call it."""

    name: str
    kind: str
    binary: str
    own: Measured
    total: Measured


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """One side of a comparison: its range in seconds, its windows, their accounting and gaps, and the page of its
    own."""

    name: str
    start: float
    end: float
    hosts: tuple[str, ...]
    windows: int
    rates: str
    cpu_seconds: float | None
    accounting: Accounting
    gaps: Gaps
    href: str


@dataclass(frozen=True, slots=True)
class EmptySide:
    """A side of a comparison that holds nothing: why, in sentences, and pages that compare the nearest ranges that hold
    something instead, each with its time."""

    said: list[str]
    elsewhere: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class DiffLegend:
    """The colours of what grew, shrank and did neither, where their shades end (shares of the larger side), and beyond
    how many standard errors, from how many samples on, something is coloured."""

    grew: tuple[str, ...]
    shrank: tuple[str, ...]
    unchanged: str
    steps: tuple[float, ...]
    significant: float
    fewest: int


@dataclass(frozen=True, slots=True)
class Compared:
    """Two sides that both hold something: the picture's address, and the functions that changed most, in the order of
    `sorts`; `changed` is how many did."""

    event: str
    svg: str
    sides: tuple[ComparedSide, ComparedSide]
    rows: list[ChangeRow]
    changed: int
    sorts: list[Choice]
    legend: DiffLegend
    exports: ExportMenu


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure of what profiling costs: the last, the highest, and by step, at `points` (seconds, value).

    `unit` says how values read: "ns", "share" (of one CPU), "bytes" or "Hz". `chart` is in a box of 120 x 24.
    """

    name: str
    unit: str
    now: float
    highest: float
    chart: Chart
    points: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Cut:
    """Why stacks ended before their root, how many did, and what to do about it."""

    reason: str
    stacks: int
    advice: str


@dataclass(frozen=True, slots=True)
class PassageRow:
    """A binary: frames whose caller was found by its unwind table and by frame pointer, and stacks that ended
    in it before their root, in all and by reason, most first."""

    binary: str
    by_table: int
    by_frame_pointer: int
    stacks_ended: int
    ended: dict[str, int]


@dataclass(frozen=True, slots=True)
class UnwindingReport:
    """User stacks of a range: stacks = whole + cut + unchecked. Binaries in which most stacks ended come first."""

    stacks: int
    whole: int
    unchecked: int
    cut: int
    reasons: list[Cut]
    binaries: list[PassageRow]


@dataclass(frozen=True, slots=True)
class FileTimesRow:
    """The samples of a process, or of all, over time: `paths` are (opacity, path), a unit wide for each step."""

    name: str
    samples: int
    paths: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class FileTimes:
    """When the samples of a file of so many `seconds` were taken: `columns` steps of `step` seconds from `start` on.
    From `since` to `until` is shown; `is_part` says that this was chosen. Times are since the file's first sample."""

    seconds: float
    start: float
    step: float
    columns: int
    since: float
    until: float
    is_part: bool
    rows: list[FileTimesRow]


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is shown: its name, format and event, all its events, what its counts are, and the picture, an
    SVG element as text; `is_difference` where its stacks have two counts each. `problems` are sentences about what was
    left out of it, `extensions` are the formats it can be had in. `groups` are labels to group by, `group_by` those in
    force. `times` tells when its samples were taken, None where nobody knows."""

    name: str
    format: str
    problems: tuple[str, ...]
    event: str
    events: tuple[str, ...]
    samples: int
    unit: str
    accounting: Accounting
    extensions: tuple[str, ...]
    is_difference: bool
    groups: list[tuple[str, str]]
    group_by: str
    picture: str
    times: FileTimes | None


@dataclass(frozen=True, slots=True)
class CaptureRow:
    """A capture among others: see store/captures.py. `share` is how much of its time is over, `filters` names the
    processes and cgroups it is of in words, or is ""."""

    capture: Capture
    share: float
    filters: str
    page: str


@dataclass(frozen=True, slots=True)
class CaptureForm:
    """What a capture is asked for with, as typed."""

    host: str = ""
    seconds: str = "10"
    hz: str = ""
    pid: str = ""
    cgroup: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class CapturedPicture:
    """What a capture holds: its profile without the samples, its picture's address, labels to group that by and those
    in force, and the addresses of its functions and, with a function, of its lines."""

    profile: Profile
    svg: str
    groups: list[tuple[str, str]]
    group_by: str
    exports: ExportMenu
    top: str
    lines: str
