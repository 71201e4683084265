"""Files by build id on disk: for every kind of file; tests/test_unwind_cache.py has what holds for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from symbolizer.cachefolder import SEAL_BYTES, CacheFolder, is_build_id, owned_id

ID, OTHER = "5f" * 20, "a0" * 20
CONTENTS = bytes(range(256)) * 4096  # 1 MiB
ENDS = 4096


def cache_of(folder: Path, version: int = 3, limit_bytes: int = 10 << 20, ends: int | None = ENDS) -> CacheFolder:
    return CacheFolder(folder, "test", version, limit_bytes, most_bytes=8 << 20, sealed_ends=ends)


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return cache_of(tmp_path / "cache")


def names(cache: CacheFolder) -> set[str]:
    return {file.name for file in cache.folder.iterdir()}


def file_of(cache: CacheFolder, build_id: str) -> Path:
    (file,) = cache.folder.glob(f"{build_id}.*")
    return file


def opened(cache: CacheFolder, build_id: str) -> bytes | None:
    """The contents by way of a descriptor."""
    file = cache.open(build_id)
    if file is None:
        return None
    with open(file, "rb") as whole:
        return whole.read()[:-SEAL_BYTES]


@contextmanager
def damaged(file: Path, at: int) -> Iterator[None]:
    data = file.read_bytes()
    at %= len(data)
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    yield


@pytest.mark.parametrize("contents", [b"", b"x", CONTENTS[: 2 * ENDS], CONTENTS[: 2 * ENDS + 1], CONTENTS])
def test_contents_come_back_read_or_opened(cache: CacheFolder, contents: bytes) -> None:
    assert cache.put(ID, contents)
    assert cache.read(ID) == contents and opened(cache, ID) == contents
    assert names(cache) == {f"{ID}.v3.test"}


def test_a_file_open_for_its_contents_stays_when_it_is_deleted_or_replaced(cache: CacheFolder) -> None:
    cache.put(ID, b"one")
    file = cache.open(ID)
    assert file is not None
    cache.put(ID, b"two")
    cache.delete(ID)
    assert os.pread(file, 3, 0) == b"one" and names(cache) == set()
    os.close(file)


@pytest.mark.parametrize("at", [0, ENDS - 1, -SEAL_BYTES - ENDS, -SEAL_BYTES - 1, -SEAL_BYTES, -1])
def test_damage_where_the_seal_is_or_what_it_covers_is_found_and_the_file_deleted(cache: CacheFolder, at: int) -> None:
    for get in (cache.open, cache.read):
        cache.put(ID, CONTENTS)
        with damaged(file_of(cache, ID), at):
            assert get(ID) is None and names(cache) == set()


def test_damage_in_between_is_found_by_who_reads_a_kind_that_is_sealed_whole(tmp_path: Path) -> None:
    ends, whole = cache_of(tmp_path / "ends"), cache_of(tmp_path / "whole", ends=None)
    for cache in (ends, whole):
        cache.put(ID, CONTENTS)
        with damaged(file_of(cache, ID), ENDS):
            found = cache.open(ID)
            assert (found is None) == (cache is whole)
            if found is not None:
                os.close(found)


@pytest.mark.parametrize("size", [0, 1, SEAL_BYTES - 1, SEAL_BYTES, len(CONTENTS), len(CONTENTS) + SEAL_BYTES - 1])
def test_a_file_cut_short_is_found_and_deleted(cache: CacheFolder, size: int) -> None:
    for get in (cache.open, cache.read):
        cache.put(ID, CONTENTS)
        os.truncate(file_of(cache, ID), size)
        assert get(ID) is None and names(cache) == set()


def test_a_file_is_not_taken_for_another(cache: CacheFolder) -> None:
    cache.put(ID, CONTENTS)
    file = file_of(cache, ID)
    file.rename(file.with_name(file.name.replace(ID, OTHER)))
    assert cache.open(OTHER) is None and cache.read(OTHER) is None


@pytest.mark.parametrize("build_id", [ID, "0", "content:" + ID, ID + "@1000", f"content:{ID}@{OTHER}"])
def test_each_build_id_has_a_file_of_its_own(cache: CacheFolder, build_id: str) -> None:
    cache.put(ID[:-1], b"of another")
    assert is_build_id(build_id) and cache.read(build_id) is None
    assert cache.put(build_id, b"its own") and cache.read(build_id) == b"its own"
    assert cache.read(ID[:-1]) == b"of another"


@pytest.mark.parametrize("text", ["", ".", "..", "../" + ID, "AB", "x", ID + "@", ID + "@../1", ID + "\n", "a" * 65])
def test_what_is_no_build_id_names_no_file(cache: CacheFolder, text: str) -> None:
    assert not is_build_id(text) and not cache.put(text, b"x") and cache.read(text) is None and cache.open(text) is None


def test_the_owner_of_a_file_that_others_can_write_is_part_of_its_build_id(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert owned_id(ID, file.fileno()) == ID
        if os.geteuid() == 0:
            os.chown(file.fileno(), 1234, -1)
            assert owned_id(ID, file.fileno()) == f"{ID}@1234" and is_build_id(owned_id(ID, file.fileno()))


def test_files_of_earlier_versions_are_deleted_and_those_of_later_ones_left(tmp_path: Path) -> None:
    old, new, newer = (cache_of(tmp_path, version) for version in (2, 3, 10))
    tmp_path.chmod(0o700)
    for cache in (old, newer):
        assert cache.put(ID, b"other")
        assert new.read(ID) is None
    assert not list(tmp_path.glob("*.v2.test"))
    assert old.put(OTHER, b"old") and new.put(OTHER, b"new")
    assert names(new) == {f"{OTHER}.v3.test", f"{ID}.v10.test"}
    assert newer.read(ID) == b"other"


def test_files_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    other = CacheFolder(tmp_path, "other", 1, 10 << 20, most_bytes=10 << 20)
    tmp_path.chmod(0o700)
    other.put(ID, CONTENTS)
    small = cache_of(tmp_path, limit_bytes=100)
    assert small.put(ID, b"x") and other.read(ID) == CONTENTS


def test_what_is_used_is_not_the_next_to_go(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache", limit_bytes=3 * (1000 + SEAL_BYTES))
    ids = [digit * 40 for digit in "abcde"]
    for age, build_id in enumerate(ids[:3]):
        cache.put(build_id, bytes(1000))
        os.utime(file_of(cache, build_id), (1000 + age, 1000 + age))
    cache.touch(ids[0])
    cache.touch("f" * 40)  # is not there
    cache.put(ids[3], bytes(1000))
    assert [cache.read(build_id) is not None for build_id in ids[:4]] == [True, False, True, True]


def test_a_folder_that_is_removed_is_made_anew(cache: CacheFolder) -> None:
    cache.put(ID, CONTENTS)
    shutil.rmtree(cache.folder)
    assert cache.read(ID) is None and cache.open(ID) is None
    cache.touch(ID)
    cache.delete(ID)
    assert cache.put(ID, CONTENTS) and cache.read(ID) == CONTENTS


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_keeps_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        cache = cache_of(folder)
        assert cache.put(ID, b"small") and not cache.put(OTHER, CONTENTS) and not cache.put(ID, CONTENTS)
        assert cache.read(ID) == b"small" and names(cache) == {f"{ID}.v3.test"}


def test_several_may_write_and_read_at_once(tmp_path: Path) -> None:
    texts = [bytes([digit]) * 50_000 for digit in range(4)]
    found: list[bytes | None] = []

    def use(own: bytes) -> None:
        cache = cache_of(tmp_path / "cache", limit_bytes=2 * 50_100)
        for _ in range(50):
            cache.put(ID, own)
            cache.put(f"{own[0]}" * 40, own)
            found.append(cache.read(ID))
            found.append(opened(cache, ID))

    threads = [Thread(target=use, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400 and set(found) <= {*texts, None}
    assert not [name for name in names(cache_of(tmp_path / "cache")) if not name.endswith(".test")]
