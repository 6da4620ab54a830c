"""How fast the engine answers, beside the straightforward way on the same weights in the same run.

Times are those of a person who waits: whole requests, decoding of pictures left out. Ratios of two times of one run
mean something on any machine; the times themselves only on the one they were taken on. Beside each stands the time that
the processor worked on it, which other people's work on the machine changes less (``cpu_ms``; with one thread, as
threads that wait for one another count as working).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from x2sam.bench_clicks import clicks_of, compare_clicks, compare_words, measure_clicks
from x2sam.bench_compiled import measure_compiled
from x2sam.bench_exact import difference_in_float64, overlap_with_float32, rounded
from x2sam.bench_models import WORDS
from x2sam.bench_plan import Bench, Plan, Step, device_peak, reset_device_peak
from x2sam.bench_together import measure_together
from x2sam.bench_tracks import compare_track, measure_tracks
from x2sam.errors import MeasurementError
from x2sam.evaluation.video import peak_rss_mb
from x2sam.inference.engine import Engine
from x2sam.straightforward import watched
from x2sam.structures import Prompt

# How far mask logits of the two ways may be apart in float64 (see :func:`x2sam.bench_exact.difference_in_float64`).
TOLERANCE = 1e-6
# Of float32 the masks are compared: rounding that carries a cell of a mask between two layers over one half lets a
# query look there or not, which moves its later logits by hundredths.
LEAST_OVERLAP = 0.999
# calls of ``step`` in :func:`run`, and how many more there are for compiled code
STEPS, STEPS_COMPILED = 8, 2


def run(engine: Engine, plan: Plan, step: Step = lambda text: None) -> dict[str, Any]:
    """All measurements of an engine that is loaded: the result as the command writes it, but ``size`` and ``weights``.

    Raises MeasurementError when the engine and the straightforward way disagree.
    """
    with watched(engine.model) as watch:
        bench = Bench(engine, watch, plan, step)
        reset_device_peak(engine)
        measure_clicks(bench)
        measure_tracks(bench)
        bench.result |= {"peak_rss_mb": round(peak_rss_mb(), 1), "peak_device_mb": device_peak(engine)}
        reset_device_peak(engine)
        compare_clicks(bench)
        compare_words(bench)
        compare_track(bench)
        bench.result |= {
            "straightforward_peak_rss_mb": round(peak_rss_mb(), 1),
            "straightforward_peak_device_mb": device_peak(engine),
        }
        measure_together(bench)
        measure_compiled(bench)
    bench.step("the same in other precisions")
    prompts = [*(prompts[0] for prompts in clicks_of(plan.picture, 4)), Prompt(text=WORDS)]
    bench.result["float32_mask_iou"] = overlap_with_float32(engine, bench.picture, prompts)
    bench.result["float64_abs_diff"] = difference_in_float64(engine, bench.picture, clicks_of(plan.picture, 1)[0][:2])
    cpu = {name: rounded(np.median(spent)) for name, spent in bench.worked.items()}
    bench.result["cpu_ms"] = cpu
    bench.result["ratio_next_click_cpu"] = rounded(cpu["straightforward_click"] / cpu["next_click"])
    return {"device": engine.device, **bench.result, **verdict(bench)}


def verdict(bench: Bench) -> dict[str, Any]:
    """The largest differences of outputs. Raises MeasurementError where the two ways do not do the same."""
    worst, least = float(np.max(list(bench.differences.values()))), min(bench.overlaps)
    apart = bench.result["float64_abs_diff"]
    if apart is not None and not apart <= TOLERANCE:
        raise MeasurementError(f"the two ways differ by {apart:.2e} in mask logits of float64; don't trust this")
    if bench.engine.model.dtype == torch.float32 and not (least >= LEAST_OVERLAP and np.isfinite(worst)):
        told = ", ".join(f"{name} {value:.2e}" for name, value in bench.differences.items())
        raise MeasurementError(f"masks of the two ways overlap by {least:.4f} only ({told}); don't trust this")
    return {
        "max_abs_diff": worst,
        "differences": bench.differences,
        "mask_iou": least,
        "dtype": str(bench.engine.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def rows_of(result: dict[str, Any]) -> Sequence[tuple[str, float | None, float | None, str]]:
    """(what, ours, straightforward, unit) for the table."""
    rows = [
        ("first click", result["first_click_ms"], result["straightforward_first_click_ms"], "ms"),
        ("first click, prepared", result["first_click_prepared_ms"], None, "ms"),
        ("box, picture known", result["box_ms"], None, "ms"),
        ("next click, p50", result["next_click_ms"]["p50"], result["straightforward_click_ms"], "ms"),
        ("next click, p95", result["next_click_ms"]["p95"], None, "ms"),
        ("words", result["text_ms"], result["straightforward_text_ms"], "ms"),
        ("first frame of a clip", result["first_frame_ms"], result.get("straightforward_first_frame_ms"), "ms"),
    ]
    for what, counts in result["together"].items():
        name = what.replace("_", " ")
        rows += [(f"{n} {name} at once", t["together_ms"], t["one_by_one_ms"], "ms") for n, t in counts.items()]
    for what in ("first_click", "next_click", "words"):
        if times := (result["compiled"] or {}).get(what):
            name = f"{what.replace('_', ' ')}, compiled; eager"
            rows.append((name, times["compiled_ms"], times["eager_ms"], "ms"))
    plain = result.get("straightforward_track_fps", {})
    for mode, speeds in result["track_fps_by_memory"].items():
        rows += [(f"tracking {n}, {mode}", fps, plain.get(n), "frames/s") for n, fps in speeds.items()]
    cpu = result["cpu_ms"]
    for what in ("first_click", "next_click", "text"):
        plain_cpu = cpu.get("straightforward_click" if what == "next_click" else f"straightforward_{what}")
        rows.append((f"{what.replace('_', ' ')}, processor", cpu.get(what), plain_cpu, "ms"))
    rows.append(("peak memory", result["peak_rss_mb"], result["straightforward_peak_rss_mb"], "MiB"))
    if result["peak_device_mb"] is not None:
        rows.append(("peak memory, device", result["peak_device_mb"], result["straightforward_peak_device_mb"], "MiB"))
    return rows
