"""Resampling, grouping and the order of sources, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from x2sam.data.engine_schedule import (
    BatchSizes,
    Schedule,
    Source,
    draw_sources,
    groups_of_equal_length,
    repeat_factors,
    repeated,
)
from x2sam.errors import TrainingError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(name: str, count: int) -> Source:
    return Source(name, "image", np.ones(count, np.int64))


def clips(name: str, lengths: list[int]) -> Source:
    return Source(name, "video", np.array(lengths))


def test_repeat_factors():
    # shares of 1000: 0.9, 0.09, 0.01; max(1, sqrt(0.1 / f)): 1, sqrt(1.1111) = 1.0541, sqrt(10) = 3.1623
    assert repeat_factors([900, 90, 10]) == pytest.approx([1.0, 1.05409, 3.16228], abs=1e-5)
    # exactly a tenth is not repeated; with t = 0.4 it is, twice
    assert repeat_factors([900, 100]) == [1.0, 1.0]
    assert repeat_factors([900, 100], 0.4) == pytest.approx([1.0, 2.0])


def test_repeated_takes_every_sample_equally_often_but_for_a_random_rest():
    # 10 samples 3.16228 times are round(31.6) = 32 indices: three rounds of ten and two more
    counts = Counter(repeated(10, 3.16228, rng()).tolist())
    assert sorted(counts.values()) == [3] * 8 + [4] * 2
    assert repeated(10, 1.0, rng()).tolist() != list(range(10)) and len(repeated(10, 1.0, rng())) == 10


def test_groups_have_one_length_and_the_rest_is_filled_with_neighbours():
    # lengths 8 (five times: samples 0, 2, 3, 5, 6), 2 (samples 1 and 4) and 4 (sample 7); groups of three
    lengths = np.array([8, 2, 8, 8, 2, 8, 8, 4])
    groups = groups_of_equal_length(np.arange(8), lengths, 3)
    # shortest first. Length 2: 1, 4 and, in a circle, 1 again. Length 4: its only sample. Length 8: the first three,
    # then 5, 6 and their neighbour 3
    assert groups.tolist() == [[1, 4, 1], [7, 7, 7], [0, 2, 3], [3, 5, 6]]
    assert all(len({lengths[i] for i in group}) == 1 for group in groups)


def test_sources_are_drawn_uniformly_among_those_with_samples_left():
    drawn = draw_sources([1000, 1000, 10], rng())
    assert Counter(drawn.tolist()) == {0: 1000, 1: 1000, 2: 10}
    # while all three are open each has one chance in three, however small it is: ten draws of the small source take
    # about thirty steps, not two thousand
    last = int(np.flatnonzero(drawn == 2)[-1])
    assert 12 <= last <= 90
    # then one in two: of the next thousand 500 +- 16 (one deviation)
    assert 430 <= np.count_nonzero(drawn[last + 1 : last + 1001] == 0) <= 570


def test_a_global_batch_is_of_one_source_with_four_images_or_four_clips_in_turn():
    sources = [images("pictures", 40), clips("videos", [8] * 16 + [3] * 8)]
    schedule = Schedule(sources, BatchSizes(), processes=2)
    # a step of two processes: 1 pass of 4 pictures each, or 4 passes of 1 clip each, so 8 samples either way:
    # 40 / 8 = 5 steps, 16 / 8 + 8 / 8 = 3 steps
    assert schedule.steps_per_pass == 8
    shapes, seen = Counter(), Counter()
    for number in range(8):
        batch = schedule[number]
        shapes[batch.source, batch.samples.shape] += 1
        assert len(set(sources[batch.source].lengths[batch.samples.ravel()])) == 1
        seen.update((batch.source, int(i)) for i in batch.samples.ravel())
    assert shapes == {(0, (1, 2, 4)): 5, (1, (4, 2, 1)): 3}
    assert set(seen.values()) == {1} and len(seen) == 64


def test_a_step_is_found_by_its_number_alone():
    sources = [images("a", 24), images("b", 9)]
    first, second = Schedule(sources, BatchSizes(), seed=5), Schedule(sources, BatchSizes(), seed=5)
    steps = first.steps_per_pass
    assert steps == 6 + 3
    for number in (2 * steps, 0, steps - 1, 7):  # any order; the later passes are other permutations
        assert first[number].source == second[number].source
        assert np.array_equal(first[number].samples, second[number].samples)
    passes = [[first[p * steps + k].samples.tolist() for k in range(steps)] for p in range(2)]
    assert passes[0] != passes[1]
    other = Schedule(sources, BatchSizes(), seed=6)
    assert [other[k].samples.tolist() for k in range(steps)] != passes[0]


def test_small_datasets_are_repeated_in_a_pass():
    # shares 400/404 and 4/404: factor sqrt(0.1 * 404 / 4) = 3.178, round(4 * 3.178) = 13 samples, 4 groups of 4
    schedule = Schedule([images("large", 400), images("small", 4)], BatchSizes())
    assert schedule.factors == pytest.approx([1.0, math.sqrt(10.1)])
    taken = Counter(schedule[k].source for k in range(schedule.steps_per_pass))
    assert taken == {0: 100, 1: 4}


def test_what_can_not_be_learned_from_is_refused():
    with pytest.raises(TrainingError, match="nothing to learn from: bare"):
        Schedule([images("a", 1), images("bare", 0)], BatchSizes())
    with pytest.raises(TrainingError, match="no dataset"):
        Schedule([], BatchSizes())
    with pytest.raises(TrainingError, match="at least 1"):
        BatchSizes(images=0)
