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
from x2sam.evaluation.learning import SHIFTS, Domain, corrected
from x2sam.training.adapt import TRAIN

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
    learned = OwnPictures(tmp_path / "out", TRAIN)
    samples = [learned.bare(index) for index in range(len(learned))]
    assert sum(len(sample.objects) for sample in samples) == 7
    # the picture is shifted, the mask is the truth
    place = int(samples[0].source.split("-")[1].split(",")[0])
    assert place in rest
    shown, _labels = domain.data.read(place)
    np.testing.assert_array_equal(samples[0].frames[0], 255 - shown[..., ::-1])
    again = tmp_path / "again"
    corrected(domain, 7, 1, again)
    assert (again / "manifest.json").read_text() != (tmp_path / "out" / "manifest.json").read_text(), "another seed"
    with pytest.raises(FramesError, match="less than 1000"):
        corrected(domain, 1000, 0, tmp_path / "more")


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


def test_the_command(data, tmp_path, sketching_model, tiny_tokenizer):
    sketching_model.save_pretrained(tmp_path / "start", tiny_tokenizer)
    told = tmp_path / "told.json"
    words = ["evaluate", "learning", "--data", str(data), "--source", "a", "--shift", "speckle", "--masks", "2,4"]
    words += ["--seeds", "2", "--steps", "1", "--elsewhere", str(data), "--pictures", "2", "--clicks", "2"]
    words += ["--model", str(tmp_path / "start"), "--device", "cpu", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--json", str(told)])
    assert result.exit_code == 0, result.output
    found = json.loads(told.read_text())
    assert [row["masks"] for row in found["after"]] == [2, 4]
    assert found["before"]["domain"]["objects"] == 4 and len(found["after"][1]["domain"]["differences"]) == 2
    assert len(found["after"][0]["elsewhere"]["miou"]) == 2
    assert not list((tmp_path / "out").iterdir())
    assert CliRunner().invoke(app, [*words, "--masks", "a"]).exit_code == 2
