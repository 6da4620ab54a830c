"""Rows of the data engine -> tensors: pixels for the mask encoder, patches and tokens for the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from x2sam.data.engine import DataEngine
from x2sam.data.engine_rows import ABSENT, TaskRow
from x2sam.data.tasks import VIDEO, Task
from x2sam.errors import PromptError, TrainingError
from x2sam.inference.conversation import ChatEncoder, ChatTokens, ExpandedTokens, Turn, expand
from x2sam.inference.preprocess import (
    FrameSizes,
    PreprocessConfig,
    frame_sizes,
    mask_frames,
    region_masks,
    vlm_image,
    vlm_video,
)
from x2sam.training.batches import Place
from x2sam.training.matching import Target
from x2sam.training.words import Words, collate_words, split_views


@dataclass(eq=False)
class TaskBatch:
    """B samples of one task, ``T`` frames each.

    pixels:        float32 (B, T, 3, S, S); T is 0 for chats
    words:         the conversations, None without words (first stage)
    masks, labels: per sample bool (T, N, S, S) and int64 (T, N), :data:`ABSENT` where a mask is not in sight
    valid:         bool (B, T, S, S), False on ignore pixels and padding; None when everything counts
    region_frames: per sample the frame that its regions are drawn on
    """

    task: Task
    pixels: Tensor
    words: Words | None
    masks: list[Tensor]
    labels: list[Tensor]
    valid: Tensor | None
    region_frames: list[int]
    names: list[str]
    broken: list[str]
    empty: int = 0

    def to(self, device: torch.device | str) -> TaskBatch:
        return replace(
            self,
            pixels=self.pixels.to(device),
            words=None if self.words is None else self.words.to(device),
            masks=[one.to(device) for one in self.masks],
            labels=[one.to(device) for one in self.labels],
            valid=None if self.valid is None else self.valid.to(device),
        )

    def targets(self, offsets: Sequence[int]) -> list[Target]:
        """What each frame should show, all first frames, then all second ones ...; labels begin at ``offsets`` (B,)."""
        found = []
        for time in range(self.pixels.shape[1]):
            for row, (masks, labels, offset) in enumerate(zip(self.masks, self.labels, offsets, strict=True)):
                numbered = torch.where(labels[time] == ABSENT, ABSENT, labels[time] + offset)
                found.append(Target(masks[time], numbered, None if self.valid is None else self.valid[row, time]))
        return found


class TaskBatches:
    """The steps of one process: the data engine's rows as batches. ``encoder`` is None without words."""

    def __init__(
        self,
        engine: DataEngine,
        encoder: ChatEncoder | None,
        views: PreprocessConfig,
        region_tokens: int,
        place: Place = Place(),
    ):
        self.engine, self.encoder, self.views, self.place = engine, encoder, views, place
        self.region_tokens = region_tokens

    def step(self, number: int) -> list[TaskBatch]:
        return [
            self.collate(found.rows, found.broken, found.empty) for found in self.engine.step(number, self.place.index)
        ]

    def collate(self, rows: Sequence[TaskRow], broken: Sequence[str] = (), empty: int = 0) -> TaskBatch:
        counts = {len(row.frames) for row in rows}
        if len(counts) > 1:
            raise TrainingError(
                f"clips of one batch have {sorted(counts)} annotated frames ({', '.join(r.key for r in rows)}); "
                "set batch.clips = 1"
            )
        sizes = [frame_sizes(*row.masks.shape[2:], self.views) for row in rows]
        masks = [network_masks(row.masks, size) for row, size in zip(rows, sizes, strict=True)]
        labels = [
            torch.where(mask.flatten(2).any(2), torch.from_numpy(row.labels), ABSENT)
            for mask, row in zip(masks, rows, strict=True)
        ]
        return TaskBatch(
            task=rows[0].task,
            pixels=torch.stack([self._pixels(row) for row in rows]),
            words=None if self.encoder is None else self._words(rows, sizes),
            masks=masks,
            labels=labels,
            valid=_valid(rows, sizes),
            region_frames=[row.region_frame for row in rows],
            names=[row.key for row in rows],
            broken=list(broken),
            empty=empty,
        )

    def _pixels(self, row: TaskRow) -> Tensor:
        if not len(row.frames):
            return torch.zeros(0, 3, *self.views.mask_size)
        return mask_frames(row.frames, self.views).pixels

    def _words(self, rows: Sequence[TaskRow], sizes: Sequence[FrameSizes]) -> Words:
        views = [
            vlm_video(row.seen, self.views) if row.task.modality == VIDEO else vlm_image(row.seen[0], self.views)
            for row in rows
        ]
        tokens = [
            encode_turns(self.encoder, row.turns, view.grid, self.region_tokens)
            for row, view in zip(rows, views, strict=True)
        ]
        regions = [
            region_masks(row.regions, size).bool().numpy() if len(row.regions) else np.zeros((0, *size.network), bool)
            for row, size in zip(rows, sizes, strict=True)
        ]
        return collate_words(tokens, regions, range(len(rows)), *split_views(views))


def encode_turns(
    encoder: ChatEncoder, turns: Sequence[Turn], grid: tuple[int, int, int], region_tokens: int
) -> ExpandedTokens:
    """All turns of a conversation behind each other; every answer is learned."""
    parts = [encoder.encode(turn, grid) for turn in turns]
    if not parts:
        raise PromptError("there is no turn to encode; give a question and its answer")
    names = ("token_ids", "labels", "cond_ids", "seg_ids")
    tokens = ChatTokens(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    return expand(tokens, tokens.visual_rows, [region_tokens] * tokens.regions)


def network_masks(masks: np.ndarray, sizes: FrameSizes) -> Tensor:
    """bool (T, N, H, W) at picture size -> (T, N, S, S) at the mask encoder's, nearest by pixel centres."""
    values = torch.from_numpy(np.ascontiguousarray(masks)).to(torch.uint8)
    if not values.shape[0] * values.shape[1]:
        return torch.zeros(*masks.shape[:2], *sizes.network, dtype=torch.bool)
    if values.shape[2:] != sizes.scaled:
        values = F.interpolate(values, sizes.scaled, mode="nearest-exact")
    below, right = (n - s for n, s in zip(sizes.network, sizes.scaled, strict=True))
    return F.pad(values, (0, right, 0, below)).bool()


def _valid(rows: Sequence[TaskRow], sizes: Sequence[FrameSizes]) -> Tensor | None:
    if all(row.ignore is None and size.scaled == size.network for row, size in zip(rows, sizes, strict=True)):
        return None
    known = []
    for row, size in zip(rows, sizes, strict=True):
        shape = (len(row.frames), *row.masks.shape[2:])
        counts = np.ones(shape, bool) if row.ignore is None else ~row.ignore
        known.append(network_masks(counts[:, None], size)[:, 0])
    return torch.stack(known)
