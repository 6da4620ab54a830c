"""What the readers share: a list of entries of which each becomes a sample, cutting of videos, instances to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from x2sam.data.readers.files import Node
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError

R = TypeVar("R")
MOST_MASK_BYTES = 8 * 2**30


class ListedDataset(ABC, Generic[R]):
    """A :class:`~x2sam.data.task_sample.TaskDataset` over entries that were read from an annotation file.

    records:    one per sample, cut to ``spec.limit``
    vocabulary: the categories of the file, empty where it has none
    """

    def __init__(
        self,
        spec: DatasetSpec,
        modality: str,
        records: Sequence[R],
        lengths: Iterable[int] | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        if not records:
            split = f" of the split {spec.split!r}" if spec.split else ""
            raise FramesError(f"dataset {spec.name!r} has no entry{split} for {spec.task!r}; check split and format")
        self.name, self.task, self.modality = spec.name, spec.task, modality
        self.records = tuple(records[: spec.limit])
        counts = [1] * len(records) if lengths is None else list(lengths)
        self.lengths = np.array(counts[: spec.limit], np.int64)
        self.vocabulary = vocabulary or Vocabulary(())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> TaskSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"dataset {self.name!r} has {len(self)} samples, there is no {index}")
        return self._sample(self.records[index])

    @abstractmethod
    def _sample(self, record: R) -> TaskSample: ...


class Vocabulary:
    """Categories in the order of the file. ``index`` finds the place of a file's category id."""

    def __init__(self, entries: Iterable[tuple[str, str, bool]]):
        """entries: (id, name, countable). Categories of one name are one."""
        self.names: tuple[str, ...] = ()
        self.things: tuple[bool, ...] = ()
        self._place: dict[str, int] = {}
        for identity, name, thing in entries:
            if name not in self.names:
                self.names += (name,)
                self.things += (thing,)
            self._place[identity] = self.names.index(name)

    @classmethod
    def read(cls, content: Node) -> Vocabulary:
        """Of ``categories: [{id, name, isthing}]``; things where the file does not tell."""
        return cls(
            (entry.get("id").identity(), readable(entry.get("name").text()), entry.optional("isthing").flag(True))
            for entry in content.get("categories").items()
        )

    def index(self, node: Node) -> int:
        place = self._place.get(node.identity())
        if place is None:
            raise FramesError(f"{node.where} is {node.value!r}, which is none of the categories; complete the list")
        return place


def readable(name: str) -> str:
    """A category as it stands in prompts: without the marks of merged classes, in lower case."""
    for mark in ("-merged", "-stuff"):
        name = name.replace(mark, "")
    return " ".join(name.replace("_", " ").lower().split()) or name


def cut_video(frames: Sequence[int], spec: DatasetSpec) -> list[tuple[int, ...]]:
    """Clips of the frames of a video that may be used, as :class:`DatasetSpec` asks (X2SAM, evaluation protocols).

    Every frame is in exactly one clip. With ``stride`` s the frames 0, s, 2s ... are cut, then 1, s + 1 ...; a rest of
    a single frame is left out unless it is all there is. ``span`` takes every k-th frame so that clips have at most
    ``frames_per_clip`` frames.
    """
    count = spec.frames_per_clip
    frames = tuple(frames)
    if not frames:
        return []
    strands = [frames[start :: spec.stride] for start in range(min(spec.stride, len(frames)))]
    if count is None:
        return strands
    if spec.sampling == "span":
        steps = [(strand, -(-len(strand) // count)) for strand in strands]
        return [strand[start::step] for strand, step in steps for start in range(step)]
    clips = [strand[start : start + count] for strand in strands for start in range(0, len(strand), count)]
    return [clip for clip in clips if len(clip) > 1] or clips[:1] if count > 1 else clips


@dataclass(frozen=True, eq=False)
class Instances:
    """The truth of one picture or clip, instance by instance.

    frames:     uint8 (T, H, W, 3)
    masks:      bool (T, N, H, W)
    categories: int (N,), places in the vocabulary
    crowd:      bool (N,), outlines of many objects at once; ignored except where categories are merged
    ids:        (N,), stable over the video
    void:       bool (T, H, W), pixels that nobody labelled, in files that label the others; None in files that do not
    ignore:     bool (T, H, W), pixels that count neither way whatever is asked, or None
    annotated:  bool (T,) or None
    known:      places of the categories of which every object is outlined, None for all of the vocabulary
    """

    frames: np.ndarray
    masks: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    ids: tuple[int, ...]
    void: np.ndarray | None = None
    ignore: np.ndarray | None = None
    annotated: np.ndarray | None = None
    known: frozenset[int] | None = None

    def only(self, keep: np.ndarray) -> Instances:
        """The instances (N,) that ``keep`` marks."""
        ids = tuple(k for k, kept in zip(self.ids, keep, strict=True) if kept)
        return replace(
            self, masks=self.masks[:, keep], categories=self.categories[keep], crowd=self.crowd[keep], ids=ids
        )

    def ignored(self, void: bool) -> np.ndarray | None:
        """bool (T, H, W): crowds, ignored pixels, and unlabelled ones where ``void``; None where there are none."""
        ignore = self.masks[:, self.crowd].any(1)
        for further in (self.ignore, self.void if void else None):
            if further is not None:
                ignore |= further
        return ignore if ignore.any() else None


def empty_masks(frames: int, objects: int, size: tuple[int, int], where: str) -> np.ndarray:
    """bool (T, N, H, W), False. Raises :class:`FramesError` for what no memory holds."""
    if frames * objects * size[0] * size[1] > MOST_MASK_BYTES:
        raise FramesError(
            f"{where}: {objects} masks of {size[1]} x {size[0]} in {frames} frames are too much at once; set "
            "frames_per_clip"
        )
    return np.zeros((frames, objects, *size), bool)


def _genseg(truth: Instances, vocabulary: Vocabulary, mode: str) -> dict:
    things = np.array(vocabulary.things, bool)
    known = sorted(truth.known) if truth.known is not None else range(len(things))
    items = [k for k in known if mode != "instance" or things[k]]
    place = {category: k for k, category in enumerate(items)}
    countable = things & (mode != "semantic")
    masks, labels, ids = [], [], []
    for k in items:
        own = np.flatnonzero((truth.categories == k) & (~truth.crowd | (mode == "semantic")))
        if not countable[k] and len(own):
            masks.append(truth.masks[:, own].any(1))
            labels.append(place[k])
            ids.append(truth.ids[own[0]])
            continue
        for n in own:
            masks.append(truth.masks[:, n])
            labels.append(place[k])
            ids.append(truth.ids[n])
    stacked = np.stack(masks, 1) if masks else truth.masks[:, :0]
    ignore = truth.ignored(mode != "instance")
    if mode == "semantic" and ignore is not None:
        ignore &= ~stacked.any(1)
    return dict(
        masks=stacked, labels=np.array(labels, np.int64), ids=tuple(ids), ignore=ignore,
        items=tuple(vocabulary.names[k] for k in items), things=tuple(bool(countable[k]) for k in items),
    )  # fmt: skip


def _shown_things(truth: Instances, vocabulary: Vocabulary) -> Instances:
    things = np.array(vocabulary.things, bool)[truth.categories] if len(truth.categories) else truth.crowd
    return truth.only(things & ~truth.crowd & truth.masks.any((0, 2, 3)))


def _vgdseg(truth: Instances, vocabulary: Vocabulary, mode: str) -> dict:
    shown = _shown_things(truth, vocabulary)
    present, labels = np.unique(shown.categories, return_inverse=True)
    return dict(
        masks=shown.masks, labels=labels.astype(np.int64), ids=shown.ids, ignore=truth.ignored(False),
        items=tuple(vocabulary.names[k] for k in present), things=(True,) * len(present),
    )  # fmt: skip


def _one_by_one(truth: Instances, vocabulary: Vocabulary, mode: str) -> dict:
    shown = _shown_things(truth, vocabulary)
    count = len(shown.categories)
    return dict(
        masks=shown.masks, labels=np.arange(count), ids=shown.ids, ignore=truth.ignored(False),
        items=tuple(vocabulary.names[k] for k in shown.categories), things=(True,) * count,
    )  # fmt: skip


_FORMS: dict[str, Callable[[Instances, Vocabulary, str], dict]] = {
    "genseg": _genseg, "ovseg": _genseg, "vgdseg": _vgdseg, "intseg": _one_by_one, "objseg": _one_by_one,
}  # fmt: skip
INSTANCE_TASKS = tuple(_FORMS)


def instances_sample(task: str, mode: str, truth: Instances, vocabulary: Vocabulary, **facts: object) -> TaskSample:
    """A sample of one of :data:`INSTANCE_TASKS`; ``facts`` are further fields of :class:`TaskSample`."""
    made = _FORMS[task](truth, vocabulary, mode or "panoptic")
    first = made["masks"].any((1, 2, 3))
    where = int(first.argmax()) if first.any() else 0
    return TaskSample(
        task=task, frames=truth.frames, annotated=truth.annotated, region_frame=where, **made, **facts
    )  # fmt: skip
