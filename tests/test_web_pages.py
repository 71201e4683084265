"""What pages are told: hosts in a chosen range, several together, gaps, agents of one name, and what is nearest."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest
from fastapi.testclient import TestClient

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.store.coverage import Coverage
from web.store.queries import Queries
from web.store.selection import LAST_S, MAX_HOSTS, Selection, parse, rfc3339
from web.store.store import BadQuery, Store
from web.store.writer import Push, Writer

START = int(time.time()) // 600 * 600 - 3600
HOSTILE = "a.b|c(d)[e]{f}+g*h?i^j$k\\l <&'\">"


def profile(host: str, at: int, count: int = 30, comm: str = "app", unknown: int = 0) -> Profile:
    location = Location(16, Binary("/bin/x", "ab"), (Frame("f", Kind.NATIVE, line=1),))
    total = count + 2
    samples = (
        Sample((location,), 7, comm, comm, count, cpu_kind="big <i7>"),
        Sample((location,), 8, "other", "other", 2, cpu_kind="little"),
    )
    window = Window((START + at) * 10**9, (START + at + 10) * 10**9)
    account = Accounting(1980, 1980, 1980 - total - 5, 0, total, {"counts map full": 5}, total - unknown)
    return Profile(
        host, "cpu-clock", 99, window, samples, replace(account, frames_unknown={"no symbols": unknown}), {"env": "x"}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('pages')}/store")
    writer = Writer(store, interval=0)

    def push(profiles: list[Profile], agent: str, epoch: str, first: int) -> None:
        for number, made in enumerate(profiles):
            writer.submit(Push((made,), f"{number:064}", agent, epoch, first + number))

    push([profile("whole", at) for at in range(0, 300, 10)], "a", "1", 1)
    push([profile("gap", at, 900, unknown=451) for at in (*range(0, 100, 10), *range(200, 300, 10))], "b", "1", 1)
    push([profile(HOSTILE, at) for at in range(0, 300, 10)], "c", "1", 1)
    push([profile("twice", at) for at in range(0, 300, 10)], "d", "1", 1)
    push([profile("twice", at) for at in range(100, 200, 10)], "d", "2", 1)
    push([profile("restarted", at) for at in range(0, 150, 10)], "e", "1", 1)
    push([profile("restarted", at) for at in range(140, 300, 10)], "e", "2", 1)
    late = profile("late", 900, comm="rare")
    late = replace(late, accounting=replace(late.accounting, expected=2200))
    writer.submit(Push((late,), "9" * 64, "f", "1", 1)).result(60)
    writer.close()
    yield store
    store.close()


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(store, ServerOptions(store.url)), "http://127.0.0.1") as client:
        yield client


RANGE = f"from={START}&until={START + 300}"


def hosts(client: TestClient, query: str) -> list[str]:
    answer = client.get(f"/hosts.json?{RANGE}&{query}")
    assert answer.status_code == 200, answer.text
    return [row["host"] for row in answer.json()["hosts"] if row["windows"]]


def test_hosts_are_of_the_chosen_range_and_sorted_by_any_column(client: TestClient) -> None:
    assert set(hosts(client, "")) == {"whole", "gap", HOSTILE, "twice", "restarted"}
    assert hosts(client, "")[0] == "gap"
    assert hosts(client, "sort=host") == hosts(client, "sort=-host")[::-1] == sorted(hosts(client, ""))
    assert hosts(client, "sort=-unknown")[0] == hosts(client, "sort=samples")[-1] == "gap"
    for column in ("seen", "busy", "samples", "lost", "unknown", "agent", "memory"):
        assert len(hosts(client, f"sort=-{column}")) == len(hosts(client, f"sort={column}")) == 5
    rows = {row["host"]: row for row in client.get(f"/hosts.json?{RANGE}").json()["hosts"]}
    assert rows["gap"]["unknown"] == 0.5 and rows["whole"]["unknown"] == 0
    assert rows["late"]["windows"] == 0  # it is known, and has nothing in this range
    assert list(rows)[-1] == "late"


def test_hosts_are_chosen_by_name_and_label_and_not_by_what_they_ran(client: TestClient) -> None:
    assert hosts(client, "q=host=~wh.*|tw.*&sort=host") == ["twice", "whole"]
    assert hosts(client, "q=env=y") == [] and len(hosts(client, "q=env=x")) == 5
    assert hosts(client, "host=gap&host=whole&sort=host") == ["gap", "whole"]
    for query, said in (
        ("q=process=app", "hosts are chosen by host"),
        ("sort=colour", "no column"),
        ("q=host=~(", "regular expression"),
        ("from=never", "is no time"),
    ):
        bad = client.get(f"/hosts.json?{query}")
        assert bad.status_code == 400 and said in bad.json()["error"]
    assert "No such host" in client.get("/?q=env=y").text


def test_two_agents_of_one_name_are_said_and_one_that_was_restarted_is_not(client: TestClient) -> None:
    rows = {row["host"]: row for row in client.get(f"/hosts.json?{RANGE}").json()["hosts"]}
    assert [host for host in rows if rows[host]["twins"]] == ["twice"]
    assert rows["twice"]["twins"].startswith("2 agents push under this name at the same time")
    page = client.get(f"/?{RANGE}").text
    assert page.count("2 agents push under this name") == 1
    assert "2 agents push under this name" in client.get(f"/hosts/twice?{RANGE}").text
    early = client.get(f"/hosts.json?from={START}&until={START + 90}").json()["hosts"]
    assert not any(row["twins"] for row in early)


def test_several_hosts_are_any_of_them_whatever_their_names(client: TestClient, store: Store) -> None:
    def samples(*names: str) -> int:
        query = [("from", str(START)), ("until", str(START + 300)), *(("host", name) for name in names)]
        return int(client.get("/api/v1/tree", params=query).json()["samples"])

    assert samples("whole", HOSTILE) == samples("whole") + samples(HOSTILE) == 2 * 30 * 32
    assert samples("whole", "nobody") == samples("whole", "whole") == samples("whole")
    assert (
        Queries(store).resolve(parse([("host", "a.b"), ("host", "whole"), ("from", str(START))])).value("host") is None
    )
    page = client.get("/flamegraph", params=[("from", str(START)), ("host", "whole"), ("host", HOSTILE)]).text
    assert "2 hosts" in page and HOSTILE not in page  # it is escaped
    with pytest.raises(BadQuery, match=f"more than {MAX_HOSTS} hosts"):
        parse([("host", str(i)) for i in range(MAX_HOSTS + 1)])
    with pytest.raises(BadQuery, match=r"value of host is longer"):
        parse([("host", "x"), ("host", "y" * 5000)])


def test_a_host_whose_windows_do_not_cover_the_range_is_named(client: TestClient, store: Store) -> None:
    found = {row.host: row for row in Queries(store).coverage(Selection(START, START + 300))}
    assert found["gap"].seconds == 200 and found["gap"].first == START and found["gap"].last == START + 300
    assert found["whole"].seconds == found["twice"].seconds == 300  # two agents cover the same time once
    page = client.get(f"/flamegraph?{RANGE}").text
    assert "1 of 5 hosts with gaps" in page and "33.3 %" in page
    assert "no gaps" in client.get(f"/flamegraph?{RANGE}&host=whole").text
    now = client.get("/flamegraph?from=now-1m&host=whole").text
    assert "No profile starts in this range" in now


def test_a_host_that_was_asked_for_and_sent_nothing_is_a_gap(client: TestClient, store: Store) -> None:
    silent = {"host": ["whole", "never <b>", "late"], "from": START, "until": START + 300}
    page = client.get("/flamegraph", params=silent).text
    assert "2 of 3 hosts with gaps" in page and "no gaps" not in page
    assert "never &lt;b&gt;</a></th>" in page and ">never seen</td>" in page and ">nothing in this range</td>" in page
    picture = client.get("/flamegraph.svg", params={**silent, "download": "1"}).text
    assert "2 of 3 hosts with gaps" in picture
    assert "late 300 s (100%, nothing in this range), never &lt;b&gt; 300 s (100%, never seen)" in picture
    one = client.get("/flamegraph", params={**silent, "host": ["whole", "twice"]}).text
    assert "no gaps" in one
    other_label = {
        host.host: host.nothing for host in coverage(store, "host=whole", "host=never", "q=env!=x", "q=hz=99")
    }
    assert other_label == {"whole": "nothing in this range that fits", "never": "never seen"}
    assert [host.host for host in coverage(store, "host=whole", "host=never", "q=host!=never")] == ["whole"]
    assert [host.host for host in coverage(store, f"q=host={HOSTILE}x")] == [f"{HOSTILE}x"]
    step = client.get("/flamegraph", params={**silent, "until": START + 10}).text  # one window's time
    assert "2 of 3 hosts with gaps" in step


def coverage(store: Store, *query: str) -> list[Coverage]:
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in query)]
    return Queries(store).coverage(parse([("from", str(START)), ("until", str(START + 300)), *pairs]))


def test_each_side_of_a_comparison_says_which_hosts_have_gaps(client: TestClient) -> None:
    asked = {"host": ["whole", "gone"], "from": START + 150, "until": START + 300}
    page = client.get("/diff", params=asked).text
    assert page.count("1 of 2 hosts with gaps") == 2 and page.count(">never seen</td>") == 2
    link = re.findall(r'<a href="([^"]*)">its flame graph', page)[0]
    assert "1 of 2 hosts with gaps" in client.get(unescape(link)).text
    asked["baseQ"] = "host=whole"
    picture = client.get("/diff.svg", params={**asked, "download": "1"}).text
    assert "before: no gaps, after: 1 of 2 hosts with gaps" in picture
    assert "after: gaps: nothing came from gone 150 s (100%, never seen)" in picture
    assert "gone 150 s" in client.get("/diff.txt", params=asked).text


def test_where_there_is_nothing_the_nearest_is_offered(client: TestClient, store: Store) -> None:
    queries = Queries(store)
    empty = parse([("from", str(START + 400)), ("until", str(START + 800))])
    near = queries.nearby(empty)
    assert (near.before, near.after) == (START + 290, START + 900)
    rare = parse([("from", str(START)), ("until", str(START + 300)), ("comm", "rare")])
    assert queries.nearby(rare).before is None and queries.nearby(rare).after == START + 900
    assert queries.nearby(Selection(0, LAST_S)).after is None
    page = client.get(f"/flamegraph?from={START + 400}&until={START + 800}").text
    assert f"before, at {rfc3339(START + 290)}" in page and f"after, at {rfc3339(START + 900)}" in page
    for line in page.splitlines():
        if "There is something" in line:
            for link in line.split('href="')[1:]:
                target = client.get(link.split('"')[0].replace("&amp;", "&"))
                assert "<iframe" in target.text


@pytest.mark.parametrize(
    ("query", "said", "kept"),
    [
        ("from=yesterday<", "`from` is no time", ['name="from" value="yesterday&lt;"', 'value="whole" selected']),
        ("from=now-1m&until=now-5m", "must be earlier", ['name="from" value="now-1m"', 'name="until" value="now-5m"']),
        ("q=foo<&q=env=x", "is no selector", ['name="q" value="foo&lt;"', 'type="hidden" name="q" value="env=x"']),
        ("q=host=~(", "", ['type="hidden" name="q" value="host=~("']),
        ("groupBy=comm<&comm=app", "comm", ['value="comm&lt;" selected', 'name="comm" value="app"']),
    ],
)
def test_what_cannot_be_asked_stays_in_the_form(client: TestClient, query: str, said: str, kept: list[str]) -> None:
    answer = client.get(f"/flamegraph?host=whole&{query}")
    assert answer.status_code == 400 and "That cannot be asked" in answer.text
    assert said in unescape(answer.text.partition('role="alert">')[2].partition("</p>")[0])
    for field in kept:
        assert field in answer.text
    assert 'name="q" value="foo' not in answer.text.replace('<input name="q" value="foo', "")  # nor once more beside it


def test_one_of_something_is_in_the_singular(client: TestClient) -> None:
    page = client.get(f"/flamegraph?from={START}&until={START + 10}&host=whole").text
    assert "1 window\n" in page.replace("</p>", "\n") and "1 windows" not in page
    assert "32</b> samples" in page
    assert "1 window of whole at" in client.get(f"/diff?from={START + 10}&until={START + 20}&host=whole").text


def test_missed_ticks_are_told_and_explained(client: TestClient) -> None:
    def quality(query: str) -> tuple[str, str]:
        page = client.get(f"/flamegraph?{query}").text
        line, _, details = page.partition('class="card quality"')[2].partition("</summary>")
        return line, details

    line, details = quality(f"{RANGE}&host=whole")
    assert "missed" not in line and "Missed" not in details
    line, details = quality(f"from={START + 900}&until={START + 920}")
    assert "10.0 % missed" in line and "Missed: 220 of 2,200 ticks that were due never came" in details


def test_each_empty_side_of_a_comparison_leads_to_the_nearest_range(client: TestClient) -> None:
    def links(page: str) -> list[list[str]]:
        found = re.findall(r"There is something (.*)</p>", page)
        return [[unescape(href) for href in re.findall(r'href="([^"]*)"', line)] for line in found]

    empty = f"from={START + 400}&until={START + 800}"
    both = client.get(f"/diff?{empty}&baseFrom={START + 500}&baseUntil={START + 600}").text
    assert "After, there is nothing to compare" in both and "Before, there is nothing to compare" in both
    after, before = links(both)
    assert len(after) == len(before) == 2
    of_before = client.get(after[0]).text  # one side has something now, the other one not yet
    assert "After, there is nothing" not in of_before
    (rest,) = links(of_before)
    assert f"from={rfc3339(START - 50)}" in rest[0]  # and stays as it is
    assert "<iframe" in client.get(rest[0]).text
    gone = client.get(f"/diff?{RANGE}&baseQ=host=<gone>").text
    assert "no profile has host=&lt;gone&gt;, event=cpu-clock, at any time" in gone and not links(gone)


def test_a_hosts_page_tells_its_kinds_of_cpu_and_leads_to_each(client: TestClient) -> None:
    page = client.get(f"/hosts/whole?{RANGE}").text
    found = dict(re.findall(r'<a href="([^"]*cpu_kind[^"]*)">([^<]*)</a>', page))
    assert list(found.values()) == ["big &lt;i7&gt;", "little"]
    assert "93.8 % of the samples" in page and "6.2 % of the samples" in page
    big, little = (client.get(unescape(href).replace("/flamegraph?", "/flamegraph.json?")).json() for href in found)
    assert (big["accounting"]["sampled"], little["accounting"]["sampled"]) == (900, 60)
    assert big["accounting"]["filtered"] == 60


def test_a_stale_link_says_what_is_gone(client: TestClient) -> None:
    old = client.get("/flamegraph?from=now-200d&until=now-199d").text
    assert "What is older than 90 days has been dropped." in old
    assert "No profile has host=gone, at any time." in client.get("/flamegraph?host=gone").text


def test_a_picture_is_grouped_and_its_other_formats_are_not(client: TestClient) -> None:
    by_host = client.get(f"/flamegraph.svg?{RANGE}&groupBy=host")
    assert by_host.status_code == 200 and "restarted" in by_host.text
    assert "restarted" not in client.get(f"/flamegraph.svg?{RANGE}").text
    plain = client.get(f"/flamegraph.folded?{RANGE}").text
    assert client.get(f"/flamegraph.folded?{RANGE}&groupBy=host").text == plain
    assert client.get("/flamegraph?groupBy=comm").status_code == 400
    assert '<option value="cpu_kind">CPU kind</option>' in client.get(f"/flamegraph?{RANGE}").text
    page = client.get(f"/flamegraph?{RANGE}&groupBy=env").text
    assert '<option value="env" selected>' in page
    both = client.get(f"/flamegraph?{RANGE}&groupBy=cpu_kind,env").text
    assert '<option value="cpu_kind,env" selected>CPU kind, env</option>' in both
