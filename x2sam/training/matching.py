"""Which query answers for which object: one-to-one matching of predictions with targets (X2SAM, training objective).

The cost of giving target n to query q is ``2 * (-p(class of n)) + 5 * BCE + 5 * dice``, the mask terms on uniform
random points that all masks of a row share, as in Mask2Former. A row is one picture or one frame of a clip; rows never
share targets.

Random points are drawn for the rows in order, also for a row without targets, so that on a CPU generator the sequence
of random numbers depends on the shapes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from x2sam.errors import TrainingError

IGNORE_LABEL = -100


@dataclass(frozen=True)
class MatchConfig:
    """Weights of the three costs and the number of random points that masks are compared on."""

    class_cost: float = 2.0
    mask_cost: float = 5.0
    dice_cost: float = 5.0
    num_points: int = 12544

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise TrainingError(f"matching needs at least one point, num_points is {self.num_points}")


@dataclass(frozen=True, eq=False)
class Target:
    """The objects of one row (a picture, or one frame of a clip).

    masks:  (N, H, W) bool, integer or float in 0..1, at network size
    labels: (N,) int64, the category's column in the class logits; ``IGNORE_LABEL`` takes an object out
    valid:  (H, W) bool, False where the truth is unknown (ignore pixels); None when all of it is known
    """

    masks: Tensor
    labels: Tensor
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.labels.shape != self.masks.shape[:1]:
            raise TrainingError(
                f"a target needs masks (N, H, W) and labels (N,), got {tuple(self.masks.shape)} and "
                f"{tuple(self.labels.shape)}"
            )
        if self.valid is not None and self.valid.shape != self.masks.shape[1:]:
            raise TrainingError(
                f"valid must have the size of the masks {tuple(self.masks.shape[1:])}, got {tuple(self.valid.shape)}"
            )

    def without_ignored(self) -> Target:
        """The same row with the objects labelled ``IGNORE_LABEL`` left out."""
        keep = self.labels != IGNORE_LABEL
        if bool(keep.all()):
            return self
        return Target(self.masks[keep], self.labels[keep], self.valid)


def random_points(rows: int, points: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Uniform points (rows, points, 2), (x, y) in 0..1.

    They come from ``generator`` on its own device, so a CPU generator gives every device the same points; None means
    the global generator of ``device``.
    """
    source = device if generator is None else generator.device
    return torch.rand(rows, points, 2, device=source, generator=generator).to(device)


def sample_at(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of ``maps`` (B, C, H, W) at ``points`` (B, P, 2) in 0..1 -> (B, C, P); pixel centres at half-integers."""
    return F.grid_sample(maps, 2.0 * points[:, :, None] - 1.0, mode=mode, align_corners=False).squeeze(3)


def pair_costs(
    logits: Tensor,
    class_probs: Tensor,
    truth: Tensor,
    labels: Tensor,
    config: MatchConfig,
    weight: Tensor | None = None,
) -> Tensor:
    """Cost of every (query, target) pair.

    logits:      (B, Q, P) mask logits at the points
    class_probs: (B, Q, K + 1)
    truth:       (B, N, P) target masks at the same points, 0..1
    labels:      (B, N)
    weight:      (B, 1, P), 0 where the truth is unknown, or None
    returns      (B, Q, N)
    """
    class_cost = -class_probs.gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    probs, negative = logits.sigmoid(), F.softplus(logits)
    count: Tensor | int = logits.shape[-1]
    if weight is not None:
        truth, probs, negative = truth * weight, probs * weight, negative * weight
        count = weight.sum(-1, keepdim=True).clamp(min=1.0)
    # BCE against t is softplus(x) - x * t, so one matrix product serves both signs.
    columns = truth.transpose(1, 2)
    # Autocast would turn these products of float32 into half precision, and near ties would be decided by chance.
    with torch.autocast(logits.device.type, enabled=False):
        agreement, overlap = logits @ columns, probs @ columns
    mask_cost = (negative.sum(-1, keepdim=True) - agreement) / count
    areas = probs.sum(-1)[:, :, None] + truth.sum(-1)[:, None, :]
    dice_cost = 1.0 - (2.0 * overlap + 1.0) / (areas + 1.0)
    return config.mask_cost * mask_cost + config.class_cost * class_cost + config.dice_cost * dice_cost


@torch.no_grad()
def match(
    mask_logits: Tensor,
    class_logits: Tensor,
    targets: Sequence[Target],
    config: MatchConfig = MatchConfig(),
    generator: torch.Generator | None = None,
    names: Sequence[str] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """The cheapest one-to-one assignment of each row (Hungarian method).

    mask_logits:  (B, Q, h, w), any resolution; class_logits: (B, Q, K + 1), last column background
    names:        what to call the rows in an error
    returns       per row (query indices, target indices), int64 (min(Q, N),), queries ascending, on the logits' device
    raises        TrainingError when a cost is not finite or a label is not a category
    """
    check_rows(mask_logits, class_logits, [target.labels for target in targets], names)
    points = random_points(len(targets), config.num_points, mask_logits.device, generator)
    filled = [row for row, target in enumerate(targets) if len(target.labels)]
    found: list[tuple[Tensor, Tensor]] = [(_no_indices(mask_logits.device),) * 2 for _ in targets]
    if not filled:
        return found
    logits = sample_at(mask_logits[filled].float(), points[filled])
    probs = class_logits[filled].float().softmax(-1)
    costs = []
    for place, row in enumerate(filled):
        target, here = targets[row], points[row : row + 1]
        truth = sample_at(target.masks[None].float(), here)
        weight = None if target.valid is None else sample_at(target.valid[None, None].float(), here, "nearest")
        one = slice(place, place + 1)
        costs.append(pair_costs(logits[one], probs[one], truth, target.labels[None], config, weight)[0])
    # One transfer for all rows: each would make the device wait.
    table = torch.cat(costs, dim=1).cpu()
    _check_finite(table, [row for row in filled for _ in range(len(targets[row].labels))], names)
    for row, cost in zip(filled, table.split([cost.shape[1] for cost in costs], dim=1), strict=True):
        queries, objects = linear_sum_assignment(cost.numpy())
        found[row] = tuple(torch.as_tensor(index, device=mask_logits.device) for index in (queries, objects))
    return found


@torch.no_grad()
def match_single(
    mask_logits: Tensor,
    class_logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    config: MatchConfig = MatchConfig(),
    generator: torch.Generator | None = None,
    names: Sequence[str] | None = None,
) -> Tensor:
    """:func:`match` for rows with one target each, without the loop: the cheapest query is the answer.

    mask_logits: (B, Q, h, w); class_logits: (B, Q, K + 1)
    masks:       (B, H, W) 0..1; labels: (B,); valid: (B, H, W) bool or None
    returns      (B,) int64, -1 where the label is ``IGNORE_LABEL``
    """
    present = labels != IGNORE_LABEL
    check_rows(mask_logits, class_logits, labels.where(present, 0)[:, None], names)
    points = random_points(len(labels), config.num_points, mask_logits.device, generator)
    weight = None if valid is None else sample_at(valid[:, None].float(), points, "nearest")
    costs = pair_costs(
        sample_at(mask_logits.float(), points),
        class_logits.float().softmax(-1),
        sample_at(masks[:, None].float(), points),
        labels.where(present, 0)[:, None],
        config,
        weight,
    )[:, :, 0]
    _check_finite(costs.where(present[:, None], 0.0).T, range(len(labels)), names)
    return costs.argmin(1).where(present, -1)


def check_rows(
    mask_logits: Tensor, class_logits: Tensor, labels: Sequence[Tensor] | Tensor, names: Sequence[str] | None = None
) -> None:
    """Raise TrainingError unless predictions and targets have the same rows and every label is a category's column."""
    rows = mask_logits.shape[0]
    if mask_logits.ndim != 4 or class_logits.shape[:2] != mask_logits.shape[:2] or len(labels) != rows:
        raise TrainingError(
            f"{len(labels)} targets do not fit mask logits {tuple(mask_logits.shape)} and class logits "
            f"{tuple(class_logits.shape)}; give one target per row"
        )
    if names is not None and len(names) != rows:
        raise TrainingError(f"{len(names)} names for {rows} rows; give one per row")
    categories = class_logits.shape[-1] - 1
    flat = torch.cat(list(labels)) if rows else class_logits.new_zeros(0, dtype=torch.int64)
    wrong = (flat < 0) | (flat >= categories)
    if bool(wrong.any()):
        owner = [row for row, one in enumerate(labels) for _ in range(len(one))]
        place = int(wrong.nonzero()[0])
        raise TrainingError(
            f"sample {row_name(owner[place], names)}: label {int(flat[place])} is not one of the {categories} "
            f"categories of the class logits; use {IGNORE_LABEL} to leave an object out"
        )


def row_name(row: int, names: Sequence[str] | None) -> str:
    """What to call a row in a message."""
    return f"in row {row}" if names is None else str(names[row])


def _check_finite(table: Tensor, owners: Sequence[int], names: Sequence[str] | None) -> None:
    """``table`` (Q, columns) of costs, ``owners`` the row of each column."""
    broken = ~table.isfinite().all(0)
    if bool(broken.any()):
        row = owners[int(broken.nonzero()[0])]
        raise TrainingError(
            f"sample {row_name(row, names)}: the matching cost is not finite, so its logits or masks hold NaN or "
            "infinity; lower the learning rate, or look at this sample's masks"
        )


def _no_indices(device: torch.device) -> Tensor:
    return torch.zeros(0, dtype=torch.int64, device=device)
