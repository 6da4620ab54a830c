"""Nothing of the network stays behind on the CPU: run on the ``meta`` device, which refuses tensors of any other."""

from __future__ import annotations

import pytest
import torch

from x2sam.model.mask_decoder import Condition
from x2sam.model.weights import build_empty
from x2sam.model.x2sam import X2SAM, FrameFeatures

META = torch.device("meta")


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device=META, dtype=dtype)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model) -> X2SAM:
    config = (tiny_model if request.param == "published" else sketching_model).config
    return build_empty(config).to(META).eval()


@pytest.fixture
def features(model) -> FrameFeatures:
    return model.decode_pixels(model.encode(empty(1, 3, 64, 64)), first=True)


def condition(width: int) -> Condition:
    seen = empty(1, 3, dtype=torch.bool)
    return Condition(empty(1, 3, width), seen, empty(1, 5, width), empty(1, 5, dtype=torch.bool), empty(1, 1, width))


def test_a_frame_step_with_memory(model, features):
    words = condition(model.config.width)
    level = model.step(features, words)[-1]
    memory = [model.remember(features, level, 0), model.remember(features, empty(1, 1, 16, 16), 1)]
    if model.sketch_bridge is not None:
        memory.append(model.sketch(features, empty(1, 1, 16, 16)))
    found = model.step(features, words, memory, 2)[-1]
    assert {t.device.type for t in (found.mask_logits, found.class_logits, found.queries)} == {"meta"}


def test_reading_on_with_a_cache(model):
    language, width = model.vision_language, model.config.text["hidden_size"]
    cache = language.new_cache()
    for length in (5, 3):
        states = language.read(empty(1, length, width), cache=cache)
    assert states.shape == (1, 3, width) and language.word_logits(states).device == META
    assert language.embed(empty(1, 4, dtype=torch.long)).device == META


def test_regions_that_were_drawn_on_the_cpu(model):
    """Region masks come from arrays; the map that they are read from lies on the device."""
    stage3 = model.encode(empty(1, 3, 64, 64)).stage3
    tokens = model.region_tokens(stage3, torch.ones(2, 64, 64, dtype=torch.int64))
    assert tokens.shape == (2, model.config.region.tokens, model.config.text["hidden_size"])
    assert tokens.device == META
