"""An engine with a model for pictures (X-SAM): every picture task and chat, clicks that correct, pages one by one, and
clear words where a memory would be needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam.errors import PicturesOnlyError, PromptError, TrainingError
from x2sam.inference.engine import Engine
from x2sam.inference.object_rounds import picture_part
from x2sam.inference.preprocess import FrameSizes
from x2sam.straightforward import watched
from x2sam.structures import Point, Prompt
from x2sam.training.begin import begin_episodes
from x2sam.training.settings import ModelConfig, TrainConfig

HEIGHT, WIDTH = 45, 70


@pytest.fixture
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture
def session(xsam_engine, clip):
    return xsam_engine.open(clip[0])


BOX = (10, 10, 40, 30)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(categories=("cat", "sem: grass"), task="genseg"),
        Prompt(text="sem: grass, sky"),
        Prompt(categories=("teapot",), task="ovseg"),
        Prompt(text="the red ball"),
        Prompt(text="What could a child play with?", task="reaseg"),
        Prompt(text="describe"),
        Prompt(boxes=(BOX,), points=(Point(50, 20),), task="vgdseg"),
        Prompt(points=(Point(20, 20),)),
    ],
    ids=lambda p: p.task or p.text or "intseg",
)
def test_every_picture_task(session, prompt):
    for mask in session.segment(prompt):
        assert mask.mask.shape == (HEIGHT, WIDTH) and mask.mask.any() and 0 <= mask.score <= 1
    assert session.modality == "image"


def test_words(session):
    answer, masks = session.chat("How many are there?")
    assert isinstance(answer, str) and masks == []
    for mark in ("<|", "<SEG>", "<p>", "<s>"):
        assert mark not in answer


def test_a_second_click_runs_no_encoder(xsam_engine, session):
    """The picture's features and the language model's prefix are kept; of the words only what follows the picture is
    read. Equal prompts give equal masks, whether or not their beginning was seen before."""
    one, two = Point(20, 20), Point(60, 40, positive=False)
    with watched(xsam_engine.model) as watch:
        watch.clear()
        (first,) = session.segment(Prompt(points=(one,)))
        assert watch.calls["mask_encoder"] == watch.calls["vision_tower"] == watch.calls["pixel_decoder"] == 1
        assert watch.calls["language_model"] == 2  # the prefix, and what is asked
        watch.clear()
        (better,) = session.segment(Prompt(points=(one, two), object_id=first.object_id))
        assert watch.calls["language_model"] == watch.calls["mask_decoder"] == 1
        assert watch.calls["mask_encoder"] == watch.calls["vision_tower"] == watch.calls["pixel_decoder"] == 0
    assert better.mask[20, 20] and not better.mask[40, 60]
    anew = xsam_engine.open(session.looking.picture(0)).segment(Prompt(points=(one, two)))[0]
    assert np.array_equal(anew.mask, better.mask)


def test_a_mask_before_is_the_prompt_of_a_correction(session):
    before = np.zeros((HEIGHT, WIDTH), bool)
    before[10:30, 10:40] = True
    (mask,) = session.segment(Prompt(previous=before, points=(Point(12, 12, positive=False),)))
    assert mask.mask.any() and not mask.mask[12, 12]


def test_pages_are_answered_one_by_one(xsam_engine, clip):
    pages = xsam_engine.open(clip)
    for prompt in (Prompt(points=(Point(20, 20),)), Prompt(text="the red ball")):
        alone = xsam_engine.open(clip[2]).segment(prompt)
        for mask, same in zip(pages.segment(prompt, frame=2), alone, strict=True):
            assert np.array_equal(mask.mask, same.mask)


@pytest.mark.parametrize(
    "ask",
    [
        lambda s, m: next(iter(s.track([m.object_id]))),
        lambda s, m: s.find_in_clip(Prompt(text="the red ball")),
        lambda s, m: s.correct(1, m.object_id, m.mask),
        lambda s, m: s.segment(Prompt(text="a dog", task="vid_refseg")),
    ],
    ids=["track", "find in clip", "correct", "video task"],
)
def test_what_needs_a_memory_names_the_model_that_has_one(ask, xsam_engine, clip):
    session = xsam_engine.open(clip)
    (mask,) = session.segment(Prompt(points=(Point(20, 20),)))
    with pytest.raises(PicturesOnlyError, match=r"xsam-tiny looks at pictures one by one.*x2sam-4b or nano"):
        ask(session, mask)


def test_the_network_itself_refuses_a_memory(tiny_xsam, session):
    model, _ = tiny_xsam
    features = session.looking.features(0)
    with pytest.raises(PromptError, match="no memory"):
        model.remember(features, torch.zeros(1, 1, 16, 16), 0)
    assert not hasattr(model, "memory_attention") and not hasattr(model, "no_memory_embedding")


def test_a_saved_model_answers_alike(tiny_xsam, clip, tmp_path):
    model, tokenizer = tiny_xsam
    model.save_pretrained(tmp_path / "model", tokenizer)
    prompt = Prompt(points=(Point(20, 20),))
    with pytest.raises(TrainingError, match=r"is X-SAM of 2025; what is trained here begins with X2SAM"):
        begin_episodes(TrainConfig(model=ModelConfig(start=str(tmp_path / "model"))))
    with Engine.load(tmp_path / "model", "cpu") as engine, Engine(model, tokenizer, "one") as other:
        assert engine.model.config == model.config
        one, two = (e.open(clip[0]).segment(prompt)[0] for e in (engine, other))
    assert np.array_equal(one.mask, two.mask)


def test_features_outlive_the_process(tiny_xsam, clip, tmp_path):
    """From the disk as from memory, the prefix of the language model included."""

    class Digested(list):
        def digest(self, frame: int) -> str:
            return f"page{frame}"

    prompt, masks = Prompt(points=(Point(20, 20),)), []
    for _ in range(2):
        with Engine(*tiny_xsam, "xsam-tiny", store=tmp_path, store_bytes=2**26) as engine:
            masks += engine.open(Digested([clip[0]])).segment(prompt)
            restored = engine.features.restored
    assert restored >= 2
    assert np.array_equal(masks[0].mask, masks[1].mask)


def test_the_pictures_part_ends_where_the_picture_ends():
    """40 of 64 rows at a cell of 16 are 2.5 cells: a ramp over the rows (value = place) is sampled over these, at
    2 places, 0.625 and 1.875; all 4 columns are kept. Whole cells are cut out as they are."""
    ramp = (torch.arange(4) + 0.5)[None, :, None].expand(1, 4, 4)
    part = picture_part(ramp, FrameSizes((64, 64), (40, 64), (20, 32)))
    assert part.shape == (1, 2, 4)
    torch.testing.assert_close(part[0, :, 0], torch.tensor([0.625, 1.875]))
    assert torch.equal(picture_part(ramp, FrameSizes((64, 64), (32, 64), (16, 32))), ramp[:, :2])
