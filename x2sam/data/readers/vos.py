"""Videos as folders of frames with label maps of objects, ``vos`` (DAVIS, YouTube-VOS, MOSE).

``images``/<video>/<frame>.jpg and ``annotations``/<video>/<frame>.png, whose values are object ids (0 nothing, 255
ignored). ``source``, where given, is YouTube-VOS's ``meta.json``: ``videos`` {name: {objects {id: {category}}}}.
``split`` names a list of videos, ``ImageSets/<split>.txt`` beside ``annotations`` or one level above.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.data.readers.files import folders_in, inside, pictures_in, read_json, read_map
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, cut_video, empty_masks, instances_sample
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.video_masks import read_frames
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError

_UNNAMED = "object"


@dataclass(frozen=True)
class LabelledClip:
    """Frames of a video and their label maps, None where there is none; ``names`` are categories by object id."""

    video: str
    numbers: tuple[int, ...]
    frames: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    names: dict[int, str]


def read_labels(paths: list[Path | None], size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """Label maps int32 (T, H, W), 0 where a path is None, and the ids that occur in them, in order."""
    labels = np.zeros((len(paths), *size), np.int32)
    for t, path in enumerate(paths):
        if path is not None:
            labels[t] = read_map(path, size)
    return labels, [int(k) for k in np.unique(labels) if k not in (0, IGNORE)]


class VosDataset(ListedDataset[LabelledClip]):
    """Layout ``vos``: a sample is a clip with every object that its label maps show."""

    def __init__(self, spec: DatasetSpec):
        names = self._names(spec)
        categories = sorted({name for objects in names.values() for name in objects.values()} | {_UNNAMED})
        vocabulary = Vocabulary((name, name, True) for name in categories)
        records = []
        for video in self._videos(spec):
            frames = pictures_in(inside(spec.path("images"), video, str(spec.annotations)))
            folder = inside(spec.path("annotations"), video, str(spec.annotations))
            stored = {path.stem: path for path in pictures_in(folder)}
            labels = [stored.get(frame.stem) for frame in frames]
            if not any(labels):
                raise FramesError(f"no frame of {folder} has a label map for a frame of the video; check both folders")
            usable = [t for t, label in enumerate(labels) if label or spec.keep_unannotated]
            for clip in cut_video(usable, spec):
                maps = tuple(labels[t] for t in clip)
                if any(maps):
                    chosen = tuple(frames[t] for t in clip)
                    records.append(LabelledClip(video, clip, chosen, maps, names.get(video, {})))
        super().__init__(spec, "video", records, (len(record.frames) for record in records), vocabulary)

    @staticmethod
    def _names(spec: DatasetSpec) -> dict[str, dict[int, str]]:
        if not str(spec.source):
            return {}
        content = read_json(spec.path("source"), spec.largest_json_mb)
        names: dict[str, dict[int, str]] = {}
        for video, entry in content.get("videos").entries():
            objects = entry.get("objects").entries()
            names[video] = {_number(key, node.where): node.get("category").text() for key, node in objects}
        return names

    @staticmethod
    def _videos(spec: DatasetSpec) -> list[str]:
        root = spec.path("annotations")
        if not spec.split:
            return [folder.name for folder in folders_in(root)]
        above = (root.parent, root.parent.parent)
        places = [inside(base / "ImageSets", f"{spec.split}.txt", spec.name) for base in above]
        listing = next((place for place in places if place.is_file()), None)
        if listing is None:
            raise FramesError(f"there is no {places[0]}; name a list of videos there, or leave split out")
        try:
            return [line.strip() for line in listing.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as problem:
            raise FramesError(f"{listing} is no list of videos ({problem}); write one name a line") from problem

    def _sample(self, record: LabelledClip) -> TaskSample:
        frames = read_frames(list(record.frames))
        labels, ids = read_labels(list(record.labels), frames.shape[1:3])
        masks = empty_masks(len(frames), len(ids), frames.shape[1:3], str(record.frames[0]))
        for n, number in enumerate(ids):
            masks[:, n] = labels == number
        places = [self.vocabulary.names.index(record.names.get(k, _UNNAMED)) for k in ids]
        truth = Instances(
            frames, masks, np.array(places, np.int64), np.zeros(len(ids), bool), tuple(ids),
            ignore=labels == IGNORE, annotated=np.array([path is not None for path in record.labels]),
        )  # fmt: skip
        return instances_sample(
            self.task, "instance", truth, self.vocabulary, video=True, group=record.video,
            frame_numbers=record.numbers, key=f"{record.video}, frame {record.numbers[0]}",
        )  # fmt: skip


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise FramesError(f"{where}: {text[:40]!r} is no object id; write a number")
    return int(text)
