"""Settings of a training run, from a TOML file. Every section but ``[stage]`` may be left out.

    [model]     preset = "nano" | "tiny" | "x2sam-4b" ..., and what to begin with, see :class:`ModelConfig`
    [stage]     number = 1 or 3 for the stages of the 4B model, see :class:`StageConfig`
    [data]      seed, workers; without a stage also the mixture of pictures and generated scenes
    [[dataset]] with a stage: name, format, task and paths of each dataset, see x2sam/data/readers/spec.py
    [engine], [batch]  how samples are cut down (:class:`RowConfig`) and put together (:class:`BatchSizes`)
    [episode], [step]  without a stage: prompts about a sample, corrections, weights of losses
    [optim], [loop]    how weights move; length, saving and logging
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from x2sam.data.engine_rows import RowConfig
from x2sam.data.engine_schedule import BatchSizes
from x2sam.data.readers import DatasetSpec
from x2sam.errors import TrainingError, X2SAMError
from x2sam.training.episodes import EpisodeConfig
from x2sam.training.optim import OptimConfig
from x2sam.training.steps import StepConfig


@dataclass(frozen=True)
class ModelConfig:
    """What is trained and what it begins with; a part for which nothing is named begins at random.

    preset:     sizes, a key of :data:`x2sam.config.PRESETS`
    vocabulary: size of the byte-level tokenizer that is trained where none is named
    start:      directory of a whole model (weights and tokenizer) to begin with; sizes are its own
    base:       directory of Qwen3-VL: weights, tokenizer, and the sizes that its config.json states (third stage)
    encoder:    safetensors of SAM2.1 (``facebook/sam2.1-hiera-large``), whose image encoder is taken
    segmentor:  result of the first stage, a directory or the published file, taken by name and shape (third stage)
    """

    preset: str = "nano"
    vocabulary: int = 1024
    start: str | None = None
    base: str | None = None
    encoder: str | None = None
    segmentor: str | None = None


@dataclass(frozen=True)
class StageConfig:
    """A stage of the 4B model; see :mod:`x2sam.training.stages` for what is trained in each.

    number:        1 or 3; 0 trains a small model on episodes instead. The released model has no second stage
    points:        of each mask, for matching and for the losses
    language:      weight of the language loss
    checkpointing: compute the layers' inner states again in the backward pass instead of keeping them
    frozen_dtype:  number type of what is not trained
    """

    number: int = 0
    points: int = 12544
    language: float = 1.0
    checkpointing: bool = False
    frozen_dtype: str = "float32"


@dataclass(frozen=True)
class DataConfig:
    """seed: of everything that is drawn at random; workers: processes that prepare batches;
    broken: share of samples that may be unreadable before the run stops (ten are always allowed).

    Without a stage: ``batch`` pictures per step; every ``clip_every``-th step is ``clip_batch`` clips of ``frames``
    frames instead; root, real_fraction, paste, patchwork, close, hold_out, split, leave_out: see
    :class:`~x2sam.data.mixture.TrainingMixture`.
    threshold, with a stage: datasets with a smaller share of all samples are repeated.
    """

    seed: int = 0
    workers: int = 1
    broken: float = 0.02
    root: str | None = None
    real_fraction: float = 0.6
    paste: float = 0.2
    patchwork: float = 0.0
    close: float = 0.0
    hold_out: int = 0
    batch: int = 2
    clip_every: int = 4
    clip_batch: int = 1
    frames: int = 3
    split: str = ""
    leave_out: tuple[str, ...] = ()
    threshold: float = 0.1


@dataclass(frozen=True)
class LoopConfig:
    """steps: 0 is one pass over the data of a stage; autocast: bfloat16 arithmetic (weights that are trained stay
    float32); save_dtype: number type of the finished model; overlay_every: steps between pictures for TensorBoard;
    tensorboard: write its files at all."""

    steps: int = 1000
    save_minutes: float = 3.0
    keep: int = 2
    autocast: bool = False
    log_every: int = 20
    overlay_every: int = 500
    tensorboard: bool = True
    directory: str = "runs/nano"
    save_dtype: str = "float16"


@dataclass(frozen=True)
class TrainConfig:
    model: ModelConfig = ModelConfig()
    stage: StageConfig = StageConfig()
    data: DataConfig = DataConfig()
    datasets: tuple[DatasetSpec, ...] = ()
    engine: RowConfig = field(default_factory=RowConfig)
    batch: BatchSizes = field(default_factory=BatchSizes)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    step: StepConfig = field(default_factory=StepConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.stage.number not in (0, 1, 3):
            raise TrainingError(
                f"there is no stage {self.stage.number}; use 1, 3, or none (the released model has no stage 2)"
            )
        if self.stage.number and not self.datasets:
            raise TrainingError("a stage learns from datasets; add a [[dataset]] to the configuration")
        if not self.stage.number and self.loop.steps < 1:
            raise TrainingError("loop.steps counts steps; give at least 1")


SECTIONS = {
    "model": ModelConfig,
    "stage": StageConfig,
    "data": DataConfig,
    "engine": RowConfig,
    "batch": BatchSizes,
    "episode": EpisodeConfig,
    "step": StepConfig,
    "optim": OptimConfig,
    "loop": LoopConfig,
}


def load_train_config(path: Path) -> TrainConfig:
    """Reads the TOML file; an unknown name is an error that says where. Datasets' paths start at the file's place."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path} can't be read: {error}") from error
    unknown = set(table) - {*SECTIONS, "dataset"}
    if unknown:
        raise TrainingError(f"{path}: unknown section {', '.join(sorted(unknown))}")
    try:
        built = {name: kind(**_frozen(table.get(name, {}))) for name, kind in SECTIONS.items()}
        datasets = tuple(DatasetSpec.from_mapping(row, path.parent) for row in table.get("dataset", []))
        return TrainConfig(**built, datasets=datasets)
    except (TypeError, X2SAMError) as error:
        raise TrainingError(f"{path}: {error}") from error


def _frozen(value: Any) -> Any:
    """TOML lists to tuples, all the way down, so that settings stay hashable."""
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
