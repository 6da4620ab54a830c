"""The click protocol with an engine that answers with discs."""

import cv2
import numpy as np
import pytest

from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.clicks import evaluate_clicks, first_prompt, middle_stroke, number_of_clicks
from x2sam.structures import Point


def prompts_of(engine):
    return [entry[1] for entry in engine.log if entry[0] == "segment"]


def test_clicks_are_those_of_the_protocol_and_accumulate(engine, data):
    scores = evaluate_clicks(engine, data, clicks=3, limit=1)
    assert len(scores.iou) == 2 and all(len(row) == 3 for row in scores.iou)
    first, second, third = prompts_of(engine)[:3]
    # The middle of a square of 20 pixels from (10, 10): the first of its four innermost pixels.
    assert first.points == (Point(19.5, 19.5),)
    assert second.points[0] == first.points[0] and len(second.points) == 2
    assert third.points[:2] == second.points
    assert all(p.previous is None for p in prompts_of(engine))
    assert {p.object_id for p in prompts_of(engine)} == {"1", "2"}


def test_the_first_score_by_hand(engine, data):
    scores = evaluate_clicks(engine, data, clicks=1, limit=1)
    # A disc at (19, 19) of radius 12 over the square of 400 pixels: what is inside, and what is too much.
    yy, xx = np.mgrid[:64, :96]
    square = (yy >= 10) & (yy < 30) & (xx >= 10) & (xx < 30)
    segment = prompts_of(engine)[0]
    assert segment.points[0].positive
    disc = np.zeros((64, 96), np.uint8)
    cv2.circle(disc, (19, 19), 12, 1, -1)
    disc = disc > 0
    assert scores.iou[0][0] == pytest.approx((disc & square).sum() / (disc | square).sum())


def test_summary_has_the_agreed_keys(engine, data):
    summary = evaluate_clicks(engine, data, clicks=4).summary()
    assert set(summary) == {"objects", "miou", "miou_ci", "things", "stuff", "noc", "noc_cap", "ms"}
    assert summary["noc_cap"] == 4
    for mean, (low, high) in zip(summary["miou"], summary["miou_ci"], strict=True):
        assert low <= mean <= high
    assert summary["objects"] == 4
    assert summary["things"]["objects"] == 3 and summary["stuff"]["objects"] == 1
    both = np.array([summary["things"]["miou"], summary["stuff"]["miou"]])
    assert (3 * both[0] + both[1]) / 4 == pytest.approx(summary["miou"])
    assert set(summary["noc"]) == {"80", "85", "90"}
    assert set(summary["ms"]["first"]) == set(summary["ms"]["next"]) == {"p50", "p95"}


def test_times_of_first_and_next(engine, data):
    scores = evaluate_clicks(engine, data, clicks=2)
    assert len(scores.first_ms) == 2  # one for each picture
    assert len(scores.next_ms) == len(prompts_of(engine)) - 2
    assert [e for e in engine.log if e[0] == "open"] == [("open", None)] * 2
    assert [e for e in engine.log if e[0] == "close"] == [("close",)] * 2


@pytest.mark.parametrize("kind", ["box", "scribble", "mask"])
def test_other_first_prompts(engine, data, kind):
    scores = evaluate_clicks(engine, data, prompt=kind, clicks=2, limit=1)
    first = prompts_of(engine)[0]
    assert not first.points
    assert (len(first.boxes), len(first.strokes), len(first.masks)) == {
        "box": (1, 0, 0),
        "scribble": (0, 1, 0),
        "mask": (0, 0, 1),
    }[kind]
    if kind != "scribble":
        # The square is its own box, so the answer is perfect, and stays so without another question.
        assert scores.iou[0] == [1.0, 1.0]
        assert [p.object_id for p in prompts_of(engine)].count("1") == 1


def test_box_is_tight():
    truth = np.zeros((30, 40), bool)
    truth[5:9, 10:31] = True
    assert first_prompt("box", truth, ~truth & False).boxes == ((10.0, 5.0, 31.0, 9.0),)


def test_a_stroke_runs_along_the_middle():
    truth = np.zeros((60, 50), bool)
    truth[5:55, 20:27] = True  # upright, its middle is column 23
    truth[0:2, 40:42] = True
    stroke = middle_stroke(truth)
    assert np.all(np.abs(stroke[:, 0] - 23.5) <= 3) and np.median(stroke[:, 0]) == 23.5
    assert stroke[0, 1] < 12 and stroke[-1, 1] > 47
    dot = np.zeros((5, 5), bool)
    dot[2, 3] = True
    assert np.array_equal(middle_stroke(dot), [[3.5, 2.5]])


def test_number_of_clicks():
    # The first object reaches 0.8 with its second click, the other one never: (2 + 3) / 2.
    table = np.array([[0.5, 0.8, 0.9], [0.1, 0.2, 0.3]])
    assert number_of_clicks(table, 0.8) == 2.5
    assert number_of_clicks(table, 0.9) == 3.0
    assert number_of_clicks(table, 0.05) == 1.0
    assert number_of_clicks(np.empty((0, 3)), 0.8) is None


def test_an_engine_without_answer_scores_zero(engine, data):
    class Speechless(engine.session_type):
        def segment(self, prompt, frame=0):
            return []

    engine.session_type = Speechless
    assert evaluate_clicks(engine, data, clicks=2).summary()["miou"] == [0.0, 0.0]


def test_wrong_requests(engine, data, tmp_path_factory):
    with pytest.raises(PromptError, match="scribble"):
        evaluate_clicks(engine, data, prompt="lasso")
    with pytest.raises(PromptError, match="1 or more"):
        evaluate_clicks(engine, data, clicks=0)
    with pytest.raises(FramesError, match=r"images\.json"):
        evaluate_clicks(engine, tmp_path_factory.mktemp("empty"))
