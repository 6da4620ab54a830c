"""Conditions walked over frames: one step per frame, the memory handed on. A picture is a walk of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from x2sam.inference.postprocess import Prediction, Rule, Segments, State, new_state, postprocess
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.sketch import paint_mask
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.mask_memory import MaskMemory, MemoryEntry
from x2sam.model.memory_encoder import blend_masks
from x2sam.model.x2sam import X2SAM, FrameFeatures

MODES = ("fifo", "per-object", "pinned")
"""How a track remembers.

fifo:       one bank for all objects, written with the blend of all queries: the paper's way
per-object: a bank for each object, written with the mask that was chosen
pinned:     per-object, and frames whose mask a person gave stay beside the bank (the default)
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
        level = self.model.step(features, self.condition, [*self.memory.read(), *extra], time)[-1]
        prediction = Prediction(level.mask_logits[0], level.class_logits[0], sizes)
        return postprocess(self.rule, prediction, self.state), level

    def remember(self, features: FrameFeatures, guidance: torch.Tensor | LevelPrediction, time: int, pin: bool = False):
        """Writes the frame: ``features`` before memory, ``guidance`` (1, 1, h, w) or the prediction to blend."""
        self.memory.push(self.model.remember(features, guidance, time), pin)


@dataclass(eq=False)
class Anchor:
    """A frame where the object's mask is known: ``locked`` by a person, or proposed when it was prompted."""

    frame: int
    mask: np.ndarray
    score: float = 1.0
    locked: bool = False


@dataclass(eq=False)
class Tracked:
    """An object of a session: what it is (condition and rule of its prompt) and where it is known to be."""

    object_id: str
    condition: Condition
    rule: Rule
    anchors: dict[int, Anchor] = field(default_factory=dict)


class ObjectTrack:
    """Several objects walked together in one direction; each frame's features are made once for all of them."""

    def __init__(self, model: X2SAM, objects: Sequence[Tracked], mode: str):
        if mode not in MODES:
            raise ValueError(f"there is no memory mode {mode!r}; use one of {', '.join(MODES)}")
        self.model, self.mode = model, mode
        shared = MaskMemory(model.config.memory.slots) if mode == "fifo" else None
        make = lambda: shared if shared is not None else MaskMemory(model.config.memory.slots)  # noqa: E731
        self.walkers = {o.object_id: Walker(model, o.condition, o.rule, make()) for o in objects}
        self.objects = {o.object_id: o for o in objects}
        self.last: dict[str, torch.Tensor] = {}

    def _carried(self, object_id: str, features: FrameFeatures, frame: int) -> list[MemoryEntry]:
        """The mask of the frame before as a rough sketch on this one, for models that know sketches.

        Left out where the object was out of sight, so that only the memory says where it comes back.
        """
        before = self.last.get(object_id)
        if self.mode == "fifo" or not self.model.config.memory.sketch:
            return []
        if before is None or not bool((before > 0.5).any()):
            return []
        return [self.model.sketch(features, paint_mask(before), frame)]

    def advance(self, features: FrameFeatures, sizes: FrameSizes, frame: int) -> dict[str, tuple[np.ndarray, float]]:
        """Masks (H, W) and scores by object id on ``frame``; objects that no anchor was met of yet are left out."""
        out: dict[str, tuple[np.ndarray, float]] = {}
        written: list[torch.Tensor] = []
        grid = tuple(features.mask_features.shape[-2:])
        for object_id, walker in self.walkers.items():
            anchor = self.objects[object_id].anchors.get(frame)
            if anchor is not None:
                out[object_id] = (anchor.mask, anchor.score)
                guidance = guidance_of(anchor.mask, sizes, grid).to(features.mask_features)
                if self.mode == "pinned":
                    walker.remember(features, guidance, frame, pin=True)
                elif self.mode == "per-object":
                    walker.remember(features, guidance, frame)
            elif object_id in self.last:
                segments, level = walker.look(features, sizes, frame, self._carried(object_id, features, frame))
                mask = segments.masks[0] if len(segments) else np.zeros(sizes.original, bool)
                out[object_id] = (mask, float(segments.scores[0]) if len(segments) else 0.0)
                guidance = blend_masks(level) if self.mode == "fifo" else guidance_of(mask, sizes, grid)
                guidance = guidance.to(features.mask_features)
                if self.mode != "fifo":
                    walker.remember(features, guidance, frame)
            else:
                continue
            written.append(guidance)
            self.last[object_id] = guidance
        if self.mode == "fifo" and written:
            together = torch.stack(written).amax(0)
            next(iter(self.walkers.values())).remember(features, together, frame)
        return out


def guidance_of(mask: np.ndarray, sizes: FrameSizes, grid: tuple[int, int]) -> torch.Tensor:
    """A mask (H, W) as guidance (1, 1, h, w): the share of each cell that it covers, 0 in the padding."""
    plane = torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None]
    inside = tuple(max(1, round(s * g / n)) for s, g, n in zip(sizes.scaled, grid, sizes.network, strict=True))
    small = F.interpolate(plane, inside, mode="area")
    return F.pad(small, (0, grid[1] - inside[1], 0, grid[0] - inside[0]))
