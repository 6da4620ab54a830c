"""Query masks and scores of one frame -> masks at picture size, by the rule of the task (X2SAM, inference).

Only the queries that a rule keeps are brought to picture size. Rules that look at more than one frame take a state that
its owner keeps per video: :class:`.panoptic.PanopticState`, :class:`.object_choice.ObjsegState`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..data.tasks import Task
from ..errors import PromptError
from ..layouts import X2SAM_LAYOUT, Layout
from .object_choice import ObjectAnchor, ObjsegState, prompted_region, tracked_object
from .panoptic import PanopticLimits, PanopticState, continue_ids, panoptic, semantic
from .query_masks import MENDED, Prediction, Quirks, Segments, make_segments, no_segments, rate_instances

__all__ = [
    "MENDED", "ObjectAnchor", "ObjsegState", "PanopticLimits", "PanopticState", "Prediction", "Quirks", "Rule",
    "Segments", "best_query", "best_query_per_phrase", "instances", "new_state", "panoptic", "postprocess",
    "prompted_region", "semantic", "tracked_object", "union_of_queries",
]  # fmt: skip


def best_query(prediction: Prediction) -> Segments:
    """Referring and reasoning segmentation: the query with the highest score, pixels with probability above 0.5."""
    scores = prediction.scores()[:, 0]
    best = scores.argmax().view(1)
    masks = prediction.at_picture_size(best) > 0
    return make_segments(masks, scores[best], torch.zeros(1), torch.ones(1))


def union_of_queries(prediction: Prediction, threshold: float = 0.6, allow_none: bool = False) -> Segments:
    """Generalised referring segmentation: one mask of all queries with ``threshold`` and more, else of the best one.

    allow_none: when no query reaches the threshold the phrase names nothing in the picture, so the answer is empty
    """
    scores = prediction.scores()[:, 0]
    keep = torch.nonzero(scores >= threshold).flatten()
    if not len(keep):
        if allow_none:
            return no_segments(prediction)
        keep = scores.argmax().view(1)
    union = torch.zeros(prediction.sizes.original, dtype=torch.bool, device=scores.device)
    for _, logits in prediction.chunks(keep):
        union |= (logits > 0).any(0)
    return make_segments(union[None], scores[keep].max().view(1), torch.zeros(1), torch.ones(1))


def best_query_per_phrase(prediction: Prediction) -> Segments:
    """Grounded captions: the best query of every phrase, in the order of the phrases; ids count from 1."""
    if prediction.class_logits.shape[1] < 2:
        return no_segments(prediction)
    scores, best = prediction.scores().max(0)
    phrases = torch.arange(len(best))
    masks = torch.cat([logits > 0 for _, logits in prediction.chunks(best)])
    return make_segments(masks, scores, phrases, phrases + 1)


def instances(
    prediction: Prediction, threshold: float = 0.5, quirks: Quirks = MENDED, object_asked: bool = False
) -> Segments:
    """Instance segmentation and "all like this": every pair with a non-empty mask whose score reaches the threshold.

    Overlaps are allowed and nothing is suppressed. object_asked: the prompt shows an object, so that something must
    be there (``quirks.best_when_none``).
    """
    fall_back = object_asked and quirks.best_when_none
    rated = rate_instances(prediction, 0.0 if fall_back else threshold, quirks)
    good = (rated.scores >= threshold) & (rated.areas > 0)
    if fall_back and not good.any() and (rated.areas > 0).any():
        good = torch.zeros_like(good)
        good[torch.where(rated.areas > 0, rated.scores, -1.0).argmax()] = True
    keep = torch.nonzero(good).flatten()
    if not len(keep):
        return no_segments(prediction)
    if quirks.best_first:
        keep = keep[rated.scores[keep].argsort(descending=True, stable=True)]
    needed, where = rated.queries[keep].unique(return_inverse=True)
    masks = torch.cat([logits > 0 for _, logits in prediction.chunks(needed)])[where]
    full = masks.flatten(1).any(1)  # a mask can vanish on the way to a picture smaller than itself
    keep, masks = keep[full], masks[full]
    ids = torch.arange(len(keep))
    return make_segments(masks, rated.scores[keep], rated.categories[keep], ids, last_on_top=not quirks.best_first)


State = PanopticState | ObjsegState


@dataclass(frozen=True, eq=False)
class Rule:
    """Everything a task's rule needs besides the frame.

    task:        row of the task table; its ``select`` names the rule
    threshold:   least score, by default the task's
    things:      per category of generic segmentation, counted one by one or not
    region:      int64 (H, W), the prompt of intseg and objseg at the network's size
    regions:     number of prompted regions, for "all like this"
    generalised: a phrase may name several objects or, with ``allow_none``, nothing
    layout:      the model's family: two rules differ between them
    """

    task: Task
    threshold: float | None = None
    things: Sequence[bool] = ()
    region: torch.Tensor | None = None
    regions: int = 0
    generalised: bool = False
    allow_none: bool = False
    limits: PanopticLimits = field(default_factory=PanopticLimits)
    quirks: Quirks = MENDED
    layout: Layout = X2SAM_LAYOUT

    @property
    def least(self) -> float:
        return self.task.threshold if self.threshold is None else self.threshold


def new_state(rule: Rule) -> State | None:
    """What the rule has to remember from frame to frame of one video; None for the rules that need nothing."""
    if rule.task.select == "object":
        return ObjsegState(ObjectAnchor(_region(rule)))
    if rule.task.select in ("categories", "instances") and rule.task.modality == "video":
        return PanopticState()
    return None


def postprocess(rule: Rule, prediction: Prediction, state: State | None = None) -> Segments:
    """The segments of one frame. ``state`` comes from :func:`new_state` and is updated; frames go in order of time.

    Raises PromptError for a task without masks and for a rule that lacks its region.
    """
    if rule.task.select is None:
        raise PromptError(f"the task {rule.task.name} answers in words and has no masks")
    return _SELECT[rule.task.select](rule, prediction, state)


def _region(rule: Rule) -> torch.Tensor:
    if rule.region is None:
        raise PromptError(f"the task {rule.task.name} needs the region that was drawn")
    return rule.region


def _best(rule: Rule, prediction: Prediction, state: State | None) -> Segments:
    if rule.generalised:
        return union_of_queries(prediction, allow_none=rule.allow_none)
    return best_query(prediction)


def _categories(rule: Rule, prediction: Prediction, state: State | None) -> Segments:
    things = tuple(rule.things) or (True,) * (prediction.class_logits.shape[1] - 1)
    if len(things) != prediction.class_logits.shape[1] - 1:
        raise PromptError(f"{len(things)} categories were named, {prediction.class_logits.shape[1] - 1} were scored")
    if all(things):
        return _numbered(instances(prediction, rule.least, rule.quirks), rule, state)
    if not any(things):
        return semantic(prediction, rule.quirks, summed_at=rule.layout.semantic)
    return panoptic(prediction, things, replace(rule.limits, score=rule.least), rule.quirks, state)


def _instances(rule: Rule, prediction: Prediction, state: State | None) -> Segments:
    found = instances(prediction, rule.least, rule.quirks, object_asked=rule.regions == 1)
    return _numbered(found, rule, state)


def _numbered(found: Segments, rule: Rule, state: State | None) -> Segments:
    """Published instances are numbered anew in every frame; with ``quirks.unique_ids`` they keep their ids."""
    if state is not None and rule.quirks.unique_ids:
        return continue_ids(found, state)
    return found


def _prompted(rule: Rule, prediction: Prediction, state: State | None) -> Segments:
    return prompted_region(prediction, _region(rule), rule.least, rule.quirks, rule.layout.overlap)


def _object(rule: Rule, prediction: Prediction, state: State | None) -> Segments:
    return tracked_object(prediction, state or new_state(rule), rule.least, rule.quirks)


_SELECT: dict[str, Callable[[Rule, Prediction, State | None], Segments]] = {
    "best": _best,
    "phrases": lambda rule, prediction, state: best_query_per_phrase(prediction),
    "categories": _categories,
    "instances": _instances,
    "region": _prompted,
    "object": _object,
}
