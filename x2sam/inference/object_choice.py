"""Which query is the object that a person pointed at: in a picture, and from frame to frame of a video (X2SAM)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from .query_masks import MENDED, Prediction, Quirks, Segments, make_segments, no_segments, rate_instances

_REMEMBERED = 4
_GEOMETRY, _CLASS = 0.2, 0.8


def prompt_like(prediction: Prediction, region: torch.Tensor, quirks: Quirks) -> torch.Tensor:
    """A prompt (H, W) at the network's size, brought to the size at which queries are rated; values kept.

    At picture size the way down and up again moves edges: choices compare with this mask, not with the one that was
    drawn. At the queries' size a cell counts as prompted when half of it is, or any of it when no cell has that much.
    """
    height, width = prediction.sizes.scaled
    values = region[None, None, :height, :width].float()
    if not quirks.rate_small:
        return F.interpolate(values, prediction.sizes.original, mode="nearest")[0, 0]
    small = prediction.at_own_size(torch.zeros(1, dtype=torch.long)).shape[-2:]
    share = F.adaptive_avg_pool2d((values != 0).float(), small)[0, 0]
    return ((share >= 0.5) if (share >= 0.5).any() else (share > 0)).float() * values.max()


def overlap(masks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """IoU of bool masks (n, H, W) with one bool mask (H, W); 0 where both are empty. float32 (n,)."""
    inter = (masks & reference).sum((-2, -1)).float()
    union = (masks | reference).sum((-2, -1)).float()
    return inter / union.clamp(min=1.0)


def box_overlap(masks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """IoU of the tight boxes of bool masks (n, H, W) with that of one bool mask (H, W). float32 (n,)."""
    boxes, (other,) = _tight_boxes(masks), _tight_boxes(reference[None])
    low, high = torch.maximum(boxes[:, :2], other[:2]), torch.minimum(boxes[:, 2:], other[2:])
    inter = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return inter / (areas + (other[2:] - other[:2]).prod() - inter).clamp(min=1.0)


def _tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """First and last row and column of bool masks (n, H, W) as (y0, x0, y1, x1), the last ones exclusive; zeros for an
    empty mask. float32 (n, 4)."""
    sides = []
    for along in (2, 1):
        hit = masks.any(along)
        count = hit.shape[1]
        first = hit.float().argmax(1)
        sides.append((first, (count - hit.flip(1).float().argmax(1)) * hit.any(1)))
    (y0, y1), (x0, x1) = sides
    return torch.stack((y0, x0, y1, x1), 1).float()


OVERLAPS = {"mask": overlap, "box": box_overlap}


def prompted_region(
    prediction: Prediction, region: torch.Tensor, threshold: float = 0.5, quirks: Quirks = MENDED, compare: str = "mask"
) -> Segments:
    """Interactive segmentation: of the queries that reach the threshold (else the best) the one most like the prompt.

    region:  the prompt (H, W) at the network's size
    compare: what of the two overlaps: the ``mask``, or as X-SAM has it the ``box`` around it; of equals the first
    """
    rated = rate_instances(prediction, 0.0, quirks)
    full = rated.areas > 0
    if not full.any():
        return no_segments(prediction)
    good = (rated.scores >= threshold) & full
    if not good.any():
        good[torch.where(full, rated.scores, -1.0).argmax()] = True
    keep = torch.nonzero(good).flatten()
    prompt = prompt_like(prediction, region.to(keep.device), quirks) > 0
    candidates = prediction.chunks(rated.queries[keep], small=quirks.rate_small)
    similar = torch.cat([OVERLAPS[compare](logits > 0, prompt) for _, logits in candidates])
    chosen = keep[similar.argmax()].view(1)
    masks = prediction.at_picture_size(rated.queries[chosen]) > 0
    return make_segments(masks, rated.scores[chosen], rated.categories[chosen], torch.ones(1))


@dataclass(frozen=True, eq=False)
class ObjectAnchor:
    """The prompt of a tracked object: region mask (H, W) at the network's size."""

    region: torch.Tensor

    def mask(self, prediction: Prediction, quirks: Quirks = MENDED) -> torch.Tensor:
        """bool, at the size at which queries are rated."""
        values = prompt_like(prediction, self.region.to(prediction.mask_logits.device), quirks)
        return values != 0 if quirks.anchor_nonzero else values == 255


@dataclass
class ObjsegState:
    """What the choice in one video rests on: the anchor, and the last masks that were certain, with their weights."""

    anchor: ObjectAnchor
    remembered: deque[tuple[torch.Tensor, float]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


def tracked_object(
    prediction: Prediction, state: ObjsegState, threshold: float = 0.5, quirks: Quirks = MENDED
) -> Segments:
    """Video object segmentation, one frame; updates ``state``.

    Of the queries that reach the threshold (else the best) the one with the largest 0.8 x score + 0.2 x mean IoU with
    anchor (weight 1) and the last 4 remembered masks (weight: their sum). It is remembered when its sum exceeds the
    threshold; the sum is also the score of the segment.
    """
    scores = prediction.scores()[:, 0]
    keep = torch.nonzero(scores >= threshold).flatten()
    if not len(keep):
        keep = scores.argmax().view(1)
    references = [(state.anchor.mask(prediction, quirks), 1.0), *state.remembered]
    weights = torch.tensor([weight for _, weight in references], device=scores.device)
    geometry = []
    for _, logits in prediction.chunks(keep, small=quirks.rate_small):
        masks = logits > 0
        similar = torch.stack([overlap(masks, reference.to(masks.device)) for reference, _ in references])
        geometry.append((similar * weights[:, None]).sum(0) / weights.sum())
    combined = _GEOMETRY * torch.cat(geometry) + _CLASS * scores[keep]
    best = combined.argmax().view(1)
    chosen = keep[best]
    mask = prediction.at_picture_size(chosen) > 0
    if float(combined[best]) > threshold:
        rated = prediction.at_own_size(chosen) > 0 if quirks.rate_small else mask
        state.remembered.append((rated[0], float(combined[best])))
    return make_segments(mask, combined[best], torch.zeros(1), torch.ones(1))
