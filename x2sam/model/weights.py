"""Published names to ours, strictly; one directory of safetensors in and out.

A model directory holds ``config.json``, ``model.safetensors`` and ``tokenizer/``. At run time only safetensors are
read; the one ``torch.load`` is in :func:`read_published` and takes tensors only.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.initialization import no_init_weights

from x2sam.config import LoraSettings, X2SAMConfig
from x2sam.errors import WeightsError
from x2sam.model.x2sam import X2SAM
from x2sam.model.xsam import XSAM

NETWORKS: dict[str, type[X2SAM]] = {"x2sam": X2SAM, "xsam": XSAM}
WRAPPER = "vlm.base_model.model."
LORA = ".lora_"
_BUILDING = threading.Lock()

# published prefix -> ours; the first match counts, so longer ones come first
PREFIXES = (
    ("model.visual.", "vision_language.visual."),
    ("model.language_model.norm.", "vision_language.final_norm."),
    ("model.language_model.", "vision_language.language."),
    ("segmentor.encoder.", "mask_encoder.encoder."),
    ("extra_projector.", "mask_encoder.region_projector."),
    ("segmentor.pixel_decoder.", "pixel_decoder."),
    ("segmentor.decoder.decoder.", "mask_decoder."),
    ("segmentor.decoder.", "mask_decoder."),
    ("segmentor.class_predictor.", "mask_decoder.class_head."),
    ("segmentor.memory_encoder.", "memory_encoder."),
    ("segmentor.memory_attention.", "memory_attention."),
    ("segmentor.no_memory_embedding", "no_memory_embedding"),
    ("mlm_projector.", "text_projector."),
    ("bg_embeds.", "background."),
)
# stored by the published checkpoint, read by nothing at inference
UNUSED = frozenset({"segmentor.shared_image_embedding.positional_embedding"})
TIED = "lm_head.weight"
EMBEDDING = "vision_language.language.embed_tokens.weight"


def rename(key: str) -> str | None:
    """Our name of a published key (LoRA wrapper and suffixes already gone), None where nothing of ours matches."""
    for theirs, ours in PREFIXES:
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return None


def merge_lora(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Adds ``scale * B @ A`` to every adapted weight, in float32; the result has no LoRA keys."""
    plain = {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k}
    for key, down in state.items():
        if ".lora_A." not in key:
            continue
        up = state.get(key.replace(".lora_A.", ".lora_B."))
        target = key.split(".lora_A.")[0] + ".weight"
        if up is None or target not in plain:
            raise WeightsError(f"{key}: no matching {'lora_B' if up is None else 'base weight ' + target}")
        weight = plain[target]
        plain[target] = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
    return plain


def convert_state(published: dict[str, Tensor], base: dict[str, Tensor], lora: LoraSettings) -> dict[str, Tensor]:
    """A published checkpoint over its Qwen3-VL base, in our names, LoRA merged.

    ``base`` keys are those of the Qwen3-VL model (``model.visual...``, ``model.language_model...``); published keys
    win. Every key that fits nowhere is named in the error.
    """
    joined = dict(base)
    for key, value in published.items():
        stripped = key.removeprefix(WRAPPER)
        if ".lora_A." in stripped:
            # the base weight of an adapted layer, in the name that merge_lora looks for
            joined.setdefault(stripped.split(".lora_A.")[0] + ".weight", None)
        joined[stripped.replace(".base_layer.", ".")] = value
    orphans = sorted(k for k, v in joined.items() if v is None)
    if orphans:
        raise WeightsError("the base model lacks weights that the checkpoint adapts: " + ", ".join(orphans))
    merged = merge_lora(joined, lora.scale)
    head = merged.pop(TIED, None)
    out, unknown = {}, []
    for key, value in merged.items():
        name = rename(key)
        if name is None and key not in UNUSED:
            unknown.append(key)
        elif name is not None:
            out[name] = value
    if unknown:
        raise WeightsError("unexpected keys: " + ", ".join(sorted(unknown)))
    if head is not None and not torch.equal(head, out.setdefault(EMBEDDING, head)):
        raise WeightsError("lm_head.weight differs from embed_tokens.weight; this model ties them")
    return out


def load_strictly(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Gives ``state`` to a model built without weights. Names every missing, unexpected and misshapen key."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    problems = [f"missing {k}" for k in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected {k}" for k in sorted(state.keys() - expected.keys())]
    problems += [
        f"misshapen {k}: {tuple(state[k].shape)} instead of {expected[k]}"
        for k in sorted(expected.keys() & state.keys())
        if tuple(state[k].shape) != expected[k]
    ]
    if problems:
        raise WeightsError(f"the weights do not fit the configuration ({len(problems)} keys): " + "; ".join(problems))
    model.load_state_dict(state, strict=True, assign=True)


def build_empty(config: X2SAMConfig) -> X2SAM:
    """The network without weights (meta parameters, real buffers)."""
    with _without_weights():
        return NETWORKS[config.family.network](config)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Modules made meanwhile have parameters without memory, which nobody initialises; for one thread at a time, as
    PyTorch has one such hook for all."""

    def emptied(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    with _BUILDING, no_init_weights():
        hook = register_module_parameter_registration_hook(emptied)
        try:
            yield
        finally:
            hook.remove()


def from_state(config: X2SAMConfig, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> X2SAM:
    model = build_empty(config)
    load_strictly(model, {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)


def save_pretrained(model: X2SAM, directory: Path, dtype: torch.dtype | None = None) -> None:
    """Writes ``config.json`` and ``model.safetensors``; each file appears whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    part = directory / ".model.safetensors.part"
    save_file(state, part, metadata={"format": "pt"})
    part.chmod(0o644)
    os.replace(part, directory / "model.safetensors")
    part = directory / ".config.json.part"
    part.write_text(json.dumps(model.config.to_dict(), indent=1) + "\n")
    os.replace(part, directory / "config.json")


def load_config(directory: Path) -> X2SAMConfig:
    try:
        return X2SAMConfig.from_dict(json.loads((directory / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{directory} has no readable config.json: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path.name} can't be read ({error}); fetch or convert the model again") from error


@contextmanager
def tensors_in(path: Path) -> Iterator[Any]:
    """A safetensors file opened to look at names and single tensors. Raises WeightsError for one that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path.name} can't be read ({error}); fetch it again") from error


def from_pretrained(directory: Path, dtype: torch.dtype | None = None) -> X2SAM:
    """The model in ``directory``, float32 unless ``dtype`` says otherwise, frozen and in eval mode."""
    return from_state(load_config(directory), load_tensors(directory / "model.safetensors"), dtype or torch.float32)


def read_published(path: Path) -> dict[str, Tensor]:
    """Tensors of an official ``pytorch_model.bin`` (bare or under ``state_dict``) or of a safetensors file.

    Raises WeightsError for a file that is damaged or holds anything but tensors; code in it is never run.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds more than tensors, so it is not opened; fetch the official file"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path.name} can't be read ({error}); fetch it again") from error
    state = data.get("state_dict", data) if isinstance(data, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path.name} is no checkpoint: it should hold named tensors; fetch the official file")
    return state


def read_base(directory: Path) -> dict[str, Tensor]:
    """All tensors of a Qwen3-VL directory, sharded or not."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{directory} has no safetensors; download the Qwen3-VL base model first")
    return {k: v for f in files for k, v in load_tensors(f).items()}


def names_of(keys: Iterable[str]) -> dict[str, str | None]:
    """Published key to our parameter, LoRA keys to the weight they are merged into (for checks and messages)."""
    out = {}
    for key in keys:
        stripped = key.removeprefix(WRAPPER).replace(".base_layer.", ".")
        if ".lora_" in stripped:
            stripped = stripped.split(".lora_")[0] + ".weight"
        out[key] = EMBEDDING if stripped == TIED else rename(stripped)
    return out
