"""What the benchmark measures, and what its parts share: an engine under measurement, times, differences of outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.inference.engine import Engine
from x2sam.inference.object_rounds import Round
from x2sam.inference.walk import MODES
from x2sam.model.mask_decoder import LevelPrediction
from x2sam.straightforward import Watch
from x2sam.structures import Prompt

Step = Callable[[str], None]
PARTS = ("first", "text", "together", "track")
"""What is measured besides next clicks: first clicks, words, prompts that wait together, tracking. Only where it is
named, as it takes long: "compiled", parts of the network that are compiled."""


@dataclass(frozen=True)
class Plan:
    """What is measured. Sizes are (H, W); ``frames`` of a clip; ``straight``: requests of the straightforward way;
    ``waiting``: how many prompts wait for one picture.

    parts: see :data:`PARTS`; clicks are always measured
    track_seconds: tracking is left out when one run of it would take longer than this
    """

    repeats: int = 12
    straight: int = 3
    picture: tuple[int, int] = (640, 960)
    clip: tuple[int, int] = (360, 640)
    frames: int = 26
    modes: tuple[str, ...] = tuple(MODES)
    objects: tuple[int, ...] = (1, 4)
    waiting: tuple[int, ...] = (2, 4, 8)
    track_seconds: float = 300.0
    startup: bool = True
    parts: tuple[str, ...] = PARTS

    @classmethod
    def quick(cls) -> Plan:
        """A minute or less for nano: fewer repeats, short clips, the default memory only."""
        return cls(repeats=3, straight=1, frames=22, modes=(), waiting=(4,), startup=False)


@dataclass(eq=False)
class Bench:
    """One engine under measurement. ``result`` is filled on the way."""

    engine: Engine
    watch: Watch
    plan: Plan
    step: Step
    result: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    overlaps: list[float] = field(default_factory=list)
    worked: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> tuple[float, Any]:
        """Milliseconds and the result; the processor's time is noted under ``name``."""
        began = time.process_time()
        spent, value = timed(work)
        self.worked.setdefault(name, []).append((time.process_time() - began) * 1e3)
        return spent, value

    def __post_init__(self) -> None:
        rng = np.random.default_rng(11)
        self.picture = generate_picture(rng, self.plan.picture).frames[0]
        self.clip = generate_clip(rng, self.plan.frames, self.plan.clip).frames

    def snap(self, answer: Round, prompt: Prompt, before: np.ndarray | None) -> np.ndarray:
        """The last step of a click on :attr:`picture`, as the engine does it."""
        assert self.engine.snap is not None
        return self.engine.snap(
            self.picture, answer.probability, prompt.points, prompt.boxes, before, window=answer.window
        )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds and the result. Results are arrays on the host, so nothing is still running when they are there."""
    began = time.perf_counter()
    value = work()
    return (time.perf_counter() - began) * 1e3, value


def noted(times: list[tuple[float, float]], work: Callable[[], Any]) -> Any:
    """The result; its milliseconds, and those of the processor, are noted."""
    began = time.process_time()
    spent, value = timed(work)
    times.append((spent, (time.process_time() - began) * 1e3))
    return value


def note_difference(bench: Bench, name: str, ours: LevelPrediction | None, *others: np.ndarray) -> None:
    """Compares the mask logits seen before with the last ones; ``others`` are differences that were taken already."""
    theirs = bench.watch.last
    assert ours is not None and theirs is not None
    apart = [float((ours.mask_logits - theirs.mask_logits).abs().max()), *(float(np.abs(o).max()) for o in others)]
    # NumPy's maximum lets values that are not numbers through, Python's hides them
    bench.differences[name] = float(np.max([bench.differences.get(name, 0.0), *apart]))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_device_peak(engine: Engine) -> None:
    if engine.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(engine.device)


def device_peak(engine: Engine) -> float | None:
    """Most memory on the GPU in MiB, None without one."""
    if not engine.device.startswith("cuda"):
        return None
    return round(torch.cuda.max_memory_allocated(engine.device) / 2**20, 1)
