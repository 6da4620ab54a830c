"""Model directories: written whole, read strictly, and every way they can be wrong said in a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from x2sam.config import PRESETS, X2SAMConfig, tiny
from x2sam.errors import WeightsError
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.model.weights import (
    build_empty,
    from_pretrained,
    load_config,
    load_strictly,
    names_of,
    read_base,
    read_published,
    rename,
    save_pretrained,
)


@pytest.fixture
def directory(tiny_model, tmp_path):
    save_pretrained(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def test_a_directory_gives_back_the_network(tiny_model, directory):
    again = from_pretrained(directory)
    assert again.config == tiny_model.config
    expected = tiny_model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_the_class_reads_and_writes_a_directory(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    again = type(tiny_model).from_pretrained(tmp_path)
    assert all(torch.equal(value, tiny_model.state_dict()[key]) for key, value in again.state_dict().items())


def test_only_whole_files_are_left(directory):
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_on_disk_and_in_memory(tiny_model, tmp_path):
    save_pretrained(tiny_model, tmp_path, torch.float16)
    assert {v.dtype for v in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert from_pretrained(tmp_path).no_memory_embedding.dtype == torch.float32
    assert from_pretrained(tmp_path, torch.bfloat16).no_memory_embedding.dtype == torch.bfloat16


@pytest.mark.parametrize("name", PRESETS)
def test_configurations_survive_json(name):
    config = PRESETS[name]()
    assert X2SAMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_processors_numbers_travel_with_the_weights(tiny_model, tmp_path):
    settings = PreprocessConfig(
        image_pixels=(1024, 2048), video_pixels=(512, 4096), vlm_mean=(0.1, 0.2, 0.3), mask_size=(64, 64),
        keep_aspect=True, mask_std=(0.4, 0.5, 0.6), sample_fps=3.0, max_frames=9,
    )  # fmt: skip
    model = build_empty(dataclasses.replace(tiny(), preprocess=settings))
    load_strictly(model, {k: torch.zeros(v.shape) for k, v in model.state_dict().items()})
    save_pretrained(model, tmp_path)
    assert from_pretrained(tmp_path).config.preprocess == settings


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.pop("memory"), "'memory' is missing"),
        (lambda c: c.pop("text"), "'text' is missing"),
        (lambda c: c["mask_decoder"].update(depth=3), "depth"),
        (lambda c: c.update(colour="red"), "colour"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, named):
    data = json.loads(json.dumps(tiny().to_dict()))
    change(data)
    with pytest.raises(WeightsError, match=named):
        X2SAMConfig.from_dict(data)


@pytest.mark.parametrize("text", ["", "[]", "{", '"nano"'])
def test_a_damaged_configuration_is_refused(text, directory):
    (directory / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_config(directory)


def spoil(directory, change) -> None:
    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors")


def test_missing_unexpected_and_misshapen_keys_are_all_named(directory):
    def change(state):
        del state["background.weight"], state["no_memory_embedding"]
        state["mask_decoder.layernorm.weight"] = torch.zeros(3)
        state["surplus"] = torch.zeros(1)

    spoil(directory, change)
    with pytest.raises(WeightsError) as caught:
        from_pretrained(directory)
    for part in (
        "(4 keys)", "missing background.weight", "missing no_memory_embedding", "unexpected surplus",
        "misshapen mask_decoder.layernorm.weight: (3,) instead of (32,)",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_a_truncated_file_is_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors can't be read"):
        from_pretrained(directory)


def test_a_missing_file_is_refused(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors can't be read"):
        from_pretrained(directory)


class Code:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", [torch.save, lambda obj, path: path.write_bytes(pickle.dumps(obj))])
def test_code_in_a_checkpoint_is_not_run(write, tmp_path):
    path, mark = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    write({"weight": torch.zeros(1), "extra": Code(mark)}, path)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        read_published(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {}, {"epoch": 3, "weight": torch.zeros(1)}, {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="no checkpoint"):
        read_published(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        read_published(path)


def test_a_checkpoint_may_be_safetensors(tmp_path):
    save_file({"bg_embeds.weight": torch.ones(1, 2)}, tmp_path / "model.safetensors")
    assert torch.equal(read_published(tmp_path / "model.safetensors")["bg_embeds.weight"], torch.ones(1, 2))


def test_a_base_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no safetensors"):
        read_base(tmp_path)


def test_names():
    assert rename("bg_embeds.weight") == "background.weight"
    assert rename("something.else") is None
    lora = "vlm.base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert names_of([lora]) == {lora: "vision_language.language.layers.0.self_attn.q_proj.weight"}
