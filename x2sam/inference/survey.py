"""How much of an answer in words is probably wrong, and what its frame looks like: to choose what people see first.

An answer's mask is looked at beside the queries that it came from: how surely the query was scored, how sharp its mask
is, whether it stays the same under other thresholds, whether other queries and the outlined mask agree, and its size
and shape. A logistic model weighs these signs to the error that is to be expected of the mask, 1 - IoU with the truth;
a second one tells how probable it is that a name without a mask is there all the same. Both are fitted by
:mod:`x2sam.inference.survey_fit`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from x2sam.errors import WeightsError
from x2sam.inference.mask_signs import LEAST, border, odds, overlaps, sharpness, sigmoid
from x2sam.inference.query_masks import Prediction
from x2sam.model.x2sam import EncodedFrame
from x2sam.structures import Mask

FILE = Path(__file__).parent.parent / "data" / "survey.json"
FOUND = (
    "score",  # the class score of the query, as log-odds
    "inside",  # mean probability inside its mask
    "stable",  # area above a higher threshold against the area above a lower one
    "blurred",  # entropy of the mask against the root of its area
    "agreed",  # IoU of the query's mask and the mask that is answered
    "rivals",  # mean IoU with the masks of the other queries, by their scores for the same name
    "small",  # minus the log of the share of the picture
    "large",  # share of the picture
    "whole",  # share of its largest part
    "edge",  # share of the picture's border that it touches
    "named",  # log of the number of names that were asked
    "one",
)
"""Signs of a mask."""
MISSED = ("score", "second", "named", "one")
"""Signs of a name without a mask: its best and second best score, as log-odds."""


@dataclass(frozen=True, eq=False)
class Survey:
    """``error`` 0..1 is to be expected of a frame's answer, ``vector`` float32 (D,) its pooled features; ``found``
    float32 (n, FOUND) and ``missed`` (m, MISSED) are the signs of the masks and of the names without one."""

    error: float
    vector: np.ndarray
    found: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True, eq=False)
class SurveyWeights:
    """One weight for each sign."""

    found: np.ndarray
    missed: np.ndarray

    def error(self, found: np.ndarray, missed: np.ndarray) -> float:
        """The expected mean error of what is in the frame: masks by their own, names that are there without a mask
        count 1. Where nothing was found it is the probability that anything is there."""
        wrong, there = (_logistic(signs, w) for signs, w in ((found, self.found), (missed, self.missed)))
        total = len(wrong) + there.sum()
        anything = 1.0 if len(wrong) else 1 - np.prod(1 - there)
        return float(anything * (wrong.sum() + there.sum()) / total) if total else 0.0

    def save(self, path: Path) -> None:
        table = {
            name: dict(zip(names, map(float, values), strict=True))
            for name, names, values in (("found", FOUND, self.found), ("missed", MISSED, self.missed))
        }
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def read_survey_weights(path: Path) -> SurveyWeights:
    """Raises WeightsError where the file is missing or does not know the signs."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        values = [np.array([float(table[k][s]) for s in names]) for k, names in (("found", FOUND), ("missed", MISSED))]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(f"{path} holds no weights of a survey ({problem}); install the package again") from problem
    return SurveyWeights(*values)


@cache
def embedded_survey_weights() -> SurveyWeights:
    return read_survey_weights(FILE)


def survey(
    prediction: Prediction, encoded: EncodedFrame, masks: Sequence[Mask], names: int, weights: SurveyWeights
) -> Survey:
    """Device work. ``masks`` are the answer to ``names`` names, or to one phrase."""
    found, missed = signs_of(prediction, masks, names)
    return Survey(weights.error(found, missed), vector_of(encoded), found, missed)


def vector_of(encoded: EncodedFrame) -> np.ndarray:
    """float32 (4 C,): means of the mask encoder's deep map over the quarters of the picture. Of 30 training pictures,
    seen as :mod:`x2sam.inference.useful` does, copies that were cut by 4 % and lit anew have cosines of 0.83 and more,
    other pictures of 0.77 and less; with means over the whole picture they mix."""
    deep = encoded.stage3[0].float().permute(2, 0, 1)[None]
    return adaptive_avg_pool2d(deep, 2)[0].flatten().cpu().numpy()


def signs_of(prediction: Prediction, masks: Sequence[Mask], names: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, FOUND) of the masks and (m, MISSED) of the names that have none."""
    scores = prediction.scores().cpu().numpy()
    logits = prediction.at_own_size(torch.arange(prediction.queries, device=prediction.mask_logits.device))
    logits = logits.cpu().numpy()
    sharp, asked = logits > 0, np.log(max(names, 1))
    size = logits.shape[:0:-1]  # as OpenCV has it
    flat = sharp.reshape(len(sharp), -1).astype(np.float32)
    rows = []
    for mask in masks:
        small = cv2.resize(mask.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        answer = (small > 0.5 if (small > 0.5).any() else small > 0).astype(np.float32)
        agreed = overlaps(flat, answer.reshape(1, -1))[:, 0]
        query = int(agreed.argmax())
        rivals = overlaps(flat, flat[query, None])[:, 0]
        looks = (float(value[0]) for value in sharpness(logits[query, None]).values())
        shares = scores[:, min(mask.category, scores.shape[1] - 1)].copy()
        score, shares[query] = shares[query], 0.0
        rows.append(
            (
                odds(score), *looks, agreed[query],
                float((rivals * shares).sum() / max(shares.sum(), LEAST)), *_shape(answer), asked, 1.0,
            )
        )  # fmt: skip
    without = sorted(set(range(min(names, scores.shape[1]))) - {mask.category for mask in masks})
    best = np.sort(scores, axis=0)[::-1]
    lacking = [(odds(best[0, k]), odds(best[min(1, len(best) - 1), k]), asked, 1.0) for k in without]
    return np.array(rows, np.float32).reshape(-1, len(FOUND)), np.array(lacking, np.float32).reshape(-1, len(MISSED))


def _shape(answer: np.ndarray) -> tuple[float, float, float, float]:
    """``small``, ``large``, ``whole`` and ``edge`` of a mask float32 (h, w)."""
    area = float(answer.sum())
    share = area / answer.size
    _, _, stats, _ = cv2.connectedComponentsWithStats(answer.astype(np.uint8))
    largest = stats[1:, cv2.CC_STAT_AREA].max(initial=0)
    return float(-np.log(share + 1e-3)), share, float(largest / max(area, 1.0)), float(border(answer[None])[0])


def _logistic(signs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return sigmoid(signs @ weights)

