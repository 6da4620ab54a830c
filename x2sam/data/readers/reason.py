"""Questions about pictures that take thought, ``reason`` (LISA's ReasonSeg).

``annotations``: a directory with ``<name>.json`` for each picture: ``text`` (one or several questions), ``shapes``
[{label, points [[x, y], ...]}] where the label is ``target`` or contains ``ignore`` (``flag`` is passed over). Smaller
shapes lie on larger ones. Pictures are ``<name>.jpg`` in ``images`` (the same directory by default). ``source``, where
given, is a list [{image, outputs}] of answers in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import Node, find_picture, one_or_many, read_json, read_picture
from x2sam.data.readers.listed import ListedDataset
from x2sam.data.readers.shapes import fill_corners
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Question:
    """One question, the file of its picture without suffix, the shapes, and the answer in words where there is one."""

    text: str
    picture: Path
    shapes: tuple[Node, ...]
    answer: str | None
    key: str


class ReasonDataset(ListedDataset[Question]):
    """Layout ``reason``: a sample per question."""

    def __init__(self, spec: DatasetSpec):
        root = spec.path("annotations")
        images = Path(spec.images) if str(spec.images) else root
        if not root.is_dir():
            raise FramesError(f"{root} is no directory; name the one with a JSON file for each picture")
        answers = self._answers(spec)
        records = []
        for path in sorted(root.glob("*.json")):
            content = _read(path, spec.largest_json_mb)
            shapes = tuple(s for s in content.get("shapes").items() if s.get("label").text().lower() != "flag")
            for number, text in enumerate(one_or_many(content.get("text"))):
                answer = answers.get(path.stem)
                records.append(Question(text.text(), images / path.stem, shapes, answer, f"{path.name}:{number}"))
        super().__init__(spec, "image", records)

    @staticmethod
    def _answers(spec: DatasetSpec) -> dict[str, str]:
        if not str(spec.source):
            return {}
        lines = read_json(spec.path("source"), spec.largest_json_mb).items()
        return {Path(line.get("image").text()).stem: line.get("outputs").text() for line in lines}

    def _sample(self, record: Question) -> TaskSample:
        frames = read_picture(find_picture(record.picture))[None]
        size = frames.shape[1:3]
        painted = [
            (fill_corners(shape.get("points"), size), "ignore" in shape.get("label").text().lower())
            for shape in record.shapes
        ]
        target, ignore = np.zeros(size, bool), np.zeros(size, bool)
        for mask, ignored in sorted(painted, key=lambda p: -int(p[0].sum())):
            target[mask], ignore[mask] = not ignored, ignored
        return TaskSample(
            self.task, frames, target[None, None], np.zeros(1, np.int64), (record.text,),
            ignore=ignore[None] if ignore.any() else None, caption=record.answer, key=record.key,
        )  # fmt: skip


def _read(path: Path, largest_mb: int) -> Node:
    try:
        return read_json(path, largest_mb)
    except FramesError as problem:
        # Some of the published files are in the encoding of Windows.
        if isinstance(problem.__cause__, UnicodeDecodeError):
            return read_json(path, largest_mb, "cp1252")
        raise
