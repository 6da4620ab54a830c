"""What each mask of a submitted annotation cost, and how far it is from what was proposed.

Proposals are the answers of :mod:`backend.remembered`, by the id of the region, and the prediction that the annotation
was begun from. The seconds are Label Studio's own, of the whole annotation, in equal shares: nothing tells the time of
one mask. Where something is not known it is None, and counts nowhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backend.evidence import ISSUED
from backend.export_masks import Drawn
from backend.export_rows import written
from backend.export_shapes import fill_box, value_to_mask
from backend.export_tasks import Policy, Taken, take
from backend.geometry import mask_to_box, mask_to_polygons, points_to_percent, resize_mask
from backend.label_config import LabelConfig
from backend.protocol import Json
from backend.remembered import Step
from backend.standing import overlap

KINDS: Mapping[str, str] = {
    "prompted": "clicks or boxes on it",
    "worded": "words, or “all like this”",
    "tracked": "carried there from another page",
    "predicted": "a stored prediction, accepted without a prompt",
    "unknown": "proposed; its prompts are not known any more",
    "drawn": "drawn by hand",
}
"""How a mask came to be. All but ``drawn`` were proposed."""
Answers = Callable[[str, int], Sequence[Step]]
"""An object and a page of the task to what was answered about it there, oldest first."""
_MASKS = Policy(shapes=frozenset({"brush", "bitmask", "polygon", "ellipse", "rectangle"}))
_UNREAD = ("turned", "unsized", "beyond", "damaged", "empty")
_LOST = 0.002  # of its pixels, on a mask's way through the browser
_Key = tuple[str, int]


@dataclass(frozen=True)
class Effort:
    """One object on one page of a submitted annotation.

    version:   of the model that proposed it; empty where nobody knows, and for what was drawn by hand
    prompts:   clicks and boxes on it, moved ones once more, and its share of the text that found it
    seconds:   its share of the annotation's time
    overlap:   intersection over union of what was accepted and what was submitted
    first:     the same of the first answer about it
    untouched: it was submitted as it was proposed, with the same label
    """

    label: str
    kind: str
    version: str = ""
    prompts: float | None = None
    seconds: float | None = None
    overlap: float | None = None
    first: float | None = None
    untouched: bool | None = None


@dataclass(frozen=True)
class Measured:
    """An annotation. ``unread``: regions whose pixels can't be had; ``removed``: masks of the prediction that it was
    begun from which are not in it; ``objects`` have names of ours."""

    masks: tuple[Effort, ...]
    unread: int = 0
    removed: int = 0
    objects: frozenset[str] = frozenset()


def measure(
    annotation: Json, task: Mapping[str, Any], config: LabelConfig, answers: Answers, begun_from: Json | None = None,
    tolerance: float = 0.5,
) -> Measured:  # fmt: skip
    """One annotation of a task; ``begun_from`` is the prediction that it was begun from, where it can be had;
    ``tolerance`` that of outlines whose tag has none of its own, in pixels.

    :raises LabelConfigError: the labeling configuration does not fit the task.
    """
    taken, submitted = _masks(annotation, task, config)
    proposed = _masks(begun_from, task, config)[1] if begun_from is not None else {}
    if taken.layout.paged:  # what others named is told apart by its order there, which changes
        proposed = {key: drawn for key, drawn in proposed.items() if ISSUED.fullmatch(f"{key[0]}-{key[1]:04d}")}
    version = written(str((begun_from or {}).get("model_version") or ""))
    steps = {key: answers(*key) if drawn.origin != "drawn" else () for key, drawn in submitted.items()}
    families = Counter(_family(name) for (name, _), own in steps.items() if _by_words(own))
    lead = annotation.get("lead_time")
    timed = isinstance(lead, int | float) and not isinstance(lead, bool) and math.isfinite(lead) and lead > 0
    tolerances, found = _tolerances(config, tolerance), []
    for key, drawn in submitted.items():
        seconds = lead / len(submitted) if timed else None
        if drawn.origin == "drawn":
            found.append(Effort(drawn.label, "drawn", seconds=seconds))
        elif steps[key]:
            words = 1 / families[_family(key[0])] if _by_words(steps[key]) else 0.0
            shown = [_Shown(step, drawn, tolerances) for step in steps[key]]
            found.append(_answered(drawn, shown, words, seconds))
        else:
            found.append(_predicted(drawn, proposed.get(key), version, seconds))
    objects = frozenset(name for (name, _), drawn in submitted.items() if drawn.origin != "drawn")
    unread = sum(taken.skipped.get(reason, 0) for reason in _UNREAD)
    return Measured(tuple(found), unread, len(proposed.keys() - submitted.keys()), objects)


def prompts_of(steps: Sequence[Step]) -> int:
    """How many clicks and boxes led to answers about an object on a page; one that was moved counts once more."""
    drawn = {prompt for step in steps for prompt in (*step.clicks, *step.boxes, *step.masks)}
    return len(drawn)


def _masks(entry: Json, task: Mapping[str, Any], config: LabelConfig) -> tuple[Taken, dict[_Key, Drawn]]:
    """The masks of an annotation or a prediction, by object and page."""
    taken = take({**task, "annotations": [{"id": 0, "result": entry.get("result")}]}, _MASKS, config)
    return taken, {(drawn.object, drawn.frame - taken.layout.start): drawn for drawn in taken.drawn}


def _family(object_id: str) -> str:
    return object_id.split("n", 1)[0]


def _by_words(steps: Sequence[Step]) -> bool:
    return bool(steps) and steps[0].worded and not steps[0].tracked


def _answered(drawn: Drawn, shown: Sequence[_Shown], words: float, seconds: float | None) -> Effort:
    mask = drawn.runs.mask()
    prompts = prompts_of([one.step for one in shown])
    kind = "prompted" if prompts else "worded" if words else "tracked"
    accepted = next((one for one in reversed(shown) if one.is_same(mask)), None)
    whole = accepted is not None or drawn.origin == "untouched"
    one = accepted or shown[-1]
    return Effort(
        drawn.label,
        kind,
        one.step.version,
        prompts + words,
        seconds,
        1.0 if whole else one.overlap(mask),
        shown[0].overlap(mask) if kind != "tracked" else None,
        whole and one.step.label == drawn.label,
    )


def _predicted(drawn: Drawn, proposed: Drawn | None, version: str, seconds: float | None) -> Effort:
    """What nothing was asked about here: a prediction, or a suggestion that is forgotten."""
    if drawn.origin == "accepted":
        return Effort(drawn.label, "unknown", seconds=seconds)
    untouched = drawn.origin == "untouched"
    same = 1.0 if untouched else None
    if proposed is not None and not untouched:
        mask = drawn.runs.mask()
        same = overlap(mask, resize_mask(proposed.runs.mask(), mask.shape))
    return Effort(drawn.label, "predicted", version, 0.0, seconds, same, None, untouched)


@dataclass(frozen=True, eq=False)
class _Shown:
    """An answer as the editor showed it beside ``drawn``: at the size there, as outlines or a box where the region is
    of that kind, outlines once for each tolerance of the configuration's tags."""

    step: Step
    drawn: Drawn
    tolerances: tuple[float, ...]

    @cached_property
    def masks(self) -> list[np.ndarray]:
        mask = resize_mask(self.step.mask.unpack(), self.drawn.runs.size)
        if self.drawn.shape == "polygon":
            return [_outlined(mask, tolerance) for tolerance in self.tolerances]
        box = mask_to_box(mask) if self.drawn.shape == "rectangle" else None
        return [mask if box is None else fill_box(box, mask.shape)]

    def is_same(self, mask: np.ndarray) -> bool:
        """Whether nobody changed it."""
        return any(int((mask ^ one).sum()) <= 2 + _LOST * int((mask | one).sum()) for one in self.masks)

    def overlap(self, mask: np.ndarray) -> float:
        return max(overlap(mask, one) for one in self.masks)


def _outlined(mask: np.ndarray, tolerance: float) -> np.ndarray:
    filled = np.zeros(mask.shape, bool)
    for outline in mask_to_polygons(mask, tolerance):
        filled |= value_to_mask("polygon", {"points": points_to_percent(outline, mask.shape)}, mask.shape)
    return filled


def _tolerances(config: LabelConfig, usual: float) -> tuple[float, ...]:
    found = {tag.pixels("tolerance", usual) for tag in config.controls.values() if tag.shape == "polygon"}
    return tuple(sorted(found or {usual}))
