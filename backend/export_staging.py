"""What was taken from tasks, in a file beside the export until it is finished: so nothing of it is held in memory, a
run that was stopped goes on where it was, and the order of tasks does not matter.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.errors import BackendError
from backend.export_masks import Drawn, Runs
from backend.export_tasks import Taken

_VERSION = "1"
_EVERY = 200  # tasks between two commits
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE task (task INTEGER PRIMARY KEY, stamp TEXT NOT NULL, run INTEGER NOT NULL, item TEXT NOT NULL, "
    "name TEXT NOT NULL, paged INTEGER NOT NULL, film TEXT, start INTEGER NOT NULL, pages INTEGER NOT NULL, "
    "split_key TEXT NOT NULL, updated TEXT NOT NULL, sources TEXT NOT NULL, skipped TEXT NOT NULL)",
    "CREATE INDEX task_item ON task (item)",
    "CREATE TABLE frame (item TEXT, frame INTEGER, task INTEGER, page INTEGER NOT NULL, media TEXT NOT NULL, "
    "height INTEGER, width INTEGER, known INTEGER NOT NULL, hidden INTEGER NOT NULL DEFAULT 0, "
    "PRIMARY KEY (item, frame, task)) WITHOUT ROWID",
    "CREATE INDEX frame_task ON frame (task)",
    "CREATE TABLE mask (id INTEGER PRIMARY KEY, item TEXT NOT NULL, frame INTEGER NOT NULL, task INTEGER NOT NULL, "
    "object TEXT NOT NULL, place INTEGER NOT NULL, label TEXT NOT NULL, height INTEGER NOT NULL, "
    "width INTEGER NOT NULL, counts TEXT NOT NULL, origin TEXT NOT NULL, shape TEXT NOT NULL, score REAL, "
    "annotation INTEGER NOT NULL, annotator INTEGER, agreement TEXT, point TEXT, number INTEGER, "
    "hidden INTEGER NOT NULL DEFAULT 0, final_height INTEGER, final_width INTEGER, final_counts TEXT)",
    "CREATE INDEX mask_place ON mask (item, frame, task)",
    "CREATE INDEX mask_object ON mask (item, object, frame)",
    "CREATE INDEX mask_task ON mask (task)",
    "CREATE UNIQUE INDEX mask_number ON mask (number)",
    "CREATE TABLE item (item TEXT PRIMARY KEY, place INTEGER NOT NULL, name TEXT NOT NULL UNIQUE, "
    "height INTEGER, width INTEGER, length INTEGER NOT NULL)",
    "CREATE TABLE object (item TEXT, name TEXT, number INTEGER NOT NULL, label TEXT NOT NULL, "
    "PRIMARY KEY (item, name)) WITHOUT ROWID",
    "CREATE TABLE category (name TEXT PRIMARY KEY, number INTEGER UNIQUE)",
    "CREATE TABLE earlier_object (item TEXT, name TEXT, number INTEGER NOT NULL, PRIMARY KEY (item, name))",
    "CREATE TABLE earlier_file (path TEXT PRIMARY KEY)",
    "CREATE TABLE file (path TEXT PRIMARY KEY, content TEXT NOT NULL, run INTEGER NOT NULL)",
)
_MASK = (
    "frame, object, place, label, height, width, counts, origin, shape, score, annotation, annotator, agreement, point"
)
_FINAL = (
    _MASK.replace("height", "COALESCE(final_height, height)")
    .replace("width", "COALESCE(final_width, width)")
    .replace("counts", "COALESCE(final_counts, counts)")
)
_ORDER = "frame, annotation, place, object"


class ExportError(BackendError):
    """What was asked for can't be exported; the text says what to do."""

    status = 422


class Staging:
    """The file; ``options`` says what an export was asked for: what was taken for other options is thrown away."""

    def __init__(self, path: Path, options: str):
        self._path = path
        self._pending = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.database = self._open()
            if self._is_of(None):
                self._make(options)
            elif not self._is_of(options):
                self.database.close()
                path.unlink()
                self.database = self._open()
                self._make(options)
        except (sqlite3.Error, OSError) as error:
            raise _refused(path, error) from error
        self.run = int(self.meta("run") or 0) + 1
        self.note("run", str(self.run))

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
        # one export at a time, which holds the file until it ends
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL", "temp_store=FILE"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN IMMEDIATE")
        return database

    def _is_of(self, options: str | None) -> bool:
        """Whether the file was made for these options; None: for none yet."""
        if not self.database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return options is None
        return options is not None and (self.meta("version"), self.meta("options")) == (_VERSION, options)

    def _make(self, options: str) -> None:
        for statement in _TABLES:
            self.database.execute(statement)
        self.note("version", _VERSION)
        self.note("options", options)

    def meta(self, key: str) -> str | None:
        row = self.database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def note(self, key: str, value: str) -> None:
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def save(self) -> None:
        """Makes what was done so far outlive a kill."""
        with told(self._path):
            self.database.execute("COMMIT")
            self.database.execute("BEGIN IMMEDIATE")
        self._pending = 0

    def known(self, task: int, stamp: str) -> bool:
        """Whether a task was taken as it is now; then it counts for this run too."""
        changed = self.database.execute("UPDATE task SET run = ? WHERE task = ? AND stamp = ?", (self.run, task, stamp))
        return changed.rowcount > 0

    def put(self, taken: Taken, stamp: str) -> None:
        """Takes a task in, in place of what was taken from it before."""
        with told(self._path):
            self._drop([taken.task])
            layout, item = taken.layout, taken.layout.item
            sources = json.dumps([vars(source) for source in taken.sources])
            film = layout.media[0] if layout.film and layout.media else "" if layout.film else None
            self.database.execute(
                "INSERT INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(taken.task, stamp, self.run, item, layout.name, layout.paged, film, layout.start),
                    *(len(taken.pages), layout.split_key, taken.updated, sources),
                    json.dumps(taken.skipped, sort_keys=True),
                ),
            )
            self.database.executemany(
                "INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    (item, p.frame, taken.task, p.frame - layout.start, p.media, *(p.size or (None, None)), p.known)
                    for p in taken.pages
                ),
            )
            self.database.executemany(
                f"INSERT INTO mask (item, task, {_MASK}) VALUES ({', '.join('?' * 16)})",
                ((item, taken.task, *_row(drawn)) for drawn in taken.drawn),
            )
            self._pending += 1
        if self._pending >= _EVERY:
            self.save()

    def _drop(self, tasks: Iterable[int]) -> None:
        for task in tasks:
            for table in ("task", "frame", "mask"):
                self.database.execute(f"DELETE FROM {table} WHERE task = ?", (task,))

    def forget_others(self) -> None:
        """Throws away tasks that an earlier run took and this one did not see."""
        gone = self.database.execute("SELECT task FROM task WHERE run <> ?", (self.run,)).fetchall()
        self._drop(task for (task,) in gone)

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple]:
        """The rows of a query, one at a time."""
        cursor = self.database.cursor()
        try:
            yield from cursor.execute(query, values)
        finally:
            cursor.close()

    def masks(self, item: str, order: str = _ORDER, **where: Any) -> Iterator[Drawn]:
        """The masks of an item in an order; ``where`` names columns and their values."""
        conditions = "".join(f" AND {name} = ?" for name in where)
        query = f"SELECT {_FINAL} FROM mask WHERE item = ? AND NOT hidden{conditions} ORDER BY {order}"
        return (_drawn(row) for row in self.rows(query, (item, *where.values())))

    def close(self, finished: bool = False) -> None:
        """``finished``: nothing of it is needed any more. Where nothing was taken yet no file stays either."""
        with told(self._path):
            taken = self.database.execute("SELECT EXISTS (SELECT 1 FROM task)").fetchone()[0]
            if self.database.in_transaction:  # a full disk ends it
                self.database.execute("COMMIT")
            self.database.close()
        if finished or not taken:
            self._path.unlink(missing_ok=True)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Problems of the file as :class:`ExportError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> ExportError:
    if "locked" in str(error):
        return ExportError(f"Another export writes into {path.parent}; wait for it, or choose another --out.")
    if isinstance(error, OSError):
        return ExportError(f"{path.parent} can't be made ({error.strerror}); choose another --out.")
    return ExportError(f"{path} can't be used ({error}); free space, or choose another --out.")


def _row(drawn: Drawn) -> tuple:
    """In the order of ``_MASK``."""
    return (
        *(drawn.frame, drawn.object, drawn.place, drawn.label, *drawn.runs.size, drawn.runs.counts, drawn.origin),
        *(drawn.shape, drawn.score, drawn.annotation, drawn.annotator),
        *(None if value is None else json.dumps(value) for value in (drawn.agreement, drawn.point)),
    )


def _drawn(row: tuple) -> Drawn:
    frame, name, place, label, height, width, counts, origin, shape, score, annotation, annotator, agreed, point = row
    agreement, point = (tuple(json.loads(value)) if value else None for value in (agreed, point))
    runs = Runs((height, width), counts)
    return Drawn(frame, name, place, label, runs, origin, shape, score, annotation, annotator, agreement, point)
