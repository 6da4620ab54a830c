"""J and F against masks worked by hand. Contours lie on the upper left side of each step."""

import numpy as np
import pytest

from x2sam.evaluation.metrics.boundary import ObjectScores, boundary_f, contour, mean_jf, reach_of


def drawing(*rows):
    return np.array([[c == "x" for c in row] for row in rows])


def columns(width, first, last, height=20):
    mask = np.zeros((height, width), bool)
    mask[:, first : last + 1] = True
    return mask


def test_contour_of_a_square():
    square = drawing(
        "......",
        "......",
        "..xx..",
        "..xx..",
        "......",
    )
    # A pixel is on the contour where it differs from its right, lower or lower right neighbour.
    assert np.array_equal(
        contour(square),
        drawing(
            "......",
            ".xxx..",
            ".x.x..",
            ".xxx..",
            "......",
        ),
    )


def test_the_border_of_the_picture_is_no_contour():
    assert not contour(np.ones((4, 5), bool)).any()
    # Columns 2 and more: the step is between 1 and 2, on all rows, also the last.
    assert np.array_equal(contour(columns(5, 2, 4, 4)), columns(5, 1, 1, 4))


def test_tolerance_in_pixels():
    # 480 x 854: the diagonal is 979.65, times 0.008 is 7.84
    assert reach_of((480, 854)) == 8
    assert reach_of((20, 20)) == 1
    assert reach_of((20, 20), 3) == 3


def test_shifted_contours_match_up_to_the_tolerance():
    # Contours at columns 4 and 6: two pixels apart.
    a, b = columns(20, 5, 19), columns(20, 7, 19)
    assert boundary_f(a, a) == 1.0
    assert boundary_f(a, b, tolerance=2) == 1.0
    assert boundary_f(a, b, tolerance=1) == 0.0
    # Two steps to the side and one down are further than 2: the tolerance is round, not square.
    one, other = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    one[:3, :3], other[:4, :5] = True, True
    assert boundary_f(one, other, tolerance=3) == 1.0
    # Contours by hand. one: row 2 (columns 0-2), column 2 (rows 0-2), corner shared: 5 pixels.
    # other: row 3 (columns 0-4), column 4 (rows 0-3): 8 pixels. Within 2 of the other contour:
    # of one: row 2 is one above row 3 (3 pixels), column 2 is two left of column 4 (3 pixels): all 5.
    # of other: row 3, columns 0-3 (distance 1, 1, 1, root 2); (3, 4): distance root 5, too far; column 4, rows 0-2.
    precision, recall = 5 / 5, 7 / 8
    assert boundary_f(one, other, tolerance=2) == pytest.approx(2 * precision * recall / (precision + recall))


def test_half_of_the_contour_found():
    # Truth has contours at columns 2 and 6, the prediction at 2 only: precision 1, recall 1/2.
    assert boundary_f(columns(20, 3, 19), columns(20, 3, 6)) == pytest.approx(2 / 3)


def test_empty_masks():
    empty, some = np.zeros((20, 20), bool), columns(20, 3, 6)
    assert boundary_f(empty, empty) == 1.0
    assert boundary_f(some, empty) == 0.0
    assert boundary_f(empty, some) == 0.0


def test_ignored_pixels_are_taken_out_of_both():
    truth, prediction = columns(20, 3, 6), columns(20, 3, 12)
    assert boundary_f(prediction, truth) < 1
    assert boundary_f(prediction, truth, columns(20, 7, 19)) == 1.0


def test_means_over_frames_then_objects():
    one, two = ObjectScores([1.0, 0.0], [0.5, 0.5]), ObjectScores([0.2], [0.9])
    scores = mean_jf([one, two, ObjectScores()])
    assert scores == pytest.approx({"J": (0.5 + 0.2) / 2, "F": (0.5 + 0.9) / 2, "JF": (0.35 + 0.7) / 2})
    with pytest.raises(ValueError, match="no object"):
        mean_jf([ObjectScores()])
