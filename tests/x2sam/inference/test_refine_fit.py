"""Fitting the snap step: simulated networks, the requests they lead to, and weights that improve on the network."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from x2sam.errors import WeightsError
from x2sam.inference import refine_fit
from x2sam.inference.refine import snap
from x2sam.inference.refine_simulation import GOOD, WEAK, SimulatedNetwork
from x2sam.inference.refine_weights import REGIMES, STAGES, embedded_weights, read_weights
from x2sam.structures import Point


def picture(seed, height=96, width=128):
    """A textured ellipse on another texture, and its truth."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.uint8)
    cv2.ellipse(truth, (60, 48), (34, 22), rng.uniform(0, 180), 0, 360, 1, -1)
    colours = rng.integers(30, 220, (2, 3))
    image = colours[truth] + rng.normal(0, 6, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), truth > 0


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def upsampled(probability, size):
    return cv2.resize(probability, size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight pictures in the layout of the training data."""
    root = tmp_path_factory.mktemp("data")
    entries = []
    for k in range(8):
        image, truth = picture(k)
        cv2.imwrite(str(root / f"{k}.png"), image[..., ::-1])
        cv2.imwrite(str(root / f"{k}_mask.png"), truth.astype(np.uint8))
        entry = {"file": f"{k}.png", "mask": f"{k}_mask.png", "width": 128, "height": 96, "source": "made"}
        entries.append({**entry, "objects": [{"id": 1, "category": "egg", "thing": True}]})
    (root / "train.json").write_text(json.dumps({"pictures": entries}))
    return root


def test_better_networks_are_nearer_to_the_truth():
    scores = {"none": [], "weak": [], "good": []}
    for k in range(12):
        image, truth = picture(k)
        for name, quality in (("none", None), ("weak", WEAK), ("good", GOOD)):
            network = SimulatedNetwork(image, truth, quality, np.random.default_rng(k))
            answer = network([Point(60, 48)])
            assert answer.shape == (60, 80) and answer.dtype == np.float32 and 0 <= answer.min() <= answer.max() <= 1
            scores[name].append(iou(upsampled(answer, truth.shape), truth))
    assert np.mean(scores["none"]) < np.mean(scores["weak"]) < np.mean(scores["good"]) - 0.1
    assert np.mean(scores["good"]) > 0.75


def test_played_requests_follow_the_click_protocol():
    image, truth = picture(3)
    rng = np.random.default_rng(0)
    network = SimulatedNetwork(image, truth, WEAK, rng)
    met = list(refine_fit.play(image, truth, truth & False, network, snap, True, rng))
    assert [len(m.scene.points) for m in met] == list(range(len(met)))
    assert met[0].scene.regime == "box" and len(met[0].scene.boxes) == 1
    for m in met:
        assert m.truth.shape == m.scene.grid.shape
        # All of the object is on the grid, and its cells add up to its area.
        assert m.share * m.truth.sum() == pytest.approx(1, abs=0.02) and m.outside < 0.02


def test_fitted_weights_beat_the_network_alone(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(refine_fit, "PER_SOURCE", 8)
    target = tmp_path / "snap.json"
    refine_fit.main(["--data", str(data), "--out", str(target), "--rounds", "1", "--steps", "60"])
    assert "round 1 of 1" in capsys.readouterr().out
    weights, plain = read_weights(target), refine_fit.plain_weights()
    better, worse = [], []
    for k in range(20, 26):
        image, truth = picture(k)
        answer = SimulatedNetwork(image, truth, WEAK, np.random.default_rng(k))([Point(60, 48)])
        better.append(iou(snap(image, answer, [Point(60, 48)], weights=weights), truth))
        worse.append(iou(snap(image, answer, [Point(60, 48)], weights=plain), truth))
    assert np.mean(better) > np.mean(worse) + 0.1


@pytest.mark.parametrize("networks", ["weak", "strong"])
def test_weights_survive_saving(tmp_path, networks):
    weights = embedded_weights(networks)
    weights.save(tmp_path / "again.json")
    again = read_weights(tmp_path / "again.json")
    for stage, names in STAGES.items():
        for regime in REGIMES:
            assert again.table[stage][regime].shape == (3, len(names))
            assert np.allclose(again.table[stage][regime], weights.table[stage][regime], atol=1e-6)


def test_weights_of_another_version_are_refused(tmp_path):
    embedded_weights().save(tmp_path / "snap.json")
    content = json.loads((tmp_path / "snap.json").read_text())
    for change, words in (
        (lambda c: c["rough"]["terms"].reverse(), "terms of stage 'rough'"),
        (lambda c: c["fine"].pop("box"), "stage 'fine' is incomplete"),
        (lambda c: c["fine"]["box"]["always"].pop(), "fine"),
        (lambda c: c.pop("fine"), "fine"),
    ):
        broken = json.loads(json.dumps(content))
        change(broken)
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(WeightsError, match=words):
            read_weights(tmp_path / "broken.json")
    with pytest.raises(WeightsError, match="can't be read"):
        read_weights(tmp_path / "missing.json")


def test_objects_of_pictures_that_are_held_out(data):
    """Those or all others, nothing twice."""
    drawn = [
        {picture.tobytes() for picture, *_ in refine_fit.objects_of(data, np.random.default_rng(0), every, held=held)}
        for every, held in ((0, False), (3, False), (3, True), (0, True))
    ]
    whole, others, held, none = drawn
    assert len(whole) == 8 and held and not none
    assert not held & others and held | others == whole
