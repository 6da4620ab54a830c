"""What corrections teach: who is corrected, who is tested, and that every part of the experiment runs."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from x2sam.cli import app
from x2sam.data.readers.labelmaps import LabelMapDataset
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.errors import FramesError
from x2sam.evaluation.comparing import ClickTable
from x2sam.evaluation.learning import SHIFTS, Domain, corrected, fewer_clicks
from x2sam.training.adapt import HELD, TRAIN

SIDE, COUNT = 48, 24


@pytest.fixture
def data(tmp_path):
    """Two sources of pictures with two objects each."""
    root, entries = tmp_path / "data", []
    for source in ("a", "b"):
        (root / source).mkdir(parents=True)
        for number in range(COUNT):
            labels = np.zeros((SIDE, SIDE), np.uint8)
            labels[4:20, 4 : 20 + number % 9], labels[28:44, 20:44] = 1, 2
            picture = np.random.default_rng(number).integers(40, 90, (SIDE, SIDE, 3), np.uint8)
            picture[labels > 0] += 120
            cv2.imwrite(str(root / source / f"{number}.png"), picture)
            cv2.imwrite(str(root / source / f"{number}-m.png"), labels)
            about = {"width": SIDE, "height": SIDE, "source": source, "complete": True}
            objects = [{"id": 1, "category": "cup"}, {"id": 2, "category": "plate"}]
            names = {"file": f"{source}/{number}.png", "mask": f"{source}/{number}-m.png"}
            entries.append({**names, **about, "objects": objects})
    (root / "train.json").write_text(json.dumps({"pictures": entries}))
    return root


def test_nobody_is_tested_on_what_was_corrected(data, tmp_path):
    domain = Domain(LabelMapDataset(data), "b", "negative")
    test, rest = domain.places(test=True), domain.places(test=False)
    assert not set(test) & set(rest) and sorted(test + rest) == list(range(COUNT, 2 * COUNT))
    assert 2 <= len(test) <= COUNT // 2
    assert corrected(domain, 7, 0, tmp_path / "out") == 4, "two masks a picture, and one on the last"
    every = OwnPictures(tmp_path / "out")
    samples = [every.bare(index) for index in range(len(every))]
    assert sum(len(sample.objects) for sample in samples) == 7
    # the picture is shifted, the mask is the truth
    place = int(samples[0].source.split("-")[1].split(",")[0])
    assert place in rest
    shown, _labels = domain.data.read(place)
    np.testing.assert_array_equal(samples[0].frames[0], 255 - shown[..., ::-1])
    # as in service, some are held out of the learning, whatever the seed
    corrected(domain, 2 * len(rest), 0, tmp_path / "all")
    names = {split: sources(tmp_path / "all", split) for split in (TRAIN, HELD)}
    assert names[TRAIN] and names[HELD] and not names[TRAIN] & names[HELD] and len(names[TRAIN]) > len(names[HELD])
    assert sources(tmp_path / "out", HELD) <= names[HELD] and sources(tmp_path / "out", TRAIN) <= names[TRAIN]
    again = tmp_path / "again"
    corrected(domain, 7, 1, again)
    assert (again / "manifest.json").read_text() != (tmp_path / "out" / "manifest.json").read_text(), "another seed"
    with pytest.raises(FramesError, match="less than 1000"):
        corrected(domain, 1000, 0, tmp_path / "more")


def sources(place, split):
    opened = OwnPictures(place, split)
    return {opened.bare(index).source.split(",")[0] for index in range(len(opened))}


def test_shifts_are_the_same_every_time(data):
    picture, _ = LabelMapDataset(data).read(0)
    for name, shift in SHIFTS.items():
        first = shift(picture, 3)
        assert first.shape == picture.shape and first.dtype == np.uint8, name
        np.testing.assert_array_equal(first, shift(picture, 3))
    with pytest.raises(FramesError, match="no shift 'fog'"):
        Domain(LabelMapDataset(data), "a", "fog")
    with pytest.raises(FramesError, match="it has a, b"):
        Domain(LabelMapDataset(data), "c")


def test_a_source_can_be_left_out_of_training(data):
    dataset = LabelMapDataset(data)
    weights = dataset.weights(leave_out=("b",))
    assert weights[COUNT:].sum() == 0 and np.isclose(weights.sum(), 1)
    with pytest.raises(FramesError, match="no pictures left"):
        dataset.weights(leave_out=("a", "b"))
    with pytest.raises(FramesError, match="no source cups to leave out; it has a, b"):
        dataset.weights(leave_out=("a", "cups"))


def test_the_command(data, tmp_path, sketching_model, tiny_tokenizer, monkeypatch):
    sketching_model.save_pretrained(tmp_path / "start", tiny_tokenizer)
    told = tmp_path / "told.json"
    words = ["evaluate", "learning", "--data", str(data), "--source", "a", "--shift", "speckle", "--masks", "6,8"]
    words += ["--seeds", "2", "--steps", "1", "--elsewhere", str(data), "--pictures", "2", "--clicks", "2"]
    words += ["--outline", "0", "--model", str(tmp_path / "start"), "--device", "cpu", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--json", str(told)])
    assert result.exit_code == 0, result.output
    found = json.loads(told.read_text())
    assert [row["masks"] for row in found["after"]] == [6, 8]
    assert found["before"]["domain"]["objects"] == 4 and len(found["after"][1]["domain"]["differences"]) == 2
    assert len(found["after"][0]["elsewhere"]["miou"]) == 3 and len(found["after"][0]["network"]["miou"]) == 2
    for trial in found["after"][1]["trials"]:
        assert trial["steps"] == 1 and trial["seconds"] > 0
        assert not trial["promoted"] and "held-out masks" in trial["reason"], "so few decide nothing"
    # the same call goes on: nothing is left to measure; another one begins anew
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "6-0.npz", "6-1.npz", "8-0.npz", "8-1.npz", "before.npz"
    ]  # fmt: skip
    told.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("x2sam.inference.engine.Engine.load", lambda *_, **__: pytest.fail("all was measured"))
        assert CliRunner().invoke(app, [*words, "--json", str(told)]).exit_code == 0
    assert json.loads(told.read_text()) == found
    other = [*words, "--rate", "1e-3", "--masks", "6", "--seeds", "1", "--json", str(told)]
    assert CliRunner().invoke(app, other).exit_code == 0
    again = json.loads(told.read_text())
    assert again["before"] == found["before"] and again["after"][0]["domain"] != found["after"][0]["domain"]
    assert CliRunner().invoke(app, [*words, "--masks", "a"]).exit_code == 2


def test_fewer_clicks():
    before = ClickTable(np.array([[0.5, 0.6, 0.9], [0.1, 0.2, 0.3], [0.9, 0.9, 0.9]]), np.array([0, 0, 1]))  # 3, 3, 1
    better = ClickTable(np.array([[0.8, 0.8, 0.9], [0.1, 0.8, 0.9], [0.9, 0.9, 0.9]]), before.picture)  # 1, 2, 1
    found = fewer_clicks(before, [better, before], 0.8)
    assert found["mean"] == pytest.approx((-1 - 0.5 + 0) / 3)
    # two pictures: drawn are the first twice (-0.75), both (-0.5), or the second twice (0)
    assert found["low"] == pytest.approx(-0.75) and found["high"] == pytest.approx(0)
