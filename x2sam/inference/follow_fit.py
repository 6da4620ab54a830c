"""Fits the weights of following objects on generated clips: ``python -m x2sam.inference.follow_fit --data DIR``.

Objects are followed through clips made of real pictures (:mod:`x2sam.data.long_clips`) with the weights so far, and the
weights are fitted to what was met on the way: a soft IoU per frame plus cross-entropy, by gradient descent. Several
times, because better weights lead to other situations. ``--measure`` follows without fitting and prints the scores;
``--hidden`` only fits what is believed of objects that are out of sight, on clips in which a board hides them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from x2sam.data.long_clips import LongClips
from x2sam.data.masks import label_areas
from x2sam.data.noisy_masks import noisy_mask
from x2sam.data.occluders import occlude
from x2sam.evaluation.metrics.boundary import ObjectScores, mean_jf
from x2sam.inference.follow import Follower, Scenery
from x2sam.inference.follow_terms import Evidence, doubt_around, fine_terms, rough_terms
from x2sam.inference.follow_weights import FILE, REGIMES, STAGES, FollowWeights, plain_weights, read_weights
from x2sam.inference.walk import ObjectTrack
from x2sam.structures import Sample

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

CELLS_PER_FRAME = 500
OBJECTS = 2  # of a clip, that are followed
LEAST_PIXELS = 300  # of an object on the first frame
HIDDEN = 6  # frames that a board hides an object for
MEASURED = 1000  # added to the seed: clips to measure on
CROSS_ENTROPY, DECAY = 0.3, 3e-4
_SLACK = 0.03  # of the object's size: what a frame without it may show of it before that counts much


@dataclass(frozen=True, eq=False)
class Met:
    """A situation that came up: what was measured, and the truth float32 (h, w) 0..1 in the same window.

    share:   what one cell is of the object's size; outside: truth beyond the window, in object sizes
    """

    seen: Evidence
    truth: np.ndarray
    share: float
    outside: float


def followed_ids(sample: Sample, most: int = OBJECTS) -> list[int]:
    """Objects of the first frame that are large enough, at most so many."""
    areas = label_areas(sample.labels[0])
    return [o.id for o in sample.objects if areas[o.id] >= LEAST_PIXELS][:most]


def met(follower: Follower, scenery: Scenery, carried: np.ndarray | None, net: np.ndarray, truth: np.ndarray) -> Met:
    """The situation of a follower that is about to decide; ``truth`` bool (H, W)."""
    window, seen = follower.measure(scenery, carried, net)
    inside = cv2.resize(truth.astype(np.float32), scenery.shape[::-1], interpolation=cv2.INTER_AREA)
    size = max(follower.size, float(inside.sum()), 16.0)
    outside = float(inside.sum() - inside[window].sum()) / size
    # Histograms go on learning: keep what they said now.
    frozen = dataclasses.replace(seen, anchored=seen.anchored.copy(), recent=seen.recent.copy())
    return Met(frozen, inside[window], 1 / size, max(0.0, outside))


class Samples:
    """Cells drawn from situations: gated terms (cells, gates x terms), truth and weight (cells), truth outside."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.rows: list[tuple[np.ndarray, ...]] = []

    def add(self, situation: Met, terms: np.ndarray) -> None:
        cells = self.rng.integers(0, situation.truth.size, CELLS_PER_FRAME)
        drawn = terms.reshape(-1, terms.shape[-1])[cells]
        flow = situation.seen.flow
        doubt, around = (d.ravel()[cells, None] for d in (flow.doubt, doubt_around(flow.doubt)))
        weight = np.full(CELLS_PER_FRAME, situation.share * situation.truth.size / CELLS_PER_FRAME, np.float32)
        gated = np.concatenate([drawn, drawn * doubt, drawn * around], 1).astype(np.float32)
        self.rows.append((gated, situation.truth.ravel()[cells], weight, np.float32(situation.outside)))

    def fit(self, steps: int, start: np.ndarray) -> np.ndarray:
        """float32 (gates, terms) that give the best soft IoU; ``start`` where there is too little to learn from."""
        if len(self.rows) < 20:
            return start
        x, y, v, out = (torch.from_numpy(np.stack(column)) for column in zip(*self.rows, strict=True))
        spread = x.reshape(-1, x.shape[-1]).std(0) + 0.01
        theta = (torch.from_numpy(start.reshape(-1)) * spread).requires_grad_()
        optimizer = torch.optim.Adam([theta], 0.03)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
        draw = torch.Generator().manual_seed(0)
        for _ in range(steps):
            j = torch.randint(len(x), (48,), generator=draw)
            z, yj, vj = (x[j] / spread) @ theta, y[j], v[j]
            p = z.sigmoid()
            both, either = (p * yj * vj).sum(1), ((p + yj - p * yj) * vj).sum(1) + out[j]
            soft = (both + _SLACK) / (either + _SLACK)
            entropy = (F.binary_cross_entropy_with_logits(z, yj, reduction="none") * vj).sum(1).clamp(max=10)
            loss = (1 - soft).mean() + CROSS_ENTROPY * entropy.mean() + DECAY * (theta**2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return (theta / spread).detach().numpy().reshape(start.shape).astype(np.float32)


def fit(situations: Sequence[Met], steps: int, before: FollowWeights, rng: np.random.Generator) -> FollowWeights:
    """Weights of both stages for the situations that were met."""
    samples = {stage: {regime: Samples(rng) for regime in REGIMES} for stage in STAGES}
    for situation in situations:
        samples["rough"][situation.seen.regime].add(situation, rough_terms(situation.seen))
    table = {"rough": {r: s.fit(steps, before.table["rough"][r]) for r, s in samples["rough"].items()}}
    half = FollowWeights({**table, "fine": before.table["fine"]})
    for situation in situations:
        seen = situation.seen
        terms = rough_terms(seen)
        rough = half.score("rough", seen.regime, terms, seen.flow.doubt)
        samples["fine"][seen.regime].add(situation, fine_terms(seen, rough, terms))
    table["fine"] = {r: s.fit(steps, before.table["fine"][r]) for r, s in samples["fine"].items()}
    return FollowWeights(table)


class Recorder(Follower):
    """A follower that notes down some of the situations that it meets.

    share:  of the frames, that are noted
    shaken: of the frames, before which its mask is spoiled, so that getting back to the object is learned: generated
            objects are followed with fewer errors than real ones
    helped: of the frames, after which it gets the true mask: who never had a good mask would not learn that one can be
            carried along
    """

    def __init__(
        self, weights: FollowWeights, rng: np.random.Generator, share: float, shaken: float = 0.0, helped: float = 0.0
    ):
        super().__init__(weights)
        self.rng, self.share, self.shaken, self.helped = rng, share, shaken, helped
        self.truth: np.ndarray | None = None
        self.noted: list[Met] = []

    def expect(self, scenery: Scenery) -> np.ndarray | None:
        if self.rng.random() < self.shaken and not self.lost:
            spoiled = noisy_mask(self.mask > 0.5, self.rng).astype(np.float32)
            self.mask = cv2.GaussianBlur(spoiled, (0, 0), 1.0)
        return super().expect(scenery)

    def settle(self, scenery: Scenery, found: np.ndarray) -> None:
        if self.truth is not None and self.rng.random() < self.helped:
            found = cv2.resize(self.truth.astype(np.float32), scenery.shape[::-1], interpolation=cv2.INTER_AREA)
        super().settle(scenery, found)

    def decide(self, scenery: Scenery, carried: np.ndarray | None, net: np.ndarray) -> np.ndarray:
        if self.truth is not None and self.rng.random() < self.share:
            self.noted.append(met(self, scenery, carried, net, self.truth))
        return super().decide(scenery, carried, net)


def follow_clip(
    engine: Engine, sample: Sample, weights: FollowWeights, rng: np.random.Generator, share: float = 0.0,
    shaken: float = 0.0, helped: float = 0.0,
) -> tuple[list[Met], list[ObjectScores]]:  # fmt: skip
    """Follows the clip's objects, given by their masks on its first frame, as a session does: what was noted of a
    ``share`` of the frames, and the scores of each object."""
    session = engine.open(sample.frames)
    looking = session.looking
    ids = followed_ids(sample)
    for number in ids:
        session.correct(0, str(number), sample.labels[0] == number)
    track = ObjectTrack(looking.model, session.objects([str(k) for k in ids]), "pinned")
    recorders = {str(k): Recorder(weights, rng, share, shaken, helped) for k in ids}
    track.followers.update(recorders)
    scores = [ObjectScores() for _ in ids]
    for frame, labels in enumerate(sample.labels):
        for number in ids:
            recorders[str(number)].truth = labels == number
        found = session.advance(track, frame, frame == 0).found
        for number, score in zip(ids, scores, strict=True) if frame else ():
            score.add(found[str(number)][0], labels == number)
    session.close()
    return [n for r in recorders.values() for n in r.noted], scores


class Blindfolded(Follower):
    """A follower that sees nothing of its object while ``blind``, and notes down what there was to find it by."""

    def __init__(self, weights: FollowWeights):
        super().__init__(weights)
        self.blind = False
        self.truth: np.ndarray | None = None
        self.noted: list[Met] = []

    def expect(self, scenery: Scenery) -> np.ndarray | None:
        if self.blind:
            self.mask = np.zeros(scenery.shape, np.float32)
        return super().expect(scenery)

    def decide(self, scenery: Scenery, carried: np.ndarray | None, net: np.ndarray) -> np.ndarray:
        if not self.blind:
            return super().decide(scenery, carried, net)
        self.noted.append(met(self, scenery, carried, net, self.truth))
        return np.zeros(scenery.shape, np.float32)


def hidden_situations(engine: Engine, sample: Sample, weights: FollowWeights, seed: int) -> list[Met]:
    """The clip's first object is hidden by a board for a while, and from then on never found: what there was to find it
    by, on frames with and without it. Nothing where it can't be hidden."""
    covered = occlude(sample.frames, sample.labels, 1, HIDDEN, seed)
    if covered is None or not (covered.labels[0] == 1).any():
        return []
    session = engine.open(covered.frames)
    try:
        session.correct(0, "1", covered.labels[0] == 1)
        track = ObjectTrack(session.looking.model, session.objects(["1"]), "pinned")
        follower = track.followers["1"] = Blindfolded(weights)
        for frame, labels in enumerate(covered.labels):
            follower.blind, follower.truth = frame >= covered.hidden.start, labels == 1
            session.advance(track, frame, frame == 0)
    finally:
        session.close()
    return follower.noted


def gather(
    engine: Engine, clips: LongClips, indices: Sequence[int], weights: FollowWeights, rng: np.random.Generator,
    share: float = 0.0, shaken: float = 0.0, helped: float = 0.0,
) -> tuple[list[Met], dict[str, float]]:  # fmt: skip
    """All clips of ``indices``: what was noted, and mean J and F over their objects."""
    noted, scores = [], []
    for index in indices:
        more, own = follow_clip(engine, clips[index], weights, rng, share, shaken, helped)
        noted += more
        scores += own
    return noted, mean_jf(scores)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--model", default="nano", help="nano, or a directory")
    parser.add_argument("--out", type=Path, default=FILE, help="by default the weights of the package")
    parser.add_argument("--start", type=Path, default=FILE, help="weights to start from, by default the package's")
    parser.add_argument("--fresh", action="store_true", help="start from what is carried along alone")
    parser.add_argument("--measure", action="store_true", help="only follow with --start, on clips never fitted to")
    parser.add_argument("--hidden", action="store_true", help="only fit how hidden objects are found again")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.3, help="of the frames met, that are fitted to")
    parser.add_argument("--shaken", type=float, default=0.05, help="of the frames, before which the mask is spoiled")
    parser.add_argument("--helped", type=float, default=0.2, help="of the frames, after which the mask is set right")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    from x2sam.inference.engine import Engine

    weights = plain_weights() if options.fresh else read_weights(options.start)
    with Engine.load(options.model) as engine:
        if options.measure:
            clips = LongClips(options.data, options.seed + MEASURED, frames=options.frames)
            _, scores = gather(engine, clips, range(options.clips), weights, np.random.default_rng(0))
            print(", ".join(f"{k} {v:.3f}" for k, v in scores.items()), f"on {options.clips} clips")
            return
        clips = LongClips(options.data, options.seed, frames=options.frames)
        if options.hidden:
            each = [hidden_situations(engine, clips[k], weights, k) for k in range(options.clips)]
            noted = [situation for some in each for situation in some]
            fit(noted, options.steps, weights, np.random.default_rng(options.seed)).save(options.out)
            return
        for turn in range(options.rounds):
            rng = np.random.default_rng((options.seed, turn))
            noted, scores = gather(
                engine, clips, range(options.clips), weights, rng, options.share, options.shaken, options.helped
            )
            print(f"round {turn + 1} of {options.rounds}: J&F {scores['JF']:.3f} with the weights before it")
            weights = fit(noted, options.steps, weights, rng)
            weights.save(options.out)


if __name__ == "__main__":
    main()
