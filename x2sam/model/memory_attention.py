"""A frame reads the memory: self-attention and cross-attention with rotary positions (SAM2 memory attention)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import MemoryConfig
from x2sam.model.layers import attend, sine_position
from x2sam.model.mask_memory import MemoryEntry


def rotary_table(
    height: int, width: int, channels: int, theta: float, device, pool: tuple[int, int] = (1, 1)
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (H*W, channels): the first half of the channel pairs turns with x, the second with y.

    ``pool`` (rows, columns): the cells are means of so many cells of a finer map, and stand where their middles are.
    """
    frequency = theta ** -(torch.arange(0, channels, 4, device=device, dtype=torch.float32) / channels)
    index = torch.arange(height * width, device=device)
    x, y = (index % width).float(), torch.div(index, width, rounding_mode="floor").float()
    y, x = (place * step + (step - 1) / 2 for place, step in zip((y, x), pool, strict=True))
    angle = torch.cat((torch.outer(x, frequency), torch.outer(y, frequency)), -1).repeat_interleave(2, -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns neighbouring channel pairs of (B, N, C); computed in float32."""
    cos, sin = table
    pairs = x.float().unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
    return (x.float() * cos + turned * sin).to(x.dtype)


def time_encoding(distance: int, channels: int, device, dtype) -> Tensor:
    """Sine code of a distance in frames, (channels,); a formula, nothing learned."""
    half = channels // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = distance * frequency
    return torch.cat((angle.sin(), angle.cos())).to(dtype)


class RotaryAttention(nn.Module):
    """One head; the query turns, the key only where asked (self-attention)."""

    def __init__(self, width: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, table, rotate_key: bool, dropout: float) -> Tensor:
        q = rotate(self.q_proj(query), table)
        k = self.k_proj(key)
        k = rotate(k, table) if rotate_key else k
        return self.o_proj(attend(q, k, self.v_proj(value), 1, dropout=dropout))


class MemoryAttentionLayer(nn.Module):
    """Pre-norm: self-attention, cross-attention to the memory, ReLU feed-forward."""

    def __init__(self, config: MemoryConfig):
        super().__init__()
        width = config.width
        self.self_attn = RotaryAttention(width)
        self.cross_attn = RotaryAttention(width)
        self.linear1 = nn.Linear(width, config.ffn)
        self.linear2 = nn.Linear(config.ffn, width)
        self.layer_norm1 = nn.LayerNorm(width)
        self.layer_norm2 = nn.LayerNorm(width)
        self.layer_norm3 = nn.LayerNorm(width)
        self.dropout = config.dropout

    def forward(self, x: Tensor, memory: Tensor, memory_position: Tensor, table) -> Tensor:
        rate = self.dropout if self.training else 0.0
        drop = lambda y: F.dropout(y, rate, self.training)  # noqa: E731
        y = self.layer_norm1(x)
        x = x + drop(self.self_attn(y, y, y, table, True, rate))
        y = self.layer_norm2(x)
        x = x + drop(self.cross_attn(y, memory + memory_position, memory, table, False, rate))
        y = self.layer_norm3(x)
        return x + drop(self.linear2(drop(F.relu(self.linear1(y)))))


class MemoryAttention(nn.Module):
    def __init__(self, config: MemoryConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(MemoryAttentionLayer(config) for _ in range(config.attention_layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(
        self, maps: list[Tensor], entries: list[MemoryEntry], time: int, coarse: bool = False
    ) -> list[Tensor]:
        """``maps`` (F, C, H, W) at strides 16, 8, 4 and what frame ``time`` may read.

        Entries of batch B (a multiple of F) condition copies of the maps, so the levels that read memory come back
        with B rows, the others with F. The distance in time is counted without sign: backward tracks see it as
        forward ones.

        coarse: maps finer than the memory read it on the memory's own grid: the mean of the cells that lie in one of
        the memory's asks for all of them, and what is read is added to each. An approximation; the work of the finest
        map falls to that of the coarsest.
        """
        if not entries:
            return maps
        out = list(maps)
        position = self.positions(entries, time, maps[0].device, maps[0].dtype)
        for index, level in enumerate(self.config.levels):
            memory = torch.cat([e.levels[index] for e in entries], dim=1)
            copies = maps[level].repeat_interleave(memory.shape[0] // maps[level].shape[0], 0)
            for entry in entries:
                if entry.sketch is not None and entry.grid == tuple(copies.shape[-2:]):
                    copies = copies + entry.levels[index].transpose(1, 2).unflatten(-1, entry.grid)
            out[level] = self._read(copies, memory, position, entries[0].grid if coarse else None)
        return out

    def positions(self, entries: list[MemoryEntry], time: int, device, dtype) -> Tensor:
        """Place on the memory's grid plus distance in time, (1, tokens, C)."""
        width = self.config.width
        parts = []
        for entry in entries:
            place = sine_position(*entry.grid, width, device, dtype).flatten(1).T
            parts.append(place + time_encoding(abs(time - entry.time), width, device, dtype))
        return torch.cat(parts)[None]

    def _read(self, level: Tensor, memory: Tensor, position: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """The map (B, C, H, W) after it read ``memory``; at the size of ``grid``, where that is given and coarser."""
        width, theta = self.config.width, self.config.rope_theta
        placed = level + 0.1 * sine_position(*level.shape[-2:], width, level.device, level.dtype)
        size = tuple(level.shape[-2:]) if grid is None else tuple(map(min, level.shape[-2:], grid))
        pooled = placed if size == tuple(level.shape[-2:]) else F.adaptive_avg_pool2d(placed, size)
        pool = tuple(whole // part for whole, part in zip(level.shape[-2:], size, strict=True))
        table = rotary_table(*size, width, theta, level.device, pool)
        x = pooled.flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, position, table)
        if pooled is not placed:
            change = x.transpose(1, 2).unflatten(-1, size) - pooled
            placed = placed + F.interpolate(change, size=level.shape[-2:], mode="bilinear", align_corners=False)
            x = placed.flatten(2).transpose(1, 2)
        return self.layer_norm(x).transpose(1, 2).unflatten(-1, level.shape[-2:])
