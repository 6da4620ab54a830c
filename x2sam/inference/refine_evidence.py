"""What speaks for and against each pixel when a mask is made to obey its clicks (see :mod:`x2sam.inference.refine`).

Everything here works on a small grid that covers the part of the picture in question. Distances are in long sides of
the picture (so 0.1 is a tenth of it), whatever the grid's resolution; ``h w`` is the size of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from x2sam.structures import Point

FAR = 2.0  # distance to clicks that do not exist; all distances are cut off here
_LOG_ODDS_LIMIT = 4.6  # log-odds of 0.99: beyond that a network's own certainty means little
_EDGE_WEIGHT = np.array([1.0, 2.0, 2.0], np.float32) / 255  # lightness, a, b: a step in hue is rarely only a shadow
_SEED_RADIUS = 0.012  # a click is taken to mean at least this much around it
_SAMPLE_RADIUS = 0.022  # colours are read from this disc
_COLOUR_NOISE = np.array([100.0, 25.0, 25.0], np.float32)  # least variance of a disc's colours, Lab units squared
_BINS = (10, 14, 14)  # colour histogram: lightness, a, b


@dataclass(frozen=True)
class Grid:
    """The part of a picture that is looked at, and how finely.

    x0, y0, x1, y1: the part, in whole pixels of the picture
    height, width:  cells
    scale:          cells per pixel, (x, y)
    cell:           side of a cell in long sides of the picture
    """

    x0: int
    y0: int
    x1: int
    y1: int
    height: int
    width: int
    long_side: int

    @property
    def scale(self) -> tuple[float, float]:
        return self.width / (self.x1 - self.x0), self.height / (self.y1 - self.y0)

    @property
    def cell(self) -> float:
        return max((self.x1 - self.x0) / self.width, (self.y1 - self.y0) / self.height) / self.long_side

    def to_cells(self, point: Point) -> tuple[float, float]:
        sx, sy = self.scale
        return (point.x - self.x0) * sx, (point.y - self.y0) * sy

    def distance(self, point: Point) -> np.ndarray:
        """float32 (h, w): straight distance of each cell's centre from the point, in long sides."""
        sx, sy = self.scale
        x = ((np.arange(self.width, dtype=np.float32) + 0.5) / sx + (self.x0 - point.x)) / self.long_side
        y = ((np.arange(self.height, dtype=np.float32) + 0.5) / sy + (self.y0 - point.y)) / self.long_side
        return np.sqrt(x[None] ** 2 + y[:, None] ** 2)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """float32, cut off where p is 0.01 and 0.99; what is not a number counts as undecided."""
    p = np.nan_to_num(probability.astype(np.float32), nan=0.5, posinf=1.0, neginf=0.0)
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.clip(np.log(p / (1 - p)), -_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)


class Paths:
    """Cheapest paths over the grid: a step costs its length and the change of colour along it."""

    def __init__(self, lab: np.ndarray, cell: float):
        h, w, _ = lab.shape
        self.shape = (h, w)
        index = np.arange(h * w, dtype=np.int32).reshape(h, w)
        colour = lab * _EDGE_WEIGHT
        rows, cols, steps, lengths = [], [], [], []
        for a, b, length in (
            (np.s_[:, :-1], np.s_[:, 1:], 1.0),
            (np.s_[:-1], np.s_[1:], 1.0),
            (np.s_[:-1, :-1], np.s_[1:, 1:], 2**0.5),
            (np.s_[:-1, 1:], np.s_[1:, :-1], 2**0.5),
        ):
            rows.append(index[a].ravel())
            cols.append(index[b].ravel())
            difference = np.abs(colour[a] - colour[b])
            steps.append((difference[..., 0] + difference[..., 1] + difference[..., 2]).ravel())
            lengths.append(np.full(rows[-1].size, length * cell, np.float32))
        rows, cols = np.concatenate(rows), np.concatenate(cols)
        # Built once as compressed rows with positions for values, so that each set of costs only swaps the values in.
        order = csr_matrix((np.arange(1, rows.size + 1, dtype=np.float64), (rows, cols)), shape=(h * w, h * w))
        self._order = order.data.astype(np.int64) - 1
        self._graph = order
        self._rows, self._cols = rows[self._order], cols[self._order]
        self._steps = np.concatenate(steps)[self._order].astype(np.float64)
        self._lengths = np.concatenate(lengths)[self._order].astype(np.float64)

    def distance(self, seeds: np.ndarray, toll: np.ndarray | None = None) -> np.ndarray:
        """float32 (h, w), at most :data:`FAR`: cost of the cheapest path from any seed.

        seeds: flat indices of cells; toll: float (h, w), extra cost per length for passing a cell, or None.
        """
        if not len(seeds):
            return np.full(self.shape, FAR, np.float32)
        cost = self._steps + self._lengths
        if toll is not None:
            flat = toll.ravel()
            cost += self._lengths * 0.5 * (flat[self._rows] + flat[self._cols])
        graph = csr_matrix((cost, self._graph.indices, self._graph.indptr), shape=self._graph.shape)
        found = dijkstra(graph, directed=False, indices=seeds, min_only=True, limit=FAR)
        return np.minimum(found, FAR).astype(np.float32).reshape(self.shape)


def colour_log_ratio(lab: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """float32 (h, w): log of how much likelier a cell's colour is inside than outside.

    lab: float32 (h, w, 3), Lab as OpenCV scales it for 8 bits; inside, outside: weights (h, w) of the cells' colours.
    """
    l = np.clip(lab[..., 0] * (_BINS[0] / 256), 0, _BINS[0] - 1).astype(np.int32)
    # Real pictures fill only the middle of the a and b axes.
    a, b = (np.clip((lab[..., i] - 128) * 0.11 + 7, 0, _BINS[i] - 1).astype(np.int32) for i in (1, 2))
    key = ((l * _BINS[1] + a) * _BINS[2] + b).ravel()

    def density(weight: np.ndarray) -> np.ndarray:
        count = np.bincount(key, weight.ravel(), int(np.prod(_BINS))).reshape(_BINS)
        for axis in range(3):
            count = np.moveaxis(count, axis, 0)
            smooth = 2 * count
            smooth[1:] += count[:-1]
            smooth[:-1] += count[1:]
            count = np.moveaxis(smooth, 0, axis)
        return count / max(count.sum(), 1e-9)

    ratio = np.log((density(inside) + 2e-5) / (density(outside) + 2e-5))
    return ratio.ravel()[key].astype(np.float32).reshape(lab.shape[:2])


@dataclass(eq=False)
class ClickMaps:
    """Distances (h, w) to the clicks of one sign: ``straight``, in ``colour`` (standard deviations), ``seeds`` flat."""

    straight: np.ndarray
    colour: np.ndarray
    seeds: np.ndarray


def click_maps(grid: Grid, smooth_lab: np.ndarray, points: Sequence[Point]) -> ClickMaps:
    """Distances to the nearest of ``points``; ``smooth_lab`` float32 (h, w, 3)."""
    straight = np.full((grid.height, grid.width), FAR, np.float32)
    colour = np.full((grid.height, grid.width), 9.0, np.float32)
    seeds = [np.empty(0, np.int64)]
    for point in points:
        distance = grid.distance(point)
        least = float(distance.min()) + 1e-6
        sample = smooth_lab[distance <= max(least, _SAMPLE_RADIUS)]
        spread = np.sqrt(sample.var(0) + _COLOUR_NOISE)
        off = (smooth_lab - sample.mean(0)) / spread
        np.minimum(straight, distance, out=straight)
        np.minimum(colour, np.sqrt((off[..., 0] ** 2 + off[..., 1] ** 2 + off[..., 2] ** 2) / 3), out=colour)
        seeds.append(np.flatnonzero(distance.ravel() <= max(least, _SEED_RADIUS)))
    return ClickMaps(straight, colour, np.unique(np.concatenate(seeds)))


TERMS = (
    "net",  # log-odds of the network
    "net_around",  # the same, blurred
    "colour",  # colours of the probable inside against those of the probable outside
    "colour_around",
    "like_click",  # closeness in colour to the nearest-coloured positive click
    "unlike_click",  # the same for negative clicks
    "near_click",  # straight closeness to a positive click, short range
    "around_click",  # the same, long range
    "far",  # straight distance from the positive clicks
    "reach",  # closeness by paths that avoid edges and what the network calls outside
    "path",  # length of those paths
    "near_not",  # straight closeness to a negative click
    "reach_not",  # closeness to a negative click by paths that avoid edges
    "before",  # the previous mask: -1 outside, 1 inside
    "before_last",  # the same, only near the last click
    "last",  # sign of the last click times straight closeness to it
    "last_reach",  # the same by paths that stay where the previous mask contradicts the click
    "one",
)


def evidence(
    grid: Grid, lab: np.ndarray, net: np.ndarray, points: Sequence[Point], previous: np.ndarray | None
) -> np.ndarray:
    """float32 (h, w, len(TERMS)).

    lab float32 (h, w, 3); net float32 (h, w) log-odds; previous float32 (h, w) in -1..1 or None. ``points`` are in
    the order in which they were made and contain a positive one.
    """
    probability = 1 / (1 + np.exp(-net))
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.2)
    yes = click_maps(grid, smooth, [p for p in points if p.positive])
    no = click_maps(grid, smooth, [p for p in points if not p.positive])
    paths = Paths(lab, grid.cell)
    reach = paths.distance(yes.seeds, 3 * np.log1p(np.exp(-net)))
    reach_not = paths.distance(no.seeds)
    inside = probability * np.exp(-yes.straight / 0.25 - reach / 1.0) + np.exp(-((yes.straight / 0.03) ** 2))
    outside = (1 - probability) * (1 - np.exp(-((reach / 0.5) ** 2))) + np.exp(-((no.straight / 0.05) ** 2)) + 1e-4
    colour = colour_log_ratio(lab, inside * (no.straight > 0.02), outside * (yes.straight > 0.02))
    last = last_reach = before = np.zeros_like(net)
    if len(points) > 1:
        sign = 1.0 if points[-1].positive else -1.0
        distance = grid.distance(points[-1])
        seeds = np.flatnonzero(distance.ravel() <= max(float(distance.min()) + 1e-6, _SEED_RADIUS))
        agreed = net * sign > 0
        if previous is not None:
            before = previous
            agreed = before * sign > 0
        last = sign * np.exp(-distance / 0.06)
        last_reach = sign * np.exp(-paths.distance(seeds, 4.0 * agreed) / 0.15)
    blur = 0.03 / grid.cell
    return np.stack(
        [
            net,
            cv2.GaussianBlur(net, (0, 0), blur),
            colour,
            cv2.GaussianBlur(colour, (0, 0), 0.016 / grid.cell),
            np.exp(-yes.colour),
            np.exp(-no.colour),
            np.exp(-yes.straight / 0.05),
            np.exp(-yes.straight / 0.15),
            np.minimum(yes.straight, 1),
            np.exp(-reach / 0.3),
            np.minimum(reach, FAR),
            np.exp(-no.straight / 0.05),
            np.exp(-reach_not / 0.15),
            before,
            before * np.abs(last_reach),
            last,
            last_reach,
            np.ones_like(net),
        ],
        -1,
    ).astype(np.float32)
