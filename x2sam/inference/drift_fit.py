"""Fits the drift radar on generated clips: ``python -m x2sam.inference.drift_fit --data DIR``.

Objects are followed through clips made of real pictures (:mod:`x2sam.data.long_clips`), in a third of them a board
hides the object for a while; now and then a mask is spoiled on the way, because generated objects are followed with
fewer errors than real ones. What the radar saw on each frame is noted together with whether the mask was wrong. In half
of the clips objects are also known on the last frame, and walks from both sides meet. A logistic model is fitted to
each regime; signs that were made to mean doubt may not speak against it. ``--measure`` only tells how good the radar
is, on clips never fitted to.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.optimize import minimize

from x2sam.data.long_clips import LongClips
from x2sam.data.noisy_masks import noisy_mask
from x2sam.data.occluders import occlude
from x2sam.evaluation.drift import BAD, SHARES
from x2sam.evaluation.metrics.iou import iou
from x2sam.evaluation.ranking import calibration_error, found_early, most_early, separation
from x2sam.inference.drift import Rating, disagreement, met_rating
from x2sam.inference.drift_weights import FILE, REGIMES, DriftWeights, embedded_drift_weights, read_drift_weights
from x2sam.inference.follow import Follower, Scenery
from x2sam.inference.follow_fit import followed_ids
from x2sam.inference.meeting import Stop, meet, stretches
from x2sam.inference.walk import ObjectTrack
from x2sam.structures import Sample

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

MEASURED = 3000  # added to the seed: clips to measure on
RIDGE = 2.0
LEAST = 30  # frames of a regime, and of either kind in it, that can be fitted to
OBJECTS = 4  # of a clip, that are followed
SHAKEN = 0.06  # of the frames, before which a mask is spoiled
_HIDDEN = (6, 16)
_FREE = {"again", "away", "inside", "vanished", "since", "far", "one"}
"""Signs that may speak either way; others only for doubt."""


@dataclass(frozen=True, eq=False)
class Met:
    """A frame that walks from both sides came by: what each saw, how their masks differ, frames to the nearer known
    one, and whether the mixed mask was wrong."""

    there: Rating
    back: Rating
    apart: float
    far: int
    bad: bool


@dataclass
class Noted:
    """Frames: of single walks ratings and whether the mask was wrong; of walks that met."""

    single: list[tuple[Rating, bool]] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)

    def add(self, more: Noted) -> None:
        self.single += more.single
        self.met += more.met


class Shaken(Follower):
    """A follower whose mask is spoiled before a ``share`` of the frames."""

    def __init__(self, rng: np.random.Generator, share: float):
        super().__init__()
        self.rng, self.share = rng, share

    def expect(self, scenery: Scenery) -> np.ndarray | None:
        if self.rng.random() < self.share and not self.lost:
            self.mask = cv2.GaussianBlur(noisy_mask(self.mask > 0.5, self.rng).astype(np.float32), (0, 0), 1.0)
        return super().expect(scenery)


def clip_of(clips: LongClips, index: int) -> Sample:
    """A generated clip; in every third of them its first object is hidden for a while."""
    sample = clips[index]
    if index % 3:
        return sample
    hidden = int(np.random.default_rng((clips.seed, index)).integers(*_HIDDEN))
    covered = occlude(sample.frames, sample.labels, 1, min(hidden, len(sample.frames) // 3), index)
    return sample if covered is None else replace(sample, frames=covered.frames, labels=covered.labels)


def note_clip(engine: Engine, sample: Sample, both: bool, seed: int = 0, shaken: float = SHAKEN) -> Noted:
    """Follows the clip's objects, given by their masks on its first frame and, with ``both``, on its last."""
    ids = [str(k) for k in followed_ids(sample, OBJECTS)]
    rng = np.random.default_rng(seed)
    last = len(sample.frames) - 1
    noted, stops = Noted(), []
    if not ids:
        return noted
    session = engine.open(sample.frames)
    try:
        for name in ids:
            session.correct(0, name, sample.labels[0] == int(name))
        track = ObjectTrack(session.looking.model, session.objects(ids), "pinned")
        track.followers.update({name: Shaken(rng, shaken) for name in ids})
        for frame in range(last + 1):
            stops.append(session.advance(track, frame, frame == 0))
            for name, rating in stops[-1].ratings.items():
                noted.single.append((rating, wrong(stops[-1], name, sample)))
        if both:
            for name in ids:
                session.correct(last, name, sample.labels[last] == int(name))
            noted.met = _note_met(session, sample, ids, stops)
    finally:
        session.close()
    return noted


def _note_met(session, sample: Sample, ids: Sequence[str], stops: Sequence[Stop]) -> list[Met]:
    end = stops[-1].frame
    ways = stretches(session.objects(ids), range(end + 1))
    track = ObjectTrack(session.looking.model, [way.thing for way in ways], "pinned")
    spans = {way.thing.object_id: way.span for way in ways}
    noted = []
    for there in reversed(stops[1:]):
        back = session.advance(track, there.frame, there.frame == end)
        met = meet(there, back, end, spans)
        for name, rating in back.ratings.items():
            far = min(end - there.frame, there.frame)
            apart = disagreement(there.probabilities[name], back.probabilities[name])
            noted.append(Met(there.ratings[name], rating, apart, far, wrong(met, name, sample)))
    return noted


def wrong(stop: Stop, name: str, sample: Sample) -> bool:
    return iou(stop.found[name][0], sample.labels[stop.frame] == int(name)) < BAD


def gather(engine: Engine, clips: LongClips, indices: Sequence[int]) -> Noted:
    noted = Noted()
    for index in indices:
        noted.add(note_clip(engine, clip_of(clips, index), both=index % 2 == 0, seed=index))
    return noted


def logistic(regime: str, signs: np.ndarray, bad: np.ndarray, start: np.ndarray) -> np.ndarray:
    """float32 (signs,): weights for signs (n, signs) and bad bool (n,); ``start`` where there is too little to learn
    from. Ridge on standardised signs; the constant goes free."""
    names = REGIMES[regime]
    if min(bad.sum(), (~bad).sum()) < LEAST:
        return start
    spread = signs.std(0) + 1e-3
    spread[names.index("one")] = 1.0
    x = signs / spread
    bounds = [(None, None) if name in _FREE else (0, None) for name in names]
    held = np.array([name != "one" for name in names], float)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ w
        error = 1 / (1 + np.exp(-np.clip(odds, -30, 30))) - bad
        value = np.logaddexp(0, odds).sum() - odds[bad].sum() + RIDGE * (held * w**2).sum()
        return float(value), x.T @ error + 2 * RIDGE * held * w

    found = minimize(loss, np.clip(start * spread, -3, 3), jac=True, method="L-BFGS-B", bounds=bounds)
    return (found.x / spread).astype(np.float32)


def fit(noted: Noted, before: DriftWeights) -> DriftWeights:
    """Weights for what was noted: of single walks first, then of walks that met, which hear of the doubts of both."""
    table = dict(before.table)
    for regime in ("seen", "lost"):
        rows = [(r.signs, bad) for r, bad in noted.single if r.regime == regime]
        if rows:
            signs, bad = (np.array(column) for column in zip(*rows, strict=True))
            table[regime] = logistic(regime, signs.astype(float), bad, table[regime])
    half = DriftWeights(table)
    if noted.met:
        signs = np.stack([met_signs(one, half) for one in noted.met]).astype(float)
        table["met"] = logistic("met", signs, np.array([one.bad for one in noted.met]), table["met"])
    return DriftWeights(table)


def met_signs(one: Met, weights: DriftWeights) -> np.ndarray:
    return met_rating(again(one.there, weights), again(one.back, weights), one.apart, one.far, weights).signs


def again(rating: Rating, weights: DriftWeights) -> Rating:
    """The same signs, weighed by ``weights``."""
    return replace(rating, doubt=weights.doubt(rating.regime, rating.signs))


def told(noted: Noted, weights: DriftWeights) -> str:
    """How good the radar is at what was noted, in a line per kind of walk."""
    lines = []
    single = [again(rating, weights).doubt for rating, _ in noted.single]
    met = [weights.doubt("met", met_signs(one, weights)) for one in noted.met]
    kinds = (("one walk", single, [bad for _, bad in noted.single]), ("met", met, [one.bad for one in noted.met]))
    for kind, doubts, wrongs in kinds:
        doubt, bad = np.array(doubts), np.array(wrongs, bool)
        if not bad.any():
            lines.append(f"{kind}: no wrong frame among {len(bad)}")
            continue
        early = ", ".join(f"{found_early(doubt, bad, s):.3f} of {most_early(bad, s):.3f}" for s in SHARES)
        lines.append(
            f"{kind}: {bad.sum()} of {len(bad)} frames wrong; found in the first {SHARES}: {early}; "
            f"separation {separation(doubt, bad) or 0:.3f}, calibration error {calibration_error(doubt, bad):.3f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--model", default="nano", help="nano, or a directory")
    parser.add_argument("--out", type=Path, default=FILE, help="by default the weights of the package")
    parser.add_argument("--measure", action="store_true", help="only measure --out, on clips never fitted to")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    from x2sam.inference.engine import Engine

    seed = options.seed + (MEASURED if options.measure else 0)
    clips = LongClips(options.data, seed, frames=options.frames)
    with Engine.load(options.model) as engine:
        noted = gather(engine, clips, range(options.clips))
    if options.measure:
        print(told(noted, read_drift_weights(options.out)))
        return
    weights = fit(noted, embedded_drift_weights())
    print(told(noted, weights))
    weights.save(options.out)


if __name__ == "__main__":
    main()
