from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.file_cache import FileCache


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_put_get_forget(tmp_path, clock):
    cache = FileCache(tmp_path / "new" / "folder", 1000, 60, clock)
    assert cache.get("a") is None
    stored = cache.put("a", iter([b"hel", b"lo"]))
    assert cache.get("a") == stored
    assert stored.path.read_bytes() == b"hello"
    assert stored.size == cache.total_bytes == 5
    assert cache.put("b", [b"hello"]).digest == stored.digest
    cache.forget("a")
    assert cache.get("a") is None
    assert not stored.path.exists()
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_failed_fetch_leaves_nothing(tmp_path, clock):
    cache = FileCache(tmp_path, 1000, 60, clock)

    def broken():
        yield b"half"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.put("a", broken())
    assert cache.get("a") is None
    assert names(tmp_path) == []


def test_the_least_used_go_first_when_it_is_full(tmp_path, clock):
    cache = FileCache(tmp_path, 10, 60, clock)
    for name in "abc":
        cache.put(name, [b"1234"[: 3 + (name == "c")]])
        cache.get("a")
    assert cache.get("b") is not None
    cache.get("a")
    cache.put("d", [b"12345"])
    assert [name for name in "abcd" if cache.get(name)] == ["a", "d"]
    assert cache.total_bytes == 8
    assert len(names(tmp_path)) == 2


def test_a_file_larger_than_the_cache_can_still_be_used(tmp_path, clock):
    cache = FileCache(tmp_path, 3, 60, clock)
    assert cache.put("a", [b"12345"]).path.read_bytes() == b"12345"


def test_old_files_are_fetched_again(tmp_path, clock):
    cache = FileCache(tmp_path, 1000, 60, clock)
    cache.put("a", [b"1"])
    clock.now += 61
    assert cache.get("a") is None
    new = cache.put("a", [b"2"])
    assert cache.get("a") == new
    assert len(names(tmp_path)) == 1


def test_files_outlive_the_process_and_halves_of_files_do_not(tmp_path, clock):
    stored = FileCache(tmp_path, 1000, 60, clock).put("a", [b"hello"])
    os.utime(stored.path, (clock.now, clock.now))
    half = tmp_path / "x.part"
    half.write_bytes(b"ha")
    os.utime(half, (clock.now - 7200, clock.now - 7200))
    again = FileCache(tmp_path, 1000, 60, clock)
    assert again.get("a").digest == stored.digest
    assert not half.exists()


def test_many_threads(tmp_path):
    cache = FileCache(tmp_path, 200, 60)

    def work(number):
        name = str(number % 7)
        file = cache.get(name) or cache.put(name, [name.encode() * 50])
        return file.size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {50}
    assert cache.total_bytes <= 200


def test_a_file_that_somebody_else_removed(tmp_path):
    cache = FileCache(tmp_path, 1000, 60)
    cache.put("a", [b"hello"]).path.unlink()
    assert cache.get("a") is None
    assert cache.total_bytes == 0
    assert cache.put("a", [b"again"]).path.read_bytes() == b"again"
