"""Measurements on a small grid over a picture: distances, paths that avoid edges, colours (used by the snap step).

``h w`` is the size of the grid in cells. Distances are in long sides of the picture (so 0.1 is a tenth of it),
whatever the grid's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from x2sam.structures import Point

FAR = 2.0  # distance to clicks that do not exist; all distances are cut off here
SURE = 4.6  # log-odds of 0.99: beyond that a network's own certainty means little
_EDGE_WEIGHT = np.array([1.0, 2.0, 2.0], np.float32) / 255  # lightness, a, b: a step in hue is rarely only a shadow
_SEED_RADIUS = 0.012  # a click is taken to mean at least this much around it
_SAMPLE_RADIUS = 0.022  # colours are read from this disc
_COLOUR_NOISE = np.array([100.0, 25.0, 25.0], np.float32)  # least variance of a disc's colours, Lab units squared
_BINS = (10, 14, 14)  # colour histogram: lightness, a, b


@dataclass(frozen=True)
class Grid:
    """The part of a picture that is looked at, and how finely.

    x0, y0, x1, y1:   the part, in whole pixels of the picture
    height, width:    cells
    picture:          (H, W) of the whole picture
    """

    x0: int
    y0: int
    x1: int
    y1: int
    height: int
    width: int
    picture: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def long_side(self) -> int:
        return max(self.picture)

    @property
    def scale(self) -> tuple[float, float]:
        """Cells per pixel, (x, y)."""
        return self.width / (self.x1 - self.x0), self.height / (self.y1 - self.y0)

    @property
    def cell(self) -> float:
        """Side of a cell in long sides of the picture."""
        return max((self.x1 - self.x0) / self.width, (self.y1 - self.y0) / self.height) / self.long_side

    def cell_of(self, point: Point) -> tuple[int, int]:
        """Row and column of the cell that holds a point; the nearest one for points outside."""
        sx, sy = self.scale
        row, col = int((point.y - self.y0) * sy), int((point.x - self.x0) * sx)
        return min(max(row, 0), self.height - 1), min(max(col, 0), self.width - 1)

    def point_of(self, row: int, col: int) -> Point:
        """The centre of a cell."""
        sx, sy = self.scale
        return Point(self.x0 + (col + 0.5) / sx, self.y0 + (row + 0.5) / sy)

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 (w,) and (h,): x and y of the cells' centres in pixels of the picture."""
        sx, sy = self.scale
        x = self.x0 + (np.arange(self.width, dtype=np.float32) + 0.5) / np.float32(sx)
        y = self.y0 + (np.arange(self.height, dtype=np.float32) + 0.5) / np.float32(sy)
        return x, y

    def distance(self, point: Point) -> np.ndarray:
        """float32 (h, w): straight distance of each cell's centre from the point."""
        x, y = self.axes()
        side = np.float32(self.long_side)
        return np.sqrt(((x - np.float32(point.x)) / side) ** 2 + ((y[:, None] - np.float32(point.y)) / side) ** 2)

    def depth(self, area: np.ndarray) -> np.ndarray:
        """float32 (h, w): distance of each cell of ``area`` bool (h, w) to its outline; the picture's border is one.

        The border of the grid is none where the picture goes on behind it.
        """
        sides = (self.y0 <= 0, self.y1 >= self.picture[0], self.x0 <= 0, self.x1 >= self.picture[1])
        top, bottom, left, right = (int(s) for s in sides)
        padded = cv2.copyMakeBorder(area.astype(np.uint8), top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
        if padded.all():
            return np.full(self.shape, FAR, np.float32)
        inner = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
        inner = inner[top : top + self.height, left : left + self.width]
        return np.minimum(inner * np.float32(self.cell), FAR)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """float32, cut off at +-:data:`SURE`; what is not a number counts as undecided."""
    p = np.nan_to_num(probability.astype(np.float32), nan=0.5, posinf=1.0, neginf=0.0)
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.clip(np.log(p / (1 - p)), -SURE, SURE)


def sigmoid(score: np.ndarray) -> np.ndarray:
    """float32, the inverse of :func:`log_odds`."""
    return 1 / (1 + np.exp(-score))


class Paths:
    """Cheapest paths over the grid: a step costs its length and the change of colour along it."""

    def __init__(self, lab: np.ndarray, cell: float):
        h, w, _ = lab.shape
        self.shape = (h, w)
        colour = lab * _EDGE_WEIGHT
        # Four of eight neighbours are enough: the graph is undirected. A slot without neighbour points at its own
        # cell, so that all rows have four entries and the sparse matrix needs no sorting.
        index = np.arange(h * w, dtype=np.int32).reshape(h, w)
        targets = np.repeat(index[..., None], 4, -1)
        cost = np.zeros((h, w, 4), np.float32)
        lengths = np.zeros((h, w, 4), np.float32)
        slots = (
            (np.s_[:, :-1], np.s_[:, 1:], 1.0),
            (np.s_[:-1, 1:], np.s_[1:, :-1], 2**0.5),
            (np.s_[:-1], np.s_[1:], 1.0),
            (np.s_[:-1, :-1], np.s_[1:, 1:], 2**0.5),
        )
        for slot, (here, there, length) in enumerate(slots):
            targets[..., slot][here] = index[there]
            difference = np.abs(colour[here] - colour[there])
            lengths[..., slot][here] = length * cell
            cost[..., slot][here] = difference[..., 0] + difference[..., 1] + difference[..., 2] + length * cell
        self._targets = targets.ravel()
        self._cost, self._lengths = cost.reshape(h * w, 4), lengths.reshape(h * w, 4)
        self._starts = np.arange(0, 4 * h * w + 1, 4, dtype=np.int32)

    def distance(self, seeds: np.ndarray, toll: np.ndarray) -> np.ndarray:
        """float32 (h, w), at most :data:`FAR`: cost of the cheapest path from any seed.

        seeds: flat indices of cells; toll: float32 (h, w), extra cost per length for passing a cell
        """
        if not len(seeds):
            return np.full(self.shape, FAR, np.float32)
        flat = toll.ravel()
        passing = flat[:, None] + flat[self._targets].reshape(-1, 4)
        cost = (self._cost + self._lengths * (0.5 * passing)).astype(np.float64).ravel()
        graph = csr_matrix((cost, self._targets, self._starts), shape=(flat.size, flat.size))
        found = dijkstra(graph, directed=False, indices=seeds, min_only=True, limit=FAR)
        return np.minimum(found, FAR).astype(np.float32).reshape(self.shape)


class Colours:
    """Cells sorted into a coarse histogram of Lab colours, ``lab`` float32 (h, w, 3) as OpenCV scales it for 8 bits."""

    def __init__(self, lab: np.ndarray):
        self.shape = lab.shape[:2]
        l = np.clip(lab[..., 0] * (_BINS[0] / 256), 0, _BINS[0] - 1).astype(np.int32)
        # Real pictures fill only the middle of the a and b axes.
        a, b = (np.clip((lab[..., i] - 128) * 0.11 + 7, 0, _BINS[i] - 1).astype(np.int32) for i in (1, 2))
        self._bin = ((l * _BINS[1] + a) * _BINS[2] + b).ravel()

    def log_ratio(self, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        """float32 (h, w): log of how much likelier a cell's colour is inside than outside; both are weights (h, w)."""
        ratio = np.log((self._density(inside) + 2e-5) / (self._density(outside) + 2e-5))
        return ratio.ravel()[self._bin].astype(np.float32).reshape(self.shape)

    def _density(self, weight: np.ndarray) -> np.ndarray:
        count = np.bincount(self._bin, weight.ravel(), int(np.prod(_BINS))).reshape(_BINS)
        for axis in range(3):
            # Each bin lends a quarter to either neighbour: a colour on the edge of a bin belongs to both.
            count = np.moveaxis(count, axis, 0)
            smooth = 2 * count
            smooth[1:] += count[:-1]
            smooth[:-1] += count[1:]
            count = np.moveaxis(smooth, 0, axis)
        return count / max(count.sum(), 1e-9)


@dataclass(frozen=True, eq=False)
class ClickMaps:
    """Distances (h, w) to the clicks of one sign: ``straight``, in ``colour`` (standard deviations), ``seeds`` flat."""

    straight: np.ndarray
    colour: np.ndarray
    seeds: np.ndarray


def click_maps(grid: Grid, smooth_lab: np.ndarray, points: Sequence[Point]) -> ClickMaps:
    """Distances to the nearest of ``points``; ``smooth_lab`` float32 (h, w, 3)."""
    straight = np.full(grid.shape, FAR, np.float32)
    colour = np.full(grid.shape, 9.0, np.float32)
    seeds = [np.empty(0, np.int64)]
    for point in points:
        distance = grid.distance(point)
        least = float(distance.min()) + 1e-6
        sample = smooth_lab[distance <= max(least, _SAMPLE_RADIUS)]
        off = (smooth_lab - sample.mean(0)) / np.sqrt(sample.var(0) + _COLOUR_NOISE)
        np.minimum(straight, distance, out=straight)
        np.minimum(colour, np.sqrt((off[..., 0] ** 2 + off[..., 1] ** 2 + off[..., 2] ** 2) / 3), out=colour)
        seeds.append(np.flatnonzero(distance.ravel() <= max(least, _SEED_RADIUS)))
    return ClickMaps(straight, colour, np.unique(np.concatenate(seeds)))


def guided_filter(lab: np.ndarray, values: np.ndarray, radius: int, tolerance: float) -> np.ndarray:
    """``values`` float32 (h, w) smoothed without crossing edges of ``lab`` float32 (h, w, 3) (He et al., 2010).

    Within each window of ``2 radius + 1`` cells the result is a linear function of the colour; ``tolerance`` is the
    variance of colour (lightness 0..1, a and b 0..2) below which a window counts as flat.
    """
    # Plane by plane: with three channels side by side, what is done with one of them reads all.
    guide = [lab[..., i] * weight for i, weight in enumerate(_EDGE_WEIGHT)]
    blur = partial(cv2.blur, ksize=(2 * radius + 1, 2 * radius + 1))
    mean, mean_values = [blur(g) for g in guide], blur(values)
    c0, c1, c2 = (blur(g * values) - m * mean_values for g, m in zip(guide, mean, strict=True))
    v00, v11, v22 = (blur(g * g) - m * m + np.float32(tolerance) for g, m in zip(guide, mean, strict=True))
    v01, v12, v02 = (blur(guide[i] * guide[j]) - mean[i] * mean[j] for i, j in ((0, 1), (1, 2), (2, 0)))
    # Inverse of the symmetric 3 x 3 covariance of colours, cofactor by cofactor, for all windows at once.
    i00, i01, i02 = v11 * v22 - v12 * v12, v02 * v12 - v01 * v22, v01 * v12 - v02 * v11
    i11, i12, i22 = v00 * v22 - v02 * v02, v01 * v02 - v00 * v12, v00 * v11 - v01 * v01
    scale = 1 / (v00 * i00 + v01 * i01 + v02 * i02)
    rows = ((i00, i01, i02), (i01, i11, i12), (i02, i12, i22))
    slope = [(a * c0 + b * c1 + c * c2) * scale for a, b, c in rows]
    offset = mean_values - (slope[0] * mean[0] + slope[1] * mean[1] + slope[2] * mean[2])
    smooth = blur(offset)
    for s, g in zip(slope, guide, strict=True):
        smooth += blur(s) * g
    return smooth
