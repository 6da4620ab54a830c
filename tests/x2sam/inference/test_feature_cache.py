"""The feature cache: bytes, order of use, media, threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from x2sam.inference.feature_cache import FeatureCache


@dataclass
class Value:
    nbytes: int


def fill(cache: FeatureCache, *names: str, size: int = 10) -> None:
    for name in names:
        cache.get((name, "encoded"), lambda: Value(size))


def kept(cache: FeatureCache, *names: str) -> list[str]:
    """Those of ``names`` that are there; asking changes neither order nor counts."""
    return [name for name in names if (name, "encoded") in cache._items]


def test_a_value_is_made_once():
    cache, made = FeatureCache(100), []
    values = [cache.get("k", lambda: made.append(1) or Value(10)) for _ in range(3)]
    assert len(made) == 1 and values[0] is values[1] is values[2]
    assert (cache.hits, cache.misses, cache.used, len(cache)) == (2, 1, 10, 1)


def test_what_was_not_used_for_longest_goes_first():
    cache = FeatureCache(30)
    fill(cache, "a", "b", "c")
    fill(cache, "a")  # used again, so that b is the oldest
    fill(cache, "d")
    assert kept(cache, "a", "b", "c", "d") == ["a", "c", "d"]


def test_bytes_count_and_not_values():
    cache = FeatureCache(100)
    fill(cache, "a", "b", "c", "d", size=25)
    assert cache.used == 100 and len(cache) == 4
    fill(cache, "large", size=60)
    assert cache.used == 85 and kept(cache, "a", "b", "c", "d", "large") == ["d", "large"]


def test_what_is_larger_than_all_is_given_but_not_kept():
    cache = FeatureCache(30)
    fill(cache, "a", "b")
    assert cache.get("huge", lambda: Value(31)).nbytes == 31
    assert kept(cache, "a", "b") == ["a", "b"] and cache.used == 20


def test_without_a_budget_nothing_is_kept():
    cache = FeatureCache(0)
    fill(cache, "a")
    assert len(cache) == 0 and cache.used == 0
    with pytest.raises(ValueError, match="negative"):
        FeatureCache(-1)


def test_a_new_value_takes_the_bytes_of_the_old():
    cache = FeatureCache(100)
    cache.put("k", Value(40))
    cache.put("k", Value(70))
    assert cache.used == 70 and len(cache) == 1
    cache.put("k", Value(101))
    assert cache.used == 0 and len(cache) == 0


def test_media_are_forgotten_whole():
    cache = FeatureCache(1000)
    for media in ("one", "two"):
        for frame in range(3):
            cache.put((media, "encoded", frame), Value(10))
    cache.forget("one")
    assert len(cache) == 3 and cache.used == 30
    cache.forget("unknown")
    assert len(cache) == 3


def test_a_failing_maker_leaves_nothing_behind():
    cache = FeatureCache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get("k", lambda: 1 / 0)
    assert len(cache) == 0 and cache.get("k", lambda: Value(5)).nbytes == 5


def test_making_does_not_hold_up_others():
    """A value takes seconds to make; what is there already must be given meanwhile."""
    cache = FeatureCache(100)
    fill(cache, "ready")
    making, go = threading.Event(), threading.Event()

    def slow() -> Value:
        making.set()
        assert go.wait(10)
        return Value(10)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(cache.get, "slow", slow)
        assert making.wait(10)
        fill(cache, "ready")
        assert cache.hits == 1
        go.set()
        assert pending.result(10).nbytes == 10


def test_threads_keep_the_books():
    cache = FeatureCache(200)

    def work(seed: int) -> None:
        for i in range(300):
            key = ((seed * 7 + i) % 5, "encoded", (seed + i * 3) % 11)
            assert cache.get(key, lambda size=1 + i % 40: Value(size)).nbytes >= 1
            if i % 50 == 0:
                cache.forget(seed % 5)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result(30)
    assert cache.used == sum(size for _, size in cache._items.values()) <= 200
    assert cache.hits + cache.misses == 8 * 300
