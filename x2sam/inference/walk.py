"""Conditions walked over frames: one step per frame, the memory handed on. A picture is a walk of one frame."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from x2sam.inference.drift import Look, Radar, Rating
from x2sam.inference.follow import Follower, Scenery, Scenes, exclude
from x2sam.inference.motion import GRID_SIDE
from x2sam.inference.postprocess import Prediction, Rule, Segments, State, new_state, postprocess
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.sketch import paint_mask
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.mask_memory import MaskMemory, MemoryEntry
from x2sam.model.memory_encoder import blend_masks
from x2sam.model.x2sam import X2SAM, FrameFeatures

Found = tuple[np.ndarray, float]
"""A mask bool (H, W) and its score."""

_SAME = 0.5  # IoU from which a mask that was carried along is the one that a person drew
_NONE: Mapping[str, MemoryEntry] = {}


@dataclass(frozen=True)
class Mode:
    """A way in which a track remembers.

    shared:    one bank for all objects, written with the blend of all queries; else a bank for each, written with the
               mask that was chosen, and where the masks of objects are followed by more than the network, by all of it
    pins:      frames whose mask a person gave stay beside the bank
    exclusive: objects that are followed hide one another
    coarse:    maps finer than the memory read it on the memory's grid, and objects are followed on a coarser one
    """

    shared: bool = False
    pins: bool = False
    exclusive: bool = False
    coarse: bool = False


MODES = {
    "fifo": Mode(shared=True),  # the paper's way
    "per-object": Mode(),  # objects know nothing of one another
    "pinned": Mode(pins=True, exclusive=True),  # the default
    "fast": Mode(pins=True, exclusive=True, coarse=True),  # an approximation: quicker, less exact
}
"""How a track can remember, by name."""

FAST_SIDE = 256
"""Cells along a frame's long side at most, on which ``fast`` follows; the others have a finer grid."""


@dataclass(eq=False)
class Walker:
    """One condition on its way through the frames of a clip, in order of distance from the first."""

    model: X2SAM
    condition: Condition
    rule: Rule
    memory: MaskMemory
    state: State | None = None

    def __post_init__(self) -> None:
        if self.state is None:
            self.state = new_state(self.rule)

    def look(
        self, features: FrameFeatures, sizes: FrameSizes, time: int, extra: Sequence[MemoryEntry] = ()
    ) -> tuple[Segments, LevelPrediction]:
        """The frame's segments and the network's prediction. Nothing is remembered yet."""
        level = self.step(features, time, extra)
        return self.read(level, sizes), level

    def read(self, level: LevelPrediction, sizes: FrameSizes) -> Segments:
        """The segments of a prediction, by the rule."""
        return postprocess(self.rule, Prediction(level.mask_logits[0], level.class_logits[0], sizes), self.state)

    def step(self, features: FrameFeatures, time: int, extra: Sequence[MemoryEntry] = ()) -> LevelPrediction:
        """The network's prediction alone, for those who choose among the queries themselves."""
        return self.model.step(features, self.condition, [*self.memory.read(), *extra], time)[-1]

    def remember(self, features: FrameFeatures, guidance: torch.Tensor | LevelPrediction, time: int, pin: bool = False):
        """Writes the frame: ``features`` before memory, ``guidance`` (1, 1, h, w) or the prediction to blend."""
        self.memory.push(self.model.remember(features, guidance, time), pin)


class Bits:
    """A mask bool (H, W) that takes a bit for each pixel."""

    def __init__(self, mask: np.ndarray):
        self._size, self._bits = mask.shape, np.packbits(mask != 0)

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W)."""
        height, width = self._size
        return np.unpackbits(self._bits, count=height * width).reshape(height, width).view(bool)


class Anchor:
    """A frame where the object's mask (H, W) is known: ``locked`` by a person, or proposed when it was prompted, or
    ``walked``: an earlier walk found it, which is gone on with. Sessions keep many, so they are packed."""

    def __init__(
        self, frame: int, mask: np.ndarray, score: float = 1.0, locked: bool = False, walked: bool = False
    ):  # fmt: skip
        self.frame, self.score, self.locked, self.walked = frame, score, locked, walked
        self._bits = Bits(mask)

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W)."""
        return self._bits.mask


@dataclass(eq=False)
class Tracked:
    """An object of a session: what it is (condition and rule of its prompt) and where it is known to be."""

    object_id: str
    condition: Condition
    rule: Rule
    anchors: dict[int, Anchor] = field(default_factory=dict)


class ObjectTrack:
    """Several objects walked together in one direction; each frame's features are made once for all of them.

    Frames are written into the memory when the next one wants to read it: of the last one of a walk, nothing is.

    Models that know sketches, in every mode but ``fifo``, get the mask of the frame before as a rough sketch on this
    one, moved along by optical flow; what they answer is one piece of evidence among others
    (:mod:`x2sam.inference.follow`).
    """

    def __init__(self, model: X2SAM, objects: Sequence[Tracked], mode: str):
        if mode not in MODES:
            raise ValueError(f"there is no memory mode {mode!r}; use one of {', '.join(MODES)}")
        self.model, self.mode = model, MODES[mode]
        shared = MaskMemory(model.config.memory.slots) if self.mode.shared else None
        make = lambda: shared if shared is not None else MaskMemory(model.config.memory.slots)  # noqa: E731
        self.walkers = {o.object_id: Walker(model, o.condition, o.rule, make()) for o in objects}
        self.objects = {o.object_id: o for o in objects}
        self.started: set[str] = set()
        side = FAST_SIDE if self.mode.coarse else GRID_SIDE
        self.scenes = Scenes(side) if not self.mode.shared and model.config.memory.sketch else None
        self.followers = {o.object_id: Follower() for o in objects} if self.scenes is not None else {}
        self.radars = {name: Radar() for name in self.followers}
        # All that was learned of these is the model's own answer to a prompt. A person's mask that the walk from there
        # has missed shows that it led astray: it is unlearned.
        self.proposed: set[str] = set()
        self.ratings: dict[str, Rating] = {}  # of the frame walked last, of objects that were looked for there
        # what _remember wants; no function of this track, which would keep itself and all its memory alive
        self._unwritten: tuple[FrameFeatures, int, dict[str, torch.Tensor], set[str]] | None = None

    def advance(
        self, features: FrameFeatures, sizes: FrameSizes, frame: int, picture: np.ndarray,
        plain: FrameFeatures | None = None,
    ) -> dict[str, Found]:  # fmt: skip
        """Masks (H, W) and scores by object id on ``frame``; objects that no anchor was met of yet are left out.

        picture: uint8 (H, W, 3), the frame itself; plain: its features as those of a later frame, where ``features``
        are those of the first
        """
        self.write()
        anchors = {k: o.anchors[frame] for k, o in self.objects.items() if frame in o.anchors}
        self.started |= anchors.keys()
        self.ratings = {}
        others = [k for k in self.walkers if k in self.started and k not in anchors]
        found: dict[str, Found] = {k: (a.mask, a.score) for k, a in anchors.items()}
        predictions: dict[str, LevelPrediction] = {}
        if self.scenes is None:
            predictions = self._levels(features, frame, others)
            for object_id, level in predictions.items():
                found[object_id] = _first_of(self.walkers[object_id].read(level, sizes), sizes)
        else:
            scenery = self.scenes.look(picture, seen_features(plain or features, sizes))
            found |= self._follow(scenery, features, sizes, frame, others, anchors)
        guidance = self._guidance(features, sizes, found, predictions)
        known = {k for k, anchor in anchors.items() if not anchor.walked}
        self._unwritten = features, frame, guidance, known
        return {k: found[k] for k in self.walkers if k in found}

    def write(self) -> None:
        """Writes the frame walked last into the banks, if it is not there yet."""
        unwritten, self._unwritten = self._unwritten, None
        if unwritten is not None:
            self._remember(*unwritten)

    def probabilities(self) -> dict[str, np.ndarray]:
        """Of the frame walked last, float32 (h, w) on the working grid; only of objects that are followed."""
        return {k: f.mask for k, f in self.followers.items() if f.mask is not None}

    def _follow(
        self, scenery: Scenery, features: FrameFeatures, sizes: FrameSizes, frame: int, others: Sequence[str],
        anchors: Mapping[str, Anchor],
    ) -> dict[str, Found]:  # fmt: skip
        """The objects that no mask is known of here. Those that are known hide them, not the other way round."""
        for object_id, anchor in anchors.items():
            self._know(scenery, object_id, anchor)
        carried = {name: self.followers[name].expect(scenery) for name in others}
        levels = self._predict(features, sizes, frame, carried)
        nets, masks, scores = {}, {}, {}
        for name in others:
            nets[name], scores[name] = choose_query(levels[name], sizes, carried[name])
            masks[name] = self.followers[name].decide(scenery, carried[name], nets[name])
        known = {k: self.followers[k].mask for k in anchors}
        if self.mode.exclusive:
            masks = {k: m for k, m in exclude({**masks, **known}).items() if k not in anchors}
        found: dict[str, Found] = {}
        for name, probability in masks.items():
            self.followers[name].settle(scenery, probability)
            look = Look(carried[name], nets[name], scores[name], probability)
            self.ratings[name] = self.radars[name].rate(scenery, self.followers[name], look)
            mask = at_picture_size(probability, sizes.original)
            found[name] = (mask, scores[name] if mask.any() else 0.0)
        return found

    def _know(self, scenery: Scenery, name: str, anchor: Anchor) -> None:
        if anchor.locked and name in self.proposed:
            self.proposed.discard(name)
            if not _alike(self.followers[name].expect(scenery), scenery.of_picture(anchor.mask)):
                self.followers[name], self.radars[name] = Follower(), Radar()
        follower, radar = self.followers[name], self.radars[name]
        if not anchor.walked:
            if not anchor.locked and not follower.size:
                self.proposed.add(name)
            follower.learn(scenery, anchor.mask)
            radar.learn(scenery, follower)
            return
        carried, inside = follower.expect(scenery), scenery.of_picture(anchor.mask)
        follower.settle(scenery, inside)
        radar.rate(scenery, follower, Look(carried, inside, anchor.score, inside))

    def _predict(
        self, features: FrameFeatures, sizes: FrameSizes, frame: int, carried: Mapping[str, np.ndarray | None]
    ) -> dict[str, LevelPrediction]:
        """The network's prediction for each object. The mask carried here is its sketch, left out where an object was
        out of sight, so that only the memory says where it comes back."""
        grid = tuple(features.mask_features.shape[-2:])
        drawn = {k: paint_mask(guidance_of(c, sizes, grid)) for k, c in carried.items() if c is not None}
        return self._levels(features, frame, list(carried), self._entries(features, drawn, frame, sketch=True))

    def _levels(
        self, features: FrameFeatures, frame: int, names: Sequence[str], sketches: Mapping[str, MemoryEntry] = _NONE
    ) -> dict[str, LevelPrediction]:
        """The network's prediction for each object. Those that remember the same frames are asked for together; where
        they share one bank, the frame reads it once for all of them."""
        groups: dict[Hashable, list[str]] = {}
        for name in names:
            walker = self.walkers[name]
            times = tuple(entry.time for entry in walker.memory.read())
            groups.setdefault((times, name in sketches, walker.condition.shapes), []).append(name)
        levels: dict[str, LevelPrediction] = {}
        for group in groups.values():
            walkers = [self.walkers[name] for name in group]
            if self.mode.shared:
                entries = walkers[0].memory.read()
            else:
                drawn = [[sketches[name]] if name in sketches else [] for name in group]
                banks = [[*walker.memory.read(), *more] for walker, more in zip(walkers, drawn, strict=True)]
                entries = [MemoryEntry.stacked(rows) for rows in zip(*banks, strict=True)]
            condition = Condition.stacked([w.condition for w in walkers])
            level = self.model.step(features, condition, entries, frame, coarse=self.mode.coarse)[-1]
            levels |= {name: level[n : n + 1] for n, name in enumerate(group)}
        return levels

    def _entries(
        self, features: FrameFeatures, guidance: Mapping[str, torch.Tensor], frame: int, sketch: bool = False
    ) -> dict[str, MemoryEntry]:
        """Memory entries of objects from their ``guidance`` (1, 1, h, w), written together."""
        if not guidance:
            return {}
        write = self.model.sketch if sketch else self.model.remember
        together = write(features, torch.cat(list(guidance.values())).to(features.mask_features), frame)
        return {name: together[n : n + 1] for n, name in enumerate(guidance)}

    def _guidance(
        self, features: FrameFeatures, sizes: FrameSizes, found: Mapping[str, Found],
        predictions: Mapping[str, LevelPrediction],
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Where the objects are that the frame is written with, (1, 1, h, w) by object."""
        grid = tuple(features.mask_features.shape[-2:])
        guidance: dict[str, torch.Tensor] = {}
        for object_id in self.walkers:
            if object_id in found:
                blend = self.mode.shared and object_id in predictions
                own = blend_masks(predictions[object_id]) if blend else guidance_of(found[object_id][0], sizes, grid)
                guidance[object_id] = own.to(features.mask_features)
        return guidance

    def _remember(
        self, features: FrameFeatures, frame: int, guidance: Mapping[str, torch.Tensor], known: Collection[str]
    ) -> None:
        """Writes a frame into the banks, in the way of the mode; ``known``: objects whose mask was given there."""
        if self.mode.shared:
            if guidance:
                together = torch.stack(list(guidance.values())).amax(0)
                next(iter(self.walkers.values())).remember(features, together, frame)
            return
        for object_id, entry in self._entries(features, guidance, frame).items():
            self.walkers[object_id].memory.push(entry, pin=self.mode.pins and object_id in known)


def _alike(carried: np.ndarray | None, inside: np.ndarray) -> bool:
    """Whether two masks (h, w) 0..1 overlap by half; ``carried`` is None where nothing is in sight."""
    if carried is None:
        return False
    both = np.minimum(carried, inside).sum()
    return bool(both >= _SAME * np.maximum(carried, inside).sum())


def _first_of(segments: Segments, sizes: FrameSizes) -> Found:
    if not len(segments):
        return np.zeros(sizes.original, bool), 0.0
    return segments.masks[0], float(segments.scores[0])


def choose_query(level: LevelPrediction, sizes: FrameSizes, carried: np.ndarray | None) -> tuple[np.ndarray, float]:
    """The query that scores well and agrees with the mask carried along (h, w): its probability over the picture's
    part of the grid, float32 (h', w'), and its score."""
    height, width = (max(1, round(s / 4)) for s in sizes.scaled)
    probability = level.mask_logits[0, :, :height, :width].float().sigmoid()
    score = level.class_logits[0].float().softmax(-1)[:, 0]
    value = score
    if carried is not None:
        here = torch.from_numpy(cv2.resize(carried, (width, height), interpolation=cv2.INTER_AREA))
        here = here.to(probability.device)
        both = torch.minimum(probability, here).sum((-2, -1))
        value = score + both / torch.maximum(probability, here).sum((-2, -1)).clamp(min=1e-6)
    best = int(value.argmax())
    return probability[best].cpu().numpy(), float(score[best])


def seen_features(features: FrameFeatures, sizes: FrameSizes) -> np.ndarray:
    """float32 (h, w, C): the network's finest features over the picture's part of the grid."""
    height, width = (max(1, round(s / 4)) for s in sizes.scaled)
    return features.mask_features[0, :, :height, :width].float().permute(1, 2, 0).cpu().numpy()


def at_picture_size(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): where ``probability`` float32 (h, w), stretched over the picture, is more than one half."""
    return cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def guidance_of(mask: np.ndarray, sizes: FrameSizes, grid: tuple[int, int]) -> torch.Tensor:
    """A mask (H, W) as guidance (1, 1, h, w): the share of each cell that it covers, 0 in the padding."""
    plane = torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]
    inside = tuple(max(1, round(s * g / n)) for s, g, n in zip(sizes.scaled, grid, sizes.network, strict=True))
    small = F.interpolate(plane, inside, mode="area")
    return F.pad(small, (0, grid[1] - inside[1], 0, grid[0] - inside[0]))
