"""Small blocks that several parts of the network share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_position(height: int, width: int, channels: int, device=None, dtype=torch.float32) -> Tensor:
    """Two-dimensional sine position of a map, (channels, H, W).

    Half of the channels encode y, half x; coordinates run from 1 to the size and are normalised to 2 pi
    (temperature 10,000, DETR).
    """
    half = channels // 2
    scale, eps = 2 * math.pi, 1e-6
    y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / (height + eps) * scale
    x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / (width + eps) * scale
    index = torch.arange(half, device=device, dtype=torch.float32)
    period = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(coordinate: Tensor) -> Tensor:
        angle = coordinate[:, None] / period
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = encode(y)[:, None, :].expand(height, width, half)
    cols = encode(x)[None, :, :].expand(height, width, half)
    return torch.cat((rows, cols), dim=2).permute(2, 0, 1).to(dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None, dropout: float = 0.0):
    """Multi-head attention of projected (B, N, C) tensors; ``mask`` is bool (B, 1, Nq, Nk), True where allowed.

    Weights are never materialised by us, torch picks the fused kernel; except in training on a CPU, where the plain
    product is twice as fast forward and backward as either of torch's kernels for the sizes of the small models.
    """
    split = (heads, query.shape[-1] // heads)
    q, k, v = (x.unflatten(-1, split).transpose(1, 2) for x in (query, key, value))
    if q.requires_grad and q.device.type == "cpu":
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            weights = weights.masked_fill(~mask, -torch.inf)
        out = F.dropout(weights.softmax(-1), dropout) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention with one projection for each of query, key, value and output."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), self.heads, mask))


class PackedAttention(nn.Module):
    """Attention whose three input projections lie in one parameter, in the layout of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.read(query, *self.keys_and_values(key, value), mask)

    def keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both projected, (B, N, C)."""
        (_, *weights), (_, *biases) = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        k, v = (F.linear(x, w, b) for x, w, b in zip((key, value), weights, biases, strict=True))
        return k, v

    def read(self, query: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention to what :meth:`keys_and_values` made; ``query`` (B, N, C) is not projected yet."""
        q = F.linear(query, self.in_proj_weight.chunk(3)[0], self.in_proj_bias.chunk(3)[0])
        return self.out_proj(attend(q, k, v, self.heads, mask))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a (B, C, H, W) map, eps 1e-6."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pixel_shuffle(x: Tensor, scale: float) -> Tensor:
    """(B, H, W, C) to (B, scale H, scale W, C / scale^2): with 0.5 four neighbours become channels, with 2 the other
    way round. Odd sides are filled up with zeros where they are halved."""
    batch, height, width, channels = x.shape
    if scale < 1 and (height % 2 or width % 2):
        return pixel_shuffle(F.pad(x, (0, 0, 0, width % 2, 0, height % 2)), scale)
    wide, high = round(width * scale), round(height * scale)
    x = x.reshape(batch, height, wide, round(channels / scale)).transpose(1, 2)
    return x.reshape(batch, wide, high, round(channels / scale**2)).transpose(1, 2)


class Projector(nn.Module):
    """Linear, GELU (erf), Linear."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
