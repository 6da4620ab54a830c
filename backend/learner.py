"""The server's part of learning: it works through the events of webhooks and lets trainings begin, one after another.

A training is ``python -m backend retrain`` in a process of its own, which lets people go first. An event that began one
is done when that has ended; so one that a kill interrupted begins again with the next start, and goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import replies
from backend.events import SUBMITTED, TRAIN, Event, EventLog
from backend.journal import Journal, Row
from backend.logs import loggable, where
from backend.metrics import Metrics
from backend.people import PeopleLock
from backend.retrain import OUTCOME, PEOPLE, PROGRESS, Learning, read_progress
from backend.retrain_command import RUNNING
from backend.settings import Settings

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 30.0
_STOP_SECONDS = 5.0
_TOLD_SECONDS = 300.0
_MOST_WAITING = 64
_LOG = "retrain.log"

# masks that were corrected since the last training of a project, each annotation as it was last submitted
_CORRECTED = """
    SELECT COALESCE(SUM(masks), 0) AS masks FROM (
        SELECT masks, MAX(id) FROM event WHERE project = ? AND id <= ? AND action IN (?, ?)
        AND id > COALESCE((SELECT event FROM trained WHERE project = ?), 0) GROUP BY annotation
    )"""

Starter = Callable[[str], subprocess.Popen]
"""From the id of a project to the process of its training."""


@dataclass(frozen=True)
class Told:
    """How the last training ended. ``until``: when it is no longer told."""

    project: str
    sentence: str
    until: float


class Learner:
    """One for a server. Nothing waits for it; its thread begins with :meth:`start`."""

    def __init__(
        self, settings: Settings, journal: Journal, events: EventLog, metrics: Metrics,
        starter: Starter | None = None, clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._settings, self._journal, self._events, self._metrics = settings, journal, events, metrics
        self._clock, self._start = clock, starter or self._begin
        self._folder = Learning.of(settings).folder
        self.people = PeopleLock(self._folder / PEOPLE)
        self._wanted: dict[str, list[Event]] = {}
        self._running: tuple[str, subprocess.Popen] | None = None
        self._not_before = 0.0
        self._logged = ("", 0)
        self._told: Told | None = None
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="learner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was noted. Returns at once."""
        self._wake.set()

    def close(self) -> None:
        """Ends a training that runs; the next start goes on with it."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        if self._running is not None and self._running[1].poll() is None:
            self._running[1].terminate()
            try:
                self._running[1].wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._running[1].kill()
        self.people.close()

    def sentence(self, project: str) -> str:
        """What people of a project are told beside their answer; empty where nothing runs and nothing is new."""
        running, told = self._running, self._told
        if running is not None and running[0] == project:
            found = self.progress() or {"part": "", "done": 0, "of": 0}
            return replies.learning(found["part"], int(found["done"]), int(found["of"]))
        if told is not None and told.project == project and self._clock() < told.until:
            return told.sentence
        return ""

    def progress(self) -> dict[str, Any] | None:
        """How far the training is that runs, whoever began it."""
        return read_progress(self._folder / PROGRESS)

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # the thread must live on
                fields = {"error": type(error).__name__, "at": where(error)}
                log.error("unexpected error while events were worked on", extra={"fields": fields})

    def look(self) -> None:
        """One look at everything."""
        self.people.settle()
        self._read()
        self._log_progress()
        if self._running is not None and self._running[1].poll() is not None:
            self._ended(*self._running)
        if self._running is None and self._wanted and self._clock() >= self._not_before and not self._closed:
            project = next(iter(self._wanted))
            self._running = project, self._start(project)
            log.info("training begins", extra={"fields": {"project": loggable(project)}})

    def _log_progress(self) -> None:
        """A line for each part of a training and each tenth of it."""
        found = self.progress() if self._running is not None else None
        if found is None:
            return
        told = str(found["part"]), int(10 * found["done"] / max(1, found["of"]))
        if told != self._logged:
            self._logged = told
            about = {"project": loggable(self._running[0]), **{name: found[name] for name in ("part", "done", "of")}}
            log.info("training goes on", extra={"fields": about | {"waited": found["waited"]}})

    def _read(self) -> None:
        held = {event.id for events in self._wanted.values() for event in events}
        fresh = [event for event in self._events.waiting(_MOST_WAITING + len(held)) if event.id not in held]
        done = []
        for event in fresh:
            begins = self._is_new(event) if event.action == TRAIN else event.action in SUBMITTED and self._enough(event)
            if begins and event.project.isdigit() and len(self._wanted) < _MOST_WAITING:
                self._wanted.setdefault(event.project, []).append(event)
            else:
                done.append(event)
        if done:
            self._events.done(done)

    def _is_new(self, event: Event) -> bool:
        """Whether no training of the project was begun after this was asked for: one that outlived a killed server."""
        try:
            found = json.loads((self._folder / OUTCOME).read_text(encoding="utf-8"))
            return str(found["project"]) != event.project or float(found["begun"]) < event.made
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def _enough(self, event: Event) -> bool:
        """Whether so many masks were corrected since the last training of the project that one begins by itself."""
        every = self._settings.retrain_masks
        if not every or event.project in self._wanted:
            return False
        rows = self._journal.read(_CORRECTED, (event.project, event.id, *SUBMITTED, event.project))
        return bool(rows) and rows[0].masks >= every

    def _ended(self, project: str, process: subprocess.Popen) -> None:
        self._running = None
        code = process.returncode
        if code == RUNNING:  # that of a server before, or of a command
            self._not_before = self._clock() + _AGAIN_SECONDS
            return
        events = self._wanted.pop(project)
        self._metrics.trainings.labels("failed" if code else "ended").inc()
        last = max(event.id for event in events)
        self._journal.note([Row("INSERT OR REPLACE INTO trained VALUES (?, ?)", (project, last))])
        self._events.done(events)
        sentence = replies.LEARNING_FAILED if code else self._outcome(project)
        self._told = Told(project, sentence, self._clock() + _TOLD_SECONDS)
        about = {"project": loggable(project), **({"see": str(self._folder / _LOG)} if code else {})}
        log.log(logging.ERROR if code else logging.INFO, "training ended, code %d", code, extra={"fields": about})

    def _outcome(self, project: str) -> str:
        try:
            found = json.loads((self._folder / OUTCOME).read_text(encoding="utf-8"))
            if str(found["project"]) != project:
                return ""
            if found["promoted"]:
                self._metrics.promotions.inc()
            return replies.learned(found["version"], found["promoted"], found["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _begin(self, project: str) -> subprocess.Popen:
        settings, address = self._settings, self._settings.label_studio_url
        command = [sys.executable, "-m", "backend", "retrain", "--project", project]
        command += ["--model", settings.model, "--device", settings.device]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = str(Path(__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {
            "PYTHONPATH": paths, "LABEL_STUDIO_URL": address, "X2SAM_STATE_DIR": str(self._folder.parent)
        }  # fmt: skip
        with (self._folder / _LOG).open("ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment)


