"""Initial weights of what is trained from nothing."""

from __future__ import annotations

import torch
from torch import nn

from x2sam.model.mask_decoder import MaskDecoder
from x2sam.model.memory_encoder import FuserBlock
from x2sam.model.pixel_decoder import DeformableAttention, PixelDecoder
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
    nn.init.normal_(model.background.weight, std=0.5)
    initialise_decoder(model.pixel_decoder, model.mask_decoder)
    for layer in model.mask_decoder.layers:
        nn.init.zeros_(layer.text_cross_attn.out_proj.weight)
    for module in model.modules():
        if isinstance(module, FuserBlock):
            nn.init.constant_(module.scale, 0.1)


@torch.no_grad()
def initialise_decoder(pixel_decoder: PixelDecoder, mask_decoder: MaskDecoder) -> None:
    """Queries and level embeddings, and the offsets of deformable attention."""
    for embedding in (mask_decoder.queries_embedder, mask_decoder.queries_features, mask_decoder.level_embed):
        nn.init.normal_(embedding.weight, std=0.5)
    nn.init.normal_(pixel_decoder.level_embed, std=0.1)
    for module in pixel_decoder.modules():
        if isinstance(module, DeformableAttention):
            module.reset_parameters()


@torch.no_grad()
def initialise_memory(model: X2SAM) -> None:
    """SAM2's memory as stage 3 begins with it: weights normal with deviation 0.02, biases zero, layer scales 1e-6."""
    for part in (model.memory_encoder, model.memory_attention):
        for module in part.modules():
            if isinstance(module, FuserBlock):
                nn.init.constant_(module.scale, 1e-6)
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.no_memory_embedding, std=0.02)
