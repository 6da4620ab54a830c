"""Captions whose phrases have masks, ``grounded``. ``annotations`` is a JSON file in one of four layouts:

- GranD-f, OpenPSG: [{file_name, caption, groundings {phrase: {token_positives [start, end], rle_masks [...]}}}]
- RefCOCOg: [{img_file_name, caption, refs [{sentence, segmentation}]}]
- Flickr30k: ``images`` [{id, file_name, caption}], ``annotations`` [{image_id, tokens_positive [[start, end]],
  sam_mask}]
- plain, for pictures and videos: [{image: name, or frames: [names], caption, phrases [{span [start, end],
  segmentations [one a frame]}]}], a segmentation being run lengths, polygons or null

Spans are places in the caption after quotation marks and blanks at its ends are gone. Phrases are kept in their order
in the caption; one that overlaps an earlier one, or has no mask, is left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import Node, inside, read_json
from x2sam.data.readers.listed import ListedDataset, empty_masks
from x2sam.data.readers.shapes import decode_shape
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.video_masks import read_frames
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Phrase:
    """A phrase: its span in the caption, and per frame the shapes whose union is its mask."""

    start: int
    end: int
    shapes: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Caption:
    """A described picture or clip."""

    text: str
    frames: tuple[Path, ...]
    phrases: tuple[Phrase, ...]
    key: str


def _clean(node: Node) -> str:
    return node.text().strip().strip('"').strip()


def _span(node: Node, caption: str) -> tuple[int, int]:
    """A span that may stand in a list of its own."""
    while isinstance(node.value, list) and node.value and isinstance(node.value[0], list):
        node = node.items()[0]
    start, end = (int(n) for n in node.numbers(2))
    if not 0 <= start < end <= len(caption):
        raise node.wrong(f"should be a place in a caption of {len(caption)} letters")
    return start, end


def _found(phrase: str, caption: str, node: Node) -> tuple[int, int]:
    start = caption.lower().find(phrase.lower())
    if start < 0 or not phrase:
        raise FramesError(f"{node.where}: the caption has no {phrase[:60]!r}; correct the phrase or its place")
    return start, start + len(phrase)


def _from_groundings(entry: Node) -> tuple[str, tuple[str, ...], list[Phrase]]:
    caption = _clean(entry.get("caption"))
    phrases = []
    for phrase, grounding in entry.get("groundings").entries():
        start, end = _span(grounding.get("token_positives"), caption)
        if caption[start:end].lower() != phrase.lower() and phrase.lower() in caption.lower():
            start, end = _found(phrase, caption, grounding)
        phrases.append(Phrase(start, end, (tuple(grounding.get("rle_masks").items()),)))
    return caption, (entry.get("file_name").text(),), phrases


def _from_refs(entry: Node) -> tuple[str, tuple[str, ...], list[Phrase]]:
    caption = _clean(entry.get("caption"))
    phrases = []
    for ref in entry.get("refs").items():
        phrase = ref.get("sentence").text().strip()
        if phrase.lower() in caption.lower():
            phrases.append(Phrase(*_found(phrase, caption, ref), ((ref.get("segmentation"),),)))
    return caption, (entry.get("img_file_name").text(),), phrases


def _from_plain(entry: Node) -> tuple[str, tuple[str, ...], list[Phrase]]:
    caption = _clean(entry.get("caption"))
    names = entry.get("frames").items() if entry.has("frames") else [entry.get("image")]
    phrases = []
    for phrase in entry.get("phrases").items():
        shapes = phrase.get("segmentations").items()
        if len(shapes) != len(names):
            raise FramesError(f"{phrase.where} has {len(shapes)} segmentations for {len(names)} frames; correct it")
        phrases.append(Phrase(*_span(phrase.get("span"), caption), tuple((shape,) for shape in shapes)))
    return caption, tuple(name.text() for name in names), phrases


_LAYOUTS = {"groundings": _from_groundings, "refs": _from_refs, "phrases": _from_plain}


def _entries(content: Node) -> list[tuple[str, tuple[str, ...], list[Phrase], str]]:
    if content.has("images"):
        return _flickr(content)
    entries = []
    for entry in content.items():
        layout = next((read for key, read in _LAYOUTS.items() if entry.has(key)), None)
        if layout is None:
            raise FramesError(f"{entry.where} has none of {', '.join(_LAYOUTS)}; check the layout of grounded captions")
        entries.append((*layout(entry), entry.where))
    return entries


def _flickr(content: Node) -> list[tuple[str, tuple[str, ...], list[Phrase], str]]:
    lines: dict[str, list[Node]] = defaultdict(list)
    for line in content.get("annotations").items():
        if not line.optional("ignore").flag():
            lines[line.get("image_id").identity()].append(line)
    entries = []
    for picture in content.get("images").items():
        caption = _clean(picture.get("caption"))
        phrases = [
            Phrase(*_span(line.get("tokens_positive"), caption), ((line.get("sam_mask"),),))
            for line in lines[picture.get("id").identity()]
        ]
        entries.append((caption, (picture.get("file_name").text(),), _joined(phrases), picture.where))
    return entries


def _joined(phrases: list[Phrase]) -> list[Phrase]:
    """Several masks of one span become one phrase."""
    spans: dict[tuple[int, int], tuple[Node, ...]] = {}
    for phrase in phrases:
        place = (phrase.start, phrase.end)
        spans[place] = spans.get(place, ()) + phrase.shapes[0]
    return [Phrase(start, end, (shapes,)) for (start, end), shapes in spans.items()]


def _in_order(phrases: list[Phrase]) -> tuple[Phrase, ...]:
    kept: list[Phrase] = []
    for phrase in sorted(phrases, key=lambda p: (p.start, -p.end)):
        masked = any(shape.value is not None for shapes in phrase.shapes for shape in shapes)
        if masked and (not kept or phrase.start >= kept[-1].end):
            kept.append(phrase)
    return tuple(kept)


class GroundedDataset(ListedDataset[Caption]):
    """Layout ``grounded``; pictures, or with ``modality`` ``video`` the entries that have ``frames``.

    Clips are cut to ``frames_per_clip`` frames spread over the whole, since a caption is about all of it.
    """

    def __init__(self, spec: DatasetSpec):
        path = spec.path("annotations")
        video = spec.modality == "video"
        records = []
        for number, (text, names, phrases, where) in enumerate(_entries(read_json(path, spec.largest_json_mb))):
            kept = _in_order(phrases)
            if not kept or (len(names) > 1) != video:
                continue
            frames = tuple(inside(spec.path("images"), name, where) for name in names)
            chosen = range(len(frames))
            if spec.frames_per_clip is not None and spec.frames_per_clip < len(frames):
                chosen = np.linspace(0, len(frames) - 1, spec.frames_per_clip).astype(int).tolist()
            kept = tuple(Phrase(p.start, p.end, tuple(p.shapes[t] for t in chosen)) for p in kept)
            records.append(Caption(text, tuple(frames[t] for t in chosen), kept, f"{path.name}:{number}"))
        super().__init__(spec, "video" if video else "image", records, (len(r.frames) for r in records))

    def _sample(self, record: Caption) -> TaskSample:
        frames = read_frames(list(record.frames))
        size = frames.shape[1:3]
        masks = empty_masks(len(frames), len(record.phrases), size, record.key)
        for n, phrase in enumerate(record.phrases):
            for t, shapes in enumerate(phrase.shapes):
                for shape in shapes:
                    masks[t, n] |= decode_shape(shape, size)
        spans = tuple((p.start, p.end) for p in record.phrases)
        return TaskSample(
            self.task, frames, masks, np.arange(len(spans)), tuple(record.text[a:b] for a, b in spans),
            caption=record.text, spans=spans, video=self.modality == "video", key=record.key,
        )  # fmt: skip
