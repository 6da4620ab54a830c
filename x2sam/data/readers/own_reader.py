"""Reading the ``x2sam`` format that :mod:`x2sam.data.readers.own_format` describes and writes, for every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.chat import CHAT_FRAMES, read_video, spread
from x2sam.data.readers.files import Node, inside, read_json, read_picture, size_of_pair
from x2sam.data.readers.listed import (
    INSTANCE_TASKS,
    Instances,
    ListedDataset,
    Vocabulary,
    cut_video,
    empty_masks,
    instances_sample,
)
from x2sam.data.readers.own_format import VERSION, OwnExpression, OwnPhrase
from x2sam.data.readers.shapes import decode_rle
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample, Turn
from x2sam.errors import FramesError


@dataclass(frozen=True)
class StoredItem:
    """An item of the manifest. ``media`` is one file, or one for each frame of a video."""

    id: str
    video: bool
    media: tuple[Path, ...]
    single: bool
    size: tuple[int, int]
    length: int
    complete: bool
    objects: tuple[tuple[int, int], ...]
    labelled: tuple[int, ...]
    masks: Path
    expressions: tuple[OwnExpression, ...]
    caption: str
    phrases: tuple[OwnPhrase, ...]
    turns: tuple[Turn, ...]

    def read(self, numbers: tuple[int, ...]) -> np.ndarray:
        """uint8 (T, H, W, 3), frames by number."""
        if self.single and self.video:
            frames = read_video(self.media[0], numbers)
        else:
            files = [self.media[t] for t in numbers]
            empty_masks(len(files), 3, self.size, self.id)
            frames = np.stack([read_picture(path, self.size, upright=True) for path in files])
        if frames.shape[1:3] != self.size:
            raise FramesError(f"item {self.id!r}: the media are {frames.shape[1:3]}, not {self.size} as (H, W)")
        return frames


def _objects(node: Node, known: set[int]) -> tuple[int, ...]:
    ids = tuple(k.whole(1) for k in node.items())
    if set(ids) - known:
        raise node.wrong("should be ids of the item's objects")
    return ids


def _expressions(entry: Node, known: set[int]) -> tuple[OwnExpression, ...]:
    return tuple(
        OwnExpression(
            e.get("text").text(), _objects(e.get("objects"), known), e.optional("sentence").flag(),
            e.get("answer").text() if e.has("answer") else None,
        )
        for e in (entry.get("expressions").items() if entry.has("expressions") else ())
    )  # fmt: skip


def _phrases(caption: Node, known: set[int]) -> tuple[OwnPhrase, ...]:
    length = len(caption.get("text").text())
    phrases = []
    for line in caption.get("phrases").items():
        start, end = line.get("start").whole(0), line.get("end").whole(1)
        if not start < end <= length:
            raise line.wrong("should be a part of the caption")
        phrases.append(OwnPhrase(start, end, _objects(line.get("objects"), known)))
    return tuple(sorted(phrases, key=lambda p: p.start))


def _item(entry: Node, root: Path, base: Path, vocabulary: Vocabulary) -> StoredItem:
    objects = tuple((o.get("id").whole(1), vocabulary.index(o.get("category"))) for o in entry.get("objects").items())
    known = {k for k, _ in objects}
    if len(known) < len(objects):
        raise FramesError(f"{entry.where}: two objects have one id; number them anew")
    length = entry.get("length").whole(1, 10**7)
    labelled = tuple(t.whole(0, length - 1) for t in entry.get("labelled").items())
    if list(labelled) != sorted(set(labelled)):
        raise entry.get("labelled").wrong("should be frame numbers in order")
    names = entry.get("frames").items() if entry.has("frames") else [entry.get("media")]
    if entry.has("frames") and len(names) != length:
        raise FramesError(f"{entry.where} has {len(names)} frames but the length {length}; correct it")
    video = entry.get("modality").text() == "video"
    if not video and (entry.has("frames") or length > 1):
        raise FramesError(f"{entry.where}: a picture has 'media' and the length 1; correct them, or its modality")
    caption = entry.get("caption") if entry.has("caption") else None
    turns = entry.get("turns").items() if entry.has("turns") else []
    return StoredItem(
        entry.get("id").identity(), video,
        tuple(inside(root, name.text(), entry.where) for name in names), not entry.has("frames"),
        size_of_pair(entry.get("size")), length, entry.optional("complete").flag(), objects, labelled,
        inside(base, entry.get("masks").text(), entry.where), _expressions(entry, known),
        caption.get("text").text() if caption else "", _phrases(caption, known) if caption else (),
        tuple(Turn(t.get("question").text(empty=True), t.get("answer").text(empty=True)) for t in turns),
    )  # fmt: skip


@dataclass(frozen=True)
class OwnRecord:
    """A clip of an item, and which of its expressions is asked where one is."""

    item: StoredItem
    numbers: tuple[int, ...]
    expression: OwnExpression | None = None


def modalities_of(directory: Path, split: str = "") -> tuple[str, ...]:
    """Which of ``image`` and ``video`` have an item with masks, in one split or all of them."""
    found = {
        entry.get("modality").text()
        for entry in read_json(directory / "manifest.json", DatasetSpec.largest_json_mb).get("items").items()
        if (not split or entry.get("split").text(empty=True) == split)
        and entry.get("objects").items()
        and entry.get("labelled").items()
    }
    return tuple(one for one in ("image", "video") if one in found)


class OwnDataset(ListedDataset[OwnRecord]):
    """Format ``x2sam``. ``annotations`` is the directory; media are looked for in ``images`` where that is given."""

    def __init__(self, spec: DatasetSpec):
        base = spec.path("annotations")
        content = read_json(base / "manifest.json", spec.largest_json_mb)
        if content.get("format").value != "x2sam" or content.get("version").value != VERSION:
            raise FramesError(f"{base / 'manifest.json'} is not version {VERSION} of the x2sam format; export it again")
        self._largest = spec.largest_json_mb
        self._mode = spec.mode
        names = ((c.get("name").text(), c.optional("thing").flag(True)) for c in content.get("categories").items())
        vocabulary = Vocabulary((name, name, thing) for name, thing in names)
        root = Path(spec.images) if str(spec.images) else base
        items = [
            _item(entry, root, base, vocabulary)
            for entry in content.get("items").items()
            if not spec.split or entry.get("split").text() == spec.split
        ]
        video = self._modality(spec, items) == "video"
        records = [record for item in items if item.video == video for record in self._records(item, spec)]
        super().__init__(
            spec, "video" if video else "image", records, (len(r.numbers) for r in records), vocabulary
        )  # fmt: skip

    @staticmethod
    def _modality(spec: DatasetSpec, items: list[StoredItem]) -> str:
        fixed = {"intseg": "image", "objseg": "video"}.get(spec.task, spec.modality)
        kinds = {"video" if item.video else "image" for item in items}
        if not fixed and len(kinds) > 1:
            raise FramesError(f"dataset {spec.name!r} has pictures and videos; set modality to 'image' or 'video'")
        return fixed or next(iter(kinds), "image")

    @staticmethod
    def _records(item: StoredItem, spec: DatasetSpec) -> list[OwnRecord]:
        if spec.task == "chat":
            count = spec.frames_per_clip or CHAT_FRAMES
            return [OwnRecord(item, tuple(spread(item.length, count)))] if item.turns else []
        usable = range(item.length) if spec.keep_unannotated else item.labelled
        clips = [clip for clip in cut_video(usable, spec) if set(clip) & set(item.labelled)]
        if spec.task == "gcgseg":
            return [OwnRecord(item, clip) for clip in clips if item.phrases]
        if spec.task in ("refseg", "reaseg"):
            asked = [e for e in item.expressions if e.sentence == (spec.task == "reaseg")]
            return [OwnRecord(item, clip, e) for e in asked for clip in clips]
        return [OwnRecord(item, clip) for clip in clips if item.objects or spec.task in ("genseg", "ovseg")]

    def _sample(self, record: OwnRecord) -> TaskSample:
        item = record.item
        frames = item.read(record.numbers)
        facts = dict(video=item.video, key=f"{item.id}, frame {record.numbers[0]}")
        if item.video:
            facts |= dict(group=item.id, frame_numbers=record.numbers)
        if self.task == "chat":
            masks = empty_masks(len(frames), 0, item.size, item.id)
            return TaskSample(self.task, frames, masks, np.zeros(0, np.int64), turns=item.turns, **facts)
        masks, ignore = self._masks(record)
        annotated = np.isin(record.numbers, item.labelled)
        if self.task in INSTANCE_TASKS:
            truth = self._truth(record, frames, masks, ignore, annotated)
            return instances_sample(self.task, self._mode, truth, self.vocabulary, **facts)
        facts |= dict(ignore=ignore if ignore.any() else None, annotated=annotated)
        place = {k: n for n, (k, _) in enumerate(item.objects)}

        def union(ids: tuple[int, ...]) -> np.ndarray:
            return masks[:, [place[k] for k in ids]].any(1)

        return self._asked(record, frames, union, facts)

    def _asked(self, record: OwnRecord, frames: np.ndarray, union: Callable, facts: dict) -> TaskSample:
        item, asked = record.item, record.expression
        if asked is not None:
            return TaskSample(
                self.task, frames, union(asked.objects)[:, None], np.zeros(1, np.int64), (asked.text,),
                caption=asked.answer, ids=asked.objects[:1] or (0,), **facts,
            )  # fmt: skip
        return TaskSample(
            self.task, frames, np.stack([union(p.objects) for p in item.phrases], 1), np.arange(len(item.phrases)),
            tuple(item.caption[p.start : p.end] for p in item.phrases), caption=item.caption,
            spans=tuple((p.start, p.end) for p in item.phrases), **facts,
        )  # fmt: skip

    def _masks(self, record: OwnRecord) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool (T, N, H, W) of the item's objects and ignored pixels bool (T, H, W)."""
        item = record.item
        content = read_json(item.masks, self._largest)
        masks = empty_masks(len(record.numbers), len(item.objects), item.size, item.id)
        ignore = np.zeros((len(record.numbers), *item.size), bool)
        place = {str(k): n for n, (k, _) in enumerate(item.objects)}
        for t, number in enumerate(record.numbers):
            if number not in item.labelled:
                continue
            for name, shape in content.get(str(number)).entries():
                if name != "ignore" and name not in place:
                    raise FramesError(f"{shape.where}: the object {name[:40]} is not listed in the manifest; list it")
                target = ignore[t] if name == "ignore" else masks[t, place[name]]
                target |= decode_rle(shape, item.size)
        return masks, ignore

    def _truth(
        self, record: OwnRecord, frames: np.ndarray, masks: np.ndarray, ignore: np.ndarray, annotated: np.ndarray
    ) -> Instances:
        categories = np.array([place for _, place in record.item.objects], np.int64)
        truth = Instances(
            frames, masks, categories, np.zeros(len(categories), bool), tuple(k for k, _ in record.item.objects),
            ignore=ignore, annotated=annotated, known=None if record.item.complete else frozenset(categories.tolist()),
        )  # fmt: skip
        return truth.only(masks.any((0, 2, 3)))
