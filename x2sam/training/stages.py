"""What is trained in each stage of the 4B model (X2SAM, training stages).

Stage 1 teaches pixel decoder and mask decoder to find objects of any kind in SA-1B, without words, on the frozen image
encoder of SAM2; stage 3 trains everything together on all tasks, pictures and clips, with LoRA on the language model.
The paper's stage 2 is not part of the released model: its stage 3 begins with the result of stage 1 and with
Qwen3-VL as it is, and so does ours.

    part of the network                             stage 1     stage 3
    ----------------------------------------------  ----------  -----------------------------
    vision tower (vision_language.visual)           absent      frozen, but for its mergers
    its merger and DeepStack mergers                absent      trained
    language layers (vision_language.language)      absent      frozen; LoRA beside 7 linears each
    word embeddings (tied with the output)          absent      trained
    final norm                                      absent      frozen
    SAM2 encoder (mask_encoder.encoder)             frozen      trained, a tenth of the rate
    region projector                                absent      trained
    pixel decoder, mask decoder                     trained     trained
    text attention, class scale in the decoder      absent      trained
    linear class head (object, background)          trained     absent
    memory encoder and attention, its embedding     absent      trained
    text projector, background embedding            absent      trained

:data:`TRAINED` is the same as parameter names; a test holds both to the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from x2sam.errors import TrainingError

# Longest prefix first wins; a parameter with none of them is an error, so that nothing is trained or frozen by chance.
_SEGMENTOR = {"mask_encoder.encoder.": False, "pixel_decoder.": True, "mask_decoder.": True}
_JOINT = {
    **_SEGMENTOR,
    "mask_encoder.": True,
    "mask_encoder.encoder.": True,
    "vision_language.": False,
    "vision_language.visual.merger.": True,
    "vision_language.visual.deepstack_merger_list.": True,
    "vision_language.language.embed_tokens.": True,
    "memory_": True,
    "sketch_bridge.": True,
    "no_memory_embedding": True,
    "text_projector.": True,
    "background.": True,
}
TRAINED: Mapping[int, Mapping[str, bool]] = MappingProxyType({1: _SEGMENTOR, 3: _JOINT})
LORA = ".lora_"


def is_trained(name: str, stage: int) -> bool:
    """Whether the parameter ``name`` moves in this stage; adapters always do."""
    fitting = [prefix for prefix in TRAINED[stage] if name.startswith(prefix)]
    if not fitting:
        raise TrainingError(f"stage {stage} says nothing about the parameter {name}; add it to the table of stages")
    return LORA in name or TRAINED[stage][max(fitting, key=len)]


def prepare_stage(model: nn.Module, stage: int, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Freezes and frees the parameters of ``model``; frozen ones get ``frozen_dtype``, the others float32."""
    for name, parameter in model.named_parameters():
        trained = is_trained(name, stage)
        parameter.requires_grad_(trained)
        parameter.data = parameter.data.to(torch.float32 if trained else frozen_dtype)


def parameter_table(model: nn.Module) -> str:
    """Trained and frozen parameters by part, for the log: one line for each part, in millions."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        # the two that hold what others trained are told in more detail
        depth = 2 if name.startswith(("vision_language.", "mask_encoder.")) else 1
        part = ".".join(name.split(".")[:depth]) + (" (LoRA)" if LORA in name else "")
        counts.setdefault(part, [0, 0])[not parameter.requires_grad] += parameter.numel()
    lines = [f"{'trained':>10} {'frozen':>10}  part (millions of parameters)"]
    lines += [f"{trained / 1e6:10.3f} {frozen / 1e6:10.3f}  {part}" for part, (trained, frozen) in counts.items()]
    return "\n".join(lines)
