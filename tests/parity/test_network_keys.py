"""The published checkpoint's keys: the table of them is right, and each has its one place in the full-size network."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from published_keys import TEXT, VLM, frozen, released

from x2sam.config import x2sam_4b
from x2sam.model.weights import EMBEDDING, TIED, UNUSED, build_empty, convert_state, load_strictly, names_of


def as_base(keys) -> dict[str, str]:
    """Key in training -> key of the base model itself."""
    return {key: key.removeprefix(VLM).replace(".base_layer.", ".") for key in keys}


def test_the_table_of_keys_is_that_of_the_reference(parity, reference_config):
    stored = parity.json("state_dict_keys.json")
    for keys, is_released in ((released(reference_config), True), (frozen(reference_config), False)):
        expected = {key: tuple(v["shape"]) for key, v in stored.items() if v["released"] is is_released}
        assert keys == expected


@pytest.fixture(scope="module")
def full_size():
    """The published network without weights."""
    return build_empty(x2sam_4b())


def test_the_published_sizes():
    """Numbers of the paper and of the base checkpoints, so that a preset can't drift together with its network."""
    config = x2sam_4b()
    expected = {
        TEXT + "embed_tokens.weight": (151672, 2560),
        TEXT + "layers.35.mlp.down_proj.lora_A.default.weight": (128, 9728),
        TEXT + "layers.35.self_attn.k_proj.lora_B.default.weight": (1024, 128),
        "segmentor.encoder.backbone.blocks.47.mlp.proj_in.weight": (4608, 1152),
        "segmentor.pixel_decoder.encoder.layers.5.self_attn.sampling_offsets.weight": (192, 256),
        "segmentor.pixel_decoder.encoder.layers.5.fc1.weight": (1024, 256),
        "segmentor.decoder.queries_features.weight": (200, 256),
        "segmentor.decoder.decoder.layers.8.fc1.weight": (2048, 256),
        "segmentor.memory_attention.layers.3.linear1.weight": (2048, 256),
        "segmentor.memory_encoder.vision_downsampler.2.layers.1.conv.weight": (4096, 1024, 3, 3),
        "segmentor.memory_encoder.memory_fuser.layers.1.pointwise_conv1.weight": (1024, 256),
        "extra_projector.model.0.weight": (2560, 2304),
        "mlm_projector.model.0.weight": (256, 2560),
    }
    assert released(config).items() >= expected.items()
    layers = {
        r"language_model\.layers\.(\d+)\.": 36,
        r"visual\.blocks\.(\d+)\.": 24,
        r"deepstack_merger_list\.(\d+)\.": 3,
        r"backbone\.blocks\.(\d+)\.": 48,
        r"pixel_decoder\.encoder\.layers\.(\d+)\.": 6,
        r"decoder\.decoder\.layers\.(\d+)\.": 9,
        r"memory_attention\.layers\.(\d+)\.": 4,
    }
    keys = " ".join([*released(config), *frozen(config)])
    for pattern, count in layers.items():
        assert {int(n) for n in re.findall(pattern, keys)} == set(range(count)), pattern


def test_every_published_key_has_its_one_place(full_size):
    config = full_size.config
    expected = {key: tuple(value.shape) for key, value in full_size.state_dict().items()}
    shapes = released(config) | frozen(config)
    names = names_of(shapes)
    assert {key for key, name in names.items() if name is None} == UNUSED
    for key, shape in shapes.items():
        if ".lora_A." in key:
            assert shape[1] == expected[names[key]][1], key
        elif ".lora_B." in key:
            assert shape[0] == expected[names[key]][0], key
        elif key not in UNUSED:
            assert shape == expected[names[key]], key
    sources = Counter(name for key, name in names.items() if name and ".lora_" not in key and not key.endswith(TIED))
    assert sources.keys() == expected.keys()
    assert set(sources.values()) == {1}
    assert names[VLM + TIED] == EMBEDDING


def test_lora_pairs_meet_at_one_weight(full_size):
    names = names_of(released(full_size.config))
    pairs = Counter(name for key, name in names.items() if ".lora_" in key)
    assert set(pairs.values()) == {2} and len(pairs) == 7 * full_size.config.text["num_hidden_layers"]


def test_the_full_size_network_loads(full_size):
    """Conversion and strict loading at the published size; tensors without memory stand in for the weights.

    The base model brings more words than the checkpoint has, and mergers of its own: the checkpoint's win.
    """
    config = full_size.config
    empty = {key: torch.empty(shape, dtype=torch.bfloat16, device="meta") for key, shape in released(config).items()}
    words = torch.zeros((), dtype=torch.bfloat16).expand(empty[VLM + TIED].shape)
    checkpoint = {**empty, VLM + TIED: words, TEXT + "embed_tokens.weight": words}
    base = {name: torch.empty(frozen(config)[key], device="meta") for key, name in as_base(frozen(config)).items()}
    overridden = [key for key in as_base(released(config)).values() if key.startswith("model.visual.")]
    base |= {name: torch.empty(1, device="meta") for name in overridden}
    base["model.language_model.embed_tokens.weight"] = torch.empty(151936, 2560, device="meta")
    state = convert_state(checkpoint, base, config.lora)
    load_strictly(full_size, state)
    assert sum(p.numel() for p in full_size.parameters()) == sum(v.numel() for v in state.values())
