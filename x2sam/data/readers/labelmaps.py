"""Pictures with label maps: a JSON list, one image and one 8-bit PNG of object ids per picture.

Two layouts are read. Training sets have ``train.json`` (``sources``, ``pictures`` with ``file`` and ``mask``);
evaluation sets have ``images.json`` (``images`` with ``image`` and ``mask``, objects with ``eval``).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from x2sam.data.describe import describe_sample
from x2sam.data.masks import IGNORE
from x2sam.errors import FramesError
from x2sam.structures import Sample, SampleObject

DAILY_LIFE: Mapping[str, float] = {"coco": 6.0, "coco_person": 3.5, "pixabay": 3.0, "openimages_animals": 3.0}
"""Sources of everyday photographs, few in number: how much more often they are drawn."""

# How often a source is drawn, from its number of pictures.
_SOURCE_RULES = {"sqrt": np.sqrt, "equal": np.ones_like, "count": np.asarray}


@dataclass(frozen=True)
class ObjectRecord:
    """What the list says about one object. ``evaluate`` is False where it is too small or too hidden to be scored."""

    id: int
    category: str
    thing: bool
    evaluate: bool


@dataclass(frozen=True)
class PictureRecord:
    """One line of the list; paths relative to the root, sizes in pixels.

    ``sequence`` and ``frame`` mark consecutive frames of a film, in all of which an id is the same object.
    ``panoptic``: everything was labelled, regions too; what is not labelled nevertheless is unknown.
    """

    image: str
    mask: str
    width: int
    height: int
    source: str
    complete: bool
    ignore_label: int
    objects: tuple[ObjectRecord, ...]
    sequence: str = ""
    frame: int = 0
    panoptic: bool = False


def held_out(record: PictureRecord, every: int) -> bool:
    """Whether a picture is one of about one in ``every`` that a network is not trained on; 0 holds none back.

    By its name, so that it does not depend on the order of the list; frames of one film stay together.
    """
    return every > 0 and zlib.crc32((record.sequence or record.image).encode()) % every == 0


def _inside(root: Path, name: str, listing: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FramesError(f"{listing} names {name!r}, which is outside {root}; use paths relative to that directory")
    return str(path)


def _record(entry: dict, root: Path, listing: Path) -> PictureRecord:
    try:
        image = entry.get("file") or entry["image"]
        folders = PurePosixPath(image).parts
        return PictureRecord(
            image=_inside(root, image, listing),
            mask=_inside(root, entry["mask"], listing),
            width=int(entry["width"]),
            height=int(entry["height"]),
            source=str(entry.get("source") or (folders[-2] if len(folders) > 1 else "")),
            complete=bool(entry.get("complete", entry.get("gt_kind") == "panoptic")),
            ignore_label=int(entry.get("ignore_label", IGNORE)),
            objects=tuple(
                ObjectRecord(int(o["id"]), str(o["category"]), bool(o.get("thing", True)), bool(o.get("eval", True)))
                for o in entry["objects"]
            ),
            sequence=str(entry.get("sequence", "")),
            frame=int(entry.get("frame", 0)),
            panoptic=entry.get("gt_kind") == "panoptic",
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as problem:
        raise FramesError(
            f"{listing}: the entry {str(entry)[:120]} lacks or garbles a field ({problem}); correct that entry"
        ) from problem


def read_listing(root: Path) -> tuple[PictureRecord, ...]:
    """The pictures of a directory of either layout. Raises :class:`FramesError` naming what is missing or broken."""
    listing = next((root / name for name in ("train.json", "images.json") if (root / name).is_file()), None)
    if listing is None:
        raise FramesError(f"{root} has neither train.json nor images.json; name a directory of labelled pictures")
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as problem:
        raise FramesError(f"{listing} is not JSON ({problem}); copy it again") from problem
    entries = content.get("pictures", content.get("images")) if isinstance(content, dict) else None
    if not entries or not isinstance(entries, list):
        raise FramesError(f"{listing} lists no pictures under 'pictures' or 'images'")
    return tuple(_record(entry, root, listing) for entry in entries)


def _decode(path: Path, flags: int, what: str) -> np.ndarray:
    try:
        coded = np.fromfile(path, np.uint8)
    except OSError as problem:
        raise FramesError(f"{path}: the {what} can't be read ({problem.strerror}); restore the file") from problem
    decoded = cv2.imdecode(coded, flags) if len(coded) else None
    if decoded is None:
        raise FramesError(f"{path}: the {what} is not a picture that can be decoded; restore the file")
    return decoded


def plain_name(category: str) -> str:
    """A category as people say it: ``wall-other-merged`` -> ``wall``."""
    for suffix in ("-merged", "-other", "-stuff"):
        category = category.replace(suffix, "")
    return category.replace("-", " ").strip().lower()


class LabelMapDataset:
    """Lazy random access: ``dataset[i]`` is a :class:`Sample` of one frame at the picture's own size.

    Pixels with the list's ignore label become 255. Expressions are made of category, place and size only where they
    are unambiguous: order ("leftmost", "largest") needs a picture whose objects are all outlined.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.records = read_listing(self.root)
        self._by_image = {record.image: i for i, record in enumerate(self.records)}

    def __len__(self) -> int:
        return len(self.records)

    def names(self, leave_out: Collection[str] = ()) -> set[str]:
        """What its objects are called, without those of sources that are left out."""
        kept = (record for record in self.records if record.source not in leave_out)
        return {plain_name(one.category) for record in kept for one in record.objects}

    def index_of(self, image: str) -> int:
        """Index of the picture with this relative path; :class:`FramesError` when it is not listed."""
        if image not in self._by_image:
            raise FramesError(f"{image} is not listed in {self.root}")
        return self._by_image[image]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture uint8 (H, W, 3) RGB and label map uint8 (H, W), checked against the list and each other."""
        record = self.records[index]
        picture = cv2.cvtColor(_decode(self.root / record.image, cv2.IMREAD_COLOR, "picture"), cv2.COLOR_BGR2RGB)
        path = self.root / record.mask
        labels = _decode(path, cv2.IMREAD_UNCHANGED, "label map")
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise FramesError(f"{path}: a label map has one channel of 8 bits, this has {labels.dtype} {labels.shape}")
        if not picture.shape[:2] == labels.shape == (record.height, record.width):
            raise FramesError(
                f"{path}: sizes disagree: picture {picture.shape[:2]}, label map {labels.shape}, "
                f"list {(record.height, record.width)} as (H, W); restore the files"
            )
        if record.ignore_label != IGNORE:
            labels[labels == record.ignore_label] = IGNORE
        known = {o.id for o in record.objects} | {0, IGNORE}
        stray = [int(v) for v in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)) if int(v) not in known]
        if stray:
            raise FramesError(f"{path}: the label map has ids {stray} that the list does not name")
        return picture, labels

    def bare(self, index: int) -> Sample:
        """The picture without expressions, for callers that change it and describe the result."""
        record = self.records[index]
        picture, labels = self.read(index)
        objects = tuple(SampleObject(o.id, plain_name(o.category), o.thing) for o in record.objects)
        return Sample(picture[None], labels[None], objects, record.complete, record.source)

    def __getitem__(self, index: int) -> Sample:
        # Seeded by the place in the list: the same picture always has the same expressions.
        return describe_sample(self.bare(index), np.random.default_rng(range(len(self))[index]))

    def weights(
        self, per_source: str = "sqrt", boosts: Mapping[str, float] = DAILY_LIFE, hold_out: int = 0,
        leave_out: Collection[str] = (),
    ) -> np.ndarray:  # fmt: skip
        """Probability of drawing each picture, float64 (n,), sum 1.

        per_source: "sqrt" draws a source by the root of its number of pictures (so that large sources of one kind do
        not drown the others), "count" by that number, "equal" all alike; ``boosts`` multiply sources by name;
        hold_out: about one picture in so many is never drawn, see :func:`held_out`; leave_out: nor are these sources
        """
        if per_source not in _SOURCE_RULES:
            raise ValueError(f"per_source is one of {', '.join(_SOURCE_RULES)}, not {per_source!r}")
        names, which, counts = np.unique([r.source for r in self.records], return_inverse=True, return_counts=True)
        unknown = sorted(set(leave_out) - set(names.tolist()))
        if unknown:
            raise FramesError(f"{self.root} has no source {', '.join(unknown)} to leave out; it has {', '.join(names)}")
        share = _SOURCE_RULES[per_source](counts.astype(float)) * [boosts.get(str(n), 1.0) for n in names]
        drawn = [not held_out(record, hold_out) and record.source not in leave_out for record in self.records]
        if not any(drawn):
            raise FramesError(f"{self.root} has no pictures left to draw; leave fewer of its sources out")
        weights = (share / counts)[which] * drawn
        return weights / weights.sum()
