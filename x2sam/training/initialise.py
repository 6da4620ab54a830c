"""Initial weights of a model that is trained from nothing."""

from __future__ import annotations

import torch
from torch import nn

from x2sam.model.memory_encoder import FuserBlock
from x2sam.model.pixel_decoder import DeformableAttention
from x2sam.model.x2sam import X2SAM


@torch.no_grad()
def initialise(model: X2SAM) -> None:
    """Sets what the parts' own constructors leave unsuited for training from scratch.

    Convolutions and linears of our parts keep PyTorch's defaults; positions and the memory embedding start small; the
    layer scales of the memory fuser start at 0.1 (1e-6 is for very deep stacks); the text attention's output starts
    at zero (X2SAM, joint training), so that words are mixed in as they become useful.
    """
    backbone = model.mask_encoder.encoder.backbone
    for position in (backbone.pos_embed, backbone.pos_embed_window, model.no_memory_embedding):
        nn.init.trunc_normal_(position, std=0.02)
    for embedding in (
        model.mask_decoder.queries_embedder,
        model.mask_decoder.queries_features,
        model.mask_decoder.level_embed,
        model.background,
    ):
        nn.init.normal_(embedding.weight, std=0.5)
    nn.init.normal_(model.pixel_decoder.level_embed, std=0.1)
    for layer in model.mask_decoder.layers:
        nn.init.zeros_(layer.text_cross_attn.out_proj.weight)
    for module in model.modules():
        if isinstance(module, FuserBlock):
            nn.init.constant_(module.scale, 0.1)
        if isinstance(module, DeformableAttention):
            module.reset_parameters()
