"""Whether a track's memory grows with the clip: resident memory of processes that follow an object through clips of
different lengths, which are generated frame by frame and never held.

Each length gets a process of its own (``python -m x2sam.bench_memory SIZE FRAMES``), so that one says nothing about
another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from x2sam.errors import MeasurementError

CLIP = (48, 64)
WARM = 20  # frames before memory counts: banks are full, buffers made
READINGS = 50  # of the resident memory along a clip


class EndlessClip:
    """A disc that drifts over a textured ground, ``count`` frames; frame ``k`` is made when it is read."""

    def __init__(self, count: int, size: tuple[int, int] = CLIP):
        self.count, self.size = count, size
        noise = np.random.default_rng(3).integers(0, 256, size).astype(np.uint8)
        ground = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 40, 200, cv2.NORM_MINMAX)
        self._ground = np.repeat(ground[..., None], 3, 2)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frame: int) -> np.ndarray:
        picture = np.roll(self._ground, frame, 1)
        picture[self.mask(frame)] = (220, 80, 60)
        return picture

    def mask(self, frame: int) -> np.ndarray:
        """bool (H, W): the disc on a frame."""
        height, width = self.size
        rows, cols = np.ogrid[:height, :width]
        x = width * (0.5 + 0.25 * np.sin(frame / 40))
        y = height * (0.5 + 0.2 * np.cos(frame / 25))
        return (rows - y) ** 2 + (cols - x) ** 2 <= (height / 6) ** 2


def resident_mb() -> float:
    """Memory of this process now, in MiB; where the system does not tell, the most it ever had."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        from x2sam.evaluation.video import peak_rss_mb

        return peak_rss_mb()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def follow(size: str, count: int) -> dict[str, Any]:
    """Follows the disc of a clip of ``count`` frames in this process.

    ``rss_mb``: median resident memory of the last tenth of the clip; ``peak_rss_mb``: the most the process ever had
    """
    import torch

    from x2sam.bench_models import SIZES, TOKENS, WORDS, random_model
    from x2sam.data.tokenizer import build_tokenizer
    from x2sam.evaluation.video import peak_rss_mb
    from x2sam.inference.engine import Engine

    config = SIZES[size]()
    # As in nano: then objects are followed by all there is, and memory modes differ from the published one.
    config = replace(config, memory=replace(config.memory, sketch=True, dense=True, levels=(0,)))
    clip, readings = EndlessClip(count), []
    with Engine(random_model(config, "cpu", torch.float32), build_tokenizer([WORDS], TOKENS), size) as engine:
        session = engine.open(clip)
        session.correct(0, "disc", clip.mask(0))
        began = time.perf_counter()
        for number, _ in enumerate(session.track(["disc"])):
            if number >= WARM and number % max(1, count // READINGS) == 0:
                readings.append(resident_mb())
        seconds = time.perf_counter() - began
        session.close()
    last = readings[-max(1, len(readings) // 10) :]
    return {
        "frames": count, "rss_mb": round(float(np.median(last)), 1), "peak_rss_mb": round(peak_rss_mb(), 1),
        "fps": round(count / seconds, 2),
    }  # fmt: skip


def run(size: str, counts: Sequence[int], patience: float = 7200.0) -> dict[str, Any]:
    """A row for each length, and ``growth``: by how much the largest resident memory exceeds the smallest.

    Raises MeasurementError where a process fails or takes longer than ``patience`` seconds.
    """
    if min(counts) <= WARM:
        raise MeasurementError(f"memory is steady after {WARM} frames; measure clips that are longer")
    rows = [_in_its_own_process(size, count, patience) for count in counts]
    low, high = (chosen(row["rss_mb"] for row in rows) for chosen in (min, max))
    return {"size": size, "clip": list(CLIP), "rows": rows, "growth": round(high / low - 1, 4)}


def _in_its_own_process(size: str, count: int, patience: float) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "x2sam.bench_memory", size, str(count)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired as problem:
        raise MeasurementError(f"{count} frames took longer than {patience:.0f} s; measure fewer") from problem
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"following {count} frames failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(follow(sys.argv[1], int(sys.argv[2]))))
