"""LoRA on the language model: put in, saved, loaded back, merged into the model that is served.

An adapter directory holds ``adapter_config.json`` as peft writes it and ``adapter_model.safetensors`` with the names
that the parameters have in our model.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import peft
import torch.distributed
from torch import Tensor

from x2sam.config import LoraSettings
from x2sam.errors import WeightsError
from x2sam.model.weights import from_state, load_tensors, merge_lora
from x2sam.model.x2sam import X2SAM
from x2sam.training.checkpoint import write_tensors
from x2sam.training.stages import LORA

if torch.distributed.is_available():
    # peft asks for it by name and leaves importing it to transformers, which does not where it was imported lean
    import torch.distributed.tensor

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# every linear of a language layer: attention and feed-forward
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(model: X2SAM) -> None:
    """Adapters beside every linear of the language layers, in the sizes of ``model.config.lora``.

    They begin without effect. Everything else of the language model is frozen by this.
    """
    lora = model.config.lora
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(TARGETS)
    )
    peft.inject_adapter_in_model(settings, model.vision_language.language)


def lora_tensors(model: X2SAM) -> dict[str, Tensor]:
    """The adapters' weights by their names in the model."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if LORA in name}


def save_lora(model: X2SAM, directory: Path) -> None:
    """Writes the adapters of ``model``, and no other weights."""
    lora = model.config.lora
    write_tensors(directory / TENSORS, {name: value.cpu() for name, value in lora_tensors(model).items()})
    settings = {
        "peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": list(TARGETS), "bias": "none", "inference_mode": True,
    }  # fmt: skip
    (directory / CONFIG).write_text(json.dumps(settings, indent=1) + "\n")


def load_lora(model: X2SAM, directory: Path) -> None:
    """Gives ``model``, which has adapters, the weights of another's; raises WeightsError when they do not fit."""
    settings, saved = read_lora(directory)
    if settings != model.config.lora:
        raise WeightsError(f"{directory} holds LoRA of {asdict(settings)}, the model has {asdict(model.config.lora)}")
    own = lora_tensors(model)
    if own.keys() != saved.keys():
        raise WeightsError(
            f"the adapters of {directory} do not fit (only there: {sorted(saved.keys() - own.keys())[:5]}, only in the "
            f"model: {sorted(own.keys() - saved.keys())[:5]})"
        )
    model.load_state_dict(saved, strict=False)


def read_lora(directory: Path) -> tuple[LoraSettings, dict[str, Tensor]]:
    """Settings and weights of an adapter directory."""
    try:
        stated = json.loads((directory / CONFIG).read_text())
        settings = LoraSettings(stated["r"], stated["lora_alpha"], stated["lora_dropout"])
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{directory / CONFIG} can't be read ({error!r}); save the adapters again") from error
    return settings, load_tensors(directory / TENSORS)


def merged(model: X2SAM) -> X2SAM:
    """The model that is served: the same weights with every adapter added to the linear it stands beside.

    The result shares what has no adapter with ``model``, is frozen and in eval mode.
    """
    state = merge_lora({name: value.detach() for name, value in model.state_dict().items()}, model.config.lora.scale)
    return from_state(model.config, state)
