"""Multiple choice, by rules and on the tiny network."""

import json

import cv2
import numpy as np
import pytest

from x2sam.errors import FramesError
from x2sam.evaluation.mcq import ChoiceQuestion, LikelyLetters, evaluate_choices, read_questions

ENTRY = {"media": "a.png", "question": "What is it?", "choices": ["a cat", "a dog"], "answer": "b"}


def written(tmp_path, *entries):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(entries))
    return path


def test_reading(tmp_path):
    (asked,) = read_questions(written(tmp_path, {**ENTRY, "category": "animals"}))
    assert asked == ChoiceQuestion(tmp_path / "a.png", "What is it?", ("a cat", "a dog"), 1, "animals")
    order = "Answer with the option's letter from the given choices directly."
    assert asked.text == f"What is it?\nA. a cat\nB. a dog\n{order}"
    (elsewhere,) = read_questions(written(tmp_path, ENTRY), tmp_path / "media")
    assert elsewhere.media == tmp_path / "media" / "a.png"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "C"}, "no letter of its 2 choices"),
        ({"answer": ""}, "lacks 'answer'"),
        ({"question": None}, "lacks 'question'"),
        ({"choices": ["one"]}, "list of 2"),
        ({"media": "/etc/passwd"}, "outside"),
        ({"media": "../b.png"}, "outside"),
    ],
)
def test_wrong_entries_are_named(tmp_path, change, said):
    with pytest.raises(FramesError, match=f"question 2.*{said}"):
        read_questions(written(tmp_path, ENTRY, {**ENTRY, **change}))


def test_wrong_files(tmp_path):
    for content in ("{", "{}", "[]", "[3]"):
        (tmp_path / "q.json").write_text(content)
        with pytest.raises(FramesError, match=r"q\.json"):
            read_questions(tmp_path / "q.json")
    with pytest.raises(FramesError, match=r"none\.json"):
        read_questions(tmp_path / "none.json")


class Always:
    """Finds one letter most likely; media whose name ends in mp4 are videos."""

    def __init__(self, letter):
        self.letter = letter

    def letters(self, question):
        likely = np.full(len(question.choices), -5.0)
        likely[self.letter] = -0.1
        return "video" if question.media.suffix == ".mp4" else "image", likely


def test_accuracy_by_hand(tmp_path):
    questions = [
        ChoiceQuestion(tmp_path / "a.png", "?", ("x", "y"), 0, "colour"),
        ChoiceQuestion(tmp_path / "a.png", "?", ("x", "y", "z", "w"), 2, "colour"),
        ChoiceQuestion(tmp_path / "b.mp4", "?", ("x", "y"), 0),
    ]
    out = evaluate_choices(Always(0), questions).summary()
    assert out["questions"] == 3 and out["accuracy"] == pytest.approx(2 / 3)
    assert out["chance"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert out["image"] == {"questions": 2, "accuracy": 0.5} and out["video"] == {"questions": 1, "accuracy": 1.0}
    assert out["categories"] == {"colour": {"questions": 2, "accuracy": 0.5}}
    # Two media, of which one has half: the interval runs from 1/2 to 1.
    assert out["accuracy_ci"] == [0.5, 1.0]
    limited = evaluate_choices(Always(0), questions, limit=1).summary()
    assert limited["questions"] == 1 and limited["accuracy_ci"] is None and limited["video"]["accuracy"] is None


def test_letters_of_a_real_network(tiny_engine, tmp_path):
    """What generation would say first, restricted to the letters, is what is taken."""
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    question = ChoiceQuestion(tmp_path / "a.png", "What is it?", ("a", "b", "c"), 0)
    kind, likely = LikelyLetters(tiny_engine).letters(question)
    assert kind == "image" and likely.shape == (3,) and (likely < 0).all()
    other = LikelyLetters(tiny_engine).letters(ChoiceQuestion(tmp_path / "a.png", "Which?", ("c", "b", "a"), 0))[1]
    assert not np.array_equal(likely, other)
    assert np.array_equal(likely, LikelyLetters(tiny_engine).letters(question)[1])
    assert not len(tiny_engine.cache)
