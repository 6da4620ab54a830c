"""Tracks as keyframes of the Video tag: what Label Studio draws from them is the track."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.video_boxes import (
    box_iou,
    boxes_to_sequence,
    frame_numbers,
    masks_to_boxes,
    sequence_to_boxes,
    track_value,
)
from x2sam.data.video_index import frames_at_rate

SIZE = (240, 320)


def rows(boxes):
    return np.array([(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes])


def drawn_by_label_studio(sequence, frame):
    """What the editor's code does for one frame, in its own words: percent, or None."""
    earlier = [key for key in sequence if key["frame"] <= frame]
    if not earlier or not (earlier[-1]["enabled"] or earlier[-1]["frame"] == frame):
        return None
    later = next((key for key in sequence if key["frame"] > frame), None)
    key = earlier[-1]
    if key["frame"] == frame or later is None:
        return [key[name] for name in ("x", "y", "width", "height")]
    share = (frame - key["frame"]) / (later["frame"] - key["frame"])
    return [key[name] + (later[name] - key[name]) * share for name in ("x", "y", "width", "height")]


box = st.tuples(st.integers(0, 300), st.integers(0, 220), st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@st.composite
def walks(draw):
    """Boxes that drift, jump, vanish and come back."""
    boxes = []
    for _ in range(draw(st.integers(1, 6))):
        kind, length = draw(st.sampled_from(["gone", "still", "drift", "jump"])), draw(st.integers(1, 25))
        x0, y0, x1, y1 = draw(box)
        dx, dy = draw(st.integers(-3, 3)), draw(st.integers(-3, 3))
        for i in range(length):
            step = i if kind == "drift" else 0
            if kind == "jump":
                x0, y0, x1, y1 = draw(box)
            x, y = min(max(x0 + dx * step, 0), 300), min(max(y0 + dy * step, 0), 220)
            boxes.append(None if kind == "gone" else (x, y, x + x1 - x0, y + y1 - y0))
    return boxes


@settings(max_examples=300)
@given(walks(), st.sampled_from([24.0, 25.0, 30000 / 1001]))
def test_what_is_drawn_is_the_track(boxes, framerate):
    sequence = boxes_to_sequence(boxes, SIZE, framerate)
    frames = [key["frame"] for key in sequence]
    assert frames == sorted(set(frames))
    assert all(key["time"] == pytest.approx(key["frame"] / framerate, abs=1e-6) for key in sequence)
    drawn = [drawn_by_label_studio(sequence, frame) for frame in range(1, len(boxes) + 1)]
    assert [b is None for b in drawn] == [b is None for b in boxes]
    seen = [i for i, b in enumerate(boxes) if b is not None]
    if seen:
        scale = np.array([3.2, 2.4, 3.2, 2.4])
        assert box_iou(np.array([drawn[i] for i in seen]) * scale, rows([boxes[i] for i in seen])).min() >= 0.95 - 1e-6


@settings(max_examples=200)
@given(walks())
def test_reading_keyframes_back_gives_what_is_drawn(boxes):
    sequence = boxes_to_sequence(boxes, SIZE, 24)
    read = sequence_to_boxes(sequence, SIZE, len(boxes))
    assert [b is None for b in read] == [b is None for b in boxes]
    seen = [i for i, b in enumerate(boxes) if b is not None]
    drawn = [drawn_by_label_studio(sequence, i + 1) for i in seen]
    if seen:
        assert rows([read[i] for i in seen]) / np.array([3.2, 2.4, 3.2, 2.4]) == pytest.approx(
            np.array(drawn), abs=1e-6
        )


@given(walks())
def test_with_no_tolerance_the_track_comes_back(boxes):
    back = sequence_to_boxes(boxes_to_sequence(boxes, SIZE, 24, iou=1.0), SIZE, len(boxes))
    for read, true in zip(back, boxes, strict=True):
        assert read == pytest.approx(true, abs=1e-4) if true else read is None


def test_straight_motion_needs_two_keyframes_and_a_bend_three():
    line = [(i, 10.0, i + 40.0, 50.0) for i in range(200)]
    assert [key["frame"] for key in boxes_to_sequence(line, SIZE, 24)] == [1, 200]
    bend = [*line[:100], *[(99.0, 10.0 + i, 139.0, 50.0 + i) for i in range(1, 101)]]
    frames = [key["frame"] for key in boxes_to_sequence(bend, SIZE, 24)]
    assert len(frames) <= 5 and any(abs(frame - 100) < 15 for frame in frames)


@st.composite
def fixed_keyframes(draw, boxes):
    """Keyframes of people on frames that have a box, anywhere in the picture, some turned."""
    seen = [frame for frame, box in enumerate(boxes, 1) if box is not None]
    frames = draw(st.lists(st.sampled_from(seen), unique=True, max_size=5)) if seen else []
    measures = st.tuples(*[st.floats(1, 40)] * 4, st.sampled_from([0, 0, 30]))
    keys = {}
    for frame in frames:
        x, y, width, height, rotation = draw(measures)
        box = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
        keys[frame] = {"frame": frame, "enabled": True, "time": frame / 24, **box}
    return keys


@settings(max_examples=300)
@given(st.data())
def test_keyframes_of_people_come_back_and_the_rest_is_the_track(data):
    boxes = data.draw(walks())
    fixed = data.draw(fixed_keyframes(boxes))
    sequence = boxes_to_sequence(boxes, SIZE, 24, fixed=fixed)
    by_frame = {key["frame"]: key for key in sequence}
    assert [key["frame"] for key in sequence] == sorted(by_frame)
    assert all(by_frame[frame] == key for frame, key in fixed.items()), "as they are, to the last digit"
    drawn = [drawn_by_label_studio(sequence, frame) for frame in range(1, len(boxes) + 1)]
    # A gap behind a person's box that is not hidden begins one frame late: no other way to leave the box alone.
    late = {frame + 1 for frame in fixed if frame < len(boxes) and boxes[frame] is None}
    for frame, (given_box, got) in enumerate(zip(boxes, drawn, strict=True), 1):
        if frame not in late:
            assert (got is None) == (given_box is None)
    scale = np.array([3.2, 2.4, 3.2, 2.4])
    free = [i for i, box in enumerate(boxes) if box is not None and i + 1 not in fixed]
    if free:
        overlaps = box_iou(np.array([drawn[i] for i in free]) * scale, rows([boxes[i] for i in free]))
        assert overlaps.min() >= 0.95 - 1e-6


def test_keyframes_of_people_beyond_the_track():
    key = {"x": 10.0, "y": 10.0, "width": 20.0, "height": 20.0, "rotation": 0, "enabled": False, "time": 1.0}
    here = (10.0, 20.0, 42.0, 44.0)
    fixed = {2: {**key, "frame": 2, "enabled": True}, 9: {**key, "frame": 9}}
    sequence = boxes_to_sequence([here, here, None, None], SIZE, 24, fixed=fixed)
    assert [(k["frame"], k["enabled"]) for k in sequence] == [(1, True), (2, True), (3, False), (9, False)]
    assert sequence[1] == fixed[2] and sequence[-1] == fixed[9]
    value = track_value([here, here], SIZE, 24, ["Object 1"], frames=48)
    assert (value["framesCount"], value["duration"]) == (48, 2.0)
    assert value["sequence"][-1]["enabled"], "what was not tracked yet keeps the last box"


def test_ten_thousand_frames_are_quick():
    angle = np.arange(10_000) / 50
    boxes = [(100 + 80 * np.cos(a), 90 + 60 * np.sin(a), 150 + 80 * np.cos(a), 140 + 60 * np.sin(a)) for a in angle]
    sequence = boxes_to_sequence(boxes, SIZE, 24)
    assert len(sequence) < 10_000 / 8
    read = sequence_to_boxes(sequence, SIZE, 10_000)
    assert box_iou(rows(read), rows(boxes)).min() >= 0.949


def test_gone_and_back():
    here = (10.0, 20.0, 42.0, 44.0)
    sequence = boxes_to_sequence([None, here, here, here, None, None, here], SIZE, 25)
    assert [(key["frame"], key["enabled"]) for key in sequence] == [(2, True), (4, False), (7, True)]
    first = sequence[0]
    assert (first["x"], first["width"]) == pytest.approx((3.125, 10.0))
    assert (first["y"], first["height"]) == pytest.approx((20 / 2.4, 10.0))
    assert (first["time"], first["rotation"]) == (0.08, 0)


def test_one_frame_only():
    (key,) = boxes_to_sequence([None, (0, 0, 32, 24), None], SIZE, 25)
    assert (key["frame"], key["enabled"]) == (2, False)
    assert boxes_to_sequence([None, None], SIZE, 25) == []


def test_the_value_of_a_result():
    value = track_value([(0, 0, 32, 24)] * 50, SIZE, 25, ["Object 1"])
    assert (value["framesCount"], value["duration"], value["labels"]) == (50, 2.0, ["Object 1"])
    assert [key["frame"] for key in value["sequence"]] == [1, 50]
    assert track_value([None], SIZE, 25, ["Object 1"]) is None


def test_masks_give_the_boxes():
    mask = np.zeros(SIZE, bool)
    mask[20:44, 10:42] = True
    assert masks_to_boxes([mask, None, np.zeros(SIZE, bool)]) == [(10.0, 20.0, 42.0, 44.0), None, None]


def test_keyframes_of_people():
    key = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "enabled": True}
    turned = {**key, "frame": 3, "rotation": 90}
    boxes = sequence_to_boxes([turned, {**key, "frame": 1}], (100, 100), 4)
    assert boxes[0] == pytest.approx((10, 10, 30, 30))
    assert boxes[2] == pytest.approx((0, 10, 10, 30))  # turned about its corner, cut at the picture's edge
    assert boxes[3] == boxes[2]
    short_way = sequence_to_boxes(
        [{**key, "frame": 1, "rotation": 350}, {**key, "frame": 3, "rotation": 10}], (100, 100), 2
    )
    assert short_way[1] == pytest.approx((10, 10, 30, 30))


def test_damaged_keyframes_are_passed_over():
    good = {"frame": 2, "x": 0, "y": 0, "width": 10, "height": 10, "enabled": True}
    bad = [{**good, "frame": frame} for frame in (0, -1, True, "2", None, 1.5)]
    bad += [{**good, "frame": 1, name: value} for name in ("x", "width") for value in (None, "a", float("nan"), 1e300)]
    boxes = sequence_to_boxes([*bad, good, {**good, "frame": 3, "width": 0}], (100, 100), 3)
    assert boxes == [None, pytest.approx((0, 0, 10, 10)), None]


def test_even_times_are_numbered_one_by_one():
    for rate in (24, 25, 30000 / 1001, 60000 / 1001):
        times = np.round(np.arange(500) / rate, 6)
        assert frames_at_rate(times, rate).tolist() == list(range(500))
        assert frame_numbers(times, rate).tolist() == list(range(1, 501))


def test_times_that_were_rounded_to_thousandths_show_every_frame():
    for rate in (24, 25, 30000 / 1001, 60000 / 1001, 120):
        times = np.round(np.arange(500) / rate, 3)
        assert frames_at_rate(times, rate).tolist() == list(range(500))
        assert frame_numbers(times, rate).tolist() == list(range(1, 501))


def test_uneven_times():
    times = [0, 1 / 24, 2 / 24, 5 / 24, 6 / 24]
    assert frames_at_rate(times, 24).tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert frame_numbers(times, 24).tolist() == [1, 2, 3, 6, 7]
    assert frames_at_rate([0.0], 24).tolist() == [0]
    assert frames_at_rate([], 24).tolist() == []


@given(st.lists(st.floats(0.001, 0.5), max_size=60), st.sampled_from([12.0, 24.0, 29.97]))
def test_every_moment_shows_the_frame_of_that_moment(steps, rate):
    times = np.concatenate([[0.0], np.cumsum(steps)])
    shown = frames_at_rate(times, rate)
    assert (np.diff(shown) >= 0).all()
    moments = np.arange(len(shown)) / rate
    assert (times[shown] <= moments + 0.001 + 1e-9).all()
    after = shown + 1 < len(times)
    assert (times[shown[after] + 1] > moments[after]).all()
