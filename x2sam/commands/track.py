"""``python -m x2sam track``: objects followed through a video, one label map per frame."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from x2sam.commands.common import (
    Boxes,
    Clock,
    Device,
    Model,
    Points,
    Result,
    Text,
    load_engine,
    output_directory,
    plain_errors,
    progress_bar,
    prompt_of,
    write_json,
)
from x2sam.commands.pictures import label_map, read_object_masks, write_label_map
from x2sam.errors import PromptError
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.session import Session


class Direction(StrEnum):
    forward = "forward"
    backward = "backward"
    both = "both"


@dataclass(frozen=True)
class Followed:
    """An object to follow: its id in the session, its number in the label maps, and what is known of it."""

    id: str
    number: int
    area: int
    score: float = 1.0
    phrase: str | None = None

    def describe(self) -> dict:
        return {"number": self.number, "score": round(self.score, 6), "area": self.area, "phrase": self.phrase}


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file, or a folder of pictures.")],
    frame: Annotated[int, typer.Option(min=0, help="The frame on which the objects are marked, counted from 0.")] = 0,
    mask: Annotated[Path | None, typer.Option(help="A mask PNG; of a label map each number is an object.")] = None,
    point: Points = None,
    box: Boxes = None,
    text: Text = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Gets one label map per frame, 00000.png ...")] = None,
    direction: Annotated[Direction, typer.Option(help="From the marked frame to the end, the beginning, or both.")]
    = Direction.both,
    memory: Annotated[str | None, typer.Option(help="fifo, per-object, pinned or fast; see the README.")] = None,
    model: Model = "auto",
    device: Device = "auto",
    result: Result = None,
) -> None:  # fmt: skip
    """Follow objects through a video from one frame on which they are marked."""
    prompt = None if mask is not None and not (point or box or text) else prompt_of(point, box, text)
    if mask is not None and prompt is not None:
        raise typer.BadParameter("mark the objects by --mask or by --point, --box and --text, not by both")
    if out is not None:
        output_directory(out)
    clock = Clock()
    with plain_errors():
        with clock.measure("load"):
            engine = load_engine(model, device)
        with engine:
            mode = known_mode(memory or engine.memory)
            with clock.measure("open"):
                session = engine.open(video)
            with clock.measure("prompt"):
                objects = from_mask(session, frame, mask) if mask else from_prompt(session, frame, prompt)
            began = time.perf_counter()
            doubtful = Doubtful()
            frames = follow(session, objects, frame, direction, mode, out, doubtful)
            seconds = time.perf_counter() - began
    from x2sam.evaluation.video import peak_rss_mb

    summary = {
        "model": engine.version,
        "frames": frames,
        "fps": round(frames / seconds, 3) if seconds else None,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "objects": [o.describe() for o in objects],
        "direction": direction.value,
        "memory": mode,
        "look_at": doubtful.worst_first(),
        "ms": {**clock.ms, "track": round(seconds * 1e3, 2)},
    }
    write_json(result, summary)
    typer.echo(f"{engine.version}: {frames} frames, {summary['fps']} per second, {summary['peak_rss_mb']:.0f} MiB")


def known_mode(memory: str) -> str:
    from x2sam.inference.walk import MODES

    if memory not in MODES:
        raise typer.BadParameter(f"{memory!r} is none of {', '.join(MODES)}", param_hint="--memory")
    return memory


def from_mask(session: Session, frame: int, path: Path) -> list[Followed]:
    """The objects of a mask file; their numbers stay."""
    found = read_object_masks(path)
    for number, mask in found.items():
        session.correct(frame, str(number), mask)
    return [Followed(str(number), number, int(mask.sum())) for number, mask in found.items()]


def from_prompt(session: Session, frame: int, prompt: Prompt) -> list[Followed]:
    """What a prompt finds on its frame, numbered from 1, best first.

    Raises PromptError when it finds nothing.
    """
    masks: list[Mask] = session.segment(prompt, frame)
    if not masks:
        raise PromptError(f"nothing was found on frame {frame}; try other words, or click on the object")
    if not prompt.has_region:
        # what words find is only an answer so far; a mask makes an object of it
        for found in masks:
            session.correct(frame, found.object_id, found.mask)
    return [Followed(m.object_id, n, m.area, float(m.score), m.phrase) for n, m in enumerate(masks, 1)]


@dataclass
class Doubtful:
    """The masks of a track that are the most likely to be wrong, so many of them at most."""

    most: int = 10
    _kept: list[tuple[float, int, int]] = field(default_factory=list)

    def add(self, frame: int, number: int, doubt: float | None) -> None:
        if doubt is None:
            return
        heapq.heappush(self._kept, (doubt, -frame, number))
        if len(self._kept) > self.most:
            heapq.heappop(self._kept)

    def worst_first(self) -> list[dict]:
        worst = sorted(self._kept, reverse=True)
        return [{"frame": -frame, "number": number, "doubt": round(doubt, 4)} for doubt, frame, number in worst]


def follow(
    session: Session, objects: list[Followed], frame: int, direction: Direction, memory: str, out: Path | None,
    doubtful: Doubtful,
) -> int:  # fmt: skip
    """Write every frame as it comes, none is held. Returns their number."""
    numbers = {o.id: o.number for o in objects}
    expected = {"forward": len(session) - frame, "backward": frame + 1}.get(direction.value, len(session))
    count = 0
    with progress_bar(expected, "tracking") as step:
        for found in session.track(list(numbers), 0, None, direction.value, memory):
            count += 1
            for mask in found.masks:
                doubtful.add(found.frame, numbers[mask.object_id], mask.doubt)
            if out is not None:
                write_label_map(out / f"{found.frame:05d}.png", labels_of(found, numbers, session.size(found.frame)))
            step()
    return count


def labels_of(found: FrameMasks, numbers: dict[str, int], size: tuple[int, int]) -> np.ndarray:
    """The label map of a frame; where objects overlap the surer one is seen."""
    masks = sorted(found.masks, key=lambda m: -m.score)
    return label_map([m.mask for m in masks], [numbers[m.object_id] for m in masks], size)
