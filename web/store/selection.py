"""What a reader asks for: a range of time, an event, and labels; as text from a URL, and as SQL."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from profiler.grouping import check_labels, parse_labels
from profiler.model import Profile
from web.store.store import BadQuery

WINDOW_LABELS: Final = ("host", "event", "hz")
SAMPLE_LABELS: Final = ("service", "container", "pid", "comm", "process", "thread", "cpu_kind")
LABELS: Final = (*WINDOW_LABELS, *SAMPLE_LABELS)  # those of each profile; any other is one that a user added
_NUMBERS: Final = ("pid", "hz")

MAX_VALUE: Final = 4096  # characters of a label's value, or of a regular expression
MAX_MATCHERS: Final = 32
MAX_HOSTS: Final = 500
_NOTHING: Final = "''"  # in SQL
_MATCHER: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_./-]{0,199})\s*(=~|!~|!=|=)(.*)", re.DOTALL)
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")  # in a regular expression of RE2
_RELATIVE: Final = re.compile(r"now(?:-(\d{1,6})([smhdw]))?")
UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LAST_S: Final = (1 << 32) - 1  # what the store's times can hold


@dataclass(frozen=True, slots=True)
class Matcher:
    """`label` `operator` `value`; the operator is =, !=, =~ or !~, regular expressions match the whole value.

    `any_of` are the values that a regular expression was made of, where it was asked for by them.
    """

    label: str
    operator: str
    value: str
    any_of: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.label}{self.operator}{self.value}"

    @property
    def is_regex(self) -> bool:
        return self.operator.endswith("~")

    @property
    def is_negative(self) -> bool:
        return self.operator.startswith("!")

    @property
    def named(self) -> tuple[str, ...]:
        """The values that are asked for by name."""
        return (self.value,) if self.operator == "=" else self.any_of

    @property
    def regex(self) -> str:
        return f"^(?s:{self.value})$"


@dataclass(frozen=True, slots=True)
class Selection:
    """Windows that start in [since, until), in seconds since the epoch, and the samples in them that match.

    `by_hour`: some of them are so old that of their samples only sums by hour are left, without pids. Their range is
    of whole hours then.
    """

    since: int
    until: int
    matchers: tuple[Matcher, ...] = ()
    by_hour: bool = False

    @property
    def filters_samples(self) -> bool:
        return any(matcher.label in SAMPLE_LABELS for matcher in self.matchers)

    def value(self, label: str) -> str | None:
        """The one value that `label` must equal, if it must."""
        for matcher in self.matchers:
            if matcher.label == label and matcher.operator == "=":
                return matcher.value
        return None

    @property
    def of_windows(self) -> Selection:
        """The same windows, with all of their samples."""
        return replace(self, matchers=tuple(m for m in self.matchers if m.label not in SAMPLE_LABELS))

    def also(self, label: str, value: str) -> Selection:
        return replace(self, matchers=(*self.matchers, Matcher(label, "=", value)))

    def where(
        self, horizon: int | None, *, samples: bool, time: str = "ts", prefix: str = ""
    ) -> tuple[str, dict[str, Any]]:
        """The condition on table samples (or windows, which know nothing of sample labels) and its parameters.

        `horizon` is the newest batch to be seen; None for a table without batches (the rollups, which have the columns
        of samples but for those that they do not keep), whose column of times is named by `time`. The parameters of
        the range begin with `prefix`, so that two ranges of the same selection fit into one query.
        """
        terms = [
            f"{time} >= toDateTime({{{prefix}since:UInt32}}, 'UTC')",
            f"{time} < toDateTime({{{prefix}until:UInt32}}, 'UTC')",
        ]
        parameters: dict[str, Any] = {f"{prefix}since": self.since, f"{prefix}until": self.until}
        if horizon is not None:
            terms.append("batch <= {horizon:UInt32}")
            parameters["horizon"] = horizon
        for number, matcher in enumerate(self.matchers):
            if not samples and matcher.label in SAMPLE_LABELS:
                continue
            name = f"m{number}"
            parameters[name] = matcher.regex if matcher.is_regex else matcher.value
            if matcher.label in LABELS:
                terms.append(_term(matcher, name))
            else:
                parameters[f"{name}l"] = matcher.label
                terms.append(_term_of_user_label(matcher, name, samples=samples))
        return " AND ".join(terms), parameters


def _term(matcher: Matcher, name: str) -> str:
    columns = ("process", "thread") if matcher.label == "comm" else (matcher.label,)
    tests = []
    for column in columns:
        if column in _NUMBERS and not matcher.is_regex:
            tests.append(f"{column} = toUInt32({{{name}:String}})")
        else:
            tests.append(holds(f"toString({column})" if column in _NUMBERS else column, matcher, name))
    either = f"({' OR '.join(tests)})"
    return f"NOT {either}" if matcher.is_negative else either


def _term_of_user_label(matcher: Matcher, name: str, *, samples: bool) -> str:
    """On windows, whose labels are beside them; on samples and rollups, which have the id of their set of labels.

    A profile without the label is one where it is empty, as everywhere in the field.
    """
    value = f"labels[{{{name}l:String}}]"
    if samples:
        sets = f"SELECT id FROM label_sets WHERE {holds(value, matcher, name)}"
        fits = f"(label_set IN ({sets}) OR (label_set = 0 AND {holds(_NOTHING, matcher, name)}))"
    else:
        fits = holds(value, matcher, name)
    return f"NOT {fits}" if matcher.is_negative else fits


def holds(value: str, matcher: Matcher, name: str) -> str:
    """SQL: whether `value` is what the matcher names, in the parameter `name`; it may be meant the other way round."""
    return f"match({value}, {{{name}:String}})" if matcher.is_regex else f"{value} = {{{name}:String}}"


def parse(query: Sequence[tuple[str, str]], *, default_since: str = "now-1h", now: float | None = None) -> Selection:
    """The selection that a URL's query string asks for: from, until, host, event, comm, and any number of q.

    Several hosts are any of them. Names that mean nothing here are left to others. Raises BadQuery.
    """
    now = time.time() if now is None else now
    first: dict[str, str] = {}
    for key, value in query:
        first.setdefault(key, value)
    since = parse_time(first.get("from") or default_since, "from", now)
    until = parse_time(first.get("until") or "now", "until", now)
    if since >= until:
        raise BadQuery("`from` must be earlier than `until`")
    hosts = list(dict.fromkeys(value for key, value in query if key == "host" and value))
    of_hosts = any_of_hosts(hosts)
    matchers = [*of_hosts]
    matchers += [Matcher(label, "=", first[label]) for label in ("event", "comm") if first.get(label)]
    matchers += [parse_matcher(value) for key, value in query if key == "q" and value.strip()]
    if len(matchers) > MAX_MATCHERS:
        raise BadQuery(f"more than {MAX_MATCHERS} selectors; combine them with a regular expression (=~)")
    for label, value in [*((m.label, m.value) for m in matchers if m not in of_hosts), *(("host", h) for h in hosts)]:
        if len(value) > MAX_VALUE:
            raise BadQuery(f"the value of {label} is longer than {MAX_VALUE:,} characters")
    return Selection(since, until, tuple(dict.fromkeys(matchers)))


def any_of_hosts(hosts: Sequence[str]) -> list[Matcher]:
    """What selects any of so many hosts, or none where all are meant. Raises BadQuery."""
    if len(hosts) <= 1:
        return [Matcher("host", "=", host) for host in hosts]
    if len(hosts) > MAX_HOSTS:
        raise BadQuery(f"more than {MAX_HOSTS} hosts: select them by a label or a regular expression, q=host=~…")
    return [Matcher("host", "=~", "|".join(_SPECIAL.sub(r"\\\g<0>", host) for host in hosts), tuple(hosts))]


def parse_matcher(text: str) -> Matcher:
    """`label=value`, `label!=value`, `label=~regex` or `label!~regex`. Raises BadQuery.

    A name that is not in LABELS is of a label that a user added; whether there is one, the store knows.
    """
    found = _MATCHER.fullmatch(text)
    if not found:
        raise BadQuery(f"q={_short(text)} is no selector: write label=value, with =, !=, =~ or !~")
    label, operator, value = found.groups()
    if label in _NUMBERS and not operator.endswith("~"):
        if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > 0xFFFFFFFF:
            raise BadQuery(f"{label} must be a whole number, not {_short(value)}")
    return Matcher(label, operator, value)


def parse_time(text: str, name: str, now: float) -> int:
    """Whole seconds since the epoch, rounded up: a window belongs to a range if it starts in it.

    `text` is RFC 3339, seconds or milliseconds since the epoch, `now`, or `now-` and a number of s, m, h,
    d or w. Raises BadQuery.
    """
    text = text.strip()
    seconds: float | None = None
    if relative := _RELATIVE.fullmatch(text):
        amount, unit = relative.groups()
        seconds = now - int(amount) * UNIT_S[unit] if amount else now
    elif re.fullmatch(r"[0-9]{1,16}(\.[0-9]{1,9})?", text):
        seconds = float(text)
        if seconds >= 1e11:
            seconds /= 1000
    else:
        try:
            # In a query string, an unescaped + of the offset arrives as a space.
            moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = None
    if seconds is None or not 0 <= seconds <= LAST_S:
        raise BadQuery(
            f"`{name}` is no time: {_short(text)}; write 2026-01-31T12:00:00Z, seconds or milliseconds"
            " since 1970, now, or now-15m (s, m, h, d, w)"
        )
    return -int(-seconds // 1)


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def as_mapping(selection: Selection) -> Mapping[str, Any]:
    """The selection as its JSON twins tell it."""
    return {
        "from": rfc3339(selection.since),
        "until": rfc3339(selection.until),
        "q": [str(matcher) for matcher in selection.matchers],
        **({"resolution": "1h"} if selection.by_hour else {}),
    }


def parse_group_by(text: str) -> tuple[str, ...]:
    """`label[,label]` as the labels to group by. Raises BadQuery."""
    try:
        return parse_labels(text)
    except ValueError as error:
        raise BadQuery(str(error)) from error


def check_groups(profile: Profile, labels: Sequence[str]) -> None:
    """As grouping.check_labels, of one profile. Raises BadQuery."""
    try:
        check_labels(profile, labels)
    except ValueError as error:
        raise BadQuery(str(error)) from error
