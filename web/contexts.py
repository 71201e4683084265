"""What each page knows: one dataclass a template, which sees it as `page`, made of parts.py. The .json twins hold the
same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from profiler.model import Accounting
from web.parts import (
    CapturedPicture,
    CaptureForm,
    CaptureRow,
    Chart,
    Chip,
    Choice,
    Compared,
    EmptySide,
    HostRow,
    Opened,
    Picture,
    Share,
    Sort,
    Timeline,
    Trend,
    UnwindingReport,
)
from web.urls import Query, flamegraph, home


@dataclass(frozen=True, slots=True)
class HostsPage:
    """templates/hosts.html: GET / and, as JSON, /hosts.json.

    `since` names the range the figures are of, `chosen_with` asks for it. `sorts` are by column. `chips` are the
    selectors in force, `kept` what the form does not hold and has to keep. `live` is false for a range that has ended.
    """

    hosts: list[HostRow]
    ranges: list[Choice]
    sorts: dict[str, Sort]
    chips: list[Chip]
    kept: Query
    chosen_with: Query
    since: str
    live: bool
    address: str
    twin: str


@dataclass(frozen=True, slots=True)
class FlamegraphPage:
    """templates/flamegraph.html: GET /flamegraph.

    `picture` is None where nothing matches, and `empty` then says why, in sentences; `elsewhere` are pages of the
    nearest ranges that hold something. `is_refused` says that it cannot be asked at all: there is no `timeline` then.
    The form's fields are as typed, and `chosen` are its hosts where they are several; `more` is a filter that is
    wrong; `kept` is what the form does not hold and has to keep. `groups` are labels to group by, `group_by` is the
    one in force.
    """

    picture: Picture | None
    timeline: Timeline | None
    is_refused: bool
    empty: list[str]
    elsewhere: list[tuple[str, str]]
    chosen: list[str]
    groups: list[tuple[str, str]]
    group_by: str
    title: str
    from_: str
    until: str
    host: str
    event: str
    comm: str
    more: str
    kept: Query
    chips: list[Chip]
    hosts: list[str]
    events: list[str]
    presets: list[Choice]


@dataclass(frozen=True, slots=True)
class DiffPage:
    """templates/diff.html: GET /diff.

    `compared` is None where a side holds nothing, which `empty_sides` then are, or where the two cannot be compared,
    and `problem` then says why. The form's fields are as typed, `chosen` its hosts where they are several; `chips` and
    `base_chips` are selectors in force, `kept` what the form does not hold and has to keep.
    """

    compared: Compared | None
    empty_sides: list[EmptySide]
    problem: str
    title: str
    from_: str
    until: str
    host: str
    chosen: list[str]
    event: str
    comm: str
    base_from: str
    base_until: str
    absolute: bool
    width: str
    kept: Query
    chips: list[Chip]
    base_chips: list[Chip]
    hosts: list[str]
    events: list[str]
    presets: list[Choice]


@dataclass(frozen=True, slots=True)
class HostPage:
    """templates/host.html: GET /hosts/{host}, and the same with .json.

    `processes` are the heaviest of the range, `cpu_kinds` all that are told; `chart` is CPUs busy in a box of 720 x
    120, and `peak` what its top stands for. `seconds` is the CPU time of all samples. `rates` says at which rate the
    range was taken, in words. `trends` and `unwinding` are of the event with most samples, `unwinding` is None where
    agents said nothing of it. `problem` says in a sentence why there are no figures of the range, or is "". `live` is
    false for a range that has ended.
    """

    host: str
    rows: list[HostRow]
    accounting: Accounting
    seconds: float
    processes: list[Share]
    cpu_kinds: list[Share]
    chart: Chart
    peak: float
    rates: str
    trends: list[Trend]
    unwinding: UnwindingReport | None
    problem: str
    live: bool
    ranges: list[Choice]
    since: str
    twin: str


@dataclass(frozen=True, slots=True)
class OpenPage:
    """templates/open.html: GET /open, and POST with the file as body. `limit` is the size of a file in bytes, `formats`
    are those that can be read. `problem` says in a sentence why a file cannot be shown, or is ""."""

    limit: int
    formats: str
    problem: str
    opened: Opened | None


@dataclass(frozen=True, slots=True)
class CapturesPage:
    """templates/captures.html: GET /captures. `problem` says what is wrong with the form, or is "". `listening` are the
    hosts whose agents would begin at once; `live` says that some capture is not over."""

    rows: list[CaptureRow]
    form: CaptureForm
    hosts: list[str]
    listening: set[str]
    problem: str
    live: bool


@dataclass(frozen=True, slots=True)
class CapturePage:
    """templates/capture.html: GET /captures/{id}. `picture` is what it has so far, None for nothing."""

    row: CaptureRow
    title: str
    picture: CapturedPicture | None


@dataclass(frozen=True, slots=True)
class PprofPage:
    """templates/pprof.html: GET /debug/pprof/. `address` is this server's, `hosts` those whose agents listen."""

    address: str
    hosts: list[str]


@dataclass(frozen=True, slots=True)
class LoginPage:
    """templates/login.html."""

    next: str
    problem: str


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """templates/error.html: one sentence, and where to go from there."""

    status: int
    message: str
    links: tuple[tuple[str, str], ...] = (("Hosts", home()), ("Flame graph", flamegraph()))


@dataclass(frozen=True, slots=True)
class DocsPage:
    """templates/docs.html: GET /docs, from openapi.json. Each operation is its method, path and object."""

    operations: list[tuple[str, str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class SettingsPage:
    """templates/settings.html: GET /settings and, as JSON, /settings.json and /api/v1/retention.

    `samples` and `rollups` are days, `fixed` names what the command line sets again at each start. Times are "" and
    `bytes_a_sample` None where there is no sample. `tables` have name, rows, bytes, parts and what each `tells`.
    """

    samples: int
    rollups: int
    most_days: int
    fixed: list[str]
    oldest_sample: str
    newest_sample: str
    oldest_hour: str
    bytes_a_sample: float | None
    bytes: int
    tables: list[dict[str, Any]]
    problem: str
    twin: str
