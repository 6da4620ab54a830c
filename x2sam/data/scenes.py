"""Generated pictures and clips with names, colours, places and exact masks.

:func:`generate_picture` and :func:`generate_clip` plan a scene (backdrop, objects, light, camera) from a random
generator and draw it; the same generator state gives the same bytes. Nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from x2sam.data.colours import COLOUR_NAMES
from x2sam.data.describe import ENOUGH_PIXELS, colour_shares, names_present
from x2sam.data.masks import drop_small, label_centres
from x2sam.data.phrases import Described, describe_objects
from x2sam.data.scene_backdrops import draw_backdrop
from x2sam.data.scene_plan import Plan, Setting, draw_plans
from x2sam.data.scene_render import UNIT_REACH, Actor, Lens, Scene, lighting, render
from x2sam.data.scene_shapes import CONFUSABLE, SILHOUETTES, UPRIGHT, markings
from x2sam.structures import Sample

Size = tuple[int, int]


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


def _draw_actor(rng: np.random.Generator, number: int, plan: Plan, size: Size, frames: int) -> Actor:
    side = float(max(size))
    radius = plan.radius * side
    texels = int(np.clip(2 * UNIT_REACH * radius, 24, 220))
    if plan.shape in UPRIGHT:
        angle, stretch = rng.normal(0, 0.15), (rng.choice((-1.0, 1.0)) * rng.uniform(0.75, 1.25), 1.0)
    else:
        angle, stretch = rng.uniform(0, 2 * np.pi), (1.0, rng.uniform(0.85, 1.0))
    silhouette = SILHOUETTES[plan.shape](rng)
    if rng.random() < 0.25:
        silhouette += markings(rng)
    return Actor(
        id=number,
        silhouette=silhouette,
        surface=plan.look.surface(rng, texels),
        ramps=plan.look.ramps,
        position=rng.uniform(0.02, 0.98, 2) * (size[1], size[0]) if plan.place is None else np.asarray(plan.place),
        radius=radius,
        stretch=stretch,
        angle=angle,
        shade=tuple(rng.normal(0, 0.13, 2)),
        shadow=rng.uniform(0.2, 0.6) if rng.random() < 0.45 else 0.0,
        softness=rng.uniform(0.3, 1.6) if rng.random() < 0.35 else 0.0,
        **_draw_motion(rng, size, frames),
    )


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
    noisy = rng.random() < 0.55
    return Lens(
        blur=rng.uniform(0.3, 1.3) if rng.random() < 0.4 else 0.0,
        noise=rng.gamma(1.5, 2.2) if noisy else 0.0,
        chroma=rng.gamma(2.0, 1.5) if noisy and rng.random() < 0.4 else 0.0,
        quality=int(rng.integers(35, 96)) if rng.random() < 0.5 else 0,
        tint=tuple(rng.normal(1.0, 0.025, 3)),
        gamma=float(np.exp(rng.normal(0, 0.12))),
    )


_SHOWS_COLOUR = 0.3
_SHOWS_PATTERN = 18.0


@dataclass(frozen=True, eq=False)
class _Shown:
    """What one frame shows: areas (256,), centres (256, 2), looked-at pixels (256,) and shares of colours (256, 11)."""

    areas: np.ndarray
    centres: np.ndarray
    counts: np.ndarray
    shares: np.ndarray


def _thing(actor: Actor, plan: Plan, shown: _Shown) -> Described:
    """A drawn object in words. Names that the light, the camera or its size took away are not used."""
    k, look = actor.id, plan.look
    enough = shown.counts[k] >= ENOUGH_PIXELS
    visible = enough and look.colour and shown.shares[k][COLOUR_NAMES.index(look.colour)] >= _SHOWS_COLOUR
    colours = look.colours | names_present(shown.shares[k]) if enough and look.colours is not None else None
    word = look.word if actor.radius >= _SHOWS_PATTERN else None
    if word == "plain" and len({part.tone for part in actor.silhouette}) > 1:
        word = None
    return Described(
        id=k,
        category=plan.shape,
        area=float(shown.areas[k]),
        centre=(float(shown.centres[k][0]), float(shown.centres[k][1])),
        also=CONFUSABLE.get(plan.shape, frozenset()),
        colours=colours,
        colour=look.colour if visible else None,
        pattern=word,
    )


def _region(k: int, name: str, shown: _Shown) -> Described:
    centre = (float(shown.centres[k][0]), float(shown.centres[k][1]))
    return Described(k, name, float(shown.areas[k]), centre, colours=None, thing=False)


def _describe(scene: Scene, plans: list[Plan], names: tuple[str, ...], sample: Sample, rng: np.random.Generator):
    """Objects with expressions that hold in the first frame they are seen and among all objects of the clip."""
    shown = [
        _Shown(*label_centres(labels), *colour_shares(frame, labels))
        for frame, labels in zip(sample.frames, sample.labels, strict=True)
    ]
    first = {}
    for t, frame in enumerate(shown):
        for k in np.flatnonzero(frame.areas[1:255]) + 1:
            first.setdefault(int(k), t)

    def known(k: int, t: int) -> Described:
        frame = shown[t] if shown[t].areas[k] else shown[first[k]]
        if k > len(plans):
            return _region(k, names[k - len(plans) - 1], frame)
        return _thing(scene.actors[k - 1], plans[k - 1], frame)

    objects = []
    for t in sorted(set(first.values())):
        described = describe_objects([known(k, t) for k in sorted(first)], scene.size, rng, sample.complete)
        objects += [o for o in described if first[o.id] == t]
    return tuple(sorted(objects, key=lambda o: o.id))


def _generate(rng: np.random.Generator, size: Size, frames: int, photos: Sequence[np.ndarray], source: str) -> Sample:
    margin = max(size) // 8 if frames > 1 else 0
    behind = photos[int(rng.integers(len(photos)))] if len(photos) and rng.random() < 0.6 else None
    backdrop = draw_backdrop(rng, (size[0] + 2 * margin, size[1] + 2 * margin), behind)
    around = backdrop.colour[::16, ::16].reshape(-1, 3).mean(0)
    plans = draw_plans(rng, Setting(size, around, photos))
    ground = np.where(backdrop.labels > 0, backdrop.labels + np.uint8(len(plans)), 0).astype(np.uint8)
    scene = Scene(
        size=size,
        backdrop=backdrop.colour,
        ground=ground,
        origin=(-margin, -margin),
        light=lighting(rng, size),
        actors=tuple(_draw_actor(rng, k, plan, size, frames) for k, plan in enumerate(plans, 1)),
        camera=_draw_camera(rng, size, frames),
        sun=tuple(rng.normal(0, 0.8, 2)),
        lens=_draw_lens(rng),
        exposure=rng.uniform(0.0, 0.6) if frames > 1 else 0.0,
    )
    pictures, labels = render(scene, rng)
    # A photograph behind the objects shows things that nobody outlined.
    sample = Sample(pictures, labels, (), complete=behind is None, source=source)
    objects = _describe(scene, plans, backdrop.names, sample, rng)
    labels, kept = drop_small(labels, [o.id for o in objects])
    return replace(sample, labels=labels, objects=tuple(o for o in objects if o.id in set(kept)))


def generate_picture(rng: np.random.Generator, size: Size = (320, 320), photos: Sequence[np.ndarray] = ()) -> Sample:
    """One generated picture: frames (1, H, W, 3), labels (1, H, W) of the visible parts, objects with expressions.

    Objects with fewer than 24 visible pixels are dropped and their pixels ignored. ``thing`` is False for the
    regions of the backdrop (sky, grass, wall, ...); backdrops without a name stay unlabelled.

    photos: pictures uint8 (h, w, 3) RGB to take backdrops and surfaces from; where one is the backdrop, ``complete``
    is False. Without photos every sample is complete.
    """
    return _generate(rng, size, 1, photos, "scenes")


def generate_clip(
    rng: np.random.Generator, frames: int = 4, size: Size = (320, 320), photos: Sequence[np.ndarray] = ()
) -> Sample:
    """A generated clip (T, H, W, 3) with moving camera and objects, occlusion, exits and returns.

    Ids stay the same over all frames; an object can be absent from some of them, the first included. ``photos`` as in
    :func:`generate_picture`.
    """
    return _generate(rng, size, frames, photos, "scene_clips")
