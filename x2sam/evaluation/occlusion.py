"""Objects that are hidden for a while: how well they are found again, by memory mode.

Each object is given by its mask on the first frame and followed through a clip in which a board covers it
(:mod:`x2sam.data.occluders`). Scored are the frames after it has come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from x2sam.data.long_clips import LongClips
from x2sam.data.masks import IGNORE
from x2sam.data.occluders import Occluded, occlude
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.clicks import answer
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.dataset import Clip, Progress, read_clips, silent
from x2sam.evaluation.metrics.boundary import ObjectScores, mean_jf

FOUND = 0.5  # IoU from which an object counts as found
FRAMES = 40  # of a generated clip
MEASURED = 2000  # added to the seed: generated clips that nothing is fitted to


@dataclass
class Reappearance:
    """What one memory mode made of some objects.

    scores:   J and F of each object on the frames after it came back
    imagined: of each object, the share of the frames where it was hidden on which something was found all the same
    """

    scores: list[ObjectScores] = field(default_factory=list)
    imagined: list[float] = field(default_factory=list)

    def summary(self) -> dict:
        """``found``: share of those frames, mean over objects, on which the IoU is one half at least."""
        found = [float(np.mean(np.array(s.j) >= FOUND)) for s in self.scores]
        return {
            **mean_jf(self.scores),
            "found": float(np.mean(found)),
            "imagined": float(np.mean(self.imagined)),
            "objects": len(self.scores),
        }


@dataclass(frozen=True, eq=False)
class Hidden:
    """An object to follow: ``number`` in the label maps of its clip."""

    clip: Occluded
    number: int


def evaluate_occlusion(
    engine: Opener, data: str | Path, generated: int = 10, hidden: int = 12, seed: int = 0,
    modes: Sequence[str] = (), limit: int | None = None, progress: Progress = silent,
) -> dict:  # fmt: skip
    """Of the real clips of ``data`` (where it has ``videos.json``), and of ``generated`` clips made of its pictures
    (where it has ``train.json``): J, F and J&F after the object came back, by memory mode.

    hidden: frames that the object is covered for; modes: all, unless some are named; limit: only the first real clips
    """
    from x2sam.inference.walk import MODES  # late: with PyTorch this takes seconds

    modes = modes or MODES
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise PromptError(f"there is no memory mode {unknown[0]!r}; use some of {', '.join(MODES)}")
    root = Path(data)
    sources = {}
    if (root / "videos.json").is_file():
        clips = read_clips(root)[:limit]
        sources["clips"] = (clips, lambda clip: hidden_in_clip(clip, hidden, seed))
    if (root / "train.json").is_file() and generated:
        made = LongClips(root, seed + MEASURED, frames=FRAMES)
        sources["generated"] = (range(generated), lambda k: hidden_in_generated(made, k, hidden, seed))
    if not sources:
        raise FramesError(f"{root} has neither videos.json nor train.json; name a directory of clips or of pictures")
    result: dict = {"hidden": hidden, "seed": seed}
    for name, (items, read) in sources.items():
        table = {mode: Reappearance() for mode in modes}
        for item in progress(items, name):
            for thing in read(item):
                follow_hidden(engine, thing, table)
        if not next(iter(table.values())).scores:
            raise FramesError(
                f"no clip of {root} is long enough to hide an object for {hidden} frames; hide it shorter"
            )
        result[name] = {mode: row.summary() for mode, row in table.items()}
    return result


def hidden_in_clip(clip: Clip, hidden: int, seed: int) -> Iterator[Hidden]:
    """The objects of a clip with ground truth on every frame that are there from its first frame on."""
    with VideoReader(clip.video) as video:
        if clip.gt_frames != tuple(range(len(video))):
            return
        frames = np.stack([video[k] for k in range(len(video))])
    labels = np.stack([clip.labels(k) for k in clip.gt_frames])
    for number in clip.objects:
        yield from _hidden(frames, labels, number, hidden, seed)


def hidden_in_generated(clips: LongClips, index: int, hidden: int, seed: int) -> Iterator[Hidden]:
    """The first object of a generated clip."""
    sample = clips[index]
    yield from _hidden(sample.frames, sample.labels, 1, hidden, seed + index)


def _hidden(frames: np.ndarray, labels: np.ndarray, number: int, hidden: int, seed: int) -> Iterator[Hidden]:
    clip = occlude(frames, labels, number, hidden, seed) if (labels[0] == number).any() else None
    if clip is not None:
        yield Hidden(clip, number)


def follow_hidden(engine: Opener, thing: Hidden, table: dict[str, Reappearance]) -> None:
    """Adds what each mode of ``table`` makes of the object."""
    clip, name = thing.clip, str(thing.number)
    session = engine.open(clip.frames)
    try:
        session.correct(0, name, clip.labels[0] == thing.number)
        for mode, row in table.items():
            scores, imagined = ObjectScores(), []
            for step in session.track([name], 0, len(clip.frames), "forward", memory=mode):
                found = answer([m for m in step.masks if m.object_id == name], clip.labels.shape[1:], name)
                if step.frame in clip.hidden:
                    imagined.append(bool(found.any()))
                elif step.frame in clip.after:
                    labels = clip.labels[step.frame]
                    scores.add(found, labels == thing.number, labels == IGNORE)
            row.scores.append(scores)
            row.imagined.append(float(np.mean(imagined)))
    finally:
        session.close()
