"""Outlines of objects without names, ``sa1b`` (SA-1B).

``annotations``: a directory in which, at any depth, ``<name>.json`` stands beside the picture: ``image`` {file_name,
width, height} and ``annotations`` [{id, segmentation: run lengths}]. Each file is read when its picture is asked for,
since there are eleven million of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import inside, read_json, read_picture, size_of
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, empty_masks, instances_sample
from x2sam.data.readers.shapes import decode_rle
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


class Sa1bDataset(ListedDataset[str]):
    """Records are paths of JSON files; every outline is an ``object``."""

    def __init__(self, spec: DatasetSpec):
        root = spec.path("annotations")
        if not root.is_dir():
            raise FramesError(f"{root} can't be read as a directory of pictures with JSON files; check the path")
        # texts, not Path objects: a third of the memory
        found = sorted(
            os.path.join(place, name) for place, _, names in os.walk(root) for name in names if name.endswith(".json")
        )
        super().__init__(spec, "image", found, vocabulary=Vocabulary([("0", "object", True)]))
        self._largest = spec.largest_json_mb

    def _sample(self, record: str) -> TaskSample:
        path = Path(record)
        content = read_json(path, self._largest)
        entry = content.get("image")
        size = size_of(entry)
        outlines = content.get("annotations").items()
        masks = empty_masks(1, len(outlines), size, str(path))
        for n, outline in enumerate(outlines):
            masks[0, n] = decode_rle(outline.get("segmentation"), size)
        picture = inside(path.parent, entry.get("file_name").text(), entry.where)
        truth = Instances(
            read_picture(picture, size)[None],
            masks,
            np.zeros(len(outlines), np.int64),
            np.zeros(len(outlines), bool),
            tuple(outline.get("id").whole() for outline in outlines),
        )
        return instances_sample(self.task, "instance", truth, self.vocabulary, key=f"{path.parent.name}/{path.name}")
