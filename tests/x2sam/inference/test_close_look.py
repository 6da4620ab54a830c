"""Boxes that are looked at closely: which part of the picture, what lies in it, and that nothing else is seen."""

from __future__ import annotations

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from x2sam.inference.close_look import MOST, Window, window_of
from x2sam.inference.refine import snap
from x2sam.structures import Point, Prompt

SIZE = (60, 80)
BOX = (30.0, 20.0, 44.0, 34.0)
SEEN = Window(23, 13, 51, 41)  # seven pixels of room on each side


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture
def engine(build_engine, sketching_model):
    """Looks closely at boxes, and without the last light step, so that masks are the network's own."""
    model = copy.copy(sketching_model)
    model.config = replace(model.config, preprocess=replace(model.config.preprocess, close_room=0.5))
    return build_engine(model, snap=False)


def test_room_is_left_around_the_box():
    assert window_of(Prompt(boxes=(BOX,)), SIZE, 0.5) == SEEN


def test_several_boxes_of_one_object_are_seen_together():
    prompt = Prompt(boxes=(BOX, (40.0, 30.0, 50.0, 36.0)), points=(Point(1, 1),))
    assert window_of(prompt, SIZE, 0.5) == Window(20, 10, 60, 46)


STROKE = (np.array([[1.0, 1.0], [5.0, 5.0]]),)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=(Point(20, 20),)),
        Prompt(boxes=(BOX,), strokes=STROKE),
        Prompt(boxes=(BOX,), masks=(np.ones(SIZE, bool),)),
        Prompt(boxes=(BOX,), previous=np.ones(SIZE, bool)),
        Prompt(boxes=((2.0, 2.0, 70.0, 55.0),)),
    ],
    ids=["clicks", "stroke", "mask", "correction", "large box"],
)
def test_other_prompts_are_about_the_whole_picture(prompt):
    assert window_of(prompt, SIZE, 0.5) is None


def test_without_room_nothing_is_looked_at_closely():
    assert window_of(Prompt(boxes=(BOX,)), SIZE, 0.0) is None


@given(st.data())
def test_a_window_holds_the_box_and_lies_in_the_picture(data):
    height, width = data.draw(st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
    x0, y0 = data.draw(st.floats(-50, width - 0.5)), data.draw(st.floats(-50, height - 0.5))
    x1, y1 = x0 + data.draw(st.floats(0.1, 4000)), y0 + data.draw(st.floats(0.1, 4000))
    window = window_of(Prompt(boxes=((x0, y0, x1, y1),)), (height, width), 0.5)
    if window is None:
        return
    assert 0 <= window.x0 < window.x1 <= width and 0 <= window.y0 < window.y1 <= height
    assert window.x0 <= max(0, x0) and window.y0 <= max(0, y0) and min(width, x1) <= window.x1
    assert min(height, y1) <= window.y1 and window.shape[0] * window.shape[1] <= MOST * height * width


def test_a_prompt_moves_into_the_part_without_the_clicks_beside_it():
    moved = SEEN.moved(Prompt(boxes=(BOX,), points=(Point(40, 30, positive=False), Point(5, 5)), object_id="a"))
    assert moved.boxes == ((7.0, 7.0, 21.0, 21.0),) and moved.points == (Point(17, 17, positive=False),)
    assert moved.object_id == "a"


def test_an_answer_is_laid_where_it_was_seen():
    part = np.random.default_rng(2).random(SEEN.shape)
    whole = SEEN.laid_out(part, SIZE)
    assert np.array_equal(whole[13:41, 23:51], part)
    whole[13:41, 23:51] = 0
    assert not whole.any()


def test_the_light_step_takes_an_answer_about_a_part():
    image, rng = picture(), np.random.default_rng(1)
    answer = rng.random((14, 14)).astype(np.float32)
    near = snap(image, answer, (), (BOX,), window=SEEN)
    enlarged = cv2.resize(answer, SEEN.shape[::-1], interpolation=cv2.INTER_LINEAR)
    laid = snap(image, SEEN.laid_out(enlarged, SIZE), (), (BOX,))
    assert near.any() and (near != laid).sum() < 0.05 * near.sum()


def test_what_is_far_from_the_box_is_not_seen(engine):
    image, other = picture(), picture(1)
    other[SEEN.pixels] = image[SEEN.pixels]
    clicked = Prompt(boxes=(BOX,), points=(Point(32, 24, positive=False),))
    for prompt in (Prompt(boxes=(BOX,)), clicked):
        (one,), (two,) = (engine.open(each).segment(prompt) for each in (image, other))
        assert one.mask.any() and np.array_equal(one.mask, two.mask) and one.score == two.score


def test_it_is_the_answer_about_the_part_alone(engine):
    image = picture()
    (found,) = engine.open(image).segment(Prompt(boxes=(BOX,)))
    # the box fills a quarter of the part, so with its room it is looked at whole
    (alone,) = engine.open(image[SEEN.pixels]).segment(SEEN.moved(Prompt(boxes=(BOX,))))
    assert found.area and found.score == alone.score
    assert np.array_equal(found.mask, SEEN.laid_out(alone.mask, SIZE))


def test_boxes_and_clicks_asked_together_are_answered_as_alone(engine):
    prompts = [Prompt(boxes=(BOX,)), Prompt(points=(Point(20, 20),)), Prompt(boxes=((2.0, 2.0, 70.0, 55.0),))]
    together = engine.open(picture()).segment_all([(prompt, 0) for prompt in prompts])
    for prompt, (found,) in zip(prompts, together, strict=True):
        (alone,) = engine.open(picture()).segment(prompt)
        assert np.array_equal(found.mask, alone.mask)


def test_features_of_the_part_go_with_those_of_the_picture(engine):
    session = engine.open(picture())
    session.segment(Prompt(boxes=(BOX,)))
    assert len(engine.cache)
    session.close()
    assert not len(engine.cache)


def test_the_next_click_looks_at_known_features(engine):
    session = engine.open(picture())
    session.segment(Prompt(boxes=(BOX,)))
    before = engine.features.misses
    session.segment(Prompt(boxes=(BOX,), points=(Point(32, 24, positive=False),)))
    assert engine.features.misses == before


def test_an_object_in_a_clip_is_followed_by_what_the_whole_frame_says(engine, build_engine, sketching_model):
    clip = np.stack([picture(seed) for seed in range(3)])
    session = engine.open(clip)
    (found,) = session.segment(Prompt(boxes=(BOX,)))
    (thing,) = session.objects([found.object_id])
    wide = build_engine(sketching_model, snap=False).open(clip)
    (expected,) = wide.objects([wide.segment(Prompt(boxes=(BOX,)))[0].object_id])
    assert torch.equal(thing.rule.region, expected.rule.region)
    for ours, theirs in zip(thing.condition.parts, expected.condition.parts, strict=True):
        assert torch.equal(ours, theirs)
    assert len(list(session.track([found.object_id]))) == 3


def test_the_whole_frame_of_a_clip_is_read_once_for_all_clicks(engine, monkeypatch):
    session, read = engine.open(np.stack([picture(seed) for seed in range(3)])), []
    read_all = type(engine.interpreter).read_all
    count = lambda self, looked, asked: (read.append(len(asked)), read_all(self, looked, asked))[1]  # noqa: E731
    monkeypatch.setattr(type(engine.interpreter), "read_all", count)
    for points in ((), (Point(32, 24, positive=False),), (Point(32, 24, positive=False), Point(40, 30))):
        (found,) = session.segment(Prompt(boxes=(BOX,), points=points, object_id="a"))
    assert read == [1, 1]  # closely, and for the tracks
    (thing,) = session.objects([found.object_id])
    assert thing.rule.region.shape == (64, 64)
