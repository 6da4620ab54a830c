"""How much each piece of evidence counts when a mask is made to obey its clicks (used by the snap step).

There are two sets, which :mod:`x2sam.inference.refine_fit` writes: "weak" for small networks that often see little
more than the place of an object, "strong" for networks whose masks need their edges and clicks corrected only.
The first was fitted with ``--model nano``, the second with ``--networks strong --boxed 3``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from x2sam.errors import WeightsError
from x2sam.inference.refine_terms import FINE_TERMS, ROUGH_TERMS, SHARED_TERMS

_DATA = Path(__file__).parent.parent / "data"
FILES = {"weak": _DATA / "snap.json", "strong": _DATA / "snap_strong.json"}
REGIMES = ("first", "later", "later_unknown", "box")
GATES = ("always", "unsure", "sharp")
STAGES: Mapping[str, Sequence[str]] = {
    "rough": ROUGH_TERMS + SHARED_TERMS,
    "fine": FINE_TERMS + SHARED_TERMS,
}


@dataclass(frozen=True, eq=False)
class SnapWeights:
    """``table[stage][regime]``: float32 (gates, terms).

    Of the gates the first counts as it is, the second times the network's indecision at the cell, the third times the
    sharpness of its whole mask.
    """

    table: Mapping[str, Mapping[str, np.ndarray]]

    def score(self, stage: str, regime: str, terms: np.ndarray, indecision: np.ndarray, sharpness: float) -> np.ndarray:
        """float32 (h, w): log-odds of all evidence (h, w, terms) together."""
        always, unsure, sharp = self.table[stage][regime]
        return terms @ (always + np.float32(sharpness) * sharp) + indecision * (terms @ unsure)

    def save(self, path: Path) -> None:
        """Rounded to what matters; a weight is found by stage, regime, gate and the name of its term."""
        content = {
            stage: {
                "terms": list(names),
                **{
                    regime: {gate: [round(float(v), 3) for v in row] for gate, row in zip(GATES, table, strict=True)}
                    for regime, table in self.table[stage].items()
                },
            }
            for stage, names in STAGES.items()
        }
        text = json.dumps(content, indent=1)
        path.write_text(_numbers_on_one_line(text) + "\n", encoding="utf-8")


def _numbers_on_one_line(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside:
            lines[-1] += line.strip() + (" " if line.endswith(",") else "")
        else:
            lines.append(line)
        inside = line.endswith("[") or (inside and not line.strip().startswith("]"))
    return "\n".join(lines)


def read_weights(path: Path) -> SnapWeights:
    """Raises :class:`WeightsError` where a stage, a regime or a term is missing or unknown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise WeightsError(f"{path} can't be read ({problem}); install the package again") from problem
    table: dict[str, dict[str, np.ndarray]] = {}
    for stage, names in STAGES.items():
        if content.get(stage, {}).get("terms") != list(names):
            raise WeightsError(f"{path}: the terms of stage {stage!r} are not those of this version; fit them again")
        try:
            table[stage] = {
                regime: np.array([content[stage][regime][gate] for gate in GATES], np.float32) for regime in REGIMES
            }
        except (KeyError, ValueError) as problem:
            raise WeightsError(f"{path}: stage {stage!r} is incomplete ({problem}); fit it again") from problem
        for regime, weights in table[stage].items():
            if weights.shape != (len(GATES), len(names)) or not np.isfinite(weights).all():
                raise WeightsError(f"{path}: {stage}/{regime} has {weights.shape} weights; fit them again")
    return SnapWeights(table)


@cache
def embedded_weights(networks: str = "weak") -> SnapWeights:
    """The weights that come with the package, for "weak" or "strong" networks."""
    return read_weights(FILES[networks])
