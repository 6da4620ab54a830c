"""What a run trains: the embedded model on episodes, or a stage of the 4B model. One row of :data:`RECIPES` each.

The loop (:mod:`x2sam.training.train`) knows nothing of what is in a batch; all of that is put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from x2sam.data.engine import Build, DataEngine
from x2sam.data.engine_rows import RowBuilder
from x2sam.data.readers import open_dataset
from x2sam.data.task_sample import TaskDataset
from x2sam.errors import TrainingError
from x2sam.inference.conversation import ChatEncoder
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.model.mask_decoder import LevelPrediction
from x2sam.training.adapters import merged, save_lora
from x2sam.training.agnostic import AgnosticObjective, save_segmentor
from x2sam.training.batches import AnyBatch, Place, Steps
from x2sam.training.begin import begin_episodes, begin_stage1, begin_stage3
from x2sam.training.episode_batches import EpisodeBatches
from x2sam.training.episodes import KINDS, EpisodeBuilder
from x2sam.training.joint import JointObjective
from x2sam.training.settings import TrainConfig
from x2sam.training.steps import EpisodeObjective
from x2sam.training.task_batches import TaskBatches


class Objective(Protocol):
    """An ``nn.Module`` around the model, whose forward takes a batch and the step's number.

    forward: weighted losses by name, and plain numbers worth logging
    look:    a picture (3, S, S), the prediction for it, and its true masks (N, S, S); None where nothing is to see
    logged:  names of the losses that are logged by themselves
    """

    logged: tuple[str, ...]

    def __call__(self, batch: AnyBatch, number: int) -> tuple[dict[str, Tensor], dict[str, float]]: ...

    def look(self, batch: AnyBatch) -> tuple[Tensor, LevelPrediction, Tensor] | None: ...


@dataclass(frozen=True, eq=False)
class Recipe:
    """model:     what the optimizer moves and what is saved
    objective: see :class:`Objective`; the model is inside
    steps:     the data, by the number of the step
    length:    steps of the whole run
    views:     how pictures were prepared
    finish:    writes the finished model to a directory"""

    model: nn.Module
    objective: nn.Module
    steps: Steps
    length: int
    views: PreprocessConfig
    finish: Callable[[Path], None]


def build_recipe(config: TrainConfig, place: Place = Place()) -> Recipe:
    """Everything that ``config`` asks for, with the weights that the run begins with."""
    torch.manual_seed(config.data.seed)
    return RECIPES[config.stage.number](config, place)


def episodes(config: TrainConfig, place: Place) -> Recipe:
    model, tokenizer = begin_episodes(config)
    if config.step.naming:
        # A helper of training only: it is taken off again before the model is written.
        model.naming = nn.Conv2d(model.config.width, KINDS, 1)
    views = model.config.preprocess

    def finish(directory: Path) -> None:
        if config.step.naming:
            del model.naming
        model.save_pretrained(directory, tokenizer, _dtype(config))

    builder = EpisodeBuilder(ChatEncoder(tokenizer, views.merge), views, model.config.region.tokens, config.episode)
    return Recipe(
        model=model,
        objective=EpisodeObjective(model, config.step, config.data.seed),
        steps=EpisodeBatches(builder, config.data, views.mask_size, place),
        length=config.loop.steps,
        views=views,
        finish=finish,
    )


def stage1(config: TrainConfig, place: Place) -> Recipe:
    wordy = [spec.name for spec in config.datasets if spec.task == "chat"]
    if wordy:
        raise TrainingError(f"stage 1 learns masks without words; take {', '.join(wordy)} out of its datasets")
    model = begin_stage1(config)
    views = model.config.preprocess
    engine = data_engine(config, RowBuilder(config.engine, views).without_words, place)
    return Recipe(
        model=model,
        objective=AgnosticObjective(model, config.stage.points),
        steps=TaskBatches(engine, None, views, 0, place),
        length=config.loop.steps or engine.schedule.steps_per_pass,
        views=views,
        finish=lambda directory: save_segmentor(model, directory),
    )


def stage3(config: TrainConfig, place: Place) -> Recipe:
    model, tokenizer = begin_stage3(config)
    views = model.config.preprocess
    engine = data_engine(config, RowBuilder(config.engine, views).build, place)

    def finish(directory: Path) -> None:
        """The model that is served, and the adapters by themselves beside it."""
        merged(model).save_pretrained(directory, tokenizer, _dtype(config))
        save_lora(model, directory / "adapter")

    return Recipe(
        model=model,
        objective=JointObjective(model, config.stage),
        steps=TaskBatches(engine, ChatEncoder(tokenizer, views.merge), views, model.config.region.tokens, place),
        length=config.loop.steps or engine.schedule.steps_per_pass,
        views=views,
        finish=finish,
    )


RECIPES: Mapping[int, Callable[[TrainConfig, Place], Recipe]] = MappingProxyType({0: episodes, 1: stage1, 3: stage3})


def data_engine(config: TrainConfig, build: Build, place: Place) -> DataEngine:
    datasets: list[TaskDataset] = [open_dataset(spec) for spec in config.datasets]
    return DataEngine(datasets, build, config.batch, config.data.threshold, config.data.seed, place.count)


def _dtype(config: TrainConfig) -> torch.dtype:
    return getattr(torch, config.loop.save_dtype)
