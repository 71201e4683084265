"""Tables built in a process of their own: right, one after the other, and whatever becomes of that process."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from profiler.unwind import worker as worker_module
from profiler.unwind.cache import TableCache
from profiler.unwind.cfi import build_table
from profiler.unwind.table import UnwindTable
from profiler.unwind.worker import Failure, TableWorker
from symbolizer import builder as builder_module
from symbolizer.files import read_at

PROGRAM = Path("/bin/sh").resolve()
BUILD_ID = "ab" * 20


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[TableWorker]:
    started = TableWorker(tmp_path / "cache")
    yield started
    started.close()


def opened(path: Path = PROGRAM) -> int:
    return os.open(path, os.O_RDONLY)


def wait_for(worker: TableWorker, count: int = 1) -> list[tuple[int, UnwindTable | Failure]]:
    done: list[tuple[int, UnwindTable | Failure]] = []
    end = time.monotonic() + 60
    while len(done) < count:
        assert time.monotonic() < end
        if worker.fileno() >= 0:
            ready = select.poll()
            ready.register(worker.fileno(), select.POLLIN)
            ready.poll(1000)
        done += worker.finished()
    return done


def test_a_table_comes_back_as_it_is_built_here_and_is_in_the_cache(worker: TableWorker, tmp_path: Path) -> None:
    assert worker.submit(7, BUILD_ID, opened())
    ((number, table),) = wait_for(worker)
    file = opened()
    expected = build_table(lambda offset, size: read_at(file, offset, size))
    os.close(file)
    assert number == 7 and isinstance(table, UnwindTable) and table.to_bytes() == expected.to_bytes()
    cached = TableCache(tmp_path / "cache").get(BUILD_ID)
    assert cached is not None and cached.to_bytes() == expected.to_bytes()
    assert worker.cpu_ns() > 0 and worker.memory_bytes() > 0


def test_without_a_build_id_nothing_is_kept_on_disk(worker: TableWorker, tmp_path: Path) -> None:
    worker.submit(1, "", opened())
    assert isinstance(wait_for(worker)[0][1], UnwindTable)
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_answers_come_in_the_order_of_the_questions_and_say_what_is_wrong_with_a_file(
    worker: TableWorker, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("no ELF file\n" * 100)
    for number, path in enumerate([PROGRAM, text, PROGRAM]):
        worker.submit(number, "", opened(path))
    answers = wait_for(worker, 3)
    assert [number for number, _ in answers] == [0, 1, 2]
    assert [isinstance(answer, Failure) and answer.final for _, answer in answers] == [False, True, False]


def test_a_builder_that_dies_costs_the_table_it_was_building_and_no_other(
    worker: TableWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.submit(1, "", opened())
    assert worker._builder._process is not None
    worker._builder._process.kill()
    ((number, reason),) = wait_for(worker)
    assert number == 1 and reason == Failure("its unwind information is too much to read", final=False, lost=True)
    worker.submit(2, "", opened())
    assert isinstance(wait_for(worker)[0][1], UnwindTable)


def test_a_builder_that_died_idle_is_replaced(worker: TableWorker) -> None:
    worker.submit(1, "", opened())
    wait_for(worker)
    assert worker._builder._process is not None
    worker._builder._process.kill()
    worker._builder._process.wait()
    worker.submit(2, "", opened())
    answers = wait_for(worker)
    assert answers[0][0] == 2


def test_a_file_that_takes_too_long_is_given_up(worker: TableWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_LONGEST_SECONDS", 0.0)
    worker.submit(1, "", opened())
    reason = Failure("its unwind information takes too long to read", final=False, lost=True)
    assert worker.finished() == [(1, reason)]


def test_more_files_than_may_wait_are_refused_and_closed(worker: TableWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "_MOST_WAITING", 1)
    files = [opened() for _ in range(3)]
    assert [worker.submit(number, "", file) for number, file in enumerate(files)] == [True, True, False]
    with pytest.raises(OSError):
        os.fstat(files[2])
    assert len(wait_for(worker, 2)) == 2


def test_a_builder_with_nothing_to_do_is_ended(worker: TableWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.submit(1, "", opened())
    wait_for(worker)
    spent = worker.cpu_ns()
    monkeypatch.setattr(builder_module, "_IDLE_SECONDS", 0.0)
    worker.finished()
    assert worker.memory_bytes() == 0 and worker.cpu_ns() >= spent and worker.fileno() == -1
