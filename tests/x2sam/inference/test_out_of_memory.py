"""Memory that runs out on the device's thread: caches are emptied, the work is done once more, or told clearly."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from x2sam.errors import DeviceMemoryError
from x2sam.inference.engine import LEAST_CACHE
from x2sam.structures import Point, Prompt

SIZE = (60, 80)
CLICK = Prompt(points=(Point(20, 20),))
BUDGET = 4 * LEAST_CACHE


def clip(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, *SIZE, 3), np.uint8)


@pytest.fixture
def engine(build_engine, sketching_model):
    return build_engine(sketching_model, snap=False, cache_bytes=BUDGET)


def like_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def really():
    """A petabyte, which PyTorch's allocator refuses on every machine."""
    torch.empty(1 << 50, dtype=torch.uint8)


@contextmanager
def short(part, fail, calls):
    """``part`` of the network runs out of memory at those of its calls (counted from 0)."""
    counted = iter(range(1 << 30))
    hook = part.register_forward_pre_hook(lambda *_: fail() if next(counted) in calls else None)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("fail", [like_a_gpu, really])
@pytest.mark.parametrize("part", ["mask_encoder", "mask_decoder"])
def test_a_click_is_answered_once_there_is_room(engine, build_engine, sketching_model, fail, part):
    (expected,) = build_engine(sketching_model, snap=False).open(clip(1)[0]).segment(CLICK)
    engine.open(clip(2)[1], "another").segment(CLICK)
    assert len(engine.cache)
    session = engine.open(clip(1)[0], "one")
    with short(getattr(engine.model, part), fail, {0}):
        (mask,) = session.segment(CLICK)
    np.testing.assert_array_equal(mask.mask, expected.mask)
    assert mask.score == expected.score
    assert not [key for key in engine.cache._items if key[0] == "another"], "room was made"
    assert engine.cache.budget == BUDGET // 2 and engine.vitals.shortages == 1 and engine.vitals.restarts == 0


def test_what_does_not_fit_is_told_and_the_next_one_is_answered(engine):
    session = engine.open(clip(1)[0])
    with short(engine.model.mask_decoder, really, range(99)), pytest.raises(DeviceMemoryError, match="too little"):
        session.segment(CLICK)
    assert engine.vitals.shortages == 2, "tried once more and no oftener"
    assert session.segment(CLICK)[0].mask.shape == SIZE
    for _ in range(9):
        engine.cache.shrink(LEAST_CACHE)
    assert engine.cache.budget == LEAST_CACHE


def test_other_errors_are_none_of_memory(engine):
    def wrong():
        raise RuntimeError("shapes differ")

    with short(engine.model.mask_decoder, wrong, {0}), pytest.raises(RuntimeError, match="shapes differ"):
        engine.open(clip(1)[0]).segment(CLICK)
    assert engine.vitals.shortages == 0


def tracked(engine):
    session = engine.open(clip(4))
    (mask,) = session.segment(CLICK)
    return session, mask.object_id


def walk(session, name):
    return [frame.masks[0].mask for frame in session.track([name])]


def test_a_track_goes_on_as_if_nothing_had_been(engine, build_engine, sketching_model):
    expected = walk(*tracked(build_engine(sketching_model, snap=False)))
    session, name = tracked(engine)
    with short(engine.model.mask_encoder, really, {1}):
        found = walk(session, name)
    np.testing.assert_array_equal(found, expected)
    assert engine.vitals.shortages == 1


def test_a_track_that_breaks_half_way_is_not_advanced_twice(engine, build_engine, sketching_model):
    expected = walk(*tracked(build_engine(sketching_model, snap=False)))
    session, name = tracked(engine)
    walked = session.track([name])
    next(walked)
    with short(engine.model.mask_decoder, like_a_gpu, {0}), pytest.raises(DeviceMemoryError):
        next(walked)
    assert engine.vitals.shortages == 1
    np.testing.assert_array_equal(walk(session, name), expected)
