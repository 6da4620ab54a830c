"""Rules worked out by hand on pictures of a few pixels, for what no stored reference covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from x2sam.data.tasks import IMAGE, TASKS, VIDEO, find_task
from x2sam.errors import PromptError
from x2sam.inference import query_masks
from x2sam.inference.object_choice import overlap, prompt_like
from x2sam.inference.postprocess import (
    ObjectAnchor,
    ObjsegState,
    PanopticLimits,
    PanopticState,
    Prediction,
    Quirks,
    Rule,
    best_query,
    best_query_per_phrase,
    instances,
    new_state,
    panoptic,
    postprocess,
    prompted_region,
    semantic,
    tracked_object,
    union_of_queries,
)
from x2sam.inference.preprocess import FrameSizes

SIZE = 8
PLAIN = FrameSizes((SIZE, SIZE), (SIZE, SIZE), (SIZE, SIZE))
LEFT, RIGHT, ALL = (0, 4), (4, 8), (0, 8)
SURE = 12.0
REFERENCE, MENDED = Quirks.reference(), Quirks.mended()


def prediction(columns: list[tuple[int, int]], scores: list[list[float]], sizes: FrameSizes = PLAIN) -> Prediction:
    """Queries that cover ranges of columns, with these class probabilities; the rest of 1 is the background."""
    logits = torch.full((len(columns), SIZE, SIZE), -SURE)
    for index, (start, end) in enumerate(columns):
        logits[index, :, start:end] = SURE
    probabilities = torch.tensor([[*row, 1 - sum(row)] for row in scores])
    return Prediction(logits, probabilities.clamp(min=1e-9).log(), sizes)


def columns_of(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask.all(0)).tolist()


def test_scores_leave_the_background_out():
    scores = prediction([ALL], [[0.25, 0.5]]).scores()
    assert torch.allclose(scores, torch.tensor([[0.25, 0.5]]), atol=1e-6)


def test_the_best_query_answers_a_phrase_however_low_it_is():
    segments = best_query(prediction([LEFT, RIGHT], [[0.1], [0.2]]))
    assert columns_of(segments.masks[0]) == [4, 5, 6, 7] and segments.scores[0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "scores, expected",
    [([0.7, 0.65, 0.2], [0, 1, 4, 5]), ([0.3, 0.5, 0.2], [4, 5]), ([0.6, 0.59, 0.1], [0, 1])],
)
def test_several_objects_are_united_from_six_tenths_on(scores, expected):
    segments = union_of_queries(prediction([(0, 2), (4, 6), (6, 8)], [[score] for score in scores]))
    assert columns_of(segments.masks[0]) == expected and segments.scores[0] == pytest.approx(max(scores))


def test_a_phrase_may_name_nothing():
    unsure = prediction([LEFT], [[0.3]])
    assert len(union_of_queries(unsure, allow_none=True)) == 0
    assert len(union_of_queries(unsure)) == 1
    rule = Rule(find_task("refseg", IMAGE), generalised=True, allow_none=True)
    assert postprocess(rule, unsure).masks.shape == (0, SIZE, SIZE)


def test_every_phrase_gets_its_query_and_later_ones_paint_over():
    segments = best_query_per_phrase(prediction([ALL, RIGHT], [[0.6, 0.1], [0.2, 0.5]]))
    label_map = segments.label_map(255)
    assert segments.ids.tolist() == [1, 2] and (label_map[:, :4] == 1).all() and (label_map[:, 4:] == 2).all()
    assert len(best_query_per_phrase(prediction([ALL], [[]]))) == 0


@pytest.mark.parametrize("quirks", [REFERENCE, MENDED])
def test_instances_need_the_threshold_and_a_pixel(quirks):
    frame = prediction([LEFT, RIGHT, (0, 0)], [[0.6, 0.1], [0.1, 0.7], [0.9, 0.05]])
    segments = instances(frame, 0.5, quirks)
    assert sorted(zip(segments.categories.tolist(), segments.scores.round(2).tolist(), strict=True)) == [
        (0, pytest.approx(0.6)), (1, pytest.approx(0.7))
    ]  # fmt: skip
    assert len(instances(frame, 0.95, quirks)) == 0


def test_mended_instances_come_best_first_and_the_best_is_on_top():
    segments = instances(prediction([ALL, LEFT, (2, 6)], [[0.6], [0.9], [0.7]]), 0.5)
    assert segments.scores.tolist() == sorted(segments.scores.tolist(), reverse=True)
    label_map = segments.label_map(-1)
    assert (label_map[:, :4] == 0).all() and (label_map[:, 4:6] == 1).all() and (label_map[:, 6:] == 2).all()


def test_a_shown_object_is_never_lost_to_the_threshold():
    unsure = prediction([LEFT, RIGHT, (0, 0)], [[0.1], [0.2], [0.4]])
    found = instances(unsure, 0.5, MENDED, object_asked=True)
    assert len(found) == 1 and columns_of(found.masks[0]) == [4, 5, 6, 7]
    assert len(instances(unsure, 0.5, REFERENCE, object_asked=True)) == 0
    rule = Rule(find_task("vgdseg", IMAGE), regions=1)
    assert len(postprocess(rule, unsure)) == 1
    assert len(postprocess(Rule(find_task("vgdseg", IMAGE), regions=2), unsure)) == 0
    nothing = prediction([(0, 0)], [[0.9]])
    assert len(postprocess(rule, nothing)) == 0


def test_open_vocabulary_takes_the_same_rules_as_generic():
    frame = prediction([LEFT, RIGHT], [[0.8, 0.1, 0.0], [0.0, 0.1, 0.8]])
    for name in ("genseg", "ovseg"):
        instance = postprocess(Rule(find_task(name, IMAGE), things=[True] * 3), frame)
        stuff = postprocess(Rule(find_task(name, IMAGE), things=[False] * 3), frame)
        both = postprocess(Rule(find_task(name, IMAGE), things=[True, True, False]), frame)
        for segments in (instance, stuff, both):
            assert sorted(segments.categories.tolist()) == [0, 2]
        assert both.things.tolist() == [True, False] and not stuff.things.any()
    with pytest.raises(PromptError, match="categories"):
        postprocess(Rule(find_task("ovseg", IMAGE), things=[True]), frame)


def test_semantic_maps_leave_out_what_nobody_claims():
    frame = prediction([(0, 2), (2, 4)], [[0.9, 0.0], [0.0, 0.9]])
    mended, published = semantic(frame), semantic(frame, REFERENCE)
    assert [columns_of(mask) for mask in mended.masks] == [[0, 1], [2, 3]] and mended.categories.tolist() == [0, 1]
    assert published.masks.any(0).all(), "published: every pixel has a category"
    assert (mended.label_map(255)[:, 4:] == 255).all()
    assert len(semantic(prediction([(0, 0)], [[0.1]]))) == 0


def test_semantic_sums_over_queries():
    frame = prediction([ALL, ALL, LEFT], [[0.4, 0.0], [0.4, 0.0], [0.0, 0.7]])
    assert [columns_of(mask) for mask in semantic(frame).masks] == [list(range(8))]


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    frame = Prediction(torch.randn(7, 4, 4), torch.randn(7, 6), FrameSizes((16, 16), (16, 12), (11, 9)))
    things = [True, False, True, False, True]
    limits = PanopticLimits(score=0.1, mask=0.05, overlap=0.1)
    calls = [
        lambda: semantic(frame, REFERENCE), lambda: instances(frame, 0.0, REFERENCE),
        lambda: panoptic(frame, things, limits, REFERENCE), lambda: best_query_per_phrase(frame),
        lambda: union_of_queries(frame, 0.1),
    ]  # fmt: skip
    whole = [call() for call in calls]
    monkeypatch.setattr(query_masks, "CHUNK_BYTES", 1)
    monkeypatch.setattr("x2sam.inference.panoptic.CHUNK_BYTES", 4 * 11 * 9 * 2)
    for before, after in zip(whole, [call() for call in calls], strict=True):
        assert len(before) and np.array_equal(before.masks, after.masks)
        assert np.array_equal(before.ids, after.ids) and np.allclose(before.scores, after.scores)


def test_stuff_is_merged_and_listed_once():
    frame = prediction([LEFT, RIGHT], [[0.9], [0.8]])
    published, mended = panoptic(frame, [False], quirks=REFERENCE), panoptic(frame, [False])
    assert published.ids.tolist() == [1, 1] and mended.ids.tolist() == [1]
    assert mended.masks[0].all() and mended.scores[0] == pytest.approx(0.9)
    assert np.array_equal(published.label_map(0), mended.label_map(0))


def test_ids_collide_only_in_the_published_numbering():
    """stuff, thing, the same stuff again, thing: the last one repeats the id of the first thing."""
    frame = prediction(
        [(0, 2), (2, 4), (4, 6), (6, 8)], [[0.9, 0.0], [0.0, 0.9], [0.9, 0.0], [0.0, 0.9]]
    )  # fmt: skip
    assert panoptic(frame, [False, True], quirks=REFERENCE).ids.tolist() == [1, 2, 1, 2]
    mended = panoptic(frame, [False, True])
    assert mended.ids.tolist() == [1, 2, 3]
    assert mended.label_map(0)[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]
    assert mended.things.tolist() == [False, True, True]


def test_a_hidden_query_is_no_segment():
    """Won 2 of 4 columns: below the least share of 0.8. Score 0.45 can't cover anything, as in the published rule."""
    frame = prediction([(0, 4), (2, 8)], [[0.6], [0.9]])
    assert len(panoptic(frame, [True])) == 1
    assert len(panoptic(frame, [True], PanopticLimits(overlap=0.4))) == 2
    assert len(panoptic(prediction([ALL], [[0.45]]), [True], PanopticLimits(score=0.3))) == 0
    assert len(panoptic(prediction([ALL], [[0.2]]), [True])) == 0


def test_things_keep_their_id_from_frame_to_frame():
    state, things = PanopticState(), [True, True, False]
    first = panoptic(prediction([(0, 3), (5, 8)], [[0.9, 0, 0], [0.9, 0, 0]]), things, state=state)
    assert first.ids.tolist() == [1, 2]
    # the queries come in another order, moved by a column: the overlap tells them apart
    second = panoptic(prediction([(5, 8), (0, 4)], [[0.9, 0, 0], [0.9, 0, 0]]), things, state=state)
    assert second.ids.tolist() == [2, 1]
    # another category at the same place is another thing, and stuff gets an id of its own
    third = panoptic(prediction([(0, 4), (4, 8)], [[0, 0.9, 0], [0, 0, 0.9]]), things, state=state)
    assert third.ids.tolist() == [3, 4]
    # gone for a frame: a new id; stuff keeps its own
    fourth = panoptic(prediction([(0, 4), (4, 8)], [[0.9, 0, 0], [0, 0, 0.9]]), things, state=state)
    assert fourth.ids.tolist() == [5, 4]
    assert len(panoptic(prediction([ALL], [[0.1, 0, 0]]), things, state=state)) == 0
    assert state.things == []


def region(start: int, end: int, value: int = 1) -> torch.Tensor:
    mask = torch.zeros((SIZE, SIZE), dtype=torch.int64)
    mask[:, start:end] = value
    return mask


@pytest.mark.parametrize("quirks", [REFERENCE, MENDED])
def test_the_prompted_object_is_the_one_most_like_the_prompt(quirks):
    frame = prediction([ALL, LEFT, RIGHT], [[0.9], [0.6], [0.7]])
    assert columns_of(prompted_region(frame, region(0, 3), 0.5, quirks).masks[0]) == [0, 1, 2, 3]
    assert columns_of(prompted_region(frame, region(5, 7), 0.5, quirks).masks[0]) == [4, 5, 6, 7]
    # only one query reaches the threshold: it is taken, like the prompt or not
    assert len(columns_of(prompted_region(frame, region(0, 3), 0.8, quirks).masks[0])) == 8
    # none does: the best
    assert len(columns_of(prompted_region(frame, region(0, 3), 0.99, quirks).masks[0])) == 8
    empty = prediction([(0, 0)], [[0.9]])
    assert len(prompted_region(empty, region(0, 3), 0.5, quirks)) == 0


def test_the_published_anchor_sees_only_255():
    frame = prediction([LEFT], [[0.5]])
    for value, seen in ((1, False), (255, True)):
        anchor = ObjectAnchor(region(0, 4, value))
        assert bool(anchor.mask(frame, REFERENCE).any()) == seen
        assert columns_of(anchor.mask(frame, MENDED).numpy()) == [0, 1, 2, 3]


def test_geometry_weighs_a_fifth():
    """Right is better by 0.1 in score (0.08), left overlaps the anchor fully (0.2)."""
    frame = prediction([LEFT, RIGHT], [[0.6], [0.7]])
    state = ObjsegState(ObjectAnchor(region(0, 4)))
    segments = tracked_object(frame, state, 0.5)
    assert columns_of(segments.masks[0]) == [0, 1, 2, 3] and segments.scores[0] == pytest.approx(0.8 * 0.6 + 0.2)
    published = tracked_object(frame, ObjsegState(ObjectAnchor(region(0, 4))), 0.5, REFERENCE)
    assert columns_of(published.masks[0]) == [4, 5, 6, 7] and published.scores[0] == pytest.approx(0.8 * 0.7)


def test_certain_masks_are_remembered_and_the_oldest_forgotten():
    state = ObjsegState(ObjectAnchor(region(0, 4)))
    tracked_object(prediction([LEFT], [[0.3]]), state, 0.6)
    assert not state.remembered, "0.44 is not above the threshold"
    for _ in range(6):
        tracked_object(prediction([LEFT], [[0.9]]), state, 0.6)
    assert len(state.remembered) == 4
    assert all(weight == pytest.approx(0.92, abs=1e-6) for _, weight in state.remembered)
    moved = tracked_object(prediction([(1, 5)], [[0.9]]), state, 0.6)
    # 3 of 5 columns in common with anchor and all remembered masks
    assert moved.scores[0] == pytest.approx(0.8 * 0.9 + 0.2 * 0.6, abs=1e-6)


def test_a_tracked_object_is_never_lost_to_the_threshold():
    state = new_state(Rule(find_task("objseg", VIDEO), region=region(0, 4)))
    segments = postprocess(Rule(find_task("objseg", VIDEO), region=region(0, 4)), prediction([LEFT], [[0.1]]), state)
    assert len(segments) == 1


def test_overlap_of_nothing_with_nothing():
    assert overlap(torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)).tolist() == [0]


def test_a_small_prompt_survives_at_the_queries_size():
    big = FrameSizes((32, 32), (32, 32), (32, 32))
    frame = Prediction(torch.zeros(1, 8, 8), torch.zeros(1, 2), big)
    dot = torch.zeros(32, 32, dtype=torch.int64)
    dot[9, 17] = 255
    small = prompt_like(frame, dot, MENDED)
    assert small.shape == (8, 8) and small.sum() == 255 and small[2, 4] == 255
    block = torch.zeros(32, 32, dtype=torch.int64)
    block[0:8, 0:9] = 1
    assert prompt_like(frame, block, MENDED).sum() == 4, "cells that are covered by less than half do not count"


@pytest.mark.parametrize("quirks", [REFERENCE, MENDED])
def test_padding_is_cut_off(quirks):
    """A picture of 2:1 lies in the upper half; the query is on only below it."""
    sizes = FrameSizes((32, 32), (16, 32), (20, 40))
    logits = torch.full((2, 8, 8), -SURE)
    logits[0, 4:] = SURE
    logits[1, :4] = SURE
    frame = Prediction(logits, torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), sizes)
    segments = instances(frame, 0.1, quirks)
    assert segments.masks.shape[1:] == (20, 40)
    assert segments.masks[0, :16].all() if math.isclose(segments.scores[0], 0.8, abs_tol=0.01) else False


def test_only_chosen_queries_reach_picture_size(monkeypatch):
    """One object asked, one mask upsampled: a large picture costs no more per query."""
    brought = []
    original = Prediction.at_picture_size

    def count(self, queries):
        brought.append(len(queries))
        return original(self, queries)

    monkeypatch.setattr(Prediction, "at_picture_size", count)
    frame = prediction([LEFT, RIGHT, ALL, (2, 6)], [[0.6], [0.7], [0.8], [0.9]])
    best_query(frame)
    prompted_region(frame, region(0, 4))
    tracked_object(frame, ObjsegState(ObjectAnchor(region(0, 4))))
    assert brought == [1, 1, 1]


def test_every_task_of_the_table_has_its_rule():
    frame = prediction([LEFT, RIGHT], [[0.9], [0.8]])
    for task in TASKS:
        rule = Rule(task, region=region(0, 4), regions=1)
        if not task.segments:
            with pytest.raises(PromptError, match="words"):
                postprocess(rule, frame, new_state(rule))
            continue
        segments = postprocess(rule, frame, new_state(rule))
        assert len(segments) and segments.masks.dtype == bool and segments.masks.shape[1:] == (SIZE, SIZE)
        assert segments.info()[0]["area"] == int(segments.masks[0].sum())
    with pytest.raises(PromptError, match="region"):
        postprocess(Rule(find_task("intseg", IMAGE)), frame)


def test_half_precision_logits():
    frame = prediction([LEFT], [[0.9]])
    half = Prediction(frame.mask_logits.bfloat16(), frame.class_logits.bfloat16(), frame.sizes)
    assert np.array_equal(best_query(half).masks, best_query(frame).masks)
