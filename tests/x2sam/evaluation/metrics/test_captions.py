"""METEOR and CIDEr by hand from their papers' formulas."""

import math
import sys

import pytest

from x2sam.errors import MeasurementError
from x2sam.evaluation.metrics import captions
from x2sam.evaluation.metrics.captions import cider, meteor, meteor_stages, words_of


@pytest.fixture
def without_wordnet(monkeypatch):
    """Figures must not depend on what is installed for nltk on this machine."""
    monkeypatch.setattr(captions, "_synonyms", lambda: (captions._NoSynonyms(), "exact+stem"))


def test_words():
    assert words_of("A cat's 2 dogs, (sleeping).") == ["a", "cat's", "2", "dogs", "sleeping"]


def test_meteor_by_hand(without_wordnet):
    # 3 words match: P = 3/4, R = 3/3, F = P R / (0.9 P + 0.1 R) = 0.75 / 0.775. "fat" cuts the match into the chunks
    # "the" and "cat sat": penalty = 0.5 x (2 / 3)^3.
    f, penalty = 0.75 / 0.775, 0.5 * (2 / 3) ** 3
    assert meteor("the fat cat sat", ["the cat sat"]) == pytest.approx(f * (1 - penalty))
    # Stems match: sleeping and sleeps. 3 of 3 in one chunk: 1 - 0.5 / 27.
    assert meteor("a cat sleeping", ["a cat sleeps"]) == pytest.approx(1 - 0.5 / 27)
    assert meteor("tree", ["a cat"]) == 0.0 and meteor("a cat", []) == 0.0


def test_the_closest_reference_counts(without_wordnet):
    assert meteor("a cat", ["dogs bark", "a cat"]) == meteor("a cat", ["a cat"])


def test_cider_of_equal_captions_is_ten():
    # Each picture has words of its own, so every n-gram weighs log 2, all cosines are 1 and lengths agree.
    texts = ["a red cat sits here", "two dogs run very far"]
    assert cider(texts, [[t] for t in texts]) == pytest.approx([10.0, 10.0])


def test_cider_by_hand():
    # Two pictures; "the" is in both references and weighs log(2/2) = 0, all others log 2. The caption "the cat" against
    # "the cat": unigram vectors (cat: log 2) are equal, cosine 1; bigram "the cat" equal, 1; no longer n-grams, 0.
    # 10 x (1 + 1) / 4 = 5. The second caption "the cat" against "the dog": nothing in common that weighs.
    assert cider(["the cat", "the cat"], [["the cat"], ["the dog"]]) == pytest.approx([5.0, 0.0])


def test_cider_punishes_repetition_and_length():
    # "cat cat cat" against "cat": counts 3 and 1, both times log 2 =: w. Clipped: min(3w, w) w / (3w x w) = 1/3.
    # Lengths 3 and 1: exp(-4 / 72). Unigrams only: 10 / 4 x 1/3 x exp(-1/18).
    score = cider(["cat cat cat", "dog"], [["cat"], ["dog"]])[0]
    assert score == pytest.approx(10 / 4 / 3 * math.exp(-1 / 18))


def test_cider_mean_of_references_and_single_pictures():
    # Against one equal reference and one without common words the mean is half: unigrams of one word give 10 / 4.
    assert cider(["cat", "dog"], [["cat", "bird"], ["dog"]])[0] == pytest.approx(10 / 4 / 2)
    assert cider(["cat"], [["cat"]]) == [0.0]
    assert cider([], []) == []


def test_the_stages_are_named_and_nltk_is_asked_for(monkeypatch):
    assert meteor_stages() in ("exact+stem", "exact+stem+synonym")
    captions._synonyms.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(MeasurementError, match="pip install"):
        meteor_stages()
