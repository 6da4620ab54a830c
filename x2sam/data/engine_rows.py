"""One annotation -> what is asked and what is learned from it (X2SAM, data engine and unified task formulation).

Random, per sample: the template, the categories that are not there and the order of all of them, the kind of each drawn
prompt. Every random choice comes from one generator, so a sample and a seed give one row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from x2sam.data.prompts import KINDS, simulated_prompt
from x2sam.data.task_sample import TaskSample
from x2sam.data.tasks import IMAGE, ItemKind, Task, find_task, is_sentence
from x2sam.data.tokenizer import TURN_END, TURN_START
from x2sam.errors import FramesError, PromptError
from x2sam.inference.chat_text import Query, Turn, clean_text, render, tag_caption
from x2sam.inference.preprocess import PreprocessConfig, linspace_indices, rate_indices

ABSENT = -100
"""Label of an object in a frame where it is not in sight."""


class NothingToAskError(PromptError):
    """A sound sample in which nothing can be prompted, such as a clip without an object."""


@dataclass(frozen=True)
class RowConfig:
    """What a sample is cut down to.

    categories:  most names in a question of generic segmentation; regions: most phrases or regions elsewhere
    annotations: most masks of a picture without words (first stage)
    kinds:       drawn prompts, each as likely as the others
    frames:      most frames of the mask branch; language_frames, chat_frames: of the language model, in grounded
                 captions and in chats (elsewhere both see the same frames)
    thin:        of prompted clips the language model sees 2 frames a second, as published (of 8 frames 4); False shows
                 it all of them, as in service
    """

    categories: int = 128
    regions: int = 8
    annotations: int = 100
    kinds: tuple[str, ...] = tuple(KINDS)
    frames: int = 8
    language_frames: int = 16
    chat_frames: int = 64
    thin: bool = True

    def __post_init__(self) -> None:
        strange = sorted(set(self.kinds) - set(KINDS))
        if strange or not self.kinds:
            raise PromptError(f"kinds has {', '.join(strange) or 'nothing'}; choose among {', '.join(KINDS)}")


@dataclass(frozen=True, eq=False)
class TaskRow:
    """One sample as it is learned from. ``T`` frames of the mask branch, ``N`` masks, ``R`` drawn regions.

    turns:   question and answer of each turn, marks included; empty without words (first stage)
    frames:  uint8 (T, H, W, 3); T is 0 for a chat
    seen:    uint8 (t, H, W, 3), the frames that the language model sees
    regions: bool (R, H, W), drawn on ``frames[region_frame]``
    masks:   bool (T, N, H, W)
    labels:  int64 (T, N), which phrase, category or region each mask answers; :data:`ABSENT` where it is not in sight
    ignore:  bool (T, H, W) or None, pixels that count neither way
    """

    task: Task
    turns: tuple[Turn, ...]
    frames: np.ndarray
    seen: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    regions: np.ndarray
    region_frame: int = 0
    ignore: np.ndarray | None = None
    key: str = ""


@dataclass(frozen=True, eq=False)
class _Asked:
    """The question, which masks answer it (indices), and which of its items each of them belongs to."""

    query: Query
    masks: np.ndarray
    labels: np.ndarray
    regions: tuple[np.ndarray, ...] = ()


class RowBuilder:
    def __init__(self, config: RowConfig = RowConfig(), views: PreprocessConfig = PreprocessConfig()):
        self.config, self.views = config, views

    def build(self, sample: TaskSample, rng: np.random.Generator) -> TaskRow:
        """The row of a sample with words. Raises an X2SAMError when nothing can be asked about it."""
        task = find_task(sample.task, sample.modality)
        _check(sample)
        if not task.segments:
            return self._chat(task, sample)
        prompted = task.items is ItemKind.REGIONS
        if prompted:
            sample = replace(sample, region_frame=_prompt_frame(sample))
        asked = _MAKERS[task.items](self, task, sample, rng)
        frames = self._frames(sample, sample.region_frame if prompted else None)
        turn = render(task, asked.query, random.Random(int(rng.integers(2**63))))
        return replace(
            _row(task, sample, frames, asked.masks, asked.labels),
            turns=(turn,),
            seen=sample.frames[self._seen(task, sample, frames)],
            regions=np.stack(asked.regions) if asked.regions else np.zeros((0, *sample.frames.shape[1:3]), bool),
            region_frame=int(np.searchsorted(frames, sample.region_frame)) if prompted else 0,
        )

    def without_words(self, sample: TaskSample, rng: np.random.Generator) -> TaskRow:
        """Every mask is an object and nothing is said about it (first stage); at most ``annotations`` of a sample."""
        _check(sample)
        count = sample.masks.shape[1]
        chosen = np.sort(rng.permutation(count)[: self.config.annotations])
        task = find_task(sample.task, sample.modality)
        return _row(task, sample, self._frames(sample, None), chosen, np.zeros(len(chosen), np.int64))

    # frames

    def _frames(self, sample: TaskSample, prompted: int | None) -> np.ndarray:
        """Indices of the frames that the mask branch sees: annotated ones, spread; the prompted one among them."""
        known = _annotated(sample)
        if len(known) > self.config.frames:
            known = known[linspace_indices(len(known), self.config.frames)]
        if prompted is not None and prompted not in known:
            known[np.abs(known - prompted).argmin()] = prompted
        return known

    def _seen(self, task: Task, sample: TaskSample, frames: np.ndarray) -> np.ndarray:
        if task.modality == IMAGE:
            return frames[:1]
        if task.generates:
            total = len(sample.frames)
            return np.array(linspace_indices(total, min(total, self.config.language_frames)))
        if task.benchmark_resample and self.config.thin:
            return frames[rate_indices(len(frames), None, self.views)]
        return frames

    # one maker for each kind of item

    def _categories(self, task: Task, sample: TaskSample, rng: np.random.Generator) -> _Asked:
        """Names in random order: those that are there, and a random number of those that are not."""
        there = np.unique(sample.labels)
        there = rng.permutation(there)[: self.config.categories]
        others = np.setdiff1d(np.arange(len(sample.items)), np.unique(sample.labels))
        room = min(len(others), self.config.categories - len(there))
        fewest = 0 if len(there) else 1
        if room < fewest:
            raise PromptError(f"{sample.key}: no category is named; add items to the annotation")
        extra = rng.permutation(others)[: int(rng.integers(fewest, room + 1))]
        names = rng.permutation(np.concatenate([there, extra]))
        kept = np.flatnonzero(np.isin(sample.labels, there))
        query = Query(phrases=tuple(sample.items[i] for i in names), caption=sample.caption)
        return _Asked(query, kept, _positions(names, sample.labels[kept]))

    def _phrase(self, task: Task, sample: TaskSample, rng: np.random.Generator) -> _Asked:
        item = int(rng.integers(len(sample.items)))
        text = sample.items[item]
        explained = sample.caption if task.items is ItemKind.SENTENCE else None
        kept = np.flatnonzero(sample.labels == item)
        query = Query(phrases=(text,), sentence=is_sentence(text), explanation=explained and clean_text(explained))
        return _Asked(query, kept, np.zeros(len(kept), np.int64))

    def _regions(self, task: Task, sample: TaskSample, rng: np.random.Generator) -> _Asked:
        """Up to ``regions`` examples, each answered by all masks with its label; one object for a single task."""
        frame = sample.region_frame
        if sample.regions is None:
            drawn = np.unique(sample.labels[sample.masks[frame].any((1, 2))])
        else:
            drawn = np.flatnonzero(sample.regions.any((1, 2)))
        most = 1 if task.single else self.config.regions
        chosen = np.sort(rng.permutation(drawn)[:most])
        if not len(chosen):
            raise NothingToAskError(f"{sample.key}: no object can be prompted; leave the sample out")
        kept = np.flatnonzero(np.isin(sample.labels, chosen))
        regions = tuple(self._draw(sample, int(label), rng) for label in chosen)
        return _Asked(Query(regions=len(chosen)), kept, _positions(chosen, sample.labels[kept]), regions)

    def _draw(self, sample: TaskSample, label: int, rng: np.random.Generator) -> np.ndarray:
        if sample.regions is not None:
            return sample.regions[label]
        here = sample.masks[sample.region_frame]
        example = int(rng.choice(np.flatnonzero((sample.labels == label) & here.any((1, 2)))))
        return simulated_prompt(here[example], rng, str(rng.choice(self.config.kinds)))

    def _caption(self, task: Task, sample: TaskSample, rng: np.random.Generator) -> _Asked:
        """The phrases of a caption, numbered as they are read; of too many, or of two that overlap, some stay words."""
        if not sample.caption or len(sample.spans) != len(sample.items):
            raise PromptError(f"{sample.key}: a grounded caption needs its text and a span for each phrase")
        kept_items: list[int] = []
        for item in sorted(range(len(sample.spans)), key=sample.spans.__getitem__):
            if not kept_items or sample.spans[item][0] >= sample.spans[kept_items[-1]][1]:
                kept_items.append(item)
        places = np.sort(rng.permutation(len(kept_items))[: self.config.regions])
        items = np.array(kept_items)[places]
        kept = np.flatnonzero(np.isin(sample.labels, items))
        caption = tag_caption(sample.caption, [sample.spans[i] for i in items])
        return _Asked(Query(caption=caption), kept, _positions(items, sample.labels[kept]))

    def _chat(self, task: Task, sample: TaskSample) -> TaskRow:
        if not sample.turns:
            raise PromptError(f"{sample.key}: a chat without a turn; leave the sample out")
        total = len(sample.frames)
        most = 1 if task.modality == IMAGE else self.config.chat_frames
        none = np.zeros(0, np.int64)
        return replace(
            _row(task, sample, none, none, none),
            turns=chat_turns(task, sample),
            seen=sample.frames[linspace_indices(total, min(total, most))],
        )


_MAKERS: dict[ItemKind, Callable[[RowBuilder, Task, TaskSample, np.random.Generator], _Asked]] = {
    ItemKind.CATEGORIES: RowBuilder._categories,
    ItemKind.PHRASE: RowBuilder._phrase,
    ItemKind.SENTENCE: RowBuilder._phrase,
    ItemKind.REGIONS: RowBuilder._regions,
    ItemKind.NONE: RowBuilder._caption,
}


def chat_turns(task: Task, sample: TaskSample) -> tuple[Turn, ...]:
    """The turns of a chat; only the first one shows the picture."""
    turns = []
    for number, turn in enumerate(sample.turns):
        answer = clean_text(turn.answer) + TURN_END
        if number == 0:
            turns.append(Turn(render(task, Query(question=turn.question)).input, answer))
        else:
            asked = f"{TURN_START}user\n{clean_text(turn.question)}{TURN_END}\n{TURN_START}assistant\n"
            turns.append(Turn(asked, answer))
    return tuple(turns)


def _check(sample: TaskSample) -> None:
    """Raises FramesError where the parts of a sample do not fit each other."""
    times, count = sample.masks.shape[:2]
    sizes = {sample.frames.shape[1:3], sample.masks.shape[2:]}
    sizes |= set() if sample.regions is None else {sample.regions.shape[1:]}
    if times not in (0, len(sample.frames)) or len(sizes) > 1 or sample.labels.shape != (count,):
        raise FramesError(
            f"{sample.key}: frames {sample.frames.shape}, masks {sample.masks.shape} and labels {sample.labels.shape} "
            "do not fit; mend the annotation"
        )
    items = len(sample.items) if sample.regions is None else len(sample.regions)
    if items and count and not 0 <= sample.labels.min() <= sample.labels.max() < items:
        raise FramesError(f"{sample.key}: a mask has a label that none of the {items} items has; mend the annotation")


def _annotated(sample: TaskSample) -> np.ndarray:
    known = np.arange(len(sample.frames)) if sample.annotated is None else np.flatnonzero(sample.annotated)
    if not len(known):
        raise FramesError(f"{sample.key}: no frame is annotated; leave the sample out")
    return known


def _prompt_frame(sample: TaskSample) -> int:
    """The frame that prompts are drawn on: the stated one, or else the one where most different objects are seen."""
    known = _annotated(sample)
    if sample.regions is not None:
        if sample.region_frame not in known:
            raise PromptError(f"{sample.key}: the prompts are drawn on a frame without ground truth; leave it out")
        return sample.region_frame
    if sample.region_frame in known and sample.masks[sample.region_frame].any():
        return sample.region_frame
    seen = sample.masks[known].any((2, 3))
    kinds = [len(np.unique(sample.labels[here])) for here in seen]
    return int(known[int(np.argmax(kinds))])


def _row(task: Task, sample: TaskSample, frames: np.ndarray, masks: np.ndarray, labels: np.ndarray) -> TaskRow:
    chosen = sample.masks[frames][:, masks] if len(frames) else np.zeros((0, 0, *sample.frames.shape[1:3]), bool)
    return TaskRow(
        task=task,
        turns=(),
        frames=sample.frames[frames],
        seen=sample.frames[:0],
        masks=chosen,
        labels=np.where(chosen.any((2, 3)), labels, ABSENT),
        regions=np.zeros((0, *sample.frames.shape[1:3]), bool),
        ignore=None if sample.ignore is None or not len(frames) else sample.ignore[frames],
        key=sample.key,
    )


def _positions(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each of ``values`` stands in ``order``, int64."""
    place = {int(value): index for index, value in enumerate(order)}
    return np.array([place[int(value)] for value in values], np.int64)
