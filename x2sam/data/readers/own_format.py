"""The ``x2sam`` format: a directory with everything that the tasks can ask, written by an export and read for training.

::

    DIR/manifest.json         what there is
    DIR/masks/000000.json     the masks of item 0, one file an item
    DIR/...                   pictures and videos, wherever the manifest says

``manifest.json``::

    {"format": "x2sam", "version": 1,
     "provenance": {"made_by": "...", ...},               texts by name: whatever tells where the data come from
     "categories": [{"name": "dog", "thing": true}],      with an "id" where they were numbered
     "items": [{
        "id": "task-12",                                  stable and unique
        "modality": "image" | "video",
        "media": "media/12.jpg",                          a picture or a video file, as a person sees it (EXIF applied)
        "frames": ["media/12/00000.jpg", ...],            of a video instead of "media", where it is a row of pictures
        "size": [H, W], "length": T,                      pixels; frames of the whole video, 1 for a picture
        "split": "train", "complete": true,               complete: everything of the listed categories is outlined
        "objects": [{"id": 1, "category": "dog"}],        ids from 1, the same object in all frames
        "labelled": [0, 5],                               frames whose masks are known, in order
        "masks": "masks/000000.json",
        "expressions": [{"text": "the left dog", "objects": [1], "sentence": false, "answer": null}],
        "caption": {"text": "A dog runs.", "phrases": [{"start": 0, "end": 5, "objects": [1]}]},
        "turns": [{"question": "...", "answer": "..."}],
        "provenance": {"annotator": "...", ...}}]}

``masks/*.json``: ``{"<frame>": {"<object id>": run lengths, "ignore": run lengths}}`` with COCO's compressed run
lengths ``{"size": [H, W], "counts": text}``. Masks may overlap; an object that a labelled frame does not list is not
in sight there. The manifest is written last, so that a directory without one is not finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from x2sam.data.readers.files import LONGEST_TEXT, MOST_PIXELS, inside
from x2sam.data.readers.shapes import encode_rle
from x2sam.data.task_sample import Turn
from x2sam.errors import FramesError

VERSION = 1


@dataclass(frozen=True)
class OwnObject:
    """An object of an item; the id is 1 or more and the same in all frames."""

    id: int
    category: str
    thing: bool = True


@dataclass(frozen=True)
class OwnExpression:
    """A phrase, or with ``sentence`` a question or sentence, and the objects it means (none: nothing in sight)."""

    text: str
    objects: tuple[int, ...]
    sentence: bool = False
    answer: str | None = None


@dataclass(frozen=True)
class OwnPhrase:
    """A part of the caption and the objects it is about."""

    start: int
    end: int
    objects: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class OwnItem:
    """One picture or video with what is known about it; see the head of this file.

    masks:  by labelled frame, then by object id, bool (H, W). A labelled frame that shows nothing has an empty entry
    ignore: by labelled frame, bool (H, W), pixels that count neither way
    """

    id: str
    size: tuple[int, int]
    objects: tuple[OwnObject, ...]
    masks: Mapping[int, Mapping[int, np.ndarray]]
    media: str = ""
    frames: tuple[str, ...] = ()
    length: int = 1
    video: bool = False
    ignore: Mapping[int, np.ndarray] = field(default_factory=dict)
    expressions: tuple[OwnExpression, ...] = ()
    caption: str | None = None
    phrases: tuple[OwnPhrase, ...] = ()
    turns: tuple[Turn, ...] = ()
    split: str = ""
    complete: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_dataset(directory: str | Path, items: Iterable[OwnItem], provenance: Mapping[str, str]) -> Path:
    """Write masks and manifest; returns the manifest's path. Items are taken one by one, media are not copied.

    Raises :class:`FramesError`, naming the item, for what a reader would refuse.
    """
    with OwnWriter(directory, provenance) as writer:
        for item in items:
            writer.add(item)
        return writer.finish()


class OwnWriter:
    """Writes a data set item by item, none of which is held in memory. Use it in a ``with`` statement.

    categories: numbers of categories by name, which then stand in the manifest whether items have them or not
    things:     which of them are countable
    """

    def __init__(
        self,
        directory: str | Path,
        provenance: Mapping[str, str],
        categories: Mapping[str, int] | None = None,
        things: Mapping[str, bool] | None = None,
    ):
        self._directory = Path(directory)
        self._provenance = dict(provenance)
        self._numbers = dict(categories or {})
        self._things = dict(things or {})
        self._seen: set[str] = set()
        self._entries = self._directory / f".items.{os.getpid()}.part"
        self._file: TextIO | None = None

    def __enter__(self) -> OwnWriter:
        with _told(self._entries):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._entries.open("w+", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._entries.unlink(missing_ok=True)

    def add(self, item: OwnItem, extra: Mapping[str, Any] | None = None) -> None:
        """Write the masks of an item; ``extra`` are further entries of its line in the manifest."""
        if item.id in self._seen:
            raise FramesError(f"two items are called {item.id!r}; give each its own id")
        check_item(item, self._directory)
        for o in item.objects:
            if self._things.setdefault(o.category, o.thing) != o.thing:
                raise FramesError(f"item {item.id!r}: {o.category!r} is countable here, not elsewhere; decide on one")
        masks = f"masks/{len(self._seen):06d}.json"
        self._seen.add(item.id)
        _write_json(self._directory / masks, _mask_table(item))
        with _told(self._entries):
            self._file.write(json.dumps({**_entry(item, masks), **(extra or {})}, allow_nan=False) + "\n")

    def finish(self, extra: Mapping[str, Any] | None = None) -> Path:
        """Write the manifest, with further entries; returns its path."""
        path = self._directory / "manifest.json"
        head = {"format": "x2sam", "version": VERSION, "provenance": self._provenance, **(extra or {})}
        numbers = ({"id": self._numbers[name]} if name in self._numbers else {} for name in self._things)
        categories = [{**n, "name": k, "thing": v} for n, (k, v) in zip(numbers, self._things.items(), strict=True)]
        self._file.seek(0)
        with _written(path) as part, part.open("w", encoding="utf-8") as file:
            file.write(json.dumps({**head, "categories": categories}, allow_nan=False)[:-1] + ', "items": [')
            for number, line in enumerate(self._file):
                file.write((",\n" if number else "\n") + line.rstrip("\n"))
            file.write("]}\n")
        return path


def _mask_table(item: OwnItem) -> dict[str, dict[str, dict]]:
    table = {}
    for frame in sorted(item.masks):
        shapes = {str(k): encode_rle(mask) for k, mask in sorted(item.masks[frame].items()) if mask.any()}
        if frame in item.ignore and item.ignore[frame].any():
            shapes["ignore"] = encode_rle(item.ignore[frame])
        table[str(frame)] = shapes
    return table


def _entry(item: OwnItem, masks: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": item.id,
        "modality": "video" if item.video else "image",
        **({"frames": list(item.frames)} if item.frames else {"media": item.media}),
        "size": list(item.size),
        "length": item.length,
        "split": item.split,
        "complete": item.complete,
        "objects": [{"id": o.id, "category": o.category} for o in item.objects],
        "labelled": sorted(item.masks),
        "masks": masks,
        "provenance": dict(item.provenance),
    }
    if item.expressions:
        entry["expressions"] = [
            {"text": e.text, "objects": list(e.objects), "sentence": e.sentence, "answer": e.answer}
            for e in item.expressions
        ]
    if item.caption is not None:
        phrases = [{"start": p.start, "end": p.end, "objects": list(p.objects)} for p in item.phrases]
        entry["caption"] = {"text": item.caption, "phrases": phrases}
    if item.turns:
        entry["turns"] = [{"question": t.question, "answer": t.answer} for t in item.turns]
    return entry


def check_item(item: OwnItem, directory: Path) -> None:
    """Raises :class:`FramesError` where parts of an item contradict each other."""

    def refuse(what: str) -> FramesError:
        return FramesError(f"item {item.id!r}: {what}")

    if min(item.size) < 1 or item.size[0] * item.size[1] > MOST_PIXELS or item.length < 1:
        raise refuse(f"{item.length} frames of {item.size} as (H, W) can't be; correct size and length")
    if bool(item.media) == bool(item.frames) or (item.frames and len(item.frames) != item.length):
        raise refuse(f"give either media or one file for each of the {item.length} frames")
    if not item.video and (item.frames or item.length > 1):
        raise refuse("a picture has one frame and one file; set video, or correct length and frames")
    for name in (item.media,) if item.media else item.frames:
        inside(directory, name, f"item {item.id!r}")
    texts = [item.id, *(o.category for o in item.objects), *(e.text for e in item.expressions)]
    texts += [e.answer for e in item.expressions if e.answer is not None] + [item.caption] * (item.caption is not None)
    if not all(text.strip() and len(text) <= LONGEST_TEXT for text in texts):
        raise refuse("an id, category, expression, answer or caption is empty or too long; leave it out")
    known = {o.id for o in item.objects}
    if len(known) < len(item.objects) or min(known, default=1) < 1:
        raise refuse("object ids are numbers from 1, each once")
    meant = {k for e in item.expressions for k in e.objects} | {k for p in item.phrases for k in p.objects}
    meant |= {k for shapes in item.masks.values() for k in shapes}
    if meant - known:
        raise refuse(f"the objects {sorted(meant - known)} are not listed; list them")
    if set(item.ignore) - set(item.masks) or any(not 0 <= t < item.length for t in item.masks):
        raise refuse(f"masks are for frames 0 to {item.length - 1}, and ignore for frames that have masks")
    drawn = (mask for shapes in item.masks.values() for mask in shapes.values())
    for mask in chain(drawn, item.ignore.values()):
        if mask.shape != item.size or mask.dtype != bool:
            raise refuse(f"a mask is {mask.dtype} {mask.shape}, not bool {item.size}")
    for phrase in item.phrases:
        if not 0 <= phrase.start < phrase.end <= len(item.caption or ""):
            raise refuse(f"the phrase {phrase.start}:{phrase.end} is no part of the caption; correct it")


def _write_json(path: Path, value: object) -> Path:
    with _written(path) as part:
        part.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
    return path


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """All of a file or nothing: it takes its name when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise FramesError(f"{path} can't be written ({problem.strerror}); choose another place") from problem
