"""The vocabulary shared by prompts, inference, training and evaluation.

Letters used everywhere: ``B`` batch, ``T`` frames, ``N`` masks, ``Q`` queries, ``C`` channels, ``H W`` size.
Sizes are ``(H, W)``; points are ``(x, y)`` in pixels of the picture as a person sees it (EXIF applied),
origin at the top left corner of the top left pixel; boxes are ``(x0, y0, x1, y1)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Point:
    """One click. ``positive`` is False for "this is not part of the object"."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person asked for on one frame.

    The task follows from what is in it (see :func:`x2sam.data.tasks.task_of`) unless ``task`` names it.

    points:     clicks in the order they were made
    boxes:      ``(x0, y0, x1, y1)`` in pixels
    strokes:    polylines, each an array (n, 2) of x, y
    masks:      bool arrays (H, W) at picture size
    text:       a phrase, a sentence, a question or ``describe``
    categories: names to look for
    object_id:  the object the answer belongs to; the engine invents one when None
    previous:   bool (H, W), the mask so far that the clicks correct, or None
    """

    points: tuple[Point, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    strokes: tuple[np.ndarray, ...] = ()
    masks: tuple[np.ndarray, ...] = ()
    text: str | None = None
    categories: tuple[str, ...] = ()
    task: str | None = None
    object_id: str | None = None
    previous: np.ndarray | None = None

    @property
    def has_region(self) -> bool:
        return bool(any(p.positive for p in self.points) or self.boxes or self.strokes or self.masks)


@dataclass(frozen=True, eq=False)
class Mask:
    """One answer: ``mask`` bool (H, W) at picture size, ``score`` 0..1, ``category`` index into the prompt's items.

    ``doubt``, of masks that were tracked: the probability 0..1 that the mask overlaps the truth by less than a half
    (:mod:`x2sam.inference.drift`); None where the mask is known, or nothing was estimated.
    """

    mask: np.ndarray
    score: float
    object_id: str = ""
    phrase: str | None = None
    category: int = 0
    doubt: float | None = None

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """``x, y, width, height`` in pixels; zeros for an empty mask."""
        rows, cols = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return (0, 0, 0, 0)
        return (int(cols[0]), int(rows[0]), int(cols[-1] - cols[0] + 1), int(rows[-1] - rows[0] + 1))


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """All masks of one frame of a track."""

    frame: int
    masks: list[Mask] = field(default_factory=list)


@dataclass(frozen=True)
class SampleObject:
    """An object of a training sample. ``phrases`` are expressions that single it out in the first frame it is seen."""

    id: int
    category: str
    thing: bool = True
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture or clip with its truth.

    frames:   uint8 (T, H, W, 3) RGB
    labels:   uint8 (T, H, W); 0 background, 255 ignore, else ``SampleObject.id``
    complete: True when an unlabelled pixel is proof that no object of the listed categories is there
    """

    frames: np.ndarray
    labels: np.ndarray
    objects: tuple[SampleObject, ...]
    complete: bool = True
    source: str = ""
