"""How sure a mean is: percentile bootstrap over pictures (Efron, 1979), with a fixed seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

RESAMPLES = 2000


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, groups: Sequence[Hashable], level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """``[low, high]`` of the mean of ``values``, by drawing whole ``groups`` (pictures) with replacement.

    Objects of one picture resemble each other, so pictures are drawn, not objects. None with fewer than two groups:
    nothing can be said then.
    """
    values = np.asarray(values, float)
    if len(values) != len(groups):
        raise ValueError(f"{len(values)} values belong to {len(groups)} groups; give one group for each value")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(g, len(numbers)) for g in groups], int)
    if len(numbers) < 2:
        return None
    sums = np.bincount(index, values, len(numbers))
    sizes = np.bincount(index, minlength=len(numbers))
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for k in range(RESAMPLES):
        drawn = rng.integers(len(numbers), size=len(numbers))
        means[k] = sums[drawn].sum() / sizes[drawn].sum()
    return [float(v) for v in np.quantile(means, [(1 - level) / 2, (1 + level) / 2])]
