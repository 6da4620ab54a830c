"""A published checkpoint and its base to a model directory: values, configuration, tokenizer, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from x2sam.cli import app
from x2sam.config import X2SAMConfig
from x2sam.convert import ADDED_TOKENS
from x2sam.inference.engine import Engine
from x2sam.model.weights import PREFIXES, WRAPPER, load_tensors, rename

ADAPTED = "model.language_model.layers.1.mlp.up_proj"


def published_name(ours: str) -> str:
    """One of the published names that mean ``ours``."""
    longest = sorted(PREFIXES, key=lambda pair: -len(pair[1]))
    names = [theirs + ours[len(prefix) :] for theirs, prefix in longest if ours.startswith(prefix)]
    return next(name for name in names if rename(name) == ours)


def base_tokenizer(tokenizer) -> PreTrainedTokenizerFast:
    """The tiny tokenizer as it was before X2SAM's three marks, which come last."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in ADDED_TOKENS]
    known = Tokenizer.from_str(json.dumps(data))
    known.add_special_tokens([AddedToken(t["content"], special=True) for t in data["added_tokens"]])
    return PreTrainedTokenizerFast(tokenizer_object=known, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@pytest.fixture
def files(tmp_path, monkeypatch, tiny_model, tiny_tokenizer) -> Path:
    """A directory with ``pytorch_model.bin``, ``base`` and the shape that fits, as the hub would have them in bf16."""
    monkeypatch.chdir(tmp_path)
    base, published = {}, {}
    for name, value in tiny_model.state_dict().items():
        theirs = published_name(name)
        frozen = theirs.startswith("model.") and "merger" not in theirs and "embed_tokens" not in theirs
        wrapped = WRAPPER + theirs if theirs.startswith("model.") else theirs
        (base if frozen else published)[theirs if frozen else wrapped] = value.to(torch.bfloat16)
    published[WRAPPER + "lm_head.weight"] = published[WRAPPER + "model.language_model.embed_tokens.weight"].clone()
    published["segmentor.shared_image_embedding.positional_embedding"] = torch.zeros(2, 4)
    # the base has its own, larger embedding, which the checkpoint's replaces
    base["model.language_model.embed_tokens.weight"] = torch.zeros(700, 32, dtype=torch.bfloat16)
    rows, columns = base[ADAPTED + ".weight"].shape
    torch.manual_seed(3)
    published[f"{WRAPPER}{ADAPTED}.lora_A.default.weight"] = torch.randn(4, columns).to(torch.bfloat16)
    published[f"{WRAPPER}{ADAPTED}.lora_B.default.weight"] = torch.randn(rows, 4).to(torch.bfloat16)
    torch.save(published, "pytorch_model.bin")
    Path("base").mkdir()
    half = len(base) // 2
    for number, keys in enumerate((list(base)[:half], list(base)[half:])):
        save_file({k: base[k].contiguous() for k in keys}, f"base/model-{number}.safetensors")
    base_tokenizer(tiny_tokenizer).save_pretrained("base")
    config = tiny_model.config
    rope = config.text["rope_parameters"]
    stated = {k: v for k, v in config.text.items() if k != "rope_parameters"}
    stated |= {"vocab_size": 700, "rope_theta": rope["rope_theta"], "dtype": "bfloat16"}
    stated["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    whole = {"model_type": "qwen3_vl", "text_config": stated, "vision_config": config.vision}
    Path("base/config.json").write_text(json.dumps(whole))
    # sizes that the preset gets wrong, so that they must come from the base
    wrong = config.to_dict()
    wrong["text"] = {**wrong["text"], "rms_norm_eps": 0.5, "num_hidden_layers": 9, "vocab_size": 5}
    Path("shape.json").write_text(json.dumps(wrong))
    return tmp_path


def convert(*words: str):
    line = ["convert", "pytorch_model.bin", "base", "--config", "shape.json", "--out", "model", *words]
    return CliRunner().invoke(app, line)


def told(outcome) -> str:
    assert outcome.exit_code == 1 and outcome.stdout == "", (outcome.output, outcome.exception)
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr


def test_a_converted_model_loads_and_answers(files, tiny_model, tiny_tokenizer):
    outcome = convert("--json", "r.json")
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    assert json.loads(Path("r.json").read_text()) == {
        "directory": "model", "name": "tiny", "vocabulary": len(tiny_tokenizer)
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


def test_marks_are_added_behind_the_base_vocabulary(files, tiny_tokenizer):
    assert convert().exit_code == 0
    before, after = (AutoTokenizer.from_pretrained(p) for p in ("base", "model/tokenizer"))
    assert after.convert_tokens_to_ids(list(ADDED_TOKENS)) == [len(before) + n for n in range(3)]
    text = "<|im_start|>user\nfind <p>a red circle</p><|im_end|> <SEG>."
    assert after.encode(text) == tiny_tokenizer.encode(text)


def test_picture_sizes_come_from_the_base(files, tiny_model):
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


def test_every_key_that_does_not_fit_is_named(files):
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


def test_an_embedding_of_another_vocabulary_is_refused(files, tiny_tokenizer):
    state = torch.load("pytorch_model.bin", weights_only=True)
    for key in (WRAPPER + "lm_head.weight", WRAPPER + "model.language_model.embed_tokens.weight"):
        state[key] = state[key][:-1].clone()
    torch.save(state, "pytorch_model.bin")
    problem = told(convert())
    assert f"embeds {len(tiny_tokenizer) - 1} tokens" in problem and f"has {len(tiny_tokenizer)}" in problem


def test_other_files_are_refused(files):
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


def test_a_model_that_is_there_is_replaced_only_when_asked(files):
    assert convert().exit_code == 0
    Path("model/old").touch()
    assert "--force" in told(convert()) and Path("model/old").exists()
    assert convert("--force").exit_code == 0 and not Path("model/old").exists()
    Path("model/model.safetensors").unlink()
    assert "is no model" in told(convert("--force"))
