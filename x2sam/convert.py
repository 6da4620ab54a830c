"""A published checkpoint and its base model to one model directory (X2SAM or X-SAM, checkpoint of the last stage).

    config.json, model.safetensors     the network, LoRA merged, in the number format of the files read
    tokenizer/                         the base's, with ``<SEG>``, ``<p>`` and ``</p>`` added

Which family a checkpoint belongs to is told by its keys. Of X2SAM's base, Qwen3-VL, weights are needed too; X-SAM's
file is complete, and of its base, Phi-3, only the tokenizer and the sizes are read. The directory is written beside its
place and renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, Phi3Config, PreTrainedConfig, PreTrainedTokenizerFast, Qwen3VLConfig

from x2sam.config import X2SAMConfig, x2sam_4b
from x2sam.data.tokenizer import PHRASE_CLOSE, PHRASE_OPEN, SEG
from x2sam.errors import WeightsError
from x2sam.inference.chat_text import QWEN3, STYLES, ChatStyle
from x2sam.inference.conversation import ChatEncoder
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.layouts import LAYOUTS, Layout
from x2sam.model.key_layouts import convert_complete, recognise
from x2sam.model.weights import (
    EMBEDDING,
    convert_state,
    from_state,
    read_base,
    read_published,
    save_pretrained,
    tensors_in,
)
from x2sam.xsam_config import xsam, xsam_2026

_SPOKEN = f"\nA cat  and {PHRASE_OPEN}the red ball{PHRASE_CLOSE}, it is {SEG}.\n"
ADDED_TOKENS = (SEG, PHRASE_OPEN, PHRASE_CLOSE)
STEPS = 5
Progress = Callable[[str], None]


def silent(step: str) -> None:
    """No progress is shown."""


def convert(
    checkpoint: Path,
    base: Path,
    out: Path,
    shape: X2SAMConfig | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> X2SAMConfig:
    """Writes the model directory ``out`` and returns its configuration.

    checkpoint: ``pytorch_model.bin`` of the last training stage, or safetensors with the same names
    base:       directory of the base model: tokenizer, its JSON files where it has them, and for X2SAM safetensors
    shape:      sizes of the segmentation parts, by default those of the published model of the checkpoint's family;
                those of language and vision come from the base's ``config.json``
    force:      replace a model that is there already

    Raises WeightsError that names every missing, unexpected or misshapen key, or the file that can't be used.
    """
    check_place(out, force)
    progress("recognising the checkpoint, reading the tokenizer")
    layout = layout_of(checkpoint)
    shape = shape or SHAPES[layout.name]()
    if shape.layout != layout.name:
        known = LAYOUTS[shape.layout].title
        raise WeightsError(f"{checkpoint.name} is {layout.title}, but the sizes asked for are those of {known}")
    family = FAMILIES[layout.network]
    # the configuration first: the tokenizer's reader looks at it too, and is less clear about what is wrong
    stated = family.over_base(shape, base)
    tokenizer = extended_tokenizer(base, STYLES[layout.chat], family)
    progress("reading the weights, merging LoRA")
    # handed on without a name, so that what was merged or renamed is not kept beside the result
    state = family.state(read_published(checkpoint), base, shape)
    config = replace(stated, text={**stated.text, "vocab_size": embedding_rows(state, len(tokenizer))})
    progress("checking every key")
    model = from_state(config, state)
    del state
    progress("writing")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_pretrained(model, part)
    tokenizer.save_pretrained(part / "tokenizer")
    progress("finishing")
    check_tokenizer(part, tokenizer)
    check_weights(part, model.state_dict())
    put_in_place(part, out)
    return config


def layout_of(checkpoint: Path) -> Layout:
    """The family of a checkpoint, by its keys. Raises WeightsError that names the first keys that fit none."""
    if checkpoint.suffix == ".safetensors" and checkpoint.is_file():
        with tensors_in(checkpoint) as file:
            return recognise(set(file.keys()))
    return recognise(read_published(checkpoint).keys())


def check_place(out: Path, force: bool) -> None:
    """Raises WeightsError when something is at ``out`` that must not be replaced."""
    if not out.exists():
        return
    if not (out / "model.safetensors").is_file() and any(out.iterdir() if out.is_dir() else [out]):
        raise WeightsError(f"{out} is there and is no model; choose another place for the result")
    if not force and (out / "model.safetensors").is_file():
        raise WeightsError(f"there is a model in {out} already; use --force to replace it")


def put_in_place(part: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)


def extended_tokenizer(base: Path, style: ChatStyle = QWEN3, family: Family | None = None):
    """The base's tokenizer with the three marks of X2SAM; those that it knows already keep their ids."""
    family = family or FAMILIES["x2sam"]
    if not any((base / file).is_file() for file in family.tokenizer_files):
        raise WeightsError(f"{base} has no tokenizer (tokenizer.json); download all of the {family.base} base model")
    try:
        tokenizer = family.tokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"the tokenizer in {base} can't be read ({error}); download the base model again") from error
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in ADDED_TOKENS if token not in known], special_tokens=True)
    ChatEncoder(tokenizer, style=style)  # raises WeightsError when another mark is missing
    return tokenizer


def embedding_rows(state: dict[str, Tensor], tokens: int) -> int:
    """Rows of the embedding. Raises WeightsError when they are not as many as the tokenizer has ``tokens``."""
    if EMBEDDING not in state:
        raise WeightsError(f"missing {EMBEDDING}: neither the checkpoint nor the base model has the word embeddings")
    rows = len(state[EMBEDDING])
    if rows != tokens:
        raise WeightsError(
            f"the checkpoint embeds {rows} tokens, the tokenizer with {', '.join(ADDED_TOKENS)} has {tokens}; "
            "use the base model that the checkpoint was trained on"
        )
    return rows


def config_over_base(shape: X2SAMConfig, base: Path) -> X2SAMConfig:
    """``shape`` with the language and vision sizes, and the picture sizes, that the base's own JSON files state.

    What a file does not state, or a missing file, leaves ``shape`` as it is.
    """
    text, vision, preprocess = shape.text, shape.vision, shape.preprocess
    known = _stated(base, "qwen3_vl", "Qwen3-VL-4B-Instruct", Qwen3VLConfig)
    if known is not None:
        text = {key: getattr(known.text_config, key) for key in text}
        vision = {key: getattr(known.vision_config, key) for key in vision}
    image = _read_json(base / "preprocessor_config.json")
    video = _read_json(base / "video_preprocessor_config.json")
    if image is not None and video is not None:
        preprocess = _stated_sizes(shape.preprocess, image, video)
    return replace(shape, text=text, vision=vision, preprocess=preprocess)


def phi3_over_base(shape: X2SAMConfig, base: Path) -> X2SAMConfig:
    """``shape`` with the sizes that Phi-3's ``config.json`` states, where it is there."""
    known = _stated(base, "phi3", "Phi-3-mini-4k-instruct", Phi3Config)
    return shape if known is None else replace(shape, text={key: getattr(known, key) for key in shape.text})


def _stated(base: Path, model_type: str, name: str, kind: type[PreTrainedConfig]) -> PreTrainedConfig | None:
    """The base's ``config.json``; None where it has none. Raises WeightsError for that of another model."""
    stated = _read_json(base / "config.json")
    if stated is None:
        return None
    if stated.get("model_type") != model_type:
        raise WeightsError(f"the base model is {stated.get('model_type')!r}, not {model_type!r}; use {name}")
    try:
        return kind.from_dict(stated)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the base's config.json contradicts itself ({reason}); download it again") from error


def _stated_sizes(known: PreprocessConfig, image: dict, video: dict) -> PreprocessConfig:
    """The vision tower's numbers from the base's files, the mask encoder's as they are."""
    height, width = known.mask_size
    mask = {"size": {"height": height, "width": width}, "image_mean": known.mask_mean, "image_std": known.mask_std}
    try:
        stated = PreprocessConfig.from_processors(image, video, mask)
    except KeyError as error:
        raise WeightsError(
            f"the base's preprocessor_config.json lacks {error}; download the base model again"
        ) from error
    return replace(stated, keep_aspect=known.keep_aspect)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path.name} of the base model is damaged ({error}); download it again") from error


@dataclass(frozen=True)
class Family:
    """How checkpoints for one network are converted: ``base`` names the model below, ``tokenizer`` reads what one of
    ``tokenizer_files`` holds; ``over_base`` puts the sizes that it states into a configuration; ``state`` gives the
    weights in our names."""

    base: str
    tokenizer: type
    tokenizer_files: tuple[str, ...]
    over_base: Callable[[X2SAMConfig, Path], X2SAMConfig]
    state: Callable[[dict[str, Tensor], Path, X2SAMConfig], dict[str, Tensor]]


FAMILIES = {
    "x2sam": Family(
        "Qwen3-VL", AutoTokenizer, ("tokenizer.json", "vocab.json"), config_over_base,
        lambda found, base, shape: convert_state(found, read_base(base), shape.lora),
    ),
    # read as it is written: the library's own class for it puts the blank before the first piece only
    "xsam": Family(
        "Phi-3", PreTrainedTokenizerFast, ("tokenizer.json",), phi3_over_base,
        lambda found, _, shape: convert_complete(found, shape.family),
    ),
}  # fmt: skip
SHAPES = {"x2sam": x2sam_4b, "xsam-2025": xsam, "xsam-2026": xsam_2026}


def check_weights(directory: Path, wanted: Mapping[str, Tensor]) -> None:
    """What was written must read back with the same names and bytes; one tensor at a time, so little memory is needed.

    Raises WeightsError that names the first tensor that does not.
    """
    with safe_open(directory / "model.safetensors", "pt") as file:
        differing = set(file.keys()) ^ set(wanted)
        # bytes, not values: weights that are no numbers would differ from themselves
        changed = (k for k in wanted if not torch.equal(_bytes_of(file.get_tensor(k)), _bytes_of(wanted[k])))
        name = next(iter(sorted(differing)), None) or next(changed, None)
    if name is not None:
        raise WeightsError(f"{name} changed when it was written to {directory.parent}; check the disk, convert again")


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def check_tokenizer(directory: Path, wanted) -> None:
    """What was written must read back with the same ids."""
    again = AutoTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    ids = [one.backend_tokenizer.encode(_SPOKEN, add_special_tokens=False).ids for one in (again, wanted)]
    if again.get_vocab() != wanted.get_vocab() or ids[0] != ids[1]:
        raise WeightsError("the tokenizer changed when it was saved; update transformers and convert again")
