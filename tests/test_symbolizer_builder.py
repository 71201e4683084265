"""A process that builds things: what it is sent and gives back, what it may use, and whatever becomes of it."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from symbolizer import builder as builder_module
from symbolizer.builder import MOST_FILES, Builder, Failure, in_memory
from symbolizer.builder_process import MOST_MEMORY

STANDINS = "tests.symbolizer_standins"
SECONDS = 60.0
LOST = Failure("its dough is too much to read", final=False, lost=True)


@pytest.fixture
def contents() -> Iterator[Builder[str]]:
    yield from started("contents")


@pytest.fixture
def misbehaving() -> Iterator[Builder[str]]:
    yield from started("misbehave")


def started(function: str) -> Iterator[Builder[str]]:
    builder = Builder[str](f"{STANDINS}:{function}", "dough")
    yield builder
    builder.close()


def answers(builder: Builder[str], count: int = 1) -> list[tuple[str, Any]]:
    """The next answers: what is in the descriptors, or the failures."""
    done: list[tuple[str, Any]] = []
    end = time.monotonic() + 60
    while len(done) < count:
        assert time.monotonic() < end
        if builder.fileno() >= 0:
            ready = select.poll()
            ready.register(builder.fileno(), select.POLLIN)
            ready.poll(1000)
        for key, answer in builder.finished():
            if not isinstance(answer, Failure):
                with open(answer, "rb", closefd=True) as file:
                    file.seek(0)
                    answer = json.loads(file.read())
            done.append((key, answer))
    return done


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def process_of(builder: Builder[str]) -> Any:
    assert builder._process is not None
    return builder._process


def test_questions_and_files_arrive_and_answers_come_in_their_order(contents: Builder[str], tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / text).write_text(text)
    for key, names in (("a", ["one"]), ("b", ["two", "one"]), ("c", [])):
        files = [os.open(tmp_path / name, os.O_RDONLY) for name in names]
        assert contents.submit(key, {"path": "/\udcff/" + key}, files, SECONDS)
    assert len(contents) == 3
    assert answers(contents, 3) == [
        ("a", [{"path": "/\udcff/a"}, "one"]),
        ("b", [{"path": "/\udcff/b"}, "two", "one"]),
        ("c", [{"path": "/\udcff/c"}]),
    ]
    assert len(contents) == 0 and contents.fileno() == -1


def test_no_descriptor_is_left_open_whatever_happens(
    misbehaving: Builder[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    before = open_files()
    monkeypatch.setattr(builder_module, "_MOST_WAITING", 5)
    for what in ("nothing", "refuse", "die", "fail", "nothing", "nothing", "hang", "hang"):
        misbehaving.submit(what, {"do": what, "final": True}, [os.open(tmp_path / "file", os.O_RDONLY)], SECONDS)
    answers(misbehaving, 5)
    misbehaving.submit("hang", {"do": "hang"}, [os.open(tmp_path / "file", os.O_RDONLY)], SECONDS)
    misbehaving.submit("waits", {"do": "hang"}, [os.open(tmp_path / "file", os.O_RDONLY)], SECONDS)
    misbehaving.close()
    assert open_files() == before


def test_the_process_is_modest_and_cut_off_from_the_agent() -> None:
    builder = Builder[str](f"{STANDINS}:limits", "dough")
    builder.submit("", {}, [], SECONDS)
    ((_, found),) = answers(builder)
    builder.close()
    nice = min(os.nice(0) + 10, 19)
    assert found["nice"] == nice and found["memory"] == MOST_MEMORY and found["core"] == 0 and found["victim"] >= 800
    assert found["session"] and found["output"]
    assert found["files"] == 4  # three of /dev/null and the connection


def test_an_answer_in_memory_can_be_changed_by_nobody() -> None:
    file = in_memory("test", b"one", b"two")
    assert os.pread(file, 10, 0) == b"onetwo"
    for change in (lambda: os.pwrite(file, b"x", 0), lambda: os.ftruncate(file, 0), lambda: os.ftruncate(file, 10)):
        with pytest.raises(OSError):
            change()
    with pytest.raises(OSError):
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0)
    os.close(file)


@pytest.mark.parametrize(
    ("question", "failure"),
    [
        ({"do": "refuse", "final": True}, Failure("it is of no use", final=True)),
        ({"do": "refuse", "final": False}, Failure("it is of no use", final=False)),
        ({"do": "fail"}, Failure("its dough cannot be read: there is something wrong with it", final=False)),
        ({"do": "eat"}, Failure("its dough takes more than 2 GB of memory to read", final=True)),
        ({"do": "talk"}, Failure(("words " * 200)[:1000], final=True)),
        ({"do": "die"}, LOST),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
def test_what_goes_wrong_with_one_file_has_a_reason_and_the_next_is_built(
    misbehaving: Builder[str], question: dict[str, Any], failure: Failure
) -> None:
    misbehaving.submit("bad", question, [], SECONDS)
    misbehaving.submit("good", {"do": "nothing"}, [], SECONDS)
    (bad, answer), (good, pid) = answers(misbehaving, 2)
    assert (bad, answer, good) == ("bad", failure, "good") and pid > 0


def test_a_function_that_is_not_there_is_a_reason_too() -> None:
    for name in (f"{STANDINS}:nowhere", "nowhere:nothing"):
        builder = Builder[str](name, "dough")
        builder.submit("", {}, [], SECONDS)
        ((_, failure),) = answers(builder)
        assert failure.reason.startswith("its dough cannot be read: ") and "nowhere" in failure.reason
        builder.close()


def test_what_hangs_is_given_up_and_its_process_killed(misbehaving: Builder[str]) -> None:
    misbehaving.submit("hangs", {"do": "hang"}, [], 0.0)
    process = process_of(misbehaving)
    assert misbehaving.finished() == [("hangs", Failure("its dough takes too long to read", final=False, lost=True))]
    process.wait(60)
    misbehaving.submit("next", {"do": "nothing"}, [], SECONDS)
    assert answers(misbehaving)[0][1] != process.pid


def test_a_process_whose_agent_is_gone_ends(contents: Builder[str]) -> None:
    contents.submit("", {}, [], SECONDS)
    answers(contents)
    process = process_of(contents)
    assert contents._socket is not None
    contents._socket.close()
    assert process.wait(60) == 0


def test_a_process_that_hangs_ends_itself_where_the_agent_is_gone(misbehaving: Builder[str]) -> None:
    misbehaving.submit("", {"do": "hang"}, [], -4.9)  # less than nothing, so as not to wait for the grace time
    assert process_of(misbehaving).wait(60) < 0


def test_a_process_that_died_idle_costs_nothing(misbehaving: Builder[str]) -> None:
    misbehaving.submit("one", {"do": "nothing"}, [], SECONDS)
    ((_, pid),) = answers(misbehaving)
    process_of(misbehaving).kill()
    process_of(misbehaving).wait(60)
    misbehaving.submit("two", {"do": "nothing"}, [], SECONDS)
    ((key, another),) = answers(misbehaving)
    assert key == "two" and another != pid


def test_one_process_serves_many_and_is_ended_when_it_is_idle(
    misbehaving: Builder[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abc":
        misbehaving.submit(key, {"do": "nothing"}, [], SECONDS)
    pids = {pid for _, pid in answers(misbehaving, 3)}
    assert len(pids) == 1
    assert misbehaving.memory_bytes() > 0
    spent = misbehaving.cpu_ns()
    assert spent > 0
    process = process_of(misbehaving)
    monkeypatch.setattr(builder_module, "_IDLE_SECONDS", -1.0)
    misbehaving.finished()
    assert misbehaving.memory_bytes() == 0
    process.wait(60)
    misbehaving.finished()
    assert misbehaving._ending == []


def test_cpu_time_is_not_forgotten_with_the_process(misbehaving: Builder[str]) -> None:
    misbehaving.submit("", {"do": "nothing"}, [], SECONDS)
    answers(misbehaving)
    spent = misbehaving.cpu_ns()
    misbehaving.close()
    assert misbehaving._process is None and misbehaving.cpu_ns() >= spent > 0
    misbehaving.submit("", {"do": "nothing"}, [], SECONDS)
    answers(misbehaving)
    assert misbehaving.cpu_ns() > spent


def test_a_process_that_has_grown_large_is_replaced(misbehaving: Builder[str]) -> None:
    """What it holds on to would be missing from the memory that the next file may take."""
    misbehaving.submit("large", {"do": "grow"}, [], SECONDS)
    misbehaving.submit("next", {"do": "nothing"}, [], SECONDS)
    (_, first), (_, second) = answers(misbehaving, 2)
    assert first != second


def test_questions_that_cannot_be_sent_are_refused(
    contents: Builder[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    before = open_files()
    files = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(MOST_FILES + 1)]
    assert not contents.submit("many", {}, files, SECONDS)
    assert not contents.submit("long", {"path": "x" * 70_000}, [os.open(tmp_path / "file", os.O_RDONLY)], SECONDS)
    monkeypatch.setattr(builder_module, "_MOST_WAITING", 0)
    assert not contents.submit("late", {}, [os.open(tmp_path / "file", os.O_RDONLY)], SECONDS)
    assert open_files() == before and len(contents) == 0


def test_a_process_that_cannot_be_started_is_a_reason(contents: Builder[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module.sys, "executable", "/nowhere/python")  # type: ignore[attr-defined]
    before = open_files()
    contents.submit("a", {}, [], SECONDS)
    assert len(contents) == 1
    assert contents.finished() == [("a", Failure("the builder cannot be started", final=False))]
    assert open_files() == before and len(contents) == 0


def test_no_more_are_started_while_some_do_not_end(misbehaving: Builder[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs on a file system cannot be killed."""
    monkeypatch.setattr(builder_module, "_MOST_ENDING", 0)
    misbehaving.submit("a", {"do": "nothing"}, [], SECONDS)
    assert misbehaving.finished() == [("a", Failure("the builder cannot be started", final=False))]


def test_an_agent_with_as_many_files_open_as_it_may_gets_a_reason(misbehaving: Builder[str]) -> None:
    misbehaving.submit("first", {"do": "nothing"}, [], SECONDS)
    answers(misbehaving)
    misbehaving.submit("second", {"do": "nothing"}, [], SECONDS)
    ready = select.poll()
    ready.register(misbehaving.fileno(), select.POLLIN)
    ready.poll(60_000)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        done = misbehaving.finished()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert done == [("second", Failure("its dough cannot be taken over: too many open files", final=False))]
