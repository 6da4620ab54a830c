"""Fits the weights of the snap step on pictures with outlines: ``python -m x2sam.inference.refine_fit --data DIR``.

The click protocol is played on a network (``--model``) or on simulated ones of several qualities
(:mod:`x2sam.inference.refine_simulation`), the snap step answering with the weights so far, and the weights are
fitted to what it met: a soft IoU per answer plus cross-entropy, by gradient descent. Twice, because better answers
lead to other clicks.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from x2sam.data.clicks import next_click
from x2sam.data.masks import mask_bbox
from x2sam.data.readers.labelmaps import DAILY_LIFE, LabelMapDataset, held_out
from x2sam.data.tasks import task_of
from x2sam.evaluation.dataset import object_mask
from x2sam.inference.close_look import Window
from x2sam.inference.refine import prepare, snap
from x2sam.inference.refine_simulation import GOOD, MEDIUM, WEAK, SimulatedNetwork
from x2sam.inference.refine_terms import Box, Scene, fine_terms, rough_terms
from x2sam.inference.refine_weights import FILES, REGIMES, STAGES, SnapWeights
from x2sam.structures import Point, Prompt

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine
    from x2sam.inference.object_rounds import Round

KINDS = {
    "weak": (None, WEAK, None, MEDIUM, WEAK, None, WEAK, MEDIUM, WEAK, GOOD),
    "strong": (GOOD, GOOD, MEDIUM, GOOD, GOOD),
}
CELLS_PER_ANSWER = 500
PER_SOURCE = 14
EVERYDAY = 60
CROSS_ENTROPY, DECAY = 0.3, 3e-4


@dataclass(frozen=True, eq=False)
class Met:
    """A request that came up, and the truth on its grid.

    truth:  float32 (h, w), 0..1; valid: float32 (h, w), 0 where it is to be ignored
    share:  what one cell is of the object's area; outside: what lies outside the grid, in object areas
    """

    scene: Scene
    truth: np.ndarray
    valid: np.ndarray
    share: float
    outside: float


def objects_of(
    data: Path, rng: np.random.Generator, hold_out: int = 0, amount: float = 1.0, leave_out: Collection[str] = (),
    held: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Picture, truth, ignore of objects worth a click, few of a picture.

    Everyday sources give :data:`EVERYDAY`, others :data:`PER_SOURCE`, and as many regions where they have some.
    ``hold_out`` and ``leave_out`` leave out what training with the same settings leaves out, or with ``held`` take what
    is held out only; ``amount`` multiplies these numbers.
    """
    dataset = LabelMapDataset(data)
    by_source: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(dataset.records):
        if held_out(record, hold_out) == held and record.source not in leave_out:
            by_source[record.source].append(index)
    for source, indices in sorted(by_source.items()):
        most = EVERYDAY if source in DAILY_LIFE else PER_SOURCE
        left = {True: round(most * amount), False: round(PER_SOURCE * amount)}
        for index in rng.permutation(indices):
            if not any(left[o.thing] > 0 for o in dataset.records[index].objects):
                continue
            picture, labels = dataset.read(int(index))
            least = 1024 * (max(labels.shape) / 640) ** 2
            areas = np.bincount(labels.ravel(), minlength=256)
            large = [o for o in dataset.records[index].objects if areas[o.id] >= least and left[o.thing] > 0]
            for k in rng.permutation(len(large))[:3]:
                left[large[k].thing] -= 1
                yield picture, *object_mask(labels, [large[k].id])


class Network(Protocol):
    """Anything that answers all clicks so far, after a box or not, with float (h, w) in 0..1; ``mask`` is the last.
    ``window``: the part of the picture that the last answer is about, None for all of it."""

    @property
    def window(self) -> Window | None: ...

    def __call__(self, points: Sequence[Point], boxes: Sequence[Box], mask: np.ndarray | None) -> np.ndarray: ...


class EngineNetwork:
    """A real network: what an engine answers before the snap step. One object of one picture, click after click; those
    with the same ``key`` share the picture's features."""

    def __init__(self, engine: Engine, image: np.ndarray, key: Hashable | None = None):
        self.engine, self.session = engine, engine.open(image, key)
        self.last: Round | None = None

    @property
    def window(self) -> Window | None:
        return None if self.last is None else self.last.window

    def __call__(self, points: Sequence[Point], boxes: Sequence[Box], mask: np.ndarray | None) -> np.ndarray:
        prompt = Prompt(points=tuple(points), boxes=tuple(boxes))
        task = task_of(prompt, self.session.modality)
        answer = self.session.rounds.answer
        self.last = self.engine.run(lambda: answer(prompt, self.last, mask, 0, task))
        return self.last.probability


def play(
    picture: np.ndarray,
    truth: np.ndarray,
    ignore: np.ndarray,
    network: Network,
    answer: Callable[..., np.ndarray],
    boxed: bool,
    rng: np.random.Generator,
    clicks: int = 5,
) -> Iterator[Met]:
    """The requests of one object, clicks in the middle of the largest error; first its box when ``boxed``."""
    points: list[Point] = []
    boxes = [tuple(float(v) for v in mask_bbox(truth))] if boxed else []
    mask: np.ndarray | None = None
    for turn in range(clicks):
        if turn or not boxed:
            click = next_click(truth, mask, ignore)
            if click is None:
                return
            points.append(click)
        probability = network(points, boxes, mask)
        before = None if rng.random() < 0.1 else mask
        yield _met(prepare(picture, probability, points, boxes, before, network.window), truth, ignore)
        mask = answer(picture, probability, points, boxes, mask, window=network.window)


def _met(scene: Scene, truth: np.ndarray, ignore: np.ndarray) -> Met:
    grid = scene.grid
    here, size = np.s_[grid.y0 : grid.y1, grid.x0 : grid.x1], (grid.width, grid.height)
    inside = cv2.resize((truth & ~ignore)[here].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    valid = cv2.resize((~ignore)[here].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    share = (grid.y1 - grid.y0) * (grid.x1 - grid.x0) / (grid.height * grid.width) / float(truth.sum())
    return Met(scene, inside, (valid > 0.5).astype(np.float32), share, max(0.0, 1 - share * float(inside.sum())))


class Samples:
    """Cells drawn from answers: terms (cells, gates x terms), truth and weight (cells), what lies outside the grid."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.rows: list[tuple[np.ndarray, ...]] = []

    def add(self, met: Met, terms: np.ndarray) -> None:
        scene = met.scene
        cells = self.rng.integers(0, met.truth.size, CELLS_PER_ANSWER)
        drawn = terms.reshape(-1, terms.shape[-1])[cells]
        unsure = scene.indecision.ravel()[cells, None]
        gated = np.concatenate([drawn, drawn * unsure, drawn * scene.sharpness], 1).astype(np.float32)
        weight = met.valid.ravel()[cells] * (met.share * met.truth.size / CELLS_PER_ANSWER)
        self.rows.append((gated, met.truth.ravel()[cells], weight.astype(np.float32), np.float32(met.outside)))

    def fit(self, steps: int) -> np.ndarray:
        """float32 (gates, terms) that give the best soft IoU."""
        x, y, v, out = (torch.from_numpy(np.stack(column)) for column in zip(*self.rows, strict=True))
        spread = x.reshape(-1, x.shape[-1]).std(0) + 0.01
        theta = torch.zeros(x.shape[-1], requires_grad=True)
        optimizer = torch.optim.Adam([theta], 0.03)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.08, total_steps=steps)
        draw = torch.Generator().manual_seed(0)
        for _ in range(steps):
            j = torch.randint(len(x), (48,), generator=draw)
            z, yj, vj = (x[j] / spread) @ theta, y[j], v[j]
            p = z.sigmoid()
            soft = (p * yj * vj).sum(1) / (((p + yj - p * yj) * vj).sum(1) + out[j])
            entropy = (F.binary_cross_entropy_with_logits(z, yj, reduction="none") * vj).sum(1) / (vj.sum(1) + 1)
            loss = (1 - soft).mean() + CROSS_ENTROPY * entropy.mean() + DECAY * (theta**2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return (theta / spread).detach().numpy().reshape(3, -1)


def fit(met: Sequence[Met], steps: int, rng: np.random.Generator) -> SnapWeights:
    """Weights of both stages for the requests that were met."""
    rough = {regime: Samples(rng) for regime in REGIMES}
    terms = [rough_terms(m.scene) for m in met]
    for m, t in zip(met, terms, strict=True):
        rough[m.scene.regime].add(m, t)
    table = {"rough": {regime: samples.fit(steps) for regime, samples in rough.items()}}
    half = SnapWeights({**table, "fine": {}})
    fine = {regime: Samples(rng) for regime in REGIMES}
    for m, t in zip(met, terms, strict=True):
        scene = m.scene
        first = half.score("rough", scene.regime, t, scene.indecision, scene.sharpness)
        fine[scene.regime].add(m, fine_terms(scene, first))
    table["fine"] = {regime: samples.fit(steps) for regime, samples in fine.items()}
    return SnapWeights(table)


def plain_weights() -> SnapWeights:
    """The network alone: where fitting starts."""
    table: dict[str, dict[str, np.ndarray]] = {}
    for (stage, names), term in zip(STAGES.items(), ("net", "rough"), strict=True):
        one = np.zeros((3, len(names)), np.float32)
        one[0, names.index(term)] = 1
        table[stage] = {regime: one for regime in REGIMES}
    return SnapWeights(table)


def gather(
    options: argparse.Namespace, turn: int, weights: SnapWeights, rng: np.random.Generator, held: bool = False
) -> list[Met]:  # fmt: skip
    """One round over the pictures, or with ``held`` over those held out, answered with ``weights``."""

    answer = partial(snap, weights=weights)
    engine = None
    if options.model:
        from x2sam.inference.engine import Engine

        engine = Engine.load(options.model)
    kinds = KINDS[options.networks]
    met: list[Met] = []
    left_out = options.hold_out, options.held_amount if held else options.amount, options.leave_out
    for k, (picture, truth, ignore) in enumerate(objects_of(options.data, rng, *left_out, held)):
        simulated = SimulatedNetwork(picture, truth, kinds[(k + turn) % len(kinds)], rng)
        network: Network = simulated
        if engine is not None and rng.random() >= options.simulated:
            network = EngineNetwork(engine, picture)
        boxed = k % options.boxed == options.boxed - 1
        met.extend(play(picture, truth, ignore, network, answer, boxed, rng, options.clicks))
        if network is not simulated:
            network.session.close()
    if engine is not None:
        engine.close()
    return met


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--networks", choices=list(KINDS), default="weak", help="which networks the weights are for")
    parser.add_argument("--model", help="play on this model too: nano, or a directory")
    parser.add_argument("--simulated", type=float, default=0.3, help="share of simulated networks beside --model")
    parser.add_argument("--boxed", type=int, default=4, help="every n-th object is given by its box first")
    parser.add_argument("--clicks", type=int, default=5, help="answers per object")
    parser.add_argument("--amount", type=float, default=1.0, help="how many objects, as a factor")
    parser.add_argument("--out", type=Path, help="by default the weights of the package")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold-out", type=int, default=0, help="leave out one picture in so many, as training does")
    parser.add_argument("--leave-out", nargs="*", default=[], help="sources that are left out, as training does")
    options = parser.parse_args(arguments)
    target = options.out or FILES[options.networks]
    rng = np.random.default_rng(options.seed)
    weights = plain_weights()
    for turn in range(options.rounds):
        met = gather(options, turn, weights, rng)
        weights = fit(met, options.steps, rng)
        weights.save(target)
        print(f"round {turn + 1} of {options.rounds}: {len(met)} answers, weights in {target}")


if __name__ == "__main__":
    main()
