"""The weights and the tokenizer that a run begins with, from nothing or from what others trained.

Stage 3 of the 4B model (X2SAM, joint training): Qwen3-VL and SAM2.1 as they were published, pixel decoder and mask
decoder from stage 1 by name and shape, the memory and everything else at random, LoRA without effect.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam import config as presets
from x2sam.config import X2SAMConfig
from x2sam.convert import config_over_base, extended_tokenizer
from x2sam.data.plain_words import trained_words
from x2sam.data.readers.own_pictures import open_pictures
from x2sam.data.tokenizer import build_tokenizer, load_tokenizer
from x2sam.errors import TrainingError, WeightsError
from x2sam.model.weights import EMBEDDING, load_tensors, read_base, read_published, rename
from x2sam.model.x2sam import X2SAM
from x2sam.training.adapters import add_lora
from x2sam.training.agnostic import AgnosticSegmentor
from x2sam.training.episode_batches import phrases_of
from x2sam.training.initialise import initialise, initialise_decoder, initialise_memory
from x2sam.training.settings import DataConfig, ModelConfig, TrainConfig
from x2sam.training.stages import prepare_stage

log = logging.getLogger(__name__)

ENCODER = "mask_encoder.encoder."
SAM2_PREFIX = "vision_encoder."


def preset(name: str, **sizes: int) -> X2SAMConfig:
    """The sizes called ``name``; raises TrainingError for a name that there is not."""
    if name not in presets.PRESETS:
        raise TrainingError(f"there is no preset {name!r}; choose one of {', '.join(presets.PRESETS)}")
    return presets.PRESETS[name](**sizes)


def begin_episodes(config: TrainConfig) -> tuple[X2SAM, object]:
    """Model and tokenizer of a run on episodes: fresh, or those of ``model.start``."""
    settings = config.model
    if settings.start is not None:
        model, tokenizer = _whole_model(settings.start)
        if model.config.words:  # else it is not known what it had heard before
            model.config = replace(model.config, words=trained_words((*model.config.words, *_names(config.data))))
        return model, tokenizer
    phrases = list(phrases_of(config.data))
    tokenizer = build_tokenizer(phrases, settings.vocabulary)
    sizes = preset(settings.preset, vocab_size=len(tokenizer))
    model = X2SAM(replace(sizes, words=trained_words((*phrases, *_names(config.data)))))
    initialise(model)
    return model, tokenizer


def _names(data: DataConfig) -> set[str]:
    """What the real objects that are trained on are called, those that the first samples do not show too."""
    return set() if data.root is None else open_pictures(data.root, data.split).names(data.leave_out)


def begin_stage1(config: TrainConfig) -> AgnosticSegmentor:
    """Decoders at random on a frozen encoder, SAM2's where ``model.encoder`` names it."""
    model = AgnosticSegmentor(preset(config.model.preset))
    initialise_decoder(model.pixel_decoder, model.mask_decoder)
    if config.model.encoder is not None:
        take_encoder(model, Path(config.model.encoder))
    prepare_stage(model, 1, getattr(torch, config.stage.frozen_dtype))
    return model


def begin_stage3(config: TrainConfig) -> tuple[X2SAM, object]:
    """The whole model with LoRA, and its tokenizer."""
    settings = config.model
    model, tokenizer = _whole_model(settings.start) if settings.start is not None else _from_parts(settings)
    model.config = replace(model.config, words=())  # it will hear whole sentences
    add_lora(model)
    prepare_stage(model, 3, getattr(torch, config.stage.frozen_dtype))
    return model, tokenizer


def _whole_model(directory: str) -> tuple[X2SAM, object]:
    model = X2SAM.from_pretrained(directory)
    if not model.config.remembers:
        raise TrainingError(f"{directory} is {model.config.family.title}; what is trained here begins with X2SAM")
    return model.requires_grad_(True), load_tokenizer(Path(directory) / "tokenizer")


def _from_parts(settings: ModelConfig) -> tuple[X2SAM, object]:
    if settings.base is None:
        # only the conversation's own words: any text can be encoded, byte by byte where it has to be
        tokenizer = build_tokenizer((), settings.vocabulary)
        model = X2SAM(preset(settings.preset, vocab_size=len(tokenizer)))
    else:
        base = Path(settings.base)
        tokenizer = extended_tokenizer(base)
        sizes = config_over_base(preset(settings.preset), base)
        model = X2SAM(replace(sizes, text={**sizes.text, "vocab_size": len(tokenizer)}))
    initialise(model)
    initialise_memory(model)
    if settings.base is not None:
        take_base(model, Path(settings.base))
    if settings.encoder is not None:
        take_encoder(model, Path(settings.encoder))
    if settings.segmentor is not None:
        take_segmentor(model, Path(settings.segmentor))
    return model, tokenizer


def take_base(model: X2SAM, directory: Path) -> None:
    """Qwen3-VL's weights; of its table of words as many rows as the tokenizer has, new ones at their mean."""
    state = {}
    for key, value in read_base(directory).items():
        name = rename(key)
        if name is not None:
            state[name] = value
    if EMBEDDING not in state:
        raise WeightsError(f"{directory} has no word embeddings; download all of the Qwen3-VL base model")
    rows = model.config.text["vocab_size"]
    table = state[EMBEDDING][:rows]
    if len(table) < rows:
        table = torch.cat([table, table.float().mean(0).to(table.dtype).expand(rows - len(table), -1)])
    _take(model, {**state, EMBEDDING: table}, "vision_language.", str(directory))


def take_encoder(model: nn.Module, path: Path) -> None:
    """The image encoder of a SAM2.1 checkpoint: a safetensors file, or a directory that holds ``model.safetensors``."""
    tensors = load_tensors(path / "model.safetensors" if path.is_dir() else path)
    found = {ENCODER + key.removeprefix(SAM2_PREFIX): v for key, v in tensors.items() if key.startswith(SAM2_PREFIX)}
    _take(model, found, ENCODER, str(path))


def _take(model: nn.Module, state: dict[str, Tensor], part: str, source: str) -> None:
    """Gives ``state`` to the part of ``model`` whose names begin with ``part``: every weight of it, with its shape."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(part)}
    taken = {name: value for name, value in state.items() if name in own}
    wrong = sorted(own.keys() - taken.keys())
    wrong += [f"{name} {tuple(value.shape)}" for name, value in taken.items() if value.shape != own[name].shape]
    if wrong:
        raise WeightsError(f"{source} does not fit: missing or of another shape: {', '.join(wrong[:10])}")
    model.load_state_dict(taken, strict=False)


def take_segmentor(model: X2SAM, path: Path) -> list[str]:
    """What stage 1 trained, by name and shape; the names that were taken. Text attention and the class head stay new.

    path: the directory that stage 1 wrote, a safetensors file, or the published ``pytorch_model.bin``
    """
    tensors = read_published(path / "model.safetensors" if path.is_dir() else path)
    renamed = {rename(name) or name: value for name, value in tensors.items()}
    own = model.state_dict()
    fitting = {name: value for name, value in renamed.items() if name in own and value.shape == own[name].shape}
    parts = {part: sum(name.startswith(part) for name in fitting) for part in ("pixel_decoder.", "mask_decoder.")}
    if not all(parts.values()):
        raise WeightsError(f"{path} has no pixel decoder and mask decoder of these sizes; name a result of stage 1")
    left = sorted(renamed.keys() - fitting.keys())
    log.info("taken from %s: %d weights; left out: %s", path, len(fitting), ", ".join(left) or "none")
    model.load_state_dict(fitting, strict=False)
    return sorted(fitting)
