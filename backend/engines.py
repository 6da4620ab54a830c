"""What this package needs of an engine, and how it waits for one that is still loading.

The engine itself is made by the entry points and handed in as a function; nothing here knows PyTorch.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import numpy as np

from backend.errors import EXPECTED, ModelUnavailableError
from x2sam.inference.clip_objects import ClipObject
from x2sam.inference.feature_cache import FeatureCounts
from x2sam.inference.scheduler import Turn
from x2sam.structures import FrameMasks, Mask, Prompt
from x2sam.vitals import EngineVitals

log = logging.getLogger(__name__)


BATCH_PRIORITY = 3  # the engine's lowest; None lets it choose by the kind of prompt


class ClipSearch(Protocol):
    """Words looked for in a clip, a step at a time: whoever asks may stop at any step. ``looked`` are the frames that
    were looked at, ``text`` is what the model says of the clip, if anything, ``left_out`` how many things were found
    beyond those of :meth:`found`."""

    looked: Sequence[int]
    text: str | None
    left_out: int
    finished: bool

    def __iter__(self) -> Iterator[FrameMasks | None]: ...

    def found(self) -> Sequence[ClipObject]: ...

    def close(self) -> None: ...


class Survey(Protocol):
    """``error`` 0..1 is to be expected of an answer to words, ``vector`` float32 (D,) is what the frame looks like."""

    error: float
    vector: np.ndarray


class Session(Protocol):
    """One open picture or clip. A newer question with the same key in ``replaces`` cancels one that still waits.

    ``segment_all`` answers several prompts, each with its frame, as ``segment`` does one. ``prepare`` computes in idle
    time what the first click on a frame needs; it returns the bytes of that. ``track`` yields the masks of objects that
    were prompted or that ``correct`` gave a mask of, frame by frame in the order of the walk; with ``pauses`` also None
    after each frame whose masks come later, and without the frames of ``skip``. ``recall`` gives masks that an earlier
    walk found, to go on from. ``find_in_clip`` looks for words on all frames. ``survey`` tells of the answer to words
    how wrong it probably is.
    """

    def segment(
        self, prompt: Prompt, frame: int = 0, priority: int | None = None, replaces: Turn | None = None
    ) -> list[Mask]: ...

    def segment_all(
        self, asked: Sequence[tuple[Prompt, int]], priority: int | None = None, replaces: Turn | None = None
    ) -> list[list[Mask]]: ...

    def find_in_clip(
        self, prompt: Prompt, frames: Sequence[int] | None = None, first: int | None = None, memory: str | None = None,
        priority: int = 1, replaces: Turn | None = None,
    ) -> ClipSearch: ...  # fmt: skip

    def survey(self, prompt: Prompt, frame: int = 0, priority: int = BATCH_PRIORITY) -> Survey: ...

    def prepare(self, frame: int = 0) -> int: ...

    def chat(self, question: str, frame: int = 0, replaces: Turn | None = None) -> tuple[str, list[Mask]]: ...

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None: ...

    def recall(self, frame: int, object_id: str, mask: np.ndarray, score: float = 1.0) -> None: ...

    def track(
        self, object_ids: Sequence[str], start: int = 0, stop: int | None = None, direction: str = "forward",
        *, pauses: bool = False, skip: Collection[int] = (),
    ) -> Iterator[FrameMasks | None]: ...  # fmt: skip

    def close(self) -> None: ...


class Engine(Protocol):
    """A loaded model. ``frames`` is lazy: ``len(frames)`` pages, ``frames[i]`` uint8 (H, W, 3). One that does not
    remember answers about pages one by one: its sessions refuse whatever looks at several. ``words``: all that it
    hears, empty where it reads whatever is typed."""

    name: str
    version: str
    device: str
    remembers: bool
    words: tuple[str, ...]

    @property
    def features(self) -> FeatureCounts: ...

    @property
    def vitals(self) -> EngineVitals: ...

    def open(self, frames: Sequence[np.ndarray], key: str | None = None) -> Session: ...

    def close(self) -> None: ...


EngineProvider = Callable[[], Engine]
_LOOK_SECONDS = 0.5  # between two looks whether an engine that was replaced is still used


class Serving:
    """An engine in service. Whoever holds it may open sessions; it is let go of when nobody does any more."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self.name, self.version, self.device = engine.name, engine.version, engine.device
        self.remembers = engine.remembers

    @property
    def words(self) -> tuple[str, ...]:
        return self._engine.words

    @property
    def features(self) -> FeatureCounts:
        return self._engine.features

    @property
    def vitals(self) -> EngineVitals:
        return self._engine.vitals

    def open(self, frames: Sequence[np.ndarray], key: str | None = None) -> Session:
        session = self._engine.open(frames, key=key)
        self._sessions.add(session)
        return session

    def close(self) -> None:
        self._engine.close()

    @property
    def sessions(self) -> weakref.WeakSet[Session]:
        """Those that somebody still has."""
        return self._sessions


class EngineLoader:
    """Builds the engine in a thread of its own, so that the server answers from its first second, and replaces it.

    Whoever got an engine goes on with it. One that was replaced is closed when nobody can ask it anything any more:
    nobody holds it, and all sessions on it are gone.
    """

    def __init__(self, provider: EngineProvider):
        self._provider = provider
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._engine: Serving | None = None
        self._failure: str | None = None
        self._pinned: contextvars.ContextVar[list[Serving] | None] = contextvars.ContextVar("engine", default=None)
        self._retiring = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._load, name="load-engine", daemon=True)

    def start(self) -> None:
        """Begins to load."""
        self._thread.start()

    @property
    def state(self) -> str:
        """``loading``, ``ready`` or ``failed``."""
        if not self._done.is_set():
            return "loading"
        return "ready" if self._engine is not None else "failed"

    @property
    def ready_engine(self) -> Engine | None:
        """The engine of this request, else the one in service, if it is there already."""
        pinned = self._pinned.get()
        return pinned[0] if pinned else self._engine

    @property
    def retiring(self) -> int:
        """Engines that were replaced and are still used."""
        return self._retiring

    @contextlib.contextmanager
    def one_engine(self) -> Iterator[None]:
        """Meanwhile this thread gets the same engine whenever it asks, also when another one takes its place."""
        token = self._pinned.set([])
        try:
            yield
        finally:
            self._pinned.reset(token)

    def wait(self, seconds: float) -> Engine:
        """The engine, waiting for it if need be.

        :raises ModelUnavailableError: it is not there in time, or can't be loaded.
        """
        pinned = self._pinned.get()
        if pinned:
            return pinned[0]
        if not self._done.wait(seconds):
            raise ModelUnavailableError("The model is still loading; try again in a moment.")
        engine = self._engine
        if engine is None:
            raise ModelUnavailableError(f"The model could not be loaded: {self._failure}")
        if pinned is not None:
            pinned.append(engine)
        return engine

    def replace(self, engine: Engine, retired: Callable[[], None] = lambda: None) -> None:
        """From now on whoever asks gets this engine. ``retired`` is called again and again until the one before can be
        closed: it lets go of what would be kept for later requests."""
        with self._lock:
            before, self._engine, self._failure = self._engine, Serving(engine), None
            self._done.set()
            if before is None:
                return
            self._retiring += 1
        inner, sessions, held = before._engine, before.sessions, weakref.ref(before)
        del before
        arguments = (inner, sessions, held, retired)
        threading.Thread(target=self._retire, args=arguments, name="retire-engine", daemon=True).start()

    def close(self) -> None:
        """Closes the engine if it was loaded, and those that it replaced."""
        self._closed.set()
        if self._engine is not None:
            self._engine.close()

    def _retire(
        self, engine: Engine, sessions: weakref.WeakSet, held: weakref.ref, retired: Callable[[], None]
    ) -> None:  # fmt: skip
        while not self._closed.is_set():
            retired()
            if held() is None and not len(sessions):
                break
            gc.collect(1)  # a session may be part of a circle
            self._closed.wait(_LOOK_SECONDS)
        engine.close()
        with self._lock:
            self._retiring -= 1
        log.info("version %s is no longer used; it was closed", engine.version)

    def _load(self) -> None:
        try:
            engine = self._provider()
            self._engine = Serving(engine)
            log.info("model %s, version %s, on %s", engine.name, engine.version, engine.device)
        except EXPECTED as error:
            self._failure = str(error)
            log.error("the model could not be loaded: %s", error)
        except Exception as error:
            self._failure = f"{type(error).__name__}; see the log of the ML backend."
            log.exception("the model could not be loaded")
        finally:
            self._done.set()
