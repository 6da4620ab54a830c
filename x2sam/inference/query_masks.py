"""What every selection rule starts from: the query masks and scores of one frame, and the segments it ends with.

A frame gives ``Q`` query masks at a quarter of the network's size and their class scores against ``K`` conditions and
the background. A query is brought to picture size in two bilinear steps: a quarter -> network size, then the picture's
part cut out -> picture size. Whoever needs many queries goes through them in chunks, so that memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional as F

from .preprocess import FrameSizes

CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Quirks:
    """Where we depart from the published post-processing; every True is a mend.

    anchor_nonzero:  any non-zero pixel of a prompt counts as prompted; published: only the value 255
    unique_ids:      a segment has an id of its own, also through a video, and is listed once; published: ids can
                     collide, merged stuff is listed once per query, instances are numbered anew in every frame
    best_first:      instances come best first and the best is painted on top; published: unsorted, the last on top
    best_when_none:  a prompted object gets the best query when no score reaches the threshold; published: nothing
    leave_unclaimed: a pixel that no category claims stays unlabelled in semantic maps; published: it gets the best one
    rate_small:      area, mean probability and overlap of a query are taken at the query's own size, and only what is
                     kept is brought to picture size; published: every query is brought there first
    """

    anchor_nonzero: bool = True
    unique_ids: bool = True
    best_first: bool = True
    best_when_none: bool = True
    leave_unclaimed: bool = True
    rate_small: bool = True

    @classmethod
    def mended(cls) -> Quirks:
        return cls()

    @classmethod
    def reference(cls) -> Quirks:
        """The published behaviour, number by number."""
        return cls(**{field.name: False for field in fields(cls)})


MENDED = Quirks.mended()


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says about one frame.

    mask_logits:  float (Q, h, w) at a quarter of the network's size (X-SAM: an eighth)
    class_logits: float (Q, K + 1), the last column is the background
    """

    mask_logits: torch.Tensor
    class_logits: torch.Tensor
    sizes: FrameSizes

    @property
    def queries(self) -> int:
        return len(self.mask_logits)

    def scores(self) -> torch.Tensor:
        """float32 (Q, K): softmax over conditions and background, background left out."""
        return self.class_logits.float().softmax(-1)[:, :-1]

    def at_picture_size(self, queries: torch.Tensor) -> torch.Tensor:
        """Mask logits float32 (n, H, W) of the queries with these indices."""
        return self.fitted(self.at_network_size(queries))

    def at_network_size(self, queries: torch.Tensor) -> torch.Tensor:
        """Mask logits float32 (n, S, S), padding included."""
        logits = self.mask_logits[queries][None].float()
        return F.interpolate(logits, self.sizes.network, mode="bilinear", align_corners=False)[0]

    def fitted(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, S, S) at the network's size brought to the picture's, (n, H, W), the padding cut off."""
        height, width = self.sizes.scaled
        inside = maps[None, :, :height, :width]
        return F.interpolate(inside, self.sizes.original, mode="bilinear", align_corners=False)[0]

    def at_own_size(self, queries: torch.Tensor) -> torch.Tensor:
        """Mask logits float32 (n, h, w) as the network gave them, the padding cut off."""
        ratio = [side / whole for side, whole in zip(self.mask_logits.shape[-2:], self.sizes.network, strict=True)]
        height, width = (max(1, math.ceil(side * r)) for side, r in zip(self.sizes.scaled, ratio, strict=True))
        return self.mask_logits[queries, :height, :width].float()

    def chunks(self, queries: torch.Tensor, small: bool = False) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(indices, logits) of a few queries at a time, at picture size, or with ``small`` at their own."""
        if small:
            yield queries, self.at_own_size(queries)
            return
        pixels = max(math.prod(self.sizes.original), math.prod(self.sizes.network))
        for part in queries.split(max(1, CHUNK_BYTES // (4 * pixels))):
            yield part, self.at_picture_size(part)


@dataclass(frozen=True, eq=False)
class Segments:
    """Masks of one frame at picture size.

    masks:      bool (N, H, W)
    scores:     float32 (N,), 0..1
    categories: int64 (N,), index of the prompt's item
    ids:        int64 (N,), value in a label map; equal in consecutive frames for the same tracked thing
    things:     bool (N,), False for stuff
    last_on_top: where masks overlap in a label map the last one wins, else the first
    """

    masks: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    ids: np.ndarray
    things: np.ndarray
    last_on_top: bool = True

    def __len__(self) -> int:
        return len(self.masks)

    def label_map(self, background: int) -> np.ndarray:
        """int32 (H, W): the id of the segment at each pixel, else ``background``."""
        canvas = np.full(self.masks.shape[1:], background, dtype=np.int32)
        order = range(len(self)) if self.last_on_top else reversed(range(len(self)))
        for index in order:
            canvas[self.masks[index]] = self.ids[index]
        return canvas

    def info(self) -> list[dict]:
        """One entry per segment: ``id``, ``category_id``, ``isthing``, ``score``, ``area`` in pixels."""
        return [
            {
                "id": int(self.ids[i]),
                "category_id": int(self.categories[i]),
                "isthing": bool(self.things[i]),
                "score": round(float(self.scores[i]), 6),
                "area": int(self.masks[i].sum()),
            }
            for i in range(len(self))
        ]


def make_segments(
    masks: torch.Tensor,
    scores: torch.Tensor,
    categories: torch.Tensor,
    ids: torch.Tensor,
    things: torch.Tensor | None = None,
    last_on_top: bool = True,
) -> Segments:
    """Tensors on any device -> :class:`Segments`; everything is a thing when ``things`` is not given."""
    things = torch.ones(len(masks)) if things is None else things
    arrays = (masks.bool(), scores.float(), categories.long(), ids.long(), things.bool())
    return Segments(*(values.detach().cpu().numpy() for values in arrays), last_on_top=last_on_top)


def no_segments(prediction: Prediction) -> Segments:
    empty = torch.zeros(0)
    return make_segments(torch.zeros((0, *prediction.sizes.original), dtype=torch.bool), empty, empty, empty)


@dataclass(frozen=True, eq=False)
class Instances:
    """Candidate pairs: ``queries``, ``categories``, ``areas`` int64 (n,), ``scores`` float32 (n,)."""

    queries: torch.Tensor
    categories: torch.Tensor
    scores: torch.Tensor
    areas: torch.Tensor


def rate_instances(prediction: Prediction, floor: float, quirks: Quirks) -> Instances:
    """The Q best (query, category) pairs; score = class score x mean probability inside the mask; area in pixels.

    Pairs whose class score is below ``floor`` can't reach it and are left out before any mask is made.
    """
    scores = prediction.scores()
    count = min(prediction.queries, scores.numel())
    values, flat = scores.flatten().topk(count, sorted=quirks.best_first)
    values, flat = values[values >= floor], flat[values >= floor]
    queries, categories = flat // scores.shape[1], flat % scores.shape[1]
    if not len(values):
        return Instances(queries, categories, values, queries)
    needed, where = queries.unique(return_inverse=True)
    means, areas = [], []
    for _, logits in prediction.chunks(needed, small=quirks.rate_small):
        inside = logits > 0
        areas.append(inside.sum((-2, -1)))
        means.append((logits.sigmoid() * inside).sum((-2, -1)) / (areas[-1] + 1e-6))
    return Instances(queries, categories, values * torch.cat(means)[where], torch.cat(areas)[where])
