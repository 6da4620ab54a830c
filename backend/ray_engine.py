"""Many engines behind the face of one: replicas on Ray Serve, each with a device of its own.

The HTTP front stays as it is and keeps what people did; replicas hold features, which can be computed again. A
picture's features stay on one replica while it lives: Ray Serve hashes the key of the media, consistently.
When a replica is lost, prompts are asked again elsewhere; a walk ends with :class:`backend.errors.EngineLostError`, and
whoever keeps what it found (:class:`backend.tracking.Track`, and the journal) goes on from there.

Calls between the front and its replicas are Python objects of this package, pickled by Ray: whoever can reach the Ray
cluster is trusted, so keep its ports on a private network.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from backend.engines import BATCH_PRIORITY, Engine, Survey
from backend.errors import EngineLostError, ModelUnavailableError
from backend.frame_recipes import recipe_of
from backend.ray_board import Board
from backend.ray_replica import (
    About,
    EngineReplica,
    KnownMask,
    Media,
    Outcome,
    Question,
    Search,
    SearchState,
    Walk,
)
from backend.remembered import PackedMask
from backend.settings import Settings
from x2sam.errors import BusyError
from x2sam.inference.clip_objects import ClipObject
from x2sam.inference.feature_cache import FeatureCounts
from x2sam.inference.scheduler import Turn
from x2sam.structures import FrameMasks, Mask, Prompt
from x2sam.vitals import EngineVitals, QueueVitals

log = logging.getLogger(__name__)

_NAMESPACE = "x2sam"
_LOOK_SECONDS = 0.5  # how often the front looks at the board
_SILENT_SECONDS = 5.0  # a replica that told nothing for so long counts no more
_TRIES = 4  # replicas that may be lost under one call
_ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
_HEALTH_SECONDS = 5.0
_LOST = RayActorError  # died, or out of reach for the moment
_FULL = (BackPressureError, DeploymentUnavailableError)
_ENDING_SECONDS = 1.5  # that a replica takes to end whose device is lost
_LOST_TEXT = "The process with the model was lost while it worked on this; ask again."


class RayEngine:
    """The engines of a Ray cluster, as :class:`backend.engines.Engine`; made by :class:`Cluster`."""

    def __init__(self, handle: Any, board: Any, about: About, patience: float, stop: Callable[[], None]):
        self.name, self.version, self.device = about.name, about.version, f"ray ({about.device})"
        self.remembers, self.words = about.remembers, about.words
        self._handle, self._board, self._patience, self._stop = handle, board, patience, stop
        self._told: dict[str, tuple[FeatureCounts, EngineVitals]] = {}
        self._closed = threading.Event()
        self._looker = threading.Thread(target=self._look, name="replicas", daemon=True)
        self._looker.start()

    @property
    def features(self) -> FeatureCounts:
        """Of all replicas together. What a lost one had counted is gone with it."""
        counts = [features for features, _ in list(self._told.values())]
        names = ("hits", "restored", "misses", "bytes", "stored")
        return FeatureCounts(**{name: sum(getattr(one, name) for one in counts) for name in names})

    @property
    def vitals(self) -> EngineVitals:
        """Of all replicas together: the longest present job, all queues, memory and shortages added up. Never lost: a
        replica whose device failed ends itself and is replaced, which is no matter of this process."""
        vitals = [vitals for _, vitals in list(self._told.values())]
        running = [one.running for one in vitals if one.running is not None]
        return EngineVitals(
            queues=_added([one.queues for one in vitals]),
            running=max(running, default=None),
            responsive=bool(vitals) and any(one.responsive for one in vitals),
            restarts=sum(one.restarts for one in vitals),
            memory=dict(sum((Counter(one.memory) for one in vitals), Counter())),
            shortages=sum(one.shortages for one in vitals),
            threads=max((one.threads for one in vitals), default=0),
            compiled=_least([one.compiled for one in vitals]),
        )

    @property
    def replicas(self) -> int:
        """Replicas that told lately how they do."""
        return len(self._told)

    def open(self, frames: Sequence[np.ndarray], key: str | None = None) -> RaySession:
        recipe = recipe_of(frames)
        return RaySession(self, Media(key or uuid.uuid4().hex, recipe))

    def ask(self, question: Question) -> Any:
        """The answer of a replica; asked again where one is lost, or its device, since a question changes nothing.

        :raises EngineLostError: one after the other is.
        """
        for _ in range(_TRIES):
            try:
                return _received(self._to(question.media).ask.remote(question).result(timeout_s=self._patience))
            except _LOST:
                log.warning("a replica was lost; its question is asked again")
            except EngineLostError:
                log.warning("a replica lost its device; its question is asked again")
                time.sleep(_ENDING_SECONDS)
            except TimeoutError as error:
                raise BusyError("The model did not answer in time; try again in a moment.") from error
            except _FULL as error:
                raise BusyError("Too much waits for the model; try again in a moment.") from error
        raise EngineLostError(_LOST_TEXT)

    @contextlib.contextmanager
    def stream(self, method: str, work: Walk | Search) -> Iterator[Iterator[Outcome]]:
        """The outcomes of a method that gives many; it is stopped when whoever listens leaves.

        :raises BusyError: no replica has room.
        """
        try:
            outcomes = getattr(self._to(work.media, stream=True), method).remote(work)
        except _FULL as error:
            raise BusyError("Too much waits for the model; try again in a moment.") from error
        try:
            yield iter(outcomes)
        finally:
            outcomes.cancel()

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._looker.join(_SILENT_SECONDS)  # Ray must not be shut down under a call
        self._stop()

    def _to(self, media: Media, **options: Any) -> Any:
        return self._handle.options(session_id=media.key, **options)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            try:
                told = ray.get(self._board.read.remote(_SILENT_SECONDS), timeout=_SILENT_SECONDS)
                self._told = {
                    name: (FeatureCounts(**one["features"]), _vitals(one["vitals"])) for name, one in told.items()
                }
            except (ray.exceptions.RayError, TimeoutError) as error:
                self._told = {}
                log.warning("the replicas can't be looked at: %s", type(error).__name__)


class RaySession:
    """One picture or clip on whichever replica has it; see :class:`backend.engines.Session`. What is known of objects
    is kept here, and goes along with each walk."""

    def __init__(self, engine: RayEngine, media: Media):
        self._engine, self._media = engine, media
        self._known: dict[tuple[str, int, bool], KnownMask] = {}

    def segment(
        self, prompt: Prompt, frame: int = 0, priority: int | None = None, replaces: Turn | None = None
    ) -> list[Mask]:
        options = {"frame": frame, "priority": priority, "replaces": replaces}
        return self._engine.ask(Question(self._media, "segment", (prompt,), options))

    def segment_all(
        self, asked: Sequence[tuple[Prompt, int]], priority: int | None = None, replaces: Turn | None = None
    ) -> list[list[Mask]]:
        options = {"priority": priority, "replaces": replaces}
        return self._engine.ask(Question(self._media, "segment_all", (tuple(asked),), options))

    def survey(self, prompt: Prompt, frame: int = 0, priority: int = BATCH_PRIORITY) -> Survey:
        return self._engine.ask(Question(self._media, "survey", (prompt, frame, priority)))

    def chat(self, question: str, frame: int = 0, replaces: Turn | None = None) -> tuple[str, list[Mask]]:
        return self._engine.ask(Question(self._media, "chat", (question,), {"frame": frame, "replaces": replaces}))

    def prepare(self, frame: int = 0) -> int:
        return self._engine.ask(Question(self._media, "prepare", (frame,)))

    def find_in_clip(
        self, prompt: Prompt, frames: Sequence[int] | None = None, first: int | None = None, memory: str | None = None,
        priority: int = 1, replaces: Turn | None = None,
    ) -> RaySearch:  # fmt: skip
        options = {"frames": frames, "first": first, "memory": memory, "priority": priority, "replaces": replaces}
        return RaySearch(self._engine, Search(self._media, prompt, options))

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        self._keep(KnownMask(frame, object_id, PackedMask.of(np.asarray(mask, bool)), True))

    def recall(self, frame: int, object_id: str, mask: np.ndarray, score: float = 1.0) -> None:
        self._keep(KnownMask(frame, object_id, PackedMask.of(np.asarray(mask, bool)), False, score))

    def track(
        self, object_ids: Sequence[str], start: int = 0, stop: int | None = None, direction: str = "forward",
        *, pauses: bool = False, skip: Collection[int] = (),
    ) -> Iterator[FrameMasks | None]:  # fmt: skip
        known = tuple(self._known.values())
        walk = Walk(self._media, known, tuple(object_ids), start, stop, direction, frozenset(skip))
        try:
            with self._engine.stream("walk", walk) as outcomes:
                for outcome in outcomes:
                    masks = _received(outcome)
                    if masks is not None or pauses:
                        yield masks
        except _LOST as error:
            raise EngineLostError(_LOST_TEXT) from error

    def close(self) -> None:
        self._known.clear()

    def _keep(self, one: KnownMask) -> None:
        self._known[one.object_id, one.frame, one.corrected] = one


class RaySearch:
    """Words looked for in a clip on a replica; see :class:`backend.engines.ClipSearch`. A lost replica ends it: what
    was found so far can still be had."""

    def __init__(self, engine: RayEngine, search: Search):
        self._state = SearchState()
        self._steps = self._walk(engine, search)

    looked = property(lambda self: self._state.looked)
    text = property(lambda self: self._state.text)
    left_out = property(lambda self: self._state.left_out)
    finished = property(lambda self: self._state.finished)

    def __iter__(self) -> Iterator[FrameMasks | None]:
        return self._steps

    def found(self) -> Sequence[ClipObject]:
        return self._state.found

    def close(self) -> None:
        self._steps.close()

    def _walk(self, engine: RayEngine, search: Search) -> Iterator[FrameMasks | None]:
        try:
            with engine.stream("search", search) as outcomes:
                for outcome in outcomes:
                    masks, state = _received(outcome)
                    self._state = state or self._state
                    yield masks
        except _LOST as error:
            raise EngineLostError(_LOST_TEXT) from error


class Cluster:
    """A Ray cluster, and the engines of this process there: the one of ``ray_address``, else one on this machine,
    which is started with the first engine and ends with the last one."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lock = threading.Lock()
        self._engines = 0
        # Ray has its processes killed when the thread that started them ends (PR_SET_PDEATHSIG): this one stays.
        self._keeper: ThreadPoolExecutor | None = None

    def start(self, build: Callable[[Settings], Engine]) -> RayEngine:
        """Replicas with an engine each, once the first one is up. Ray's workers import ``build``, or get its code.

        :raises ModelUnavailableError: the cluster can't be reached, or no replica comes up.
        """
        self._enter()
        app = f"{_NAMESPACE}-{socket.gethostname()}-{self._settings.port}-{uuid.uuid4().hex[:8]}"
        ends = [self._leave]

        def stop() -> None:
            """Each step, the last first, whatever became of the others."""
            while ends:
                try:
                    ends.pop()()
                except Exception as error:  # a cluster that is gone raises many kinds
                    log.warning("the Ray cluster was not left in order: %s", type(error).__name__)

        try:
            board = ray.remote(num_cpus=0)(Board).remote()
            ends.append(lambda: ray.kill(board))
            serve.start(proxy_location="Disabled")
            ends.append(lambda: serve.delete(app))
            deployment = _deployment(self._settings).bind(self._settings, build, board)
            handle = serve.run(deployment, name=app, route_prefix=None)
            about = handle.about.remote().result()
        except Exception as error:
            stop()
            raise ModelUnavailableError(
                f"No replica came up on the Ray cluster ({type(error).__name__}); see the cluster's log."
            ) from error
        return RayEngine(handle, board, about, self._settings.hang_seconds, stop)

    def _enter(self) -> None:
        with self._lock:
            if not self._engines and not ray.is_initialized():  # else others here have connected, and disconnect
                keeper = ThreadPoolExecutor(1, thread_name_prefix="ray")
                try:
                    keeper.submit(_connect, self._settings).result()
                except ModelUnavailableError:
                    keeper.shutdown()
                    raise
                self._keeper = keeper
            self._engines += 1

    def _leave(self) -> None:
        with self._lock:
            self._engines -= 1
            if self._engines or self._keeper is None:
                return
            if not self._settings.ray_address:  # of others on a cluster that is shared nothing is ended
                serve.shutdown()
            ray.shutdown()
            self._keeper.shutdown()
            self._keeper = None


def _received(outcome: Outcome) -> Any:
    """The value of an outcome.

    :raises EngineLostError: the device of the replica that gives it is lost.
    :raises BackendError, X2SAMError: what the replica raised.
    """
    if outcome.lost:
        raise EngineLostError(_LOST_TEXT) from outcome.error
    return outcome.get()


def _deployment(settings: Settings) -> Any:
    least, most = settings.ray_replicas
    return serve.deployment(EngineReplica).options(
        ray_actor_options={"num_cpus": settings.ray_cpus, "num_gpus": settings.ray_gpus},
        max_ongoing_requests=settings.queue + settings.threads,
        max_queued_requests=settings.queue,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        health_check_period_s=_HEALTH_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=_ROUTER),
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "initial_replicas": least,
            "target_ongoing_requests": settings.ray_load,
        },
    )


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Meanwhile this process is connected to the cluster of the settings, or to one on this machine that then ends.

    :raises ModelUnavailableError: it can't be reached.
    """
    if ray.is_initialized():
        yield
        return
    _connect(settings)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(settings: Settings) -> None:
    try:
        ray.init(
            address=settings.ray_address or None, include_dashboard=False, log_to_driver=False,
            configure_logging=False, namespace=_NAMESPACE,
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ModelUnavailableError(
            f"The Ray cluster {settings.ray_address or 'on this machine'} can't be reached; check X2SAM_RAY_ADDRESS."
        ) from error


def _vitals(told: dict[str, Any]) -> EngineVitals:
    queues = {name: QueueVitals(**queue) for name, queue in told["queues"].items()}
    return EngineVitals(**(told | {"queues": queues}))


def _least(gains: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By part of the network what compiling gains where it gains least."""
    return {part: min(one.get(part, 0.0) for one in gains) for part in {name for one in gains for name in one}}


def _added(queues: Sequence[Any]) -> dict[str, QueueVitals]:
    names = {name for one in queues for name in one}
    each = {name: [one[name] for one in queues if name in one] for name in names}
    return {
        name: QueueVitals(sum(one.waiting for one in rows), max(one.oldest for one in rows))
        for name, rows in each.items()
    }
