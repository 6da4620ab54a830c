"""Stage 3: one step of the whole model on any task, pictures and clips alike (X2SAM, joint training).

Losses of the language model and of the masks, each with weight 1; a clip's frames are walked in order with the memory
that the model serves with, and each is matched by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.mask_memory import MaskMemory, MemoryEntry
from x2sam.model.x2sam import X2SAM, EncodedFrame
from x2sam.training.losses import LossConfig, language_model_loss, segmentation_losses
from x2sam.training.settings import StageConfig
from x2sam.training.task_batches import TaskBatch
from x2sam.training.words import read_words


class JointObjective(nn.Module):
    logged = ("loss_mask", "loss_dice", "loss_cls", "language")

    def __init__(self, model: X2SAM, config: StageConfig):
        super().__init__()
        self.model, self.config = model, config
        self.losses = LossConfig.with_points(config.points)
        if config.checkpointing:
            kept = {"use_reentrant": False}
            model.vision_language.language.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kept)

    def forward(self, batch: TaskBatch, number: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses by name (weighted), and the mask losses' sum under the task's name, for the log."""
        frames = self._encode(batch) if batch.task.segments else []
        states = read_words(self.model, batch.words, _prompted(frames, batch))
        head = self.model.vision_language.word_logits
        language = language_model_loss(states, batch.words.labels, head)
        losses = {"language": self.config.language * language}
        if not frames:
            return losses, {f"language/{batch.task.key}": float(language.detach())}
        # referring and reasoning: every sample sees the phrases of all, those of the others as wrong answers
        share = batch.task.shares_conditions
        condition = self.model.condition(states, batch.words.cond_ids, batch.words.seg_ids, share)
        counts = batch.words.phrases
        offsets = [0, *accumulate(counts)][:-1] if share else [0] * len(counts)
        levels = _stacked(list(self._walk(frames, condition, every_level=True)))
        masks = segmentation_losses(levels, batch.targets(offsets), self.losses, names=batch.names * len(frames))
        losses |= masks
        return losses, {f"masks/{batch.task.key}": float(sum(value.detach() for value in masks.values()))}

    def look(self, batch: TaskBatch) -> tuple[Tensor, LevelPrediction, Tensor] | None:
        """The first sample's first frame (3, S, S), what is found in it, and the truth (N, S, S); None for a chat."""
        if not batch.task.segments:
            return None
        frames = self._encode(batch)
        states = read_words(self.model, batch.words, _prompted(frames, batch))
        condition = self.model.condition(
            states, batch.words.cond_ids, batch.words.seg_ids, batch.task.shares_conditions
        )
        level = next(iter(self._walk(frames[:1], condition, every_level=False)))[-1]
        first = LevelPrediction(level.mask_logits[:1], level.class_logits[:1], level.queries[:1])
        return batch.pixels[0, 0], first, batch.masks[0][0]

    def _encode(self, batch: TaskBatch) -> list[EncodedFrame]:
        """One entry per time, each of B frames: few at once, since inner states of 1024 x 1024 pixels are large."""
        return [self._run(self.model.encode, pixels) for pixels in batch.pixels.unbind(1)]

    def _walk(self, frames: list[EncodedFrame], condition: Condition, every_level: bool):
        """Predictions of each frame in order, (levels) lists; the memory is that of the model in service."""
        memory = MaskMemory(self.model.config.memory.slots)
        for time, encoded in enumerate(frames):
            last = time == len(frames) - 1
            levels, entry = self._run(self._frame, encoded, condition, memory.read(), time, every_level, not last)
            if entry is not None:
                memory.push(entry)
            yield levels

    def _frame(
        self,
        encoded: EncodedFrame,
        condition: Condition,
        memory: list[MemoryEntry],
        time: int,
        every_level: bool,
        remember: bool,
    ) -> tuple[list[LevelPrediction], MemoryEntry | None]:
        features = self.model.decode_pixels(encoded, first=time == 0)
        levels = self.model.step(features, condition, memory, time, every_level)
        return levels, self.model.remember(features, levels[-1], time) if remember else None

    def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if not (self.config.checkpointing and torch.is_grad_enabled()):
            return work(*arguments)
        return partial(checkpoint, use_reentrant=False)(work, *arguments)


def _prompted(frames: list[EncodedFrame], batch: TaskBatch) -> Tensor | None:
    """Stage 3 of the mask encoder (B, h, w, width) on the frame that each sample's regions are drawn on."""
    if not frames:
        return None
    return torch.stack([frames[time].stage3[row] for row, time in enumerate(batch.region_frames)])


def _stacked(frames: list[list[LevelPrediction]]) -> list[LevelPrediction]:
    """Frames of a clip become rows of the batch: all first frames, then all second ones ..."""
    parts = ("mask_logits", "class_logits", "queries")
    return [
        LevelPrediction(*(torch.cat([getattr(level, part) for level in levels]) for part in parts))
        for levels in zip(*frames, strict=True)
    ]
