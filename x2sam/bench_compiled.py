"""Compiled parts of the network: requests beside the same ones eagerly, in turn, on the same weights."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from x2sam.bench_clicks import CLICKS_PER_OBJECT, clicks_of
from x2sam.bench_exact import overlap, rounded
from x2sam.bench_models import PATIENCE, WORDS
from x2sam.bench_plan import Bench, noted, timed
from x2sam.data.tasks import find_task
from x2sam.errors import MeasurementError
from x2sam.inference.code_files import CodeFiles
from x2sam.inference.engine import Engine
from x2sam.inference.session import Session
from x2sam.inference.walk import at_picture_size
from x2sam.structures import Mask, Prompt

_MOST_CLICKS = 300
_PAUSE = 0.5  # seconds between them


def measure_compiled(bench: Bench) -> None:
    """Has what clicks and words call for compiled, then asks both ways in turn."""
    bench.result["compiled"] = None
    if "compiled" not in bench.plan.parts:
        return
    bench.step("compiling")
    with tempfile.TemporaryDirectory(prefix="x2sam-bench-") as folder:
        place = Path(folder) / "compiled"
        with _engine_like(bench.engine, place) as compiled:
            meanwhile = _call_for_all(bench, compiled)
            files, gains = CodeFiles(place), compiled.vitals.compiled
            if not any(gains.values()):
                raise MeasurementError("nothing could be compiled, or nothing was faster; the log says why")
            told = {
                "gains": {part: rounded(gain) for part, gain in gains.items()},
                "compile_seconds": {one.part: one.seconds for one in files.known()},
                "code_mb": rounded(files.used / 2**20),
                "next_click_while_compiling_ms": rounded(np.median(meanwhile)) if meanwhile else None,
                **_both(bench, compiled),
            }
        began = time.perf_counter()
        with _engine_like(bench.engine, place) as again:
            again.compiling.settle(PATIENCE)
            told["again_seconds"] = rounded(time.perf_counter() - began)
    bench.result["compiled"] = told


def _engine_like(engine: Engine, place: Path) -> Engine:
    tokenizer = engine.interpreter.encoder.tokenizer
    return Engine(engine.model, tokenizer, engine.name, timeout=PATIENCE, hang=PATIENCE, compiled=place)


def _call_for_all(bench: Bench, engine: Engine) -> list[float]:
    """Asks everything once, and waits until what it called for is compiled. Milliseconds of next clicks meanwhile, on
    the engine that is eager."""
    session = engine.open(bench.picture)
    session.segment(clicks_of(bench.plan.picture, 1)[0][1])
    session.segment(Prompt(text=WORDS))
    session.close()
    began, eager, times = time.monotonic(), bench.engine.open(bench.picture), []
    for first, second, *_ in itertools.cycle(clicks_of(bench.plan.picture, _MOST_CLICKS)):
        if engine.compiling.settle(_PAUSE) or time.monotonic() - began > PATIENCE:
            break
        if len(times) < _MOST_CLICKS:  # later ones are answered already
            eager.segment(first)
            times.append(timed(lambda p=second: eager.segment(p))[0])
    eager.close()
    return times


def _both(bench: Bench, compiled: Engine) -> dict[str, Any]:
    """Milliseconds of the same requests both ways, one way after the other, and how far apart the answers are."""
    spent: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {}

    def ask(name: str, sessions: tuple[Session, Session], prompt: Prompt) -> None:
        times = spent.setdefault(name, ([], []))
        found = [noted(column, lambda s=s: s.segment(prompt)) for column, s in zip(times, sessions, strict=True)]
        bench.overlaps.append(_overlap(*found))

    open_both = lambda: (bench.engine.open(bench.picture), compiled.open(bench.picture))  # noqa: E731
    bench.step("compiled beside eager")
    *series, other = clicks_of(bench.plan.picture, math.ceil(bench.plan.repeats / (CLICKS_PER_OBJECT - 1)) + 1)
    for _ in range(min(3, bench.plan.repeats)):
        ask("first_click", open_both(), other[0])
    sessions = open_both()
    for one in sessions:
        one.segment(other[1])
    for prompts in series:
        for one in sessions:
            one.segment(prompts[0])
        for prompt in prompts[1:]:
            ask("next_click", sessions, prompt)
    for _ in range(min(5, bench.plan.repeats)):
        ask("words", sessions, Prompt(text=WORDS))
    bench.differences["compiled"] = _apart(bench, sessions, other)
    return {name: _row(*times) for name, times in spent.items()}


def _row(eager: list[tuple[float, float]], ours: list[tuple[float, float]]) -> dict[str, float]:
    (plain, plain_cpu), (quick, quick_cpu) = (np.median(times, axis=0).tolist() for times in (eager, ours))
    row = {"eager_ms": plain, "compiled_ms": quick, "ratio": plain / quick, "ratio_cpu": plain_cpu / quick_cpu}
    return {name: rounded(value) for name, value in row.items()}


def _apart(bench: Bench, sessions: tuple[Session, Session], prompts: list[Prompt]) -> float:
    """The largest difference of a cell's probability over the clicks of an object."""
    task, before, mask, worst = find_task("intseg", "image"), None, None, 0.0
    for prompt in prompts:
        asked = (prompt, before, mask, 0, task)
        eager, ours = (one.engine.run(lambda s=one, asked=asked: s.rounds.answer(*asked)) for one in sessions)
        worst = float(np.maximum(worst, np.abs(eager.probability - ours.probability).max()))
        before, mask = eager, at_picture_size(eager.probability, bench.picture.shape[:2])
    return worst


def _overlap(eager: list[Mask], ours: list[Mask]) -> float:
    if len(eager) != len(ours):
        return 0.0
    return min((overlap(one.mask, other.mask) for one, other in zip(eager, ours, strict=True)), default=1.0)
