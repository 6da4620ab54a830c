"""Prompts that wait for one picture: in one pass of the network, beside the same ones one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from x2sam.bench_clicks import clicks_of
from x2sam.bench_exact import overlap, rounded
from x2sam.bench_models import WORDS
from x2sam.bench_plan import Bench, noted
from x2sam.data.tasks import find_task
from x2sam.inference.object_rounds import Ask
from x2sam.inference.session import Session
from x2sam.inference.worded import predict_on, read_words
from x2sam.structures import Prompt


def measure_together(bench: Bench) -> None:
    """Next clicks on several objects, and phrases, by how many of them wait."""
    bench.result["together"] = {}
    if "together" not in bench.plan.parts:
        return
    bench.step("prompts that wait together")
    session = bench.engine.open(bench.picture)
    clicks, phrases = _clicks(session), _phrases(session)
    asks, most = _second_clicks(bench, session), max(bench.plan.waiting)
    words = WORDS.split()
    prompts = [Prompt(text=" ".join(words[: 2 + n % (len(words) - 1)])) for n in range(most)]
    bench.result["together"] = {"next_click": _both(bench, clicks, asks), "words": _both(bench, phrases, prompts)}
    session.close()


Work = Callable[[Sequence[Any]], list[np.ndarray]]
"""Items that go through the network at once, and a mask bool (h, w) of each."""


def _clicks(session: Session) -> Work:
    task = find_task("intseg", "image")
    return lambda asks: [found.probability > 0.5 for found in session.rounds.answer_all(asks, 0, task)]


def _phrases(session: Session) -> Work:
    task, looking, engine = find_task("refseg", "image"), session.looking, session.engine

    def work(prompts: Sequence[Prompt]) -> list[np.ndarray]:
        worded = read_words(looking, prompts, 0, task, engine.seed, engine.generate_limit)
        predictions = predict_on(looking, worded, 0)
        return [(one.mask_logits[one.scores()[:, 0].argmax()] > 0).cpu().numpy() for one in predictions]

    return work


def _second_clicks(bench: Bench, session: Session) -> list[Ask]:
    """The next round of as many objects as wait at most."""
    task, asks = find_task("intseg", "image"), []
    for first, second, *_ in clicks_of(bench.plan.picture, max(bench.plan.waiting)):
        before = bench.engine.run(lambda p=first: session.rounds.answer(p, None, None, 0, task))
        asks.append(Ask(second, before, bench.snap(before, first, None)))
    return asks


def _both(bench: Bench, work: Work, items: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Milliseconds of the device by how many wait, both ways in turn, and how many times as quick they are together, in
    seconds and in those of the processor; the masks of both are compared."""
    told = {}
    for count in bench.plan.waiting:
        some, spent = items[:count], {"one_by_one": [], "together": []}
        for _ in range(min(3, bench.plan.repeats)):
            alone = noted(spent["one_by_one"], lambda s=some: bench.engine.run(lambda: [work([one])[0] for one in s]))
            together = noted(spent["together"], lambda s=some: bench.engine.run(lambda: work(s)))
        bench.overlaps += [overlap(one, other) for one, other in zip(alone, together, strict=True)]
        (plain, plain_cpu), (ours, ours_cpu) = (np.median(times, axis=0).tolist() for times in spent.values())
        rows = {"together_ms": ours, "one_by_one_ms": plain, "ratio": plain / ours, "ratio_cpu": plain_cpu / ours_cpu}
        told[str(count)] = {name: rounded(value) for name, value in rows.items()}
    return told
