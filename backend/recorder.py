"""Records what ``/predict`` is asked, where somebody wants that (``X2SAM_RECORD_DIR``), so that it can be replayed.

Requests hand what they were asked and answered to a thread and go on; it writes each as one line, at once, so that a
killed process leaves a file that can be read up to its last request. One file for each start of the server. When the
folder holds as much as it may, recording ends and says so; nothing that was recorded is ever removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from backend.background import Tracks
from backend.bodies import as_json_text
from backend.cloud_storage import through_label_studio
from backend.engines import EngineLoader
from backend.errors import EXPECTED, MediaError, RecordingError, status_of
from backend.file_cache import CachedFile
from backend.learner import Learner
from backend.logs import where
from backend.media import MediaFetcher
from backend.recorded import FORMAT, Asked, Naming, answer_line, asks_elsewhere, media_of, reduced
from backend.remembered import Remembered
from backend.settings import MEGABYTE, Settings

log = logging.getLogger(__name__)

SUFFIX = ".recording.jsonl"
MEDIA_FOLDER = "media"
DEPENDS = ("polygon_tolerance", "max_pixels", "memory", "dtype", "remembered_bytes")
"""Settings that answers depend on."""
_WAITING = 16  # answers that may wait to be written
_PATIENCE = 5.0
_LOOK_SECONDS = 2.0  # between two looks at the size of the folder
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
_VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "sve")


@dataclass
class Taken:
    """One request on its way to the recording; whoever answers it says what was ``told``."""

    asked: Asked
    ids: frozenset[str]
    began: float
    depends: set[str]
    told: Sequence[Mapping[str, Any]] | None = None
    crowded: bool = False
    error: Exception | None = None
    seconds: float = 0.0
    version: str = ""


@dataclass(frozen=True)
class Around:
    """What a recorder asks of the server: ``head`` about the engine, the model version, ``moving`` why an answer about
    a task depends on the moment, ``earlier`` the tasks that something is known of when recording begins, ``known`` the
    file behind an address of a task, where it is there."""

    head: Callable[[], Mapping[str, Any]]
    version: Callable[[], str]
    moving: Callable[[str], set[str]]
    earlier: Callable[[], frozenset[str]]
    known: Callable[[str, str], CachedFile | None]


def around_recorder(
    engines: EngineLoader, fetcher: MediaFetcher, remembered: Remembered, tracks: Tracks, learner: Learner
) -> Around:
    """What a server tells its recorder."""

    def head() -> dict[str, Any]:
        engine = engines.wait(0)
        return {
            "model": engine.name, "version": engine.version, "device": engine.device, "threads": engine.vitals.threads,
        }  # fmt: skip

    def version() -> str:
        engine = engines.ready_engine
        return engine.version if engine is not None else ""

    def moving(task_id: str) -> set[str]:
        found = {"a track"} if tracks.runs(task_id) else set()
        return found | ({"a training"} if learner.progress() is not None else set())

    return Around(
        head, version, moving, lambda: remembered.tasks() | tracks.tasks(),
        lambda address, task: fetcher.known(through_label_studio(address, task)),
    )  # fmt: skip


@dataclass
class _File:
    """The file, once there is something to write. ``seen`` are the numbers of media whose files are told, ``unseen``
    addresses of others, with their tasks: pages that nobody looked at yet."""

    path: Path
    handle: int
    naming: Naming = field(default_factory=Naming)
    seen: set[int] = field(default_factory=set)
    unseen: dict[int, tuple[str, str]] = field(default_factory=dict)
    written: int = 0


class Recorder:
    """One for a server; threads share it. Without a folder nothing is recorded."""

    def __init__(self, settings: Settings, around: Around, clock: Callable[[], float] = time.monotonic):
        self._settings, self._around, self._clock = settings, around, clock
        self._folder = Path(settings.record_dir).expanduser() if settings.record_dir else None
        self._lock = threading.Lock()
        self._crowds: dict[int, Taken] = {}
        self._waiting: queue.Queue[Taken | None] = queue.Queue(_WAITING)
        self._earlier: frozenset[str] = frozenset()
        self._file: _File | None = None
        self._begun = self._clock()
        self._looked, self._held = -_LOOK_SECONDS, 0
        self._thread: threading.Thread | None = None
        self.requests = 0
        self.problem = ""

    @property
    def recording(self) -> bool:
        return self._thread is not None and not self.problem

    @property
    def bytes(self) -> int:
        """Size of the file that is written."""
        return self._file.written if self._file is not None else 0

    def start(self) -> None:
        """Begins to record, where that is wanted; after everything is restored that an earlier process left."""
        if self._folder is None:
            return
        self._earlier = self._around.earlier()
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()
        log.warning(
            "prompts are recorded, typed texts included; leave out X2SAM_RECORD_DIR to end that",
            extra={"fields": {"folder": str(self._folder), "pictures": self._settings.record_media}},
        )

    @contextmanager
    def taking(self, asked: Asked) -> Iterator[Taken]:
        """Around the answer to a request. It takes no time but for what it notes."""
        ids = frozenset(str(task.get("id")) for task in asked.tasks if isinstance(task, dict))
        taken = Taken(asked, ids, self._clock(), set())
        if not self.recording:
            yield taken
            return
        self._enter(taken)
        try:
            yield taken
        except EXPECTED as error:
            taken.error = error
            raise
        finally:
            taken.seconds = self._clock() - taken.began
            self._leave(taken)
            if taken.told is not None or taken.error is not None:
                self._hand_over(taken)

    def close(self) -> None:
        """Writes what waits, and ends."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=_PATIENCE)
        except queue.Full:
            self._end("the disk is too slow")
        self._thread.join(_PATIENCE)
        self._thread = None

    # around a request

    def _enter(self, taken: Taken) -> None:
        taken.depends |= self._reasons(taken)
        with self._lock:
            self._crowds[id(taken)] = taken
            for one in self._crowds.values():
                if one is not taken and one.ids & taken.ids:
                    one.crowded = taken.crowded = True

    def _leave(self, taken: Taken) -> None:
        with self._lock:
            self._crowds.pop(id(taken), None)
        taken.depends |= self._reasons(taken)
        taken.version = self._around.version()

    def _reasons(self, taken: Taken) -> set[str]:
        found = {"earlier"} if taken.ids & self._earlier else set()
        found |= {"other tasks"} if asks_elsewhere(taken.asked) else set()
        return found.union(*(self._around.moving(name) for name in taken.ids))

    def _hand_over(self, taken: Taken) -> None:
        try:
            self._waiting.put(taken, timeout=_PATIENCE)
        except queue.Full:
            self._end("the disk is too slow")

    # in the thread that writes

    def _write_all(self) -> None:
        while (taken := self._waiting.get()) is not None:
            self._attempt(self._write, taken)
        if self._file is not None:
            self._attempt(self._write_unseen)
            os.close(self._file.handle)

    def _attempt(self, write: Callable[..., None], *about: Any) -> None:
        if self.problem:
            return
        try:
            write(*about)
        except RecordingError as error:
            self._end(str(error))
        except OSError as error:
            self._end(f"the disk does not take it ({error.strerror})")
        except Exception as error:  # a request that nobody thought of: what comes after it could not be replayed
            log.error("unexpected error", extra={"fields": {"error": type(error).__name__, "at": where(error)}})
            self._end("a request could not be written down")

    def _write(self, taken: Taken) -> None:
        if not taken.version:  # the model is still loading: all that was said is that
            return
        file = self._file = self._file or self._opened()
        row: dict[str, Any] = {"asked": self.requests + 1, "at": round(taken.began - self._begun, 4)}
        row |= {"seconds": round(taken.seconds, 4), "version": taken.version, "depends": sorted(taken.depends)}
        row |= reduced(taken.asked, file.naming)
        if taken.error is not None:
            row["refused"] = status_of(taken.error)
        else:
            row["answer"] = answer_line(as_json_text({"results": taken.told}), taken.told)
            row["replaced"] = taken.crowded and not any(entry.get("result") for entry in taken.told)
        lines, file.naming.new = [*file.naming.new, *self._media_lines(file, taken.asked), row], []
        self._append(file, b"".join(as_json_text(line) + b"\n" for line in lines))
        self.requests += 1

    def _write_unseen(self) -> None:
        """Of pages that were looked at since the last request about them."""
        unseen, self._file.unseen = self._file.unseen, {}
        lines = [self._media_line(self._file, number, *about) for number, about in unseen.items()]
        if any(lines):
            self._append(self._file, b"".join(as_json_text(line) + b"\n" for line in lines if line))

    def _media_lines(self, file: _File, asked: Asked) -> Iterator[dict[str, Any]]:
        """Of pictures and videos that came to be known."""
        for address, task in media_of(asked):
            number = file.naming.media(address)["media"]
            if number not in file.seen and (line := self._media_line(file, number, address, task)):
                yield line

    def _media_line(self, file: _File, number: int, address: str, task: str) -> dict[str, Any] | None:
        try:
            known = self._around.known(address, task)
            content = known.path.read_bytes() if known is not None else None
        except (MediaError, FileNotFoundError):
            content = None
        if content is None:
            file.unseen[number] = address, task
            return None
        digest = hashlib.sha256(content).hexdigest()
        if self._settings.record_media:
            self._keep(digest, content)
        file.seen.add(number)
        file.unseen.pop(number, None)
        return {"media": number, "sha256": digest, "bytes": len(content)}

    def _keep(self, digest: str, content: bytes) -> None:
        """The file itself, so that the recording can be replayed elsewhere."""
        folder = self._folder / MEDIA_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        if (folder / digest).exists():
            return
        self._make_room(len(content))
        part = folder / f".{digest}.part"
        part.write_bytes(content)
        part.replace(folder / digest)

    def _opened(self) -> _File:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(3)
        path = self._folder / f"{name}{SUFFIX}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        file = _File(path, handle)
        settings = {name: getattr(self._settings, name) for name in DEPENDS}
        head = {"recording": FORMAT, **self._around.head(), **machine(), "settings": settings}
        head["journal"] = bool(self._settings.journal_bytes)
        self._append(file, as_json_text(head) + b"\n")
        return file

    def _append(self, file: _File, lines: bytes) -> None:
        """All of it or nothing."""
        self._make_room(len(lines))
        try:
            if os.write(file.handle, lines) != len(lines):
                raise RecordingError("the disk is full")
        except BaseException:
            os.ftruncate(file.handle, file.written)
            raise
        file.written += len(lines)

    def _make_room(self, size: int) -> None:
        """:raises RecordingError: the folder would hold more than it may."""
        if self._clock() - self._looked > _LOOK_SECONDS:
            self._held, self._looked = _size_below(self._folder), self._clock()
        self._held += size
        most = self._settings.record_bytes
        if self._held > most:
            raise RecordingError(f"the folder would hold more than {most / MEGABYTE:g} MB, see X2SAM_RECORD_MB")

    def _end(self, why: str) -> None:
        if not self.problem:
            self.problem = f"Recording of prompts has ended: {why}. What was recorded until then can be replayed."
            log.error("%s", self.problem)


def machine() -> dict[str, Any]:
    """What the rounding of numbers depends on, besides the device and the number of threads."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        rows = dict(reversed([[part.strip() for part in row.partition(":")[::2]] for row in about.splitlines()]))
        name, flags = rows.get("model name", name), rows.get("flags", rows.get("Features", ""))
    except OSError:  # no Linux
        pass
    known, cores = set(flags.split()), _cores()
    told = next((os.environ[name] for name in _BLAS_THREADS if os.environ.get(name, "").isdecimal()), cores)
    return {
        "processor": name, "vectors": [one for one in _VECTORS if one in known], "cores": cores, "blas": int(told),
        "torch": metadata.version("torch"), "numpy": metadata.version("numpy"),
    }  # fmt: skip


def _cores() -> int:
    """Those that this process may use: as many threads have OpenCV and NumPy's matrix products, which split sums."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no Linux
        return os.cpu_count() or 1


def _size_below(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total
