"""The journal: what must outlive the process, written as it happens and read again at the next start.

What is noted goes into one transaction when it is flushed: by a request once its answer is there and before it is
sent, by a track after each page. There is no writer thread: a transaction takes about as long as handing it over would,
and nothing that was answered waits in a queue that a kill would empty. When the disk does not take it, what is owed
stays in memory, within bounds, and goes with the next transaction that works; clicks are answered meanwhile.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from backend.journal_codec import BROKEN, name_of, pack_step, parts_of, unpack_step
from backend.journal_file import JournalError, JournalFile
from backend.protocol import whole_text
from backend.remembered import STEPS, Step
from backend.steady_clock import SteadyClock

log = logging.getLogger(__name__)

_OWED_BYTES = 32 << 20
_AGAIN_SECONDS = 5.0
_OPEN_SECONDS = 3.0  # for a server that is just ending
_LOOKS = 64  # times that the size is looked at while a whole journal is written
_FULL_ENOUGH = 0.9
_ASKED = 4096
_AT_ONCE = 64

_EVENTS = 20_000  # the queue is bounded: the oldest go, worked on or not

_EVICTED: Sequence[tuple[str, str]] = (
    # Label Studio has what these tell
    ("SELECT id FROM event WHERE done ORDER BY id LIMIT ?", "DELETE FROM event WHERE id = ?"),
    # what we proposed goes first: masks of tracks that do not run, a track without them can be walked again
    (
        "SELECT id FROM track WHERE state NOT IN ('running', 'emptied') ORDER BY changed LIMIT 1",
        "DELETE FROM mask WHERE track = ?; UPDATE track SET state = 'emptied' WHERE id = ?",
    ),
    ("SELECT id FROM step WHERE tracked ORDER BY made LIMIT ?", "DELETE FROM step WHERE id = ?"),
    ("SELECT id FROM event ORDER BY id LIMIT ?", "DELETE FROM event WHERE id = ?"),
    # then what a person made
    ("SELECT id FROM track WHERE state != 'running' ORDER BY changed LIMIT ?", "DELETE FROM track WHERE id = ?"),
    ("SELECT id FROM step ORDER BY made LIMIT ?", "DELETE FROM step WHERE id = ?"),
)


def _storable(value: Any) -> Any:
    """One value that SQLite refuses would keep back all that is owed beside it."""
    return whole_text(value) if isinstance(value, str) else value


NOW = object()
"""Stands among the values of a row for the time at which it is noted."""


@dataclass(frozen=True)
class Row:
    """One change: a statement with its values, :data:`NOW` among them for the time. ``proposed``: it can be made again,
    so it is given up first."""

    statement: str
    values: tuple[Any, ...]
    proposed: bool = False

    @property
    def nbytes(self) -> int:
        return 256 + sum(len(value) for value in self.values if isinstance(value, bytes | str))


class Journal:
    """Threads share one. ``folder`` None keeps nothing; what is older than ``max_age`` seconds is let go."""

    def __init__(
        self, folder: Path | None, max_bytes: int, max_age: float, clock: Callable[[], float] | None = None,
        wait: float = _OPEN_SECONDS,
    ):  # fmt: skip
        self._folder, self._max_bytes, self._max_age = folder, max_bytes, max_age
        self.clock = clock or SteadyClock()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._owed: deque[Row] = deque()
        self._owed_bytes = 0
        self._unchecked = self._max_bytes
        self._file: JournalFile | None = None
        self._closed = folder is None
        self._next_try = 0.0
        self.problem = ""
        until = time.monotonic() + wait
        while not self._closed and not self._open() and time.monotonic() < until:
            time.sleep(0.1)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all; also while the disk does not take it."""
        return not self._closed

    @property
    def total_bytes(self) -> int:
        """Size of the files."""
        file = self._file
        return file.total_bytes if file is not None else 0

    @property
    def owed_bytes(self) -> int:
        """Size of what the disk did not take yet."""
        return self._owed_bytes

    def note(self, rows: Sequence[Row]) -> None:
        """Takes note of changes; they are written by :meth:`flush`."""
        if self._closed:
            return
        now = self.clock()
        rows = [replace(row, values=tuple(now if v is NOW else _storable(v) for v in row.values)) for row in rows]
        with self._lock:
            self._owed.extend(rows)
            self._owed_bytes += sum(row.nbytes for row in rows)
            if self._owed_bytes > _OWED_BYTES:
                self._give_up()

    def flush(self) -> bool:
        """Writes what was noted, in one transaction. False where the disk does not take it; ``problem`` says why."""
        with self._writing:
            with self._lock:
                rows = list(self._owed)
            if not rows or self._closed:
                return not self.problem
            if self._file is None and not (time.monotonic() >= self._next_try and self._open()):
                return False
            try:
                self._write(rows)
            except JournalError as error:
                self._told(str(error))
                return False
            with self._lock:
                written = set(map(id, rows))
                self._owed = deque(row for row in self._owed if id(row) not in written)
                self._owed_bytes = sum(row.nbytes for row in self._owed)
            self._told("")
            return True

    def read(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a query; none where the journal can't be read."""
        if self._file is None:
            return []
        try:
            with self._file.begin(reads=True) as database:
                return list(database.exec_driver_sql(statement, values))
        except JournalError as error:
            self._told(str(error))
            return []

    def close(self) -> None:
        """Writes what is owed and ends it."""
        self.flush()
        with self._writing:
            self._closed = True
            if self._file is not None:
                self._file.close()
                self._file = None

    # prompts and answers

    def step_rows(self, task_id: str, object_id: str, prompts: Sequence[tuple], step: Step) -> list[Row]:
        """An answer about an object, and the prompts that it was an answer to."""
        owner = name_of(task_id, object_id)
        values = (owner, step.page, int(step.tracked), pack_step(step), self.clock())
        added = Row("INSERT INTO step (owner, page, tracked, about, made) VALUES (?, ?, ?, ?, ?)", values, step.tracked)
        named = [Row("INSERT OR REPLACE INTO prompt VALUES (?, ?)", (name_of(*key), owner)) for key in prompts]
        return [added, *named]

    def asked_row(self, key: tuple) -> Row:
        """Something was asked or told for the first time."""
        return Row("INSERT OR IGNORE INTO asked (name) VALUES (?)", (name_of(*key),))

    def steps(self, max_bytes: int) -> list[tuple[str, str, Step]]:
        """Task, object and answer, oldest first: the newest ones that fit into ``max_bytes``."""
        found: list[tuple[str, str, Step]] = []
        newest, size, broken = 1 << 62, 0, 0
        while size <= max_bytes:
            query = "SELECT id, owner, about FROM step WHERE id < ? ORDER BY id DESC LIMIT ?"
            rows = self.read(query, (newest, _AT_ONCE))
            if not rows:
                break
            newest = rows[-1].id
            for row in rows:
                try:
                    task_id, object_id = parts_of(row.owner)
                    found.append((task_id, object_id, unpack_step(row.about)))
                except BROKEN:
                    broken += 1
                size += len(row.about)
        if broken:
            log.warning("the journal has %d answers that can't be read", broken)
        return found[::-1]

    def prompts(self) -> Iterator[tuple[tuple, str, str]]:
        """The key of each prompt, and the task and object that it was about."""
        for row in self.read("SELECT name, owner FROM prompt"):
            yield parts_of(row.name), *parts_of(row.owner)

    def asked(self) -> list[tuple]:
        """The keys of :meth:`asked_row`, oldest first."""
        rows = self.read("SELECT name FROM asked ORDER BY id DESC LIMIT ?", (_ASKED,))
        return [parts_of(row.name) for row in reversed(rows)]

    # inside

    def _open(self) -> bool:
        try:
            self._file = JournalFile(self._folder)
        except JournalError as error:
            self._next_try = time.monotonic() + _AGAIN_SECONDS
            self._told(str(error))
            return False
        self._told("")
        return True

    def _told(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.error("%s", problem)
        elif self.problem and not problem:
            log.warning("the journal can be written again")
        self.problem = problem

    def _give_up(self) -> None:
        """Lets go of what is owed, what can be made again first."""
        log.error("more is owed to the journal than memory has room for; the oldest of it is lost")
        for rows in (lambda row: row.proposed, lambda row: True):
            for row in list(filter(rows, self._owed)):
                if self._owed_bytes <= _OWED_BYTES // 2:
                    return
                self._owed.remove(row)
                self._owed_bytes -= row.nbytes

    def _write(self, rows: Sequence[Row]) -> None:
        with self._file.begin() as database:
            for statement, group in itertools.groupby(rows, lambda row: row.statement):
                database.exec_driver_sql(statement, [row.values for row in group])
            self._unchecked += sum(row.nbytes for row in rows)
            if self._unchecked * _LOOKS >= self._max_bytes:
                self._trim(database)
                self._unchecked = 0

    def _trim(self, database: Connection) -> None:
        """Lets go of what is too old, then, in the order of :data:`_EVICTED`, of what does not fit."""
        oldest = self.clock() - self._max_age
        old = "SELECT id FROM track WHERE state != 'running' AND changed < ?"
        database.exec_driver_sql(f"DELETE FROM mask WHERE track IN ({old})", (oldest,))
        database.exec_driver_sql("DELETE FROM track WHERE state != 'running' AND changed < ?", (oldest,))
        database.exec_driver_sql("DELETE FROM step WHERE made < ?", (oldest,))
        database.exec_driver_sql("DELETE FROM event WHERE made < ?", (oldest,))
        database.exec_driver_sql("DELETE FROM event WHERE id <= (SELECT MAX(id) FROM event) - ?", (_EVENTS,))
        numbered = "SELECT id, row_number() OVER (PARTITION BY owner, page ORDER BY id DESC) AS place FROM step"
        replaced = f"DELETE FROM step WHERE id IN (SELECT id FROM ({numbered}) WHERE place > ?)"
        database.exec_driver_sql(replaced, (STEPS,))
        least = "DELETE FROM asked WHERE id <= (SELECT MAX(id) FROM asked) - ?"
        database.exec_driver_sql(least, (_ASKED,))
        if self._file.used_bytes(database) > self._max_bytes:
            for find, remove in _EVICTED:
                while self._file.used_bytes(database) > _FULL_ENOUGH * self._max_bytes:
                    values = (_AT_ONCE,) if "?" in find else ()
                    ids = [row.id for row in database.exec_driver_sql(find, values)]
                    if not ids:
                        break
                    for statement in remove.split("; "):
                        database.exec_driver_sql(statement, [(one,) for one in ids])
        database.exec_driver_sql("DELETE FROM prompt WHERE owner NOT IN (SELECT owner FROM step)")
        database.exec_driver_sql("PRAGMA incremental_vacuum")
