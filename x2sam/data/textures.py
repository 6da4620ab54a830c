"""Surfaces for generated scenes: scalar fields, coloured by a ramp.

Every pattern is first a field uint8 (H, W), then a ramp of two or three colours; that keeps a texture at a fraction
of a millisecond. Photographs have about a 1/f amplitude spectrum, so the noise here is a sum of octaves.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Size = tuple[int, int]


def octave_noise(rng: np.random.Generator, size: Size, coarsest: int = 3, octaves: int = 5, decay: float = 0.6):
    """Smooth noise with a falling spectrum: float32 (H, W), about zero mean and unit deviation.

    coarsest: cells across the long side in the lowest octave
    decay:    amplitude ratio of neighbouring octaves; 0.5 is about 1/f, 1 is rough
    """
    h, w = size
    total = np.zeros(size, np.float32)
    power = 0.0
    for k in range(octaves):
        cells = coarsest << k
        if k and cells > max(size):
            break
        rows, cols = max(2, round(cells * h / max(size))), max(2, round(cells * w / max(size)))
        grid = rng.standard_normal((rows, cols), dtype=np.float32)
        amplitude = decay**k
        # Linear interpolation is twice as fast and its creases vanish below the coarse octaves.
        how = cv2.INTER_CUBIC if k < 2 else cv2.INTER_LINEAR
        cv2.scaleAdd(cv2.resize(grid, (w, h), interpolation=how), amplitude, total, total)
        power += amplitude * amplitude
    return total * (1.6 / np.sqrt(power, dtype=np.float32))


def _to_bytes(field: np.ndarray, gain: float = 48.0) -> np.ndarray:
    return cv2.convertScaleAbs(np.maximum(field * gain + 128.0, 0.0))


def _grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(size[1], dtype=np.float32)[None], np.arange(size[0], dtype=np.float32)[:, None]


def _turned(rng: np.random.Generator, size: Size, angle: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a random direction, in pixels; each float32 (H, W)."""
    x, y = _grid(size)
    angle = rng.uniform(0, np.pi) if angle is None else angle
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def flat(rng: np.random.Generator, size: Size) -> np.ndarray:
    return np.full(size, 40, np.uint8)


def gradient(rng: np.random.Generator, size: Size) -> np.ndarray:
    along, _ = _turned(rng, size)
    low, high = float(along.min()), float(along.max())
    return cv2.convertScaleAbs((along - low) * (255.0 / max(high - low, 1.0)))


def cloudy(rng: np.random.Generator, size: Size) -> np.ndarray:
    return _to_bytes(octave_noise(rng, size, int(rng.integers(2, 6)), 5, rng.uniform(0.4, 0.65)), rng.uniform(30, 60))


def rough(rng: np.random.Generator, size: Size) -> np.ndarray:
    return _to_bytes(octave_noise(rng, size, int(rng.integers(6, 20)), 6, rng.uniform(0.7, 1.0)), rng.uniform(30, 60))


def striped(rng: np.random.Generator, size: Size) -> np.ndarray:
    along, _ = _turned(rng, size)
    period = rng.uniform(0.06, 0.28) * max(24, min(size))
    wave = np.sin(along * np.float32(2 * np.pi / max(period, 4.0)) + np.float32(rng.uniform(0, 6.28)))
    return cv2.convertScaleAbs(np.clip(wave * np.float32(rng.choice((127.0, 600.0))) + 128.0, 0, 255))


def dotted(rng: np.random.Generator, size: Size) -> np.ndarray:
    along, across = _turned(rng, size)
    step = np.float32(max(6.0, rng.uniform(0.08, 0.22) * max(24, min(size))))
    u, v = np.abs((along % step) - step / 2), np.abs((across % step) - step / 2)
    return np.where(u * u + v * v < (step * np.float32(rng.uniform(0.2, 0.36))) ** 2, 255, 0).astype(np.uint8)


def checkered(rng: np.random.Generator, size: Size) -> np.ndarray:
    along, across = _turned(rng, size)
    step = np.float32(max(5.0, rng.uniform(0.07, 0.22) * max(24, min(size))))
    parity = (np.floor(along / step) + np.floor(across / step)).astype(np.int32) & 1
    return (parity * 255).astype(np.uint8)


def spotted(rng: np.random.Generator, size: Size) -> np.ndarray:
    noise = octave_noise(rng, size, int(rng.integers(5, 12)), 2, 0.4)
    return cv2.convertScaleAbs(np.clip((noise - np.float32(rng.uniform(0.2, 0.8))) * 400.0 + 128.0, 0, 255))


def grained(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Wood or fur: stripes bent by noise."""
    along, across = _turned(rng, size)
    bend = octave_noise(rng, size, 2, 3, 0.5) * np.float32(rng.uniform(4, 14))
    period = rng.uniform(5, 16)
    wave = np.sin((along + bend) * np.float32(6.2832 / period)) + 0.5 * np.sin((across * 0.1 + along) * np.float32(2.1))
    return _to_bytes(wave, rng.uniform(35, 70))


def bricked(rng: np.random.Generator, size: Size) -> np.ndarray:
    x, y = _grid(size)
    bw = max(8.0, rng.uniform(0.08, 0.2) * max(32, size[1]))
    bh, joint = max(4.0, bw * rng.uniform(0.3, 0.6)), max(1.0, bw * 0.07)
    row = np.floor(y / np.float32(bh))
    shifted = x + (row % 2) * np.float32(bw / 2)
    column = np.floor(shifted / np.float32(bw)).astype(np.int32)
    tone = rng.integers(90, 256, (64, 64), dtype=np.uint8)[row.astype(np.int32) % 64, column % 64]
    mortar = (shifted % np.float32(bw) < joint) | (y % np.float32(bh) < joint)
    return np.where(mortar, 0, tone).astype(np.uint8)


def cells(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Irregular patches of constant tone: quantised noise, as in leaves, gravel or camouflage."""
    noise = octave_noise(rng, size, int(rng.integers(4, 14)), 3, 0.6)
    return cv2.convertScaleAbs(np.floor(noise * np.float32(1.6)) * 48.0 + 128.0)


# What a pattern is called in an expression; None where people have no common word for it.
PATTERNS: dict[str, tuple[Callable[[np.random.Generator, Size], np.ndarray], str | None]] = {
    "flat": (flat, "plain"),
    "gradient": (gradient, None),
    "cloudy": (cloudy, None),
    "rough": (rough, None),
    "grained": (grained, None),
    "cells": (cells, None),
    "striped": (striped, "striped"),
    "dotted": (dotted, "dotted"),
    "checkered": (checkered, "checkered"),
    "spotted": (spotted, "spotted"),
    "bricked": (bricked, None),
}


def colour_ramp(colours: list[np.ndarray]) -> np.ndarray:
    """Colours float (3,) RGB 0..255, evenly spaced -> lookup table uint8 (256, 1, 3)."""
    stops = np.linspace(0.0, 255.0, len(colours))
    table = np.stack([np.interp(np.arange(256.0), stops, [c[k] for c in colours]) for k in range(3)], -1)
    return np.clip(table, 0, 255).astype(np.uint8)[:, None]


def paint(field: np.ndarray, colours: list[np.ndarray]) -> np.ndarray:
    """Field uint8 (H, W) -> uint8 (H, W, 3) RGB through the ramp of ``colours``."""
    return cv2.applyColorMap(field, colour_ramp(colours))


def texture(rng: np.random.Generator, size: Size, pattern: str, colours: list[np.ndarray]) -> np.ndarray:
    """A surface uint8 (H, W, 3) RGB. ``pattern`` is a key of :data:`PATTERNS`; one colour or more."""
    field = PATTERNS[pattern][0](rng, size)
    return paint(field, colours if len(colours) > 1 else [colours[0], colours[0]])
