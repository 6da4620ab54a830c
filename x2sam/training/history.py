"""What a run tells: JSON lines, log records, TensorBoard, and a bar with the time that is left on a terminal."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from x2sam.errors import TrainingError

log = logging.getLogger(__name__)


class History:
    """Running means of a run's numbers; a context manager, since the bar and the files are to be closed.

    directory: gets ``log.jsonl`` and, with ``tensorboard``, the directory ``tensorboard``
    start, total: first step of this process and steps of the whole run; every: steps between two records
    """

    def __init__(self, directory: Path, start: int, total: int, every: int, tensorboard: bool = True):
        self.path, self.total, self.every = directory / "log.jsonl", total, every
        self.began, self.count, self.start = time.monotonic(), 0, start
        self.sums: dict[str, list[float]] = {}
        # what a killed process wrote behind its last state is not shown twice
        place = directory / "tensorboard"
        self.board = SummaryWriter(str(place), purge_step=start + 1) if tensorboard else None
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("training", total=total, completed=start)

    def __enter__(self) -> History:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        if self.board is not None:
            self.board.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of step ``step`` (1 is the first)."""
        self.count += 1
        for key, value in values.items():
            self.sums.setdefault(key, []).append(value)
        self.bar.update(self.task, completed=step, description=f"loss {values.get('loss', float('nan')):.3f}")
        if self.count % self.every and step < self.total:
            return
        pace = (time.monotonic() - self.began) / self.count
        means = {key: float(np.mean(found)) for key, found in self.sums.items()}
        self.sums.clear()
        record = {key: float(f"{value:.6g}") for key, value in means.items()}
        left = (self.total - step) * pace / 60
        record |= {"step": step, "seconds_per_step": round(pace, 3), "minutes_left": round(left, 1)}
        try:
            self._write(step, means, json.dumps(record))
        except OSError as error:
            raise TrainingError(
                f"{self.path} can't be written ({error.strerror}); make room on the disk and continue with --resume"
            ) from error
        log.info("%s", json.dumps(record))

    def _write(self, step: int, means: Mapping[str, float], line: str) -> None:
        if self.board is not None:
            for key, value in means.items():
                self.board.add_scalar(key, value, step)
        with self.path.open("a") as out:
            out.write(line + "\n")

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture uint8 (H, W, 3) for TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, picture, step, dataformats="HWC")
