"""The SQLite file of the journal: made for its owner alone, brought up to date, set aside when it is damaged.

Writes are short transactions in WAL mode with ``synchronous=NORMAL``: a killed process loses nothing that was
committed; a machine that loses power may lose the last moments, never the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from backend.errors import BackendError

log = logging.getLogger(__name__)

_FILE = "journal.sqlite3"
_BUSY_MS = 2_000
_WAL_BYTES = 8 << 20
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# Version n of the file is made from version n - 1 by the n-th of these; never change one, add the next.
_MIGRATIONS: Sequence[Sequence[str]] = (
    (
        "CREATE TABLE step (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, page INTEGER NOT NULL, "
        "tracked INTEGER NOT NULL, about BLOB NOT NULL, made REAL NOT NULL)",
        "CREATE INDEX step_place ON step (owner, page, id)",
        "CREATE INDEX step_age ON step (tracked, made)",
        "CREATE TABLE prompt (name TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
        "CREATE INDEX prompt_owner ON prompt (owner)",
        "CREATE TABLE asked (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
        "CREATE TABLE track (id TEXT PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, problem TEXT, "
        "tries INTEGER NOT NULL, about BLOB NOT NULL, made REAL NOT NULL, changed REAL NOT NULL)",
        "CREATE INDEX track_task ON track (task, made)",
        "CREATE INDEX track_state ON track (state, changed)",
        "CREATE TABLE mask (track TEXT NOT NULL, page INTEGER NOT NULL, object TEXT NOT NULL, about BLOB NOT NULL, "
        "PRIMARY KEY (track, page, object)) WITHOUT ROWID",
    ),
    (
        "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, action TEXT NOT NULL, "
        "task TEXT NOT NULL, annotation TEXT NOT NULL, masks INTEGER NOT NULL, about BLOB NOT NULL, "
        "made REAL NOT NULL, done INTEGER NOT NULL DEFAULT 0)",
        "CREATE INDEX event_done ON event (done, id)",
    ),
    ("CREATE TABLE trained (project TEXT PRIMARY KEY, event INTEGER NOT NULL) WITHOUT ROWID",),
)


class JournalError(BackendError):
    """The journal can't be used; the text says what to do."""


class DamagedJournalError(JournalError):
    """The file is no database, or a broken one."""


class JournalFile:
    """One open journal below ``folder``; one process at a time has it.

    :raises JournalError: another server has it, a newer release wrote it, or the folder can't be written.
    """

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / _FILE
        self._turn = threading.Lock()
        with told(self._folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._alone = _alone(folder)
        try:
            try:
                self._engine = self._opened()
            except DamagedJournalError:
                self._set_aside()
                self._engine = self._opened()
        except BaseException:
            self._alone.close()
            raise

    @property
    def total_bytes(self) -> int:
        """Size of the file with what waits to be written into it."""
        return sum(_size(path) for path in self._files())

    def used_bytes(self, database: Connection) -> int:
        """Size of what is in the file, without what was deleted."""
        pages = database.exec_driver_sql("PRAGMA page_count").scalar_one()
        free = database.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        return (pages - free) * database.exec_driver_sql("PRAGMA page_size").scalar_one()

    @contextlib.contextmanager
    def begin(self, reads: bool = False) -> Iterator[Connection]:
        """One transaction. The callers take turns: one connection serves them all. One that only ``reads`` also works
        where nothing can be written.

        :raises JournalError: it could not be done, and nothing of it was.
        """
        engine = self._engine.execution_options(reads=reads)
        with self._turn, told(self._folder), engine.begin() as database:
            yield database

    def close(self) -> None:
        """Ends it; whoever comes next may open the file."""
        with self._turn:
            self._engine.dispose()
            self._alone.close()

    def _opened(self) -> Engine:
        with told(self._folder):
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            engine = create_engine(
                f"sqlite:///{self._path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
            )
            event.listen(engine, "connect", _prepare)
            event.listen(engine, "begin", _begin_transaction)
            try:
                _migrate(engine)
                _check(engine)
            except BaseException:
                engine.dispose()
                raise
            return engine

    def _set_aside(self) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        taken = 0
        while (self._folder / f"journal-damaged-{stamp}-{taken}.sqlite3").exists():
            taken += 1
        name = f"journal-damaged-{stamp}-{taken}.sqlite3"
        with told(self._folder):
            for path in self._files():
                if path.exists():
                    path.rename(self._folder / f"{name}{path.name.removeprefix(_FILE)}")
        log.error("the journal is damaged: it was set aside as %s, and a new one is begun", name)

    def _files(self) -> list[Path]:
        return [self._path.with_name(_FILE + suffix) for suffix in ("", "-wal", "-shm")]


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Connection]:
    """The journal below ``folder`` for another process that only reads, also while a server writes it.

    :raises JournalError: there is none, it is damaged, or another release wrote it.
    """
    path = folder / _FILE
    if not path.is_file():
        raise JournalError(f"There is no journal in {folder}; set X2SAM_STATE_DIR to that of the ML backend.")
    engine = create_engine(f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true")
    try:
        with told(folder), engine.connect() as database:
            if database.exec_driver_sql("PRAGMA user_version").scalar_one() != len(_MIGRATIONS):
                raise JournalError(
                    f"The journal in {folder} was written by another release; start the ML backend of this one once."
                )
            yield database
    finally:
        engine.dispose()


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Errors of the database and the disk as sentences.

    :raises JournalError: in place of them.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            raise DamagedJournalError(
                f"The journal in {folder} is damaged; restart the ML backend, which sets it aside and begins a new one."
            ) from error
        reason = "its disk is full" if code == sqlite3.SQLITE_FULL else f"{type(error).__name__}, code {code}"
        raise JournalError(_sentence(folder, reason)) from error
    except OSError as error:
        raise JournalError(_sentence(folder, error.strerror or type(error).__name__)) from error


def _sentence(folder: Path, reason: str) -> str:
    return (
        f"The journal in {folder} can't be written ({reason}): free some space or mend X2SAM_STATE_DIR. Until then what"
        " is done is kept in memory only and is lost when the ML backend restarts."
    )


def _alone(folder: Path) -> IO[str]:
    """Holds off other servers with the same folder; it ends with the process, however that ends."""
    file = (folder / "journal.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise JournalError(
            f"Another ML backend keeps its journal in {folder}: give each its own X2SAM_STATE_DIR. Until then what is "
            "done is kept in memory only and is lost when the ML backend restarts."
        ) from error
    return file


def _begin_transaction(database: Connection) -> None:
    database.exec_driver_sql("BEGIN" if database.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by the engine's own event
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table: what is deleted gives its room back
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    cursor.close()


def _migrate(engine: Engine) -> None:
    with engine.begin() as database:
        version = database.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > len(_MIGRATIONS):
            raise JournalError("The journal was written by a newer release; use that one, or another X2SAM_STATE_DIR.")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                database.exec_driver_sql(statement)
        database.exec_driver_sql(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _check(engine: Engine) -> None:
    with engine.begin() as database:
        found = database.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise DamagedJournalError("The journal is damaged.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
