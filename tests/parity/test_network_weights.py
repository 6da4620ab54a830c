"""Three ways to the same network: the complete state, what a released checkpoint holds over its base, adapters left
beside their weights. And through files as they are published."""

from __future__ import annotations

from collections.abc import Callable

import peft
import pytest
import torch
from reference_replay import replay
from safetensors.torch import save_file
from torch import Tensor

from x2sam.config import X2SAMConfig
from x2sam.errors import WeightsError
from x2sam.model.vision_language import VisionLanguage
from x2sam.model.weights import (
    WRAPPER,
    build_empty,
    convert_state,
    from_state,
    load_strictly,
    merge_lora,
    read_base,
    read_published,
    rename,
)
from x2sam.model.x2sam import X2SAM

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def released(parity) -> State:
    """What a released checkpoint holds."""
    flags = parity.json("state_dict_keys.json")
    return {key: value for key, value in parity.state_dict.items() if flags[key]["released"]}


@pytest.fixture(scope="module")
def base(parity, released) -> State:
    """The base model before training: its own mergers and a larger table of words, which the checkpoint replaces."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in parity.state_dict.items():
        if not key.startswith(WRAPPER) or ".lora_" in key or key.endswith("lm_head.weight"):
            continue
        name = key.removeprefix(WRAPPER).replace(".base_layer.", ".")
        state[name] = torch.randn(value.shape, generator=generator) if key in released else value
    words = state["model.language_model.embed_tokens.weight"]
    state["model.language_model.embed_tokens.weight"] = torch.randn(len(words) + 7, words.shape[1], generator=generator)
    return state


def assert_same_network(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_released_keys_over_the_base_give_the_same_network(released, base, parity, reference_config, reference_model):
    assert not released.keys() & base.keys() and len(released) < len(parity.state_dict)
    state = convert_state(released, base, reference_config.lora)
    assert_same_network(from_state(reference_config, state).state_dict(), reference_model.state_dict())


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_files_give_the_same_network(
    wrapped, released, base, reference_config, reference_model, parity, tmp_path
):
    """A torch file, bare or under ``state_dict``, and a base model in two shards."""
    torch.save({"state_dict": released} if wrapped else released, tmp_path / "pytorch_model.bin")
    names = sorted(base)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: base[name] for name in part}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    state = convert_state(read_published(tmp_path / "pytorch_model.bin"), read_base(tmp_path), reference_config.lora)
    model = from_state(reference_config, state)
    assert_same_network(model.state_dict(), reference_model.state_dict())
    run = next(case.runs["tensor"] for case in parity.cases.values() if "tensor" in case.runs)
    logits = [replay(run, network, parity.tokenizer).frames[0].last.mask_logits for network in (model, reference_model)]
    assert torch.equal(*logits)


def test_a_checkpoint_in_half_precision_loads(released, base, reference_config):
    """Released files are bfloat16; the merge is made in float32 and rounded once."""
    half = {key: value.bfloat16() for key, value in released.items()}
    below = {key: value.bfloat16() for key, value in base.items()}
    state = convert_state(half, below, reference_config.lora)
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    key = next(key for key in half if key.endswith("q_proj.lora_A.default.weight"))
    up, plain = half[key.replace("lora_A", "lora_B")], key.split(".lora_A.")[0].removeprefix(WRAPPER) + ".weight"
    exact = below[plain].float() + reference_config.lora.scale * up.float() @ half[key].float()
    assert torch.equal(state[rename(plain)], exact.bfloat16())
    assert from_state(reference_config, state, torch.float32).no_memory_embedding.dtype == torch.float32


def with_adapters(config: X2SAMConfig, stored: State) -> X2SAM:
    """The network with peft's adapters beside their base weights, nothing merged."""
    ours = lambda key: rename(key.removeprefix(WRAPPER))  # noqa: E731
    adapters = {ours(key): value for key, value in stored.items() if ".lora_" in key}
    plain = {key: value for key, value in stored.items() if ".lora_" not in key}
    model = build_empty(config)
    load_strictly(model, convert_state(plain, {}, config.lora))
    targets = sorted({key.split(".lora_")[0].rsplit(".", 1)[-1] for key in adapters})
    settings = peft.LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, target_modules=targets)
    peft.inject_adapter_in_model(settings, model.vision_language.language)
    assert not model.load_state_dict(adapters, strict=False).unexpected_keys
    return model.eval().requires_grad_(False)


def test_adapters_beside_their_weights_equal_merged_ones(parity, reference_config, replays):
    model = with_adapters(reference_config, parity.state_dict)
    for case in list(parity.cases.values())[:2]:
        run = case.runs["predict"]
        merged, beside = replays(run), replay(run, model, parity.tokenizer, walked=False)
        torch.testing.assert_close(beside.states, merged.states, atol=parity.tolerances["vlm_hidden"], rtol=0)
        torch.testing.assert_close(beside.states, run["vlm.hidden_states_last"], atol=1e-4, rtol=0)


def test_adapters_matter(parity, reference_config, reference_model):
    """The comparison above is worth something: without the adapters the language model says something else."""
    plain = {key: value for key, value in parity.state_dict.items() if ".lora_" not in key}
    bare = from_state(reference_config, convert_state(plain, {}, reference_config.lora))
    run = next(iter(parity.cases.values())).runs["predict"]
    states = [replay(run, m, parity.tokenizer, walked=False).states for m in (bare, reference_model)]
    assert float((states[0] - states[1]).abs().max()) > 100 * parity.tolerances["vlm_hidden"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda s: s.pop("bg_embeds.weight"), "missing background.weight"),
        (lambda s: s.pop("segmentor.class_predictor.logit_scale"), "missing mask_decoder.class_head.logit_scale"),
        (lambda s: s.update({"segmentor.extra.weight": torch.zeros(1)}), "segmentor.extra.weight"),
        (lambda s: s.update({"bg_embeds.weight": torch.zeros(2, 3)}), r"misshapen background.weight: \(2, 3\)"),
    ],
)
def test_every_key_that_does_not_fit_is_named(spoil: Callable[[State], None], named, released, base, reference_config):
    spoilt = dict(released)
    spoil(spoilt)
    with pytest.raises(WeightsError, match=named):
        from_state(reference_config, convert_state(spoilt, base, reference_config.lora))


def test_half_of_a_pair_is_named(released, base, reference_config):
    key = next(key for key in released if ".lora_B." in key)
    with pytest.raises(WeightsError, match="no matching lora_B"):
        convert_state({k: v for k, v in released.items() if k != key}, base, reference_config.lora)


def test_adapters_without_their_base_weight_are_named(released, base, reference_config):
    key = next(key for key in base if key.endswith("down_proj.weight"))
    with pytest.raises(WeightsError, match=f"lacks weights that the checkpoint adapts: {key}"):
        convert_state(released, {k: v for k, v in base.items() if k != key}, reference_config.lora)


def test_untied_words_are_refused(released, base, reference_config):
    key = WRAPPER + "lm_head.weight"
    with pytest.raises(WeightsError, match="ties them"):
        convert_state({**released, key: released[key] + 1}, base, reference_config.lora)


def test_merging_leaves_its_inputs_alone(released, base, reference_config):
    joined = {**base, **{key.removeprefix(WRAPPER): value for key, value in released.items()}}
    before = {key: value.clone() for key, value in joined.items()}
    merged = merge_lora(joined, reference_config.lora.scale)
    assert not any(".lora_" in key for key in merged)
    assert_same_network(joined, before)


def test_the_language_model_has_no_norm_of_its_own(reference_model):
    """States go to the segmentor before the final norm, so that norm must not sit inside the language model."""
    language: VisionLanguage = reference_model.vision_language
    assert not list(language.language.norm.parameters())
    assert language.final_norm.weight.numel() == reference_model.config.text["hidden_size"]
