"""The mean of trained models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from x2sam.errors import WeightsError
from x2sam.training.average import average


def model(folder, config=None, **weights):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config or {"width": 2}))
    (folder / "README.md").write_text("about this one")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_every_weight_is_the_mean(tmp_path):
    half = torch.float16
    one = model(tmp_path / "a", w=torch.tensor([1.0, 2.0], dtype=half), n=torch.tensor([3]))
    two = model(tmp_path / "b", w=torch.tensor([3.0, -2.0], dtype=half), n=torch.tensor([4]))
    average([one, two], tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["w"].tolist() == [2.0, 0.0] and found["w"].dtype == half
    assert found["n"].tolist() == [3]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"width": 2}
    assert not (tmp_path / "out" / "README.md").exists()


def test_models_that_do_not_fit_are_refused(tmp_path):
    one = model(tmp_path / "a", w=torch.zeros(2))
    other_names = model(tmp_path / "b", v=torch.zeros(2))
    other_make = model(tmp_path / "c", {"width": 3}, w=torch.zeros(2))
    for models, sentence in (([one], "two models"), ([one, other_names], "weights"), ([one, other_make], "config")):
        with pytest.raises(WeightsError, match=sentence):
            average(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (one / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match="read"):
        average([one, one], tmp_path / "out")
