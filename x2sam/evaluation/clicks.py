"""The click protocol: how good is a mask after one click, two, ... on pictures nobody trained on.

The first prompt is a click at the middle of the object (or its box, a stroke along it, or its mask). Each further one
is a click in the middle of the largest error (:func:`x2sam.data.clicks.next_click`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from x2sam.data.clicks import next_click
from x2sam.data.masks import inner_distance, largest_component, mask_bbox
from x2sam.data.readers.labelmaps import LabelMapDataset
from x2sam.errors import PromptError
from x2sam.evaluation.contract import Opener, Session
from x2sam.evaluation.dataset import Progress, object_mask, silent
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.evaluation.metrics.iou import iou
from x2sam.evaluation.worst import WorstCases, side_by_side
from x2sam.structures import Mask, Prompt

PROMPTS = ("click", "box", "scribble", "mask")
NOC_LEVELS = (80, 85, 90)


@dataclass
class ClickScores:
    """IoU after each prompt of every object, and how long the answers took.

    picture:  number of the picture of every object
    first_ms: of each picture, from the picture to the first mask (opening included)
    next_ms:  of every other answer, its picture being known by then
    """

    iou: list[list[float]] = field(default_factory=list)
    thing: list[bool] = field(default_factory=list)
    picture: list[int] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    next_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict:
        """The result as the command writes it.

        ``miou_ci`` holds [low, high] after each prompt, 95 % over pictures; ``noc_cap`` is what an object that never
        reaches a level counts with.
        """
        table = np.array(self.iou, float)
        things = np.array(self.thing, bool)
        return {
            "objects": len(table),
            **self._means(np.ones(len(table), bool)),
            "things": {"objects": int(things.sum()), **self._means(things)},
            "stuff": {"objects": int((~things).sum()), **self._means(~things)},
            "noc": {str(level): number_of_clicks(table, level / 100) for level in NOC_LEVELS},
            "noc_cap": table.shape[1] if len(table) else None,
            "ms": {"first": _percentiles(self.first_ms), "next": _percentiles(self.next_ms)},
        }

    def _means(self, chosen: np.ndarray) -> dict:
        table = np.array(self.iou, float)[chosen]
        pictures = [p for p, c in zip(self.picture, chosen, strict=True) if c]
        intervals = [bootstrap_mean(column, pictures) for column in table.T] if len(table) else []
        return {"miou": [float(v) for v in table.mean(0)] if len(table) else [], "miou_ci": intervals}


def number_of_clicks(table: np.ndarray, level: float) -> float | None:
    """NoC: mean number of prompts until IoU reaches ``level``; an object that never does counts with all of them.

    So the figure depends on how many prompts were allowed (the cap); papers often allow 20, this protocol 5.

    table: float (objects, prompts), IoU after each prompt; None for no objects.
    """
    if not len(table):
        return None
    reached = table >= level
    return float(np.where(reached.any(1), reached.argmax(1) + 1, table.shape[1]).mean())


def first_prompt(kind: str, truth: np.ndarray, ignore: np.ndarray) -> Prompt:
    """What a person would give first for an object ``truth`` bool (H, W): one of :data:`PROMPTS`."""
    if kind == "click":
        return Prompt(points=(next_click(truth, None, ignore),))
    if kind == "box":
        return Prompt(boxes=(tuple(float(v) for v in mask_bbox(truth)),))
    if kind == "scribble":
        return Prompt(strokes=(middle_stroke(truth),))
    if kind == "mask":
        return Prompt(masks=(truth,))
    raise PromptError(f"prompt {kind!r} is unknown; use one of {', '.join(PROMPTS)}")


def middle_stroke(truth: np.ndarray, points: int = 9) -> np.ndarray:
    """A stroke along the largest part of ``truth`` bool (H, W), float (n, 2) of x, y.

    It goes over the middle four fifths of the longer side of the part and keeps as far from the outline as it can.
    """
    part = largest_component(truth)
    x0, y0, x1, y1 = mask_bbox(part)
    depth = inner_distance(part)[y0:y1, x0:x1]
    upright = y1 - y0 > x1 - x0
    if upright:
        depth = depth.T
    along = np.unique(np.linspace(0.1, 0.9, points) * (depth.shape[1] - 1) + 0.5).astype(int)
    line = np.stack([along, depth[:, along].argmax(0)], 1) + 0.5
    return (line[:, ::-1] if upright else line) + (x0, y0)


def answer(masks: Sequence[Mask], shape: tuple[int, int], object_id: str) -> np.ndarray:
    """bool (H, W): the answer for the object that was asked for; the best one where ids differ, empty for none."""
    own = [m for m in masks if m.object_id == object_id] or list(masks)
    if not own:
        return np.zeros(shape, bool)
    mask = max(own, key=lambda m: m.score).mask
    if mask.shape != tuple(shape):
        raise ValueError(f"the model answered with a mask of {mask.shape} for a picture of {shape}")
    return mask


def evaluate_clicks(
    engine: Opener,
    data: str | Path,
    prompt: str = "click",
    clicks: int = 5,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
) -> ClickScores:
    """Run the protocol on the objects with ``eval`` of ``images.json``.

    clicks: prompts per object, the first one included; limit: only the first pictures of the list
    """
    if prompt not in PROMPTS:
        raise PromptError(f"prompt {prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
    if clicks < 1:
        raise PromptError(f"{clicks} clicks leave nothing to measure; ask for 1 or more")
    dataset = LabelMapDataset(data)
    scores = ClickScores()
    for index in progress(range(len(dataset))[:limit], "clicks"):
        record = dataset.records[index]
        objects = [o for o in record.objects if o.evaluate]
        if not objects:
            continue
        picture, labels = dataset.read(index)
        started = time.perf_counter()
        session = engine.open(picture, key=None)
        opening = time.perf_counter() - started
        try:
            for position, thing in enumerate(objects):
                truth, ignore = object_mask(labels, [thing.id])
                values, times, mask = refine_object(session, truth, ignore, str(thing.id), prompt, clicks)
                scores.iou.append(values)
                scores.thing.append(thing.thing)
                scores.picture.append(index)
                if worst is not None:
                    draw = lambda p=picture, t=truth, m=mask: side_by_side(p, [t], [m])  # noqa: E731
                    worst.offer(values[-1], f"{Path(record.image).stem}_{thing.id}_{thing.category}", draw)
                if position == 0:
                    scores.first_ms.append(1e3 * (opening + times.pop(0)))
                scores.next_ms.extend(1e3 * t for t in times)
        finally:
            session.close()
    return scores


def refine_object(
    session: Session, truth: np.ndarray, ignore: np.ndarray, object_id: str, kind: str, clicks: int
) -> tuple[list[float], list[float], np.ndarray]:
    """IoU after each prompt for one object, the seconds each answer took, and the last mask bool (H, W).

    Every request holds all clicks so far; the session knows its own answers to the shorter ones.
    """
    request = replace(first_prompt(kind, truth, ignore), object_id=object_id)
    values: list[float] = []
    times: list[float] = []
    while True:
        started = time.perf_counter()
        masks = session.segment(request, frame=0)
        times.append(time.perf_counter() - started)
        mask = answer(masks, truth.shape, object_id)
        values.append(iou(mask, truth, ignore))
        if len(values) == clicks:
            return values, times, mask
        click = next_click(truth, mask, ignore)
        if click is None:
            # Nothing is left to correct: further clicks would change nothing.
            return values + values[-1:] * (clicks - len(values)), times, mask
        request = replace(request, points=(*request.points, click))


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 95)}
