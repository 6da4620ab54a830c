"""What is in a generated scene before it is drawn: which objects, how they look, where and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.data.colours import COLOUR_NAMES, draw_colour, draw_natural
from x2sam.data.scene_backdrops import photo_window
from x2sam.data.scene_shapes import SILHOUETTES
from x2sam.data.textures import PATTERNS, colour_ramp

Size = tuple[int, int]
_SURFACES = tuple(PATTERNS)
_SURFACE_WEIGHTS = np.array([0.2 if k == "flat" else 0.16 if k in ("gradient", "cloudy") else 0.06 for k in PATTERNS])
_SURFACE_WEIGHTS = _SURFACE_WEIGHTS / _SURFACE_WEIGHTS.sum()


@dataclass(frozen=True, eq=False)
class Look:
    """How an object looks, in drawing terms (pattern, ramps or a photo) and in words (colour, pattern's word).

    colours: names that may fit some of it; None when any could
    """

    pattern: str
    ramps: tuple[np.ndarray, ...]
    photo: np.ndarray | None = None
    word: str | None = None
    colour: str | None = None
    colours: frozenset[str] | None = None

    def surface(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """A fresh surface uint8 (side, side), or (side, side, 3) from the photo."""
        if self.photo is not None:
            return photo_window(rng, self.photo, (side, side))
        return PATTERNS[self.pattern][0](rng, (side, side))


@dataclass(frozen=True, eq=False)
class Plan:
    """One object: radius relative to the picture's long side, place in pixels or None for anywhere."""

    shape: str
    look: Look
    radius: float
    place: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Setting:
    """Where objects go: size (H, W), mean RGB (3,) of the backdrop, photographs uint8 (h, w, 3) for surfaces."""

    size: Size
    around: np.ndarray
    photos: Sequence[np.ndarray] = ()


def _shade_of(rng: np.random.Generator, colour: np.ndarray, spread: float) -> np.ndarray:
    return np.clip(colour * (1.0 + rng.uniform(-spread, spread)), 0, 255)


def _named_look(rng: np.random.Generator, pattern: str) -> Look:
    name, second, third = (str(c) for c in rng.choice(COLOUR_NAMES, 3, replace=False))
    main = draw_colour(rng, name)
    contrasting = PATTERNS[pattern][1] not in (None, "plain")
    other = draw_colour(rng, second) if contrasting else _shade_of(rng, main, 0.2)
    ramps = [colour_ramp([main, main] if pattern == "flat" else [main, other])]
    for tone in (second, third):
        paint = draw_colour(rng, tone)
        ramps.append(colour_ramp([_shade_of(rng, paint, 0.1), paint]))
    return Look(pattern, tuple(ramps), None, PATTERNS[pattern][1], name, frozenset({name, second, third}))


def _natural_look(rng: np.random.Generator, pattern: str, around: np.ndarray) -> Look:
    """Muted colours without a name, one time in three close to those ``around``, so that the object hardly shows."""
    hidden = rng.random() < 0.33
    main = np.clip(around + rng.normal(0, 22, 3), 0, 255) if hidden else draw_natural(rng)
    other = _shade_of(rng, main, 0.6) if rng.random() < 0.6 else draw_natural(rng)
    ramps = [colour_ramp([main, main] if pattern == "flat" else [main, other])]
    ramps += [colour_ramp([_shade_of(rng, tone, 0.2), tone]) for tone in (draw_natural(rng), draw_natural(rng))]
    return Look(pattern, tuple(ramps), None, PATTERNS[pattern][1])


def draw_look(rng: np.random.Generator, setting: Setting) -> Look:
    """Surface and colours of one object."""
    if len(setting.photos) and rng.random() < 0.5:
        return Look("photo", (), setting.photos[int(rng.integers(len(setting.photos)))])
    pattern = str(rng.choice(_SURFACES, p=_SURFACE_WEIGHTS))
    if rng.random() < 0.55:
        return _named_look(rng, pattern)
    return _natural_look(rng, pattern, setting.around)


def _plan_varied(rng: np.random.Generator, setting: Setting) -> list[Plan]:
    count = int(rng.integers(2, 9))
    radii = np.exp(rng.uniform(np.log(0.045), np.log(0.36), count))
    shapes = rng.choice(tuple(SILHOUETTES), count)
    # Two of a kind are what order and colour words are for.
    if count > 2 and rng.random() < 0.5:
        shapes[1] = shapes[0]
    order = np.argsort(-radii * rng.uniform(0.5, 1.5, count))
    return [Plan(str(shapes[k]), draw_look(rng, setting), float(radii[k])) for k in order]


def _plan_crowd(rng: np.random.Generator, setting: Setting) -> list[Plan]:
    """Many alike, touching: only position and edges tell them apart."""
    shape, look = str(rng.choice(tuple(SILHOUETTES))), draw_look(rng, setting)
    centre, spread = rng.uniform(0.3, 0.7, 2), rng.uniform(0.12, 0.3)
    base = rng.uniform(0.05, 0.14)
    plans: list[Plan] = []
    for _ in range(int(rng.integers(4, 13))):
        place = (centre + rng.normal(0, spread, 2)) * setting.size[::-1]
        own = look if rng.random() < 0.8 else draw_look(rng, setting)
        plans.append(Plan(shape, own, base * rng.uniform(0.8, 1.2), tuple(place)))
    return plans


def _plan_close(rng: np.random.Generator, setting: Setting) -> list[Plan]:
    """One or two that fill the picture or are cut by its border, with small ones before them."""
    plans: list[Plan] = []
    for _ in range(int(rng.integers(1, 3))):
        shape = str(rng.choice(tuple(SILHOUETTES)))
        place = rng.uniform(0.15, 0.85, 2) * setting.size[::-1]
        plans.append(Plan(shape, draw_look(rng, setting), rng.uniform(0.28, 0.55), tuple(place)))
    for _ in range(int(rng.integers(1, 5))):
        plans.append(Plan(str(rng.choice(tuple(SILHOUETTES))), draw_look(rng, setting), rng.uniform(0.04, 0.15)))
    return plans


_LAYOUTS = ((0.62, _plan_varied), (0.82, _plan_crowd), (1.0, _plan_close))


def draw_plans(rng: np.random.Generator, setting: Setting) -> list[Plan]:
    """The objects of a scene, farthest first: 2 to 8 different ones, or a crowd of up to 12 of a kind."""
    pick = rng.random()
    return next(layout for limit, layout in _LAYOUTS if pick < limit)(rng, setting)
