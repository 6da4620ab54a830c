"""What networks of several qualities might answer, made from the truth: for fitting the snap step without a network.

A weak network answers with a vague cloud at about the right place, leaks into neighbouring regions of like colour and
misses parts; a good one is nearly right and sure of it; some know nothing but where the click was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from x2sam.inference.refine_terms import Box
from x2sam.structures import Point

CELLS = 80  # along the long side: a quarter of a small network's input


@dataclass(frozen=True)
class Quality:
    """How well a simulated network sees. Lengths in sizes of the object unless said otherwise.

    warp, blur:  how far outlines are bent, and how soft they are (plus ``soft`` cells)
    gain:        how sure it is
    pull:        how much likelier it finds what is near the click
    leak, noise: log-odds of whole regions, and of smooth clouds, that are wrong
    learns:      how much of the truth near a further click it takes in
    """

    warp: float
    blur: float
    soft: float
    gain: float
    pull: float
    leak: float
    noise: float
    learns: float


WEAK = Quality(0.22, 0.22, 1.5, 4.2, 1.5, 1.3, 1.0, 1.0)
MEDIUM = Quality(0.14, 0.12, 1.0, 6.0, 1.0, 0.9, 0.8, 2.0)
GOOD = Quality(0.05, 0.04, 0.4, 9.6, 0.5, 0.5, 0.4, 4.0)


class SimulatedNetwork:
    """Answers prompts about one object. Call it with all clicks so far; its mistakes stay the same from click to click.

    image: uint8 (H, W, 3); truth: bool (H, W); quality: None for a network that only knows where it was asked
    """

    window = None  # it always sees the whole picture

    def __init__(self, image: np.ndarray, truth: np.ndarray, quality: Quality | None, rng: np.random.Generator):
        self.rng, self.quality = rng, quality
        height, width = truth.shape
        self.cells = CELLS / max(height, width)
        self.size = (max(1, round(width * self.cells)), max(1, round(height * self.cells)))
        self.truth = cv2.resize(truth.astype(np.float32), self.size, interpolation=cv2.INTER_AREA)
        self.base = self._uninformed() if quality is None else self._informed(image)
        self.base = self.base + rng.normal(0, 0.3)

    def __call__(
        self, points: Sequence[Point], boxes: Sequence[Box] = (), mask: np.ndarray | None = None
    ) -> np.ndarray:
        """float32 (h, w), 0..1, for all clicks so far; ``boxes`` holds the object's box when that was given first.

        The mask so far tells this network nothing.
        """
        score = self.base + 0.3 * self._cloud(0.06)
        for x0, y0, x1, y1 in np.multiply(boxes, self.cells).reshape(-1, 4):
            x, y = self._axes()
            ellipse = 1 - ((2 * x - x0 - x1) / max(x1 - x0, 1)) ** 2 - ((2 * y - y0 - y1) / max(y1 - y0, 1)) ** 2
            score = score + 2.0 * np.clip(ellipse, -2, 1)
        for k, point in enumerate(points):
            near = self._bump(point, self.radius)
            score = score + self.strength * (near if point.positive else -near)
            if self.quality is not None and (k or boxes):
                score = score + self.quality.learns * near * (self.truth - 0.5)
        return (1 / (1 + np.exp(-score))).astype(np.float32)

    def _uninformed(self) -> np.ndarray:
        rng = self.rng
        self.radius, self.strength = rng.uniform(0.05, 0.2) * CELLS, rng.uniform(0.5, 5)
        base = rng.uniform(-3, -1) + rng.uniform(0.2, 0.8) * self._cloud(0.08)
        if rng.random() < 0.3:
            elsewhere = Point(rng.random() * self.size[0] / self.cells, rng.random() * self.size[1] / self.cells)
            base = base + 4 * self._bump(elsewhere, rng.uniform(0.08, 0.3) * CELLS)
        gain = self._gain(3.0)
        self.strength *= gain
        return base * gain

    def _informed(self, image: np.ndarray) -> np.ndarray:
        q = self.quality
        self.radius, self.strength = 0.09 * CELLS, q.pull
        extent = float(np.sqrt(self.truth.sum() + 1))
        bend = [q.warp * extent * self._cloud((0.5 * extent + 2) / CELLS) for _ in range(2)]
        y, x = np.mgrid[: self.size[1], : self.size[0]].astype(np.float32)
        seen = cv2.remap(self.truth, x + bend[0], y + bend[1], cv2.INTER_LINEAR)
        seen = cv2.GaussianBlur(seen, (0, 0), q.blur * extent + q.soft)
        score = q.gain * (seen - 0.45) + q.leak * self._regions(image) + q.noise * self._cloud(0.06)
        return score * self._gain(8.0)

    def _gain(self, most: float) -> float:
        """Networks trained for overlap are often far surer than they are right."""
        return float(np.exp(self.rng.uniform(np.log(0.6), np.log(most))))

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(self.size[0]) + 0.5, np.arange(self.size[1])[:, None] + 0.5

    def _bump(self, point: Point, radius: float) -> np.ndarray:
        x, y = self._axes()
        square = (x - point.x * self.cells) ** 2 + (y - point.y * self.cells) ** 2
        return np.exp(-square / (2 * radius * radius))

    def _cloud(self, sigma: float) -> np.ndarray:
        """Smooth noise of variance 1, float32 (h, w); ``sigma`` in long sides."""
        noise = self.rng.standard_normal(self.size[::-1]).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), max(sigma * CELLS, 0.5))
        return noise / (noise.std() + 1e-6)

    def _regions(self, image: np.ndarray, count: int = 45) -> np.ndarray:
        """One random value per region of like colour, softened, float32 (h, w)."""
        small = cv2.GaussianBlur(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), (0, 0), 1.0)
        seeds = np.zeros(self.size[::-1], np.int32)
        rows, cols = (self.rng.integers(0, n, count) for n in seeds.shape)
        seeds[rows, cols] = np.arange(1, count + 1)
        cv2.watershed(small, seeds)
        value = self.rng.standard_normal(count + 1).astype(np.float32)[np.maximum(seeds, 0)]
        return cv2.GaussianBlur(value, (0, 0), 1.5)
