"""One training or evaluation sample of one task, as every reader returns it, and what a dataset is.

:class:`~x2sam.structures.Sample` (label maps, objects with expressions) is what generated scenes and outlined pictures
give: any task can be made of it. A :class:`TaskSample` has its task already: it is one line of a published annotation
file. Pictures are clips of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Turn:
    """One question and its answer, in plain words."""

    question: str
    answer: str


@dataclass(frozen=True, eq=False)
class TaskSample:
    """What one annotation asks and what it should get. ``T`` frames, ``N`` masks, ``K`` items.

    task:      name of a row of :data:`x2sam.data.tasks.TASKS` without prefix; T > 1 or ``video`` makes it the video row
    frames:    uint8 (T, H, W, 3) RGB
    masks:     bool (T, N, H, W); all False where the object is not in sight
    labels:    int64 (N,), which of ``items`` each mask belongs to (region tasks: which of ``regions``)
    items:     category names, one phrase or sentence, or the phrases of a grounded caption in their order
    things:    for categories, whether each item is countable; empty elsewhere
    regions:   bool (K, H, W) prompts on ``region_frame`` where the annotation brings them; None: drawn from the masks
    ignore:    bool (T, H, W), pixels that count neither way
    annotated: bool (T,), frames with ground truth; the others are context only
    caption:   the description of a grounded caption, or the words of an answer that explains; None elsewhere
    spans:     (start, end) of each of ``items`` in ``caption``
    turns:     a chat; empty elsewhere
    ids:       stable ids of the N masks over the clip; empty when the position is the id
    key:       names the sample in messages and results: file and number, never its text
    group:     the video that a clip was cut from; clips of one group are put together again to score a video
    frame_numbers: the places of the frames in that video; empty when they are 0, 1, 2 ...

    What the items and masks are, task by task:

    genseg, ovseg:  items are all categories of the annotation file that are known to be outlined completely, whether
                    present or not (where that is not known, those present); things have a mask each, stuff one mask
                    per category. ``things`` all False: one mask per category for all of them, a semantic map
    refseg, reaseg: one item, one mask: the union of what is meant, all False where nothing is
    gcgseg:         one mask per item
    vgdseg:         an item per category; ``labels`` tell the category of each of its objects. ``regions`` has one
                    prompt per item on ``region_frame``; without it draw one from any mask of the item
    intseg, objseg: every object is an item of its own (``labels`` is 0..N-1), so that a picture is encoded once for
                    all; prompt each by itself. Without ``regions`` the prompt of a mask is drawn from the first
                    annotated frame that shows it, see :meth:`first_seen`. N may be 0 in clips of files that tell
                    only in their label maps what they show
    """

    task: str
    frames: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    items: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    regions: np.ndarray | None = None
    region_frame: int = 0
    ignore: np.ndarray | None = None
    annotated: np.ndarray | None = None
    caption: str | None = None
    spans: tuple[tuple[int, int], ...] = ()
    turns: tuple[Turn, ...] = ()
    ids: tuple[int, ...] = ()
    video: bool = False
    key: str = ""
    group: str = ""
    frame_numbers: tuple[int, ...] = ()

    def first_seen(self) -> np.ndarray:
        """int64 (N,), the first annotated frame that shows each mask; -1 where none does."""
        seen = self.masks.any((2, 3))
        if self.annotated is not None:
            seen = seen & self.annotated[:, None]
        return np.where(seen.any(0), seen.argmax(0), -1)

    @property
    def modality(self) -> str:
        return "video" if self.video or len(self.frames) > 1 else "image"


class TaskDataset(Protocol):
    """Random access to samples of one task and modality from one annotation file; nothing is read before it is asked
    for.

    ``lengths[i]`` is the number of frames of sample ``i`` (ones for pictures), known without decoding, so that batches
    can be made of clips of equal length; of video files that were never opened, the most that it can be.
    ``dataset[i]`` raises :class:`~x2sam.errors.X2SAMError` for a broken sample.
    """

    name: str
    task: str
    modality: str
    lengths: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TaskSample: ...
