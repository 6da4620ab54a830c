"""How fast the engine answers, beside the straightforward way on the same weights in the same run.

Times are those of a person who waits: whole requests, decoding of pictures left out. Ratios of two times of one run
mean something on any machine; the times themselves only on the one they were taken on. Beside each stands the time that
the processor worked on it, which other people's work on the machine changes less (``cpu_ms``; with one thread, as
threads that wait for one another count as working).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from x2sam.bench_exact import difference_in_float64, overlap, overlap_with_float32, rounded
from x2sam.bench_models import WORDS
from x2sam.data.scenes import generate_clip, generate_picture
from x2sam.data.tasks import find_task
from x2sam.errors import MeasurementError
from x2sam.evaluation.video import peak_rss_mb
from x2sam.inference.engine import Engine
from x2sam.inference.object_rounds import Round
from x2sam.inference.refine import snap_for
from x2sam.inference.session import Session
from x2sam.inference.walk import MODES, at_picture_size
from x2sam.model.mask_decoder import LevelPrediction
from x2sam.model.memory_attention import rotary_table
from x2sam.model.x2sam import X2SAM
from x2sam.straightforward import Straightforward, Watch, watched
from x2sam.structures import Point, Prompt

# How far mask logits of the two ways may be apart in float64 (see :func:`x2sam.bench_exact.difference_in_float64`).
TOLERANCE = 1e-6
# Of float32 the masks are compared: rounding that carries a cell of a mask between two layers over one half lets a
# query look there or not, which moves its later logits by hundredths.
LEAST_OVERLAP = 0.999
CLICKS_PER_OBJECT = 5
Step = Callable[[str], None]
PARTS = ("first", "text", "track")
"""What is measured besides next clicks: first clicks, words, tracking."""
# calls of ``step`` in :func:`run`
STEPS = 7


@dataclass(frozen=True)
class Plan:
    """What is measured. Sizes are (H, W); ``frames`` of a clip; ``straight``: requests of the straightforward way.

    parts: of :data:`PARTS`; clicks are always measured
    track_seconds: tracking is left out when one run of it would take longer than this
    """

    repeats: int = 12
    straight: int = 3
    picture: tuple[int, int] = (640, 960)
    clip: tuple[int, int] = (360, 640)
    frames: int = 26
    modes: tuple[str, ...] = tuple(MODES)
    objects: tuple[int, ...] = (1, 4)
    track_seconds: float = 300.0
    startup: bool = True
    parts: tuple[str, ...] = PARTS

    @classmethod
    def quick(cls) -> Plan:
        """A minute or less for nano: fewer repeats, short clips, the default memory only."""
        return cls(repeats=3, straight=1, frames=22, modes=(), startup=False)


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
        served = snap_for(self.engine.model.config.memory.sketch)
        return served(self.picture, answer.probability, prompt.points, prompt.boxes, before)


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


# pictures


def clicks_of(size: tuple[int, int], objects: int) -> list[list[Prompt]]:
    """For each object the prompts of a person who clicks ``CLICKS_PER_OBJECT`` times, right and wrong spots in turn."""
    rng = np.random.default_rng(5)
    series = []
    for _ in range(objects):
        places = rng.uniform(0.1, 0.9, (CLICKS_PER_OBJECT, 2)) * (size[1], size[0])
        points = tuple(Point(float(x), float(y), i % 2 == 0) for i, (x, y) in enumerate(places))
        series.append([Prompt(points=points[: n + 1]) for n in range(CLICKS_PER_OBJECT)])
    return series


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds and the result. Results are arrays on the host, so nothing is still running when they are there."""
    began = time.perf_counter()
    value = work()
    return (time.perf_counter() - began) * 1e3, value


def measure_clicks(bench: Bench) -> None:
    """First clicks on new pictures, next clicks on a known one, words about a known one."""
    engine, plan = bench.engine, bench.plan
    bench.step("first clicks")
    series = clicks_of(plan.picture, math.ceil(plan.repeats / (CLICKS_PER_OBJECT - 1)))
    session = engine.open(bench.picture)
    session.segment(series[0][1])  # not timed: what is only done once in a process is done here
    bench.result |= dict.fromkeys(("first_click_ms", "first_click_prepared_ms", "text_ms"))
    if "first" in plan.parts:
        measure_first_clicks(bench, series[0][0])
    bench.step("next clicks")
    later = []
    for prompts in series:
        session.segment(prompts[0])
        for prompt in prompts[1:]:
            if len(later) < plan.repeats:
                bench.watch.clear()
                later.append(bench.time("next_click", lambda p=prompt: session.segment(p))[0])
    calls = dict(bench.watch.calls)
    if "text" in plan.parts:
        session.segment(Prompt(text=WORDS))
        asked = lambda: session.segment(Prompt(text=WORDS))  # noqa: E731
        text = [bench.time("text", asked)[0] for _ in range(min(5, plan.repeats))]
        bench.result["text_ms"] = rounded(np.median(text))
    session.close()
    bench.result |= {
        "next_click_ms": {"p50": rounded(np.percentile(later, 50)), "p95": rounded(np.percentile(later, 95))},
        "calls": {"next_click": calls},
    }


def measure_first_clicks(bench: Bench, prompt: Prompt) -> None:
    """On pictures that nobody has seen before, and on those that were encoded ahead."""
    first, prepared = [], []
    for times, name, ahead in ((first, "first_click", False), (prepared, "first_click_prepared", True)):
        for _ in range(min(3, bench.plan.repeats)):
            session = bench.engine.open(bench.picture)
            if ahead:
                session.prepare()
            times.append(bench.time(name, lambda s=session: s.segment(prompt))[0])
            session.close()
    bench.result["first_click_ms"] = rounded(np.median(first))
    bench.result["first_click_prepared_ms"] = rounded(np.median(prepared))


def compare_clicks(bench: Bench) -> None:
    """The same clicks both ways: the times of the straightforward one, and how far the outputs are apart."""
    engine, plan = bench.engine, bench.plan
    bench.step("clicks, the straightforward way")
    session = engine.open(bench.picture)
    straight = Straightforward(engine, bench.picture[None], bench.watch)
    task = find_task("intseg", "image")
    before, mask, times = None, None, []
    for prompt in clicks_of(plan.picture, 1)[0][: plan.straight + 1]:
        known = lambda p=prompt, b=before, m=mask: session.rounds.answer(p, b, m, 0, task)  # noqa: E731
        ours = engine.run(known)
        logits = bench.watch.last
        bench.watch.clear()
        whole = lambda p=prompt, b=before, m=mask: finished(bench, straight, p, b, m)  # noqa: E731
        spent, (theirs, mask_theirs) = bench.time(f"straightforward{'' if times else '_first'}_click", whole)
        times.append(spent)
        bench.result["calls"]["straightforward_click"] = dict(bench.watch.calls)
        mask = bench.snap(ours, prompt, mask)
        note_difference(bench, "click", logits, theirs.probability - ours.probability)
        bench.overlaps.append(overlap(mask, mask_theirs))
        before = ours
    session.close()
    click = float(np.median(times[1:]))
    bench.result |= {
        "straightforward_first_click_ms": rounded(times[0]),
        "straightforward_click_ms": rounded(click),
        "ratio_next_click": rounded(click / bench.result["next_click_ms"]["p50"]),
    }


def finished(
    bench: Bench, straight: Straightforward, prompt: Prompt, before: Round | None, mask: np.ndarray | None
) -> tuple[Round, np.ndarray]:
    """One whole request the straightforward way, with the same last step as the engine's."""
    answer, _ = straight.click(prompt, before, mask)
    return answer, bench.snap(answer, prompt, mask)


def compare_words(bench: Bench) -> None:
    bench.step("words, the straightforward way")
    bench.result["straightforward_text_ms"] = None
    if "text" not in bench.plan.parts:
        return
    session = bench.engine.open(bench.picture)
    straight = Straightforward(bench.engine, bench.picture[None], bench.watch)
    ours = session.segment(Prompt(text=WORDS))
    logits = bench.watch.last
    spent, theirs = bench.time("straightforward_text", lambda: straight.words(Prompt(text=WORDS)))
    session.close()
    note_difference(bench, "text", logits)
    if ours and theirs:
        bench.overlaps.append(overlap(ours[0].mask, theirs[0].mask))
    bench.result["straightforward_text_ms"] = rounded(spent)


def note_difference(bench: Bench, name: str, ours: LevelPrediction | None, *others: np.ndarray) -> None:
    """Compares the mask logits seen before with the last ones; ``others`` are differences that were taken already."""
    theirs = bench.watch.last
    assert ours is not None and theirs is not None
    apart = [float((ours.mask_logits - theirs.mask_logits).abs().max()), *(float(np.abs(o).max()) for o in others)]
    # NumPy's maximum lets values that are not numbers through, Python's hides them
    bench.differences[name] = float(np.max([bench.differences.get(name, 0.0), *apart]))


# clips


def discs(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """Masks bool (H, W) of ``count`` discs side by side."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    radius = min(size[0] / 3, size[1] / (3 * count))
    return [(rows - size[0] / 2) ** 2 + (cols - size[1] * (n + 0.5) / count) ** 2 <= radius**2 for n in range(count)]


def measure_tracks(bench: Bench) -> None:
    """Frames per second by objects and memory mode, once the memory is full."""
    engine, plan = bench.engine, bench.plan
    bench.step("tracking")
    bench.result |= {"track_fps": dict.fromkeys(map(str, plan.objects)), "track_fps_by_memory": {}, "notes": []}
    bench.result["first_frame_ms"] = None
    if not engine.remembers:
        bench.result["notes"].append("tracking was left out: the model looks at pictures one by one")
        return
    if "track" not in plan.parts:
        return
    expected = track_seconds(engine.model, plan)
    if expected > plan.track_seconds:
        bench.result["notes"].append(
            f"tracking was left out: it would take about {expected / 60:.0f} minutes here; use a GPU or --track-seconds"
        )
        return
    session = engine.open(bench.clip)
    height, width = plan.clip
    bench.result["first_frame_ms"] = rounded(timed(lambda: first_frame(session, Point(width / 2, height / 2)))[0])
    session.close()
    for mode in dict.fromkeys((engine.memory, *plan.modes)):
        speeds = {str(n): rounded(track_speed(bench, n, mode)) for n in plan.objects}
        bench.result["track_fps_by_memory"][mode] = speeds
    bench.result["track_fps"] = bench.result["track_fps_by_memory"][engine.memory]


def first_frame(session: Session, point: Point) -> Any:
    """What a person waits for who clicks into a new clip: the mask of the frame, and the first frame of the track."""
    found = session.segment(Prompt(points=(point,)))
    return next(iter(session.track([found[0].object_id])))


def track_speed(bench: Bench, objects: int, mode: str) -> float:
    session = prompted(bench, objects)
    seconds, counted = steady(bench, session.track([str(n) for n in range(objects)], memory=mode))[:2]
    session.close()
    return counted / seconds


def steady(bench: Bench, frames: Iterable[Any]) -> tuple[float, int, Any]:
    """Seconds and number of the frames that come once the memory is full, and the last frame."""
    fill = min(bench.engine.model.config.memory.slots, len(bench.clip) - 2)
    began, counted, last = 0.0, 0, None
    for number, last in enumerate(frames):  # noqa: B007 - the last one is the answer
        counted += number > fill
        if number == fill:
            began = time.perf_counter()
    return time.perf_counter() - began, counted, last


def prompted(bench: Bench, objects: int) -> Session:
    """A session on the clip whose objects are known by their masks on the first frame."""
    session = bench.engine.open(bench.clip)
    for number, mask in enumerate(discs(bench.plan.clip, objects)):
        session.correct(0, str(number), mask)
    return session


def compare_track(bench: Bench) -> None:
    """Frames per second the straightforward way, the first frame, and the last frame of the clip compared for every
    exact mode.

    With several objects a bank for each, because only there following one by one means the same.
    """
    plan = bench.plan
    bench.step("tracking, the straightforward way")
    if bench.result["first_frame_ms"] is None:
        return
    straight = Straightforward(bench.engine, bench.clip, bench.watch)
    bench.result["straightforward_first_frame_ms"] = rounded(timed(lambda: straight_first_frame(bench, straight))[0])
    seconds = {n: follow_both_ways(bench, straight, n, "per-object") for n in plan.objects}
    bench.result["straightforward_track_fps"] = {str(n): rounded(fps) for n, fps in seconds.items()}
    for mode in dict.fromkeys((bench.engine.memory, *plan.modes)):
        if mode != "per-object" and not MODES[mode].coarse:
            follow_both_ways(bench, straight, 1, mode)


def straight_first_frame(bench: Bench, straight: Straightforward) -> Any:
    height, width = bench.plan.clip
    answer, _ = straight.click(Prompt(points=(Point(width / 2, height / 2),)), None, None)
    mask = at_picture_size(answer.probability, bench.plan.clip)
    return next(straight.track("1", mask if mask.any() else discs(bench.plan.clip, 1)[0], bench.engine.memory))


def follow_both_ways(bench: Bench, straight: Straightforward, objects: int, mode: str) -> float:
    """Frames per second of following so many objects one by one, anew each; what both ways find is compared."""
    session = prompted(bench, objects)
    *_, last = session.track([str(n) for n in range(objects)], memory=mode)
    session.close()
    assert bench.watch.last is not None
    # Objects that remember the same frames are asked for together: the last row is the last object's.
    logits, seconds, counted = bench.watch.last[-1:], 0.0, 0
    for ours, mask in zip(last.masks, discs(bench.plan.clip, objects), strict=True):
        spent, counted, theirs = steady(bench, straight.track(ours.object_id, mask, mode))
        seconds += spent
        bench.overlaps.append(overlap(ours.mask, theirs))
    note_difference(bench, "track" if mode == "per-object" else f"track {mode}", logits)
    return counted / seconds


@torch.inference_mode()
def track_seconds(model: X2SAM, plan: Plan) -> float:
    """Roughly what tracking takes, from one layer of memory attention on the coarsest map.

    The finest map of the large models has 16 times as many tokens, which takes minutes a frame on a CPU: that has to be
    known before the first one is waited for.
    """
    memory, like = model.config.memory, model.no_memory_embedding
    coarsest = (model.config.mask_encoder.image_size // 16) ** 2
    kept = coarsest * memory.slots
    x, bank = like.new_zeros(1, coarsest, memory.width), like.new_zeros(1, kept, memory.width)
    table = rotary_table(math.isqrt(coarsest), math.isqrt(coarsest), memory.width, memory.rope_theta, like.device)

    def layer() -> None:
        model.memory_attention.layers[0](x, bank, bank, table)
        synchronise(like.device)

    layer()
    spent = timed(layer)[0] / 1e3
    cells = [coarsest * 4**level for level in memory.levels]
    work = sum(n * (n + kept) for n in cells) / (coarsest * (coarsest + kept))
    runs = 2 + len(set(plan.modes))
    return spent * work * memory.attention_layers * plan.frames * runs * sum(plan.objects)


# small things


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


def rows_of(result: dict[str, Any]) -> Sequence[tuple[str, float | None, float | None, str]]:
    """(what, ours, straightforward, unit) for the table."""
    rows = [
        ("first click", result["first_click_ms"], result["straightforward_first_click_ms"], "ms"),
        ("first click, prepared", result["first_click_prepared_ms"], None, "ms"),
        ("next click, p50", result["next_click_ms"]["p50"], result["straightforward_click_ms"], "ms"),
        ("next click, p95", result["next_click_ms"]["p95"], None, "ms"),
        ("words", result["text_ms"], result["straightforward_text_ms"], "ms"),
        ("first frame of a clip", result["first_frame_ms"], result.get("straightforward_first_frame_ms"), "ms"),
    ]
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
