"""Pages of an earlier task before those of a task, as one list of frames: what a walk through several tasks needs.

For those who carry objects the task's own pages keep their numbers, and the earlier ones are numbered -n to -1; the
engine counts all of them from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from backend.engines import Engine, Session
from backend.frames import TaskFrames
from x2sam.structures import FrameMasks


@dataclass(frozen=True, eq=False)
class EarlierPages:
    """Some pages of another task's frames, in order of time."""

    frames: TaskFrames
    pages: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where these pages are."""
        return tuple(self.frames.addresses[page] for page in self.pages)

    def opener(self, engine: Engine, own: TaskFrames) -> Callable[[], Session]:
        """Opens sessions on these pages and those of a task."""
        joined = _JoinedFrames(
            [*((self.frames, page) for page in self.pages), *((own, page) for page in range(len(own)))]
        )
        key = sha256("\n".join((self.frames.key, *map(str, self.pages), own.key)).encode()).hexdigest()[:32]
        return lambda: _SessionWithEarlier(engine.open(joined, key=key), len(self))


class _JoinedFrames(Sequence):
    """Pages of several tasks as the engine reads them: ``len()`` and ``[i]``, uint8 (H, W, 3)."""

    def __init__(self, pages: Sequence[tuple[TaskFrames, int]]):
        self._pages = pages

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int) -> np.ndarray:
        frames, page = self._pages[index]
        return frames[page]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the pages are."""
        return tuple(frames.addresses[page] for frames, page in self._pages)

    def digest(self, index: int) -> str:
        frames, page = self._pages[index]
        return frames.digest(page)


class _SessionWithEarlier:
    """A session that only walks, with the numbers of those who carry: masks of the earlier pages are not told."""

    def __init__(self, session: Session, earlier: int):
        self._session, self._earlier = session, earlier

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        self._session.correct(frame + self._earlier, object_id, mask)

    def recall(self, frame: int, object_id: str, mask: np.ndarray, score: float = 1.0) -> None:
        self._session.recall(frame + self._earlier, object_id, mask, score)

    def track(
        self, object_ids: Sequence[str], start: int = 0, stop: int | None = None, direction: str = "forward",
        *, pauses: bool = False, skip: Collection[int] = (),
    ) -> Iterator[FrameMasks | None]:  # fmt: skip
        end = None if stop is None else stop + self._earlier
        left_out = frozenset(page + self._earlier for page in skip)
        walk = self._session.track(object_ids, start + self._earlier, end, direction, pauses=pauses, skip=left_out)
        for masks in walk:
            if masks is not None and masks.frame >= self._earlier:
                yield FrameMasks(masks.frame - self._earlier, masks.masks)
            elif pauses:
                yield None

    def close(self) -> None:
        self._session.close()
