"""The training loop on generated data with the tiny preset: it learns, resumes exactly, names what it can't read."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from x2sam.data.mixture import TrainingMixture
from x2sam.data.plain_words import plainly, words_in
from x2sam.errors import TrainingError
from x2sam.inference.engine import Engine
from x2sam.model.weights import load_config
from x2sam.structures import Point, Prompt
from x2sam.training.episodes import EpisodeConfig
from x2sam.training.optim import OptimConfig, build_optimizer
from x2sam.training.recipes import build_recipe
from x2sam.training.settings import DataConfig, LoopConfig, ModelConfig, TrainConfig, load_train_config
from x2sam.training.steps import StepConfig
from x2sam.training.train import make_accelerator, train, train_step


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(preset="tiny", vocabulary=400),
        data=DataConfig(seed=3, batch=2, clip_every=2, frames=3, workers=0),
        episode=EpisodeConfig(sketch_rows=2, word_rows=2),
        step=StepConfig(points=64, align=1.0, naming=1.0, worded=1),
        optim=OptimConfig(lr=1e-3),
        loop=LoopConfig(
            steps=4, save_minutes=0.0, keep=9, log_every=1, overlay_every=2, directory=str(tmp_path / "run")
        ),
    )


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(config, tmp_path):
    torch.set_num_threads(1)
    whole = load_file(train(config) / "model.safetensors")
    states = tmp_path / "run" / "states"
    for late in ("step-00000003", "step-00000004"):
        shutil.rmtree(states / late)
    shutil.rmtree(tmp_path / "run" / "model")
    resumed = load_file(train(config, resume=True) / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert not any("naming" in k for k in whole), "what only helps to train is not part of the model"
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 3, 4]


def test_the_result_opens_as_an_engine(config):
    with Engine.load(train(dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=1)))) as engine:
        picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
        assert engine.open(picture).segment(Prompt(points=(Point(30, 20),)))[0].mask.shape == (50, 70)


@pytest.mark.parametrize("number", [0, 1], ids=["pictures", "clip"])
def test_the_loss_of_one_batch_falls(config, number):
    torch.set_num_threads(1)
    config = dataclasses.replace(config, step=StepConfig(points=64, refine_chance=0.0, carry=1.0))
    recipe = build_recipe(config)
    optimizer = build_optimizer(recipe.model, config.optim)
    accelerator = make_accelerator(False, "cpu")
    batches = recipe.steps.step(number)
    losses = [
        train_step(accelerator, recipe.objective, optimizer, batches, number, config.optim, 0)["loss"]
        for _ in range(12)
    ]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_the_words_that_were_heard_are_written_down(config):
    """All of what is drawn for training, those of samples after the first ones too, so that none is left out later."""
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=1))
    known = frozenset(load_config(train(config)).words)
    assert {"red", "circle", "sofa"} <= known
    later = (TrainingMixture(config.data.seed).sample_at(5000 + k) for k in range(40))
    heard = [text for sample in later for one in sample.objects for text in (one.category, *one.phrases)]
    assert words_in(heard) <= known and all(plainly(text, known) == text for text in heard)


def test_unknown_settings_are_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[optim]\nlearning_rate = 1\n")
    with pytest.raises(TrainingError, match="learning_rate"):
        load_train_config(path)
    path.write_text("[optimizer]\nlr = 1\n")
    with pytest.raises(TrainingError, match="optimizer"):
        load_train_config(path)
