"""A model that goes on learning from the masks that people corrected.

The embedded model learns on episodes, its own corrections mixed with generated scenes so that it does not forget what
it could do; its language stays as it is, and its new weights are averaged with those it began with (Wortsman et al.,
"Robust fine-tuning of zero-shot models", 2022). Then its last light step learns from its new answers
(:mod:`x2sam.training.light_step`). Larger models go through the code of the third stage: LoRA beside the
language layers, the pixel and mask decoders and the memory; encoders and word embeddings stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from x2sam.config import X2SAMConfig
from x2sam.data.engine_schedule import BatchSizes
from x2sam.data.readers import DatasetSpec
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.data.readers.own_reader import modalities_of
from x2sam.errors import TrainingError
from x2sam.inference.refine_net import embedded_net, net_of, save_net
from x2sam.model.weights import load_config, load_tensors
from x2sam.placement import SNAP_NET
from x2sam.training.episodes import EpisodeConfig
from x2sam.training.light_step import learn_light_step
from x2sam.training.optim import OptimConfig
from x2sam.training.settings import DataConfig, LoopConfig, ModelConfig, StageConfig, TrainConfig
from x2sam.training.steps import StepConfig
from x2sam.training.train import BeforeStep, train

TRAIN, HELD = "train", "held"
"""The splits of collected corrections: what is learned from, and what nobody learns from."""

_PICTURES_PER_STEP = 2
_PASSES = 3  # over the corrected pictures, in the half of each step that they make up
_LEAST, _MOST = 120, 600


@dataclass(frozen=True)
class Adaptation:
    """steps:  0 takes as many as the number of corrected pictures asks for
    rate:   of learning; 0 takes that of the kind of model
    seed:   of everything drawn at random
    share:  of the new weights in the mean with those before (small models only)
    fresh:  share of corrected pictures among all that are learned from (small models only)
    outline: passes over the new network's answers from which the last light step learns, 0 leaves it as it is (small
            models only)
    """

    steps: int = 0
    rate: float = 0.0
    seed: int = 0
    share: float = 0.5
    fresh: float = 0.6
    outline: int = 10

    def __post_init__(self) -> None:
        if min(self.steps, self.rate, self.outline) < 0 or not 0 < self.share <= 1 or not 0 < self.fresh <= 1:
            raise TrainingError("steps, rate and outline can't be negative, share and fresh lie in (0, 1]")


def adapt(
    start: Path, corrections: Path, out: Path, wanted: Adaptation = Adaptation(), device: str = "cpu",
    before_step: BeforeStep | None = None, before_outline: BeforeStep = lambda number, whole: None,
) -> Path:  # fmt: skip
    """The directory of the adapted model, below ``out``; a run that was stopped goes on.

    start:       directory of the model to begin with
    corrections: directory in the ``x2sam`` layout with a split :data:`TRAIN`
    before_outline: as ``before_step``, of the last light step, which learns after the network (small models only)

    :raises FramesError: the corrections can't be read
    :raises TrainingError: there is nothing to learn from, or a step can't be taken
    """
    config = adaptation_config(start, corrections, out, wanted, device)
    finished = train(config, resume=True, device=device, before_step=before_step)
    if not (finished / "tokenizer").is_dir():
        shutil.copytree(start / "tokenizer", finished / "tokenizer")
    if not config.stage.number:
        if wanted.share < 1:
            average(start, finished, wanted.share)
        net = net_of(start)
        if wanted.outline:
            pictures, passes = OwnPictures(corrections, TRAIN), wanted.outline
            net = learn_light_step(
                finished, net, pictures, passes, wanted.share, wanted.seed, device, before_outline
            )
        if net is embedded_net():
            (finished / SNAP_NET).unlink(missing_ok=True)
        else:
            _replaced(finished / SNAP_NET, lambda part: save_net(net, part))
    return finished


def adaptation_config(
    start: Path, corrections: Path, out: Path, wanted: Adaptation, device: str = "cpu"
) -> TrainConfig:  # fmt: skip
    """The settings of the training run for the kind of model that lies in ``start``."""
    pictures = len(OwnPictures(corrections, TRAIN))
    if not pictures:
        raise TrainingError(f"{corrections} has no corrected masks to learn from; submit some first")
    sizes = load_config(start)
    steps = wanted.steps or min(_MOST, max(_LEAST, _PASSES * pictures // _PICTURES_PER_STEP))
    loop = LoopConfig(
        steps=steps, save_minutes=2.0, keep=1, log_every=10, tensorboard=False, directory=str(out / "run"),
        autocast=device.startswith("cuda"),
    )  # fmt: skip
    make = _small if sizes.memory.sketch else _large
    return make(sizes, start, corrections, wanted, loop)


def _small(
    sizes: X2SAMConfig, start: Path, corrections: Path, wanted: Adaptation, loop: LoopConfig
) -> TrainConfig:  # fmt: skip
    """Episodes: clicks, boxes, strokes and rough masks about corrected pictures and generated scenes, with one
    correction each."""
    return TrainConfig(
        model=ModelConfig(preset=sizes.name, start=str(start)),
        data=DataConfig(
            seed=wanted.seed, workers=0, root=str(corrections), split=TRAIN, real_fraction=wanted.fresh, paste=0.1,
            batch=_PICTURES_PER_STEP, clip_every=16,
        ),
        episode=EpisodeConfig(
            sketch_rows=5, word_rows=1,
            kinds=(("point", 0.56), ("box", 0.2), ("scribble", 0.06), ("mask", 0.06), ("rough", 0.12)),
        ),
        step=StepConfig(refine=1, refine_chance=0.7, language=0.0, points=512, thorough=0.5),
        optim=OptimConfig(
            lr=wanted.rate or 2e-4, weight_decay=0.01, decay_all=False, warmup_fraction=0.1, stable_fraction=0.3,
            lr_multipliers=(("vision_language.", 0.0), ("text_projector.", 0.0), ("mask_encoder.encoder.", 0.5)),
        ),
        loop=replace(loop, save_dtype="float16"),
    )  # fmt: skip


def _large(
    sizes: X2SAMConfig, start: Path, corrections: Path, wanted: Adaptation, loop: LoopConfig
) -> TrainConfig:  # fmt: skip
    """The third stage on what was corrected: each object by a drawn prompt, and everything of a category by an
    example."""
    accelerated = loop.autocast
    there = modalities_of(corrections, TRAIN)
    specs = tuple(
        DatasetSpec(
            f"corrections, {task}, {modality}", "x2sam", task, annotations=corrections, split=TRAIN, modality=modality,
            frames_per_clip=8 if modality == "video" else None,
        )
        for task, modality in (("intseg", "image"), ("vgdseg", "image"), ("objseg", "video"), ("vgdseg", "video"))
        if modality in there
    )
    frozen = ("mask_encoder.", "vision_language.visual.", "vision_language.language.embed_tokens.")
    return TrainConfig(
        model=ModelConfig(preset=sizes.name, start=str(start)),
        stage=StageConfig(3, 12544 if accelerated else 512, 1.0, accelerated, "bfloat16" if accelerated else "float32"),
        data=DataConfig(seed=wanted.seed, workers=2 if accelerated else 0),
        datasets=specs,
        batch=BatchSizes(images=2, clips=1, clip_accumulation=1),
        optim=OptimConfig(
            lr=wanted.rate or 2e-5, warmup_fraction=0.1, lr_multipliers=tuple((name, 0.0) for name in frozen)
        ),
        loop=replace(loop, save_dtype="bfloat16"),
    )


def average(start: Path, finished: Path, share: float) -> None:
    """Each weight of ``finished`` becomes ``share`` of itself and the rest of that of ``start``; number types stay."""
    path = finished / "model.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    before, after = load_tensors(start / "model.safetensors"), load_tensors(path)
    if before.keys() != after.keys():
        raise TrainingError(f"{finished} has other weights than {start}; begin with a model of the same kind")
    mixed = {
        name: torch.lerp(before[name].float(), value.float(), share).to(value.dtype).contiguous()
        if value.is_floating_point()
        else value
        for name, value in after.items()
    }
    _replaced(path, lambda part: save_file(mixed, part, metadata=about))


def _replaced(path: Path, write: Callable[[Path], None]) -> None:
    """Has a file written beside ``path``, which then takes its place as a whole."""
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.chmod(0o644)
    part.replace(path)
