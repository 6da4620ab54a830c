"""Objects followed through a clip: frames per second by memory mode, and the same the straightforward way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from x2sam.bench_exact import overlap, rounded
from x2sam.bench_plan import Bench, Plan, note_difference, synchronise, timed
from x2sam.inference.session import Session
from x2sam.inference.walk import MODES, at_picture_size
from x2sam.model.memory_attention import rotary_table
from x2sam.model.x2sam import X2SAM
from x2sam.straightforward import Straightforward, watched_apart
from x2sam.structures import Point, Prompt


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
    names, session = [str(n) for n in range(objects)], prompted(bench, objects)
    # Objects are asked for in groups: those out of sight have no sketch and go by themselves. So no place in a batch
    # tells whose row it is, but its condition does.
    conditions = [known.condition for known in session.objects(names)]
    with watched_apart(bench.engine.model, conditions) as ours:
        *_, last = session.track(names, memory=mode)
    session.close()
    seconds, counted = 0.0, 0
    for mask, logits, disc in zip(last.masks, ours, discs(bench.plan.clip, objects), strict=True):
        spent, counted, theirs = steady(bench, straight.track(mask.object_id, disc, mode))
        seconds += spent
        bench.overlaps.append(overlap(mask.mask, theirs))
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
