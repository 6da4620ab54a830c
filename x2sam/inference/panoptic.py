"""Generic and open-vocabulary segmentation of whole pictures: semantic and panoptic maps (X2SAM, inference)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .query_masks import CHUNK_BYTES, MENDED, Prediction, Quirks, Segments, make_segments, no_segments


def semantic(
    prediction: Prediction, quirks: Quirks = MENDED, floor: float = 0.5, summed_at: str = "picture"
) -> Segments:
    """One segment per category that is there; its id is the category.

    Each pixel goes to the category with the largest sum over queries of class score x mask probability.
    floor:     with ``quirks.leave_unclaimed`` a pixel whose largest sum is smaller belongs to no category.
    summed_at: at the size of the ``picture``, or as X-SAM does of the ``network``; a few pixels of borders differ.
    """
    scores = prediction.scores()
    sizes = prediction.sizes.original
    best = torch.full(sizes, -1.0, device=scores.device)
    winner = torch.zeros(sizes, dtype=torch.long, device=scores.device)
    every = torch.arange(prediction.queries, device=scores.device)
    pixels = max(math.prod(sizes), math.prod(prediction.sizes.network))
    at_once = max(1, int(CHUNK_BYTES / (4 * pixels)))
    for start in range(0, scores.shape[1], at_once):
        sums = _SUMS[summed_at](prediction, every, scores[:, start : start + at_once])
        value, index = sums.max(0)
        better = value > best
        winner[better] = index[better] + start
        best[better] = value[better]
    claimed = best >= floor if quirks.leave_unclaimed else torch.ones_like(best, dtype=torch.bool)
    present = [c for c in range(scores.shape[1]) if bool(((winner == c) & claimed).any())]
    if not present:
        return no_segments(prediction)
    masks = torch.stack([(winner == c) & claimed for c in present])
    values = torch.stack([best[mask].mean().clamp(max=1.0) for mask in masks])
    kinds = torch.tensor(present)
    return make_segments(masks, values, kinds, kinds, things=torch.zeros(len(kinds)))


def _summed_at_picture_size(prediction: Prediction, every: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Of the categories of ``scores`` (Q, k) the sum over queries of score x probability, (k, H, W)."""
    sums = torch.zeros((scores.shape[1], *prediction.sizes.original), device=scores.device)
    for queries, logits in prediction.chunks(every):
        sums += torch.einsum("qc,qhw->chw", scores[queries], logits.sigmoid())
    return sums


def _summed_at_network_size(prediction: Prediction, every: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The same, added up first and brought to picture size then."""
    sums = torch.zeros((scores.shape[1], *prediction.sizes.network), device=scores.device)
    for queries in every.split(max(1, int(CHUNK_BYTES / (4 * math.prod(prediction.sizes.network))))):
        sums += torch.einsum("qc,qhw->chw", scores[queries], prediction.at_network_size(queries).sigmoid())
    return prediction.fitted(sums)


_SUMS = {"picture": _summed_at_picture_size, "network": _summed_at_network_size}


@dataclass
class PanopticState:
    """Ids given so far in one video. ``things`` of the last frame: (id, category, bool (H, W))."""

    last_id: int = 0
    things: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)
    stuff: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PanopticLimits:
    """``score``: least class score of a query; ``mask``: probability x score that counts as covered; ``overlap``: least
    part of the covered pixels that a query must win."""

    score: float = 0.5
    mask: float = 0.5
    overlap: float = 0.8


def panoptic(
    prediction: Prediction,
    things: Sequence[bool],
    limits: PanopticLimits | None = None,
    quirks: Quirks = MENDED,
    state: PanopticState | None = None,
) -> Segments:
    """Segments that do not overlap; stuff of one category is one segment.

    things: per category, counted one by one or not
    state:  of a video; a thing then keeps the id of the thing of its category that it overlaps by an IoU above 0.5 in
            the frame before, stuff keeps one id per category. Without it ids count from 1 in every frame.
    """
    limits = limits or PanopticLimits()
    scores, categories = prediction.scores().max(-1)
    kept = torch.nonzero(scores > limits.score).flatten()
    if not len(kept):
        _remember(state, [])
        return no_segments(prediction)
    winner, covered = _compete(prediction, kept, scores, limits.mask)
    parts = []
    for k, query in enumerate(kept.tolist()):
        mask = winner == k
        area = int(mask.sum())
        if area and covered[k] and area / covered[k] > limits.overlap:
            parts.append((mask, float(scores[query]), int(categories[query])))
    if not parts:
        _remember(state, [])
        return no_segments(prediction)
    ids = _number(parts, things, quirks, state)
    if quirks.unique_ids:
        parts, ids = _merge(parts, ids)
    _remember(state, [(i, part[2], part[0]) for i, part in zip(ids, parts, strict=True) if things[part[2]]])
    masks, values, kinds = zip(*parts, strict=True)
    counted = torch.tensor([bool(things[kind]) for kind in kinds])
    return make_segments(
        torch.stack(masks), torch.tensor(values), torch.tensor(kinds), torch.tensor(ids), things=counted
    )


def continue_ids(segments: Segments, state: PanopticState) -> Segments:
    """Things found frame by frame, numbered through a video: by the rule for the things of :func:`panoptic`."""
    masks = [torch.from_numpy(mask) for mask in segments.masks]
    parts = list(zip(masks, segments.scores.tolist(), segments.categories.tolist(), strict=True))
    counted = (True,) * (max((category for _, _, category in parts), default=0) + 1)
    ids = _number(parts, counted, MENDED, state)
    _remember(state, [(i, category, mask) for i, (mask, _, category) in zip(ids, parts, strict=True)])
    return replace(segments, ids=np.array(ids, np.int64))


def _compete(prediction: Prediction, kept: torch.Tensor, scores: torch.Tensor, covers: float):
    """Who wins each pixel by probability x score: int (H, W) index into ``kept``; and covered pixels per query."""
    best = torch.full(prediction.sizes.original, -1.0, device=scores.device)
    winner = torch.zeros(prediction.sizes.original, dtype=torch.long, device=scores.device)
    covered, start = [], 0
    for queries, logits in prediction.chunks(kept):
        weighted = logits.sigmoid() * scores[queries].view(-1, 1, 1)
        covered += (weighted >= covers).sum((-2, -1)).tolist()
        value, index = weighted.max(0)
        better = value > best
        winner[better] = index[better] + start
        best[better] = value[better]
        start += len(queries)
    return winner, covered


def _number(parts, things: Sequence[bool], quirks: Quirks, state: PanopticState | None) -> list[int]:
    stuff = state.stuff if state else {}
    known = _match(parts, things, state)
    current, highest, ids = 0, state.last_id if state else 0, []
    for index, (_, _, category) in enumerate(parts):
        if index in known:
            ids.append(known[index])
            continue
        if not things[category] and category in stuff:
            current = stuff[category]
        else:
            # The published numbering counts on from whatever id came last, a re-used one included.
            current = current + 1 if not quirks.unique_ids and state is None else highest + 1
            highest = max(highest, current)
        if not things[category]:
            stuff[category] = current
        ids.append(current)
    if state:
        state.last_id = highest
    return ids


def _match(parts, things: Sequence[bool], state: PanopticState | None) -> dict[int, int]:
    """Index of a part -> id of the thing of the last frame that it continues, each used once, best overlap first."""
    if state is None:
        return {}
    pairs = []
    for index, (mask, _, category) in enumerate(parts):
        if things[category]:
            for number, kind, before in state.things:
                if kind == category and before.shape == mask.shape:
                    union = int((mask | before).sum())
                    pairs.append((int((mask & before).sum()) / union if union else 0.0, index, number))
    known: dict[int, int] = {}
    for overlap, index, number in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap > 0.5 and index not in known and number not in known.values():
            known[index] = number
    return known


def _merge(parts, ids: list[int]):
    """Parts with the same id become one: pixels of all, the best score."""
    merged: dict[int, tuple] = {}
    for number, (mask, score, category) in zip(ids, parts, strict=True):
        if number in merged:
            other, best, _ = merged[number]
            mask, score = mask | other, max(score, best)
        merged[number] = (mask, score, category)
    return list(merged.values()), list(merged)


def _remember(state: PanopticState | None, things: list[tuple[int, int, torch.Tensor]]) -> None:
    if state:
        state.things = things
