"""How much each sign of drift counts; written by :mod:`x2sam.inference.drift_fit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from x2sam.errors import WeightsError

FILE = Path(__file__).parent.parent / "data" / "drift.json"

SEEN = (
    "score",  # what is missing from the network's score
    "score_since",  # the same, mean of the last frames
    "net",  # disagreement with the network's own mask; of all disagreements: 1 less the soft IoU
    "carried",  # disagreement with the mask of the frame before, moved by the flow
    "carried_since",  # the same, log of its sum since the object was known for certain
    "anchor",  # carried back to the frame where it was known, disagreement with the mask there
    "lately",  # carried back by some frames, disagreement with the mask found there
    "flow",  # doubt of the flow on the object
    "flow_since",  # the same, log of its sum
    "unsure",  # cells that are neither in nor out, against the object's area
    "jump",  # change of area from the frame before, as a log
    "jump_since",  # the largest one so far
    "larger",  # area against where it was known, as a log, where it has grown
    "smaller",  # where it has shrunk
    "colour",  # colours unlike those where it was known
    "colour_jump",  # the same, against how they were there themselves
    "target",  # descriptors unlike those where it was known
    "target_jump",
    "around",  # surroundings that look like it
    "away",  # log of the frames since it was known
    "again",  # it was out of sight in between
    "one",
)
LOST = (
    "score",  # the network's score for something that was not taken for the object
    "net",  # the network's mask against the object's size
    "target",  # the most that any place looks like the object
    "inside",  # it was last seen clear of the frame's border
    "vanished",  # its area when last seen, against where it was known: things that shrink before are rather hidden
    "since",  # log of the frames out of sight
    "away",
    "one",
)
MET = (
    "less",  # log-odds of the less doubtful of the two walks
    "more",  # of the more doubtful one
    "apart",  # disagreement of the two masks
    "far",  # frames to the nearer of the two known masks, as a log
    "one",
)
REGIMES: Mapping[str, Sequence[str]] = {"seen": SEEN, "lost": LOST, "met": MET}


@dataclass(frozen=True, eq=False)
class DriftWeights:
    """``table[regime]``: float32 (signs,), in the order of :data:`REGIMES`."""

    table: Mapping[str, np.ndarray]

    def doubt(self, regime: str, signs: np.ndarray) -> float:
        """The probability 0..1 that the mask overlaps the truth by less than a half."""
        odds = float(np.clip(signs @ self.table[regime], -12, 12))
        return 1 / (1 + float(np.exp(-odds)))

    def save(self, path: Path) -> None:
        content = {
            regime: {name: round(float(w), 4) for name, w in zip(names, self.table[regime], strict=True)}
            for regime, names in REGIMES.items()
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_drift_weights(path: Path) -> DriftWeights:
    """Raises :class:`WeightsError` where a regime or a sign is missing or unknown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"{path} can't be read ({problem}); install the package again") from problem
    table = {}
    for regime, names in REGIMES.items():
        row = content.get(regime, {})
        if set(row) != set(names):
            raise WeightsError(f"{path}: the signs of {regime} are not those of this version; fit again")
        table[regime] = np.array([row[name] for name in names], np.float32)
    return DriftWeights(table)


@cache
def embedded_drift_weights() -> DriftWeights:
    """The weights that come with the package."""
    return read_drift_weights(FILE)


def plain_drift_weights() -> DriftWeights:
    """The network's score and little else: what fitting starts from."""
    start = {
        "seen": {"score": 3.0, "carried": 2.0, "one": -3.0},
        "lost": {"score": 2.0, "one": -1.0},
        "met": {"less": 0.5, "more": 0.5, "apart": 2.0, "one": -1.0},
    }
    rows = {r: np.array([start[r].get(name, 0.0) for name in names], np.float32) for r, names in REGIMES.items()}
    return DriftWeights(rows)
