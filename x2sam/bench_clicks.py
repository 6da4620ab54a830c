"""Clicks and words about a picture: how long they take, and the same the straightforward way."""

from __future__ import annotations

import math

import numpy as np

from x2sam.bench_exact import overlap, rounded
from x2sam.bench_models import WORDS
from x2sam.bench_plan import Bench, note_difference
from x2sam.data.tasks import find_task
from x2sam.inference.object_rounds import Round
from x2sam.inference.session import Session
from x2sam.straightforward import Straightforward
from x2sam.structures import Point, Prompt

CLICKS_PER_OBJECT = 5


def clicks_of(size: tuple[int, int], objects: int) -> list[list[Prompt]]:
    """For each object the prompts of a person who clicks ``CLICKS_PER_OBJECT`` times, right and wrong spots in turn."""
    rng = np.random.default_rng(5)
    series = []
    for _ in range(objects):
        places = rng.uniform(0.1, 0.9, (CLICKS_PER_OBJECT, 2)) * (size[1], size[0])
        points = tuple(Point(float(x), float(y), i % 2 == 0) for i, (x, y) in enumerate(places))
        series.append([Prompt(points=points[: n + 1]) for n in range(CLICKS_PER_OBJECT)])
    return series


def measure_clicks(bench: Bench) -> None:
    """First clicks on new pictures, next clicks on a known one, words about a known one."""
    engine, plan = bench.engine, bench.plan
    bench.step("first clicks")
    *series, other = clicks_of(plan.picture, math.ceil(plan.repeats / (CLICKS_PER_OBJECT - 1)) + 1)
    session = engine.open(bench.picture)
    # not timed: what is only done once in a process is done here; of clicks that are timed a session would know answers
    session.segment(other[1])
    bench.result |= dict.fromkeys(("first_click_ms", "first_click_prepared_ms", "box_ms", "text_ms"))
    if "first" in plan.parts:
        measure_first_clicks(bench, series[0][0])
        measure_boxes(bench, session)
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


def measure_boxes(bench: Bench, session: Session) -> None:
    """Boxes on a known picture, each around something else: a fifth of its sides, so looked at closely where the model
    does that."""
    height, width = bench.plan.picture
    corners = np.random.default_rng(6).uniform(0.1, 0.7, (min(5, bench.plan.repeats), 2)) * (width, height)
    boxes = [(float(x), float(y), float(x + width / 5), float(y + height / 5)) for x, y in corners]
    times = [bench.time("box", lambda b=box: session.segment(Prompt(boxes=(b,))))[0] for box in boxes]
    bench.result["box_ms"] = rounded(np.median(times))


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
