"""Data sets of every format and the settings of short runs over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.x2sam.data.format_fixtures import build_all
from x2sam.data.engine_rows import RowConfig
from x2sam.data.engine_schedule import BatchSizes
from x2sam.data.readers import DatasetSpec
from x2sam.training.optim import OptimConfig
from x2sam.training.settings import DataConfig, LoopConfig, ModelConfig, StageConfig, TrainConfig


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread costs more than it gives, and other processes share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def every_format(tmp_path_factory) -> dict[str, DatasetSpec]:
    return build_all(tmp_path_factory.mktemp("formats"))


def stage_config(number: int, specs: list[DatasetSpec], directory: Path, steps: int, **loop) -> TrainConfig:
    """A short run of a stage with the tiny preset: two pictures or one short clip per step, a high rate."""
    return TrainConfig(
        model=ModelConfig(preset="tiny", vocabulary=400),
        stage=StageConfig(number=number, points=128),
        data=DataConfig(seed=1, workers=0),
        datasets=tuple(specs),
        engine=RowConfig(frames=3, language_frames=4, chat_frames=4),
        batch=BatchSizes(images=2, clip_accumulation=1),
        optim=OptimConfig(
            lr=3e-3,
            clip_norm=0.01 if number == 1 else 1.0,
            lr_multipliers=(("mask_encoder.encoder.", 0.1),) if number == 3 else (),
        ),
        loop=LoopConfig(**{"steps": steps, "save_minutes": 60.0, "log_every": 1, "directory": str(directory), **loop}),
    )
