"""Expressions for objects of pictures, ``refer`` (RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO).

``annotations``: a JSON list [{ref_id, ann_id, image_id, split, sentences [{sent}]}], ``source``: the instances file in
COCO's layout that ``ann_id`` and ``image_id`` refer to. ``ann_id`` is a number or a list; null, an empty list or -1
means that nothing in the picture is meant. The published files are pickles, which are not read here because reading
one runs what is in it: store the list as JSON first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from x2sam.data.readers.coco import Picture, read_pictures
from x2sam.data.readers.files import Node, one_or_many, read_json, read_picture
from x2sam.data.readers.listed import ListedDataset
from x2sam.data.readers.shapes import decode_shape
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Expression:
    """One sentence, the outlines it means (none: nothing), and a name for messages."""

    text: str
    picture: Picture
    shapes: tuple[Node, ...]
    ids: tuple[int, ...]
    key: str


class ReferDataset(ListedDataset[Expression]):
    """Layout ``refer``: a sample per sentence, its mask the union of the objects that are meant."""

    def __init__(self, spec: DatasetSpec):
        path = spec.path("annotations")
        if path.suffix in (".p", ".pkl", ".pickle"):
            raise FramesError(f"{path} is a pickle, which can run anything when it is read; store its list as JSON")
        content = read_json(path, spec.largest_json_mb)
        source = read_json(spec.path("source"), spec.largest_json_mb)
        pictures = read_pictures(source, spec.path("images"))
        outlines = {entry.get("id").whole(): entry for entry in source.get("annotations").items()}
        records = []
        for entry in (content.get("refs") if content.has("refs") else content).items():
            if spec.split and entry.get("split").text() != spec.split:
                continue
            picture = pictures.get(entry.get("image_id").identity())
            if picture is None:
                raise FramesError(f"{entry.where} is for a picture that {spec.path('source')} does not list")
            meant = one_or_many(entry.optional("ann_id"))
            ids = tuple(node.whole() for node in meant if node.whole() >= 0)
            shapes = tuple(self._shape(k, outlines, picture, entry) for k in ids)
            for number, sentence in enumerate(entry.get("sentences").items()):
                key = f"{path.name}:{entry.get('ref_id').identity()}.{number}"
                records.append(Expression(sentence.get("sent").text(), picture, shapes, ids, key))
        super().__init__(spec, "image", records)

    @staticmethod
    def _shape(number: int, outlines: dict[int, Node], picture: Picture, entry: Node) -> Node:
        outline = outlines.get(number)
        if outline is None or outline.get("image_id").identity() != picture.id:
            raise FramesError(f"{entry.where} means the annotation {number}, which is not one of its picture's")
        return outline.get("segmentation")

    def _sample(self, record: Expression) -> TaskSample:
        size = record.picture.size
        mask = np.zeros(size, bool)
        for shape in record.shapes:
            mask |= decode_shape(shape, size)
        return TaskSample(
            self.task, read_picture(record.picture.path, size)[None], mask[None, None], np.zeros(1, np.int64),
            (record.text,), ids=record.ids[:1] or (0,), key=record.key,
        )  # fmt: skip
