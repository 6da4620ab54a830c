"""Silhouettes for generated scenes: unions of outlines in a unit frame.

A silhouette is a tuple of parts; a part is a polygon set filled by the even-odd rule (so a second outline is a hole).
Units: x to the right, y down, the whole shape within about -1..1; parts may swing about a pivot, which moves limbs
in clips. ``tone`` says which of the object's colours the part takes: 0 the main colour, 1 the second, ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TAU = 2.0 * np.pi


@dataclass(frozen=True, eq=False)
class Part:
    """outlines: arrays (n, 2) of x, y in the unit frame; swing: amplitude in radians of the turn about ``pivot``.

    marking: paints what the parts before it cover, without adding to the silhouette (a label, a shirt, a patch)
    """

    outlines: tuple[np.ndarray, ...]
    tone: int = 0
    swing: float = 0.0
    pivot: tuple[float, float] = (0.0, 0.0)
    marking: bool = False


Silhouette = tuple[Part, ...]


def ellipse(cx: float = 0.0, cy: float = 0.0, rx: float = 1.0, ry: float | None = None, turn: float = 0.0, n: int = 36):
    """Outline (n, 2) of an ellipse turned by ``turn`` radians."""
    a = np.arange(n) * (TAU / n)
    ry = rx if ry is None else ry
    x, y = rx * np.cos(a), ry * np.sin(a)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([cx + x * c - y * s, cy + x * s + y * c], -1)


def capsule(x0: float, y0: float, x1: float, y1: float, r0: float, r1: float | None = None) -> np.ndarray:
    """Outline of a limb from one point to another, with round ends of radii ``r0`` and ``r1``."""
    r1 = r0 if r1 is None else r1
    across = np.arctan2(y1 - y0, x1 - x0) + np.pi / 2
    a, b = across + np.linspace(0, np.pi, 8), across + np.pi + np.linspace(0, np.pi, 8)
    start = np.stack([x0 + r0 * np.cos(a), y0 + r0 * np.sin(a)], -1)
    end = np.stack([x1 + r1 * np.cos(b), y1 + r1 * np.sin(b)], -1)
    return np.concatenate([start, end])


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> np.ndarray:
    """Outline of a rectangle with corners rounded by ``corner``."""
    corner = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    if corner <= 0:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    quarter = np.linspace(0, np.pi / 2, 5)
    near, far = (x0 + corner, y0 + corner), (x1 - corner, y1 - corner)
    centres = (far, (near[0], far[1]), near, (far[0], near[1]))
    return np.concatenate(
        [
            np.stack([cx + corner * np.cos(quarter + k * np.pi / 2), cy + corner * np.sin(quarter + k * np.pi / 2)], -1)
            for k, (cx, cy) in enumerate(centres)
        ]
    )


def smooth(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Closed Catmull-Rom spline through ``points`` (n, 2) -> outline (n * steps, 2)."""
    before, after, beyond = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (before, points, after, beyond))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return curve.reshape(-1, 2)


def regular(n: int, turn: float = -np.pi / 2) -> np.ndarray:
    a = turn + np.arange(n) * (TAU / n)
    return np.stack([np.cos(a), np.sin(a)], -1)


def _one(*outlines: np.ndarray) -> Silhouette:
    return (Part(tuple(outlines)),)


def circle(rng: np.random.Generator) -> Silhouette:
    return _one(ellipse())


def oval(rng: np.random.Generator) -> Silhouette:
    return _one(ellipse(rx=1.0, ry=rng.uniform(0.4, 0.72)))


def square(rng: np.random.Generator) -> Silhouette:
    return _one(box(-0.8, -0.8, 0.8, 0.8, rng.choice((0.0, 0.15, 0.3))))


def rectangle(rng: np.random.Generator) -> Silhouette:
    half = rng.uniform(0.35, 0.65)
    return _one(box(-1, -half, 1, half, rng.choice((0.0, 0.1, 0.25))))


def triangle(rng: np.random.Generator) -> Silhouette:
    return _one(regular(3) + rng.uniform(-0.2, 0.2, (3, 2)))


def hexagon(rng: np.random.Generator) -> Silhouette:
    return _one(regular(6))


def polygon(rng: np.random.Generator) -> Silhouette:
    n = int(rng.integers(5, 9))
    a = (np.arange(n) + rng.uniform(-0.35, 0.35, n)) * (TAU / n)
    return _one(np.stack([np.cos(a), np.sin(a)], -1) * rng.uniform(0.55, 1.0, (n, 1)))


def star(rng: np.random.Generator) -> Silhouette:
    n = int(rng.integers(5, 8))
    points = regular(2 * n)
    points[1::2] *= rng.uniform(0.4, 0.55)
    return _one(points)


def ring(rng: np.random.Generator) -> Silhouette:
    inner = rng.uniform(0.45, 0.75)
    return _one(ellipse(), ellipse(rx=inner))


def frame(rng: np.random.Generator) -> Silhouette:
    half, width = rng.uniform(0.6, 1.0), rng.uniform(0.18, 0.32)
    return _one(box(-1, -half, 1, half), box(-1 + width, -half + width, 1 - width, half - width))


def cross(rng: np.random.Generator) -> Silhouette:
    w = rng.uniform(0.2, 0.36)
    return (Part((box(-1, -w, 1, w),)), Part((box(-w, -1, w, 1),)))


def heart(rng: np.random.Generator) -> Silhouette:
    t = np.linspace(0, TAU, 40, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return _one(np.stack([16 * np.sin(t) ** 3, y], -1) / 17.0)


def arrow(rng: np.random.Generator) -> Silhouette:
    w, neck = rng.uniform(0.14, 0.26), rng.uniform(-0.1, 0.3)
    return _one(np.array([(-1, -w), (neck, -w), (neck, -0.6), (1, 0), (neck, 0.6), (neck, w), (-1, w)]))


def crescent(rng: np.random.Generator) -> Silhouette:
    outer = np.linspace(0.5, TAU - 0.5, 24)
    tip = np.sin(0.5)
    bow = np.linspace(-1, 1, 16)
    inner = np.stack([np.cos(0.5) - rng.uniform(0.9, 1.4) * (1 - bow**2), tip * bow], -1)
    return _one(np.concatenate([np.stack([np.cos(outer), np.sin(outer)], -1), inner[1:-1]]))


def rod(rng: np.random.Generator) -> Silhouette:
    r = rng.uniform(0.05, 0.14)
    return _one(capsule(-1 + r, 0, 1 - r, 0, r, r * rng.uniform(0.5, 1.0)))


def blob(rng: np.random.Generator) -> Silhouette:
    n = int(rng.integers(5, 11))
    radius = np.clip(rng.normal(0.75, 0.22, (n, 1)), 0.3, 1.1)
    return _one(smooth(regular(n) * radius))


def worm(rng: np.random.Generator) -> Silhouette:
    x = np.linspace(-1, 1, 14)
    y = rng.uniform(0.2, 0.45) * np.sin(x * rng.uniform(2.5, 5.0) + rng.uniform(0, TAU))
    width = rng.uniform(0.08, 0.18) * np.sqrt(np.clip(1.05 - x**2, 0, 1))
    return _one(np.concatenate([np.stack([x, y - width], -1), np.stack([x, y + width], -1)[::-1]]))


def letter(rng: np.random.Generator) -> Silhouette:
    """Bars as in E, F, H, L, T, U, Z: unions with deep bays."""
    w = rng.uniform(0.12, 0.2)
    bars = {
        "l": (-0.6, -1, -0.6, 1), "r": (0.6, -1, 0.6, 1), "c": (0, -1, 0, 1), "t": (-0.6, -1, 0.6, -1),
        "m": (-0.6, 0, 0.6, 0), "b": (-0.6, 1, 0.6, 1), "z": (0.6, -1, -0.6, 1), "n": (-0.6, -1, 0.6, 1),
    }  # fmt: skip
    word = rng.choice(("ltmb", "ltm", "lrm", "lb", "ct", "lrb", "tzb", "lrn", "lrt", "zn"))
    return tuple(Part((capsule(*(0.85 * v for v in bars[k]), w),)) for k in str(word))


def person(rng: np.random.Generator) -> Silhouette:
    w = rng.uniform(0.11, 0.17)
    lean, step, lift = rng.uniform(-0.12, 0.12), rng.uniform(0.08, 0.32), rng.uniform(-0.3, 0.9, 2)
    hip, neck = (0.0, 0.12), (lean, -0.48)
    arms = []
    for side, up in zip((-1, 1), lift, strict=True):
        hand = (neck[0] + side * (0.22 + 0.25 * abs(up)), neck[1] + 0.55 - 0.75 * max(up, 0))
        arms.append(Part((capsule(neck[0] + side * 0.14, neck[1] + 0.08, *hand, w * 0.6, w * 0.45),), 0, 0.3, neck))
    legs = [
        Part((capsule(side * 0.08, hip[1], side * step, 0.95, w * 0.85, w * 0.55),), 1, 0.3 * side, hip)
        for side in (-1, 1)
    ]
    torso = Part((capsule(*neck, *hip, w * 1.6, w * 1.3),), 0)
    head = Part((ellipse(lean, -0.8, 0.16, 0.2),), 2)
    return (*legs, arms[0], torso, head, arms[1])


def animal(rng: np.random.Generator) -> Silhouette:
    """Four legs, a body, a neck with a head, a tail; from mouse to giraffe."""
    thick, leg, neck = rng.uniform(0.2, 0.34), rng.uniform(0.3, 0.75), rng.uniform(0.1, 0.7)
    w = rng.uniform(0.06, 0.12)
    back, front = -0.5, 0.42
    head = (front + 0.15 + 0.3 * neck, -0.15 - neck)
    legs = [
        Part((capsule(x, 0.1, x + rng.uniform(-0.12, 0.12), 0.1 + leg, w * 1.3, w * 0.8),), 0, 0.35 * side, (x, 0.1))
        for x, side in ((back, 1), (back + 0.18, -1), (front - 0.15, 1), (front, -1))
    ]
    ear = Part((np.array([(head[0] - 0.12, head[1]), (head[0] - 0.05, head[1] - 0.3), (head[0] + 0.04, head[1])]),), 1)
    return (
        Part((capsule(back - 0.05, -0.05, back - 0.4, rng.uniform(-0.5, 0.2), w, w * 0.4),), 0, 0.5, (back, 0)),
        *legs,
        Part((capsule(back, 0, front, 0, thick, thick * rng.uniform(0.8, 1.1)),)),
        Part((capsule(front, -0.05, *head, thick * 0.6, thick * 0.45),)),
        ear,
        Part((capsule(*head, head[0] + 0.22, head[1] + 0.08, thick * 0.5, thick * 0.3),)),
    )


def fish(rng: np.random.Generator) -> Silhouette:
    ry = rng.uniform(0.28, 0.48)
    tail = np.array([(-0.5, 0), (-1, -0.42), (-0.86, 0), (-1, 0.42)])
    fin = np.array([(-0.25, -ry * 0.8), (0.0, -ry - 0.25), (0.3, -ry * 0.8)])
    return (
        Part((tail,), 1, 0.4, (-0.5, 0)),
        Part((fin,), 1),
        Part((ellipse(0.2, 0, 0.78, ry),)),
        Part((ellipse(0.65, -ry * 0.25, 0.07),), 2),
    )


def bird(rng: np.random.Generator) -> Silhouette:
    up = rng.uniform(0.3, 0.9)
    feathers = [
        np.array([(0.15, -0.05), (-0.1 + s * 0.2, -up), (-0.5 + s * 0.3, -up * 0.8), (-0.3, 0.05)]) for s in (0, 1)
    ]
    wings = [Part((smooth(points),), 1, 0.5, (0, 0)) for points in feathers]
    return (
        wings[0],
        Part((np.array([(-0.45, 0), (-1, -0.14), (-0.95, 0.16)]),)),
        Part((ellipse(0, 0.05, 0.6, 0.24),)),
        Part((ellipse(0.58, -0.12, 0.2),)),
        Part((np.array([(0.74, -0.2), (1.0, -0.1), (0.74, -0.04)]),), 2),
        wings[1],
    )


def tree(rng: np.random.Generator) -> Silhouette:
    trunk = Part((box(-0.09, 0.1, 0.09, 1),), 1)
    if rng.random() < 0.4:
        tiers = [(0.75 - k * 0.15, 0.5 - k * 0.45, -0.2 - k * 0.4) for k in range(3)]
        return (trunk, *(Part((np.array([(-half, low), (half, low), (0, top)]),)) for half, low, top in tiers))
    n = int(rng.integers(7, 11))
    return (trunk, Part((smooth(regular(n) * rng.uniform(0.5, 0.8, (n, 1)) + (0, -0.35)),)))


def house(rng: np.random.Generator) -> Silhouette:
    wide = rng.uniform(0.6, 0.9)
    roof = np.array([(-wide - 0.12, -0.1), (0, -0.95), (wide + 0.12, -0.1)])
    windows = tuple(Part((box(x - 0.13, 0.15, x + 0.13, 0.42),), 2) for x in (-0.4, 0.4))
    door = Part((box(-0.12, 0.45, 0.14, 0.95),), 1)
    return (Part((box(-wide, -0.15, wide, 0.95),)), Part((roof,), 1), door, *windows)


def car(rng: np.random.Generator) -> Silhouette:
    cabin = np.array([(-0.55, -0.1), (-0.35, -0.5), (0.3, -0.5), (0.6, -0.1)]) * (1, rng.uniform(0.8, 1.3))
    glass = cabin * (0.8, 0.8) + (0, -0.04)
    wheels = tuple(Part((ellipse(x, 0.34, 0.2),), 2) for x in (-0.55, 0.55))
    return (Part((cabin,)), Part((glass,), 1), Part((box(-1, -0.14, 1, 0.32, 0.12),)), *wheels)


def flower(rng: np.random.Generator) -> Silhouette:
    n = int(rng.integers(5, 9))
    petals = tuple(
        Part((ellipse(0.58 * np.cos(a), -0.25 + 0.58 * np.sin(a), 0.36, 0.24, a),)) for a in np.arange(n) * TAU / n
    )
    stem = () if rng.random() < 0.5 else (Part((capsule(0, 0, rng.uniform(-0.2, 0.2), 1.3, 0.05),), 2),)
    return (*stem, *petals, Part((ellipse(0, -0.25, 0.26),), 1))


def leaf(rng: np.random.Generator) -> Silhouette:
    t = np.linspace(-1, 1, 14)
    width = rng.uniform(0.3, 0.5) * (1 - t**2) * (1 - 0.35 * t)
    bend = rng.uniform(-0.3, 0.3) * (1 - t**2)
    return _one(np.concatenate([np.stack([t, bend - width], -1), np.stack([t, bend + width], -1)[::-1]]))


def mushroom(rng: np.random.Generator) -> Silhouette:
    a = np.linspace(np.pi, TAU, 18)
    cap = np.stack([np.cos(a), rng.uniform(0.6, 0.95) * np.sin(a)], -1)
    cap = np.concatenate([cap, [(0.7, 0.18), (-0.7, 0.18)]])
    return (Part((capsule(0, -0.1, 0, 0.85, 0.2, 0.28),), 1), Part((cap,)))


def bottle(rng: np.random.Generator) -> Silhouette:
    wide, neck, shoulder = rng.uniform(0.26, 0.4), rng.uniform(0.08, 0.14), rng.uniform(-0.4, -0.1)
    right = np.array([(neck, -0.98), (neck, -0.6), (wide, shoulder), (wide, 0.92), (wide - 0.06, 1.0)])
    return (
        Part((np.concatenate([right, (right * (-1, 1))[::-1]]),)),
        Part((box(-wide, shoulder + 0.2, wide, 0.65),), 1),
        Part((box(-neck - 0.03, -1.02, neck + 0.03, -0.85),), 2),
    )


def cup(rng: np.random.Generator) -> Silhouette:
    taper = rng.uniform(0.4, 0.6)
    handle = Part((ellipse(0.6, 0, 0.36, 0.42), ellipse(0.6, 0, 0.22, 0.28)))
    body = np.array([(-0.65, -0.7), (0.6, -0.7), (taper, 0.75), (-taper - 0.05, 0.75)])
    return (handle, Part((body,)), Part((ellipse(-0.02, -0.7, 0.62, 0.12),), 1))


def gadget(rng: np.random.Generator) -> Silhouette:
    """Two to four overlapping pieces in different tones: inner edges stronger than the outline."""
    parts = []
    for k in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(-0.45, 0.45, 2) if k else (0.0, 0.0)
        a, b = rng.uniform(0.25, 0.6, 2)
        kind = rng.random()
        if kind < 0.4:
            outline = ellipse(x, y, a, b, rng.uniform(0, TAU))
        elif kind < 0.75:
            outline = box(x - a, y - b, x + a, y + b, rng.choice((0.0, 0.12)))
        else:
            outline = capsule(x, y, *rng.uniform(-0.8, 0.8, 2), 0.4 * a, 0.3 * b)
        parts.append(Part((outline,), int(k % 3)))
    return tuple(parts)


def markings(rng: np.random.Generator) -> Silhouette:
    """One to three patches or bands in the other tones, to be put on any silhouette."""
    found = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.6, 0.6, 2)
        if rng.random() < 0.5:
            outline = ellipse(x, y, *rng.uniform(0.12, 0.5, 2), rng.uniform(0, TAU))
        else:
            angle, half = rng.uniform(0, TAU), rng.uniform(0.06, 0.3)
            c, s = np.cos(angle), np.sin(angle)
            outline = box(-2, -half, 2, half) @ np.array([[c, s], [-s, c]]) + (x, y)
        found.append(Part((outline,), int(rng.integers(1, 3)), marking=True))
    return tuple(found)


SILHOUETTES: dict[str, Callable[[np.random.Generator], Silhouette]] = {
    "circle": circle, "oval": oval, "square": square, "rectangle": rectangle, "triangle": triangle,
    "hexagon": hexagon, "polygon": polygon, "star": star, "ring": ring, "frame": frame, "cross": cross,
    "heart": heart, "arrow": arrow, "crescent": crescent, "rod": rod, "blob": blob, "worm": worm,
    "letter": letter, "person": person, "animal": animal, "fish": fish, "bird": bird, "tree": tree,
    "house": house, "car": car, "flower": flower, "leaf": leaf, "mushroom": mushroom, "bottle": bottle, "cup": cup,
    "gadget": gadget,
}  # fmt: skip

UPRIGHT = frozenset({"person", "animal", "tree", "house", "car", "flower", "mushroom", "bottle", "cup", "letter"})
"""Shapes that stand: they are tilted a little, never turned upside down."""

CONFUSABLE: dict[str, frozenset[str]] = {
    "circle": frozenset({"oval", "blob", "polygon", "hexagon", "ring"}),
    "oval": frozenset({"circle", "blob", "polygon", "leaf"}),
    "square": frozenset({"rectangle", "polygon", "frame"}),
    "rectangle": frozenset({"square", "polygon", "rod", "frame"}),
    "triangle": frozenset({"polygon"}),
    "hexagon": frozenset({"circle", "polygon"}),
    "polygon": frozenset({"circle", "oval", "square", "rectangle", "triangle", "hexagon", "blob"}),
    "star": frozenset({"flower"}),
    "flower": frozenset({"star"}),
    "ring": frozenset({"circle", "frame"}),
    "frame": frozenset({"ring", "square", "rectangle"}),
    "rod": frozenset({"rectangle", "worm", "letter"}),
    "worm": frozenset({"rod", "leaf"}),
    "leaf": frozenset({"oval", "worm"}),
    "blob": frozenset({"circle", "oval", "polygon"}),
    "letter": frozenset({"cross", "rod"}),
    "cross": frozenset({"letter"}),
}
"""What a person could also call by the name: an expression must not rest on telling these apart."""
