"""The click protocol on examples worked out by hand."""

import numpy as np
import pytest

from x2sam.data.clicks import next_click, sample_training_clicks
from x2sam.data.masks import inner_distance
from x2sam.structures import Point


def area(size, *boxes):
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def test_the_first_click_is_in_the_middle_of_the_largest_part():
    truth = area((30, 40), (2, 2, 7, 7), (20, 10, 31, 21))
    assert next_click(truth) == Point(25.5, 15.5, True)


def test_the_border_of_the_picture_is_an_edge():
    # A strip along the left border, 5 wide: its middle column, not the border column.
    assert next_click(area((9, 20), (0, 0, 5, 9))) == Point(2.5, 2.5, True)
    assert inner_distance(np.ones((5, 5), bool)).tolist()[2] == [1, 2, 3, 2, 1]


def test_missed_is_positive_and_exceeded_is_negative():
    truth = area((20, 30), (0, 0, 10, 20))
    assert next_click(truth, area((20, 30), (0, 0, 10, 13))) == Point(3.5, 16.5, True)
    assert next_click(truth, area((20, 30), (0, 0, 17, 20))) == Point(13.5, 3.5, False)


def test_missed_and_exceeded_are_never_joined():
    # 36 missed pixels touch 49 exceeded ones: each error counts alone, the larger is answered.
    truth, prediction = area((20, 20), (0, 0, 6, 6)), area((20, 20), (6, 6, 13, 13))
    assert next_click(truth, prediction) == Point(9.5, 9.5, False)
    assert next_click(truth, area((20, 20), (6, 6, 11, 11))) == Point(2.5, 2.5, True)


def test_of_equal_errors_the_missed_one_comes_first():
    truth, prediction = area((10, 20), (0, 0, 5, 5)), area((10, 20), (10, 0, 15, 5))
    assert next_click(truth, prediction) == Point(2.5, 2.5, True)


def test_diagonal_neighbours_are_one_part():
    truth = area((12, 12), (0, 0, 3, 3), (3, 3, 6, 6), (8, 0, 12, 4))
    # 9 + 9 pixels beat 16.
    assert next_click(truth) == Point(1.5, 1.5, True)


def test_ignored_pixels_count_neither_way():
    truth, prediction = area((20, 30), (0, 0, 10, 20)), area((20, 30), (0, 0, 25, 20))
    ignore = area((20, 30), (10, 0, 22, 20))
    assert next_click(truth, prediction, ignore) == Point(23.5, 1.5, False)
    assert next_click(truth, prediction, ignore | prediction) is None


def test_nothing_wrong_means_no_click():
    truth = area((8, 8), (1, 1, 5, 5))
    assert next_click(truth, truth) is None
    assert next_click(np.zeros((8, 8), bool)) is None


def test_an_empty_prediction_is_the_first_click():
    truth = area((30, 40), (20, 10, 31, 21))
    assert next_click(truth, np.zeros_like(truth)) == next_click(truth)


@pytest.mark.parametrize("seed", range(10))
def test_clicks_walk_to_the_truth(seed):
    rng = np.random.default_rng(seed)
    truth = area((40, 40), *[(x, y, x + 8, y + 9) for x, y in rng.integers(0, 30, (4, 2))])
    mask = np.zeros_like(truth)
    for _ in range(400):
        click = next_click(truth, mask)
        if click is None:
            break
        row, col = int(click.y), int(click.x)
        assert truth[row, col] != mask[row, col] and truth[row, col] == click.positive
        mask[row, col] = click.positive
    assert np.array_equal(mask, truth)


def test_training_clicks_lie_in_the_error_with_the_right_sign():
    truth, prediction = area((40, 60), (5, 5, 30, 30), (40, 20, 55, 38)), area((40, 60), (15, 5, 45, 30))
    signs = set()
    for seed in range(40):
        clicks = sample_training_clicks(truth, prediction, np.random.default_rng(seed), 3)
        assert clicks == sample_training_clicks(truth, prediction, np.random.default_rng(seed), 3)
        assert len(clicks) == 3 and len(set(clicks)) == 3
        for click in clicks:
            row, col = int(click.y), int(click.x)
            assert truth[row, col] != prediction[row, col] and truth[row, col] == click.positive
            signs.add(click.positive)
    assert signs == {True, False}


def test_training_clicks_run_out_with_the_error():
    truth = area((10, 10), (3, 3, 5, 5))
    assert sample_training_clicks(truth, truth, np.random.default_rng(0), 3) == []
    assert len(sample_training_clicks(truth, None, np.random.default_rng(0), 9)) < 9
    ignore = np.ones_like(truth)
    assert sample_training_clicks(truth, None, np.random.default_rng(0), 3, ignore) == []
