"""A published checkpoint and its base to a model directory: values, configuration, tokenizer, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from x2sam import convert as module
from x2sam.cli import app
from x2sam.config import X2SAMConfig
from x2sam.convert import ADDED_TOKENS
from x2sam.inference.engine import Engine
from x2sam.model.weights import WRAPPER, load_tensors, rename, save_pretrained

ADAPTED = "model.language_model.layers.1.mlp.up_proj"


def convert(*words: str):
    line = ["convert", "pytorch_model.bin", "base", "--config", "shape.json", "--out", "model", *words]
    return CliRunner().invoke(app, line)


def told(outcome) -> str:
    assert outcome.exit_code == 1 and outcome.stdout == "", (outcome.output, outcome.exception)
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr


def test_a_converted_model_loads_and_answers(published, tiny_model, tiny_tokenizer):
    outcome = convert("--json", "r.json")
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    assert json.loads(Path("r.json").read_text()) == {
        "directory": "model", "name": "tiny", "vocabulary": len(tiny_tokenizer), "found": "X2SAM", "layout": "x2sam"
    }  # fmt: skip
    written, original = load_tensors(Path("model/model.safetensors")), tiny_model.state_dict()
    assert written.keys() == original.keys()
    assert {v.dtype for v in written.values()} == {torch.bfloat16}
    lora = torch.load("pytorch_model.bin", weights_only=True)
    adapted = rename(ADAPTED + ".weight")
    for name, value in original.items():
        expected = value.to(torch.bfloat16)
        if name == adapted:
            down, up = (lora[f"{WRAPPER}{ADAPTED}.lora_{side}.default.weight"].float() for side in "AB")
            expected = (expected.float() + tiny_model.config.lora.scale * up @ down).to(torch.bfloat16)
        assert torch.equal(written[name], expected), name
    config = X2SAMConfig.from_dict(json.loads(Path("model/config.json").read_text()))
    assert config.text == {**tiny_model.config.text, "vocab_size": len(tiny_tokenizer)}
    assert config.vision == tiny_model.config.vision and config.mask_encoder == tiny_model.config.mask_encoder
    with Engine.load("model", "cpu") as engine:
        assert engine.version.startswith("tiny-")
    assert not list(Path().glob(".model*"))


def test_marks_are_added_behind_the_base_vocabulary(published, tiny_tokenizer):
    assert convert().exit_code == 0
    before, after = (AutoTokenizer.from_pretrained(p) for p in ("base", "model/tokenizer"))
    assert after.convert_tokens_to_ids(list(ADDED_TOKENS)) == [len(before) + n for n in range(3)]
    text = "<|im_start|>user\nfind <p>a red circle</p><|im_end|> <SEG>."
    assert after.encode(text) == tiny_tokenizer.encode(text)


def test_picture_sizes_come_from_the_base(published, tiny_model):
    both = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.4] * 3,
        "image_std": [0.3] * 3,
    }
    image = {**both, "size": {"shortest_edge": 1024, "longest_edge": 2048}}
    Path("base/preprocessor_config.json").write_text(json.dumps(image))
    video = {**both, "size": {"shortest_edge": 4096, "longest_edge": 8192}, "fps": 3}
    Path("base/video_preprocessor_config.json").write_text(json.dumps(video))
    assert convert().exit_code == 0
    found = X2SAMConfig.from_dict(json.loads(Path("model/config.json").read_text())).preprocess
    assert (found.image_pixels, found.video_pixels, found.vlm_mean) == ((1024, 2048), (4096, 8192), (0.4,) * 3)
    assert (found.mask_size, found.mask_mean) == ((64, 64), tiny_model.config.preprocess.mask_mean)


def test_every_key_that_does_not_fit_is_named(published):
    state = torch.load("pytorch_model.bin", weights_only=True)
    del state["bg_embeds.weight"]
    state["segmentor.no_memory_embedding"] = torch.zeros(1, 1, 31)
    torch.save(state, "pytorch_model.bin")
    problem = told(convert())
    assert "missing background.weight" in problem
    assert "misshapen no_memory_embedding: (1, 1, 31) instead of (1, 1, 32)" in problem
    state["segmentor.surprise"] = torch.zeros(1)
    torch.save(state, "pytorch_model.bin")
    assert "unexpected keys: segmentor.surprise" in told(convert())
    assert not Path("model").exists() and not list(Path().glob(".model*"))


def test_what_a_disk_changed_is_noticed(published, monkeypatch):
    def save(model, directory):
        save_pretrained(model, directory)
        path = directory / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(module, "save_pretrained", save)
    assert "changed when it was written" in told(convert())
    assert not Path("model").exists()


def test_an_embedding_of_another_vocabulary_is_refused(published, tiny_tokenizer):
    state = torch.load("pytorch_model.bin", weights_only=True)
    for key in (WRAPPER + "lm_head.weight", WRAPPER + "model.language_model.embed_tokens.weight"):
        state[key] = state[key][:-1].clone()
    torch.save(state, "pytorch_model.bin")
    problem = told(convert())
    assert f"embeds {len(tiny_tokenizer) - 1} tokens" in problem and f"has {len(tiny_tokenizer)}" in problem


def test_other_files_are_refused(published):
    assert "other.bin can't be read" in told(
        CliRunner().invoke(app, ["convert", "other.bin", "base", "--config", "shape.json", "--out", "model"])
    )
    whole = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps({**whole, "model_type": "llava"}))
    assert "'llava', not 'qwen3_vl'" in told(convert())
    crooked = {**whole["text_config"], "num_attention_heads": "many"}
    Path("base/config.json").write_text(json.dumps({**whole, "text_config": crooked}))
    assert "config.json contradicts itself" in told(convert())
    Path("base/config.json").write_text("{")
    assert "config.json of the base model is damaged" in told(convert())
    Path("base/config.json").write_text(json.dumps(whole))
    Path("base/tokenizer.json").unlink()
    assert "no tokenizer" in told(convert())
    Path("shape.json").write_text("{}")
    assert "does not describe an X2SAM model" in told(convert())


def test_a_model_that_is_there_is_replaced_only_when_asked(published):
    assert convert().exit_code == 0
    Path("model/old").touch()
    assert "--force" in told(convert()) and Path("model/old").exists()
    assert convert("--force").exit_code == 0 and not Path("model/old").exists()
    Path("model/model.safetensors").unlink()
    assert "is no model" in told(convert("--force"))
