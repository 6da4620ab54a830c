"""Boxes over time <-> ``videorectangle`` sequences of Label Studio's Video tag. Pure conversions.

Label Studio numbers frames from 1: frame ``n`` stands at ``(n - 1) / framerate`` seconds, whatever the file's own
frames are, and a keyframe's ``time`` is ``n / framerate``. Between two keyframes it draws a box with ``x``, ``y``,
``width`` and ``height`` in between; after the last one the box stays. A keyframe with ``enabled: false`` is still drawn
on its own frame and hides the box from the next frame on, up to the next keyframe; before the first keyframe there is
nothing.

Boxes are ``(x0, y0, x1, y1)`` in pixels, None where the object is not in the picture. Lists of boxes have one entry for
each frame, the first being Label Studio's frame 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from backend.geometry import Box, Size, box_to_percent, corners_to_box, mask_to_box, percent_to_corners
from x2sam.data.video_index import SLACK

CLOSE_ENOUGH = 0.95
_FARTHEST = 1e4  # percent or degrees
_DIGITS = 6  # of percents: a millionth of a percent is far below a pixel

Keyframe = dict[str, Any]


def masks_to_boxes(masks: Sequence[np.ndarray | None]) -> list[Box | None]:
    """The box around each bool mask (H, W); None for an empty mask and where there is none."""
    return [None if mask is None else mask_to_box(mask) for mask in masks]


def frame_numbers(times: Sequence[float], framerate: float) -> np.ndarray:
    """The first frame of Label Studio that shows each of a file's frames or a later one: int64 (T,), counted from 1.

    The inverse of :func:`x2sam.data.video_index.frames_at_rate` where no frame of the file is skipped.
    """
    return np.ceil((np.asarray(times, np.float64) - SLACK) * framerate).astype(np.int64) + 1


def boxes_to_sequence(
    boxes: Sequence[Box | None],
    size: Size,
    framerate: float,
    iou: float = CLOSE_ENOUGH,
    fixed: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Keyframe]:
    """As few keyframes as it takes that every box drawn by Label Studio has at least ``iou`` with the given one.

    A frame without a box comes out without one, exactly. ``size`` is the picture's (H, W). ``fixed`` are keyframes by
    frame that come out as they are, whatever the box there, also behind the last box. Where one that does not hide its
    box is the last before a gap, its box is drawn for one frame more: else the gap could not begin.
    """
    fixed = dict(fixed or {})
    whole = [_fixed_box(fixed, frame, box, size) for frame, box in enumerate(boxes, 1)]
    sequence: list[Keyframe] = []
    for first, last in _runs(whole):
        own = {frame - first - 1: key for frame, key in fixed.items() if first < frame <= last + 1}
        path = np.array([_row(own.get(i - first), whole[i], size) for i in range(first, last + 1)])
        for at in _points_with(path, own, iou):
            frame = first + at + 1
            gone_next = at == len(path) - 1 and last + 1 < len(whole)
            if at not in own:
                sequence.append(_keyframe(frame, path[at], not gone_next, framerate))
                continue
            sequence.append(dict(own[at]))
            if gone_next and own[at].get("enabled", True):
                sequence.append(_keyframe(frame + 1, path[at], False, framerate))
    behind = (dict(key) for frame, key in sorted(fixed.items()) if frame > len(whole))
    return [*sequence, *behind]


def sequence_to_boxes(sequence: Sequence[Mapping[str, Any]], size: Size, frames: int) -> list[Box | None]:
    """The boxes that Label Studio draws for keyframes on its frames 1 to ``frames``, upright around turned ones.

    Damaged keyframes (:func:`is_keyframe`) are passed over; of two on one frame the last counts.
    """
    known = {key["frame"]: key for key in sequence if is_keyframe(key)}
    keys = [known[frame] for frame in sorted(known)]
    boxes: list[Box | None] = []
    at = -1
    for frame in range(1, frames + 1):
        while at + 1 < len(keys) and keys[at + 1]["frame"] <= frame:
            at += 1
        if at < 0 or not (keys[at].get("enabled", True) or keys[at]["frame"] == frame):
            boxes.append(None)
            continue
        box = _between(keys[at], keys[at + 1] if at + 1 < len(keys) else None, frame, size)
        boxes.append(box if box[2] > box[0] and box[3] > box[1] else None)
    return boxes


def track_value(
    boxes: Sequence[Box | None],
    size: Size,
    framerate: float,
    labels: Sequence[str],
    iou: float = CLOSE_ENOUGH,
    fixed: Mapping[int, Mapping[str, Any]] | None = None,
    frames: int | None = None,
) -> dict[str, Any] | None:
    """The ``value`` of a ``videorectangle`` result for one object; None when it is on no frame at all.

    boxes: one for each frame of Label Studio; :func:`x2sam.data.video_index.frames_at_rate` says what it shows then.
    Where there are fewer than ``frames``, the last box stays until the end.
    """
    sequence = boxes_to_sequence(boxes, size, framerate, iou, fixed)
    if not sequence:
        return None
    count = frames or len(boxes)
    return {
        "framesCount": count,
        "duration": round(count / framerate, 6),
        "sequence": sequence,
        "labels": list(labels),
    }


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) overlap of boxes (n, 4) given as x, y, width, height."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    both = one[:, 2:].prod(1) + other[:, 2:].prod(1) - shared
    return np.divide(shared, both, out=np.zeros(len(one)), where=both > 0)


def _runs(boxes: Sequence[Box | None]) -> Iterator[tuple[int, int]]:
    """First and last index of each unbroken stretch with boxes."""
    start = None
    for i, box in enumerate([*boxes, None]):
        if box is not None and start is None:
            start = i
        elif box is None and start is not None:
            yield start, i - 1
            start = None


def _fixed_box(fixed: Mapping[int, Mapping[str, Any]], frame: int, box: Box | None, size: Size) -> Box | None:
    """The box of a fixed keyframe, even of one without area, else the given one."""
    return _between(fixed[frame], None, frame, size) if frame in fixed else box


def _row(key: Mapping[str, Any] | None, box: Box, size: Size) -> list[float]:
    """``x, y, width, height`` in percent, those of the keyframe where there is one."""
    return _percent_row(box, size) if key is None else [float(key[name]) for name in ("x", "y", "width", "height")]


def _points_with(path: np.ndarray, fixed: Mapping[int, Mapping[str, Any]], iou: float) -> list[int]:
    """Rows of (n, 4) that are kept: the fixed ones, those beside fixed turned ones, and as few others as it takes."""
    ends = {0, len(path) - 1} | fixed.keys()
    for at, key in fixed.items():
        if key.get("rotation", 0) % 360:
            ends |= {max(at - 1, 0), min(at + 1, len(path) - 1)}
    points = [0]
    for start, stop in pairwise(sorted(ends)):
        points += [start + at for at in _turning_points(path[start : stop + 1], iou)[1:]]
    return points


def _turning_points(path: np.ndarray, iou: float) -> list[int]:
    """Rows of (n, 4) that are kept, the first and the last among them; each step goes as far as the boxes in between
    allow, found by doubling and halving."""
    points, end = [0], len(path) - 1
    while points[-1] < end:
        start = points[-1]
        good, bad, step = start + 1, end + 1, 2
        while start + step < bad:
            if _fits(path, start, start + step, iou):
                good, step = start + step, 2 * step
            else:
                bad = start + step
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if _fits(path, start, middle, iou) else (good, middle)
        points.append(good)
    return points


def _fits(path: np.ndarray, start: int, stop: int, iou: float) -> bool:
    inner = path[start + 1 : stop]
    share = (np.arange(1, stop - start) / (stop - start))[:, None]
    return bool((box_iou(path[start] + share * (path[stop] - path[start]), inner) >= iou).all())


def _percent_row(box: Box, size: Size) -> list[float]:
    percent = box_to_percent(box, size)
    return [round(percent[name], _DIGITS) for name in ("x", "y", "width", "height")]


def _keyframe(frame: int, row: np.ndarray, enabled: bool, framerate: float) -> Keyframe:
    x, y, width, height = (float(value) for value in row)
    return {
        "frame": frame,
        "enabled": enabled,
        "rotation": 0,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "time": round(frame / framerate, 6),
    }


def is_keyframe(key: Mapping[str, Any]) -> bool:
    """Whether a keyframe has a whole number of a frame from 1 on, and measures that are near the picture."""
    frame = key.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 1:
        return False
    return all(_is_near(key.get(name)) for name in ("x", "y", "width", "height")) and _is_near(key.get("rotation", 0))


def _is_near(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _FARTHEST


def _between(before: Mapping[str, Any], after: Mapping[str, Any] | None, frame: int, size: Size) -> Box:
    share = (frame - before["frame"]) / (after["frame"] - before["frame"]) if after is not None else 0.0
    later = after if after is not None else before
    x, y, width, height = (
        before[name] + share * (later[name] - before[name]) for name in ("x", "y", "width", "height")
    )
    turn = _half_turn(later.get("rotation", 0) - before.get("rotation", 0))
    rotation = before.get("rotation", 0) + share * turn
    return corners_to_box(percent_to_corners(x, y, width, height, rotation, size), size)


def _half_turn(degrees: float) -> float:
    """The same turn, the short way round: -180 to 180."""
    return (degrees + 180) % 360 - 180
