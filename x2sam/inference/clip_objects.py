"""What words found in a clip, frame by frame, in few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from x2sam.structures import Mask


@dataclass(frozen=True, eq=False)
class Finding:
    """A mask of ``size`` (H, W): the bits inside ``box``, which is ``x, y, width, height`` in pixels."""

    bits: np.ndarray
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    score: float

    @classmethod
    def of(cls, mask: Mask) -> Finding:
        x, y, width, height = box = mask.bbox
        return cls(np.packbits(mask.mask[y : y + height, x : x + width]), mask.mask.shape, box, mask.score)

    def mask(self) -> np.ndarray:
        """bool (H, W)."""
        x, y, width, height = self.box
        whole = np.zeros(self.size, bool)
        bits = np.unpackbits(self.bits, count=width * height)
        whole[y : y + height, x : x + width] = bits.reshape(height, width)
        return whole


@dataclass(frozen=True, eq=False)
class Sighting:
    """Something that was found on one frame. ``category`` is its index into the prompt's items."""

    frame: int
    finding: Finding
    category: int = 0
    phrase: str | None = None

    @classmethod
    def of(cls, frame: int, mask: Mask) -> Sighting:
        return cls(frame, Finding.of(mask), mask.category, mask.phrase)

    @property
    def score(self) -> float:
        return self.finding.score


@dataclass(frozen=True, eq=False)
class ClipObject:
    """One object of a clip. ``findings`` are its masks on frames where it was found by itself and what was carried
    there agreed; ``category`` and ``phrase`` say which of the prompt's items it is."""

    object_id: str
    findings: Mapping[int, Finding]
    category: int = 0
    phrase: str | None = None

    @property
    def surest(self) -> int:
        """The frame where it was found with the highest score, the earliest of several."""
        return max(sorted(self.findings), key=lambda frame: self.findings[frame].score)

    @property
    def score(self) -> float:
        """0..1, on its surest frame."""
        return self.findings[self.surest].score

    @property
    def masks(self) -> dict[int, Mask]:
        """By frame, in order; bool (H, W) at the size of the frame."""
        return {frame: self.mask(frame) for frame in sorted(self.findings)}

    def mask(self, frame: int) -> Mask:
        """On one of the frames where it was found."""
        finding = self.findings[frame]
        return Mask(finding.mask(), finding.score, self.object_id, self.phrase, self.category)
