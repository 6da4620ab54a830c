"""Fits what tells how wrong an answer in words probably is: ``python -m x2sam.inference.survey_fit --data DIR``.

Pictures of ``DIR`` (with ``train.json``) are asked for kinds of things that their truth outlines, one by one in words
and all of them as a list of names, and for that list with as many names that the truth does not have. The signs of each
mask are noted with its error, those of each name without a mask with whether it is there, and a logistic model is
fitted to each. Errors are numbers from 0 to 1, so it is a regression with cross-entropy as its loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from x2sam.data.readers.labelmaps import LabelMapDataset, plain_name
from x2sam.evaluation.usefulness import Looked, kinds_of, look
from x2sam.inference.survey import FILE, FOUND, MISSED, SurveyWeights

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

RIDGE = 5.0
PICTURES = 121
NAMES = 12  # of a list, at most
WORDED = 2  # kinds of a picture that are asked in words
_DRAWN = 420  # pictures that are drawn, of which the first ones are taken: more pictures keep those before


@dataclass(frozen=True, eq=False)
class Noted:
    """What was seen of a picture: answers in words, the answer to a list, and to one whose first ``there`` names are in
    the picture and the others are not."""

    words: tuple[Looked, ...]
    listed: Looked
    mixed: Looked
    there: int


def gather(engine: Engine, dataset: LabelMapDataset, pictures: int, seed: int = 5) -> Iterator[Noted]:
    """Asks about pictures, each source drawn by the root of its size."""
    rng = np.random.default_rng(seed)
    known = sorted({plain_name(one.category) for record in dataset.records for one in record.objects})
    drawn = rng.choice(len(dataset), min(_DRAWN, len(dataset)), replace=False, p=dataset.weights())
    for index in map(int, drawn[:pictures]):
        names = sorted(kinds_of(dataset.records[index]))
        if not names:
            continue
        worded = [look(engine, dataset, index, [str(name)], "words") for name in rng.permutation(names)[:WORDED]]
        own = names[:NAMES]
        listed = look(engine, dataset, index, own, "labels")
        absent = [str(name) for name in rng.permutation(known)[: len(own)] if name not in names]
        yield Noted(tuple(worded), listed, look(engine, dataset, index, own + absent, "labels"), len(own))


def fit(noted: Sequence[Noted]) -> SurveyWeights:
    """Weights for what was noted."""
    signs = [(row, error) for one in noted for seen in (*one.words, one.listed)
             for row, error in zip(seen.survey.found, seen.mask_errors, strict=True)]  # fmt: skip
    lacking = [(row, float(place < one.there)) for one in noted
               for row, place in zip(one.mixed.survey.missed, one.mixed.without, strict=True)]  # fmt: skip
    return SurveyWeights(logistic(signs, len(FOUND)), logistic(lacking, len(MISSED)))


def logistic(rows: Sequence[tuple[np.ndarray, float]], signs: int) -> np.ndarray:
    """float64 (signs,): weights for rows of signs and what should come of them, 0..1. Ridge on standardised signs; the
    last one, a constant, goes free."""
    if not rows:
        return np.zeros(signs)
    x, y = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    spread = x.std(0) + 1e-3
    spread[-1], held = 1.0, np.ones(signs)
    held[-1] = 0.0
    x = x / spread

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ w
        wrong = 1 / (1 + np.exp(-np.clip(odds, -30, 30))) - y
        value = (np.logaddexp(0, odds) - odds * y).sum() + RIDGE * (held * w**2).sum()
        return float(value), x.T @ wrong + 2 * RIDGE * held * w

    return minimize(loss, np.zeros(signs), jac=True, method="L-BFGS-B").x / spread


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--model", default="nano", help="nano, or a directory")
    parser.add_argument("--out", type=Path, default=FILE, help="by default the weights of the package")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    options = parser.parse_args(arguments)
    from x2sam.inference.engine import Engine

    with Engine.load(options.model) as engine:
        weights = fit(list(gather(engine, LabelMapDataset(options.data), options.pictures)))
    weights.save(options.out)
    for names, values in ((FOUND, weights.found), (MISSED, weights.missed)):
        print(", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True)))


if __name__ == "__main__":
    main()
