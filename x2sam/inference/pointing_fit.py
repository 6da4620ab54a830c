"""Fits which query a phrase means: ``python -m x2sam.inference.pointing_fit --data DIR``.

Pictures of ``DIR`` (with ``train.json``) that the network was not trained on, and generated ones, are asked for by
phrases of which the truth is known. The weights are those under which a query drawn with the softmax of their sums has
the largest IoU on average, and is drawn as often as it is among the best; a phrase counts with the root of its object's
area, as people talk about what is large. Half of the pictures say what the weights of the other half are worth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from scipy.optimize import minimize

from x2sam.data.masks import IGNORE
from x2sam.data.readers.labelmaps import DAILY_LIFE, LabelMapDataset, held_out
from x2sam.data.scenes import generate_picture
from x2sam.data.tasks import task_of
from x2sam.inference.pointing import FILE, SIGNS, meant
from x2sam.inference.worded import pointing_signs, predict_on, read_words
from x2sam.structures import Prompt, Sample

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

HOLD_OUT = 8  # about one picture in so many, as it was when the network was trained
SCENES = 150
RIDGE = 0.03
RANKED = 0.1  # how much being drawn as often as it is good counts, beside the IoU on average
_GREED = 8.0  # log-odds of being among the best, by IoU
_MOST = 6  # phrases about a picture
_SCENES_SIZE = (320, 320)


@dataclass(frozen=True, eq=False)
class Pointed:
    """A phrase that was asked: ``signs`` (Q, SIGNS) and ``iou`` (Q,) of the queries, the object's share of the picture,
    and what the phrase is about."""

    signs: np.ndarray
    iou: np.ndarray
    area: float
    picture: str
    group: str


def samples(data: Path, scenes: int, seed: int) -> Iterator[tuple[str, str, Sample]]:
    """Group, name and sample: photographs held back, everyday ones and others, and generated pictures."""
    dataset = LabelMapDataset(data)
    for index, record in enumerate(dataset.records):
        if held_out(record, HOLD_OUT):
            yield "everyday" if record.source in DAILY_LIFE else "others", record.image, dataset[index]
    for number in range(scenes):
        yield "scenes", f"scene {number}", generate_picture(np.random.default_rng((seed, number)), _SCENES_SIZE)


def gather(engine: Engine, data: Path, scenes: int, seed: int = 17) -> Iterator[Pointed]:
    """Asks for the objects of each sample, each by one of its phrases."""
    rng = np.random.default_rng(seed)
    for group, name, sample in samples(data, scenes, seed):
        named = [one for one in sample.objects if one.phrases]
        session = engine.open(sample.frames[0], key=None)
        try:
            for place in rng.permutation(len(named))[:_MOST]:
                phrase = str(rng.choice(named[place].phrases))
                prompt = Prompt(text=phrase, task="refseg")
                truth = sample.labels[0] == named[place].id
                yield engine.run(lambda s=session, p=prompt, t=truth, x=sample, g=group, n=name: _asked(
                    s, p, t, x.labels[0] != IGNORE, n, g))  # fmt: skip
        finally:
            session.close()


def _asked(session, prompt: Prompt, truth: np.ndarray, known: np.ndarray, picture: str, group: str) -> Pointed:
    looking = session.looking
    (worded,) = read_words(looking, [prompt], 0, task_of(prompt, "image"), 0, 0)
    (prediction,) = predict_on(looking, [worded], 0)
    signs = pointing_signs(looking, worded, 0, prediction)
    masks = (prediction.at_own_size(torch.arange(prediction.queries)) > 0).cpu().numpy()
    small = lambda mask: cv2.resize(mask.astype(np.float32), masks.shape[:0:-1], interpolation=cv2.INTER_AREA)  # noqa: E731
    share, valid = small(truth), small(known) > 0.5
    target = (share > 0.5 if (share > 0.5).any() else share > 0) & valid
    both = (masks & target).sum((1, 2))
    iou = both / np.maximum(((masks & valid) | target).sum((1, 2)), 1)
    return Pointed(signs, iou, float(truth.mean()), picture, group)


def fit(asked: Sequence[Pointed], ridge: float = RIDGE) -> np.ndarray:
    """float64 (SIGNS,). Two thirds of the weight are with photographs; empty masks are never drawn."""
    most = max(len(one.iou) for one in asked)
    signs, iou = (np.stack([_filled(getattr(one, name), most) for one in asked]) for name in ("signs", "iou"))
    drawn = signs[..., SIGNS.index("inside")] != 0
    drawn |= ~drawn.any(1, keepdims=True)
    spread = signs[drawn].std(0) + 1e-6
    signs = signs / spread
    generated, root = (np.array([value(one) for one in asked]) for value in (_is_generated, _root_of_area))
    share = root / np.where(generated, 2 * root[generated].sum(), root[~generated].sum())
    share = (share / share.sum())[:, None]
    best = _softmax(_GREED * iou, drawn)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = _softmax(signs @ weights, drawn)
        mean = (odds * iou).sum(1, keepdims=True)
        ranked = (best * np.log(np.maximum(odds, 1e-12))).sum(1, keepdims=True)
        value = ridge * (weights**2).mean() - (share * (mean + RANKED * ranked)).sum()
        slope = share * (odds * (iou - mean) + RANKED * (best - odds))
        return float(value), 2 * ridge * weights / len(weights) - (slope[..., None] * signs).sum((0, 1))

    start = np.eye(len(SIGNS))[SIGNS.index("score")]
    return minimize(loss, start, jac=True, method="L-BFGS-B").x / spread


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """With rows of zeros, which are empty masks, up to so many: a phrase that is only a name has half the queries."""
    return np.pad(values, [(0, count - len(values)), *[(0, 0)] * (values.ndim - 1)])


def _softmax(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Along the last axis, over what is ``drawn``; 0 elsewhere."""
    values = np.where(drawn, values, -np.inf)
    odds = np.exp(values - values.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def _is_generated(one: Pointed) -> bool:
    return one.group == "scenes"


def _root_of_area(one: Pointed) -> float:
    return one.area**0.5


def measured(asked: Sequence[Pointed]) -> dict[str, tuple[int, float, float, float]]:
    """By group: phrases, and the mean IoU of the query with the best class score, of the one chosen by weights that
    were fitted to the other half of the pictures, and of the best one; each phrase counts once."""
    names = sorted({one.picture for one in asked})
    half = {name: k % 2 for k, name in enumerate(np.random.default_rng(0).permutation(names).tolist())}
    weights = [fit([one for one in asked if half[one.picture] != k]) for k in (0, 1)]
    score = SIGNS.index("score")
    table = {}
    for group in dict.fromkeys(one.group for one in asked):
        own = [one for one in asked if one.group == group]
        chosen = [(one.signs[:, score].argmax(), meant(one.signs, weights[half[one.picture]])) for one in own]
        values = [(*one.iou[list(two)], one.iou.max()) for one, two in zip(own, chosen, strict=True)]
        table[group] = len(own), *map(float, np.mean(values, 0))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--model", default="nano", help="nano, or a directory")
    parser.add_argument("--out", type=Path, default=FILE, help="by default the weights of the package")
    parser.add_argument("--scenes", type=int, default=SCENES, help="generated pictures")
    options = parser.parse_args(arguments)
    from x2sam.inference.engine import Engine

    with Engine.load(options.model) as engine:
        asked = list(gather(engine, options.data, options.scenes))
    for group, (count, before, after, best) in measured(asked).items():
        print(f"{group}: {count} phrases, by class score {before:.3f}, by weights {after:.3f}, at best {best:.3f}")
    weights = fit(asked)
    table = dict(zip(SIGNS, weights.tolist(), strict=True))
    options.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value:.2f}" for name, value in zip(SIGNS, weights, strict=True)))


if __name__ == "__main__":
    main()
