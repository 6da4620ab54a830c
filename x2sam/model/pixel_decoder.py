"""Multi-scale deformable pixel decoder in plain PyTorch (Mask2Former, section 3.2; Deformable DETR, equation 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import PixelDecoderConfig
from x2sam.model.layers import sine_position

GROUPS = 32


class DeformableAttention(nn.Module):
    """Each token reads ``points`` learned places around itself in each of ``levels`` maps."""

    def __init__(self, width: int, heads: int, levels: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Offsets start as a star: one direction per head, one more step per point (Deformable DETR, appendix A.4)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * torch.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        star = direction[:, None, None, :] * steps[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star.expand(self.heads, self.levels, self.points, 2).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """``tokens``, ``position`` (B, N, C); ``reference`` (N, 2) as x, y in 0..1; ``shapes`` (H, W) of the maps."""
        batch, count, _ = tokens.shape
        head_shape = (self.heads, self.levels, self.points)
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1)).float()
        query = tokens + position
        offsets = self.sampling_offsets(query).float().view(batch, count, *head_shape, 2)
        weights = self.attention_weights(query).float().view(batch, count, self.heads, -1).softmax(-1)
        weights = weights.view(batch, count, *head_shape)
        plain = value.device.type == "cpu" and not (torch.is_grad_enabled() and value.requires_grad)
        # Row numbers are made as float32, which holds whole numbers up to here.
        read = self._gather if plain and batch * count * self.heads < 2**24 else self._sample
        return self.output_proj(read(value, offsets, weights, reference, shapes).to(tokens.dtype))

    def _sample(self, value: Tensor, offsets: Tensor, weights: Tensor, reference: Tensor, shapes) -> Tensor:
        """(B, N, C) from ``value`` (B, N, heads, c) by grid sampling, map by map."""
        batch, count = value.shape[:2]
        summed = value.new_zeros(batch * self.heads, value.shape[-1], count)
        start = 0
        for level, (height, columns) in enumerate(shapes):
            size = torch.tensor([columns, height], device=value.device, dtype=torch.float32)
            place = reference[None, :, None, None, :] + offsets[:, :, :, level] / size
            grid = (2 * place - 1).transpose(1, 2).flatten(0, 1)
            plane = value[:, start : start + height * columns].permute(0, 2, 3, 1).flatten(0, 1)
            plane = plane.unflatten(-1, (height, columns))
            samples = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            summed = summed + (samples * share[:, None]).sum(-1)
            start += height * columns
        return summed.unflatten(0, (batch, self.heads)).permute(0, 3, 1, 2).flatten(2)

    def _gather(self, value: Tensor, offsets: Tensor, weights: Tensor, reference: Tensor, shapes) -> Tensor:
        """The same, several times as fast on a CPU: each result is a weighted sum of rows of one table, of the four
        cells around every place that is read."""
        batch, count, heads, _ = value.shape
        reads = self.levels * self.points
        sizes = value.new_tensor(shapes)[:, None].expand(-1, self.points, -1).reshape(1, reads, 2).repeat(1, heads, 1)
        starts = value.new_tensor([sum(h * w for h, w in shapes[:level]) for level in range(self.levels)])
        starts = starts[:, None].expand(-1, self.points).reshape(1, reads).repeat(1, heads)
        corners = []
        # Rows and columns of all reads (B * N, heads * reads), apart from one another: long runs of equal work.
        for axis in (1, 0):
            most = sizes[..., 1 - axis] - 1
            place = reference[:, axis, None] * (most + 1) + offsets[..., axis].reshape(batch, count, -1) - 0.5
            low = place.floor()
            part = place.sub_(low)
            near, far = low.clamp(min=0).minimum(most), (low + 1).clamp_(min=0).minimum(most)
            # What is beyond the map counts as 0.
            corners.append((((1 - part).mul_(near == low), near), (part.mul_(far == low + 1), far)))
        table = value.flatten(0, 2)
        head = torch.arange(heads, device=value.device, dtype=value.dtype).repeat_interleave(reads)
        picture = torch.arange(batch, device=value.device, dtype=value.dtype)[:, None, None] * count
        shares = weights.reshape(batch, count, -1)
        total = None
        for down, row in corners[0]:
            begin, share = (row * sizes[..., 1]).add_(starts).add_(picture), down * shares
            for along, column in corners[1]:
                index = (begin + column).mul_(heads).add_(head).int().view(-1, reads)
                bags = F.embedding_bag(index, table, per_sample_weights=(share * along).view(-1, reads), mode="sum")
                total = bags if total is None else total.add_(bags)
        return total.view(batch, count, -1)


class DeformableLayer(nn.Module):
    """Post-norm encoder layer: deformable attention, then a ReLU feed-forward."""

    def __init__(self, config: PixelDecoderConfig):
        super().__init__()
        width = config.width
        self.self_attn = DeformableAttention(width, config.heads, len(config.in_channels), config.points)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        tokens = self.self_attn_layer_norm(tokens + self.self_attn(tokens, position, reference, shapes))
        return self.final_layer_norm(tokens + self.fc2(F.relu(self.fc1(tokens))))


class PixelDecoder(nn.Module):
    """FPN maps, high to low resolution, to three maps that queries attend to and one that masks are read from."""

    def __init__(self, config: PixelDecoderConfig):
        super().__init__()
        width = config.width
        self.config = config
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(GROUPS, width))
            for channels in reversed(config.in_channels)
        )
        self.level_embed = nn.Parameter(torch.randn(len(config.in_channels), width))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(DeformableLayer(config) for _ in range(config.layers))
        self.adapter_1 = nn.Sequential(
            nn.Conv2d(config.in_channels[0], width, 1, bias=False), nn.GroupNorm(GROUPS, width)
        )
        self.layer_1 = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU()
        )
        self.mask_projection = nn.Conv2d(width, width, 1)

    def forward(self, fpn: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """``fpn`` maps (B, C, H, W) at strides 4, 8, 16.

        Returns the multi-scale maps at strides 16, 8, 4 and the mask features at stride 4, all (B, C, H, W).
        """
        levels = list(reversed(fpn))
        shapes = [tuple(level.shape[-2:]) for level in levels]
        maps = [project(level) for project, level in zip(self.input_projections, levels, strict=True)]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat(
            [
                # sine of the position in the level's own grid, plus which level it is
                (sine_position(h, w, self.config.width, m.device, m.dtype).flatten(1).T + self.level_embed[i])
                for i, ((h, w), m) in enumerate(zip(shapes, maps, strict=True))
            ]
        )[None]
        reference = torch.cat([self._centres(h, w, tokens.device) for h, w in shapes])
        for layer in self.encoder.layers:
            tokens = layer(tokens, position, reference, shapes)
        parts = tokens.split([h * w for h, w in shapes], dim=1)
        multi_scale = [p.transpose(1, 2).unflatten(-1, s) for p, s in zip(parts, shapes, strict=True)]
        lateral = self.adapter_1(fpn[0])
        top = F.interpolate(multi_scale[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return multi_scale, self.mask_projection(self.layer_1(lateral + top))

    @staticmethod
    def _centres(height: int, width: int, device) -> Tensor:
        """Centres of the cells of a grid as x, y in 0..1, row by row, (H*W, 2)."""
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        rows, cols = torch.meshgrid(y, x, indexing="ij")
        return torch.stack((cols.flatten(), rows.flatten()), -1)
