"""Whether the server can do its work right now; more than that it is alive, which ``/health`` tells."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backend.answers import Services

_DISK_SECONDS = 5.0


class DiskCheck:
    """Whether a folder takes files; looked at anew after a few seconds."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()
        self._until = 0.0
        self._problem = ""

    def problem(self) -> str:
        """A sentence, empty when all is well."""
        with self._lock:
            if self._clock() >= self._until:
                self._problem = self._tried()
                self._until = self._clock() + _DISK_SECONDS
            return self._problem

    def _tried(self) -> str:
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".ready-") as file:
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            return f"X2SAM_CACHE_DIR takes no files ({error.strerror}): free some space, or name another folder."
        return ""


def warnings(services: Services) -> Iterator[str]:
    """A sentence for each thing that should be mended although tasks are answered."""
    if services.journal.problem:
        yield services.journal.problem
    if services.recorder.problem:
        yield services.recorder.problem


def problems(services: Services, disk: DiskCheck) -> Iterator[str]:
    """A sentence for each reason why tasks can't be answered now."""
    state, engine = services.engines.state, services.engines.ready_engine
    if state == "loading":
        yield "The model is still loading."
    elif state == "failed":
        yield "The model could not be loaded; the log says why."
    if services.admission.stopping:
        yield "The server is being stopped."
    vitals = engine.vitals if engine is not None else None
    if vitals is not None and vitals.lost:
        yield "The device failed; the server starts itself again."
    elif vitals is not None and not vitals.responsive:
        yield "The device does not come back from a step; restart the server if this lasts."
    if problem := disk.problem():
        yield problem
