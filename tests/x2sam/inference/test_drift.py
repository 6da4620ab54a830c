"""The drift radar on a square whose follower does well, slips, or loses it."""

from __future__ import annotations

import numpy as np
import pytest
from test_follow import BLIND, frame

from x2sam.errors import WeightsError
from x2sam.inference.drift import Look, Radar, Rating, Reference, disagreement, met_rating
from x2sam.inference.drift_weights import (
    REGIMES,
    DriftWeights,
    embedded_drift_weights,
    plain_drift_weights,
    read_drift_weights,
)
from x2sam.inference.follow import Follower, Scenes

SIZE = (120, 160)


def square(x: int, y: int = 40) -> np.ndarray:
    return frame(x, y)[1].astype(np.float32)


def rated(answers: dict[int, tuple[np.ndarray, float]], places: list[int]) -> list[Rating]:
    """Ratings of a square that goes to ``places``; ``answers`` are wrong masks and scores on some frames, on others
    the truth is found."""
    scenes, follower, radar = Scenes(), Follower(), Radar(plain_drift_weights())
    ratings = []
    for number, x in enumerate(places):
        picture, mask = frame(x)
        scenery = scenes.look(picture, BLIND)
        if not number:
            follower.learn(scenery, mask)
            radar.learn(scenery, follower)
            continue
        carried = follower.expect(scenery)
        found, score = answers.get(number, (mask.astype(np.float32), 0.9))
        follower.settle(scenery, found)
        ratings.append(radar.rate(scenery, follower, Look(carried, found, score, found)))
    return ratings


def sign(rating: Rating, name: str) -> float:
    return float(rating.signs[REGIMES[rating.regime].index(name)])


PLACES = [20 + 4 * k for k in range(14)]


def test_a_good_track_shows_few_signs():
    ratings = rated({}, PLACES)
    assert all(r.regime == "seen" and r.doubt < 0.2 for r in ratings)
    last = ratings[-1]
    assert sign(last, "anchor") < 0.6 and sign(last, "lately") < 0.5 and sign(last, "jump") < 0.05
    assert sign(last, "carried") < 0.1 and sign(last, "away") == pytest.approx(np.log(14))


def test_a_slip_is_seen_when_it_happens_and_later():
    """From frame 6 on the mask stays where nothing is."""
    wrong = (square(100, 4), 0.3)
    slipped = rated(dict.fromkeys(range(6, 14), wrong), PLACES)
    good = rated({}, PLACES)
    assert slipped[5].doubt > 0.5 > good[5].doubt and sign(slipped[5], "carried") > 0.8
    # Then it is steady again, but what was carried back and what has added up remember.
    assert sign(slipped[-1], "carried") < 0.3
    for name in ("anchor", "colour", "carried_since", "jump_since", "score_since"):
        assert sign(slipped[-1], name) >= sign(good[-1], name)
    assert sign(slipped[-1], "anchor") > 0.9 and sign(slipped[-1], "colour") > sign(good[-1], "colour") + 0.3


def test_growth_counts_up_to_what_was_fitted_to():
    """The square is found half as large again, then fifteen times as large."""
    wider, all_of_it = square(20), np.ones(SIZE, np.float32)
    columns = np.flatnonzero((wider > 0.5).any(0))
    wider[:, columns[-1] : columns[-1] + len(columns) // 2] = wider[:, columns[len(columns) // 2], None]
    ratings = rated({1: (wider, 0.9), 2: (all_of_it, 0.9)}, [20, 20, 20])
    assert sign(ratings[0], "larger") == pytest.approx(np.log(1.5), abs=0.05)
    assert sign(ratings[1], "larger") == 1.0 and all_of_it.sum() > 8 * square(20).sum()


def test_out_of_sight_and_back():
    gone = (np.zeros(SIZE, np.float32), 0.1)
    ratings = rated(dict.fromkeys((5, 6, 7), gone), PLACES)
    assert [r.regime for r in ratings] == ["seen"] * 4 + ["lost"] * 3 + ["seen"] * 6
    assert sign(ratings[6], "since") == pytest.approx(np.log(4)) and sign(ratings[4], "inside") == 1.0
    assert sign(ratings[7], "again") == 1.0 and sign(ratings[3], "again") == 0.0


def test_a_reference_goes_with_the_flow():
    mask = square(40)
    reference = Reference(mask)
    for _ in range(3):
        reference.go(np.full((*SIZE, 2), (5, -2), np.float32))
    assert reference.age == 3
    assert reference.apart(square(55, 34)) < 1e-3 and reference.apart(square(40)) > 0.3
    assert reference.apart(np.zeros(SIZE, np.float32)) == 1.0
    assert disagreement(np.zeros(SIZE), np.zeros(SIZE)) == 0.0


def test_frames_of_another_size_start_anew():
    scenes, follower, radar = Scenes(), Follower(), Radar(plain_drift_weights())
    picture, mask = frame(40)
    scenery = scenes.look(picture, BLIND)
    follower.learn(scenery, mask)
    radar.learn(scenery, follower)
    scenery = scenes.look(picture[:90, :100], BLIND)
    carried = follower.expect(scenery)
    found = mask[:90, :100].astype(np.float32)
    follower.settle(scenery, found)
    assert 0 < radar.rate(scenery, follower, Look(carried, found, 0.9, found)).doubt < 1


def test_walks_that_agree_are_believed():
    weights = plain_drift_weights()
    one = Rating("seen", np.zeros(1), 0.3)
    doubts = [met_rating(one, Rating("lost", np.zeros(1), d), apart, 4, weights).doubt for d, apart in
              ((0.1, 0.05), (0.1, 0.9), (0.8, 0.9))]  # fmt: skip
    assert doubts == sorted(doubts) and doubts[0] < doubts[1] < doubts[2]


def test_weights_survive_the_file_and_garbled_ones_are_named(tmp_path):
    path = tmp_path / "weights.json"
    weights = plain_drift_weights()
    weights.save(path)
    again = read_drift_weights(path)
    assert all(np.allclose(again.table[r], weights.table[r]) for r in REGIMES)
    path.write_text(path.read_text().replace("carried_since", "something"))
    with pytest.raises(WeightsError, match="seen"):
        read_drift_weights(path)
    with pytest.raises(WeightsError, match="can't be read"):
        read_drift_weights(tmp_path / "missing.json")


def test_the_embedded_weights_are_whole_and_doubt_never_reassures():
    weights: DriftWeights = embedded_drift_weights()
    for regime, names in REGIMES.items():
        row = dict(zip(names, weights.table[regime], strict=True))
        assert np.isfinite(list(row.values())).all()
        assert all(row[n] >= 0 for n in ("score", "net", "carried", "anchor", "apart") if n in row)
