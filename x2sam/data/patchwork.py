"""Pictures put together from real ones: surfaces side by side, objects over them, every outline known.

Of regions such as grass, sky or a wall there are hardly any outlines to learn from, of real objects in full view many.
A part of a photograph that is much the same all over stands for a region; borders are horizons or ragged.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from x2sam.data.cutouts import box_to_hide, choose_objects, cut_out, lay_over, placement
from x2sam.data.masks import IGNORE, resize_picture
from x2sam.data.scene_backdrops import wavy_edge
from x2sam.data.textures import octave_noise
from x2sam.structures import Sample, SampleObject

Size = tuple[int, int]
SURFACE = "surface"
_TRIES = 4  # parts of a photograph, of which the most even one is taken
_EVEN = 40.0  # spread of the colours, in levels, that counts as much as being covered with objects


def patchwork(grounds: Sequence[Sample], donors: Sequence[Sample], rng: np.random.Generator, size: Size) -> Sample:
    """One picture of ``size`` (H, W): a surface of each of ``grounds``, objects of ``donors`` over them.

    Surfaces have the category :data:`SURFACE` and are no things. Nothing is unlabelled, so it is complete; expressions
    are yet to be made.
    """
    picture, labels = _surface(grounds[0], rng, size), np.ones(size, np.uint8)
    for number, ground in enumerate(grounds[1:], 2):
        inside = cv2.GaussianBlur(_field(rng, size), (0, 0), rng.uniform(0.5, 1.5))
        picture = cv2.blendLinear(_surface(ground, rng, size), picture, inside, 1 - inside)
        labels[inside > 0.5] = number
    objects = [SampleObject(number, SURFACE, False) for number in range(1, len(grounds) + 1)]
    for donor in donors:
        for chosen in choose_objects(donor, rng, int(rng.integers(1, 4)), 0.002, 0.5):
            number, cutout = len(objects) + 1, cut_out(donor, chosen)
            affine = placement(cutout, rng, size, box_to_hide(labels, objects, rng))
            if number < IGNORE and lay_over(picture, labels, cutout, affine, number):
                objects.append(SampleObject(number, cutout.category, cutout.thing))
    return Sample(picture[None], labels[None], tuple(objects), True, "patchwork")


def _surface(sample: Sample, rng: np.random.Generator, size: Size) -> np.ndarray:
    """uint8 (H, W, 3): the part of a picture that is most even and least covered with objects, of a few."""
    picture, labels = sample.frames[0], sample.labels[0]
    h, w = labels.shape
    parts = []
    for _ in range(_TRIES):
        high = int(np.clip(h * rng.uniform(0.25, 0.7), min(h, 24), h))
        wide = int(np.clip(high * size[1] / size[0] * rng.uniform(0.8, 1.25), min(w, 24), w))
        y, x = int(rng.integers(h - high + 1)), int(rng.integers(w - wide + 1))
        part, covered = picture[y : y + high, x : x + wide], (labels[y : y + high, x : x + wide] > 0).mean()
        spread = cv2.resize(part, (6, 6), interpolation=cv2.INTER_AREA).astype(float).std((0, 1)).mean()
        parts.append((spread / _EVEN + covered, part))
    best = min(parts, key=lambda p: p[0])[1]
    return resize_picture(np.ascontiguousarray(best[:, ::-1] if rng.random() < 0.5 else best), size)


def _field(rng: np.random.Generator, size: Size) -> np.ndarray:
    """float32 (H, W), 1 where the next surface is: below, above or beside a horizon, or in spots."""
    if rng.random() < 0.55:
        height = wavy_edge(rng, size[::-1]).T if rng.random() < 0.3 else wavy_edge(rng, size)
        height = -height if rng.random() < 0.4 else height
    else:
        noise = octave_noise(rng, size, int(rng.integers(2, 5)), int(rng.integers(2, 6)), rng.uniform(0.35, 0.65))
        height = (noise - np.quantile(noise, rng.uniform(0.35, 0.8))) * (60 / max(float(noise.std()), 1e-6))
    if rng.random() < 0.4:
        height = height + octave_noise(rng, size, 8, 4, 0.6) * rng.uniform(2, 14)
    return (height > 0).astype(np.float32)
