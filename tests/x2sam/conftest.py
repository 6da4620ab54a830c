"""The published files of a tiny model, as the hub would have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from x2sam.convert import ADDED_TOKENS
from x2sam.model.weights import PREFIXES, WRAPPER, rename

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
def published(tmp_path, monkeypatch, tiny_model, tiny_tokenizer) -> Path:
    """A directory with ``pytorch_model.bin``, ``base`` and the shape that fits, as the hub would have them in bf16."""
    monkeypatch.chdir(tmp_path)
    base, state = {}, {}
    for name, value in tiny_model.state_dict().items():
        theirs = published_name(name)
        frozen = theirs.startswith("model.") and "merger" not in theirs and "embed_tokens" not in theirs
        wrapped = WRAPPER + theirs if theirs.startswith("model.") else theirs
        (base if frozen else state)[theirs if frozen else wrapped] = value.to(torch.bfloat16)
    state[WRAPPER + "lm_head.weight"] = state[WRAPPER + "model.language_model.embed_tokens.weight"].clone()
    state["segmentor.shared_image_embedding.positional_embedding"] = torch.zeros(2, 4)
    # the base has its own, larger embedding, which the checkpoint's replaces
    base["model.language_model.embed_tokens.weight"] = torch.zeros(700, 32, dtype=torch.bfloat16)
    rows, columns = base[ADAPTED + ".weight"].shape
    torch.manual_seed(3)
    state[f"{WRAPPER}{ADAPTED}.lora_A.default.weight"] = torch.randn(4, columns).to(torch.bfloat16)
    state[f"{WRAPPER}{ADAPTED}.lora_B.default.weight"] = torch.randn(rows, 4).to(torch.bfloat16)
    torch.save(state, "pytorch_model.bin")
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
