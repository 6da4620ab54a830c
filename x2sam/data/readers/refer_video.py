"""Expressions for objects of videos, ``refer-video`` (Ref-YouTube-VOS, Ref-DAVIS, MeViS, ReVOS).

``annotations``: ``videos`` {name: {frames [stem, ...], expressions {id: {exp, obj_id, anno_id, type_id}}}}; frames
are ``images``/<name>/<stem>.jpg. Masks come from one of two places:

- ``source``, a JSON object {anno_id: [one run length or null a frame]}
- ``masks``, a directory of label maps <name>/<stem>.png with the values ``obj_id``

Ids are a number, a text or a list of them; an empty list means that nothing in the video is meant. With ``split`` only
expressions with that ``type_id`` are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.data.readers.files import Node, find_picture, inside, one_or_many, read_json
from x2sam.data.readers.listed import ListedDataset, cut_video, empty_masks
from x2sam.data.readers.shapes import decode_shape
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.video_masks import read_frames
from x2sam.data.readers.vos import read_labels
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class VideoExpression:
    """One sentence for one clip. ``shapes``: per object one entry a frame of the clip; ``labels``: the label map of
    each frame and None where there is none. One of the two is empty."""

    text: str
    video: str
    numbers: tuple[int, ...]
    frames: tuple[Path, ...]
    ids: tuple[int, ...]
    shapes: tuple[tuple[Node, ...], ...]
    labels: tuple[Path | None, ...]
    key: str


class ReferVideoDataset(ListedDataset[VideoExpression]):
    """Layout ``refer-video``: a sample per expression and clip, its mask the union of the objects that are meant."""

    def __init__(self, spec: DatasetSpec):
        if bool(str(spec.source)) == bool(str(spec.masks)):
            raise FramesError(
                f"dataset {spec.name!r}: masks come from 'source' (a JSON file) or from 'masks' (label maps); name one"
            )
        self._spec = spec
        self._file = spec.path("annotations").name
        self._shapes = read_json(spec.path("source"), spec.largest_json_mb) if str(spec.source) else None
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        records = [r for video, entry in content.get("videos").entries() for r in self._of_video(video, entry)]
        super().__init__(spec, "video", records, (len(record.frames) for record in records))

    def _of_video(self, video: str, entry: Node) -> list[VideoExpression]:
        spec = self._spec
        stems = [name.text() for name in entry.get("frames").items()]
        frames = [inside(spec.path("images"), f"{video}/{stem}", entry.where) for stem in stems]
        labels: list[Path | None] = []
        if self._shapes is None:
            paths = [inside(spec.path("masks"), f"{video}/{stem}.png", entry.where) for stem in stems]
            labels = [path if path.is_file() else None for path in paths]
        usable = [t for t in range(len(stems)) if not labels or labels[t] or spec.keep_unannotated]
        clips = [c for c in cut_video(usable, spec) if not labels or any(labels[t] for t in c)]
        records = []
        for name, line in entry.get("expressions").entries():
            if spec.split and line.get("type_id").identity() != spec.split:
                continue
            ids = self._ids(line)
            shapes = [self._track(number, len(stems), line) for number in ids] if self._shapes is not None else []
            for clip in clips:
                records.append(VideoExpression(
                    line.get("exp").text(), video, clip, tuple(frames[t] for t in clip), ids,
                    tuple(tuple(track[t] for t in clip) for track in shapes), tuple(labels[t] for t in clip if labels),
                    f"{self._file}:{video}.{name}, frame {clip[0]}",
                ))  # fmt: skip
        return records

    def _ids(self, line: Node) -> tuple[int, ...]:
        nodes = one_or_many(line.get("obj_id" if self._shapes is None else "anno_id"))
        texts = [node.identity() for node in nodes]
        for node, text in zip(nodes, texts, strict=True):
            if not text.isascii() or not text.isdigit() or len(text) > 15:
                raise node.wrong("should be the number of an object")
        return tuple(int(text) for text in texts)

    def _track(self, number: int, frames: int, line: Node) -> list[Node]:
        assert self._shapes is not None
        if not self._shapes.has(str(number)):
            raise FramesError(f"{line.where} means the mask {number}, which {self._spec.source} does not have")
        track = self._shapes.get(str(number)).items()
        if len(track) != frames:
            raise FramesError(f"{self._spec.source}: {number} has {len(track)} masks for {frames} frames; correct it")
        return track

    def _sample(self, record: VideoExpression) -> TaskSample:
        frames = read_frames([find_picture(path) for path in record.frames])
        size = frames.shape[1:3]
        masks = empty_masks(len(frames), 1, size, record.key)
        ignore, annotated = None, None
        if record.labels:
            labels, _ = read_labels(list(record.labels), size)
            masks[:, 0] = np.isin(labels, record.ids)
            ignore = labels == IGNORE
            annotated = np.array([path is not None for path in record.labels])
        for track in record.shapes:
            for t, shape in enumerate(track):
                masks[t, 0] |= decode_shape(shape, size)
        return TaskSample(
            self.task, frames, masks, np.zeros(1, np.int64), (record.text,),
            ignore=ignore if ignore is not None and ignore.any() else None, annotated=annotated,
            ids=record.ids[:1] or (0,), video=True, key=record.key, group=record.video, frame_numbers=record.numbers,
        )  # fmt: skip
