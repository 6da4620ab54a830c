"""The order in which things are shown: what is wrong first, and no near copies in a row."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.useful import useful_scores


def test_without_likeness_the_order_is_that_of_the_errors():
    errors = np.array([0.2, 0.9, 0.5, 0.7])
    # corners of a tetrahedron: seen from the middle, the cosine of any two is -1/3
    scores = useful_scores(errors, np.eye(4))
    assert scores == pytest.approx(1 - errors)
    assert useful_scores(errors, np.full((4, 3), np.nan)) == pytest.approx(1 - errors)


def test_a_copy_waits_by_as_much_as_it_is_alike():
    # seen from the middle (0, 0): a and b in the same direction, c in the opposite one, d across: cosines 1, -1, 0
    vectors = np.array([[1.0, 0], [1.0, 0], [-2.0, 0], [0.0, 3], [0.0, -3]])
    scores = useful_scores(np.array([0.9, 0.8, 0.5, 0.4, 0.3]), vectors)
    assert scores == pytest.approx([0.1, 1.0, 0.5, 0.6, 0.7])


def test_twenty_near_copies_do_not_come_in_a_row():
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(30, 64))
    burst = scenes[0] + 0.05 * rng.normal(size=(20, 64))
    errors = np.concatenate([np.full(20, 0.9), rng.uniform(0.3, 0.6, 29)])
    order = useful_scores(errors, np.concatenate([burst, scenes[1:]])).argsort(kind="stable")
    assert order[0] < 20  # one of them, since they are the worst
    assert (order[1:20] < 20).sum() <= 2
    assert (errors.argsort()[::-1][:20] < 20).all()  # by error alone all would come first


def test_what_people_have_seen_goes_before():
    vectors = np.array([[1.0, 0], [1.0, 0], [-1.0, 1], [-1.0, -1]])
    seen = np.array([True, False, False, False])
    scores = useful_scores(np.array([0.1, 0.9, 0.5, 0.4]), vectors, seen)
    assert scores[1] == pytest.approx(1.0) and scores.argsort()[0] == 2


def test_scores_sort_as_things_are_chosen_whatever_their_number():
    rng = np.random.default_rng(1)
    errors, vectors = rng.random(60), rng.normal(size=(60, 4))
    whole = useful_scores(errors, vectors)
    assert ((whole >= 0) & (whole <= 1)).all()
    some = useful_scores(errors, vectors, picks=20)
    first = whole.argsort()[:20]
    assert set(first) <= set(some.argsort()[:60]) and some[first] == pytest.approx(whole[first])
    assert (some[whole.argsort()[20:]] >= whole[first].max() - 1e-9).all()
    assert len(useful_scores(np.zeros(0), np.zeros((0, 4)))) == 0
