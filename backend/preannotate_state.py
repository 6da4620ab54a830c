"""What a run of pre-annotation has to know when it is started again: its plan, what was sent, and what tasks look like.

Label Studio is the record of which task has a prediction; this file only saves asking the model again for what scores
are made of. One process at a time has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.errors import BackendError

_VERSION = "1"
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE plan (task INTEGER PRIMARY KEY)",
    "CREATE TABLE task (task INTEGER PRIMARY KEY, prediction INTEGER, score REAL NOT NULL, error REAL NOT NULL, "
    "vector BLOB NOT NULL)",
)


class StateError(BackendError):
    """The file can't be used; the text says what to do."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A task with a prediction of ours: its id in Label Studio (None where that was not heard), the ``score`` that it
    has there, the expected ``error`` and what the task looks like, ``vector`` float32 (D,)."""

    task: int
    prediction: int | None
    score: float
    error: float
    vector: np.ndarray


class State:
    """The file of one project, model version and question."""

    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = self._open()
            if self._meta("version") not in (None, _VERSION):
                self._database.close()
                path.unlink()
                self._database = self._open()
            if self._meta("version") is None:
                for statement in _TABLES[1:]:
                    self._database.execute(statement)
                self._database.execute("INSERT INTO meta VALUES ('version', ?)", (_VERSION,))
        except (sqlite3.Error, OSError) as error:
            raise _refused(path, error) from error

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
        # synchronous=NORMAL: what was committed outlives the process, which is all that is asked here
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            database.execute(f"PRAGMA {pragma}")
        database.execute(_TABLES[0].replace("TABLE", "TABLE IF NOT EXISTS"))
        return database

    def _meta(self, key: str) -> str | None:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def plan(self, question: str) -> list[int]:
        """The tasks of a run that asked the same ``question`` and did not end; none where there was no such run."""
        with _told(self._path):
            if self._meta("question") != question:
                return []
            return [task for (task,) in self._database.execute("SELECT task FROM plan ORDER BY task")]

    def begin(self, question: str, tasks: Iterable[int]) -> None:
        """Takes note of which tasks a run is about; what an earlier one was about is forgotten."""
        with _told(self._path), self._whole():
            self._database.execute("DELETE FROM plan")
            self._database.executemany("INSERT INTO plan VALUES (?)", ((task,) for task in tasks))
            self._database.execute("INSERT OR REPLACE INTO meta VALUES ('question', ?)", (question,))

    def end(self) -> None:
        """The run has ended: the next one makes a plan of its own."""
        with _told(self._path), self._whole():
            self._database.execute("DELETE FROM plan")
            self._database.execute("DELETE FROM meta WHERE key = 'question'")

    def put(self, sent: Sent) -> None:
        """Takes note of a prediction, in place of what was known of the task."""
        vector = sent.vector.astype(np.float16).tobytes()
        with _told(self._path):
            self._database.execute(
                "INSERT OR REPLACE INTO task VALUES (?, ?, ?, ?, ?)",
                (sent.task, sent.prediction, sent.score, sent.error, vector),
            )

    def rescored(self, task: int, score: float) -> None:
        """The prediction of a task has another score now."""
        with _told(self._path):
            self._database.execute("UPDATE task SET score = ? WHERE task = ?", (score, task))

    def forget(self, tasks: Sequence[int]) -> None:
        """What was known of tasks whose predictions are not there any more."""
        with _told(self._path), self._whole():
            self._database.executemany("DELETE FROM task WHERE task = ?", ((task,) for task in tasks))

    def known(self, task: int) -> Sent | None:
        """What is known of a task."""
        with _told(self._path):
            row = self._database.execute("SELECT * FROM task WHERE task = ?", (task,)).fetchone()
        return _sent(row) if row else None

    def tasks(self) -> set[int]:
        """The tasks that something is known of."""
        with _told(self._path):
            return {task for (task,) in self._database.execute("SELECT task FROM task")}

    def all(self) -> list[Sent]:
        """Everything, in order of the tasks' ids."""
        with _told(self._path):
            return [_sent(row) for row in self._database.execute("SELECT * FROM task ORDER BY task")]

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of it or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _sent(row: tuple) -> Sent:
    *values, vector = row
    return Sent(*values, np.frombuffer(vector, np.float16).astype(np.float32))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> StateError:
    if "locked" in str(error):
        return StateError("Another run pre-annotates this project with the same model; wait for it.")
    return StateError(f"{path} can't be used ({error}); free space, or set X2SAM_STATE_DIR to another folder.")
