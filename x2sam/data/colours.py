"""Colour names: drawing a colour of a given name, and naming the colour of measured pixels.

Names are only given where nearly everybody would give them; between the names lie gaps that stay unnamed, so that
an expression such as "the red bus" is never a matter of taste.
"""

from __future__ import annotations

import cv2
import numpy as np

# name -> (hue from, hue to in degrees; may pass 360), (saturation 0..1), (value 0..1)
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((350, 367), (0.70, 1.0), (0.50, 0.95)),
    "orange": ((22, 34), (0.78, 1.0), (0.85, 1.0)),
    "yellow": ((50, 61), (0.60, 1.0), (0.85, 1.0)),
    "green": ((90, 150), (0.45, 1.0), (0.30, 0.80)),
    "blue": ((208, 240), (0.55, 1.0), (0.45, 0.95)),
    "purple": ((268, 290), (0.45, 0.9), (0.40, 0.80)),
    "pink": ((318, 345), (0.25, 0.5), (0.92, 1.0)),
    "brown": ((14, 30), (0.50, 0.8), (0.28, 0.48)),
    "black": ((0, 360), (0.0, 0.3), (0.02, 0.12)),
    "white": ((0, 360), (0.0, 0.05), (0.93, 1.0)),
    "gray": ((0, 360), (0.0, 0.06), (0.40, 0.62)),
}
COLOUR_NAMES = tuple(COLOURS)

# How far light, shadow, noise and a camera may carry a colour while people keep calling it by its name:
# hue in degrees, saturation, value below and value above.
_TOLERANCE = {
    "red": (8, 0.12, 0.15, 0.05),
    "orange": (5, 0.15, 0.20, 0.0),
    "yellow": (6, 0.15, 0.20, 0.0),
    "green": (15, 0.15, 0.12, 0.2),
    "blue": (12, 0.20, 0.20, 0.05),
    "purple": (12, 0.12, 0.12, 0.15),
    "pink": (8, 0.07, 0.12, 0.0),
    "brown": (4, 0.10, 0.08, 0.07),
    "black": (0, 0.40, 0.02, 0.08),
    "white": (0, 0.07, 0.10, 0.0),
    "gray": (0, 0.06, 0.08, 0.10),
}


def hsv_to_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Hue in degrees (any turn), saturation and value 0..1 -> float32 (3,) RGB 0..255."""
    offsets = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    ramp = np.clip(np.minimum(offsets, 4.0 - offsets), 0.0, 1.0)
    return (255.0 * value * (1.0 - saturation * ramp)).astype(np.float32)


def draw_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """A colour that people call ``name``: float32 (3,) RGB 0..255. An unknown name is a ``KeyError``."""
    (h0, h1), (s0, s1), (v0, v1) = COLOURS[name]
    u = rng.random(3)
    return hsv_to_rgb(h0 + u[0] * (h1 - h0), s0 + u[1] * (s1 - s0), v0 + u[2] * (v1 - v0))


def draw_natural(rng: np.random.Generator) -> np.ndarray:
    """A muted colour as photographs are full of: mostly earth, leaf, sky and grey tones; float32 (3,) RGB 0..255."""
    hue = rng.choice((30.0, 30.0, 80.0, 210.0, 350.0)) + rng.normal(0.0, 22.0)
    return hsv_to_rgb(hue, min(0.75, rng.gamma(2.0, 0.13)), rng.uniform(0.1, 0.95))


def colour_matches(pixels: np.ndarray) -> np.ndarray:
    """Which names fit each of ``pixels``, uint8 (n, 3) RGB: bool (n, 11) in the order of :data:`COLOUR_NAMES`.

    Pixels between the names fit none; a few at the rim of two names fit both.
    """
    if not len(pixels):
        return np.zeros((0, len(COLOURS)), bool)
    scaled = np.ascontiguousarray(pixels[None].astype(np.float32) / 255.0)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(scaled, cv2.COLOR_RGB2HSV)[0], -1, 0)
    fits = []
    for name, ((h0, h1), (s0, s1), (v0, v1)) in COLOURS.items():
        dh, ds, below, above = _TOLERANCE[name]
        inside = (saturation >= s0 - ds) & (saturation <= s1 + ds) & (value >= v0 - below) & (value <= v1 + above)
        if h1 - h0 < 360:
            inside &= (hue - (h0 - dh)) % 360.0 <= h1 - h0 + 2 * dh
        fits.append(inside)
    return np.stack(fits, -1)
