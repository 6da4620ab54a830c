"""How much each piece of evidence counts when an object is followed; written by :mod:`x2sam.inference.follow_fit`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from x2sam.errors import WeightsError
from x2sam.inference.follow_terms import FINE_TERMS, ROUGH_TERMS, doubt_around

FILE = Path(__file__).parent.parent / "data" / "follow.json"
REGIMES = ("seen", "lost")
GATES = ("always", "doubt", "doubt_around")
STAGES: Mapping[str, Sequence[str]] = {"rough": ROUGH_TERMS, "fine": FINE_TERMS}


@dataclass(frozen=True, eq=False)
class FollowWeights:
    """``table[stage][regime]``: float32 (gates, terms).

    Of the gates the first counts as it is, the second times the flow's doubt at the cell, the third times the doubt in
    its surroundings: where all moves as one, what was carried along is right.
    """

    table: Mapping[str, Mapping[str, np.ndarray]]

    def score(self, stage: str, regime: str, terms: np.ndarray, doubt: np.ndarray) -> np.ndarray:
        """float32 (h, w): log-odds of all evidence (h, w, terms) together."""
        flat = terms.transpose(2, 0, 1).reshape(terms.shape[2], -1)
        always, doubtful, unquiet = (self.table[stage][regime] @ flat).reshape(len(GATES), *doubt.shape)
        return always + doubt * doubtful + doubt_around(doubt) * unquiet

    def save(self, path: Path) -> None:
        """A weight is found by stage, regime, gate and the name of its term."""
        content = {
            stage: {
                regime: {
                    gate: {name: round(float(v), 3) for name, v in zip(names, row, strict=True)}
                    for gate, row in zip(GATES, self.table[stage][regime], strict=True)
                }
                for regime in REGIMES
            }
            for stage, names in STAGES.items()
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_weights(path: Path) -> FollowWeights:
    """Raises :class:`WeightsError` where a stage, a regime or a term is missing or unknown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"{path} can't be read ({problem}); install the package again") from problem
    table: dict[str, dict[str, np.ndarray]] = {}
    for stage, names in STAGES.items():
        table[stage] = {}
        for regime in REGIMES:
            rows = [content.get(stage, {}).get(regime, {}).get(gate, {}) for gate in GATES]
            if any(set(row) != set(names) for row in rows):
                raise WeightsError(f"{path}: the terms of {stage}/{regime} are not those of this version; fit again")
            table[stage][regime] = np.array([[row[name] for name in names] for row in rows], np.float32)
    return FollowWeights(table)


@cache
def embedded_weights() -> FollowWeights:
    """The weights that come with the package."""
    return read_weights(FILE)


def plain_weights() -> FollowWeights:
    """What was carried along and little else: where fitting starts."""
    start = {
        ("rough", "seen", "always"): {
            "carried": 0.5,
            "outline": 3.0,
            "local": 0.4,
            "colour_trusted": 0.3,
            "target": 1.0,
        },
        ("rough", "seen", "doubt_around"): {"outline": -2.5},
        ("rough", "lost", "always"): {"target": 2.0, "colour_around": 0.5, "one": -4.0},
        ("fine", "seen", "always"): {"rough": 0.6, "outline": 1.5, "edges": 4.0, "one": -2.0},
        ("fine", "seen", "doubt_around"): {"outline": -1.5},
        ("fine", "lost", "always"): {"rough": 0.6, "edges": 4.0, "one": -2.0},
    }
    table = {
        stage: {regime: np.zeros((len(GATES), len(names)), np.float32) for regime in REGIMES}
        for stage, names in STAGES.items()
    }
    for (stage, regime, gate), values in start.items():
        for name, value in values.items():
            table[stage][regime][GATES.index(gate), STAGES[stage].index(name)] = value
    return FollowWeights(table)
