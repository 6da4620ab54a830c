"""What training minimises: language-model cross-entropy plus the segmentor's set loss (X2SAM, training objective).

Segmentor, for the final prediction and, with matching repeated, for the initial one and every layer in between:
class cross-entropy (weight 2, background 0.1), mask BCE (5) and dice (5). Mask terms are taken on points, three
quarters of which are the most uncertain of three times as many, and divided by the number of masks. Frames of a clip
are rows of the batch, each matched on its own.

Random numbers are drawn level by level, the final prediction first, then the others in order; within a level: matching
points per row, uncertainty points, random points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from x2sam.errors import TrainingError
from x2sam.training.matching import (
    IGNORE_LABEL,
    MatchConfig,
    Target,
    match,
    match_single,
    random_points,
    sample_at,
)


class Prediction(Protocol):
    """One level of the mask decoder. ``mask_logits`` (B, Q, h, w), ``class_logits`` (B, Q, K + 1), background last."""

    @property
    def mask_logits(self) -> Tensor: ...

    @property
    def class_logits(self) -> Tensor: ...


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses and how mask points are chosen.

    oversample: candidates per point that is kept; uncertain: fraction of the points taken for their uncertainty
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    background_weight: float = 0.1
    num_points: int = 12544
    oversample: float = 3.0
    uncertain: float = 0.75
    matching: MatchConfig = field(default_factory=MatchConfig)

    def __post_init__(self) -> None:
        if self.num_points < 1 or self.oversample < 1.0 or not 0.0 <= self.uncertain <= 1.0:
            raise TrainingError("losses need num_points >= 1, oversample >= 1 and uncertain within 0..1")

    @classmethod
    def with_points(cls, num_points: int) -> LossConfig:
        """The defaults with ``num_points`` for matching and for the losses; about 1,000 suit small masks on a CPU."""
        return cls(num_points=num_points, matching=MatchConfig(num_points=num_points))


class _Truth(NamedTuple):
    """All targets of a batch behind each other: masks (M, 1, H, W) float, labels (M,), first index of each row."""

    masks: Tensor
    labels: Tensor
    starts: list[int]
    valid: Tensor | None

    def rows(self, targets: Sequence[Target]) -> list[Target]:
        """The same targets as views of the float masks here, so that no level converts them again."""
        ends = [start + len(target.labels) for start, target in zip(self.starts, targets, strict=True)]
        return [
            Target(self.masks[start:end, 0], target.labels, target.valid)
            for start, end, target in zip(self.starts, ends, targets, strict=True)
        ]

    def sample(self, chosen: Tensor, points: Tensor) -> Tensor:
        """Masks ``chosen`` (M,) at their own points (M, P, 2) -> (M, P)."""
        if len(chosen) < len(self.masks):
            return sample_at(self.masks.index_select(0, chosen), points)[:, 0]
        # All are chosen: reordering the points is far cheaper than copying full-size masks.
        return sample_at(self.masks, points[chosen.argsort()])[:, 0][chosen]


def segmentation_losses(
    levels: Sequence[Prediction],
    targets: Sequence[Target],
    config: LossConfig = LossConfig(),
    generator: torch.Generator | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Weighted set losses of all prediction levels.

    levels:    the initial prediction, then one per decoder layer; the last is the final one
    targets:   one per row, objects labelled ``IGNORE_LABEL`` are left out
    generator: source of the random points; None is the global generator of the logits' device
    names:     what to call the rows in an error
    returns    scalars ``loss_mask, loss_dice, loss_cls`` of the final level, then with ``_0``, ``_1`` ... of the others
    raises     TrainingError for targets that do not fit and for values that are not finite
    """
    targets = [target.without_ignored() for target in targets]
    truth = _pack(targets, levels[-1].mask_logits.device)
    targets = truth.rows(targets)
    count = mask_count(len(truth.labels), levels[-1].mask_logits.device)
    losses: dict[str, Tensor] = {}
    for suffix, level in _final_first(levels):
        pairs = match(level.mask_logits, level.class_logits, targets, config.matching, generator, names)
        rows = torch.cat([query.new_full(query.shape, row) for row, (query, _) in enumerate(pairs)])
        queries = torch.cat([query for query, _ in pairs])
        chosen = torch.cat([found + start for (_, found), start in zip(pairs, truth.starts, strict=True)])
        bce, dice = _point_losses(_take(level.mask_logits, rows, queries), truth, rows, chosen, config, generator)
        losses |= {
            f"loss_mask{suffix}": config.mask_weight * bce.sum() / count,
            f"loss_dice{suffix}": config.dice_weight * dice.sum() / count,
            f"loss_cls{suffix}": _class_loss(level.class_logits, rows, queries, truth.labels[chosen], config),
        }
    return losses


def single_target_losses(
    levels: Sequence[Prediction],
    masks: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    config: LossConfig = LossConfig(),
    generator: torch.Generator | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """The losses of rows with at most one target each, all rows at once: best query, dense masks.

    masks:  (B, H, W) 0..1 at network size; averaged down to the size of the logits
    labels: (B,), ``IGNORE_LABEL`` where the object is absent: then every query of the row should be background
    valid:  (B, H, W) bool, False on ignore pixels, or None
    returns the same names as :func:`segmentation_losses`
    """
    size = levels[-1].mask_logits.shape[-2:]
    masks = masks.float()
    small = F.adaptive_avg_pool2d(masks[:, None], size)[:, 0]
    # A cell with an unknown pixel has an unknown average.
    known = None if valid is None else F.adaptive_avg_pool2d(valid[:, None].float(), size)[:, 0] >= 1.0
    rows = (labels != IGNORE_LABEL).nonzero()[:, 0]
    count = mask_count(len(rows), masks.device)
    losses: dict[str, Tensor] = {}
    for suffix, level in _final_first(levels):
        best = match_single(
            level.mask_logits, level.class_logits, masks, labels, valid, config.matching, generator, names
        )
        dense = direct_losses(
            _take(level.mask_logits, rows, best[rows]),
            small[rows],
            None if known is None else known[rows],
            config,
            count,
        )
        losses |= {f"{name}{suffix}": value for name, value in dense.items()}
        losses[f"loss_cls{suffix}"] = _class_loss(level.class_logits, rows, best[rows], labels[rows], config)
    return losses


def direct_losses(
    mask_logits: Tensor,
    targets: Tensor,
    valid: Tensor | None = None,
    config: LossConfig = LossConfig(),
    count: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Weighted dense BCE and dice of masks whose query is known already.

    mask_logits, targets: (N, h, w), targets 0..1; valid: (N, h, w) bool, False pixels have no say; a mask without any
    valid pixel costs nothing. Divided by ``count``, by default :func:`mask_count` of N.
    returns {"loss_mask", "loss_dice"}
    """
    if mask_logits.shape != targets.shape or (valid is not None and valid.shape != targets.shape):
        raise TrainingError(
            f"dense losses need one size, got logits {tuple(mask_logits.shape)} and targets {tuple(targets.shape)}"
        )
    count = mask_count(len(targets), mask_logits.device) if count is None else count
    weight = None if valid is None else valid.flatten(1).float()
    bce, dice = _mask_terms(mask_logits.flatten(1).float(), targets.flatten(1).float(), weight)
    return {
        "loss_mask": config.mask_weight * bce.sum() / count,
        "loss_dice": config.dice_weight * dice.sum() / count,
    }


def language_model_loss(states: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Next-token cross-entropy, averaged over supervised positions; 0 when there are none.

    states: (B, L, D) of the language model; labels: (B, L) int64 token ids of the same positions (the shift is done
    here), -100 ignored; head: states (n, D) to logits (n, V), called for the supervised positions only, a small part
    of the sequence
    """
    following = labels[:, 1:]
    supervised = following != IGNORE_LABEL
    if not bool(supervised.any()):
        return states.sum() * 0.0
    return F.cross_entropy(head(states[:, :-1][supervised]).float(), following[supervised])


def total_loss(losses: Mapping[str, Tensor], names: Sequence[str] | None = None) -> Tensor:
    """Sum of all losses. Raises TrainingError naming those that are not finite, and the rows of the batch."""
    values = torch.stack([value.float() for value in losses.values()])
    finite = values.detach().isfinite()
    if not bool(finite.all()):
        bad = [name for name, fine in zip(losses, finite.tolist(), strict=True) if not fine]
        where = "" if names is None else f" for samples {', '.join(map(str, names))}"
        raise TrainingError(f"{', '.join(bad)} not finite{where}; lower the learning rate or inspect these samples")
    return values.sum()


def mask_count(masks: int, device: torch.device) -> Tensor:
    """What mask losses are divided by: masks of this process, averaged over processes, at least 1. Scalar tensor."""
    count = torch.tensor(float(masks), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1.0)


def uncertain_points(
    mask_logits: Tensor, config: LossConfig, generator: torch.Generator | None = None, valid: Tensor | None = None
) -> Tensor:
    """Points where the masks (M, 1, h, w) are close to undecided, plus random ones -> (M, num_points, 2) in 0..1.

    valid: (M, 1, H, W) float; unknown pixels are taken last.
    """
    device = mask_logits.device
    candidates = random_points(len(mask_logits), int(config.num_points * config.oversample), device, generator)
    certainty = sample_at(mask_logits, candidates)[:, 0].abs()
    if valid is not None:
        certainty = certainty.masked_fill(sample_at(valid, candidates, "nearest")[:, 0] == 0, torch.inf)
    kept = int(config.uncertain * config.num_points)
    index = certainty.topk(kept, dim=1, largest=False).indices
    chosen = candidates.gather(1, index[:, :, None].expand(-1, -1, 2))
    if kept == config.num_points:
        return chosen
    return torch.cat([chosen, random_points(len(mask_logits), config.num_points - kept, device, generator)], dim=1)


def _point_losses(
    mask_logits: Tensor,
    truth: _Truth,
    rows: Tensor,
    chosen: Tensor,
    config: LossConfig,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """BCE and dice, each (M,), of matched masks (M, h, w) with targets ``chosen`` (M,) of batch rows ``rows`` (M,)."""
    logits = mask_logits[:, None].float()
    if not len(logits):
        # A zero that still depends on the logits, so that every process has the same gradients to exchange.
        nothing = logits.sum()[None] * 0.0
        return nothing, nothing
    valid = None if truth.valid is None else truth.valid[rows]
    with torch.no_grad():
        points = uncertain_points(logits, config, generator, valid)
        expected = truth.sample(chosen, points)
        weight = None if valid is None else sample_at(valid, points, "nearest")[:, 0]
    return _mask_terms(sample_at(logits, points)[:, 0], expected, weight)


def _mask_terms(logits: Tensor, expected: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean BCE and dice loss per mask: (M, P), (M, P), weight (M, P) of 0 and 1 or None -> (M,), (M,)."""
    bce = F.binary_cross_entropy_with_logits(logits, expected, reduction="none")
    probs = logits.sigmoid()
    if weight is None:
        bce = bce.mean(1)
    else:
        bce = (bce * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        probs, expected = probs * weight, expected * weight
    dice = 1.0 - (2.0 * (probs * expected).sum(1) + 1.0) / (probs.sum(1) + expected.sum(1) + 1.0)
    return bce, dice


def _class_loss(class_logits: Tensor, rows: Tensor, queries: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Weighted mean cross-entropy; queries without a target should say background, the last column."""
    batch, number, columns = class_logits.shape
    wanted = torch.full((batch, number), columns - 1, dtype=torch.int64, device=class_logits.device)
    wanted[rows, queries] = labels
    weight = torch.ones(columns, device=class_logits.device)
    weight[-1] = config.background_weight
    return config.class_weight * F.cross_entropy(class_logits.flatten(0, 1).float(), wanted.flatten(), weight)


def _take(mask_logits: Tensor, rows: Tensor, queries: Tensor) -> Tensor:
    """``mask_logits[rows, queries]``; index_select copies whole masks, many times faster on a CPU."""
    return mask_logits.flatten(0, 1).index_select(0, rows * mask_logits.shape[1] + queries)


def _pack(targets: Sequence[Target], device: torch.device) -> _Truth:
    sizes = {tuple(target.masks.shape[1:]) for target in targets}
    if len(sizes) != 1:
        raise TrainingError(f"targets of a batch need one size, got {sorted(sizes)}; resize the masks to network size")
    starts, total = [], 0
    for target in targets:
        starts.append(total)
        total += len(target.labels)
    valid = None
    if any(target.valid is not None for target in targets):
        whole = torch.ones(sizes.pop(), dtype=torch.bool, device=device)
        known = [whole if target.valid is None else target.valid for target in targets]
        valid = torch.stack(known)[:, None].float()
    masks = torch.cat([target.masks for target in targets])[:, None].float()
    return _Truth(masks, torch.cat([target.labels for target in targets]), starts, valid)


def _final_first(levels: Sequence[Prediction]) -> Iterator[tuple[str, Prediction]]:
    yield "", levels[-1]
    yield from ((f"_{index}", level) for index, level in enumerate(levels[:-1]))
