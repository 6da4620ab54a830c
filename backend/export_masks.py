"""Masks of objects, as COCO's compressed run lengths: small enough to keep, and joined without unpacking. Shapes are
(H, W)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from backend.geometry import Size, resize_mask


@dataclass(frozen=True)
class Runs:
    """The compressed run lengths of a mask, column by column, as COCO's files have them."""

    size: Size
    counts: str

    @classmethod
    def of(cls, mask: np.ndarray) -> Runs:
        """Of a mask, bool (H, W)."""
        return cls._of(coco.encode(np.asfortranarray(mask, np.uint8)))

    @classmethod
    def _of(cls, coded: dict) -> Runs:
        height, width = (int(side) for side in coded["size"])
        return cls((height, width), coded["counts"].decode("ascii"))

    def coded(self) -> dict:
        """For pycocotools."""
        return {"size": list(self.size), "counts": self.counts.encode("ascii")}

    def as_json(self) -> dict:
        """As ``segmentation`` of COCO's files."""
        return {"size": list(self.size), "counts": self.counts}

    def mask(self) -> np.ndarray:
        """bool (H, W)."""
        return coco.decode(self.coded()).astype(bool)

    @property
    def area(self) -> int:
        return int(coco.area(self.coded()))

    @property
    def box(self) -> list[float]:
        """``x``, ``y``, ``width``, ``height`` in pixels."""
        return [float(side) for side in coco.toBbox(self.coded())]

    def resized(self, size: Size) -> Runs:
        """The mask at another size, nearest pixel."""
        return self if self.size == tuple(size) else Runs.of(resize_mask(self.mask(), size))


@dataclass(frozen=True, eq=False)
class Drawn:
    """An object on a frame. ``frame`` counts from the beginning of the whole video; ``place`` is its position among the
    results, later ones lie on top; ``agreement`` is how many annotators there were, how many drew it, and the mean
    overlap of theirs with the outcome; ``point`` is ``(x, y)`` in pixels where it is a keypoint."""

    frame: int
    object: str
    place: int
    label: str
    runs: Runs
    origin: str
    shape: str
    score: float | None = None
    annotation: int = 0
    annotator: int | None = None
    agreement: tuple[int, int, float] | None = None
    point: tuple[float, float] | None = None


def union(parts: Sequence[Runs]) -> Runs:
    """All pixels of masks of one size."""
    return parts[0] if len(parts) == 1 else Runs._of(coco.merge([part.coded() for part in parts]))


def shared_area(one: Runs, other: Runs) -> int:
    """The number of pixels that two masks of one size have in common."""
    return int(coco.area(coco.merge([one.coded(), other.coded()], intersect=True)))


def majority(parts: Sequence[Runs], votes: int) -> Runs:
    """The pixels that are in at least so many of the masks, all of one size."""
    counts = np.zeros(parts[0].size, np.uint16)
    for part in parts:
        counts += part.mask()
    return Runs.of(counts >= votes)


def overlap(pairs: Iterable[tuple[Runs | None, Runs | None]]) -> float:
    """Intersection over union of two objects, given as their masks page by page; None where one is not in sight."""
    shared = whole = 0
    for one, other in pairs:
        both = shared_area(one, other) if one is not None and other is not None else 0
        shared += both
        whole += sum(part.area for part in (one, other) if part is not None) - both
    return shared / whole if whole else 0.0
