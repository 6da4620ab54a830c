"""Objects followed through frames whose truth is known, without a network's help."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from x2sam.errors import WeightsError
from x2sam.inference.follow import Follower, Scenes, exclude
from x2sam.inference.follow_terms import FINE_TERMS, ROUGH_TERMS
from x2sam.inference.follow_weights import GATES, embedded_weights, plain_weights, read_weights

SIZE = (120, 160)
NOTHING = np.full((16, 16), 0.5, np.float32)  # a network that does not know
BLIND = np.zeros((16, 16, 4), np.float32)


def texture(seed: int, tint: tuple[float, float, float]) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, SIZE).astype(np.uint8)
    grey = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 40, 215, cv2.NORM_MINMAX)
    return np.clip(grey[..., None] * np.array(tint), 0, 255).astype(np.uint8)


def frame(x: int, y: int = 40, shown: bool = True, hidden_from: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A square of 36 pixels at x, y (parts of it may be outside); ``hidden_from``: a wall from that column on."""
    picture, mask = texture(1, (0.7, 1.0, 0.8)), np.zeros(SIZE, bool)
    if shown:
        x0, x1, y0, y1 = max(x, 0), min(x + 36, SIZE[1]), max(y, 0), min(y + 36, SIZE[0])
        if x0 < x1 and y0 < y1:
            mask[y0:y1, x0:x1] = True
            picture[y0:y1, x0:x1] = texture(2, (1.0, 0.6, 0.5))[y0 - y : y1 - y, x0 - x : x1 - x]
    if hidden_from is not None:
        picture[:, hidden_from:] = texture(3, (0.5, 0.6, 1.0))[:, hidden_from:]
        mask[:, hidden_from:] = False
    return picture, mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def follow(clip: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    scenes, follower = Scenes(), Follower()
    found = []
    for number, (picture, mask) in enumerate(clip):
        scenery = scenes.look(picture, BLIND)
        if number == 0:
            follower.learn(scenery, mask)
            found.append(mask)
            continue
        probability = follower.decide(scenery, follower.expect(scenery), NOTHING)
        follower.settle(scenery, probability)
        found.append(probability > 0.5)
    return found


def test_a_moving_square_is_followed():
    clip = [frame(20 + 4 * k, 40 - k) for k in range(16)]
    found = follow(clip)
    assert min(iou(f, m) for f, (_, m) in zip(found, clip, strict=True)) > 0.9


def test_an_object_that_leaves_has_an_empty_mask_and_comes_back():
    places = [90 + 8 * k for k in range(11)] + [170] * 4 + [162 - 8 * k for k in range(9)]
    clip = [frame(x) for x in places]
    found = follow(clip)
    away = [k for k, (_, m) in enumerate(clip) if not m.any()]
    assert len(away) > 4 and not any(found[k].any() for k in away)
    assert iou(found[-1], clip[-1][1]) > 0.8


def test_what_hides_an_object_is_not_taken_for_it():
    clip = [frame(30 + 5 * k, hidden_from=100) for k in range(18)]
    found = follow(clip)
    assert not found[-1][:, 104:].any() and not clip[-1][1].any() and found[-1].sum() < 40


def test_the_same_clip_gives_the_same_masks():
    clip = [frame(20 + 4 * k) for k in range(5)]
    assert all(np.array_equal(a, b) for a, b in zip(follow(clip), follow(clip), strict=True))


def test_frames_of_another_size():
    scenes, follower = Scenes(), Follower()
    picture, mask = frame(40)
    follower.learn(scenes.look(picture, BLIND), mask)
    other = cv2.resize(picture, (200, 150))
    scenery = scenes.look(other, BLIND)
    found = follower.decide(scenery, follower.expect(scenery), NOTHING)
    assert found.shape == (150, 200) and iou(found > 0.5, cv2.resize(mask.astype(np.uint8), (200, 150)) > 0) > 0.7


def test_an_object_known_to_be_away():
    scenes, follower = Scenes(), Follower()
    picture, mask = frame(40)
    follower.learn(scenes.look(picture, BLIND), mask)
    scenery = scenes.look(frame(40, shown=False)[0], BLIND)
    follower.learn(scenery, np.zeros(SIZE, bool))
    assert follower.lost and follower.expect(scenery) is None


def test_objects_exclude_one_another():
    a, b = np.full((4, 4), 0.9, np.float32), np.full((4, 4), 0.8, np.float32)
    b[0] = 0.0
    found = exclude({"a": a, "b": b})
    assert ((found["a"] > 0.5) & (found["b"] > 0.5)).sum() == 0
    assert found["a"][0].min() > 0.85 and found["a"][2].min() > found["b"][2].max()
    assert exclude({"a": a})["a"] is a


def test_weights_survive_the_file_and_garbled_ones_are_named(tmp_path):
    path = tmp_path / "weights.json"
    weights = plain_weights()
    weights.save(path)
    again = read_weights(path)
    for stage, names in (("rough", ROUGH_TERMS), ("fine", FINE_TERMS)):
        for regime in ("seen", "lost"):
            assert again.table[stage][regime].shape == (len(GATES), len(names))
            assert np.allclose(again.table[stage][regime], weights.table[stage][regime], atol=1e-3)
    path.write_text(path.read_text().replace("carried_around", "something"))
    with pytest.raises(WeightsError, match="rough/seen"):
        read_weights(path)
    with pytest.raises(WeightsError, match="can't be read"):
        read_weights(tmp_path / "missing.json")


def test_the_embedded_weights_are_whole():
    table = embedded_weights().table
    assert all(np.isfinite(w).all() and np.abs(w).max() < 100 for stage in table.values() for w in stage.values())
