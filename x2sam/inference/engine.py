"""Engine: a model on a device, ready for prompts. Takes arrays and files, knows nothing of HTTP.

    engine = Engine.load("nano")
    session = engine.open(picture)
    masks = session.segment(Prompt(points=(Point(320, 240),)))
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from x2sam.data.tokenizer import load_tokenizer
from x2sam.errors import WeightsError
from x2sam.inference.feature_cache import FeatureCache, FeatureCounts
from x2sam.inference.feature_store import FeatureStore
from x2sam.inference.frames import FrameSource, open_frames
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.scheduler import Priority, Scheduler, Turn
from x2sam.inference.session import Session
from x2sam.model.weights import from_pretrained
from x2sam.model.x2sam import X2SAM
from x2sam.placement import find_device, find_model
from x2sam.vitals import EngineVitals

DIGESTED_BYTES = 256 * 2**20


class Engine:
    """snap: masks are made to obey their clicks; memory: see :data:`x2sam.inference.walk.MODES`;
    seed: every request draws its region points from it, so equal requests give equal bytes;
    cache_bytes: what features may take in memory; generate_limit: longest generated answer in tokens;
    waiting, timeout, hang: see :class:`x2sam.inference.scheduler.Scheduler`;
    store, store_bytes: directory and budget of features on disk, none unless both are given. They outlive the process
    and serve pictures whose source tells a digest. The directory belongs to one process at a time."""

    def __init__(
        self, model: X2SAM, tokenizer, name: str = "model", version: str | None = None, snap: bool = True,
        memory: str = "pinned", seed: int = 0, cache_bytes: int = 2 * 2**30, generate_limit: int = 256,
        waiting: int = 64, timeout: float = 120.0, hang: float = 120.0, store: str | Path | None = None,
        store_bytes: int = 0,
    ):  # fmt: skip
        self.model, self.name, self.version = model, name, version or name
        self.interpreter = Interpreter(model, tokenizer)
        self.snap, self.memory, self.seed, self.generate_limit = snap, memory, seed, generate_limit
        self.store: FeatureStore | None = None
        if store and store_bytes:
            numbers = f"{self.version} {model.no_memory_embedding.dtype}"
            new_cache = self.interpreter.language.new_cache
            self.store = FeatureStore(store, store_bytes, numbers, self.device, new_cache)
        self.cache = FeatureCache(cache_bytes, self.store)
        self.scheduler = Scheduler(waiting, timeout, hang)

    @classmethod
    def load(cls, name: str | Path = "auto", device: str = "auto", dtype: str = "auto", **settings: Any) -> Engine:
        """``name``: ``auto``, ``nano``, ``x2sam-4b``, or a directory that ``convert`` or training wrote.

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
        version = f"{model.config.name}-{digest_of(directory / 'model.safetensors')}"
        return cls(model, tokenizer, model.config.name, version, **settings)

    @property
    def device(self) -> str:
        return str(self.interpreter.device)

    def open(self, frames: np.ndarray | str | Path | FrameSource, key: Hashable | None = None) -> Session:
        """A session on a picture (H, W, 3), a clip (T, H, W, 3), a file, or a lazy reader.

        ``key`` names the media: sessions with the same key share its features, also after they were closed.
        """
        source, named = open_frames(frames), key is not None
        key = key if named else uuid.uuid4().hex
        return Session(self, Looking(self.interpreter, self.cache, source, key, named))

    @property
    def features(self) -> FeatureCounts:
        """How often features were there when they were needed, and what they take."""
        return self.cache.counts

    @property
    def vitals(self) -> EngineVitals:
        """What waits and runs, and the device's memory; answered at once, also while the device works."""
        return replace(self.scheduler.vitals(), memory=memory_of(self.interpreter.device))

    def run(
        self, job: Callable[[], Any], priority: Priority = Priority.CLICK, replaces: str | Turn | None = None,
        timeout: float | None = None,
    ) -> Any:  # fmt: skip
        """The job's result, computed without gradients on the device's thread."""
        return self.scheduler.run(torch.inference_mode()(job), priority, replaces, timeout)

    def close(self) -> None:
        self.scheduler.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def digest_of(path: Path) -> str:
    """Eight hex digits of the weights: of the whole file, for very large ones of its first part and its size."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        left = min(size, DIGESTED_BYTES)
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if size > DIGESTED_BYTES:
        digest.update(str(size).encode())
    return digest.hexdigest()[:8]
