"""Variations of real pictures for training: views, colours, lens and sensor; clips made from one picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from x2sam.data.cutouts import Cutout, choose_objects, cut_out, fill_hole, free_id, lay_over, placement
from x2sam.data.describe import describe_sample
from x2sam.data.masks import IGNORE, MIN_VISIBLE, label_areas, mask_bbox, resize_labels, resize_picture
from x2sam.data.scene_render import Lens, compose, photograph
from x2sam.errors import FramesError
from x2sam.structures import Sample, SampleObject

Size = tuple[int, int]
CLOSE_ROOM = 0.15, 0.9  # beside an object that is looked at from close by, in its longer sides


def _require_frames(sample: Sample) -> None:
    if not sample.frames.size:
        raise FramesError(f"the sample {sample.source!r} has no frames; check what the reader returned")


def _crop_window(sample: Sample, rng: np.random.Generator, least: float) -> tuple[int, int, int, int]:
    """Random window x0, y0, x1, y1 around a pixel of an object of the first frame, at least ``least`` of each side."""
    h, w = sample.labels.shape[1:]
    side = rng.uniform(least, 1.0)
    cw, ch = (int(np.clip(side * rng.uniform(0.8, 1.25) * v, min(v, 16), v)) for v in (w, h))
    present = np.flatnonzero(label_areas(sample.labels[0])[1:IGNORE]) + 1
    if len(present):
        # An object first, then a pixel of it: small ones are kept as often as large ones.
        rows, cols = np.nonzero(sample.labels[0] == rng.choice(present))
        k = int(rng.integers(len(rows)))
        anchor = np.array([cols[k], rows[k]])
    else:
        anchor = np.array([rng.integers(w), rng.integers(h)])
    offset = rng.uniform(0.15, 0.85, 2) * (cw, ch)
    x0, y0 = (
        int(np.clip(a - o, 0, full - part)) for a, o, full, part in zip(anchor, offset, (w, h), (cw, ch), strict=True)
    )
    return x0, y0, x0 + cw, y0 + ch


def _close_window(sample: Sample, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """Window x0, y0, x1, y1 around one object of the first frame with some room, as a second look at it has; None where
    no object is."""
    h, w = sample.labels.shape[1:]
    present = np.flatnonzero(label_areas(sample.labels[0])[1:IGNORE] >= MIN_VISIBLE) + 1
    if not len(present):
        return None
    x0, y0, x1, y1 = mask_bbox(sample.labels[0] == rng.choice(present))
    left, top, right, bottom = rng.uniform(*CLOSE_ROOM) * max(x1 - x0, y1 - y0, 8) * rng.uniform(0.7, 1.3, 4)
    return max(0, int(x0 - left)), max(0, int(y0 - top)), min(w, int(x1 + right) + 1), min(h, int(y1 + bottom) + 1)


@dataclass(frozen=True, eq=False)
class _Tones:
    """One change of colour for all frames of a sample."""

    curve: np.ndarray
    saturation: float
    hue: int

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        if self.hue:
            turned = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
            turned[..., 0] += np.uint8(self.hue % 256)
            picture = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)
        if self.saturation != 1.0:
            grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            picture = cv2.addWeighted(picture, self.saturation, grey, 1.0 - self.saturation, 0.0)
        return cv2.LUT(picture, self.curve)


def _draw_tones(rng: np.random.Generator) -> _Tones:
    levels = np.arange(256, dtype=np.float32)
    gamma, contrast, shift = np.exp(rng.normal(0, 0.18)), np.exp(rng.normal(0, 0.15)), rng.normal(0, 12)
    tint = rng.normal(1.0, 0.05, 3)
    base = 255.0 * (levels / 255.0) ** gamma
    curve = np.stack([(base * t - 128.0) * contrast + 128.0 + shift for t in tint], -1)
    pick = rng.random()
    return _Tones(
        curve=np.clip(curve, 0, 255).astype(np.uint8)[None],
        saturation=0.0 if pick < 0.06 else 1.0 if pick < 0.4 else float(rng.uniform(0.5, 1.4)),
        hue=int(rng.normal(0, 6)) if rng.random() < 0.3 else 0,
    )


def _draw_wear(rng: np.random.Generator) -> Lens:
    """Blur, noise and compression on top of what the photograph has already."""
    return Lens(
        blur=rng.uniform(0.3, 1.2) if rng.random() < 0.2 else 0.0,
        noise=rng.gamma(2.0, 2.0) if rng.random() < 0.3 else 0.0,
        chroma=rng.gamma(2.0, 1.5) if rng.random() < 0.1 else 0.0,
        quality=int(rng.integers(35, 96)) if rng.random() < 0.25 else 0,
    )


def _finish(sample: Sample, rng: np.random.Generator) -> Sample:
    tones, wear = _draw_tones(rng), _draw_wear(rng)
    frames = np.stack([photograph(tones(frame), wear, rng) for frame in sample.frames])
    return describe_sample(replace(sample, frames=frames), rng)


def _turned(
    frames: np.ndarray, labels: np.ndarray, rng: np.random.Generator, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    """A small turn about the middle, enlarged so far that no corner is empty."""
    h, w = size
    angle = float(np.clip(rng.normal(0, 6), -15, 15))
    slope = abs(np.sin(np.radians(angle)))
    zoom = abs(np.cos(np.radians(angle))) + slope * max(w / h, h / w)
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, zoom)
    frames = np.stack([cv2.warpAffine(f, matrix, (w, h), borderMode=cv2.BORDER_REFLECT) for f in frames])
    labels = np.stack([cv2.warpAffine(m, matrix, (w, h), flags=cv2.INTER_NEAREST, borderValue=IGNORE) for m in labels])
    return frames, labels


def augment(sample: Sample, rng: np.random.Generator, size: Size = (320, 320), close: float = 0.0) -> Sample:
    """A random variation of ``sample``, stretched to ``size`` (H, W): the same number of frames, the same ids.

    ``close``: chance that the window is that of a look at one object from close by. Window, mirroring, turn and
    colours are shared by all frames. Expressions are made anew, since places, sizes and colours have changed; objects
    left with fewer than 24 pixels are dropped and ignored.
    """
    _require_frames(sample)
    frames, labels = sample.frames, sample.labels
    window = _close_window(sample, rng) if close and rng.random() < close else None
    if window is None and rng.random() < 0.7:
        window = _crop_window(sample, rng, 0.4)
    if window is not None:
        x0, y0, x1, y1 = window
        frames, labels = frames[:, y0:y1, x0:x1], labels[:, y0:y1, x0:x1]
    if rng.random() < 0.5:
        frames, labels = frames[:, :, ::-1], labels[:, :, ::-1]
    frames = np.stack([resize_picture(np.ascontiguousarray(f), size) for f in frames])
    labels = np.stack([resize_labels(np.ascontiguousarray(m), size) for m in labels])
    if rng.random() < 0.2:
        frames, labels = _turned(frames, labels, rng, size)
    return _finish(replace(sample, frames=frames, labels=labels), rng)


def stretch(sample: Sample, rng: np.random.Generator, size: Size = (320, 320)) -> Sample:
    """``sample`` as it is, stretched to ``size`` (H, W), with expressions; for validation."""
    _require_frames(sample)
    frames = np.stack([resize_picture(f, size) for f in sample.frames])
    labels = np.stack([resize_labels(m, size) for m in sample.labels])
    return describe_sample(replace(sample, frames=frames, labels=labels), rng)


def _camera_path(rng: np.random.Generator, source: Size, size: Size, frames: int) -> list[np.ndarray]:
    """Per frame, source pixels -> frame pixels (2, 3): a window that drifts, zooms and turns within the source."""
    h, w = source
    side = rng.uniform(0.55, 0.92)
    centre = np.array([w, h]) * (0.5 + rng.uniform(-0.5, 0.5, 2) * (1.0 - side))
    drift = rng.normal(0, rng.choice((0.004, 0.02)), 2) * (w, h)
    zoom, turn = rng.normal(0, 0.02), rng.normal(0, 0.015)
    mirror = rng.choice((-1.0, 1.0))
    fit = np.diag([mirror * size[1] / (side * w), size[0] / (side * h)])
    path = []
    for t in range(frames):
        c, s = np.cos(turn * t), np.sin(turn * t)
        linear = fit @ (np.exp(zoom * t) * np.array([[c, -s], [s, c]]))
        half = 0.5 * np.array([size[1], size[0]])
        path.append(np.concatenate([linear, (half - linear @ (centre + drift * t))[:, None]], 1))
    return path


@dataclass(frozen=True, eq=False)
class _Mover:
    """A cut-out with its own motion in source pixels: about its middle, per frame."""

    cutout: Cutout
    value: int
    base: np.ndarray
    velocity: np.ndarray
    sway: np.ndarray
    rate: float
    spin: float
    growth: float

    def affine(self, t: int) -> np.ndarray:
        h, w = self.cutout.alpha.shape
        centre = self.base[:, :2] @ (w / 2, h / 2) + self.base[:, 2]
        k, c, s = np.exp(self.growth * t), np.cos(self.spin * t), np.sin(self.spin * t)
        linear = k * np.array([[c, -s], [s, c]])
        shift = centre + self.velocity * t + self.sway * np.sin(self.rate * t) - linear @ centre
        return compose(np.concatenate([linear, shift[:, None]], 1), self.base)


def _draw_mover(
    rng: np.random.Generator, cutout: Cutout, value: int, base: np.ndarray, side: int, frames: int
) -> _Mover:
    leaves = rng.random() < 0.2
    return _Mover(
        cutout,
        value,
        base,
        velocity=rng.normal(0, 0.02, 2) * side,
        sway=rng.normal(0, 0.4 if leaves else 0.0, 2) * side,
        rate=np.pi / max(frames - 1, 1),
        spin=rng.normal(0, 0.04),
        growth=rng.normal(0, 0.02),
    )


def _warp(picture: np.ndarray, labels: np.ndarray, view: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    matrix = view.copy()
    matrix[:, 2] += view[:, :2] @ (0.5, 0.5) - 0.5
    extent = (size[1], size[0])
    return (
        cv2.warpAffine(picture, matrix, extent, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
        cv2.warpAffine(labels, matrix, extent, flags=cv2.INTER_NEAREST, borderValue=IGNORE),
    )


def _touches_border(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def picture_to_clip(
    sample: Sample, rng: np.random.Generator, frames: int = 4, size: Size = (320, 320), donor: Sample | None = None
) -> Sample:
    """A clip (T, H, W, 3) from one picture: a camera moves over it, some of its objects move by themselves.

    What a moved object uncovers is filled coarsely and counts as background; what the camera sees beyond the picture
    is ignored. ``donor``: another picture, whose objects pass through the scene and hide what is behind them. Ids are
    those of ``sample``; the donor's get new ones.
    """
    _require_frames(sample)
    picture, labels, objects = sample.frames[0], sample.labels[0].copy(), list(sample.objects)
    side = max(labels.shape)
    movers = []
    for chosen in choose_objects(sample, rng, int(rng.integers(0, 3)), 0.005, 0.3):
        mask = labels == chosen.id
        if _touches_border(mask):
            # What lies beyond the border is not there to come into view.
            continue
        cutout = cut_out(replace(sample, frames=picture[None], labels=labels[None]), chosen)
        picture = fill_hole(picture, mask)
        labels[mask] = 0
        base = np.array([[1.0, 0, cutout.corner[0]], [0, 1.0, cutout.corner[1]]])
        movers.append(_draw_mover(rng, cutout, chosen.id, base, side, frames))
    for chosen in choose_objects(donor, rng, int(rng.integers(1, 3))) if donor is not None else ():
        value = free_id(replace(sample, objects=tuple(objects)))
        if value is None:
            break
        cutout = cut_out(donor, chosen)
        objects.append(SampleObject(value, cutout.category, cutout.thing))
        movers.append(_draw_mover(rng, cutout, value, placement(cutout, rng, labels.shape), side, frames))
    pictures, maps = [], []
    for t, view in enumerate(_camera_path(rng, labels.shape, size, frames)):
        seen, numbered = _warp(picture, labels, view, size)
        for mover in movers:
            lay_over(seen, numbered, mover.cutout, compose(view, mover.affine(t)), mover.value)
        pictures.append(seen)
        maps.append(numbered)
    clip = replace(sample, frames=np.stack(pictures), labels=np.stack(maps), objects=tuple(objects))
    return _finish(clip, rng)
