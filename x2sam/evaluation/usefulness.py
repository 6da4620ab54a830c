"""Whether the order in which pictures are shown to annotators finds more error than any order would.

Every picture is a task. ``words``: its answer is the mask for one kind of thing that its truth outlines, another one
for each seed; its error is 1 - IoU with the truth, the best of any object of that kind and all of them together.
``labels``: its answer is what is found for the names of all kinds in it; its error is the mean over their objects of
1 - IoU with the best mask of that name, 1 where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from x2sam.data.readers.labelmaps import LabelMapDataset, PictureRecord, plain_name
from x2sam.errors import PromptError
from x2sam.evaluation.dataset import Progress, object_mask, silent
from x2sam.evaluation.metrics.iou import iou
from x2sam.inference.useful import useful_scores
from x2sam.structures import Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.survey import Survey

ASKS = ("words", "labels")
SHARES = (0.1, 0.2, 0.4)
_ORDER = 5  # seed of the order in which the kinds of each picture are drawn


@dataclass(frozen=True, eq=False)
class Looked:
    """A picture that was asked about: what is said of the answer, what is true of it, the least of its scores, the
    error of each mask, and which of the names have none."""

    survey: Survey
    error: float
    score: float
    mask_errors: tuple[float, ...]
    without: tuple[int, ...] = ()


def kinds_of(record: PictureRecord) -> dict[str, tuple[list[int], bool]]:
    """Ids of the objects of each kind of thing that counts, by name, and whether it is counted one by one."""
    kinds: dict[str, tuple[list[int], bool]] = {}
    for one in record.objects:
        if one.evaluate:
            kinds.setdefault(plain_name(one.category), ([], one.thing))[0].append(one.id)
    return kinds


def prompt_of(kinds: dict[str, tuple[list[int], bool]], names: Sequence[str], ask: str) -> Prompt:
    """The question for names; those that ``kinds`` does not have are taken for things."""
    if ask == "words":
        return Prompt(text=names[0], task="refseg")
    listed = tuple(name if kinds.get(name, ([], True))[1] else f"sem: {name}" for name in names)
    return Prompt(categories=listed, task="genseg")


def look(engine, dataset: LabelMapDataset, index: int, names: Sequence[str], ask: str) -> Looked:
    """The answer to a question about a picture, and how wrong it is."""
    picture, labels = dataset.read(index)
    kinds = kinds_of(dataset.records[index])
    prompt = prompt_of(kinds, names, ask)
    session = engine.open(picture)
    try:
        masks = session.segment(prompt, priority=3)
        seen = session.survey(prompt)
    finally:
        session.close()
    without = tuple(sorted(set(range(len(names))) - {mask.category for mask in masks}))
    return Looked(seen, *errors_of(masks, labels, kinds, names, ask), without)


def errors_of(
    masks: Sequence[Mask], labels: np.ndarray, kinds: dict[str, tuple[list[int], bool]], names: Sequence[str], ask: str
) -> tuple[float, float, tuple[float, ...]]:
    """The error of an answer, its least score, and the error of each mask, in order."""
    least = min((m.score for m in masks), default=0.0)
    truths = {name: [object_mask(labels, [k]) for k in kinds.get(name, ([], True))[0]] for name in names}
    table = {
        name: np.array([[iou(m.mask, *truth) if names[m.category] == name else 0.0 for m in masks] for truth in found])
        for name, found in truths.items() if found
    }  # fmt: skip
    if ask == "words":
        whole = object_mask(labels, kinds[names[0]][0])
        best = max((max(iou(m.mask, *whole), table[names[0]][:, k].max()) for k, m in enumerate(masks)), default=0.0)
        return 1 - best, least, tuple(1 - best for _ in masks)
    objects = np.concatenate([rows.max(1, initial=0.0) for rows in table.values()]) if table else np.zeros(0)
    each = tuple(1 - float(table[names[m.category]][:, k].max()) if names[m.category] in table else 1.0
                 for k, m in enumerate(masks))  # fmt: skip
    return float(1 - objects.mean()) if len(objects) else float(bool(masks)), least, each


def evaluate_usefulness(
    engine, data: str | Path, ask: str = "words", seeds: Sequence[int] = (0, 1, 2), limit: int | None = None,
    progress: Progress = silent,
) -> dict:  # fmt: skip
    """For each share of the pictures how much more error than at random is found in the first ones: by the score that
    pre-annotation gives, by the expected error alone, by the least score of the masks, and at best; mean and standard
    deviation over the seeds. Each takes the next kind of every picture, in an order that is drawn once; for ``labels``
    they are alike."""
    if ask not in ASKS:
        raise PromptError(f"ask {ask!r} is unknown; use one of {', '.join(ASKS)}")
    dataset = LabelMapDataset(data)
    rng, runs, known = np.random.default_rng(_ORDER), [], {}
    kinds = [sorted(kinds_of(record)) for record in dataset.records[:limit]]
    drawn = {index: rng.permutation(names).tolist() for index, names in enumerate(kinds) if names}
    for seed in seeds:
        questions = [
            (index, tuple(kinds[index]) if ask == "labels" else (names[seed % len(names)],))
            for index, names in drawn.items()
        ]
        for index, names in progress(questions, f"pictures, seed {seed}"):
            if (index, names) not in known:
                known[index, names] = look(engine, dataset, index, names, ask)
        noted = [known[question] for question in questions]
        runs.append(ratios(noted))
    return {
        "model": engine.version, "ask": ask, "seeds": list(seeds), "pictures": len(noted),
        "mean_error": _spread([run["mean_error"] for run in runs]),
        "ratio": {
            order: {f"{share:g}": _spread([run[order][share] for run in runs]) for share in SHARES}
            for order in ("useful", "uncertain", "score", "best possible")
        },
    }  # fmt: skip


def ratios(noted: Sequence[Looked]) -> dict:
    """Mean error of the first pictures against that of all, by order and share."""
    errors = np.array([one.error for one in noted])
    expected = np.array([one.survey.error for one in noted])
    orders = {
        "useful": useful_scores(expected, np.stack([one.survey.vector for one in noted])),
        "uncertain": 1 - expected,
        "score": np.array([one.score for one in noted]),
        "best possible": 1 - errors,
    }
    return {"mean_error": float(errors.mean())} | {
        name: {share: found_first(scores, errors, share) for share in SHARES} for name, scores in orders.items()
    }


def found_first(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """Mean error of the ``share`` with the lowest scores, against the mean of all; of equal scores, as many count as
    would on average in any order."""
    count = max(1, round(share * len(errors)))
    edge = np.sort(scores)[count - 1]
    below, level = scores < edge, scores == edge
    found = errors[below].sum() + errors[level].mean() * (count - below.sum())
    return float(found / count / errors.mean()) if errors.any() else 1.0


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
