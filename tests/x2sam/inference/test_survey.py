"""What is said of an answer in words: signs worked by hand, and that asking for them changes no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam.errors import PromptError, WeightsError
from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.query_masks import Prediction
from x2sam.inference.scheduler import Priority
from x2sam.inference.survey import (
    FILE,
    FOUND,
    MISSED,
    SurveyWeights,
    embedded_survey_weights,
    read_survey_weights,
    signs_of,
)
from x2sam.structures import Mask, Point, Prompt

NAMES = Prompt(categories=("dog", "cat", "sem: grass"))


def prediction() -> Prediction:
    """Three queries of 4 x 4 cells for two names: the left half, the same again less surely, the bottom row."""
    logits = torch.full((3, 4, 4), -4.0)
    logits[:2, :, :2] = 4.0
    logits[1, :, 1] = 0.5
    logits[2, 3] = 4.0
    classes = torch.log(torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.1, 0.6], [0.2, 0.2, 0.6]]))
    return Prediction(logits, classes, FrameSizes((8, 8), (8, 8), (8, 8)))


def test_signs_of_a_mask_and_of_a_name_without_one():
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    found, missed = signs_of(prediction(), [Mask(mask, 0.8, category=0)], 2)
    row = dict(zip(FOUND, found[0].tolist(), strict=True))
    assert row["score"] == pytest.approx(np.log(0.8 / 0.2))
    assert row["inside"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert row["stable"] == pytest.approx(1.0) and row["agreed"] == pytest.approx(1.0)
    # the second query has the same cells, the third shares 2 of 8 + 4 - 2: (0.3 * 1 + 0.2 * 0.2) / 0.5
    assert row["rivals"] == pytest.approx(0.68)
    assert row["large"] == 0.5 and row["small"] == pytest.approx(-np.log(0.501)) and row["whole"] == 1.0
    # of the 16 cells along the border 2 + 2 + 4 + 0
    assert row["edge"] == pytest.approx(0.5) and row["named"] == pytest.approx(np.log(2))
    (other,) = missed
    # of the second name 0.2, 0.1, 0.1
    assert other.tolist() == pytest.approx([np.log(0.2 / 0.8), np.log(0.1 / 0.9), np.log(2), 1.0])


def test_what_is_expected_of_a_frame():
    zero = SurveyWeights(np.zeros(len(FOUND)), np.zeros(len(MISSED)))  # every probability is a half
    none, one, two = (np.zeros((n, len(FOUND))) for n in range(3))
    nowhere, lacking = (np.zeros((n, len(MISSED))) for n in (0, 2))
    assert zero.error(two, nowhere) == pytest.approx(0.5)
    # two names without a mask are one thing that is missed: (0.5 + 1) / (1 + 1)
    assert zero.error(one, lacking) == pytest.approx(0.75)
    # nothing found: either of two is there, 1 - 0.5 * 0.5, and then all of it is missed
    assert zero.error(none, lacking) == pytest.approx(0.75)
    assert zero.error(none, nowhere) == 0.0


def test_weights_are_read_as_they_were_written(tmp_path):
    weights = embedded_survey_weights()
    weights.save(tmp_path / "w.json")
    again = read_survey_weights(tmp_path / "w.json")
    assert (again.found == weights.found).all() and (again.missed == weights.missed).all()
    (tmp_path / "w.json").write_text(FILE.read_text().replace("rivals", "rivalry"))
    with pytest.raises(WeightsError, match="install"):
        read_survey_weights(tmp_path / "w.json")


@pytest.mark.parametrize("prompt", [NAMES, Prompt(text="the red circle")])
def test_asking_in_bulk_changes_no_answer_and_tells_for_nothing(build_engine, sketching_model, prompt, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    engine = build_engine(sketching_model)
    plain = engine.open(picture).segment(prompt)
    session = engine.open(picture)
    bulk = session.segment(prompt, priority=Priority.BATCH)
    assert [(m.score, m.area, m.category) for m in bulk] == [(m.score, m.area, m.category) for m in plain]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "run", None)  # nothing is computed again
        told = session.survey(prompt)
    assert 0 <= told.error <= 1 and np.isfinite(told.vector).all() and len(told.found) == len(bulk)
    fresh = engine.open(picture).survey(prompt)
    assert fresh.error == told.error and (fresh.vector == told.vector).all()
    with pytest.raises(PromptError):
        session.survey(Prompt(points=(Point(3, 3),)))
