"""What speaks for and against each cell when a mask is made to obey its clicks (used by the snap step).

Two sets of terms: the rough ones come from the network, the clicks and the mask before; the fine ones use a first
result, and look at its colours and its edges. Each term is a map (h, w) of roughly -5..5; positive need not mean
"inside", the weights decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from x2sam.inference.refine_evidence import FAR, ClickMaps, Colours, Grid, Paths, click_maps, guided_filter, sigmoid
from x2sam.structures import Point

Box = tuple[float, float, float, float]

ROUGH_TERMS = (
    "net",  # log-odds of the network
    "net_around",  # the same, blurred
    "colour",  # colours of the probable inside against those of the probable outside
    "colour_around",  # the same, blurred
    "like_click",  # closeness in colour to the positive clicks
    "unlike_click",  # the same for negative clicks
    "near_click",  # straight closeness to a positive click, short range
    "around_click",  # the same, long range
    "far",  # straight distance from the positive clicks
    "reach",  # closeness by paths that avoid edges and what the network calls outside
    "path",  # length of those paths
    "near_not",  # straight closeness to a negative click
)
SHARED_TERMS = (
    "before",  # the mask before: -1 outside, 1 inside
    "last",  # sign of the last click times straight closeness to it
    # The last click is in the middle of an error. How far that reaches is not known, but the outline of the mask
    # before bounds it: its distance from the click is "the error's radius".
    "last_core",  # sign of the click, within that radius
    "last_disc",  # the same, fading
    "last_wide",  # the same, fading at twice the radius
    "last_area",  # the same, fading at four times the radius
    "depth",  # distance to the outline of the mask before, in the error's radii
    "depth_fixed",  # the same, in parts of the picture
    "wrong_depth",  # the first of these where the mask before contradicts the click, 0 elsewhere
    "box",  # how far inside the box that was drawn (1 in its middle, 0 on the ellipse in it)
    "box_side",  # distance to the nearest side of the box, in halves of its shorter side
    "one",
)
FINE_TERMS = (
    "rough",  # the first result
    "rough_around",  # the same, blurred
    "rough_p",  # the same as a probability
    "edges",  # that, smoothed between edges
    "edges_wide",
    "colour",  # colours inside the first result against those outside
    "colour_around",
    "reach",  # closeness to positive clicks by paths that stay inside the first result
    "path",
    "net",
    "net_around",
)


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything known about one request, on its grid.

    lab:    float32 (h, w, 3) picture; net: float32 (h, w) log-odds of the network
    points: clicks in order; boxes: in pixels of the picture
    before: float32 (h, w) -1..1, the mask that the last click corrects, or None
    """

    grid: Grid
    lab: np.ndarray
    net: np.ndarray
    points: Sequence[Point]
    boxes: Sequence[Box]
    before: np.ndarray | None

    @property
    def regime(self) -> str:
        """Which weights apply: what is known differs."""
        if self.before is not None:
            return "later"
        if len(self.points) > 1:
            return "later_unknown"
        return "first" if self.points else "box"

    @property
    def indecision(self) -> np.ndarray:
        """float32 (h, w): 0 where the network is sure, 1 where it is not."""
        p = sigmoid(self.net)
        return 4 * p * (1 - p)

    @property
    def sharpness(self) -> float:
        """0 for a network that answers with a vague cloud, 1 for one that knows every cell of its mask."""
        p = sigmoid(self.net)
        return float((p * (2 * p - 1) ** 2).sum() / max(float(p.sum()), 1e-6))

    @cached_property
    def smooth(self) -> np.ndarray:
        return cv2.GaussianBlur(self.lab, (0, 0), 1.2)

    @cached_property
    def yes(self) -> ClickMaps:
        """Positive clicks. Without any, the place that the network or the mask before is surest of stands in."""
        points = [p for p in self.points if p.positive]
        return click_maps(self.grid, self.smooth, points or [self._likely_place()])

    @cached_property
    def no(self) -> ClickMaps:
        return click_maps(self.grid, self.smooth, [p for p in self.points if not p.positive])

    @cached_property
    def colours(self) -> Colours:
        return Colours(self.lab)

    @cached_property
    def paths(self) -> Paths:
        return Paths(self.lab, self.grid.cell)

    @cached_property
    def ellipse(self) -> np.ndarray:
        """float32 (h, w): 1 in the middle of a box, 0 on the ellipse in it, -1 and less outside; 0 without boxes."""
        if not self.boxes:
            return np.zeros(self.grid.shape, np.float32)
        return np.max([1 - self._in_box(b, np.add) for b in self.boxes], axis=0)

    def blur(self, values: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian of ``sigma`` long sides of the picture."""
        return cv2.GaussianBlur(values, (0, 0), max(sigma / self.grid.cell, 0.3))

    def _likely_place(self) -> Point:
        value = self.blur(self.net if self.before is None else self.net + 2 * self.before, 0.03)
        if self.boxes:
            value = value + 4 * np.clip(self.ellipse, -2, 1)
        return self.grid.point_of(*divmod(int(value.argmax()), self.grid.width))

    def _in_box(self, box: Box, join: np.ufunc) -> np.ndarray:
        """float32 (h, w): squared distances from the box's middle in halves of its sides, x and y joined; at most 4."""
        x, y = self.grid.axes()
        x0, y0, x1, y1 = box
        across = np.minimum(((2 * x - x0 - x1) / (x1 - x0)) ** 2, 4)
        down = np.minimum(((2 * y - y0 - y1) / (y1 - y0)) ** 2, 4)
        return np.minimum(join(across[None], down[:, None]), 4).astype(np.float32)

    @cached_property
    def shared_terms(self) -> list[np.ndarray]:
        """Maps of :data:`SHARED_TERMS`; zeros for what is not known."""
        zero = np.zeros_like(self.net)
        before = zero if self.before is None else self.before
        last = [zero] * 8
        if self.points and self.regime in ("later", "later_unknown"):
            last = self._last_terms(self.net if self.before is None else self.before)
        side = zero
        if self.boxes:
            side = np.max([1 - np.sqrt(self._in_box(b, np.maximum)) for b in self.boxes], axis=0)
        return [before, *last, np.maximum(self.ellipse, -3), side, np.ones_like(self.net)]

    def _last_terms(self, before: np.ndarray) -> list[np.ndarray]:
        click = self.points[-1]
        sign = np.float32(1 if click.positive else -1)
        distance = self.grid.distance(click)
        wrong = before * sign <= 0
        wrong_depth, right_depth = self.grid.depth(wrong), self.grid.depth(~wrong)
        radius = max(float(wrong_depth[self.grid.cell_of(click)]), 0.006)
        k = distance / radius
        outline = (right_depth - wrong_depth) * sign
        return [
            sign * np.exp(-distance / 0.06),
            sign * (k < 1),
            sign * np.exp(-0.7 * k * k),
            sign * np.exp(-((k / 2) ** 2)),
            sign * np.exp(-((k / 4) ** 2)),
            np.clip(outline / radius, -2, 2),
            np.clip(outline / 0.04, -2, 2),
            sign * np.clip(wrong_depth / radius, 0, 1),
        ]


def rough_terms(scene: Scene) -> np.ndarray:
    """float32 (h, w, len(ROUGH_TERMS) + len(SHARED_TERMS))."""
    net, yes, no = scene.net, scene.yes, scene.no
    probability = sigmoid(net)
    reach = scene.paths.distance(yes.seeds, 3 * np.log1p(np.exp(-net)))
    inside = probability * np.exp(-yes.straight / 0.25 - reach) + np.exp(-((yes.straight / 0.03) ** 2))
    outside = (1 - probability) * (1 - np.exp(-((reach / 0.5) ** 2))) + np.exp(-((no.straight / 0.05) ** 2)) + 1e-4
    if scene.boxes:
        # What lies outside the box is known not to be the object, whatever its colours.
        inside = inside * np.clip(0.3 + scene.ellipse, 0, 1)
        outside = outside + (scene.ellipse < -1)
    colour = scene.colours.log_ratio(inside * (no.straight > 0.02), outside * (yes.straight > 0.02))
    return _stack(
        net,
        scene.blur(net, 0.03),
        colour,
        scene.blur(colour, 0.016),
        np.exp(-yes.colour),
        np.exp(-no.colour),
        np.exp(-yes.straight / 0.05),
        np.exp(-yes.straight / 0.15),
        np.minimum(yes.straight, 1),
        np.exp(-reach / 0.3),
        np.minimum(reach, FAR),
        np.exp(-no.straight / 0.05),
        *scene.shared_terms,
    )


def fine_terms(scene: Scene, rough: np.ndarray) -> np.ndarray:
    """float32 (h, w, len(FINE_TERMS) + len(SHARED_TERMS)); ``rough`` float32 (h, w), the first result in log-odds."""
    rough = np.clip(rough, -6, 6)
    yes, no = scene.yes, scene.no
    probability = sigmoid(rough)
    inside = probability**2 + np.exp(-((yes.straight / 0.03) ** 2))
    nearest = np.minimum(yes.straight, no.straight)
    outside = (1 - probability) ** 2 * np.exp(-nearest / 0.3) + np.exp(-((no.straight / 0.04) ** 2)) + 1e-4
    colour = scene.colours.log_ratio(inside * (no.straight > 0.02), outside * (yes.straight > 0.02))
    reach = scene.paths.distance(yes.seeds, 3 * np.log1p(np.exp(-rough)))
    cell = scene.grid.cell
    return _stack(
        rough,
        scene.blur(rough, 0.02),
        probability,
        guided_filter(scene.lab, probability, max(2, round(0.04 / cell)), 4e-3),
        guided_filter(scene.lab, probability, max(2, round(0.1 / cell)), 2e-3),
        colour,
        scene.blur(colour, 0.012),
        np.exp(-reach / 0.3),
        np.minimum(reach, FAR),
        scene.net,
        scene.blur(scene.net, 0.03),
        *scene.shared_terms,
    )


def _stack(*maps: np.ndarray) -> np.ndarray:
    out = np.empty((*maps[0].shape, len(maps)), np.float32)
    for i, values in enumerate(maps):
        out[..., i] = values
    return out
