"""A radar for drift: how probable it is that the mask of a tracked frame is wrong, from what following costs anyway.

"Wrong" is an overlap with the truth of less than a half. Signs are disagreements (of the network and the follower, of
the mask and the one carried along, of the mask carried *back* along the flow and what was known or found there), jumps
in area and looks, doubts of the flow, and what has added up since the object was known for certain: a track that has
slipped onto something else is steady again a few frames later. A logistic model weighs them
(:mod:`x2sam.inference.drift_weights`), fitted so that it is calibrated (:mod:`x2sam.inference.drift_fit`).

    radar.learn(scenery, follower)                              where the mask is known
    rating = radar.rate(scenery, follower, look)                elsewhere, once all objects have been found
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from x2sam.inference.appearance import target_weights
from x2sam.inference.drift_weights import REGIMES, DriftWeights, embedded_drift_weights
from x2sam.inference.follow import Follower, Scenery

_LATELY = 4  # frames that a mask is carried back at least, to be compared with what was found there
_RECENT = 0.8  # of the past that a mean over the last frames keeps with each frame
_MARGIN, _LEAST_MARGIN = 0.5, 8  # around a mask, of its size and in cells, that is carried back to
_AROUND = 3.0  # times its area: how many cells around the object are looked at
_MOST_JUMP = 2.5  # logs of areas are cut off here
_MOST_GROWN = 1.0  # the same of growth: what comes nearer grows beyond anything that was fitted to, and is still right


@dataclass(frozen=True, eq=False)
class Look:
    """What following saw of an object on a frame.

    carried: float32 (h, w), the mask before moved here, or None when it was out of sight
    net:     float32 (any size) over the frame, the network's mask, and its score
    found:   float32 (h, w), what was decided
    """

    carried: np.ndarray | None
    net: np.ndarray
    score: float
    found: np.ndarray


@dataclass(frozen=True, eq=False)
class Rating:
    """The signs of a frame float32 (n,), in the order of ``REGIMES[regime]``, and the doubt 0..1 they amount to."""

    regime: str
    signs: np.ndarray
    doubt: float


def disagreement(a: np.ndarray, b: np.ndarray) -> float:
    """1 less the soft IoU of two masks float32 (h, w) 0..1; 0 for two empty ones."""
    both, either = float(np.minimum(a, b).sum()), float(np.maximum(a, b).sum())
    return 1 - both / either if either > 1e-6 else 0.0


class Reference:
    """A mask float32 (h, w) of an earlier frame, and where its cells have gone since."""

    def __init__(self, mask: np.ndarray):
        rows, cols = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
        margin = int(max(_LEAST_MARGIN, _MARGIN * max(rows[-1] - rows[0], cols[-1] - cols[0])))
        top, left = max(0, rows[0] - margin), max(0, cols[0] - margin)
        window = np.s_[top : rows[-1] + margin + 1, left : cols[-1] + margin + 1]
        self.mask = np.ascontiguousarray(mask[window])
        self.age = 0
        height, width = self.mask.shape
        x, y = np.arange(left, left + width, dtype=np.float32), np.arange(top, top + height, dtype=np.float32)
        self._x, self._y = (np.ascontiguousarray(g) for g in np.meshgrid(x, y))

    def go(self, forth: np.ndarray) -> None:
        """The next frame; ``forth`` float32 (h, w, 2) of :class:`x2sam.inference.motion.Flow`."""
        moved = cv2.remap(forth, self._x, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._x += moved[..., 0]
        self._y += moved[..., 1]
        self.age += 1

    def apart(self, found: np.ndarray) -> float:
        """How much ``found`` float32 (h, w) of the frame now, carried back to this mask's frame, disagrees with it."""
        return disagreement(cv2.remap(found, self._x, self._y, cv2.INTER_LINEAR), self.mask)


class Radar:
    """Watches one object on its way through a clip. What it keeps does not grow with the number of frames."""

    def __init__(self, weights: DriftWeights | None = None):
        self.weights = weights or embedded_drift_weights()
        self._shape: tuple[int, int] | None = None
        self._given: np.ndarray | None = None
        self._start((0.0, 0.0, 0.0))
        self._anchor: Reference | None = None

    def _start(self, known: tuple[float, float, float]) -> None:
        """Nothing has happened since the object was known, with these area and looks."""
        self._known = known
        self._away = self._unseen = 0
        self._sums = {"carried": 0.0, "flow": 0.0}
        self._score, self._jump, self._before = 0.0, 0.0, known[0]
        self._inside, self._again = True, False
        self._older: Reference | None = None
        self._newer: Reference | None = None

    def learn(self, scenery: Scenery, follower: Follower) -> None:
        """The mask of this frame is known for certain; ``follower`` has learned it already."""
        mask = follower.mask
        self._given = target_weights([follower.given])
        self._shape = scenery.shape
        if follower.lost:
            self._start(self._known)
            self._anchor = None
            return
        self._start((float(mask.sum()), *self._looks(scenery, follower, mask)[:2]))
        self._anchor, self._newer = Reference(mask), Reference(mask)

    def rate(self, scenery: Scenery, follower: Follower, look: Look) -> Rating:
        """The frame's rating. Call once for each frame, in order; ``follower`` has settled on what was found."""
        self._away += 1
        if self._shape != scenery.shape:
            # Pages of another size: nothing is known of how they hang together.
            self._shape, self._anchor, self._older, self._newer = scenery.shape, None, None, None
        for reference in (self._anchor, self._older, self._newer):
            if reference is not None:
                reference.go(scenery.flow.forth)
        self._score = _RECENT * self._score + (1 - _RECENT) * (1 - look.score)
        if follower.lost:
            return self._rated("lost", self._lost_signs(scenery, look))
        signs = self._seen_signs(scenery, follower, look)
        self._turn_references(follower.mask)
        return self._rated("seen", signs)

    def _rated(self, regime: str, signs: dict[str, float]) -> Rating:
        values = np.array([signs[name] for name in REGIMES[regime]], np.float32)
        return Rating(regime, values, self.weights.doubt(regime, values))

    def _lost_signs(self, scenery: Scenery, look: Look) -> dict[str, float]:
        size = max(self._known[0], 1.0)
        self._unseen += 1
        target = self._target(scenery)
        return {
            "score": look.score,
            "net": min(float((look.net > 0.5).mean()) * look.found.size / size, 3.0),
            "target": float(np.clip(target.max(), -1, 2)) if target is not None else 0.0,
            "inside": float(self._inside),
            "vanished": float(np.clip(np.log((self._before + 1) / (size + 1)), -_MOST_JUMP, _MOST_JUMP)),
            "since": float(np.log1p(self._unseen)),
            "away": float(np.log1p(self._away)),
            "one": 1.0,
        }

    def _seen_signs(self, scenery: Scenery, follower: Follower, look: Look) -> dict[str, float]:
        found, size = look.found, scenery.shape[::-1]
        area, known = float(found.sum()), self._known
        self._again |= self._unseen > 0
        net = cv2.resize(look.net.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        carried = 1.0 if look.carried is None else disagreement(look.carried, found)
        flow = float((scenery.flow.doubt * found).sum()) / max(area, 1e-6)
        jump = abs(_log_ratio(area, self._before)) if self._before else _MOST_JUMP
        grown = _log_ratio(area, known[0]) if known[0] else 0.0
        self._jump = max(self._jump, jump)
        self._sums["carried"] += carried
        self._sums["flow"] += flow
        colour, target, around = self._looks(scenery, follower, found)
        signs = {
            "score": 1 - look.score,
            "score_since": self._score,
            "net": disagreement(net, found),
            "carried": carried,
            "carried_since": float(np.log1p(self._sums["carried"])),
            "anchor": 0.5 if self._anchor is None else self._anchor.apart(found),
            "lately": 0.0 if self._older is None else self._older.apart(found),
            "flow": flow,
            "flow_since": float(np.log1p(self._sums["flow"])),
            "unsure": min(float((found * (1 - found)).sum()) * 4 / max(area, 1.0), 4.0),
            "jump": jump,
            "jump_since": self._jump,
            "larger": float(np.clip(grown, 0.0, _MOST_GROWN)),
            "smaller": max(-grown, 0.0),
            "colour": 1 - colour,
            "colour_jump": known[1] - colour,
            "target": 1 - target,
            "target_jump": known[2] - target,
            "around": around,
            "away": float(np.log1p(self._away)),
            "again": float(self._again),
            "one": 1.0,
        }
        self._before, self._unseen = area, 0
        edge = (found[0], found[-1], found[:, 0], found[:, -1])
        self._inside = max(float(side.max()) for side in edge) < 0.5
        return signs

    def _turn_references(self, mask: np.ndarray) -> None:
        if self._newer is None or self._newer.age >= _LATELY:
            self._older, self._newer = self._newer, Reference(mask)

    def _target(self, scenery: Scenery) -> np.ndarray | None:
        """float32 (n,): how much each descriptor looks like those where the object was known."""
        return None if self._given is None else scenery.descriptors @ self._given

    def _looks(self, scenery: Scenery, follower: Follower, found: np.ndarray) -> tuple[float, float, float]:
        """How much the object looks like where it was known, by colours and by descriptors, about -1..1; and how much
        its surroundings do."""
        area = max(float(found.sum()), 1e-6)
        told = np.tanh(follower.anchored.evidence(scenery.bins) / 2)
        colour = float((told * found).sum()) / area
        target = self._target(scenery)
        if target is None:
            return colour, 0.0, 0.0
        inside = scenery.on_cells(found)
        reach = max(1.0, float(np.sqrt(_AROUND * inside.sum())) / 2)
        near = cv2.GaussianBlur(inside.reshape(scenery.cells), (0, 0), reach).ravel() * (1 - inside)
        clipped = np.clip(target, -2, 2)
        own, other = (float((clipped * w).sum()) / max(float(w.sum()), 1e-6) for w in (inside, near))
        return colour, own, other


def met_rating(there: Rating, back: Rating, apart: float, far: int, weights: DriftWeights | None = None) -> Rating:
    """The rating of a frame that two walks came by, one from either side.

    apart: disagreement of what they found; far: frames to the nearer of the two known masks
    """
    less, more = sorted(float(np.log(r.doubt / (1 - r.doubt))) for r in (there, back))
    signs = np.array([less, more, apart, float(np.log1p(far)), 1.0], np.float32)
    return Rating("met", signs, (weights or embedded_drift_weights()).doubt("met", signs))


def _log_ratio(a: float, b: float) -> float:
    return float(np.clip(np.log(max(a, 1e-3) / max(b, 1e-3)), -_MOST_JUMP, _MOST_JUMP))
