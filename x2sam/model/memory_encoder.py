"""Turns a frame's features and its masks into a memory entry (SAM2 memory encoder on three scales)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import MemoryConfig
from x2sam.model.layers import ChannelNorm
from x2sam.model.mask_decoder import LevelPrediction


class Downsampler(nn.Module):
    """``stride`` = 2^n by n stride-2 convolutions, each with four times the channels of the one before, then 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        widths = [inputs * 4**i for i in range(int(math.log2(stride)) + 1)]
        self.layers = nn.ModuleList()
        for before, after in pairwise(widths):
            layer = nn.Module()
            layer.conv = nn.Conv2d(before, after, 3, stride=2, padding=1)
            layer.layer_norm = ChannelNorm(after)
            self.layers.append(layer)
        self.final_conv = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.gelu(layer.layer_norm(layer.conv(x)))
        return self.final_conv(x)


class FuserBlock(nn.Module):
    """ConvNeXt block: 7x7 depth-wise, norm, widen, GELU, narrow, layer scale, residual."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.depthwise_conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.layer_norm = ChannelNorm(width)
        self.pointwise_conv1 = nn.Linear(width, inner)
        self.pointwise_conv2 = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm(self.depthwise_conv(x)).permute(0, 2, 3, 1)
        y = self.scale * self.pointwise_conv2(F.gelu(self.pointwise_conv1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    def __init__(self, config: MemoryConfig):
        super().__init__()
        width = config.width
        self.levels = config.levels
        self.mask_downsampler = Downsampler(1, width, 4)
        # level 0 is stride 16, level 1 stride 8, level 2 stride 4; all are brought to stride 16
        self.vision_downsampler = nn.ModuleDict({str(i): Downsampler(width, width, 2**i) for i in config.levels})
        self.memory_fuser = nn.Module()
        self.memory_fuser.layers = nn.ModuleList(
            FuserBlock(width, config.fuser_inner) for _ in range(config.fuser_layers)
        )
        self.projection = nn.Conv2d(width, width, 1)

    def forward(self, maps: list[Tensor], guidance: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """``maps`` are the multi-scale maps before they read any memory, strides 16, 8, 4, (F, C, H, W).

        ``guidance`` (B, 1, h, w) in 0..1 at stride 4 says where the objects are (see :func:`blend_masks`), B a
        multiple of F. Returns for each memory level the tokens (B, H*W, C), and the grid (H, W).
        """
        mask = self.mask_downsampler(guidance * 20 - 10)
        repeat = mask.shape[0] // maps[0].shape[0]
        out = []
        for level in self.levels:
            vision = self.vision_downsampler[str(level)](maps[level])
            fused = vision.repeat_interleave(repeat, 0) + mask
            for block in self.memory_fuser.layers:
                fused = block(fused)
            out.append(self.projection(fused).flatten(2).transpose(1, 2))
        return out, tuple(mask.shape[-2:])


def blend_masks(prediction: LevelPrediction) -> Tensor:
    """All queries' masks as one map in 0..1, (B, 1, h, w): at each pixel the queries share by mask logit and score."""
    score = prediction.class_logits.softmax(-1)[..., :-1].amax(-1)
    share = prediction.mask_logits + score.clamp(min=1e-6).log()[..., None, None]
    return (share.softmax(1) * prediction.mask_logits.sigmoid()).sum(1, keepdim=True)
