"""Losses that tie words and kinds of things to places, for models whose language starts from nothing.

Queries learn from one match per object and layer, which takes far too long to find out what "red" or "cup" look like.
These losses say it at every place of the picture at once; the published model needs none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.x2sam import FrameFeatures, heat_of
from x2sam.training.episodes import Row
from x2sam.training.matching import IGNORE_LABEL, Target

_FAR = -1e4
_HIT = 0.3


def alignment_loss(
    features: FrameFeatures, words: Condition, targets: Sequence[Target], owner: Sequence[int]
) -> tuple[Tensor, float]:
    """How badly words and places agree without any query in between, and how often the hottest place is a right one.

    The embedding of every item, and that of ``<SEG>`` where there is one item only, gives a heat map as in
    :func:`x2sam.model.x2sam.heat_of`. Cross-entropy over the places (where is it?) and, with inside and outside
    weighed alike, at each place (is it here?). Dice would not do: on a heat map that is cold everywhere, as all are in
    the beginning, its gradient vanishes.
    """
    places = features.maps[1]
    embeddings, wanted, known, pictures = [], [], [], []
    for row, (target, picture) in enumerate(zip(targets, owner, strict=True)):
        count = int(words.class_mask[row].sum()) - 1
        shown = torch.stack([target.masks[target.labels == k].any(0) for k in range(count)]).float()
        valid = F.adaptive_avg_pool2d(target.valid[None].float(), places.shape[-2:]) > 0.5
        shown = F.adaptive_avg_pool2d(shown, places.shape[-2:]) * valid
        found = [*words.classes[row, :count], *([words.seg[row, 0]] if count == 1 else [])]
        for index, embedding in enumerate(found):
            part = shown[min(index, count - 1)]
            if bool(part.any()):
                embeddings.append(embedding)
                wanted.append(part)
                known.append(valid[0])
                pictures.append(picture)
    if not embeddings:
        return places.sum() * 0.0, 0.0
    truth, valid = torch.stack(wanted).flatten(1), torch.stack(known).flatten(1)
    heat = heat_of(places[pictures], torch.stack(embeddings)).float().flatten(1)
    share = truth / truth.sum(1, keepdim=True)
    where = -(share * heat.masked_fill(~valid, _FAR).log_softmax(1)).sum(1)
    entropy = F.binary_cross_entropy_with_logits(heat, truth, reduction="none") * valid
    outside = (1 - truth) * valid
    here = (entropy * truth).sum(1) / truth.sum(1) + (entropy * outside).sum(1) / outside.sum(1).clamp(min=1)
    best = heat.masked_fill(~valid, _FAR).argmax(1, keepdim=True)
    return where.mean() + here.mean(), float((truth.gather(1, best) > _HIT).float().mean())


def naming_loss(
    places: Tensor, kinds: Tensor, head: nn.Conv2d, count: int | None = None, rng: np.random.Generator | None = None
) -> Tensor:
    """Cross-entropy of what kind of thing each place shows; every kind of a picture counts alike, however large it is.

    With ``count`` it is estimated from so many places, drawn by their weight: naming all is a tenth of a step's time.

    places: (F, C, h, w); kinds: int64 (F, h, w), -1 where nobody said; head: 1 x 1, from C to the number of kinds
    """
    weight = torch.zeros(kinds.shape)
    for index, picture in enumerate(kinds.cpu()):
        for kind in picture.unique().tolist():
            if kind >= 0:
                here = picture == kind
                weight[index][here] = 1.0 / float(here.sum())
    share = (weight / weight.sum().clamp(min=1e-6)).flatten()
    drawn = share.nonzero()[:, 0]
    if count is not None and rng is not None and len(drawn):
        chances = share.double().numpy()
        drawn = torch.from_numpy(rng.choice(len(chances), count, p=chances / chances.sum()))
        share = torch.full_like(share, 1.0 / count)
    drawn = drawn.to(places.device)
    logits = F.linear(places.movedim(1, -1).flatten(0, -2)[drawn], head.weight.flatten(1), head.bias)
    entropy = F.cross_entropy(logits.float(), kinds.flatten()[drawn], reduction="none")
    return (entropy * share.to(places.device)[drawn]).sum()


def expressions_of(
    rows: Sequence[Row], pictures: int, count: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Places in ``rows`` (picture-major, equally many per picture) of ``count`` expressions of each picture, and their
    labels: 0, or ``IGNORE_LABEL`` where a picture has no expression (every process has to take the same steps)."""
    each = len(rows) // pictures
    picked, labels = [], []
    for picture in range(pictures):
        here = range(picture * each, (picture + 1) * each)
        able = [i for i in here if not len(rows[i].regions) and len(rows[i].labels) == 1]
        drawn = rng.choice(able, count, replace=len(able) < count).tolist() if able else [here[0]] * count
        picked += drawn
        labels += [0 if able else IGNORE_LABEL] * count
    return picked, labels


def found_by_words(level: LevelPrediction, targets: Sequence[Target], rows: Sequence[Row]) -> float | None:
    """Mean IoU of the best-scoring query with the one object that an expression means; None without such rows."""
    single = [i for i, row in enumerate(rows) if not len(row.regions) and len(row.labels) == 1]
    if not single:
        return None
    truth = torch.stack([targets[i].masks[0] for i in single]).float()
    return mean_iou(chosen_logits(level)[single], truth, torch.stack([targets[i].valid for i in single]))


def chosen_logits(level: LevelPrediction) -> Tensor:
    """Mask logits (B, h, w) of the query that scores best for the first class."""
    best = level.class_logits.softmax(-1)[..., 0].argmax(1)
    return level.mask_logits[torch.arange(len(best), device=best.device), best].float()


@torch.no_grad()
def mean_iou(logits: Tensor, truth: Tensor, valid: Tensor) -> float:
    """Of masks (B, h, w) as logits with ``truth`` (B, H, W), where ``valid``."""
    up = F.interpolate(logits[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
    wanted, up = truth.bool() & valid, up & valid
    union = (up | wanted).flatten(1).sum(1)
    return float(((up & wanted).flatten(1).sum(1) / union.clamp(min=1)).mean())
