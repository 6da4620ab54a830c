"""Directories with label maps by object id, in three layouts of one family. A label map has 0 for background and 255
for pixels to be ignored.

- ``labelmaps``: ``train.json`` or ``images.json``, see :mod:`x2sam.data.readers.labelmaps`; with ``modality``
  ``video`` the pictures that form a ``sequence``
- ``clips``: ``videos.json`` with ``videos`` [{name, video, masks, frames, width, height, gt_frames, objects
  [{id, label, expression}]}], frame i labelled by ``masks``/<i, 5 digits>.png; the objects by mask or by expression
- ``expressions``: ``referring.json`` with ``samples`` [{image, mask or video, masks, object_ids, expression, kind}];
  ``reaseg`` takes those of the kind ``reasoning``, ``refseg`` the others

``annotations`` is the directory.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.data.readers.chat import read_video
from x2sam.data.readers.files import Node, inside, read_json, read_map, read_picture
from x2sam.data.readers.labelmaps import LabelMapDataset, PictureRecord, plain_name
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, cut_video, empty_masks, instances_sample
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.vos import read_labels
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Outlined:
    """Frames of one sequence, or a single picture: places in the list, and in the sequence."""

    name: str
    places: tuple[int, ...]
    numbers: tuple[int, ...]


class OutlinedDataset(ListedDataset[Outlined]):
    """Layout ``labelmaps``."""

    def __init__(self, spec: DatasetSpec):
        self._mode = spec.mode
        self._labelled = LabelMapDataset(spec.path("annotations"))
        entries = self._labelled.records
        named = {(plain_name(o.category), o.thing) for r in entries for o in r.objects}
        # Some sources outline as a thing what is a region in others.
        stuff = {name for name, thing in named if not thing}
        vocabulary = Vocabulary((name, name, name not in stuff) for name in sorted({name for name, _ in named}))
        self._complete: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            if entry.complete:
                self._complete[entry.source] |= {plain_name(o.category) for o in entry.objects}
        video = spec.modality == "video"
        records = self._sequences(entries, spec) if video else [
            Outlined(entry.image, (k,), (0,))
            for k, entry in enumerate(entries)
            if spec.task in ("genseg", "ovseg") or any(plain_name(o.category) not in stuff for o in entry.objects)
        ]  # fmt: skip
        super().__init__(spec, "video" if video else "image", records, (len(r.places) for r in records), vocabulary)

    @staticmethod
    def _sequences(entries: tuple[PictureRecord, ...], spec: DatasetSpec) -> list[Outlined]:
        films: dict[str, list[int]] = defaultdict(list)
        for k, entry in enumerate(entries):
            if entry.sequence:
                films[entry.sequence].append(k)
        records = []
        for name, places in films.items():
            places.sort(key=lambda k: entries[k].frame)
            for clip in cut_video(range(len(places)), spec):
                records.append(Outlined(name, tuple(places[t] for t in clip), clip))
        return records

    def _sample(self, record: Outlined) -> TaskSample:
        entries = [self._labelled.records[k] for k in record.places]
        pairs = [self._labelled.read(k) for k in record.places]
        sizes = {picture.shape for picture, _ in pairs}
        if len(sizes) > 1:
            raise FramesError(f"{record.name}: the frames have different sizes; make them one size")
        labels = np.stack([labels for _, labels in pairs])
        # One by one, objects that the list calls too small or too hidden are not asked for.
        asked = self.task in ("intseg", "objseg")
        names = {
            o.id: plain_name(o.category) for entry in entries for o in entry.objects if o.evaluate or not asked
        }  # fmt: skip
        names = {k: name for k, name in names.items() if (labels == k).any()}
        masks = empty_masks(len(entries), len(names), labels.shape[1:], record.name)
        for n, number in enumerate(names):
            masks[:, n] = labels == number
        truth = Instances(
            np.stack([picture for picture, _ in pairs]),
            masks,
            np.array([self.vocabulary.names.index(name) for name in names.values()], np.int64),
            np.zeros(len(names), bool),
            tuple(names),
            void=np.stack([(values == 0) & entry.panoptic for entry, values in zip(entries, labels, strict=True)]),
            ignore=labels == IGNORE,
            known=self._known(entries, set(names.values())),
        )
        facts = dict(video=True, group=record.name, frame_numbers=record.numbers) if self.modality == "video" else {}
        return instances_sample(self.task, self._mode, truth, self.vocabulary, key=entries[0].image, **facts)

    def _known(self, entries: list[PictureRecord], present: set[str]) -> frozenset[int]:
        sure = set.intersection(*(self._complete[e.source] if e.complete else set() for e in entries))
        return frozenset(self.vocabulary.names.index(name) for name in sure | present)


@dataclass(frozen=True)
class FilmedClip:
    """Frames of a video file with label maps; ``phrase`` and ``meant`` are the expression, where one is asked."""

    name: str
    video: Path
    masks: Path
    numbers: tuple[int, ...]
    labelled: frozenset[int]
    size: tuple[int, int]
    objects: tuple[tuple[int, str], ...]
    phrase: str = ""
    meant: tuple[int, ...] = ()


def _read_clips(spec: DatasetSpec) -> dict[str, Node]:
    listing = spec.path("annotations") / "videos.json"
    return {entry.get("video").text(): entry for entry in read_json(listing).get("videos").items()}


def _filmed(entry: Node, spec: DatasetSpec, phrase: str = "", meant: tuple[int, ...] = ()) -> list[FilmedClip]:
    """The clips of one line of ``videos.json``; none where it has no label maps of its own."""
    labelled = frozenset(node.whole(0, 10**6) for node in entry.get("gt_frames").items())
    if not labelled or entry.has("frame_map"):
        return []
    root = spec.path("annotations")
    count = entry.get("frames").whole(1, 10**6)
    objects = tuple(
        (o.get("id").whole(1, 254), o.optional("label").text() if o.has("label") else "object")
        for o in entry.get("objects").items()
    )
    usable = range(count) if spec.keep_unannotated else sorted(k for k in labelled if k < count)
    return [
        FilmedClip(
            entry.get("name").text(), inside(root, entry.get("video").text(), entry.where),
            inside(root, entry.get("masks").text(), entry.where), clip, labelled & set(clip),
            (entry.get("height").whole(1), entry.get("width").whole(1)), objects, phrase, meant,
        )
        for clip in cut_video(usable, spec)
        if labelled & set(clip)
    ]  # fmt: skip


class ClipsDataset(ListedDataset[FilmedClip]):
    """Layout ``clips``; for ``refseg`` the clips of objects that have an ``expression``."""

    def __init__(self, spec: DatasetSpec):
        records: list[FilmedClip] = []
        for entry in _read_clips(spec).values():
            if spec.task == "objseg":
                records += _filmed(entry, spec)
                continue
            for o in entry.get("objects").items():
                if o.has("expression"):
                    records += _filmed(entry, spec, o.get("expression").text(), (o.get("id").whole(1, 254),))
        names = sorted({name for record in records for _, name in record.objects})
        vocabulary = Vocabulary((name, name, True) for name in names)
        super().__init__(spec, "video", records, (len(r.numbers) for r in records), vocabulary)

    def _sample(self, record: FilmedClip) -> TaskSample:
        return film_sample(self.task, record, self.vocabulary)


def film_sample(task: str, record: FilmedClip, vocabulary: Vocabulary) -> TaskSample:
    """The sample of a clip: of its expression where it has one, else of its objects."""
    frames = read_video(record.video, record.numbers)
    if frames.shape[1:3] != record.size:
        raise FramesError(f"{record.video} is {frames.shape[1:3]}, the list says {record.size} as (H, W); restore it")
    paths = [record.masks / f"{t:05d}.png" if t in record.labelled else None for t in record.numbers]
    labels, ids = read_labels(paths, record.size)
    names = dict(record.objects)
    stray = sorted(set(ids) - set(names))
    if stray:
        raise FramesError(f"{record.masks}: the label maps have ids {stray} that are not listed; restore the files")
    what = f", objects {', '.join(map(str, record.meant))}" if record.phrase else ""
    ignore, annotated = labels == IGNORE, np.array([path is not None for path in paths])
    facts = dict(
        video=True, group=record.name, frame_numbers=record.numbers,
        key=f"{record.name}{what}, frame {record.numbers[0]}",
    )  # fmt: skip
    if record.phrase:
        return TaskSample(
            task, frames, np.isin(labels, record.meant)[:, None], np.zeros(1, np.int64), (record.phrase,),
            ignore=ignore if ignore.any() else None, annotated=annotated, ids=record.meant[:1], **facts,
        )  # fmt: skip
    masks = empty_masks(len(frames), len(ids), record.size, record.name)
    for n, number in enumerate(ids):
        masks[:, n] = labels == number
    places = np.array([vocabulary.names.index(names[k]) for k in ids], np.int64)
    truth = Instances(
        frames, masks, places, np.zeros(len(ids), bool), tuple(ids), ignore=ignore, annotated=annotated
    )  # fmt: skip
    return instances_sample(task, "instance", truth, vocabulary, **facts)


@dataclass(frozen=True)
class PicturePhrase:
    """An expression for objects of one picture."""

    text: str
    picture: Path
    labels: Path
    ids: tuple[int, ...]
    key: str


class ExpressionsDataset(ListedDataset[PicturePhrase | FilmedClip]):
    """Layout ``expressions``; those about pictures, or with ``modality`` ``video`` those about clips."""

    def __init__(self, spec: DatasetSpec):
        root = spec.path("annotations")
        self._video = spec.modality == "video"
        content = read_json(root / "referring.json", spec.largest_json_mb)
        clips = _read_clips(spec) if self._video else {}
        records: list[PicturePhrase | FilmedClip] = []
        for number, entry in enumerate(content.get("samples").items()):
            reasoning = entry.has("kind") and entry.get("kind").text() == "reasoning"
            if entry.has("video") != self._video or reasoning != (spec.task == "reaseg"):
                continue
            text = entry.get("expression").text()
            ids = tuple(node.whole(1, 254) for node in entry.get("object_ids").items())
            if self._video:
                clip = clips.get(entry.get("video").text())
                if clip is None:
                    raise FramesError(f"{entry.where} is about a video that videos.json does not list; correct it")
                records += _filmed(clip, spec, text, ids)
                continue
            paths = [inside(root, entry.get(key).text(), entry.where) for key in ("image", "mask")]
            records.append(PicturePhrase(text, *paths, ids, f"referring.json:{number}"))
        lengths = [len(r.numbers) if self._video else 1 for r in records]
        super().__init__(spec, "video" if self._video else "image", records, lengths)

    def _sample(self, record: PicturePhrase | FilmedClip) -> TaskSample:
        if self._video:
            return film_sample(self.task, record, self.vocabulary)
        labels = read_map(record.labels)
        ignore = (labels == IGNORE)[None]
        return TaskSample(
            self.task, read_picture(record.picture, labels.shape)[None], np.isin(labels, record.ids)[None, None],
            np.zeros(1, np.int64), (record.text,), ignore=ignore if ignore.any() else None,
            ids=record.ids[:1] or (0,), key=record.key,
        )  # fmt: skip
