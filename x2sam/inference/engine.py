"""Engine: a model on a device, ready for prompts. Takes arrays and files, knows nothing of HTTP.

    engine = Engine.load("nano")
    session = engine.open(picture)
    masks = session.segment(Prompt(points=(Point(320, 240),)))
"""

from __future__ import annotations

import gc
import logging
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from x2sam.data.tokenizer import load_tokenizer
from x2sam.errors import DeviceError, DeviceMemoryError, WeightsError
from x2sam.inference.compiling import Compiling
from x2sam.inference.feature_cache import FeatureCache, FeatureCounts
from x2sam.inference.feature_store import FeatureStore
from x2sam.inference.frames import FrameSource, open_frames
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.network import CodeTable, Network
from x2sam.inference.refine import Snap, snap_for, snap_of
from x2sam.inference.scheduler import Joint, Priority, Scheduler, Turn
from x2sam.inference.session import Session
from x2sam.model.weights import from_pretrained
from x2sam.model.x2sam import X2SAM
from x2sam.placement import find_device, find_model, version_of
from x2sam.vitals import EngineVitals

LOST = "the device failed and this process can't use it any more; a server starts itself again, try again in a minute"
LEAST_CACHE = 64 * 2**20
"""Bytes of features that are kept however often memory ran out: those of the picture that is worked on."""
TOGETHER = {"cpu": 4, "cuda": 8}
"""Prompts about one picture that are answered at once, by kind of device, elsewhere one; see ``SPEED.md``."""

log = logging.getLogger(__name__)


class Engine:
    """snap: masks are made to obey their clicks, by ``light_step`` (of :mod:`x2sam.inference.refine`; by default the
    package's for this kind of model); memory: see :data:`x2sam.inference.walk.MODES`;
    seed: every request draws its region points from it, so equal requests give equal bytes;
    cache_bytes: what features may take in memory; generate_limit: longest generated answer in tokens;
    waiting, timeout, hang: see :class:`x2sam.inference.scheduler.Scheduler`;
    together: prompts about one picture that are answered at once at most, when several wait; by default as many as
    :data:`TOGETHER` has for the device;
    store, store_bytes: directory and budget of features on disk, none unless both are given. They outlive the process
    and serve pictures whose source tells a digest. The directory belongs to one process at a time;
    compiled: directory of compiled code, see :mod:`x2sam.inference.compiling`; where none is given all is eager."""

    def __init__(
        self, model: X2SAM, tokenizer, name: str = "model", version: str | None = None, snap: bool = True,
        memory: str = "pinned", seed: int = 0, cache_bytes: int = 2 * 2**30, generate_limit: int = 256,
        waiting: int = 64, timeout: float = 120.0, hang: float = 120.0, store: str | Path | None = None,
        store_bytes: int = 0, together: int | None = None, light_step: Snap | None = None,
        compiled: str | Path | None = None,
    ):  # fmt: skip
        self.model, self.name, self.version = model, name, version or name
        self.interpreter = Interpreter(model, tokenizer)
        self.memory, self.seed, self.generate_limit = memory, seed, generate_limit
        self.snap = (light_step or snap_for(model.config.memory.sketch)) if snap else None
        self.store: FeatureStore | None = None
        if store and store_bytes:
            numbers = f"{self.version} {model.dtype}"
            new_cache = self.interpreter.language.new_cache
            self.store = FeatureStore(store, store_bytes, numbers, self.device, new_cache)
        self.cache = FeatureCache(cache_bytes, self.store)
        self._shortages = 0
        self._lost = False
        self._threads = torch.get_num_threads()
        together = TOGETHER.get(self.interpreter.device.type, 1) if together is None else together
        self.scheduler = Scheduler(waiting, timeout, hang, together)
        self.network = Network(model, CodeTable() if compiled else None)
        self.compiling: Compiling | None = None
        if compiled:
            modestly = lambda job: self.run(job, Priority.BATCH)  # noqa: E731
            self.compiling = Compiling(model, self.network.table, Path(compiled), modestly)

    @classmethod
    def load(cls, name: str | Path = "auto", device: str = "auto", dtype: str = "auto", **settings: Any) -> Engine:
        """``name``: ``auto``, ``nano``, ``x2sam-4b``, ``x-sam``, or a directory that ``convert`` or training wrote.

        ``auto`` takes the published model where it was downloaded and a GPU is there, else ``nano``. On a GPU numbers
        are bfloat16, on a CPU float32. Raises WeightsError and DeviceError when there is no such model or device.
        """
        directory = find_model(str(name))
        device = find_device(device)
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        if not (directory / "tokenizer" / "tokenizer.json").is_file():
            raise WeightsError(f"{directory} has no tokenizer/tokenizer.json; convert or download the model again")
        model = from_pretrained(directory, getattr(torch, dtype)).to(device)
        # never asked of the hub: a model directory is complete or damaged
        tokenizer = load_tokenizer(directory / "tokenizer")
        last = snap_of(directory, model.config.memory.sketch)
        return cls(model, tokenizer, model.config.name, version_of(directory), light_step=last, **settings)

    @property
    def device(self) -> str:
        return str(self.interpreter.device)

    @property
    def remembers(self) -> bool:
        """Whether objects can be followed and clips looked through; without, pictures are answered one by one."""
        return self.model.config.remembers

    @property
    def words(self) -> tuple[str, ...]:
        """All that it was trained to hear, where those are few; empty where it reads whatever is typed."""
        return self.model.config.words

    def open(self, frames: np.ndarray | str | Path | FrameSource, key: Hashable | None = None) -> Session:
        """A session on a picture (H, W, 3), a clip (T, H, W, 3), a file, or a lazy reader.

        ``key`` names the media: sessions with the same key share its features, also after they were closed.
        """
        source, named = open_frames(frames), key is not None
        key = key if named else uuid.uuid4().hex
        return Session(self, Looking(self.interpreter, self.cache, source, key, named, self.network))

    @property
    def features(self) -> FeatureCounts:
        """How often features were there when they were needed, and what they take."""
        return self.cache.counts

    @property
    def vitals(self) -> EngineVitals:
        """What waits and runs, and the device's memory; answered at once, also while the device works."""
        memory, known = memory_of(self.interpreter.device), self.scheduler.vitals()
        responsive = known.responsive and not self._lost
        told = {"shortages": self._shortages, "lost": self._lost, "threads": self._threads}
        if self.compiling is not None:
            told["compiled"] = self.compiling.gains
        return replace(known, memory=memory, responsive=responsive, **told)

    def run(
        self, job: Callable[[], Any], priority: Priority = Priority.CLICK, replaces: str | Turn | None = None,
        timeout: float | None = None, again: bool = True,
    ) -> Any:  # fmt: skip
        """The job's result, computed without gradients on the device's thread; see :meth:`with_room`.

        Raises DeviceError once the device has failed in a way that no job of this process gets over.
        """
        safely = torch.inference_mode()(lambda: self._while_it_lives(lambda: self.with_room(job, again)))
        return self.scheduler.run(safely, priority, replaces, timeout)

    def run_all(
        self, jobs: Sequence[Joint], priority: Priority = Priority.CLICK, replaces: str | Turn | None = None
    ) -> list[Any]:
        """The results of several jobs, done together where they allow it and as :meth:`run` does one. Where memory
        does not suffice for all, each is done by itself, and from then on fewer at once."""
        return self.scheduler.run_all([replace(job, work=self._safe(job.work)) for job in jobs], priority, replaces)

    def _safe(self, work: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        @torch.inference_mode()
        def safely(items: list[Any]) -> list[Any]:
            within = self.with_room if len(items) == 1 else self._crowded
            return self._while_it_lives(lambda: within(lambda: work(items)))

        return safely

    def _crowded(self, job: Callable[[], Any]) -> Any:
        """The result of a job for several callers. Caches are not emptied for it: alone, each may have room enough."""
        try:
            return job()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        self.scheduler.together = max(1, self.scheduler.together // 2)
        log.warning("the device's memory ran out; %d prompts at once at most from now on", self.scheduler.together)
        self._collect()
        raise DeviceMemoryError("the device has too little memory for several prompts at once")

    def _while_it_lives(self, job: Callable[[], Any]) -> Any:
        self._threads = torch.get_num_threads()  # every thread has a number of its own; this is the device's
        if self._lost:
            raise DeviceError(LOST)
        try:
            return job()
        except torch.AcceleratorError as error:  # after one, a GPU refuses everything that this process asks of it
            self._lost = True
            log.error("the device failed and is lost to this process: %s", str(error).partition("\n")[0])
            raise DeviceError(LOST) from error

    def with_room(self, job: Callable[[], Any], again: bool = True) -> Any:
        """The job's result. Where memory does not suffice, caches are emptied and it is run once more; ``again`` false:
        it is not, since it changed something on its way. To be called on the device's thread.

        Raises DeviceMemoryError when that did not help.
        """
        try:
            return job()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # here, and not in the handler: the error holds on to all tensors of what failed
        self._make_room()
        if again:
            try:
                return job()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self._make_room()
        raise DeviceMemoryError(
            "the device has too little memory for this, also with its caches emptied; try again when less runs at "
            "once, or use a smaller picture, fewer objects at once, or a device with more memory"
        )

    def _make_room(self) -> None:
        self._shortages += 1
        self.cache.shrink(LEAST_CACHE)
        self._collect()
        log.warning("the device's memory ran out; features of pictures take %d MB at most now", self.cache.budget >> 20)

    def _collect(self) -> None:
        gc.collect()
        if self.interpreter.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        self.scheduler.close()
        if self.compiling is not None:
            self.compiling.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of a GPU or of the machine; for the latter PyTorch has no class of its own."""
    if isinstance(error, torch.AcceleratorError):
        return "out of memory" in str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes of a GPU's memory: in use by tensors, at most so far, held by PyTorch, and all there is; {} elsewhere."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "peak": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }
