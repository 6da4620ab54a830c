"""Grounded captions: how good are the masks, do phrases and masks belong together, and how good are the words.

As in GLaMM (Rasheed et al., "GLaMM: Pixel Grounding Large Multimodal Model", CVPR 2024): AP50 of the masks whatever
their phrase; mIoU of masks paired one to one, largest IoU first, mean over pictures of the mean over pairs; recall of
(mask, phrase) pairs, where a true pair is found when an answered one has an IoU and a similarity of phrases of 0.5 and
more; METEOR and CIDEr of the caption. GLaMM compares phrases by a BERT encoder; its files are not part of this
project, so the share of common words is the default and another measure can be handed in.

Masks of a clip are compared as tubes, all frames together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from x2sam.evaluation.metrics.captions import cider, meteor, meteor_stages, words_of
from x2sam.evaluation.metrics.precision import PrecisionTotals, encode

LEAST_IOU = LEAST_SIMILARITY = 0.5
_FILLERS = frozenset({"a", "an", "the"})

Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Phrases (P,) and (G,) -> similarity (P, G), 1 for equal."""


def common_words(phrases: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Similarity (P, G): F1 of the sets of words, articles left out; 1 for equal sets, 0 for nothing in common."""
    left, right = ([set(words_of(t)) - _FILLERS for t in texts] for texts in (phrases, others))
    out = np.zeros((len(left), len(right)))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            out[i, j] = 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
    return out


def tube_iou(answers: np.ndarray, truths: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """IoU (P, G) of bool tubes (T, P, H, W) and (T, G, H, W) without the pixels of ``ignore`` (T, H, W)."""
    both = np.zeros((answers.shape[1], truths.shape[1]))
    areas = np.zeros(answers.shape[1]), np.zeros(truths.shape[1])
    for t in range(len(answers)):
        counted = np.ones(answers.shape[2:], bool) if ignore is None else ~ignore[t]
        a, b = (tubes[t][:, counted].astype(np.float32) for tubes in (answers, truths))
        both += a @ b.T
        areas[0][:] += a.sum(1)
        areas[1][:] += b.sum(1)
    either = areas[0][:, None] + areas[1] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def paired_iou(iou: np.ndarray) -> float:
    """Mean IoU of pairs, each mask used once, the largest IoU first; only pairs that overlap. 0 when there is none."""
    iou, pairs = iou.copy(), []
    while iou.size and iou.max() > 0:
        i, j = np.unravel_index(int(iou.argmax()), iou.shape)
        pairs.append(float(iou[i, j]))
        iou[i, :] = iou[:, j] = 0
    return float(np.mean(pairs)) if pairs else 0.0


def found_pairs(iou: np.ndarray, similar: np.ndarray) -> int:
    """How many true pairs are found, one to one, of IoU (P, G) and similarity of phrases (P, G)."""
    good = (iou >= LEAST_IOU) & (similar >= LEAST_SIMILARITY)
    if not good.any():
        return 0
    rows, columns = linear_sum_assignment(good, maximize=True)
    return int(good[rows, columns].sum())


@dataclass
class GroundedTotals:
    """Sums over pictures or clips. ``similarity`` compares phrases; ``measure`` is its name in the result."""

    similarity: Similarity = common_words
    measure: str = "common words"
    pairs: int = 0
    found: int = 0
    miou: list[float] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    precision: PrecisionTotals = field(default_factory=PrecisionTotals)

    def add_masks(
        self, answers: np.ndarray, scores: Sequence[float], phrases: Sequence[str], truths: np.ndarray,
        true_phrases: Sequence[str], ignore: np.ndarray | None = None,
    ) -> float:  # fmt: skip
        """One picture or clip: bool (T, P, H, W) and (T, G, H, W), a phrase for each. Returns its mIoU."""
        frames, _, height, width = truths.shape
        iou = tube_iou(answers, truths, ignore)
        self.miou.append(paired_iou(iou))
        self.pairs += len(true_phrases)
        if len(phrases) and len(true_phrases):
            self.found += found_pairs(iou, self.similarity(phrases, true_phrases))
        self.precision.add(
            (frames * height, width),
            [("object", encode(truths[:, g])) for g in range(truths.shape[1])],
            [("object", score, encode(answers[:, p])) for p, score in enumerate(scores)],
            None if ignore is None else encode(ignore),
        )
        return self.miou[-1]

    def add_words(self, caption: str, reference: str) -> None:
        self.captions.append(caption)
        self.references.append(reference)

    def result(self) -> dict:
        """``miou``, ``ap50``, ``recall``, ``meteor``, ``cider``, with how phrases and words were compared."""
        references = [[r] for r in self.references]
        words = [meteor(c, r) for c, r in zip(self.captions, references, strict=True)]
        return {
            "miou": float(np.mean(self.miou)) if self.miou else None,
            "ap50": self.precision.result()["ap50"],
            "recall": self.found / self.pairs if self.pairs else None,
            "pairs": self.pairs,
            "phrases_compared_by": self.measure,
            "meteor": float(np.mean(words)) if words else None,
            "meteor_stages": meteor_stages() if words else None,
            "cider": float(np.mean(cider(self.captions, references))) if words else None,
            "captions": len(self.captions),
        }
