"""Unwind tables on disk: what is kept comes back, and nothing else is ever read."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from profiler.unwind import cache as cache_module
from profiler.unwind.cache import TableCache
from profiler.unwind.cfi import build_table
from profiler.unwind.table import UnwindTable, empty_table

ID, OTHER = "5f" * 20, "a0" * 20


@pytest.fixture(scope="module")
def table() -> UnwindTable:
    """The table of a real file."""
    with open("/proc/self/exe", "rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        return build_table(read)


@pytest.fixture
def cache(tmp_path: Path) -> TableCache:
    return TableCache(tmp_path / "deep" / "unwind")


def only_file(cache: TableCache) -> Path:
    (file,) = cache.folder.iterdir()
    return file


def test_a_table_comes_back_as_it_was(cache: TableCache, table: UnwindTable) -> None:
    assert len(table.rows) > 1000
    assert cache.get(ID) is None
    assert cache.put(ID, table)
    found = TableCache(cache.folder).get(ID)
    assert found is not None and found.to_bytes() == table.to_bytes()
    assert cache.get(OTHER) is None
    assert cache.put(ID, empty_table()) and cache.get(ID).to_bytes() == empty_table().to_bytes()  # type: ignore[union-attr]


def test_folder_and_files_are_for_us_alone(cache: TableCache, table: UnwindTable) -> None:
    before = os.umask(0)
    try:
        cache.put(ID, table)
    finally:
        os.umask(before)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


def test_files_without_a_build_id_are_known_by_their_content(cache: TableCache, table: UnwindTable) -> None:
    assert cache.put("content:" + ID, table)
    assert cache.get("content:" + ID) is not None and cache.get(ID) is None
    assert ":" not in only_file(cache).name


@pytest.mark.parametrize(
    "build_id",
    ["", "../" + ID, "/etc/passwd", "AB12", "xyz", ID + "\0", ID + "\n", "content:", "content:..", "a" * 65, "."],
)
def test_what_is_no_build_id_names_no_file(cache: TableCache, table: UnwindTable, build_id: str) -> None:
    assert not cache.put(build_id, table) and cache.get(build_id) is None
    assert not cache.folder.exists()


def test_a_damaged_file_is_deleted_and_can_be_made_again(cache: TableCache, table: UnwindTable) -> None:
    for damage in (
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ):
        assert cache.put(ID, table)
        file = only_file(cache)
        file.write_bytes(damage(file.read_bytes()))
        assert cache.get(ID) is None
        assert not file.exists()
    assert cache.put(ID, table) and cache.get(ID) is not None


def test_a_table_is_not_taken_for_another_files(cache: TableCache, table: UnwindTable) -> None:
    cache.put(ID, table)
    file = only_file(cache)
    file.rename(file.with_name(file.name.replace(ID, OTHER)))
    assert cache.get(OTHER) is None


def test_a_checksum_does_not_make_a_bad_table_good(cache: TableCache, table: UnwindTable) -> None:
    """Whoever can write the file can write its checksum too."""
    cache.put(ID, table)
    data = bytearray(table.to_bytes())
    data[44:48] = b"\xff\xff\xff\xff"  # the first of the page starts behind the first
    only_file(cache).write_bytes(data + cache._files.seal(ID, bytes(data)))
    assert cache.get(ID) is None
    assert list(cache.folder.iterdir()) == []


def test_tables_of_another_version_are_not_read(
    cache: TableCache, table: UnwindTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(ID, table)
    monkeypatch.setattr(cache_module, "VERSION", 999)
    assert TableCache(cache.folder).get(ID) is None


def test_a_folder_open_to_others_is_not_used(cache: TableCache, table: UnwindTable) -> None:
    cache.put(ID, table)
    for mode in (0o720, 0o702, 0o777):
        cache.folder.chmod(mode)
        assert cache.get(ID) is None and not cache.put(OTHER, table)
    cache.folder.chmod(0o755)
    assert cache.get(ID) is not None


def test_a_folder_behind_a_symbolic_link_is_not_used(tmp_path: Path, table: UnwindTable) -> None:
    real = TableCache(tmp_path / "real")
    real.put(ID, table)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert TableCache(tmp_path / "link").get(ID) is None and not TableCache(tmp_path / "link").put(OTHER, table)
    (tmp_path / "file").write_text("")
    assert TableCache(tmp_path / "file").get(ID) is None and not TableCache(tmp_path / "file").put(ID, table)


def test_a_file_that_is_a_link_a_pipe_or_open_to_others_is_not_read(
    cache: TableCache, table: UnwindTable, tmp_path: Path
) -> None:
    cache.put(ID, table)
    file = only_file(cache)
    file.chmod(0o620)
    assert cache.get(ID) is None
    file.chmod(0o600)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert cache.get(ID) is None
    file.unlink()
    os.mkfifo(file)
    assert cache.get(ID) is None
    file.unlink()
    file.mkdir()
    assert cache.get(ID) is None and not cache.put(ID, table)
    file.rmdir()
    file.symlink_to(tmp_path / "elsewhere")
    assert cache.put(ID, empty_table()) and not file.is_symlink()
    assert (tmp_path / "elsewhere").stat().st_size > 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_used(cache: TableCache, table: UnwindTable) -> None:
    cache.put(ID, table)
    file = only_file(cache)
    os.chown(file, 65534, 65534)
    assert cache.get(ID) is None
    os.chown(file, 0, 0)
    os.chown(cache.folder, 65534, 65534)
    assert cache.get(ID) is None and not cache.put(OTHER, table)


def test_tables_used_longest_ago_go_first(tmp_path: Path, table: UnwindTable) -> None:
    size = len(table.to_bytes()) + 32
    cache = TableCache(tmp_path / "unwind", 3 * size)
    ids = [f"{i:040x}" for i in range(1, 6)]
    for age, build_id in enumerate(ids[:3]):
        assert cache.put(build_id, table)
        (file,) = cache.folder.glob(f"{build_id}*")
        os.utime(file, (1000 + age, 1000 + age))
    assert cache.get(ids[0]) is not None  # used again: the second is now the one to go
    assert cache.put(ids[3], table)
    assert [cache.get(build_id) is not None for build_id in ids[:4]] == [True, False, True, True]
    assert sum(file.stat().st_size for file in cache.folder.iterdir()) <= 3 * size


def test_a_table_larger_than_the_limit_is_not_kept_and_drives_out_no_other(tmp_path: Path, table: UnwindTable) -> None:
    cache = TableCache(tmp_path / "unwind", 4096)
    assert cache.put(ID, empty_table()) and not cache.put(OTHER, table)
    assert cache.get(ID) is not None


def test_files_that_are_not_ours_are_left_alone(tmp_path: Path, table: UnwindTable) -> None:
    cache = TableCache(tmp_path, len(table.to_bytes()) + 100)
    (tmp_path / "notes.txt").write_bytes(bytes(1 << 20))
    tmp_path.chmod(0o700)
    assert cache.put(ID, table) and cache.put(OTHER, table)
    assert (tmp_path / "notes.txt").exists() and cache.get(ID) is None and cache.get(OTHER) is not None


def test_what_an_agent_that_died_left_half_written_is_cleared_away(cache: TableCache, table: UnwindTable) -> None:
    cache.put(ID, table)
    old, new = (cache.folder / (only_file(cache).name + f".{pid}") for pid in (11, 12))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert cache.put(OTHER, table)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_nothing_is_no_error_and_nothing_is_left_behind(
    cache: TableCache, table: UnwindTable, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    cache.put(ID, empty_table())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "rename", refuse)
    assert not cache.put(OTHER, table) and not cache.put(ID, table)
    assert cache.get(ID) is not None
    assert len(list(cache.folder.iterdir())) == 1


def test_a_file_that_can_be_written_only_in_part_is_not_kept(cache: TableCache, table: UnwindTable) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert not cache.put(ID, table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.folder.iterdir()) == []
    assert cache.put(ID, table) and cache.get(ID) is not None


def test_a_folder_that_cannot_be_made_is_no_error(table: UnwindTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not TableCache(tmp_path / "file" / "unwind").put(ID, table)
    assert TableCache(tmp_path / "file" / "unwind").get(ID) is None
