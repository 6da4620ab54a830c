"""What evaluation asks of a model. :class:`x2sam.inference.engine.Engine` answers to it, and so do stand-ins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from x2sam.data.video import VideoReader
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.data.task_sample import TaskSample
    from x2sam.evaluation.protocol import Chunk, Question


class Session(Protocol):
    """An open picture (frame 0) or clip."""

    def segment(self, prompt: Prompt, frame: int = 0) -> list[Mask]:
        """Masks bool (H, W) for all that was asked so far about ``prompt.object_id``."""

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        """The true mask bool (H, W) of an object on a frame."""

    def track(
        self, object_ids: Sequence[str], start: int, stop: int, direction: str, memory: str | None = None
    ) -> Iterable[FrameMasks]:
        """Follow objects that were prompted or corrected over the frames ``start`` to ``stop`` - 1, by default in the
        engine's memory mode."""

    def close(self) -> None: ...


class Opener(Protocol):
    """An engine."""

    def open(self, frames: np.ndarray | VideoReader, key: str | None = None) -> Session: ...


@dataclass(frozen=True, eq=False)
class View:
    """One way of reading an answer: masks bool (N, H, W), scores float (N,), categories int (N,) as indices into what
    was asked, ids int (N,) that stay equal through a chunk."""

    masks: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, eq=False)
class FrameAnswer:
    """The answer to a question on one frame of the sample, read in one or several ways.

    views: ``masks``, or for categories any of ``panoptic``, ``semantic`` and ``instances``
    text, phrases: of grounded captions, the same on every frame
    """

    frame: int
    views: Mapping[str, View]
    text: str | None = None
    phrases: tuple[str, ...] = ()


class OpenChunk(Protocol):
    """Frames that are looked at, ready for questions."""

    def ask(self, question: Question) -> Iterator[FrameAnswer]:
        """Answers on the frames of the question, in order, each made when it is asked for."""


class Answerer(Protocol):
    """A model that follows the benchmarks' way of asking; see :class:`x2sam.evaluation.benchmark.BenchmarkModel`."""

    def open(self, sample: TaskSample, chunk: Chunk) -> AbstractContextManager[OpenChunk]: ...
