"""Category by example, ``vgd``: stored region prompts for the objects of another data set (X2SAM, V-VGD).

``annotations`` is a file that ``python -m x2sam data vgd`` writes::

    {"format": "x2sam-vgd", "version": 1, "seed": 0, "kinds": ["point", ...],
     "source": {"format": "ytvis", "mode": "instance", "split": "", "modality": "", "frames_per_clip": 8,
                "stride": 1, "sampling": "stride"},
     "samples": [{"index": 0, "key": "...", "size": [H, W], "frames": T,
                  "prompts": [{"category": "dog", "object": 7, "frame": 2, "targets": [7, 9],
                               "point": run lengths, "scribble": ..., "box": ..., "mask": ...}]}]}

``index`` and ``key`` name the sample of the source, ``object`` is the one that was prompted on ``frame`` of the clip
and ``targets`` are the ids of all objects of its category. ``source`` of the :class:`DatasetSpec` is the annotation
file of the source, ``images`` and ``masks`` are its directories.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from x2sam.data.prompts import KINDS
from x2sam.data.readers.files import Node, read_json, size_of_pair
from x2sam.data.readers.listed import ListedDataset
from x2sam.data.readers.shapes import decode_rle
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskDataset, TaskSample
from x2sam.errors import FramesError

FORMAT, VERSION = "x2sam-vgd", 1
CLIP_SETTINGS = ("split", "modality", "frames_per_clip", "stride", "sampling")
"""What decides, beside the files, which samples a source has."""


@dataclass(frozen=True)
class StoredPrompt:
    """One prompt: the category, its objects, and the region."""

    category: str
    targets: tuple[int, ...]
    region: Node


@dataclass(frozen=True)
class PromptedClip:
    """The prompts of one kind that are on one frame of a sample of the source."""

    index: int
    key: str
    size: tuple[int, int]
    length: int
    frame: int
    prompts: tuple[StoredPrompt, ...]


class VgdDataset(ListedDataset[PromptedClip]):
    """Format ``vgd``. A sample has the prompts of one kind on one frame; categories that come into sight later are a
    sample of their own, of the same clip."""

    def __init__(self, spec: DatasetSpec, open_source: Callable[[DatasetSpec], TaskDataset]):
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        if content.get("format").value != FORMAT or content.get("version").value != VERSION:
            raise FramesError(f"{spec.path('annotations')} is not version {VERSION} of {FORMAT}; build it again")
        stored = [kind.text() for kind in content.get("kinds").items()]
        kinds = [spec.prompt] if spec.prompt else stored
        if not set(kinds) <= set(stored) & set(KINDS):
            known = ", ".join(stored)
            raise FramesError(f"dataset {spec.name!r}: there are no prompts {', '.join(kinds)}; use {known}")
        self._source = open_source(source_spec(spec, content.get("source")))
        samples = content.get("samples").items()
        records = [record for sample in samples for kind in kinds for record in self._clips(sample, kind)]
        super().__init__(spec, self._source.modality, records, (r.length for r in records))

    @staticmethod
    def _clips(sample: Node, kind: str) -> list[PromptedClip]:
        length = sample.get("frames").whole(1)
        by_frame: dict[int, list[StoredPrompt]] = defaultdict(list)
        for prompt in sample.get("prompts").items():
            targets = tuple(node.whole() for node in prompt.get("targets").items())
            stored = StoredPrompt(prompt.get("category").text(), targets, prompt.get(kind))
            by_frame[prompt.get("frame").whole(0, length - 1)].append(stored)
        index, key = sample.get("index").whole(0), sample.get("key").text()
        size = size_of_pair(sample.get("size"))
        return [
            PromptedClip(index, key, size, length, frame, tuple(prompts))
            for frame, prompts in sorted(by_frame.items())
        ]  # fmt: skip

    def _sample(self, record: PromptedClip) -> TaskSample:
        if record.index >= len(self._source):
            raise FramesError(f"dataset {self.name!r}: the source has no sample {record.index}; build the prompts anew")
        truth = self._source[record.index]
        found = (truth.key, truth.frames.shape[1:3], len(truth.frames))
        if found != (record.key, record.size, record.length):
            raise FramesError(
                f"dataset {self.name!r}: sample {record.index} of the source is {found}, the prompts were made for "
                f"{(record.key, record.size, record.length)}; give that source or build the prompts again"
            )
        place = {number: n for n, number in enumerate(truth.ids)}
        missing = [k for prompt in record.prompts for k in prompt.targets if k not in place]
        if missing:
            raise FramesError(f"{record.key} has no objects {missing[:5]}; build the prompts again")
        chosen = [place[k] for prompt in record.prompts for k in prompt.targets]
        return replace(
            truth,
            task=self.task,
            masks=truth.masks[:, chosen],
            labels=np.repeat(np.arange(len(record.prompts)), [len(p.targets) for p in record.prompts]),
            ids=tuple(truth.ids[n] for n in chosen),
            items=tuple(prompt.category for prompt in record.prompts),
            things=(True,) * len(record.prompts),
            regions=np.stack([self._region(prompt, record.size) for prompt in record.prompts]),
            region_frame=record.frame,
            key=f"{truth.key}, prompts of frame {record.frame}",
        )

    @staticmethod
    def _region(prompt: StoredPrompt, size: tuple[int, int]) -> np.ndarray:
        region = decode_rle(prompt.region, size)
        if not region.any():
            raise FramesError(f"{prompt.region.where} is empty; build the prompts again")
        return region


def source_spec(spec: DatasetSpec, node: Node) -> DatasetSpec:
    """The data set that the prompts were made from: what the file says of it, with the paths of ``spec``."""
    count = node.get("frames_per_clip")
    return DatasetSpec(
        name=f"{spec.name}, source",
        format=node.get("format").text(),
        task="genseg",
        annotations=spec.path("source"),
        images=spec.images,
        masks=spec.masks,
        mode="instance",
        split=node.get("split").text(empty=True),
        modality=node.get("modality").text(empty=True),
        frames_per_clip=None if count.value is None else count.whole(1),
        stride=node.get("stride").whole(1),
        sampling=node.get("sampling").text(),
        largest_json_mb=spec.largest_json_mb,
    )
