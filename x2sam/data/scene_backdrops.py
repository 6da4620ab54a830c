"""Backdrops for generated scenes: plain, patterned, or several regions with names (sky, grass, wall, ...)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from x2sam.data.colours import draw_natural, hsv_to_rgb
from x2sam.data.masks import resize_picture
from x2sam.data.textures import octave_noise, texture

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Backdrop:
    """colour uint8 (H, W, 3); labels uint8 (H, W): 0 without a name, else 1 + index into ``names``."""

    colour: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


# material -> patterns, (hue from, to), (saturation from, to), (value from, to), how far the second colour is in value
_MATERIALS: dict[str, tuple[tuple[str, ...], tuple[float, float], tuple[float, float], tuple[float, float], float]] = {
    "sky": (("gradient", "cloudy"), (195, 225), (0.05, 0.55), (0.7, 1.0), 0.2),
    "grass": (("rough", "cells", "rough"), (75, 125), (0.35, 0.8), (0.25, 0.7), 0.45),
    "sand": (("rough", "cloudy"), (30, 48), (0.2, 0.5), (0.65, 0.95), 0.2),
    "water": (("cloudy", "grained", "gradient"), (180, 220), (0.3, 0.75), (0.25, 0.75), 0.35),
    "road": (("rough", "cloudy", "flat"), (0, 360), (0.0, 0.08), (0.25, 0.55), 0.2),
    "brick wall": (("bricked",), (5, 25), (0.35, 0.65), (0.4, 0.7), 0.4),
    "wall": (("flat", "gradient", "cloudy"), (20, 60), (0.02, 0.3), (0.6, 0.95), 0.12),
    "wood": (("grained",), (18, 35), (0.35, 0.65), (0.35, 0.75), 0.35),
    "snow": (("cloudy", "gradient"), (190, 230), (0.0, 0.08), (0.85, 1.0), 0.12),
    "gravel": (("cells", "rough"), (20, 50), (0.02, 0.18), (0.35, 0.7), 0.5),
    "trees": (("cells", "rough"), (80, 140), (0.3, 0.7), (0.12, 0.4), 0.6),
}
_UPPER = ("sky", "sky", "wall", "brick wall", "trees", "trees")
_LOWER = ("grass", "sand", "water", "road", "wood", "snow", "gravel", "grass")
_UNNAMED = ("flat", "gradient", "cloudy", "cloudy", "rough", "grained", "cells", "striped", "checkered", "dotted")


def _material(rng: np.random.Generator, size: Size, name: str) -> np.ndarray:
    patterns, hue, saturation, value, contrast = _MATERIALS[name]
    h, s, v = (rng.uniform(*span) for span in (hue, saturation, value))
    main = hsv_to_rgb(h, s, v)
    other = hsv_to_rgb(h + rng.normal(0, 6), min(1.0, s * rng.uniform(0.7, 1.2)), v * (1.0 - contrast * rng.random()))
    return texture(rng, size, str(rng.choice(patterns)), [other, main])


def _unnamed(rng: np.random.Generator, size: Size) -> np.ndarray:
    first = draw_natural(rng)
    second = draw_natural(rng) if rng.random() < 0.4 else np.clip(first * rng.uniform(0.5, 1.4), 0, 255)
    return texture(rng, size, str(rng.choice(_UNNAMED)), [first, second])


def wavy_edge(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Signed height over a wavy, slanted horizon: float32 (H, W), positive below it, in pixels."""
    h, w = size
    x = np.linspace(-1, 1, w, dtype=np.float32)
    waves = sum(
        rng.normal(0, amplitude)
        * np.sin(x * np.float32(rate * rng.uniform(0.6, 1.4)) + np.float32(rng.uniform(0, 6.28)))
        for amplitude, rate in ((0.05, 2.0), (0.03, 6.0), (0.012, 25.0))
    )
    horizon = (rng.uniform(0.25, 0.75) + rng.normal(0, 0.06) * x + rng.choice((0.0, 1.0)) * waves) * h
    return np.arange(h, dtype=np.float32)[:, None] - horizon.astype(np.float32)


def _cover(below: np.ndarray, above: np.ndarray, depth: np.ndarray, soft: float) -> np.ndarray:
    weight = np.clip(depth / np.float32(soft) + 0.5, 0.0, 1.0)
    return cv2.blendLinear(below, above, weight, 1.0 - weight)


def _horizon(rng: np.random.Generator, size: Size) -> Backdrop:
    depth = wavy_edge(rng, size)
    upper, lower = str(rng.choice(_UPPER)), str(rng.choice(_LOWER))
    soft = rng.choice((1.0, 1.0, 4.0))
    colour = _cover(_material(rng, size, lower), _material(rng, size, upper), depth, soft)
    labels = np.where(depth > 0, np.uint8(2), np.uint8(1))
    names = [upper, lower]
    if rng.random() < 0.35:
        # A third region bounded by noise: a bush, a puddle, a patch of another ground.
        third = str(rng.choice([m for m in _MATERIALS if m not in names]))
        field = octave_noise(rng, size, 2, 3, 0.4) * np.float32(12.0) - np.float32(10.0)
        colour = _cover(_material(rng, size, third), colour, field, 2.0)
        labels = np.where(field > 0, np.uint8(3), labels)
        names.append(third)
    return Backdrop(colour, labels, tuple(names))


def _patches(rng: np.random.Generator, size: Size) -> Backdrop:
    """Unnamed patterns that change along soft or hard borders: edges that are not objects."""
    colour = _unnamed(rng, size)
    for _ in range(int(rng.integers(1, 3))):
        field = octave_noise(rng, size, int(rng.integers(1, 4)) + 1, 2, 0.4) * np.float32(20.0)
        colour = _cover(_unnamed(rng, size), colour, field, rng.choice((2.0, 12.0, 30.0)))
    return Backdrop(colour, np.zeros(size, np.uint8), ())


def _single(rng: np.random.Generator, size: Size) -> Backdrop:
    if rng.random() < 0.5:
        return Backdrop(_unnamed(rng, size), np.zeros(size, np.uint8), ())
    name = str(rng.choice(tuple(_MATERIALS)))
    return Backdrop(_material(rng, size, name), np.ones(size, np.uint8), (name,))


def photo_window(rng: np.random.Generator, photo: np.ndarray, size: Size) -> np.ndarray:
    """A random window of ``photo`` uint8 (h, w, 3), perhaps mirrored, stretched to ``size``."""
    h, w = photo.shape[:2]
    part = [max(2, int(v * rng.uniform(0.35, 1.0))) for v in (h, w)]
    y, x = int(rng.integers(h - part[0] + 1)), int(rng.integers(w - part[1] + 1))
    window = photo[y : y + part[0], x : x + part[1], :]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    return resize_picture(np.ascontiguousarray(window), size)


def _scratches(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Thin lines and specks: clutter that belongs to no object."""
    h, w = colour.shape[:2]
    count = int(rng.integers(4, 40))
    ends = rng.uniform(0, 1, (count, 2)) * (w, h)
    reach = rng.normal(0, rng.choice((4.0, 40.0)), (count, 2))
    tones = rng.integers(0, 256, (count, 3))
    for start, step, tone in zip(ends, reach, tones, strict=True):
        a, b = np.round(start * 16).astype(int), np.round((start + step) * 16).astype(int)
        cv2.line(colour, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), tuple(map(int, tone)), 1, cv2.LINE_AA, 4)
    return colour


_LAYOUTS = ((0.45, _horizon), (0.75, _single), (1.0, _patches))


def draw_backdrop(rng: np.random.Generator, size: Size, photo: np.ndarray | None = None) -> Backdrop:
    """A backdrop of ``size`` (H, W), of ``photo`` uint8 (h, w, 3) where one is given."""
    if photo is not None:
        return Backdrop(photo_window(rng, photo, size), np.zeros(size, np.uint8), ())
    pick = rng.random()
    drawn = next(layout for limit, layout in _LAYOUTS if pick < limit)(rng, size)
    if rng.random() < 0.15:
        # Out of focus behind the objects; the borders of its regions stay where they are.
        drawn = replace(drawn, colour=cv2.GaussianBlur(drawn.colour, (0, 0), rng.uniform(1.0, 3.0)))
    if rng.random() < 0.25:
        _scratches(rng, drawn.colour)
    return drawn
