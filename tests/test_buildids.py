"""Build ids of mapped files: read once, noticed when a file is written anew, and "" for what is to be left alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiler import buildids
from profiler.buildids import BuildIds
from symbolizer.types import Mapping


def program(path: Path, build_id: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text("int main(void) { return 0; }\n")
    built = path.with_suffix(".new")
    subprocess.run(["gcc", f"-Wl,--build-id=0x{build_id}", "-o", built, source], check=True)
    path.write_bytes(built.read_bytes())  # into the same inode
    return path


def mapping_of(path: Path) -> Mapping:
    status = os.stat(path)
    return Mapping(0x1000, 0x2000, 0, str(path), device=status.st_dev, inode=status.st_ino)


@pytest.fixture
def ids(monkeypatch: pytest.MonkeyPatch) -> BuildIds:
    monkeypatch.setattr(buildids, "LOOK_AGAIN_SECONDS", 0.0)
    return BuildIds()


def test_the_build_id_of_a_mapped_file_is_read(ids: BuildIds, tmp_path: Path) -> None:
    assert ids.of(mapping_of(program(tmp_path / "a", "ab" * 20)), os.getpid()) == "ab" * 20


def test_a_file_that_is_written_anew_in_its_place_has_its_new_build_id(ids: BuildIds, tmp_path: Path) -> None:
    path = program(tmp_path / "a", "ab" * 20)
    assert ids.of(mapping_of(path), os.getpid()) == "ab" * 20
    program(path, "cd" * 20)
    assert ids.of(mapping_of(path), os.getpid()) == "cd" * 20


def test_a_file_whose_path_another_took_keeps_the_build_id_it_had(ids: BuildIds, tmp_path: Path) -> None:
    mapping = mapping_of(program(tmp_path / "a", "ab" * 20))
    assert ids.of(mapping, os.getpid()) == "ab" * 20
    os.replace(program(tmp_path / "b", "cd" * 20), tmp_path / "a")
    assert ids.of(mapping, os.getpid()) == "ab" * 20


def test_a_file_is_known_after_its_process_has_gone(ids: BuildIds, tmp_path: Path) -> None:
    mapping = mapping_of(program(tmp_path / "a", "ab" * 20))
    ids.of(mapping, os.getpid())
    (tmp_path / "a").unlink()
    assert ids.of(mapping, (1 << 22) + 5) == "ab" * 20


def test_what_is_no_file_or_no_elf_file_or_not_there_has_none(ids: BuildIds, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert ids.of(mapping_of(text), os.getpid()) == ""
    assert ids.of(mapping_of(fifo), os.getpid()) == ""
    assert ids.of(Mapping(0, 1, 0, "/no/such/file", device=1, inode=1), os.getpid()) == ""
    assert ids.of(Mapping(0, 1, 0, "[heap]"), os.getpid()) == ""


def test_within_a_second_nothing_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mapping = BuildIds(), mapping_of(program(tmp_path / "a", "ab" * 20))
    assert ids.of(mapping, os.getpid()) == "ab" * 20
    monkeypatch.setattr(os, "stat", lambda *a, **k: pytest.fail("looked again"))
    assert ids.of(mapping, os.getpid()) == "ab" * 20
