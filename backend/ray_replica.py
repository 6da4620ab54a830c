"""One engine in a process of its own, as a Ray Serve replica: what :mod:`backend.ray_engine` talks to.

Every call brings all that it needs (a recipe for the frames, the prompt, the masks that are known), so any replica can
answer it, also after another one was lost.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ray import serve

from backend.engines import Engine, Session
from backend.errors import EXPECTED
from backend.frame_recipes import Kitchen, Recipe
from backend.remembered import PackedMask
from backend.sessions import SessionRegistry
from backend.settings import Settings
from x2sam.inference.clip_objects import ClipObject
from x2sam.structures import FrameMasks, Prompt

ASKED = frozenset({"segment", "segment_all", "chat", "prepare", "survey"})
TOLD_SECONDS = 0.5  # how often a replica tells how it does
FOUND_SECONDS = 1.0  # how often a search tells what it has found so far
_END = object()


@dataclass(frozen=True)
class Media:
    key: str
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Question:
    """A call of one of the methods ``ASKED`` of a session."""

    media: Media
    method: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownMask:
    """A mask that is known before a walk; ``corrected`` by a person, else found by an earlier walk."""

    frame: int
    object_id: str
    mask: PackedMask
    corrected: bool
    score: float = 1.0


@dataclass(frozen=True, eq=False)
class Walk:
    """``known`` in the order in which a session is told of it; the rest as in :meth:`backend.engines.Session.track`."""

    media: Media
    known: tuple[KnownMask, ...]
    object_ids: tuple[str, ...]
    start: int
    stop: int | None
    direction: str
    skip: Collection[int]


@dataclass(frozen=True, eq=False)
class Search:
    """The arguments of :meth:`backend.engines.Session.find_in_clip`."""

    media: Media
    prompt: Prompt
    options: dict[str, Any]


@dataclass(frozen=True, eq=False)
class SearchState:
    """How far a search is: what :class:`backend.engines.ClipSearch` shows."""

    looked: tuple[int, ...] = ()
    text: str | None = None
    left_out: int = 0
    finished: bool = False
    found: tuple[ClipObject, ...] = ()


@dataclass(frozen=True)
class About:
    name: str
    version: str
    device: str
    remembers: bool
    words: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a call or a step: a value, or an error whose text is meant for a person. ``lost``: the device failed
    in a way that no other question to this process gets over."""

    value: Any = None
    error: Exception | None = None
    lost: bool = False

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class EngineReplica:
    """``build(settings)`` gives the engine; ``board`` is the :class:`backend.ray_board.Board` actor."""

    def __init__(self, settings: Settings, build: Callable[[Settings], Engine], board: Any):
        self._engine = build(settings)
        self._sessions = SessionRegistry(settings.max_sessions, settings.session_seconds)
        self._kitchen = Kitchen(settings)
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="replica")
        self._closed = threading.Event()
        self._name = serve.get_replica_context().replica_id.unique_id
        threading.Thread(target=self._tell, args=(board,), name="tell", daemon=True).start()

    async def about(self) -> About:
        engine = self._engine
        return About(engine.name, engine.version, engine.device, engine.remembers, engine.words)

    async def ask(self, question: Question) -> Outcome:
        return await self._threaded(self._answer, question)

    async def walk(self, walk: Walk) -> AsyncIterator[Outcome]:
        """A :class:`FrameMasks`, or None, for each step of a walk."""
        async for outcome in self._stepped(self._walk(walk)):
            yield outcome

    async def search(self, search: Search) -> AsyncIterator[Outcome]:
        """Pairs of a step and, now and then, a :class:`SearchState`."""
        async for outcome in self._stepped(self._search(search)):
            yield outcome

    def check_health(self) -> None:
        """Ray Serve replaces a replica that raises here."""
        if not self._engine.vitals.responsive:
            raise RuntimeError("the device does not respond")

    def __del__(self) -> None:
        self._closed.set()
        self._sessions.close()
        self._engine.close()

    def _answer(self, question: Question) -> Outcome:
        if question.method not in ASKED:
            raise ValueError(f"a session is not asked for {question.method}")
        media = question.media
        try:
            with self._sessions.use(media.key, lambda: self._open(media)) as session:
                return Outcome(getattr(session, question.method)(*question.arguments, **question.options))
        except EXPECTED as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Outcome:
        return Outcome(error=error, lost=self._engine.vitals.lost)

    def _walk(self, walk: Walk) -> Iterator[FrameMasks | None]:
        with self._own_session(walk.media) as session:
            for one in walk.known:
                if one.corrected:
                    session.correct(one.frame, one.object_id, one.mask.unpack())
                else:
                    session.recall(one.frame, one.object_id, one.mask.unpack(), one.score)
                yield None
            yield from session.track(
                walk.object_ids, walk.start, walk.stop, walk.direction, pauses=True, skip=walk.skip
            )

    def _search(self, search: Search) -> Iterator[tuple[FrameMasks | None, SearchState | None]]:
        with self._own_session(search.media) as session:
            found = session.find_in_clip(search.prompt, **search.options)
            told = 0.0
            try:
                for masks in found:
                    due = time.monotonic() - told >= FOUND_SECONDS
                    yield masks, _state_of(found) if due else None
                    told = time.monotonic() if due else told
                yield None, _state_of(found)
            finally:
                found.close()

    @contextmanager
    def _own_session(self, media: Media) -> Iterator[Session]:
        session = self._open(media)
        try:
            yield session
        finally:
            session.close()

    def _open(self, media: Media) -> Session:
        return self._engine.open(media.recipe.frames(self._kitchen), key=media.key)

    async def _stepped(self, steps: Iterator[Any]) -> AsyncIterator[Outcome]:
        """Runs a generator step by step in threads; it is closed when whoever listens leaves."""
        turn = threading.Lock()

        def step() -> Any:
            with turn:
                try:
                    return next(steps, _END)
                except EXPECTED as error:
                    return self._failed(error)

        def close() -> None:
            with turn:
                steps.close()

        try:
            while (got := await self._threaded(step)) is not _END:
                yield got if isinstance(got, Outcome) else Outcome(got)
        finally:
            self._pool.submit(close)

    async def _threaded(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def _tell(self, board: Any) -> None:
        """Tells how it does. Once the device is lost to this process, it ends: Ray Serve starts another one."""
        while not self._closed.wait(TOLD_SECONDS):
            vitals = self._engine.vitals
            board.tell.remote(self._name, {"features": asdict(self._engine.features), "vitals": asdict(vitals)})
            if vitals.lost and not self._closed.wait(TOLD_SECONDS):  # what was answered last gets out
                os._exit(1)


def _state_of(search: Any) -> SearchState:
    found: Sequence[ClipObject] = search.found()
    return SearchState(tuple(search.looked), search.text, search.left_out, search.finished, tuple(found))
