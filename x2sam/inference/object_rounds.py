"""One object from clicks, boxes, strokes or a mask, corrected click by click.

A prompt with n clicks is answered in rounds: the first reads everything up to the first positive click, each later one
the answer before it and one more click. Rounds are remembered by the session, so the n-th click costs one decoder
pass; the same prompt gives the same mask whether or not its beginning was seen before.

Several objects whose rounds wait at the same time are answered together (:meth:`ObjectRounds.answer_all`).

Two routes. With ``memory.sketch`` the drawing and the answer so far are painted and read as memory of the same picture
(:mod:`x2sam.inference.sketch`); the words are read once. Without it (the published model) a correction changes the
region that the language model reads: previous mask plus positive minus negative discs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from x2sam.data.prompts import click_radius, disc, prompt_region
from x2sam.data.tasks import IMAGE, Task, find_task
from x2sam.errors import PromptError
from x2sam.inference.close_look import Window, window_of
from x2sam.inference.conversation import Query
from x2sam.inference.looking import Looking
from x2sam.inference.preprocess import FrameSizes, region_masks
from x2sam.inference.sketch import paint_clicks, paint_mask, paint_region
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.structures import Point, Prompt

# how much holding the clicks and agreeing with the answer before count beside a query's score (0..1)
HOLDS_CLICKS, AGREES = 1.0, 0.3


@dataclass(frozen=True, eq=False)
class Round:
    """An answer: ``probability`` float32 (h, w) of the picture's part of the mask grid, and what led to it; with a
    ``window``, all of that is about this part of the picture only. ``wide``, where a frame of a clip was looked at
    closely: condition and region of the whole frame."""

    probability: np.ndarray
    score: float
    condition: Condition
    region: torch.Tensor
    first_sketch: np.ndarray | None
    window: Window | None = None
    wide: tuple[Condition, torch.Tensor] | None = None

    @property
    def meaning(self) -> tuple[Condition, torch.Tensor]:
        """Condition and region by which the object is followed."""
        return self.wide or (self.condition, self.region)


@dataclass(frozen=True, eq=False)
class Ask:
    """The next round of an object: ``before`` is that of the prompt without its last click, ``mask`` its final mask
    bool (H, W)."""

    prompt: Prompt
    before: Round | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _Heard:
    """An ask as the network hears it: a region (H, W) at its size, the ``condition`` where that was read before, and
    where it knows sketches what is drawn float32 (h, w), with the part that was drawn at ``first``."""

    ask: Ask
    region: torch.Tensor
    condition: Condition | None = None
    guidance: np.ndarray | None = None
    first: np.ndarray | None = None


def rounds_of(prompt: Prompt) -> Iterator[Prompt]:
    """The prompt's beginnings, each one click longer than the one before; at least one.

    Raises PromptError when nothing positive is there to start from.
    """
    base = bool(prompt.boxes or prompt.strokes or prompt.masks or prompt.previous is not None)
    first = next((i for i, p in enumerate(prompt.points) if p.positive), None)
    if first is None and not base:
        raise PromptError("a negative click needs something to take away from; click on the object first")
    start = 0 if base else first + 1
    if base and not prompt.points:
        start = 0
    for count in range(start, len(prompt.points) + 1):
        yield replace(prompt, points=prompt.points[:count])


class ObjectRounds:
    """Answers single-object prompts about one piece of media. Device work: call from the scheduler's thread."""

    def __init__(self, looking: Looking, seed: int):
        self.looking, self.seed = looking, seed
        self.model = looking.model

    def answer(
        self, prompt: Prompt, before: Round | None, mask_before: np.ndarray | None, frame: int, task: Task
    ) -> Round:
        """The next round of one object; see :class:`Ask`."""
        return self.answer_all([Ask(prompt, before, mask_before)], frame, task)[0]

    def answer_all(self, asks: Sequence[Ask], frame: int, task: Task) -> list[Round]:
        """The next round of each of several objects on one frame, which know nothing of one another: what is read and
        decoded for them goes through the network as one batch, but for those that are looked at closely."""
        size, room = self.looking.sizes(frame).original, self.model.config.preprocess.close_room
        windows = [window_of(ask.prompt, size, room) for ask in asks]
        wide = [ask for ask, window in zip(asks, windows, strict=True) if window is None]
        together = iter(self._answer_all(wide, frame, task) if wide else ())
        return [
            next(together) if window is None else self._closely(ask, window, frame, task)
            for ask, window in zip(asks, windows, strict=True)
        ]

    def _closely(self, ask: Ask, window: Window, frame: int, task: Task) -> Round:
        """The next round about a part of the frame. The rounds before it were about the same part: they share the
        boxes, and clicks don't move it."""
        near = ObjectRounds(self.looking.closely(frame, window), self.seed)
        mask = None if ask.mask is None else ask.mask[window.pixels]
        (answer,) = near._answer_all([Ask(window.moved(ask.prompt), ask.before, mask)], 0, find_task(task.name, IMAGE))
        wide = None if ask.before is None else ask.before.wide
        if wide is None and len(self.looking) > 1:
            region = _region(_positive(ask.prompt), self.looking.sizes(frame))
            wide = self.read(region, frame, task), region
        return replace(answer, window=window, wide=wide)

    def _answer_all(self, asks: Sequence[Ask], frame: int, task: Task) -> list[Round]:
        sizes = self.looking.sizes(frame)
        hear = self._sketched if self.model.config.memory.sketch else self._worded
        heard = [hear(ask, sizes) for ask in asks]
        read = iter(self.read_all([one.region for one in heard if one.condition is None], frame, task))
        conditions = [next(read) if one.condition is None else one.condition for one in heard]
        sketch = None
        if self.model.config.memory.sketch:
            drawn = torch.from_numpy(np.stack([one.guidance for one in heard]))[:, None]
            sketch = drawn.to(self.looking.features(frame).mask_features)
        level = self.looking.decode(frame, Condition.stacked(conditions), sketch)
        rounds = []
        for one, condition, answer in zip(heard, conditions, level.answers(conditions), strict=True):
            previous = None if one.ask.before is None else one.ask.before.probability
            found = choose(answer, one.ask.prompt.points, previous, sizes)
            rounds.append(Round(*found, condition, one.region, one.first))
        return rounds

    def read(self, region: torch.Tensor, frame: int, task: Task) -> Condition:
        """The condition of one drawn region (H, W) at the network's size."""
        return self.read_all([region], frame, task)[0]

    def read_all(self, regions: Sequence[torch.Tensor], frame: int, task: Task) -> list[Condition]:
        """The conditions of several drawn regions, a question for each."""
        interpreter, questions = self.looking.interpreter, []
        for region in regions:
            generator = torch.Generator().manual_seed(self.seed)  # for each, so that it is drawn as if alone
            tokens = self.model.tokens_on(self.looking.region_map(frame), region[None], generator)
            questions.append((interpreter.render(task, Query(regions=1)), tokens))
        return interpreter.read_all(self.looking.looked(task, frame), questions) if questions else []

    def _sketched(self, ask: Ask, sizes: FrameSizes) -> _Heard:
        before, condition = ask.before, None
        if before is None:
            region, first = self._first_sketch(ask.prompt, sizes)
            guidance = first
        else:
            region, condition, first = before.region, before.condition, before.first_sketch
            guidance = _overrule(paint_mask(before.probability), first)
        guidance = paint_clicks(guidance, *self._click_rasters(ask.prompt.points, sizes))
        return _Heard(ask, region, condition, guidance, first)

    def _worded(self, ask: Ask, sizes: FrameSizes) -> _Heard:
        prompt = ask.prompt
        radius = click_radius(sizes.original)
        if ask.before is None and prompt.previous is None:
            drawn = prompt_region(_positive(prompt), sizes.original, radius)
        else:
            drawn = (prompt.previous if ask.mask is None else ask.mask).copy()
            for point in prompt.points:
                drawn[disc(sizes.original, point.x, point.y, radius)] = point.positive
            if not drawn.any():
                drawn = prompt_region(_positive(prompt), sizes.original, radius)
        return _Heard(ask, region_masks([drawn], sizes)[0])

    def _first_sketch(self, prompt: Prompt, sizes: FrameSizes) -> tuple[torch.Tensor, np.ndarray]:
        """The region for the language model at network size, and the sketch without clicks (h, w)."""
        grid = tuple(side // 4 for side in sizes.network)
        drawn = _positive(prompt)
        if prompt.previous is not None and prompt.previous.any():
            drawn = replace(drawn, masks=(*drawn.masks, prompt.previous))
        region = _region(drawn, sizes)
        kind = "mask" if drawn.masks else "box" if drawn.boxes else "scribble" if drawn.strokes else "point"
        if kind == "point":
            return region, np.full(grid, 0.5, np.float32)
        shape = region_masks([prompt_region(replace(drawn, points=()), sizes.original, None)], sizes)[0]
        return region, paint_region(shape.numpy() != 0, kind, grid)

    def _click_rasters(self, points: tuple[Point, ...], sizes: FrameSizes) -> tuple[np.ndarray, np.ndarray]:
        """Positive and negative discs at network size, bool (S, S). Where two overlap the later one holds."""
        scale_y, scale_x = (s / o for s, o in zip(sizes.scaled, sizes.original, strict=True))
        radius = click_radius(sizes.original)
        signs = np.zeros(sizes.network, np.int8)
        rows, cols = np.ogrid[: sizes.network[0], : sizes.network[1]]
        for point in points:
            dx = (cols + 0.5 - point.x * scale_x) / max(radius * scale_x, 1.6)
            dy = (rows + 0.5 - point.y * scale_y) / max(radius * scale_y, 1.6)
            signs[dx * dx + dy * dy <= 1] = 1 if point.positive else -1
        return signs > 0, signs < 0


def choose(
    level: LevelPrediction, points: Sequence[Point], previous: np.ndarray | None, sizes: FrameSizes
) -> tuple[np.ndarray, float]:
    """The query that holds the positive clicks, leaves out the negative ones, agrees with the answer before and scores
    well: its probability float32 (h, w) over the picture's part of the grid, and its score."""
    probability = picture_part(level.mask_logits[0].float().sigmoid(), sizes)
    score = level.class_logits[0].float().softmax(-1)[:, 0]
    value = score.clone()
    if points:
        grid = torch.tensor(
            [[2 * p.x / sizes.original[1] - 1, 2 * p.y / sizes.original[0] - 1] for p in points],
            dtype=probability.dtype,  # places may be numpy's numbers, of which double ones would be made
            device=probability.device,
        )
        at = F.grid_sample(probability[None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
        wanted = torch.tensor([p.positive for p in points], device=at.device)
        value = value + HOLDS_CLICKS * torch.where(wanted, at, 1 - at).mean(1)
    best = value.argmax()
    if previous is not None:
        # Agreeing counts for AGREES at most: queries that are further behind can't win and are not compared.
        left = torch.nonzero(value >= value[best] - AGREES)[:, 0]
        overlap = _soft_overlap(probability[left], torch.from_numpy(previous).to(probability.device))
        best = left[(value[left] + AGREES * overlap).argmax()]
    return probability[best].cpu().numpy(), float(score[best])


def picture_part(maps: torch.Tensor, sizes: FrameSizes) -> torch.Tensor:
    """The part of maps (n, h, w) that the picture lies on, without the padding.

    Where the picture ends within a cell the part is sampled anew, so that it fits the picture edge to edge.
    """
    ends = [have * side / whole for have, side, whole in zip(maps.shape[-2:], sizes.scaled, sizes.network, strict=True)]
    height, width = (max(1, round(end)) for end in ends)
    if ends == [height, width]:
        return maps[:, :height, :width]
    y, x = (
        ((torch.arange(count, device=maps.device) + 0.5) / count * end / have * 2 - 1)
        for count, end, have in zip((height, width), ends, maps.shape[-2:], strict=True)
    )
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).to(maps.dtype)
    return F.grid_sample(maps[None], grid[None], padding_mode="border", align_corners=False)[0]


def _positive(prompt: Prompt) -> Prompt:
    return replace(prompt, points=tuple(p for p in prompt.points if p.positive), previous=None)


def _region(drawn: Prompt, sizes: FrameSizes) -> torch.Tensor:
    return region_masks([prompt_region(drawn, sizes.original, click_radius(sizes.original))], sizes)[0]


def _overrule(answer: np.ndarray, sketch: np.ndarray) -> np.ndarray:
    """An answer so far, held to what the first sketch (h, w) was certain of; the padding beside the picture is 0."""
    answer = np.pad(answer, [(0, whole - part) for part, whole in zip(answer.shape, sketch.shape, strict=True)])
    held = np.where(sketch >= 0.95, sketch, answer)
    return np.where(sketch <= 0.05, np.minimum(held, sketch + 0.25), held).astype(np.float32)


def _soft_overlap(masks: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    inter = torch.minimum(masks, reference).sum((-2, -1))
    return inter / torch.maximum(masks, reference).sum((-2, -1)).clamp(min=1e-6)
