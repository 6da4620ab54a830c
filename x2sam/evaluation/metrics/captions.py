"""Captions against reference captions: METEOR and CIDEr.

METEOR (Banerjee and Lavie, 2005; weights of Lavie and Agarwal, 2007) is nltk's. The COCO caption toolkit has METEOR
1.5 instead, a Java program with a table of paraphrases and other weights, so the figures do not compare. Its synonym
stage needs WordNet's files; where they are not installed for nltk, exact words and word stems are compared, and the
result says so.

CIDEr is CIDEr-D (Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015) as the COCO caption
toolkit computes it, which is not on the package index. With g_n the vector of counts x idf of n-grams,
CIDEr-D = 10 / 4 x sum over n = 1 ... 4 of the mean over references of
min(g_n(c), g_n(r)) . g_n(r) / (|g_n(c)| |g_n(r)|) x exp(-(l(c) - l(r))^2 / (2 x 6^2)),
idf = log(pictures / pictures whose references have the n-gram).

Words are lower-cased and punctuation is dropped, in place of the toolkit's Penn Treebank tokenizer (Java as well).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from x2sam.errors import MeasurementError

_LONGEST_GRAM, _SIGMA = 4, 6.0


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers; an apostrophe stays inside its word."""
    return re.findall(r"[a-z0-9]+(?:['’][a-z]+)?", text.lower())


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption against its references; rarity of words is taken over all references given.

    With a single picture every word is in all pictures, so that everything scores 0.
    """
    grams = [[_grams(r) for r in several] for several in references]
    seen: Counter = Counter()
    for several in grams:
        seen.update({gram for reference in several for gram in reference})
    total = math.log(len(references)) if references else 0.0

    def weigh(counts: Counter) -> list[dict]:
        rows: list[dict] = [{} for _ in range(_LONGEST_GRAM)]
        for gram, count in counts.items():
            rows[len(gram) - 1][gram] = count * (total - math.log(max(1.0, seen[gram])))
        return rows

    scores = []
    for caption, several, texts in zip(captions, grams, references, strict=True):
        own, length = weigh(_grams(caption)), len(words_of(caption))
        values = [
            _similarity(own, weigh(counts)) * math.exp(-((length - len(words_of(text))) ** 2) / (2 * _SIGMA**2))
            for counts, text in zip(several, texts, strict=True)
        ]
        scores.append(10.0 * float(np.mean(values)) if values else 0.0)
    return scores


def _grams(text: str) -> Counter:
    words = words_of(text)
    return Counter(tuple(words[i : i + n]) for n in range(1, _LONGEST_GRAM + 1) for i in range(len(words) - n + 1))


def _similarity(own: list[dict], other: list[dict]) -> float:
    """Mean over the lengths of n-grams of the clipped cosine."""
    total = 0.0
    for a, b in zip(own, other, strict=True):
        norm = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
        if norm:
            total += sum(min(v, b[gram]) * b[gram] for gram, v in a.items() if gram in b) / norm
    return total / _LONGEST_GRAM


class _NoSynonyms:
    """In place of WordNet where its files are missing: no word has a synonym."""

    def synsets(self, word: str) -> list:
        return []


@cache
def _synonyms() -> tuple[Any, str]:
    """(what nltk looks synonyms up in, name of the stages)."""
    try:
        from nltk.corpus import wordnet
    except ImportError as problem:
        raise MeasurementError("captions are scored with nltk, which is missing; pip install nltk") from problem
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return _NoSynonyms(), "exact+stem"
    return wordnet, "exact+stem+synonym"


def meteor_stages() -> str:
    """``exact+stem+synonym``, or ``exact+stem`` where nltk has no WordNet. MeasurementError where there is no nltk."""
    return _synonyms()[1]


def meteor(caption: str, references: Sequence[str]) -> float:
    """METEOR 0..1 against the closest reference."""
    from nltk.translate.meteor_score import meteor_score

    if not references:
        return 0.0
    return float(meteor_score([words_of(r) for r in references], words_of(caption), wordnet=_synonyms()[0]))
