"""Generated pictures and clips with names, colours, places and exact masks.

:func:`generate_picture` and :func:`generate_clip` plan a scene (backdrop, objects, light, camera) from a random
generator and draw it; the same generator state gives the same bytes. Nothing is read from disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam.data.colours import COLOUR_NAMES, draw_colour, draw_natural
from x2sam.data.masks import drop_small, label_centres
from x2sam.data.phrases import Described, describe_objects
from x2sam.data.scene_backdrops import Backdrop, draw_backdrop
from x2sam.data.scene_render import UNIT_REACH, Actor, Lens, Scene, lighting, render
from x2sam.data.scene_shapes import CONFUSABLE, SILHOUETTES, UPRIGHT
from x2sam.data.textures import PATTERNS, colour_ramp
from x2sam.structures import Sample

Size = tuple[int, int]
_SURFACES = tuple(PATTERNS)
_SURFACE_WEIGHTS = np.array([0.2 if k == "flat" else 0.16 if k in ("gradient", "cloudy") else 0.06 for k in PATTERNS])
_SURFACE_WEIGHTS = _SURFACE_WEIGHTS / _SURFACE_WEIGHTS.sum()


@dataclass(frozen=True)
class _Look:
    """How an object looks, in drawing terms (ramps) and in words (colour names, pattern)."""

    pattern: str
    ramps: tuple[np.ndarray, ...]
    colour: str | None
    colours: frozenset[str] | None


def _shade_of(rng: np.random.Generator, colour: np.ndarray, spread: float = 0.3) -> np.ndarray:
    return np.clip(colour * (1.0 + rng.uniform(-spread, spread)), 0, 255)


def _draw_look(rng: np.random.Generator, around: np.ndarray) -> _Look:
    """Surface and colours of one object; ``around`` is the backdrop's mean RGB, for objects that hardly stand out."""
    pattern = str(rng.choice(_SURFACES, p=_SURFACE_WEIGHTS))
    second = str(rng.choice(COLOUR_NAMES))
    tones = [second, str(rng.choice(COLOUR_NAMES))]
    kind = rng.random()
    if kind < 0.55:
        name = str(rng.choice(COLOUR_NAMES))
        main = draw_colour(rng, name)
        contrasting = PATTERNS[pattern][1] not in (None, "plain")
        other = draw_colour(rng, second) if contrasting and second != name else _shade_of(rng, main, 0.2)
        colours = frozenset({name, *tones})
    else:
        name, colours = None, None
        main = draw_natural(rng) if kind < 0.85 else np.clip(around + rng.normal(0, 22, 3), 0, 255)
        other = _shade_of(rng, main, 0.6) if rng.random() < 0.6 else draw_natural(rng)
    ramps = [colour_ramp([main, main] if pattern == "flat" else [main, other])]
    for tone in tones:
        paint = draw_colour(rng, tone) if name else draw_natural(rng)
        ramps.append(colour_ramp([_shade_of(rng, paint, 0.1), paint]))
    return _Look(pattern, tuple(ramps), name, colours)


def _draw_motion(rng: np.random.Generator, size: Size, frames: int) -> dict:
    """Keyword arguments of :class:`Actor` for a moving object; empty for a single picture."""
    if frames == 1:
        return {}
    side = float(max(size))
    kind = rng.random()
    motion = {
        "velocity": rng.normal(0, 0.004 if kind < 0.25 else 0.03, 2) * side,
        "spin": rng.normal(0, 0.02 if kind < 0.5 else 0.15),
        "growth": rng.normal(0, 0.03),
        "wobble": float(max(0.0, rng.normal(0, 0.06))),
        "pace": rng.uniform(0.5, 1.6),
        "phase": rng.uniform(0, 6.28),
    }
    if kind > 0.85:
        # Leaves the picture, or hides behind something, and comes back.
        motion["sway"] = rng.normal(0, 0.35, 2) * side
        motion["sway_rate"] = rng.uniform(0.8, 1.6) * np.pi / frames
    return motion


def _draw_actor(rng: np.random.Generator, number: int, plan: _Plan, size: Size, frames: int) -> Actor:
    side = float(max(size))
    radius = plan.radius * side
    texels = int(np.clip(2 * UNIT_REACH * radius, 24, 220))
    if plan.shape in UPRIGHT:
        angle, stretch = rng.normal(0, 0.15), (rng.choice((-1.0, 1.0)) * rng.uniform(0.75, 1.25), 1.0)
    else:
        angle, stretch = rng.uniform(0, 2 * np.pi), (1.0, rng.uniform(0.85, 1.0))
    return Actor(
        id=number,
        silhouette=SILHOUETTES[plan.shape](rng),
        surface=PATTERNS[plan.look.pattern][0](rng, (texels, texels)),
        ramps=plan.look.ramps,
        position=rng.uniform(-0.04, 1.04, 2) * (size[1], size[0]) if plan.place is None else np.asarray(plan.place),
        radius=radius,
        stretch=stretch,
        angle=angle,
        shade=tuple(rng.normal(0, 0.13, 2)),
        shadow=rng.uniform(0.2, 0.6) if rng.random() < 0.45 else 0.0,
        softness=rng.uniform(0.3, 1.6) if rng.random() < 0.35 else 0.0,
        **_draw_motion(rng, size, frames),
    )


@dataclass(frozen=True)
class _Plan:
    """One object before it is drawn: radius relative to the long side, place in pixels or None for anywhere."""

    shape: str
    look: _Look
    radius: float
    place: tuple[float, float] | None = None


def _plan_varied(rng: np.random.Generator, size: Size, around: np.ndarray) -> list[_Plan]:
    count = int(rng.integers(2, 9))
    radii = np.exp(rng.uniform(np.log(0.035), np.log(0.3), count))
    shapes = rng.choice(tuple(SILHOUETTES), count)
    # Two of a kind are what order and colour words are for.
    if count > 2 and rng.random() < 0.5:
        shapes[1] = shapes[0]
    order = np.argsort(-radii * rng.uniform(0.5, 1.5, count))
    return [_Plan(str(shapes[k]), _draw_look(rng, around), float(radii[k])) for k in order]


def _plan_crowd(rng: np.random.Generator, size: Size, around: np.ndarray) -> list[_Plan]:
    """Many alike, touching: only position and edges tell them apart."""
    shape, look = str(rng.choice(tuple(SILHOUETTES))), _draw_look(rng, around)
    centre, spread = rng.uniform(0.3, 0.7, 2), rng.uniform(0.12, 0.3)
    base = rng.uniform(0.05, 0.14)
    plans = []
    for _ in range(int(rng.integers(4, 13))):
        place = (centre + rng.normal(0, spread, 2)) * (size[1], size[0])
        own = look if rng.random() < 0.8 else _draw_look(rng, around)
        plans.append(_Plan(shape, own, base * rng.uniform(0.8, 1.2), tuple(place)))
    return plans


def _plan_close(rng: np.random.Generator, size: Size, around: np.ndarray) -> list[_Plan]:
    """One or two that fill the picture or are cut by its border, with small ones before them."""
    plans = []
    for _ in range(int(rng.integers(1, 3))):
        shape = str(rng.choice(tuple(SILHOUETTES)))
        place = rng.uniform(0.15, 0.85, 2) * (size[1], size[0])
        plans.append(_Plan(shape, _draw_look(rng, around), rng.uniform(0.28, 0.55), tuple(place)))
    for _ in range(int(rng.integers(1, 5))):
        plans.append(_Plan(str(rng.choice(tuple(SILHOUETTES))), _draw_look(rng, around), rng.uniform(0.04, 0.15)))
    return plans


_LAYOUTS = ((0.62, _plan_varied), (0.82, _plan_crowd), (1.0, _plan_close))


def _draw_camera(rng: np.random.Generator, size: Size, frames: int) -> tuple[np.ndarray, ...]:
    """Per frame, scene pixels -> frame pixels (2, 3); the first is the identity."""
    if frames == 1 or rng.random() < 0.35:
        return (np.eye(2, 3),) * frames
    centre = np.array([size[1] / 2, size[0] / 2])
    pan, zoom, turn = rng.normal(0, 0.012, 2) * max(size), rng.normal(0, 0.015), rng.normal(0, 0.012)
    shake = rng.normal(0, rng.choice((0.0, 0.006)), (frames, 2)) * max(size)
    views = []
    for t in range(frames):
        c, s, k = np.cos(turn * t), np.sin(turn * t), np.exp(zoom * t)
        linear = k * np.array([[c, -s], [s, c]])
        moved = centre + pan * t + (shake[t] - shake[0]) - linear @ centre
        views.append(np.concatenate([linear, moved[:, None]], 1))
    return tuple(views)


def _draw_lens(rng: np.random.Generator) -> Lens:
    noisy = rng.random() < 0.7
    return Lens(
        blur=rng.uniform(0.3, 1.3) if rng.random() < 0.4 else 0.0,
        noise=rng.gamma(2.0, 2.0) if noisy else 0.0,
        chroma=rng.gamma(2.0, 1.5) if noisy and rng.random() < 0.4 else 0.0,
        quality=int(rng.integers(35, 96)) if rng.random() < 0.5 else 0,
        tint=tuple(rng.normal(1.0, 0.025, 3)),
        gamma=float(np.exp(rng.normal(0, 0.12))),
    )


def _describe(plans: list[_Plan], backdrop: Backdrop, labels: np.ndarray, seen: list[int], rng: np.random.Generator):
    """Objects with expressions that hold in the first frame they are seen and among all objects of the clip."""
    measured = [label_centres(frame) for frame in labels]
    first = {k: next(t for t, (areas, _) in enumerate(measured) if areas[k]) for k in seen}

    def known(k: int, t: int) -> Described:
        areas, centres = measured[t] if measured[t][0][k] else measured[first[k]]
        common = {"id": k, "area": float(areas[k]), "centre": (float(centres[k][0]), float(centres[k][1]))}
        if k > len(plans):
            return Described(category=backdrop.names[k - len(plans) - 1], thing=False, **common)
        plan = plans[k - 1]
        return Described(
            category=plan.shape,
            also=CONFUSABLE.get(plan.shape, frozenset()),
            colours=plan.look.colours,
            colour=plan.look.colour,
            pattern=PATTERNS[plan.look.pattern][1],
            **common,
        )

    objects = []
    for t in sorted(set(first.values())):
        items = [known(k, t) for k in seen]
        described = describe_objects(items, labels.shape[1:], rng)
        objects += [o for o in described if first[o.id] == t]
    return tuple(sorted(objects, key=lambda o: o.id))


def _generate(rng: np.random.Generator, size: Size, frames: int, source: str) -> Sample:
    camera = _draw_camera(rng, size, frames)
    moving = frames > 1
    margin = max(size) // 8 if moving else 0
    backdrop = draw_backdrop(rng, (size[0] + 2 * margin, size[1] + 2 * margin))
    around = backdrop.colour[::16, ::16].reshape(-1, 3).mean(0)
    pick = rng.random()
    layout = next(plan for limit, plan in _LAYOUTS if pick < limit)
    plans = layout(rng, size, around)
    actors = tuple(_draw_actor(rng, k, plan, size, frames) for k, plan in enumerate(plans, 1))
    ground = np.where(backdrop.labels > 0, backdrop.labels + np.uint8(len(plans)), 0).astype(np.uint8)
    scene = Scene(
        size=size,
        backdrop=backdrop.colour,
        ground=ground,
        origin=(-margin, -margin),
        light=lighting(rng, size),
        actors=actors,
        camera=camera,
        sun=tuple(rng.normal(0, 0.8, 2)),
        lens=_draw_lens(rng),
        exposure=rng.uniform(0.0, 0.6) if moving else 0.0,
    )
    pictures, labels = render(scene, rng)
    labels, seen = drop_small(labels, range(1, 1 + len(plans) + len(backdrop.names)))
    return Sample(pictures, labels, _describe(plans, backdrop, labels, seen, rng), complete=True, source=source)


def generate_picture(rng: np.random.Generator, size: Size = (320, 320)) -> Sample:
    """One generated picture: frames (1, H, W, 3), labels (1, H, W) of the visible parts, objects with expressions.

    Objects with fewer than 24 visible pixels are dropped and their pixels ignored. ``thing`` is False for the
    regions of the backdrop (sky, grass, wall, ...); backdrops without a name stay unlabelled.
    """
    return _generate(rng, size, 1, "scenes")


def generate_clip(rng: np.random.Generator, frames: int = 4, size: Size = (320, 320)) -> Sample:
    """A generated clip (T, H, W, 3) with moving camera and objects, occlusion, exits and returns.

    Ids stay the same over all frames; an object can be absent from some of them, the first included.
    """
    return _generate(rng, size, frames, "scene_clips")
