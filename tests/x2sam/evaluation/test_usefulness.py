"""How much error an order finds early, and what counts as error."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from x2sam.data.readers.labelmaps import LabelMapDataset
from x2sam.errors import PromptError
from x2sam.evaluation.usefulness import (
    Looked,
    errors_of,
    evaluate_usefulness,
    found_first,
    kinds_of,
    prompt_of,
    ratios,
)
from x2sam.structures import Mask


def test_error_of_the_first_ones_against_the_mean():
    errors = np.array([0.9, 0.1, 0.5, 0.3, 0.7])  # mean 0.5
    scores = np.array([0.1, 0.9, 0.3, 0.4, 0.2])
    assert found_first(scores, errors, 0.2) == pytest.approx(0.9 / 0.5)
    assert found_first(scores, errors, 0.4) == pytest.approx((0.9 + 0.7) / 2 / 0.5)
    assert found_first(np.zeros(5), errors, 0.2) == pytest.approx(1.0)  # no order finds what any finds
    assert found_first(scores, np.zeros(5), 0.2) == 1.0


def square(x: int, size: int = 4) -> np.ndarray:
    mask = np.zeros((8, 16), bool)
    mask[:size, x : x + size] = True
    return mask


KINDS = {"cat": ([1, 2], True), "grass": ([3], False)}


def labels() -> np.ndarray:
    found = np.zeros((8, 16), np.uint8)
    found[square(0)], found[square(4)] = 1, 2
    found[6:] = 3
    return found


def test_a_phrase_may_mean_one_object_or_all_of_its_kind():
    one, both, half = square(0), square(0) | square(4), square(2)
    for mask, error in ((one, 0.0), (both, 0.0), (half, 0.5)):  # half of both: 16 of 32 pixels
        assert errors_of([Mask(mask, 0.5)], labels(), KINDS, ["cat"], "words")[0] == pytest.approx(error)
    assert errors_of([], labels(), KINDS, ["cat"], "words") == (1.0, 0.0, ())


def test_of_a_list_every_object_counts_and_a_mask_with_the_wrong_name_finds_none():
    masks = [Mask(square(0), 0.9, category=0), Mask(square(4), 0.8, category=1)]
    error, least, each = errors_of(masks, labels(), KINDS, ["cat", "grass"], "labels")
    # the first cat is found, the second and the grass are not
    assert error == pytest.approx(2 / 3) and least == 0.8 and each == (0.0, 1.0)
    assert prompt_of(KINDS, ["cat", "grass"], "labels").categories == ("cat", "sem: grass")


def test_orders_are_compared_on_the_same_answers():
    noted = [
        Looked(SimpleNamespace(error=e, vector=np.eye(6)[k]), true, 0.5, ())
        for k, (e, true) in enumerate([(0.9, 1.0), (0.2, 0.0), (0.1, 0.2), (0.3, 0.3), (0.4, 0.4), (0.5, 0.5)])
    ]
    found = ratios(noted)
    assert found["useful"][0.2] == found["uncertain"][0.2] == found["best possible"][0.2] == pytest.approx(1 / 0.4)
    assert found["score"][0.2] == pytest.approx(1.0)


@pytest.mark.parametrize("ask", ["words", "labels"])
def test_a_network_is_asked_once_for_each_question(build_engine, data, monkeypatch, ask):
    engine, asked = build_engine(), []
    opened = engine.open
    monkeypatch.setattr(engine, "open", lambda picture: asked.append(1) or opened(picture))
    found = evaluate_usefulness(engine, data, ask, seeds=(0, 1))
    kinds = [kinds_of(record) for record in LabelMapDataset(data).records]
    questions = sum(min(len(one), 2) if ask == "words" else bool(one) for one in kinds)
    assert len(asked) == questions and found["pictures"] == sum(map(bool, kinds))
    best = found["ratio"]["best possible"]
    for order in found["ratio"].values():
        assert all(0 <= order[share]["mean"] <= best[share]["mean"] + 1e-9 for share in best)
        assert np.isfinite(order["0.2"]["sd"])


def test_what_is_asked_must_be_known(data):
    with pytest.raises(PromptError, match="words, labels"):
        evaluate_usefulness(None, data, "names")
