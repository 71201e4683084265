"""`pilotlight render`, `diff` and `report` on files of every kind, and what they say of those that are none."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path

import pytest

from profiler.cli import main
from profiler.formats.by_extension import WRITERS
from profiler.formats.json import read_json, write_json
from profiler.formats.otlp import write_otlp
from profiler.formats.pprof import Message
from profiler.formats.read import profiles_of, read_file
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.flamegraph.rendering import EXTENSIONS


def at(name: str, path: str = "/bin/app", kind: Kind = Kind.NATIVE) -> Location:
    return Location(len(name), Binary(path, "00ff"), (Frame(name, kind, "", f"{name}.c", 7),))


MAIN, PARSE, READ = at("main"), at("parse"), at("vfs_read", "[kernel]", Kind.KERNEL)


def profile(parse: int, read: int, hz: int = 99, start: int = 10**18, host: str = "web-1") -> Profile:
    samples = (
        Sample((PARSE, MAIN), 7, "app", "app", parse),
        Sample((PARSE, PARSE, MAIN), 7, "app", "pool", 10),
        Sample((READ, MAIN), 7, "app", "app", read),
    )
    total = parse + read + 10
    accounting = Accounting(total + 30, total + 25, 20, 0, total, {"stack map full": 5}, 2 * total + 10)
    return Profile(host, "cpu-clock", hz, Window(start, start + 10**10), samples, accounting, {"env": "prod"})


BEFORE, AFTER = profile(500, 490), profile(900, 90, start=10**18 + 10**10)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("before.json").write_bytes(write_json(BEFORE))
    Path("after.json").write_bytes(write_json(AFTER))
    return tmp_path


def heap() -> bytes:
    message = Message()
    message.string_table.extend(["", "alloc_space", "bytes", "alloc_objects", "count", "f"])
    message.sample_type.add(type=3, unit=4)
    message.sample_type.add(type=1, unit=2)
    message.function.add(id=1, name=5)
    message.location.add(id=1).line.add(function_id=1)
    message.sample.add(location_id=[1], value=[3, 4096])
    return gzip.compress(message.SerializeToString())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_render_makes_any_format_of_any_other(files: Path, extension: str) -> None:
    assert main(["render", "before.json", "-o", "x" + extension]) == 0
    if extension in (".svg", ".html", ".txt", ".firefox.json"):
        assert b"main" in Path("x" + extension).read_bytes()
        return
    assert main(["render", "x" + extension, "-o", "again.json"]) == 0
    assert read_json(Path("again.json").read_bytes()).accounting.sampled == 1000


def test_render_reads_otlp_and_gzip_whatever_the_name(files: Path) -> None:
    Path("a").write_bytes(gzip.compress(write_otlp(BEFORE)))
    assert main(["render", "a", "-o", "b.json"]) == 0
    assert read_json(Path("b.json").read_bytes()).accounting == BEFORE.accounting


def test_several_files_are_merged_with_their_accounts(files: Path) -> None:
    assert main(["render", "after.json", "before.json", "-o", "both.json"]) == 0
    both = read_json(Path("both.json").read_bytes())
    assert both.accounting.sampled == 2000 and both.accounting.closes and both.accounting.idle == 40
    assert both.window == Window(BEFORE.window.start_ns, AFTER.window.end_ns)
    assert (both.host, both.labels) == ("web-1", {"env": "prod"})


def test_rates_that_differ_are_brought_to_a_common_one(files: Path) -> None:
    Path("slow.json").write_bytes(write_json(profile(10, 10, hz=33)))
    assert main(["render", "before.json", "slow.json", "-o", "both.json"]) == 0
    assert read_json(Path("both.json").read_bytes()).accounting.sampled == 1000 + 3 * 30
    # What a sample of the lower rate counts for, intervals and tests have to know.
    assert main(["render", "before.json", "slow.json", "-o", "both.svg"]) == 0
    assert '"perSample":3' in Path("both.svg").read_text() and "1,090 weighed samples" in Path("both.svg").read_text()


def test_merged_pictures_of_folded_stacks_add_up(files: Path) -> None:
    Path("a.folded").write_text("x;y 3\n")
    Path("b.folded").write_text("x;y 4\nx 1\n")
    assert main(["render", "a.folded", "b.folded", "-o", "c.folded"]) == 0
    assert Path("c.folded").read_text() == "x 1\nx;y 7\n"


def test_stdin_is_read_and_stdout_written(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Stdin:
        buffer = io.BytesIO(b"a;b 3\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    assert main(["render", "-", "-o", "-.folded"]) == 0
    assert capsysbinary.readouterr().out == b"a;b 3\n"


def test_a_file_of_several_events_says_which_are_not_shown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("heap.pb.gz").write_bytes(heap())
    assert main(["render", "heap.pb.gz", "-o", "x.folded"]) == 0
    assert Path("x.folded").read_text() == "f 4096\n"
    assert "This is alloc_space:bytes; --event chooses another: alloc_objects:count." in capsys.readouterr().err
    assert main(["render", "heap.pb.gz", "--event", "alloc_objects:count", "-o", "x.folded"]) == 0
    assert Path("x.folded").read_text() == "f 3\n"
    assert main(["render", "heap.pb.gz", "-o", "x.svg"]) == 0
    assert (
        b"4,096 bytes" in Path("x.svg").read_bytes() and b"CPU" not in Path("x.svg").read_bytes().split(b"<script")[0]
    )
    assert main(["render", "heap.pb.gz", "--event", "x", "-o", "x.svg"]) == 2
    assert "there are alloc_space:bytes, alloc_objects:count" in capsys.readouterr().err


def test_reverse_has_the_leaves_at_the_root(files: Path) -> None:
    assert main(["render", "before.json", "--reverse", "-o", "x.svg"]) == 0
    data = json.loads(re.search(rb'<metadata id="fg-data">(.*?)</metadata>', Path("x.svg").read_bytes(), re.S)[1])  # type: ignore[index]
    names = [data["frames"]["name"][f] for f in data["frame"]]
    assert names[:3] == ["all", "parse", "vfs_read"] and sum(data["own"]) == 1000


def test_pictures_are_grouped_by_labels_of_samples(files: Path) -> None:
    assert main(["render", "before.json", "-o", "x.svg", "--group-by", "thread,pid"]) == 0
    text = Path("x.svg").read_text()
    assert "<title>pool (10 samples, 1.00 %" in text and "<title>7 (10 samples, 1.00 %" in text
    assert "<title>app (990 samples, 99.00 %" in text and "<title>7 (990 samples, 99.00 %" in text
    assert main(["render", "before.json", "-o", "x.svg", "--group-by", "service"]) == 0
    assert "<title>(none) (1,000 samples, 100.00 %" in Path("x.svg").read_text()
    assert main(["render", "before.json", "after.json", "-o", "x.html", "--group-by", "pid"]) == 0
    assert "<title>7 (2,000 samples, 100.00 %" in Path("x.html").read_text()


def test_the_title_is_that_asked_for(files: Path) -> None:
    assert main(["render", "before.json", "--title", "A <b> & c", "-o", "x.html"]) == 0
    page = Path("x.html").read_text()
    assert page.startswith("<!doctype html>") and "<title>A &lt;b&gt; &amp; c</title>" in page and "<?xml" not in page


def diff(*arguments: str) -> None:
    assert main(["diff", *arguments, "-o", "-.txt"]) == 0


def test_diff_tells_the_largest_changes_first(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff("before.json", "after.json")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert [line.split() for line in lines] == [
        ["+40.00%*", "51.00%", "91.00%", "+40.00%", "51.00%", "91.00%", "/bin/app", "parse"],
        ["-40.00%*", "49.00%", "9.00%", "-40.00%", "49.00%", "9.00%", "[kernel]", "vfs_read"],
    ]


def test_diff_compares_counts_when_told_to(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("slow.json").write_bytes(write_json(profile(300, 10, hz=33)))
    diff("before.json", "slow.json", "--absolute")
    out = capsys.readouterr().out
    assert "# before: 1,000 samples, after: 960 samples; counts" in out
    assert "  +420*     510    930" in out
    Path("mixed.json").write_bytes(write_json(profile(20, 1, hz=33)))
    assert main(["diff", "before.json", "mixed.json", "--absolute", "-o", "mixed.svg"]) == 0
    assert '"perSample":[1,3]' in Path("mixed.svg").read_text()


@pytest.mark.parametrize("extension", [".svg", ".html", ".folded", ".json"])
def test_diff_writes_every_format(files: Path, extension: str) -> None:
    assert main(["diff", "before.json", "after.json", "-o", "d" + extension]) == 0
    data = Path("d" + extension).read_bytes()
    if extension == ".folded":
        assert b"app;main;parse 500 900\n" in data
        assert main(["diff", "d.folded", "-o", "again.folded"]) == 0
        assert Path("again.folded").read_bytes() == data
    elif extension == ".json":
        document = json.loads(data)
        assert sum(document["before_own"]) == sum(document["after_own"]) == 1000
        assert document["before"]["accounting"]["sampled"] == 1000
    else:
        assert b"before 49.00 %, after 9.00 %" in data
        assert b"before: ticks: 1,025" in data and b"after: ticks: 1,025" in data


def test_a_file_with_two_counts_is_drawn_as_a_difference(files: Path) -> None:
    Path("d.folded").write_text("a;b 100 300\na;c 300 100\n")
    assert main(["render", "d.folded", "-o", "d.svg"]) == 0
    assert b"before 25.00 %, after 75.00 %" in Path("d.svg").read_bytes()


def test_a_side_without_binaries_is_compared_by_names(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "before.json", "-o", "before.folded"]) == 0
    diff("before.folded", "before.json")
    captured = capsys.readouterr()
    assert "compared by their names alone" in captured.err
    assert all(line.startswith("#") for line in captured.out.splitlines())  # nothing changed


def test_report_is_the_table_that_users_of_perf_expect(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "before.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# web-1: cpu-clock at 99 Hz for 10 s, 1,000 samples"
    assert lines[1].startswith("# ticks: 1,025 = 20 idle + 0 filtered + 1,000 shown + 5 lost (5 stack map full)")
    assert lines[4] == "# Children      Self  samples  Command  Shared Object  Symbol"
    assert [line.split() for line in lines[7:]] == [
        ["99.00%", "0.00%", "990", "app", "/bin/app", "[.]", "main"],
        ["50.00%", "50.00%", "500", "app", "/bin/app", "[.]", "parse"],
        ["49.00%", "49.00%", "490", "app", "[kernel]", "[k]", "vfs_read"],
        ["1.00%", "1.00%", "10", "pool", "/bin/app", "[.]", "parse"],  # once, however often it is in its stack
        ["1.00%", "0.00%", "10", "pool", "/bin/app", "[.]", "main"],
    ]


def test_report_sorts_by_what_is_asked_and_counts_what_it_leaves_out(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "before.json", "--sort", "symbol,srcline", "--no-children", "--percent-limit", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4] == "# Overhead  samples  Symbol     Source:Line"
    assert [line.split() for line in lines[7:]] == [
        ["51.00%", "510", "[.]", "parse", "parse.c:7"],
        "# 1 row below 50 %".split(),
    ]
    assert main(["report", "before.json", "--sort", "process,pid,service", "--no-children"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[7:]] == [["100.00%", "1,000", "app", "7"]]


def test_reports_rows_cannot_break_the_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = Sample((at("evil\n\x1b[2J\u202e" + "x" * 5000),), 1, "p\np", "p\np", 1)
    own = Profile("h\n", "cpu-clock", 99, Window(0, 1), (hostile,), Accounting(sampled=1, ticks=1))
    Path("x.json").write_bytes(write_json(own))
    assert main(["report", "x.json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 8 and "\x1b" not in out and "\u202e" not in out and max(map(len, out.split("\n"))) < 400


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["render", "none.json", "-o", "x.svg"], 2, "none.json cannot be read (No such file or directory)."),
        (["render", "bad.folded", "-o", "x.svg"], 2, "bad.folded: no folded stacks found: line 1"),
        (["render", "broken.json", "-o", "x.svg"], 2, "broken.json: this is not JSON: "),
        (["render", "cut.pb.gz", "-o", "x.svg"], 2, "cut.pb.gz: the file was cut off: its gzip data has no end."),
        (["render", "before.json", "-o", "x.doc"], 2, "'x.doc': no format has this extension; use one of .svg, .html"),
        (
            ["render", "before.json", "heap.pb.gz", "--event", "no", "-o", "x.svg"],
            2,
            "there is no event 'no'; there are",
        ),
        (["render", "before.json", "odd.json", "-o", "x.svg"], 2, "have no common rate"),
        (["render", "before.json", "--reverse", "-o", "x.json"], 2, "turned round in .svg and .html only."),
        (
            ["render", "plain.folded", "--group-by", "pid", "-o", "x.svg"],
            2,
            "no sample has a label 'pid' to group by; they have none.",
        ),
        (["render", "before.json", "--group-by", "pid", "-o", "x.json"], 2, "grouped in .svg and .html only."),
        (["render", "two.folded", "--group-by", "pid", "-o", "x.svg"], 2, "the difference of two profiles cannot be"),
        (["record", "--group-by", "pid", "-o", "x.svg", "-o", "x.json"], 2, "x.json: stacks can be grouped in .svg"),
        (
            ["render", "before.json", "-o", "none/x.svg"],
            1,
            "none/x.svg could not be written (No such file or directory).",
        ),
        (["diff", "before.json", "-o", "x.svg"], 2, "name two files, or one of stacks that have two counts each."),
        (
            ["diff", "before.json", "heap.pb.gz", "-o", "x.svg"],
            2,
            "cpu-clock cannot be compared with alloc_space:bytes",
        ),
        (["diff", "before.json", "after.json", "-o", "x.pb.gz"], 2, "use one of .svg, .html, .folded, .json, .txt"),
        (["report", "before.json", "--event", "cycles"], 2, "there is no event 'cycles'; there are cpu-clock."),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str
) -> None:
    Path("bad.folded").write_text("no stack here\n")
    Path("plain.folded").write_text("main;f 5\n")
    Path("two.folded").write_text("main;f 5 7\n")
    Path("broken.json").write_text('{"format": ')
    Path("cut.pb.gz").write_bytes(heap()[:-9])
    Path("heap.pb.gz").write_bytes(heap())
    Path("odd.json").write_bytes(write_json(profile(1, 1, hz=999_983)))
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and not Path("x.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["report", "before.json", "--sort", "comm,what"], "'what' is no column; there are comm, dso, symbol"),
        (["report", "before.json", "--percent-limit", "x"], "'x' is no number of per cent"),
        (["report", "before.json", "--percent-limit", "nan"], "'nan' is no number of per cent"),
        (["render", "before.json", "-o", "x.svg", "--group-by", "host"], "samples have no label 'host'; there are"),
        (["render", "before.json", "-o", "x.svg", "--group-by", "comm"], "group by process, or by thread"),
        (["record", "-o", "x.svg", "--group-by", "a b"], "'a b' is no label to group by"),
        (["render", "-o", "x.svg"], "IN"),
    ],
)
def test_wrong_usage_is_told(
    files: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2 and sentence in capsys.readouterr().err


def test_what_was_there_stays_where_rendering_fails(files: Path) -> None:
    Path("x.svg").write_text("kept")
    assert main(["render", "none.json", "-o", "x.svg"]) == 2
    assert Path("x.svg").read_text() == "kept"


def test_every_written_format_that_can_be_read_has_the_same_total(files: Path) -> None:
    for extension, write in WRITERS.items():
        if extension not in (".txt", ".firefox.json"):
            assert sum(p.accounting.sampled for p in profiles_of(read_file(write(BEFORE)))) == 1000
