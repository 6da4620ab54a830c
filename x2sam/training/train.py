"""Training from a TOML file; reads top to bottom. ``python -m x2sam train CONFIG [--resume]``.

    [model]     preset = "nano" | "tiny" | ..., vocabulary (size of the byte-level tokenizer trained here),
                start (directory of a model whose weights and tokenizer to begin with, instead of from scratch)
    [data]      seed, root (label maps, optional), real_fraction, batch, clip_every, clip_batch, frames
    [episode]   see EpisodeConfig;  [step] see StepConfig;  [optim] see OptimConfig
    [loop]      see LoopConfig

A step depends on the seed and its number only, so a resumed run sees the data that the dead one would have seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, IterableDataset

from x2sam import config as presets
from x2sam.data.mixture import TrainingMixture
from x2sam.data.tokenizer import build_tokenizer, load_tokenizer
from x2sam.errors import TrainingError
from x2sam.inference.conversation import ChatEncoder
from x2sam.model.x2sam import X2SAM
from x2sam.training.checkpoint import CheckpointStore
from x2sam.training.episodes import EpisodeBuilder, EpisodeConfig
from x2sam.training.initialise import initialise
from x2sam.training.losses import total_loss
from x2sam.training.optim import OptimConfig, build_optimizer, clip_gradients, set_learning_rate
from x2sam.training.steps import Batch, StepConfig, collate, training_losses

log = logging.getLogger(__name__)

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LOGGED = ("first/loss_mask", "first/loss_dice", "first/loss_cls", "words/loss_mask", "words/loss_cls", "language")


@dataclass(frozen=True)
class DataConfig:
    """batch: pictures per step; every ``clip_every``-th step is ``clip_batch`` clips of ``frames`` frames instead."""

    seed: int = 0
    root: str | None = None
    real_fraction: float = 0.6
    paste: float = 0.2
    batch: int = 2
    clip_every: int = 4
    clip_batch: int = 1
    frames: int = 3
    workers: int = 1


@dataclass(frozen=True)
class LoopConfig:
    steps: int = 1000
    save_minutes: float = 3.0
    keep: int = 2
    autocast: bool = False
    log_every: int = 20
    directory: str = "runs/nano"
    save_dtype: str = "float16"


@dataclass(frozen=True)
class TrainConfig:
    preset: str = "nano"
    vocabulary: int = 1024
    start: str | None = None
    data: DataConfig = DataConfig()
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    step: StepConfig = field(default_factory=StepConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def load_train_config(path: Path) -> TrainConfig:
    """Reads the TOML file; an unknown name is an error that says where."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path} can't be read: {error}") from error
    parts = {"data": DataConfig, "episode": EpisodeConfig, "step": StepConfig, "optim": OptimConfig, "loop": LoopConfig}
    unknown = set(table) - {"model", *parts}
    if unknown:
        raise TrainingError(f"{path}: unknown section {', '.join(sorted(unknown))}")
    try:
        built = {name: kind(**_frozen(table.get(name, {}))) for name, kind in parts.items()}
        return TrainConfig(**table.get("model", {}), **built)
    except TypeError as error:
        raise TrainingError(f"{path}: {error}") from error


def _frozen(value: Any) -> Any:
    """TOML lists to tuples, all the way down, so that settings stay hashable."""
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together (``torchrun`` or ``accelerate launch`` start them)."""

    index: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Ranks:
        if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
            return cls()
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def share_gradients(self, model: nn.Module) -> None:
        """Averages the gradients of all processes; a parameter that one of them did not use counts as zero there."""
        if self.count == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.count
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


class Batches(IterableDataset):
    """Batches number ``start``, ``start + 1``, ...; each is built from its number and the process's rank alone."""

    def __init__(
        self, builder: EpisodeBuilder, config: DataConfig, size: tuple[int, int], start: int, ranks: Ranks | None = None
    ):
        self.builder, self.config, self.start, self.ranks = builder, config, start, ranks or Ranks()
        mixture = dict(
            train_root=config.root, size=size, real_fraction=config.real_fraction, paste=config.paste,
            frames=config.frames,
        )  # fmt: skip
        self.pictures = TrainingMixture(config.seed, clip_fraction=0.0, **mixture)
        self.clips = TrainingMixture(config.seed + 1, clip_fraction=1.0, **mixture)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        number = self.start + first
        while True:
            yield number, self.batch(number)
            number += stride

    def batch(self, number: int) -> Batch:
        clip = self.config.clip_every > 0 and number % self.config.clip_every == self.config.clip_every - 1
        source, count = (self.clips, self.config.clip_batch) if clip else (self.pictures, self.config.batch)
        place = number * self.ranks.count + self.ranks.index
        episodes, attempt = [], 0
        while len(episodes) < count:
            rng = np.random.default_rng((self.config.seed, place, attempt))
            sample = source.sample_at(place * 1000 + attempt)
            episode = self.builder.build(sample, rng)
            attempt += 1
            if episode is not None:
                episodes.append(episode)
            if attempt >= 1000:
                raise TrainingError(f"batch {number}: 1000 samples without an object to prompt; check the data")
        return collate(episodes)


def phrases_of(config: DataConfig, count: int = 300) -> list[str]:
    """Names and expressions of the first samples, for the tokenizer."""
    mixture = TrainingMixture(config.seed, config.root, (128, 128), config.real_fraction, clip_fraction=0.0, paste=0.0)
    objects = [o for i in range(count) for o in mixture.sample_at(i).objects]
    return [text for o in objects for text in (o.category, *o.phrases)]


def prepare(config: TrainConfig) -> tuple[X2SAM, Any, EpisodeBuilder]:
    """The model at its beginning (fresh, or that of ``start``), its tokenizer and the episode builder."""
    torch.manual_seed(config.data.seed)
    if config.start is None:
        tokenizer = build_tokenizer(phrases_of(config.data), config.vocabulary)
        model = X2SAM(presets.PRESETS[config.preset](vocab_size=len(tokenizer)))
        initialise(model)
    else:
        model = X2SAM.from_pretrained(config.start).requires_grad_(True)
        tokenizer = load_tokenizer(Path(config.start) / "tokenizer")
    encoder = ChatEncoder(tokenizer, model.config.preprocess.merge)
    builder = EpisodeBuilder(encoder, model.config.preprocess, model.config.region.tokens, config.episode)
    return model, tokenizer, builder


def train(config: TrainConfig, resume: bool = False, device: str = "cpu") -> Path:
    """Runs to the end of the schedule and returns the directory of the finished model."""
    directory = Path(config.loop.directory)
    ranks = Ranks.join()
    model, tokenizer, builder = prepare(config)
    model.to(device).train()
    optimizer = build_optimizer(model, config.optim)
    store = CheckpointStore(directory / "states", keep=config.loop.keep)
    step = 0
    if resume and (state := store.resume(model, optimizer)) is not None:
        step = state.step
        log.info("resumed at step %d", step)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "train.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    batches = Batches(builder, config.data, model.config.preprocess.mask_size, step, ranks)
    ahead = 4 if config.data.workers else None
    loader = DataLoader(batches, batch_size=None, num_workers=config.data.workers, prefetch_factor=ahead)
    history = History(directory / "log.jsonl", config.loop.log_every)
    saved = time.monotonic()
    for number, batch in loader:
        factor = set_learning_rate(optimizer, number, config.loop.steps, config.optim)
        numbers = train_step(model, optimizer, batch.to(device), number, config, device, ranks)
        step = number + 1
        if ranks.index:
            if step >= config.loop.steps:
                break
            continue
        history.add(number, config.loop.steps, numbers | {"lr": factor * config.optim.lr})
        if time.monotonic() - saved > 60 * config.loop.save_minutes or step >= config.loop.steps:
            store.save(step, model, optimizer)
            saved = time.monotonic()
        if step >= config.loop.steps:
            break
    final = directory / "model"
    if ranks.index == 0:
        model.save_pretrained(final, tokenizer, getattr(torch, config.loop.save_dtype))
    if ranks.count > 1:
        dist.destroy_process_group()
    return final


def train_step(
    model: X2SAM, optimizer, batch: Batch, number: int, config: TrainConfig, device: str, ranks: Ranks = Ranks()
) -> dict[str, float]:
    """Forward, backward, clip, move. Random choices of the step follow from its number."""
    rng = np.random.default_rng((config.data.seed, 7, number))
    torch.manual_seed(config.data.seed * 1_000_003 + number)
    kind = device.split(":")[0]
    autocast = torch.autocast(kind, torch.bfloat16) if config.loop.autocast else contextlib.nullcontext()
    # on a CPU the plain kernel's backward pass is faster than the fused one's for the small maps of nano
    kernels = [SDPBackend.MATH] if kind == "cpu" else FUSED
    optimizer.zero_grad(set_to_none=True)
    with sdpa_kernel(kernels):
        with autocast:
            losses, numbers = training_losses(model, batch, config.step, rng)
            loss = total_loss(losses, batch.names)
        loss.backward()
    ranks.share_gradients(model)
    numbers["gradient"] = float(clip_gradients(model.parameters(), config.optim))
    optimizer.step()
    numbers |= {key: float(losses[key].detach()) for key in LOGGED if key in losses}
    return numbers | {"loss": float(loss.detach())}


class History:
    """Running means to a JSON-lines file and the log, with the time that is left."""

    def __init__(self, path: Path, every: int):
        self.path, self.every = path, every
        self.sums: dict[str, list[float]] = {}
        self.began, self.count = time.monotonic(), 0

    def add(self, number: int, total: int, values: dict[str, float]) -> None:
        self.count += 1
        for key, value in values.items():
            self.sums.setdefault(key, []).append(value)
        if self.count % self.every:
            return
        pace = (time.monotonic() - self.began) / self.count
        means = {k: round(float(np.mean(v)), 5) for k, v in self.sums.items()}
        left = (total - number - 1) * pace / 60
        means |= {"step": number + 1, "seconds_per_step": round(pace, 3), "minutes_left": round(left, 1)}
        with self.path.open("a") as out:
            out.write(json.dumps(means) + "\n")
        log.info("%s", json.dumps(means))
        self.sums.clear()
