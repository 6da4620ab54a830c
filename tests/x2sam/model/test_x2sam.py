"""The frame step: what it depends on, what it shares between prompts, and what it must not change."""

from __future__ import annotations

import pytest
import torch

from x2sam.config import RegionConfig
from x2sam.errors import PromptError
from x2sam.model.mask_decoder import Condition, MaskDecoder
from x2sam.model.memory_attention import rotary_table
from x2sam.model.memory_encoder import blend_masks
from x2sam.model.pixel_decoder import DeformableAttention
from x2sam.model.region_sampler import sample_points, sample_regions
from x2sam.model.x2sam import X2SAM


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def condition(model: X2SAM, prompts: int = 1, phrases: int = 2, seed: int = 0) -> Condition:
    """Of random states: two positions per phrase, then ``<SEG>``."""
    width = model.config.text["hidden_size"]
    states = torch.randn(prompts, 2 * phrases + 1, width, generator=torch.Generator().manual_seed(seed))
    cond = torch.tensor([[*(i // 2 for i in range(2 * phrases)), -1]]).expand(prompts, -1)
    seg = torch.tensor([[*[-1] * (2 * phrases), 0]]).expand(prompts, -1)
    return model.condition(states, cond, seg)


def rows(condition: Condition, part: slice) -> Condition:
    return Condition(**{name: value[part] for name, value in vars(condition).items()})


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model) -> X2SAM:
    return tiny_model if request.param == "published" else sketching_model


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def test_shapes(model):
    config = model.config
    features = model.decode_pixels(model.encode(pixels(2)), first=True)
    assert [tuple(m.shape) for m in features.maps] == [(2, config.width, s, s) for s in (4, 8, 16)]
    assert features.mask_features.shape == (2, config.width, 16, 16)
    level = model.step(features, condition(model, prompts=4, phrases=3))[-1]
    queries = config.mask_decoder.queries
    assert level.mask_logits.shape == (4, queries, 16, 16)
    assert level.class_logits.shape == (4, queries, 4)
    assert level.queries.shape == (4, queries, config.width)
    entry = model.remember(features[:1], rows_of(level, slice(0, 1)), 5)
    assert entry.time == 5 and entry.grid == (4, 4)
    assert [tuple(t.shape) for t in entry.levels] == [(1, 16, config.width)] * len(config.memory.levels)


def rows_of(level, part: slice):
    return type(level)(level.mask_logits[part], level.class_logits[part], level.queries[part])


def test_prompts_on_one_picture_do_not_see_each_other(model):
    """P prompts on F pictures in one step give what each gives by itself, with and without memory."""
    features = model.decode_pixels(model.encode(pixels(2)), first=True)
    four = condition(model, prompts=4)
    guidance = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    together = model.step(features, four, [model.remember(features, guidance, 0)], time=1)[-1]
    plain = model.step(features, four)[-1]
    for prompt in range(4):
        picture, own = features[prompt // 2 : prompt // 2 + 1], slice(prompt, prompt + 1)
        entry = model.remember(picture, guidance[own], 0)
        alone = model.step(picture, rows(four, own), [entry], time=1)[-1]
        torch.testing.assert_close(together.mask_logits[own], alone.mask_logits, atol=2e-5, rtol=0)
        torch.testing.assert_close(together.class_logits[own], alone.class_logits, atol=2e-5, rtol=0)
        alone = model.step(picture, rows(four, own))[-1]
        torch.testing.assert_close(plain.mask_logits[own], alone.mask_logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("part", ["classes", "tokens", "seg"])
def test_every_part_of_the_condition_is_heard(model, part):
    features = model.decode_pixels(model.encode(pixels(1)), first=True)
    one, other = condition(model), condition(model, seed=1)
    changed = Condition(**{**vars(one), part: getattr(other, part)})
    levels = [model.step(features, c)[-1] for c in (one, changed)]
    assert not torch.allclose(levels[0].class_logits, levels[1].class_logits, atol=1e-4)
    if part != "classes":  # classes name the queries, they do not move them
        assert not torch.allclose(levels[0].mask_logits, levels[1].mask_logits, atol=1e-4)


def test_padded_phrases_change_nothing(model):
    """A prompt with fewer phrases than its neighbour in the batch: padding scores nothing and is not attended to."""
    features = model.decode_pixels(model.encode(pixels(1)), first=True)
    width = model.config.text["hidden_size"]
    states = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
    cond = torch.tensor([[0, 0, 1, 1, -1], [0, 0, -1, -1, -1]])
    seg = torch.tensor([[-1, -1, -1, -1, 0]] * 2)
    both, short = model.condition(states, cond, seg), model.condition(states[1:], cond[1:], seg[1:])
    assert both.class_mask.tolist() == [[True] * 3, [True, False, True]]
    padded, alone = (model.step(features, c)[-1] for c in (both, short))
    torch.testing.assert_close(padded.mask_logits[1:], alone.mask_logits, atol=2e-5, rtol=0)
    torch.testing.assert_close(padded.class_logits[1, :, [0, 2]], alone.class_logits[0], atol=2e-5, rtol=0)
    assert (padded.class_logits[1, :, 1] == -1e6).all()


def test_a_class_is_the_mean_of_its_phrase_and_the_background_is_last(model):
    width = model.config.text["hidden_size"]
    states = torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0))
    found = model.condition(states, torch.tensor([[1, 1, -1, 0, 1, -1]]), torch.tensor([[-1, -1, -1, -1, -1, 0]]))
    projected = model.text_projector(states)[0]
    torch.testing.assert_close(found.classes[0, 0], projected[3])
    torch.testing.assert_close(found.classes[0, 1], projected[[0, 1, 4]].mean(0))
    torch.testing.assert_close(found.classes[0, 2], model.background.weight[0])
    torch.testing.assert_close(found.tokens[0], projected[[3, 0, 1, 4]])
    torch.testing.assert_close(found.seg[0, 0], projected[5])


def test_shared_conditions_hold_the_phrases_of_the_whole_batch(model):
    states = torch.randn(2, 3, model.config.text["hidden_size"], generator=torch.Generator().manual_seed(0))
    ids, seg = torch.tensor([[0, 0, -1]] * 2), torch.tensor([[-1, -1, 0]] * 2)
    own, shared = (model.condition(states, ids, seg, share=share) for share in (False, True))
    assert shared.classes.shape[1] == 3 and shared.tokens.shape[1] == 4
    for row in range(2):
        torch.testing.assert_close(shared.classes[row, :2], own.classes[:, 0])
        torch.testing.assert_close(shared.seg[row], own.seg[row])


def test_nothing_remembered_is_a_picture_of_its_own(model):
    """The embedding for "no memory" is there on a first frame and only there."""
    encoded = model.encode(pixels(1))
    first, later = model.decode_pixels(encoded, first=True), model.decode_pixels(encoded, first=False)
    assert not torch.allclose(first.mask_features, later.mask_features)
    assert all(torch.equal(a, b) for a, b in zip(model.memory_attention(first.maps, [], 0), first.maps, strict=True))


def test_memory_is_read_and_distance_counts_without_sign(model):
    features = model.decode_pixels(model.encode(pixels(1)), first=False)
    words = condition(model)
    full, empty = torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)

    def logits(first: int, second: int) -> torch.Tensor:
        memory = [model.remember(features, full, first), model.remember(features, empty, second)]
        return model.step(features, words, memory, 10)[-1].mask_logits

    assert torch.equal(logits(9, 6), logits(11, 14))
    assert not torch.allclose(logits(9, 6), logits(6, 9), atol=1e-5)
    assert not torch.allclose(logits(9, 6), model.step(features, words)[-1].mask_logits, atol=1e-4)


def test_guidance_is_written(model):
    features = model.decode_pixels(model.encode(pixels(1)), first=True)
    empty, full = (model.remember(features, torch.full((1, 1, 16, 16), v), 0) for v in (0.0, 1.0))
    assert not torch.allclose(empty.levels[0], full.levels[0], atol=1e-3)


def test_the_published_mask_features_never_see_memory(tiny_model):
    features = tiny_model.decode_pixels(tiny_model.encode(pixels(1)), first=False)
    before = features.mask_features.clone()
    entry = tiny_model.remember(features, torch.ones(1, 1, 16, 16), 0)
    seen = []
    hook = tiny_model.mask_decoder.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    try:
        tiny_model.step(features, condition(tiny_model), [entry], 1)
    finally:
        hook.remove()
    assert torch.equal(seen[0], before) and torch.equal(features.mask_features, before)


def test_every_level_ends_with_the_one_that_is_used(model):
    features = model.decode_pixels(model.encode(pixels(1)), first=True)
    words = condition(model)
    levels = model.step(features, words, every_level=True)
    assert len(levels) == model.config.mask_decoder.layers + 1
    # between layers masks are made at the size that the next one looks at, which is the same but for rounding
    assert torch.allclose(levels[-1].mask_logits, model.step(features, words)[-1].mask_logits, atol=1e-4)


def test_what_was_prepared_is_not_made_again(model, monkeypatch):
    features, words = model.decode_pixels(model.encode(pixels(1)), first=True), condition(model)
    plain, prepared = model.step(features, words)[-1], model.prepare(features)
    made = []
    projected = type(model.mask_decoder.layers[0].cross_attn).keys_and_values
    monkeypatch.setattr(
        type(model.mask_decoder.layers[0].cross_attn), "keys_and_values",
        lambda self, key, value: made.append(key.shape[1]) or projected(self, key, value),
    )  # fmt: skip
    again = model.step(features, words, prepared=prepared)[-1]
    assert torch.equal(again.mask_logits, plain.mask_logits)
    # only those of the words, once a layer: 3 maps of 16, 64 and 256 cells are there already
    assert len(made) == len(model.mask_decoder.layers) and not {16, 64, 256} & set(made)
    assert prepared.nbytes == sum(2 * n * model.config.width * 4 for n in (16, 64, 256))


def test_maps_that_read_memory_are_prepared_anew(tiny_model):
    features, words = tiny_model.decode_pixels(tiny_model.encode(pixels(1)), first=False), condition(tiny_model)
    entry = tiny_model.remember(features, torch.ones(1, 1, 16, 16), 0)
    prepared = tiny_model.prepare(features)
    plain = tiny_model.step(features, words, [entry], 1)[-1]
    again = tiny_model.step(features, words, [entry], 1, prepared=prepared)[-1]
    assert torch.equal(again.mask_logits, plain.mask_logits)


def test_coarse_reading_changes_only_finer_maps(tiny_model):
    features = tiny_model.decode_pixels(tiny_model.encode(pixels(1)), first=False)
    entry = tiny_model.remember(features, torch.ones(1, 1, 16, 16), 0)
    exact, coarse = (tiny_model.memory_attention(features.maps, [entry], 1, flag) for flag in (False, True))
    assert torch.equal(exact[0], coarse[0])  # this one has the memory's grid
    for level in (1, 2):
        assert coarse[level].shape == exact[level].shape
        unread = tiny_model.memory_attention.layer_norm(features.maps[level].transpose(1, -1)).transpose(1, -1)
        off, nothing_read = ((one - exact[level]).abs().mean() for one in (coarse[level], unread))
        assert 0 < off < nothing_read


def test_pooled_cells_turn_as_their_middles_do():
    """Cells of 2 x 4: one whose columns are 4 to 7 stands at x = 5.5, one of rows 2 and 3 at y = 2.5. Of 8 channels
    the first four turn with x, by 1 and 10,000 ** -0.5 a cell, the others with y."""
    cos, sin = rotary_table(2, 2, 8, 10000.0, "cpu", (2, 4))
    angles = torch.tensor([5.5, 5.5, 0.055, 0.055, 2.5, 2.5, 0.025, 0.025])
    assert torch.allclose(cos[3], angles.cos(), atol=1e-6) and torch.allclose(sin[3], angles.sin(), atol=1e-6)


def test_blended_masks_lie_between_those_of_the_queries(model):
    features = model.decode_pixels(model.encode(pixels(1)), first=True)
    level = model.step(features, condition(model))[-1]
    blend, each = blend_masks(level)[:, 0], level.mask_logits.sigmoid()
    assert blend.shape == (1, 16, 16)
    assert (blend <= each.amax(1) + 1e-6).all() and (blend >= each.amin(1) - 1e-6).all()


def test_a_query_with_an_empty_mask_may_look_everywhere():
    logits = torch.full((1, 2, 8, 8), -5.0)
    logits[0, 1, :4] = 5.0
    allowed = MaskDecoder._allowed(logits, (4, 4)).view(1, 2, 4, 4)
    assert allowed[0, 0].all()
    assert allowed[0, 1, :2].all() and not allowed[0, 1, 2:].any()


def test_few_pixels_are_repeated_and_many_are_chosen():
    mask = torch.zeros(8, 10)
    mask[2, 3:6] = 1
    points = sample_points(mask, 5, torch.Generator().manual_seed(0))
    expected = torch.tensor([[2 / 8, 3 / 10], [2 / 8, 4 / 10], [2 / 8, 5 / 10]])
    assert torch.equal(points[:3], expected)
    assert all((point == expected).all(1).any() for point in points[3:])
    assert torch.equal(sample_points(mask, 3), expected)
    chosen = sample_points(torch.ones(8, 10), 5, torch.Generator().manual_seed(0))
    assert len({tuple(p) for p in chosen.tolist()}) == 5


def test_region_tokens_average_neighbouring_points():
    """A map that is its own column: tokens are the mean columns of their points."""
    config = RegionConfig(points=4, pooling=2)
    plane = torch.linspace(0, 1, 5).expand(5, 5)[..., None]
    mask = torch.zeros(1, 10, 10)
    mask[0, 5, [0, 2, 4, 6]] = 1
    assert torch.allclose(sample_regions(plane, mask, config), torch.tensor([[[0.1], [0.5]]]))


def test_an_empty_region_is_refused(tiny_model):
    stage3 = tiny_model.encode(pixels(1)).stage3
    masks = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
    with pytest.raises(PromptError, match="empty"):
        tiny_model.region_tokens(stage3, masks)


def test_both_ways_of_reading_places_agree():
    """Reading by gathered rows, on a CPU without gradients, and by grid sampling; beyond the border is nothing."""
    shapes = [(3, 5), (6, 10)]
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        part = DeformableAttention(24, heads=3, levels=2, points=2)
        for weight in (part.sampling_offsets.weight, part.attention_weights.weight):
            torch.nn.init.normal_(weight, std=1.0)
        tokens, position, reference = torch.randn(2, 75, 24), torch.randn(1, 75, 24), torch.rand(75, 2)
        expected = part(tokens, position, reference, shapes)
    found = part(tokens, position, reference, shapes)
    assert expected.requires_grad and not found.requires_grad
    assert torch.allclose(found, expected.detach(), atol=1e-5)
