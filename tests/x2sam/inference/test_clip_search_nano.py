"""Words over a short generated clip with the embedded model: what is found lasts over the clip, step by step."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from x2sam.data.scenes import generate_clip
from x2sam.inference.clip_search import sampled
from x2sam.structures import Prompt

NANO = Path(__file__).parents[3] / "x2sam" / "checkpoints" / "nano" / "model.safetensors"
FRAMES = 6

pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")


@pytest.fixture(scope="module")
def nano():
    from x2sam.inference.engine import Engine

    with Engine.load("nano", device="cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def sample():
    clips = (generate_clip(np.random.default_rng(seed), FRAMES, (160, 208)) for seed in range(40))
    return next(clip for clip in clips if 2 <= len(clip.objects) <= 4 and clip.objects[0].phrases)


def test_a_phrase_has_one_target_that_can_be_tracked(nano, sample):
    session = nano.open(sample.frames)
    search = session.find_in_clip(Prompt(text=sample.objects[0].phrases[0]))
    slowest, begun = 0.0, time.monotonic()
    for _ in search:
        slowest, begun = max(slowest, time.monotonic() - begun), time.monotonic()
    (found,) = search.found()
    assert search.looked == sampled(range(FRAMES)) and set(found.findings) <= set(search.looked)
    assert slowest < 10, "a step is a frame or two, never the whole search"
    masks = {step.frame: step.masks[0].mask for step in session.track([found.object_id], direction="both")}
    assert sorted(masks) == list(range(FRAMES))
    for frame, mask in found.masks.items():
        np.testing.assert_array_equal(masks[frame], mask.mask)


def test_names_and_the_paper_s_stream(nano, sample):
    names = tuple(dict.fromkeys(thing.category for thing in sample.objects))
    for memory in (None, "fifo"):
        search = nano.open(sample.frames).find_in_clip(Prompt(categories=names), memory=memory, threshold=0.3)
        looks = [step for step in search if step is not None]
        objects = search.found()
        assert all(one.phrase in names for one in objects)
        assert len({one.object_id for one in objects}) == len(objects)
        for look in looks if memory == "fifo" else ():
            ids = [mask.object_id for mask in look.masks]
            assert len(set(ids)) == len(ids) and set(ids) <= {one.object_id for one in objects}
        assert len(looks) == (FRAMES if memory == "fifo" else len(sampled(range(FRAMES))))
