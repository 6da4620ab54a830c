import numpy as np
import pytest

from x2sam.evaluation.metrics.interval import bootstrap_mean


def test_certain_values_have_no_width():
    assert bootstrap_mean([0.5, 0.5, 0.5], [1, 2, 3]) == [0.5, 0.5]


def test_two_pictures_by_hand():
    # Drawing 2 of the pictures 0 and 1 gives a mean of 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_mean([0.0, 1.0], ["a", "b"]) == [0.0, 1.0]
    low, high = bootstrap_mean([0.0, 1.0], ["a", "b"], level=0.4)
    # The middle 40 % lie within the half that is 1/2.
    assert (low, high) == (0.5, 0.5)


def test_close_to_the_normal_interval():
    values = np.random.default_rng(3).normal(0.6, 0.1, 400)
    low, high = bootstrap_mean(values, range(400))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)


def test_objects_of_one_picture_are_drawn_together():
    values = [0.0] * 10 + [1.0] * 10
    by_object = bootstrap_mean(values, range(20))
    by_picture = bootstrap_mean(values, [0] * 10 + [1] * 10)
    assert by_picture == [0.0, 1.0]
    assert by_object[0] > 0.2 and by_object[1] < 0.8


def test_the_same_again_and_nothing_to_say():
    values, groups = list(np.linspace(0, 1, 9)), list(range(9))
    assert bootstrap_mean(values, groups) == bootstrap_mean(values, groups)
    assert bootstrap_mean([0.3, 0.4], ["one", "one"]) is None
    assert bootstrap_mean([], []) is None
    with pytest.raises(ValueError, match="one group"):
        bootstrap_mean([1.0], [])
