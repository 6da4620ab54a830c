"""Conditions walked over frames: one step per frame, the memory handed on. A picture is a walk of one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from x2sam.inference.follow import Follower, Scenery, Scenes, exclude
from x2sam.inference.postprocess import Prediction, Rule, Segments, State, new_state, postprocess
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.sketch import paint_mask
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.mask_memory import MaskMemory, MemoryEntry
from x2sam.model.memory_encoder import blend_masks
from x2sam.model.x2sam import X2SAM, FrameFeatures

Found = tuple[np.ndarray, float]
"""A mask bool (H, W) and its score."""

MODES = ("fifo", "per-object", "pinned")
"""How a track remembers.

fifo:       one bank for all objects, written with the blend of all queries: the paper's way
per-object: a bank for each object, written with the mask that was chosen; objects know nothing of one another
pinned:     per-object, and frames whose mask a person gave stay beside the bank (the default); where the masks of
            objects are followed by more than the network, they exclude one another
"""


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
        prediction = Prediction(level.mask_logits[0], level.class_logits[0], sizes)
        return postprocess(self.rule, prediction, self.state), level

    def step(self, features: FrameFeatures, time: int, extra: Sequence[MemoryEntry] = ()) -> LevelPrediction:
        """The network's prediction alone, for those who choose among the queries themselves."""
        return self.model.step(features, self.condition, [*self.memory.read(), *extra], time)[-1]

    def remember(self, features: FrameFeatures, guidance: torch.Tensor | LevelPrediction, time: int, pin: bool = False):
        """Writes the frame: ``features`` before memory, ``guidance`` (1, 1, h, w) or the prediction to blend."""
        self.memory.push(self.model.remember(features, guidance, time), pin)


@dataclass(eq=False)
class Anchor:
    """A frame where the object's mask is known: ``locked`` by a person, or proposed when it was prompted, or
    ``walked``: an earlier walk found it, which is gone on with."""

    frame: int
    mask: np.ndarray
    score: float = 1.0
    locked: bool = False
    walked: bool = False


@dataclass(eq=False)
class Tracked:
    """An object of a session: what it is (condition and rule of its prompt) and where it is known to be."""

    object_id: str
    condition: Condition
    rule: Rule
    anchors: dict[int, Anchor] = field(default_factory=dict)


class ObjectTrack:
    """Several objects walked together in one direction; each frame's features are made once for all of them.

    Models that know sketches, in every mode but ``fifo``, get the mask of the frame before as a rough sketch on this
    one, moved along by optical flow; what they answer is one piece of evidence among others
    (:mod:`x2sam.inference.follow`).
    """

    def __init__(self, model: X2SAM, objects: Sequence[Tracked], mode: str):
        if mode not in MODES:
            raise ValueError(f"there is no memory mode {mode!r}; use one of {', '.join(MODES)}")
        self.model, self.mode = model, mode
        shared = MaskMemory(model.config.memory.slots) if mode == "fifo" else None
        make = lambda: shared if shared is not None else MaskMemory(model.config.memory.slots)  # noqa: E731
        self.walkers = {o.object_id: Walker(model, o.condition, o.rule, make()) for o in objects}
        self.objects = {o.object_id: o for o in objects}
        self.started: set[str] = set()
        self.scenes = Scenes() if mode != "fifo" and model.config.memory.sketch else None
        self.followers = {o.object_id: Follower() for o in objects} if self.scenes is not None else {}

    def advance(
        self, features: FrameFeatures, sizes: FrameSizes, frame: int, picture: np.ndarray,
        plain: FrameFeatures | None = None,
    ) -> dict[str, Found]:  # fmt: skip
        """Masks (H, W) and scores by object id on ``frame``; objects that no anchor was met of yet are left out.

        picture: uint8 (H, W, 3), the frame itself; plain: its features as those of a later frame, where ``features``
        are those of the first
        """
        anchors = {k: o.anchors[frame] for k, o in self.objects.items() if frame in o.anchors}
        self.started |= anchors.keys()
        others = [k for k in self.walkers if k in self.started and k not in anchors]
        found: dict[str, Found] = {k: (a.mask, a.score) for k, a in anchors.items()}
        predictions: dict[str, LevelPrediction] = {}
        if self.scenes is None:
            for object_id in others:
                segments, predictions[object_id] = self.walkers[object_id].look(features, sizes, frame)
                found[object_id] = _first_of(segments, sizes)
        else:
            scenery = self.scenes.look(picture, seen_features(plain or features, sizes))
            found |= self._follow(scenery, features, sizes, frame, others, anchors)
        self._remember(features, sizes, frame, found, anchors, predictions)
        return {k: found[k] for k in self.walkers if k in found}

    def probabilities(self) -> dict[str, np.ndarray]:
        """Of the frame walked last, float32 (h, w) on the working grid; only of objects that are followed."""
        return {k: f.mask for k, f in self.followers.items() if f.mask is not None}

    def _follow(
        self, scenery: Scenery, features: FrameFeatures, sizes: FrameSizes, frame: int, others: Sequence[str],
        anchors: Mapping[str, Anchor],
    ) -> dict[str, Found]:  # fmt: skip
        """The objects that no mask is known of here. Those that are known hide them, not the other way round."""
        scores: dict[str, float] = {}
        masks: dict[str, np.ndarray] = {}
        for object_id, anchor in anchors.items():
            if anchor.walked:
                self.followers[object_id].settle(scenery, scenery.of_picture(anchor.mask))
            else:
                self.followers[object_id].learn(scenery, anchor.mask)
        for object_id in others:
            follower, walker = self.followers[object_id], self.walkers[object_id]
            carried = follower.expect(scenery)
            level = walker.step(features, frame, self._sketch(features, sizes, frame, carried))
            net, scores[object_id] = choose_query(level, sizes, carried)
            masks[object_id] = follower.decide(scenery, carried, net)
        known = {k: self.followers[k].mask for k in anchors}
        if self.mode == "pinned":
            masks = {k: m for k, m in exclude({**masks, **known}).items() if k not in anchors}
        found: dict[str, Found] = {}
        for object_id, probability in masks.items():
            self.followers[object_id].settle(scenery, probability)
            mask = at_picture_size(probability, sizes.original)
            found[object_id] = (mask, scores[object_id] if mask.any() else 0.0)
        return found

    def _sketch(
        self, features: FrameFeatures, sizes: FrameSizes, frame: int, carried: np.ndarray | None
    ) -> list[MemoryEntry]:
        """Left out where the object was out of sight, so that only the memory says where it comes back."""
        if carried is None:
            return []
        guidance = guidance_of(carried, sizes, tuple(features.mask_features.shape[-2:]))
        return [self.model.sketch(features, paint_mask(guidance).to(features.mask_features), frame)]

    def _remember(
        self, features: FrameFeatures, sizes: FrameSizes, frame: int, found: Mapping[str, Found],
        anchors: Mapping[str, Anchor], predictions: Mapping[str, LevelPrediction],
    ) -> None:  # fmt: skip
        """Writes the frame into the banks, in the way of the mode."""
        grid = tuple(features.mask_features.shape[-2:])
        written: list[torch.Tensor] = []
        for object_id, walker in self.walkers.items():
            if object_id not in found:
                continue
            blend = self.mode == "fifo" and object_id in predictions
            guidance = blend_masks(predictions[object_id]) if blend else guidance_of(found[object_id][0], sizes, grid)
            guidance = guidance.to(features.mask_features)
            if self.mode == "fifo":
                written.append(guidance)
            else:
                known = object_id in anchors and not anchors[object_id].walked
                walker.remember(features, guidance, frame, pin=self.mode == "pinned" and known)
        if written:
            together = torch.stack(written).amax(0)
            next(iter(self.walkers.values())).remember(features, together, frame)


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
