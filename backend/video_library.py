"""The videos that this backend serves frames of, and the keys that frame addresses are signed with: one SQLite file.

A video enters from the command line only and is known by an id made from its content; requests name that id, never a
path. The file holds secrets, so it and its folder are for their owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import BackendError, MediaError
from x2sam.data.video import VideoReader
from x2sam.data.video_index import Progress, VideoIndex

_FILE = "videos.sqlite3"
_CHUNK = 1 << 20
_BUSY_MS = 10_000
_ID_LENGTH = 16

_PLACE = "INTO place (label_studio, project, key) SELECT :url, :project, COALESCE(MAX(id), 0) FROM signing_key"

Report = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and the whole (0 where that is unknown)."""

# Version n of the file is made from version n - 1 by the n-th of these; never change one, add the next.
_MIGRATIONS: Sequence[Sequence[str]] = (
    (
        "CREATE TABLE video (id TEXT PRIMARY KEY, path TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, "
        "modified_ns INTEGER NOT NULL, digest TEXT NOT NULL, frames INTEGER NOT NULL, fps REAL NOT NULL, "
        "height INTEGER NOT NULL, width INTEGER NOT NULL, frame_index BLOB NOT NULL)",
        "CREATE TABLE signing_key (id INTEGER PRIMARY KEY AUTOINCREMENT, secret BLOB NOT NULL, made REAL NOT NULL)",
        "CREATE TABLE place (label_studio TEXT NOT NULL, project INTEGER NOT NULL, key INTEGER NOT NULL, "
        "PRIMARY KEY (label_studio, project))",
    ),
)


class LibraryError(BackendError):
    """The file with the known videos can't be used."""


class UnknownVideoError(MediaError):
    """No such video was imported, or it has no such frame."""

    status = 404


class VideoGoneError(MediaError):
    """The file of a known video was moved, deleted or changed."""

    status = 410


@dataclass(frozen=True)
class Video:
    """A video as it was when it was imported. ``size`` is that of the upright pictures, (H, W)."""

    id: str
    path: Path
    name: str
    frames: int
    fps: float
    size: tuple[int, int]
    file_bytes: int
    modified_ns: int


class VideoLibrary:
    """The known videos below a folder. Processes and threads may share it; nothing is written before it is needed."""

    def __init__(self, folder: Path):
        self._path = folder / _FILE
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def add(self, path: Path, report: Report | None = None) -> Video:
        """Takes a video in, or finds it again: a known file is not read a second time, the same content keeps its id.

        :raises FramesError: the file is no video that can be decoded.
        :raises LibraryError: the state directory can't be written.
        """
        path = path.resolve()
        tell = report or (lambda what, done, whole: None)
        status = _status(path)
        with self._begin(reads=True) as database:
            known = database.execute(
                text("SELECT * FROM video WHERE path = :path AND size = :size AND modified_ns = :modified_ns"),
                {"path": str(path), "size": status.st_size, "modified_ns": status.st_mtime_ns},
            ).first()
        if known is not None:
            return _video(known)
        with VideoReader(path, progress=lambda done: tell("frames", done, 0)) as reader:
            digest = _digest(path, lambda done: tell("bytes", done, status.st_size))
            values = {
                "id": digest[:_ID_LENGTH],
                "path": str(path),
                "name": path.name,
                "size": status.st_size,
                "modified_ns": status.st_mtime_ns,
                "digest": digest,
                "frames": len(reader),
                "fps": reader.fps,
                "height": reader.size[0],
                "width": reader.size[1],
                "frame_index": reader.index.to_bytes(),
            }
        after = _status(path)
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise VideoGoneError(f"{path.name} changed while it was read; wait until it is written and try again.")
        with self._begin() as database:
            columns = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            database.execute(text(f"INSERT OR REPLACE INTO video ({columns}) VALUES ({marks})"), values)
        return self.get(values["id"])

    def get(self, video_id: str) -> Video:
        """A known video.

        :raises UnknownVideoError: it was never imported here.
        """
        return _video(self._row(video_id))

    def open(self, video_id: str, cache_bytes: int) -> VideoReader:
        """A reader of a known video's frames, without reading the whole file again.

        :raises UnknownVideoError: it was never imported here.
        :raises VideoGoneError: its file is not what it was.
        """
        row = self._row(video_id)
        try:
            status = os.stat(row.path)
        except OSError as error:
            raise VideoGoneError(
                f"The file of the video {row.name} is gone; import it again from where it is."
            ) from error
        if (status.st_size, status.st_mtime_ns) != (row.size, row.modified_ns):
            raise VideoGoneError(f"The file of the video {row.name} was changed; import it again.")
        return VideoReader(row.path, cache_bytes, VideoIndex.from_bytes(row.frame_index))

    def index_of(self, digest: str) -> VideoIndex | None:
        """Where the frames of a known file are, by (the beginning of) its SHA-256; None for others."""
        if self._engine is None and not self._path.is_file():
            return None
        try:
            row = self._row(digest[:_ID_LENGTH])
        except UnknownVideoError:
            return None
        return VideoIndex.from_bytes(row.frame_index) if row.digest.startswith(digest) else None

    def keys(self) -> list[bytes]:
        """The keys that addresses may be signed with, the newest first; none before the first import."""
        if self._engine is None and not self._path.is_file():
            return []
        with self._begin(reads=True) as database:
            return [row.secret for row in database.execute(text("SELECT secret FROM signing_key ORDER BY id DESC"))]

    def signing_key(self) -> bytes:
        """The newest key; the first is made here."""
        keys = self.keys()
        if not keys:
            with self._begin() as database:  # two processes may come here at once; the oldest row wins
                _add_key(database, only_first=True)
            keys = self.keys()
        return keys[0]

    def add_key(self) -> bytes:
        """A new newest key. The others stay good until :meth:`drop_old_keys` ends them."""
        with self._begin() as database:
            _add_key(database)
        return self.keys()[0]

    def remember_place(self, label_studio: str, project: int) -> None:
        """Notes that a project has tasks with addresses of ours, signed with the newest key."""
        with self._begin() as database:
            database.execute(text(f"INSERT OR IGNORE {_PLACE}"), {"url": label_studio, "project": project})

    def renewed_place(self, label_studio: str, project: int) -> None:
        """Notes that all addresses in a project are signed with the newest key."""
        with self._begin() as database:
            database.execute(text(f"INSERT OR REPLACE {_PLACE}"), {"url": label_studio, "project": project})

    def forget_place(self, label_studio: str, project: int) -> None:
        """The project is gone."""
        with self._begin() as database:
            where = "DELETE FROM place WHERE label_studio = :url AND project = :project"
            database.execute(text(where), {"url": label_studio, "project": project})

    def places(self) -> list[tuple[str, int]]:
        """Address of a Label Studio and id of a project, for each that was noted."""
        with self._begin(reads=True) as database:
            rows = database.execute(text("SELECT label_studio, project FROM place ORDER BY label_studio, project"))
            return [(row.label_studio, row.project) for row in rows]

    def drop_old_keys(self) -> list[tuple[str, int]]:
        """Makes the newest key the only good one, unless places still have addresses of others: then those places."""
        with self._begin() as database:
            newest = database.execute(text("SELECT COALESCE(MAX(id), 0) FROM signing_key")).scalar_one()
            rows = database.execute(text("SELECT label_studio, project FROM place WHERE key < :key"), {"key": newest})
            behind = [(row.label_studio, row.project) for row in rows]
            if not behind:
                database.execute(text("DELETE FROM signing_key WHERE id < :key"), {"key": newest})
            return behind

    @contextlib.contextmanager
    def alone(self, task: str) -> Iterator[None]:
        """Holds off other processes that do the same; it ends with the process, however that ends.

        :raises LibraryError: another one is at it.
        """
        self._opened()
        name = f"{hashlib.sha256(task.encode()).hexdigest()[:_ID_LENGTH]}.lock"
        with (self._path.parent / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LibraryError("Another import into the same project is running; wait until it is done.") from error
            yield

    def _row(self, video_id: str) -> Row:
        with self._begin(reads=True) as database:
            row = database.execute(text("SELECT * FROM video WHERE id = :id"), {"id": video_id}).one_or_none()
        if row is None:
            raise UnknownVideoError("The video of this page is not known to the ML backend; import it again.")
        return row

    @contextlib.contextmanager
    def _begin(self, reads: bool = False) -> Iterator[Connection]:
        """One transaction. One that only ``reads`` waits for nobody: every page of a video asks for the keys."""
        try:
            with self._opened().execution_options(reads=reads).begin() as database:
                yield database
        except (SQLAlchemyError, OSError) as error:
            raise LibraryError(
                f"The list of videos in {self._path.parent} can't be used ({type(error).__name__}); check that the "
                "directory of X2SAM_STATE_DIR can be written and its disk is not full."
            ) from error

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                engine = create_engine(f"sqlite:///{self._path}")
                event.listen(engine, "connect", _prepare)
                event.listen(engine, "begin", _begin_transaction)
                _migrate(engine)
                self._engine = engine
            return self._engine


def _begin_transaction(database: Connection) -> None:
    # A transaction that writes takes its lock at once: one that turned into a writer later could not wait for it.
    database.exec_driver_sql("BEGIN" if database.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


def _prepare(connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by the engine's own event
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _migrate(engine: Engine) -> None:
    with engine.begin() as database:
        version = database.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > len(_MIGRATIONS):
            raise LibraryError("The list of videos was written by a newer release; use that one.")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                database.exec_driver_sql(statement)
        database.exec_driver_sql(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _add_key(database: Connection, only_first: bool = False) -> None:
    condition = " WHERE NOT EXISTS (SELECT 1 FROM signing_key)" if only_first else ""
    database.execute(
        text(f"INSERT INTO signing_key (secret, made) SELECT :secret, :made{condition}"),
        {"secret": secrets.token_bytes(32), "made": time.time()},
    )


def _video(row: Row) -> Video:
    size = (row.height, row.width)
    return Video(row.id, Path(row.path), row.name, row.frames, row.fps, size, row.size, row.modified_ns)


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise VideoGoneError(f"There is no file {path.name} ({error.strerror}); check the path.") from error


def _digest(path: Path, progress: Progress) -> str:
    content, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
            done += len(chunk)
            progress(done)
    return content.hexdigest()
