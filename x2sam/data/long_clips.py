"""Long generated clips for following objects: real objects cut from pictures, moving over other real pictures.

The camera pans, zooms and shakes; objects drift, turn, grow, bend, change their light and show other sides (their
texture slides under their outline); others pass in front, look alike, leave and come back. Sample ``i`` depends on the
seed, the settings and ``i`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from x2sam.data.cutouts import Cutout, cut_out
from x2sam.data.masks import IGNORE, drop_small, label_areas
from x2sam.data.readers.labelmaps import DAILY_LIFE, LabelMapDataset
from x2sam.data.scene_render import Lens, compose, photograph
from x2sam.errors import FramesError
from x2sam.structures import Sample, SampleObject

Size = tuple[int, int]

LEAST_SIDE = 56  # of a cut-out in pixels: smaller ones are only blurs when they are enlarged
_PARTS = (0.25, 4.0)  # a cut-out's shorter by longer side
_MARGIN = 0.35  # of a cut-out's side, transparent, so that it can bend beyond its box


@dataclass(frozen=True, eq=False)
class _Path:
    """Smooth values over time (n,): ``start + speed t`` plus two swings."""

    start: np.ndarray
    speed: np.ndarray
    swings: np.ndarray
    rates: np.ndarray
    phases: np.ndarray

    def at(self, t: float) -> np.ndarray:
        beat = np.sin(self.rates[:, None] * t + self.phases) - np.sin(self.phases)
        return self.start + self.speed * t + (self.swings * beat).sum(0)


def _draw_path(rng: np.random.Generator, start: np.ndarray, drift: float, swing: float, frames: int) -> _Path:
    """``drift`` over the whole clip and ``swing`` are standard deviations, in the unit of ``start``."""
    n = len(start)
    return _Path(
        np.asarray(start, float),
        rng.normal(0, drift, n) / frames,
        rng.normal(0, swing, (2, n)) * ([1.0] * n, [0.4] * n),
        np.array([rng.uniform(1.0, 4.0), rng.uniform(4.0, 14.0)]) * np.pi / frames,
        rng.uniform(0, 2 * np.pi, (2, n)),
    )


@dataclass(frozen=True, eq=False)
class _Mover:
    """A cut-out in motion. ``bends`` and ``slides`` are displacement fields (2, h, w, 2) in its own pixels."""

    cutout: Cutout
    value: int
    place: _Path
    log_size: _Path
    turn: _Path
    bend: _Path
    slide: _Path
    light: _Path
    bends: np.ndarray
    slides: np.ndarray
    mirror: float
    softness: float

    def affine(self, t: float) -> np.ndarray:
        """Pixels of the cut-out to pixels of the scene, float (2, 3)."""
        h, w = self.cutout.alpha.shape
        angle, size = float(self.turn.at(t)[0]), np.exp(np.clip(self.log_size.at(t), -4, 3))
        c, s = np.cos(angle), np.sin(angle)
        linear = np.array([[c, -s], [s, c]]) @ np.diag([self.mirror * size[0], size[1]])
        return np.concatenate([linear, (self.place.at(t) - linear @ (w / 2, h / 2))[:, None]], 1)


def _fields(rng: np.random.Generator, size: Size, amount: float) -> np.ndarray:
    """Two smooth displacement fields float32 (2, h, w, 2), of ``amount`` longer sides."""
    knots = rng.normal(0, 1, (2, 4, 4, 2)).astype(np.float32)
    fields = np.stack([cv2.resize(k, size[::-1], interpolation=cv2.INTER_CUBIC) for k in knots])
    return fields * np.float32(amount * max(size))


def _extended(cutout: Cutout) -> Cutout:
    """The cut-out with a transparent margin, its colours continued outside, so that texture can slide and bend."""
    h, w = cutout.alpha.shape
    m = int(_MARGIN * max(h, w))
    alpha = cv2.copyMakeBorder(cutout.alpha, m, m, m, m, cv2.BORDER_CONSTANT, value=0)
    colour = cv2.copyMakeBorder(cutout.colour, m, m, m, m, cv2.BORDER_REPLICATE)
    solid = cv2.erode((alpha > 200).astype(np.uint8), np.ones((3, 3), np.uint8))
    if not solid.any():
        solid = (alpha >= alpha.max()).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(1 - solid, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = solid > 0
    table = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    table[nearest[inside]] = colour[inside]
    spread = cv2.GaussianBlur(table[nearest], (0, 0), 2.0)
    spread[inside] = colour[inside]
    return replace(cutout, colour=spread, alpha=alpha)


def _blended_in(cutout: Cutout, picture: np.ndarray, rng: np.random.Generator) -> Cutout:
    """Half of the cut-outs take on some of the picture's colours: things often look like where they are."""
    share = rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0
    if not share:
        return cutout
    own, around = (cv2.cvtColor(p, cv2.COLOR_RGB2LAB).astype(np.float32) for p in (cutout.colour, picture))
    shift = around.reshape(-1, 3).mean(0) - own[cutout.alpha > 128].mean(0)
    moved = np.clip(own + np.float32(share) * shift, 0, 255).astype(np.uint8)
    return replace(cutout, colour=cv2.cvtColor(moved, cv2.COLOR_LAB2RGB))


def _lay(picture: np.ndarray, labels: np.ndarray, mover: _Mover, view: np.ndarray, t: float, smear: np.ndarray | None):
    """Draws the mover into ``picture`` uint8 (H, W, 3) and ``labels`` uint8 (H, W), in place."""
    affine = compose(view, mover.affine(t))
    h, w = mover.cutout.alpha.shape
    bound = (labels.shape[1], labels.shape[0])
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], float) @ affine[:, :2].T + affine[:, 2]
    low = np.clip(np.floor(corners.min(0)), 0, bound).astype(int)
    high = np.clip(np.ceil(corners.max(0)), 0, bound).astype(int)
    if (high - low < 2).any():
        return
    inverse = np.linalg.inv(affine[:, :2])
    x, y = np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1])[:, None] + 0.5
    at = np.empty((y.shape[0], x.shape[0], 2), np.float32)
    for axis in (0, 1):
        at[..., axis] = inverse[axis, 0] * (x - affine[0, 2]) + inverse[axis, 1] * (y - affine[1, 2]) - 0.5
    bend = np.tensordot(mover.bend.at(t).astype(np.float32), mover.bends, 1)
    slide = bend + np.tensordot(mover.slide.at(t).astype(np.float32), mover.slides, 1)
    outline = at + cv2.remap(bend, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    texture = at + cv2.remap(slide, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.remap(mover.cutout.alpha, outline, None, cv2.INTER_LINEAR)
    colour = cv2.remap(mover.cutout.colour, texture, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gain = np.exp(np.clip(mover.light.at(t), -0.7, 0.5))
    colour = cv2.convertScaleAbs(colour, alpha=float(gain[0]))
    region = (slice(low[1], high[1]), slice(low[0], high[0]))
    labels[region][alpha >= 128] = mover.value
    if mover.softness > 0.3:
        alpha = cv2.GaussianBlur(alpha, (0, 0), mover.softness)
    if smear is not None:
        alpha, colour = cv2.filter2D(alpha, -1, smear), cv2.filter2D(colour, -1, smear)
    weight = alpha.astype(np.float32) * np.float32(1 / 255)
    picture[region] = cv2.blendLinear(colour, np.ascontiguousarray(picture[region]), weight, 1 - weight)


def _smear(step: np.ndarray) -> np.ndarray | None:
    """A straight motion blur over ``step`` pixels (x, y), at most 13 long; None when it is hardly seen."""
    length = float(np.hypot(*step))
    if length < 2:
        return None
    half = step * (min(length, 13.0) / length / 2)
    reach = int(np.ceil(np.abs(half).max()))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for k in np.linspace(-1, 1, 4 * reach + 1):
        kernel[round(reach + k * float(half[1])), round(reach + k * float(half[0]))] += 1
    return kernel / kernel.sum()


def _draw_lens(rng: np.random.Generator) -> Lens:
    return Lens(
        blur=rng.uniform(0.3, 0.9) if rng.random() < 0.3 else 0.0,
        noise=rng.gamma(2.0, 1.5) if rng.random() < 0.5 else 0.0,
        quality=int(rng.integers(40, 95)) if rng.random() < 0.7 else 0,
    )


class LongClips:
    """``clips[i]`` is a :class:`Sample` of ``frames`` frames at ``size`` (H, W); the object with id 1 is always in the
    first frame, as a rule others too.

    least_visible: its share of the frame there, at least
    in_place: share of clips whose objects stay where their picture shows them, among their like; only the camera moves
    """

    def __init__(
        self,
        root: str | Path,
        seed: int,
        frames: int = 48,
        size: Size = (270, 480),
        boosts: Mapping[str, float] = DAILY_LIFE,
        least_visible: float = 0.004,
        in_place: float = 0.35,
    ):
        self.pictures = LabelMapDataset(root)
        self.seed, self.frames, self.size = seed, frames, size
        self.least_visible, self.in_place = least_visible, in_place
        everyday = np.array([boosts.get(r.source, 0.0) for r in self.pictures.records])
        # Backdrops are of all sources, objects of everyday ones where there are any.
        self._ground = np.cumsum(self.pictures.weights(boosts=boosts))
        self._objects = np.cumsum(everyday / everyday.sum()) if everyday.any() else self._ground

    def __getitem__(self, index: int) -> Sample:
        for attempt in range(20):
            rng = np.random.default_rng((self.seed, index, attempt))
            sample = self._make(rng)
            if label_areas(sample.labels[0])[1] >= self.least_visible * sample.labels[0].size:
                return sample
        return sample

    def _draw(self, rng: np.random.Generator, cumulative: np.ndarray) -> Sample:
        pick = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        return self.pictures.bare(min(pick, len(self.pictures) - 1))

    def _draw_cutout(self, rng: np.random.Generator, category: str | None = None) -> Cutout:
        """An object that lies whole in its picture; of ``category`` where one is found soon."""
        found = None
        for trial in range(60):
            sample = self._draw(rng, self._objects)
            for chosen in rng.permutation(np.array(sample.objects, object)):
                mask = sample.labels[0] == chosen.id
                rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                if not chosen.thing or not len(rows):
                    continue
                h, w = rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1
                cut = (mask[0].any() + mask[-1].any() + mask[:, 0].any() + mask[:, -1].any()) > 1
                if max(h, w) < LEAST_SIDE or not _PARTS[0] < h / w < _PARTS[1] or cut or mask.sum() < 0.2 * h * w:
                    continue
                found = cut_out(sample, chosen)
                if category is None or found.category == category or trial > 15:
                    return found
        if found is None:
            raise FramesError("these pictures hold no countable object that is large enough to cut out; name others")
        return found

    def _mover(self, rng: np.random.Generator, cutout: Cutout, value: int, start: np.ndarray, reach: float) -> _Mover:
        """``start``: where its middle is on the first frame; ``reach``: how far it travels, in frame widths."""
        extended = _extended(cutout)
        h, w = cutout.alpha.shape
        side = max(self.size)
        size = np.exp(rng.uniform(np.log(0.13), np.log(0.5))) * side / max(h, w)
        size = min(size, 0.9 * self.size[0] / h, 3.0)
        calm = rng.random() < 0.3
        lively = rng.choice((0.3, 0.7, 1.0, 1.5))
        return _Mover(
            extended,
            value,
            place=_draw_path(rng, start, 0.25 * reach * side, 0.12 * reach * side, self.frames),
            log_size=_draw_path(rng, np.log([size, size]), 0.15, 0.05 * lively, self.frames),
            turn=_draw_path(rng, np.array([rng.normal(0, 0.12)]), 0.25 * lively, 0.12 * lively, self.frames),
            bend=_draw_path(rng, np.zeros(2), 0.3 * lively, 0.7 * lively, self.frames),
            slide=_draw_path(rng, np.zeros(2), 0.2 if calm else 1.0, 0.1 if calm else 0.5, self.frames),
            light=_draw_path(rng, np.array([rng.normal(0, 0.1)]), 0.15, 0.08, self.frames),
            bends=_fields(rng, extended.alpha.shape, 0.035),
            slides=_fields(rng, extended.alpha.shape, 0.05),
            mirror=float(rng.choice((-1.0, 1.0))),
            softness=rng.uniform(0.4, 1.2) if rng.random() < 0.5 else 0.0,
        )

    def _movers(self, rng: np.random.Generator) -> list[_Mover]:
        h, w = self.size
        centre = np.array([w, h]) * rng.uniform(0.25, 0.75, 2)
        first = self._draw_cutout(rng)
        reach = rng.choice((0.3, 0.8, 0.8, 1.4))
        # The object to follow is drawn first: what comes later passes in front of it, what comes before is behind.
        movers = [self._mover(rng, first, 1, centre, reach)]
        for value in range(2, 2 + int(rng.integers(0, 4))):
            kind = rng.random()
            cutout = first if kind < 0.12 else self._draw_cutout(rng, first.category if kind < 0.5 else None)
            start = np.array([w, h]) * rng.uniform(0.0, 1.0, 2)
            mover = self._mover(rng, cutout, value, start, rng.choice((0.1, 0.6, 1.5)))
            movers.insert(len(movers) if rng.random() < 0.4 else 0, mover)
        if rng.random() < 0.2:
            # Leaves the frame, or nearly, and comes back.
            leaver = next(m for m in movers if m.value == 1)
            swings = leaver.place.swings + rng.choice((-1, 1), (2, 2)) * ((0.45 * w, 0.25 * h), (0, 0))
            place = replace(leaver.place, swings=swings, rates=leaver.place.rates * 0 + np.pi / self.frames)
            movers[movers.index(leaver)] = replace(leaver, place=place)
        return movers

    def _views(self, rng: np.random.Generator, followed: _Path) -> list[np.ndarray]:
        """Per frame, scene pixels to frame pixels (2, 3); the first shows the scene's frame as it is.

        A person with a camera mostly keeps what moves in view: the camera follows a path in part.
        """
        h, w = self.size
        still = rng.random() < 0.15
        amount = 0.0 if still else rng.choice((0.3, 1.0, 2.0))
        pan = _draw_path(rng, np.zeros(2), 0.10 * amount * w, 0.05 * amount * w, self.frames)
        zoom = _draw_path(rng, np.zeros(1), 0.08 * amount, 0.03 * amount, self.frames)
        turn = _draw_path(rng, np.zeros(1), 0.05 * amount, 0.02 * amount, self.frames)
        shake = rng.normal(0, rng.choice((0.0, 0.0, 0.004)) * w, (self.frames, 2))
        half = np.array([w, h]) / 2
        share = rng.choice((0.0, 0.5, 0.9, 0.9))
        views = []
        for t in range(self.frames):
            k, a = float(np.exp(zoom.at(t)[0])), float(turn.at(t)[0])
            linear = k * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
            centre = half + share * (followed.at(t) - followed.start)
            views.append(np.concatenate([linear, (half + pan.at(t) + shake[t] - linear @ centre)[:, None]], 1))
        return views

    def _make(self, rng: np.random.Generator) -> Sample:
        return self._in_place(rng) if rng.random() < self.in_place else self._composed(rng)

    def _in_place(self, rng: np.random.Generator) -> Sample:
        """A camera over one picture that bends a little: its objects where they are, among others of their kind."""
        for _ in range(30):
            sample = self._draw(rng, self._ground)
            areas = label_areas(sample.labels[0]) / sample.labels[0].size
            large = [o for o in sample.objects if 0.01 <= areas[o.id] <= 0.4]
            if large:
                break
        else:
            return self._composed(rng)
        chosen = [large[k] for k in rng.permutation(len(large))[:3]]
        h, w = self.size
        picture, whole = sample.frames[0], sample.labels[0]
        # The first object's number is 1 in every clip.
        labels = np.where(whole == IGNORE, np.uint8(IGNORE), np.uint8(0))
        for number, thing in enumerate(chosen, 1):
            labels[whole == thing.id] = number
        scale = max(h / picture.shape[0], w / picture.shape[1]) * rng.uniform(1.0, 1.6)
        middle = np.argwhere(labels == 1).mean(0)[::-1]
        centre = np.array([w, h]) / 2 + rng.normal(0, 0.12, 2) * (w, h)
        fit = np.array([[scale, 0, 0], [0, scale, 0]])
        fit[:, 2] = centre - scale * middle
        still = _draw_path(rng, np.zeros(2), 0.0, 0.0, self.frames)
        bends = _fields(rng, (h, w), 0.02)
        bend = _draw_path(rng, np.zeros(2), 0.3, rng.choice((0.0, 0.3, 0.7)), self.frames)
        lens, frames, maps = _draw_lens(rng), [], []
        x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
        for t, view in enumerate(self._views(rng, still)):
            inverse = cv2.invertAffineTransform(compose(view, fit))
            moved = np.tensordot(bend.at(t).astype(np.float32), bends, 1) + np.stack([x, y], -1) + np.float32(0.5)
            at = (moved @ inverse[:, :2].T + inverse[:, 2] - 0.5).astype(np.float32)
            seen = cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            frames.append(photograph(seen, lens, rng))
            maps.append(cv2.remap(labels, at, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT))
        kept = drop_small(np.stack(maps), range(1, 1 + len(chosen)))
        objects = tuple(
            SampleObject(number, thing.category, thing.thing)
            for number, thing in enumerate(chosen, 1)
            if number in kept[1]
        )
        return Sample(np.stack(frames), kept[0], objects, complete=False, source="long_clips")

    def _composed(self, rng: np.random.Generator) -> Sample:
        """Cut-outs that move over a picture."""
        h, w = self.size
        movers = self._movers(rng)
        views = self._views(rng, next(m for m in movers if m.value == 1).place)
        picture = self._draw(rng, self._objects if rng.random() < 0.75 else self._ground).frames[0]
        movers = [replace(m, cutout=_blended_in(m.cutout, picture, rng)) for m in movers]
        # The backdrop covers the frame one and a half times; beyond it is mirrored.
        scale = max(h / picture.shape[0], w / picture.shape[1]) * rng.uniform(1.0, 1.6)
        fit = np.array([[scale, 0, 0], [0, scale, 0]])
        fit[:, 2] = np.array([w, h]) / 2 - fit[:, :2] @ (picture.shape[1] / 2, picture.shape[0] / 2)
        exposure = rng.uniform(0, 0.7)
        lens = _draw_lens(rng)
        frames, maps = [], []
        for t, view in enumerate(views):
            seen = cv2.warpAffine(picture, compose(view, fit), (w, h), borderMode=cv2.BORDER_REFLECT)
            labels = np.zeros((h, w), np.uint8)
            for mover in movers:
                now, before = (compose(v, mover.affine(k))[:, 2] for v, k in ((view, t), (views[max(t - 1, 0)], t - 1)))
                _lay(seen, labels, mover, view, t, _smear(exposure * (now - before)))
            frames.append(photograph(seen, lens, rng))
            maps.append(labels)
        labels, kept = drop_small(np.stack(maps), range(1, 1 + len(movers)))
        objects = tuple(
            SampleObject(m.value, m.cutout.category, m.cutout.thing)
            for m in sorted(movers, key=lambda m: m.value)
            if m.value in kept
        )
        return Sample(np.stack(frames), labels, objects, complete=False, source="long_clips")
