"""What is asked about a sample: its frames in chunks and the questions of each chunk (X2SAM, evaluation protocols).

Chunks of eight frames are asked one by one, nothing is carried from one to the next; frames without ground truth are
left out beforehand. All categories stand in one question, an expression in one of its own; "all like this" has one
region for each category in sight, and a followed object is prompted again by its true mask at the start of each chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.data.prompts import CLICK_RADIUS, prompt_region
from x2sam.data.task_sample import TaskSample
from x2sam.data.tasks import VIDEO, ItemKind, Task, find_task
from x2sam.errors import PromptError
from x2sam.evaluation.clicks import PROMPTS, first_prompt

SAMPLINGS = ("chunks", "interleaved", "spread")
_SAMPLING_OF = {"reaseg": "interleaved", "gcgseg": "spread"}
SPREAD_FRAMES = 16


@dataclass(frozen=True)
class Protocol:
    """chunk: frames that are asked together; sampling: ``chunks`` (consecutive), ``interleaved`` (each chunk spread
    over the clip) or ``spread`` (16 frames of the whole clip, once), by default the task's; prompt: how a region is
    drawn where the annotation brings none; several: an expression may mean several objects or none; threshold: least
    score, by default that of the task's benchmarks."""

    chunk: int = 8
    sampling: str | None = None
    prompt: str = "click"
    several: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise PromptError(f"a chunk of {self.chunk} frames can't be asked; use 1 or more")
        if self.prompt not in PROMPTS:
            raise PromptError(f"prompt {self.prompt!r} is unknown; use one of {', '.join(PROMPTS)}")
        if self.sampling is not None and self.sampling not in SAMPLINGS:
            raise PromptError(f"sampling {self.sampling!r} is unknown; use one of {', '.join(SAMPLINGS)}")

    def sampling_for(self, task: Task) -> str:
        return self.sampling or _SAMPLING_OF.get(task.name, "chunks")

    def threshold_for(self, task: Task) -> float:
        return task.benchmark_threshold if self.threshold is None else self.threshold

    def prompt_for(self, task: Task) -> str:
        """Followed objects are shown by their mask, as the benchmarks do."""
        return "mask" if task.select == "object" else self.prompt

    def described(self, task: Task) -> dict:
        """What was in force, for a result: only what matters to the task."""
        settings: dict = {"threshold": self.threshold_for(task), "several": self.several}
        if task.modality == VIDEO:
            settings |= {"sampling": self.sampling_for(task), "chunk": self.chunk}
        if task.items is ItemKind.REGIONS:
            settings["prompt"] = self.prompt_for(task)
        return settings


@dataclass(frozen=True, eq=False)
class Question:
    """One prompt about some frames of a chunk.

    frames:  indices into the sample's frames, in order of time
    labels:  which of the sample's items (or regions) the asked ones are, in their order
    items:   their names or words; empty for grounded captions
    things:  for categories, whether each is countable
    regions: bool (K, H, W), drawn on the first of ``frames``; None where nothing is drawn
    targets: indices of the sample's masks that the answer should be
    chunk:   number of the chunk in the clip
    """

    task: Task
    frames: tuple[int, ...]
    targets: tuple[int, ...]
    labels: tuple[int, ...] = ()
    items: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    regions: np.ndarray | None = None
    chunk: int = 0

    def truth(self, sample: TaskSample, frame: int) -> np.ndarray:
        """bool (H, W): all that is asked for on a frame, as one mask."""
        return sample.masks[frame, list(self.targets)].any(0)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames (indices into the sample's) and what is asked about them."""

    frames: tuple[int, ...]
    questions: tuple[Question, ...]


def task_of_sample(sample: TaskSample) -> Task:
    return find_task(sample.task, sample.modality)


def name_of(sample: TaskSample, label: int) -> str:
    """The name of an item of a sample; numbered where the annotation has no names."""
    return sample.items[label] if label < len(sample.items) else f"region {label}"


def ignored(sample: TaskSample, frame: int) -> np.ndarray | None:
    """bool (H, W): pixels that count neither way, None for none."""
    return None if sample.ignore is None else sample.ignore[frame]


def plan(sample: TaskSample, protocol: Protocol) -> Iterator[Chunk]:
    """The chunks of a sample in order. Chunks in which there is nothing to ask are left out.

    Raises PromptError for a task that has no masks.
    """
    task = task_of_sample(sample)
    if not task.segments:
        raise PromptError(f"the task {task.name} answers in words; multiple choice is scored by 'evaluate mcq'")
    for number, frames in enumerate(chunks_of(sample, task, protocol)):
        questions = tuple(_ASK[task.items](sample, task, frames, number, protocol))
        if questions:
            yield Chunk(frames, questions)


def chunks_of(sample: TaskSample, task: Task, protocol: Protocol) -> list[tuple[int, ...]]:
    """Indices of the frames with ground truth, cut as the protocol says."""
    # Late: preprocessing brings PyTorch along, and plans are made in tests and for --help without it.
    from x2sam.inference.preprocess import chunk_indices, interleaved_indices, linspace_indices

    known = np.arange(len(sample.frames)) if sample.annotated is None else np.flatnonzero(sample.annotated)
    if task.modality != VIDEO:
        return [(int(k),) for k in known]
    sampling = protocol.sampling_for(task)
    if sampling == "spread":
        cuts = [sorted(set(linspace_indices(len(known), min(SPREAD_FRAMES, len(known)))))] if len(known) else []
    elif sampling == "interleaved":
        cuts = interleaved_indices(len(known), protocol.chunk)
    else:
        cuts = chunk_indices(len(known), protocol.chunk) or [[k] for k in range(len(known))]
    return [tuple(int(known[k]) for k in cut) for cut in cuts if cut]


def _categories(sample: TaskSample, task: Task, frames, number: int, protocol: Protocol) -> Iterator[Question]:
    labels = tuple(range(len(sample.items)))
    things = sample.things or (True,) * len(labels)
    yield Question(
        task, frames, tuple(range(len(sample.labels))), labels, sample.items, tuple(bool(t) for t in things),
        chunk=number,
    )  # fmt: skip


def _phrases(sample: TaskSample, task: Task, frames, number: int, protocol: Protocol) -> Iterator[Question]:
    for label, item in enumerate(sample.items):
        targets = tuple(np.flatnonzero(sample.labels == label).tolist())
        yield Question(task, frames, targets, (label,), (item,), chunk=number)


def _captions(sample: TaskSample, task: Task, frames, number: int, protocol: Protocol) -> Iterator[Question]:
    yield Question(task, frames, tuple(range(len(sample.labels))), chunk=number)


def _regions(sample: TaskSample, task: Task, frames, number: int, protocol: Protocol) -> Iterator[Question]:
    if task.select == "instances":
        yield from _all_like_these(sample, task, frames, number, protocol)
    elif sample.regions is not None and task.modality != VIDEO:
        for label, region in enumerate(sample.regions):
            targets = tuple(np.flatnonzero(sample.labels == label).tolist())
            yield _one(sample, task, frames, targets, label, region, number)
    else:
        for target in range(len(sample.labels)):
            # An object that comes into sight later is prompted where it does; before that nothing is asked.
            start = next((i for i, t in enumerate(frames) if sample.masks[t, target].any()), None)
            if start is None:
                continue
            region = _drawn(sample, frames[start], target, protocol)
            yield _one(sample, task, frames[start:], (target,), int(sample.labels[target]), region, number)


def _one(sample: TaskSample, task: Task, frames, targets, label: int, region: np.ndarray, number: int) -> Question:
    return Question(task, frames, targets, (label,), (name_of(sample, label),), regions=region[None], chunk=number)


def _all_like_these(sample: TaskSample, task: Task, frames, number: int, protocol: Protocol) -> Iterator[Question]:
    """One region for each category in sight on the first frame: the annotation's, else drawn on one of its instances.

    Categories that come into sight later can't be shown by example, so they are not scored in this chunk.
    """
    brought = sample.regions if frames[0] == sample.region_frame else None
    labels, regions = [], []
    for label in sorted(set(sample.labels.tolist())):
        instances = [n for n in np.flatnonzero(sample.labels == label) if sample.masks[frames[0], n].any()]
        if brought is not None and label < len(brought) and brought[label].any():
            regions.append(brought[label])
        elif instances:
            # Seeded by the sample's name: which instance is shown does not depend on what was asked before.
            rng = np.random.default_rng((zlib.crc32(sample.key.encode()), number, label))
            regions.append(_drawn(sample, frames[0], int(rng.choice(instances)), protocol))
        else:
            continue
        labels.append(label)
    if labels:
        targets = tuple(np.flatnonzero(np.isin(sample.labels, labels)).tolist())
        names = tuple(name_of(sample, label) for label in labels)
        yield Question(task, frames, targets, tuple(labels), names, regions=np.stack(regions), chunk=number)


def _drawn(sample: TaskSample, frame: int, target: int, protocol: Protocol) -> np.ndarray:
    """bool (H, W): a region prompt for one mask."""
    truth = sample.masks[frame, target]
    prompt = first_prompt(protocol.prompt_for(task_of_sample(sample)), truth, np.zeros(truth.shape, bool))
    return prompt_region(prompt, truth.shape, CLICK_RADIUS)


_ASK = {
    ItemKind.CATEGORIES: _categories,
    ItemKind.PHRASE: _phrases,
    ItemKind.SENTENCE: _phrases,
    ItemKind.NONE: _captions,
    ItemKind.REGIONS: _regions,
}


def views_of(things: Sequence[bool]) -> tuple[str, ...]:
    """The ways in which an answer about categories is read: instances, a semantic map, or both and a panoptic one."""
    if all(things):
        return ("instances",)
    return ("panoptic", "semantic", "instances") if any(things) else ("semantic",)
