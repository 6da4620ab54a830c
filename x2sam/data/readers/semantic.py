"""Pictures with maps of category numbers, ``semantic`` (ADE20K, Cityscapes, VSPW).

``annotations``: a JSON object ``categories`` [{id, name, isthing}] and, optionally, ``ignore`` [values]; every other
value of a map is an error. ``masks`` has a PNG for each picture of ``images``, at the same place with the same name.
With ``modality`` ``video`` the first level of both is a directory a video, in which VSPW's ``origin`` and ``mask`` are
looked into.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import folders_in, one_or_many, pictures_in, read_json, read_map
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, cut_video, empty_masks, instances_sample
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.video_masks import read_frames
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Mapped:
    """A picture or clip with the map of each frame."""

    name: str
    numbers: tuple[int, ...]
    frames: tuple[Path, ...]
    maps: tuple[Path, ...]


class SemanticDataset(ListedDataset[Mapped]):
    """Layout ``semantic``. Only ``mode`` ``semantic`` is possible: the maps do not tell objects apart."""

    def __init__(self, spec: DatasetSpec):
        if spec.mode not in ("", "semantic"):
            raise FramesError(f"dataset {spec.name!r}: maps of categories have no objects; set mode to 'semantic'")
        path = spec.path("annotations")
        content = read_json(path, spec.largest_json_mb)
        entries = content.get("categories").items()
        self._values = [entry.get("id").whole(0, 65535) for entry in entries]
        vocabulary = Vocabulary.read(content)
        self._places = np.array([vocabulary.index(entry.get("id")) for entry in entries], np.int64)
        self._ignored = [node.whole(0, 65535) for node in one_or_many(content.optional("ignore"))]
        video = spec.modality == "video"
        images, masks = spec.path("images"), spec.path("masks")
        records = self._clips(images, masks, spec) if video else [
            Mapped(str(frame.relative_to(images)), (0,), (frame,), (label,)) for frame, label in _pairs(images, masks)
        ]  # fmt: skip
        super().__init__(spec, "video" if video else "image", records, (len(r.numbers) for r in records), vocabulary)

    @staticmethod
    def _clips(images: Path, masks: Path, spec: DatasetSpec) -> list[Mapped]:
        records = []
        for folder in folders_in(images):
            frames = pictures_in(folder / "origin") or pictures_in(folder)
            own = masks / folder.name
            stored = {path.stem: path for path in pictures_in(own / "mask") or pictures_in(own)}
            usable = [t for t, frame in enumerate(frames) if frame.stem in stored]
            for clip in cut_video(usable, spec):
                chosen = tuple(frames[t] for t in clip)
                records.append(Mapped(folder.name, clip, chosen, tuple(stored[f.stem] for f in chosen)))
        return records

    def _sample(self, record: Mapped) -> TaskSample:
        frames = read_frames(list(record.frames))
        size = frames.shape[1:3]
        values = np.stack([read_map(path, size) for path in record.maps])
        present = [k for k, value in enumerate(self._values) if (values == value).any()]
        ignore = np.isin(values, self._ignored)
        masks = empty_masks(len(frames), len(present), size, record.name)
        for n, k in enumerate(present):
            masks[:, n] = values == self._values[k]
        stray = np.unique(values[~ignore & ~masks.any(1)])
        if len(stray):
            raise FramesError(
                f"{record.maps[0]}: the values {stray[:5].tolist()} are no category; list them under 'ignore' or "
                "'categories'"
            )
        truth = Instances(
            frames, masks, self._places[present], np.zeros(len(present), bool), tuple(self._values[k] for k in present),
            ignore=ignore,
        )  # fmt: skip
        facts = dict(video=True, group=record.name, frame_numbers=record.numbers) if self.modality == "video" else {}
        return instances_sample(self.task, "semantic", truth, self.vocabulary, key=record.name, **facts)


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pictures with their maps, sub-directories included, by name. A picture without a map is left out."""
    pairs = []
    for folder in [images, *sorted(p for p in images.rglob("*") if p.is_dir())]:
        for frame in pictures_in(folder):
            label = (masks / frame.relative_to(images)).with_suffix(".png")
            if label.is_file():
                pairs.append((frame, label))
    return pairs
