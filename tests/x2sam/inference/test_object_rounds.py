"""Click by click: what a round hears, what it keeps from the one before, and that the way there does not matter."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch

from x2sam.data.tasks import find_task
from x2sam.errors import PromptError
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.object_rounds import AGREES, Ask, ObjectRounds, Round, choose, rounds_of
from x2sam.model.mask_decoder import LevelPrediction
from x2sam.structures import Point, Prompt

SIZE = (60, 90)
TASK = find_task("intseg", "image")
PLUS, MINUS = Point(20, 20), Point(70, 40, positive=False)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(params=["published", "sketching"])
def model(request, tiny_model, sketching_model):
    return tiny_model if request.param == "published" else sketching_model


def rounds_on(model, tokenizer, seed: int = 0) -> ObjectRounds:
    picture = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    return ObjectRounds(Looking(Interpreter(model, tokenizer), FeatureCache(2**28), picture, "picture"), seed)


@pytest.fixture
def rounds(model, tiny_tokenizer) -> ObjectRounds:
    return rounds_on(model, tiny_tokenizer)


def mask_of(answer: Round) -> np.ndarray:
    plane = torch.from_numpy(answer.probability)[None, None]
    return (torch.nn.functional.interpolate(plane, SIZE, mode="bilinear")[0, 0] > 0.5).numpy()


def answered(rounds: ObjectRounds, prompt: Prompt) -> list[Round]:
    found, before, mask = [], None, prompt.previous
    for beginning in rounds_of(prompt):
        before = rounds.answer(beginning, before, mask, 0, TASK)
        mask = mask_of(before)
        found.append(before)
    return found


def box(*corners: int) -> np.ndarray:
    x0, y0, x1, y1 = corners
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("prompt", "clicks"),
    [
        (Prompt(points=(PLUS,)), [1]),
        (Prompt(points=(PLUS, MINUS, PLUS)), [1, 2, 3]),
        (Prompt(points=(MINUS, PLUS, MINUS)), [2, 3]),
        (Prompt(boxes=((1, 1, 9, 9),)), [0]),
        (Prompt(boxes=((1, 1, 9, 9),), points=(PLUS, MINUS)), [0, 1, 2]),
        (Prompt(masks=(box(0, 0, 5, 5),)), [0]),
        (Prompt(points=(MINUS,), previous=box(0, 0, 80, 50)), [0, 1]),
    ],
)
def test_a_round_for_every_click_behind_the_first(prompt, clicks):
    assert [len(p.points) for p in rounds_of(prompt)] == clicks
    assert all(p.boxes == prompt.boxes and p.masks == prompt.masks for p in rounds_of(prompt))


def test_nothing_to_take_away_from():
    with pytest.raises(PromptError, match="click on the object first"):
        list(rounds_of(Prompt(points=(MINUS,))))


def test_an_answer(rounds):
    answer = answered(rounds, Prompt(points=(PLUS,)))[0]
    assert answer.probability.shape == (16, 16) and answer.probability.dtype == np.float32
    assert answer.probability.min() >= 0 and answer.probability.max() <= 1
    assert 0 <= answer.score <= 1
    assert answer.region.shape == (64, 64) and bool((answer.region != 0).any())


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=(PLUS, MINUS, Point(30, 30))),
        Prompt(boxes=((10, 10, 50, 50),), points=(MINUS,)),
        Prompt(masks=(box(10, 10, 40, 40),), points=(MINUS,)),
        Prompt(points=(MINUS,), previous=box(0, 0, 80, 50)),
        Prompt(strokes=(np.array([[5.0, 5.0], [40.0, 30.0]]),)),
    ],
)
def test_equal_prompts_give_equal_answers(rounds, model, tiny_tokenizer, prompt):
    first = answered(rounds, prompt)
    torch.rand(3)  # what others draw is nothing to us
    for again in (answered(rounds, prompt), answered(rounds_on(model, tiny_tokenizer), prompt)):
        for a, b in zip(first, again, strict=True):
            assert np.array_equal(a.probability, b.probability) and a.score == b.score


def test_places_may_be_numbers_of_numpy(rounds):
    (plain,) = answered(rounds, Prompt(points=(PLUS,)))
    (other,) = answered(rounds, Prompt(points=(Point(np.float64(PLUS.x), np.float64(PLUS.y)),)))
    assert np.array_equal(plain.probability, other.probability)


def test_the_seed_decides_the_points_that_are_read(model, tiny_tokenizer):
    found = [answered(rounds_on(model, tiny_tokenizer, seed), Prompt(points=(PLUS,)))[0] for seed in (0, 1)]
    assert not torch.equal(found[0].condition.classes, found[1].condition.classes)


def test_every_click_is_heard(rounds):
    plus, corrected = answered(rounds, Prompt(points=(PLUS, MINUS)))
    other = answered(rounds, Prompt(points=(PLUS, dataclasses.replace(MINUS, positive=True))))[1]
    assert not np.array_equal(plus.probability, corrected.probability)
    assert not np.array_equal(other.probability, corrected.probability)


def test_a_correction_needs_no_words_where_clicks_are_painted(sketching_model, tiny_model, tiny_tokenizer):
    """Sketching models read the question once; the published one has no other ear for a click."""
    for model, questions in ((sketching_model, 1), (tiny_model, 3)):
        rounds, asked = rounds_on(model, tiny_tokenizer), []
        read = rounds.read_all
        rounds.read_all = lambda regions, *args, read=read, asked=asked: asked.extend(regions) or read(regions, *args)
        answered(rounds, Prompt(points=(PLUS, MINUS, Point(30, 30))))
        assert len(asked) == questions


def test_the_mask_before_is_where_a_correction_starts(rounds):
    """Two masks before, the same click: different answers."""
    prompts = [Prompt(points=(MINUS,), previous=m) for m in (box(0, 0, 80, 50), box(50, 20, 90, 60))]
    found = [answered(rounds, p)[0] for p in prompts]
    assert not np.array_equal(found[0].probability, found[1].probability)


def test_the_region_of_a_correction_leaves_out_its_negative_clicks(tiny_model, tiny_tokenizer):
    """The published route: the mask before plus positive minus negative discs is what the language model reads."""
    rounds = rounds_on(tiny_model, tiny_tokenizer)
    region = answered(rounds, Prompt(points=(Point(10, 10), MINUS), previous=box(40, 20, 90, 60)))[-1].region
    at = lambda p: bool(region[int(p.y * 64 / SIZE[0]), int(p.x * 64 / SIZE[1])])  # noqa: E731
    assert not at(MINUS) and at(Point(10, 10)) and at(Point(45, 55))


def test_discs_may_cover_all_of_the_mask_before(tiny_model, tiny_tokenizer):
    """Nothing is left of it: the positive clicks alone are read."""
    rounds = rounds_on(tiny_model, tiny_tokenizer)
    tiny = box(69, 39, 71, 41)
    found = rounds.answer(Prompt(points=(PLUS, MINUS), previous=tiny), None, tiny, 0, TASK)
    only_plus = rounds.answer(Prompt(points=(PLUS,)), None, None, 0, TASK)
    assert torch.equal(found.region, only_plus.region)
    with pytest.raises(PromptError, match="no positive"):
        rounds.answer(Prompt(points=(MINUS,), previous=tiny), None, tiny, 0, TASK)


def test_the_query_that_holds_the_clicks_is_chosen(rounds):
    """Scores being what they may: of three masks the one with the positive and without the negative click."""
    level_like = type("Level", (), {})()
    logits = torch.full((1, 3, 16, 16), -4.0)
    logits[0, 0] = 4.0  # holds both
    logits[0, 1, :8, :8] = 4.0  # holds the positive click only
    level_like.mask_logits = logits
    level_like.class_logits = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]]])
    sizes = rounds.looking.sizes(0)
    chosen = lambda *points: choose(level_like, points, None, sizes)[0]  # noqa: E731
    assert np.allclose(chosen(PLUS, MINUS)[:8, :8], torch.tensor(4.0).sigmoid())
    assert chosen(PLUS, MINUS)[8:].max() < 0.5
    assert chosen().max() < 0.5, "without clicks the score alone decides"


def test_pictures_with_padding(build_tiny, tiny_tokenizer):
    """Where the longer side is scaled and the rest padded, clicks and masks still meet."""
    for memory in ({}, {"sketch": True, "dense": True, "levels": (0,)}):
        model = build_tiny(**memory)
        model.config = dataclasses.replace(
            model.config, preprocess=dataclasses.replace(model.config.preprocess, keep_aspect=True)
        )
        rounds = rounds_on(model, tiny_tokenizer)
        found = answered(rounds, Prompt(boxes=((10, 10, 50, 50),), points=(PLUS, MINUS)))
        assert found[-1].probability.shape == (11, 16)


def test_the_chosen_query_is_the_best_of_all(rounds):
    """Agreement is only worked out where it can still decide; working it out everywhere chooses the same."""
    sizes, generator = rounds.looking.sizes(0), torch.Generator().manual_seed(3)
    height, width = (round(side / 4) for side in sizes.scaled)
    for number in range(20):
        logits = torch.randn(1, 6, 16, 16, generator=generator) * 3
        classes = torch.randn(1, 6, 2, generator=generator)
        previous = torch.rand(height, width, generator=generator).numpy() if number % 2 else None
        points = (Point(20.5, 20), Point(70, 40, positive=False), Point(90, 0))
        level = LevelPrediction(logits, classes, torch.zeros(1, 6, 1))
        chosen, _ = choose(level, points, previous, sizes)

        masks = logits[0, :, :height, :width].sigmoid()
        grid = torch.tensor([[2 * p.x / SIZE[1] - 1, 2 * p.y / SIZE[0] - 1] for p in points])[None, None]
        at = torch.nn.functional.grid_sample(masks[None], grid, padding_mode="border", align_corners=False)[0, :, 0]
        value = classes[0].softmax(-1)[:, 0] + torch.cat((at[:, :1], 1 - at[:, 1:2], at[:, 2:]), 1).mean(1)
        if previous is not None:
            known = torch.from_numpy(previous)
            value += AGREES * torch.minimum(masks, known).sum((1, 2)) / torch.maximum(masks, known).sum((1, 2))
        assert np.allclose(chosen, masks[int(value.argmax())].numpy(), atol=1e-6)


def asks_at(rounds: ObjectRounds) -> list[Ask]:
    """First and later rounds, by clicks, a box and a mask."""
    first = [Prompt(points=(PLUS,)), Prompt(boxes=((30, 10, 70, 50),)), Prompt(masks=(box(0, 0, 40, 40),))]
    begun = rounds.answer(Prompt(points=(Point(60, 30),)), None, None, 0, TASK)
    later = Ask(Prompt(points=(Point(60, 30), MINUS)), begun, mask_of(begun))
    return [Ask(first[0]), later, *map(Ask, first[1:])]


def test_rounds_together_are_those_of_each_alone(rounds):
    asks = asks_at(rounds)
    together = rounds.answer_all(asks, 0, TASK)
    for ask, found in zip(asks, together, strict=True):
        alone = rounds.answer(ask.prompt, ask.before, ask.mask, 0, TASK)
        assert np.allclose(found.probability, alone.probability, atol=2e-6) and abs(found.score - alone.score) < 1e-6
        assert torch.equal(found.region, alone.region)
        torch.testing.assert_close(found.condition.tokens, alone.condition.tokens, atol=1e-5, rtol=0)
    apart = [np.abs(one.probability - other.probability).max() for one, other in combinations(together, 2)]
    assert min(apart) > 8e-6  # each heard its own prompt, however little random weights make of it


def test_rounds_together_go_through_the_network_once(rounds, model):
    asks, calls = asks_at(rounds), []
    parts = (model.mask_decoder, model.vision_language.language, model.vision_language.visual)
    hooks = [part.register_forward_hook(lambda module, *_: calls.append(module)) for part in parts]
    rounds.answer_all(asks, 0, TASK)
    for hook in hooks:
        hook.remove()
    assert [calls.count(part) for part in parts] == [1, 1, 0]
