"""Region Sampler: a mask prompt becomes a fixed number of tokens for the language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam.config import RegionConfig
from x2sam.errors import PromptError


def sample_points(mask: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """``count`` pixels of a (H, W) mask as (row / H, col / W), without half-pixel offset, (count, 2) float32.

    Fewer pixels than ``count``: all of them in raster order, then random repeats; more: a random choice.
    """
    pixels = mask.nonzero().cpu()
    found = len(pixels)
    if not found:
        raise PromptError("the region prompt is empty at the network's size; draw a larger region or click again")
    if found < count:
        extra = torch.randint(0, found, (count - found,), generator=generator)
        pixels = torch.cat((pixels, pixels[extra]))
    elif found > count:
        pixels = pixels[torch.randperm(found, generator=generator)[:count]]
    return (pixels.float() / torch.tensor(mask.shape, dtype=torch.float32)).to(mask.device)


def sample_regions(
    region_map: Tensor, masks: Tensor, config: RegionConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Tokens of ``masks`` (N, H, W) read from one picture's ``region_map`` (h, w, D): (N, points / pooling, D).

    Masks may lie on another device than the map: points are drawn on the CPU, so that a seed means the same anywhere.

    The reference draws one more number per region to choose among candidates of equal label; it is drawn here too
    (and ignored, there is one candidate), so that the generator stands where the reference's does.
    """
    points = torch.stack([sample_points(mask, config.points, generator) for mask in masks]).to(region_map.device)
    for _ in range(len(masks)):
        torch.randint(0, 1, (1,), generator=generator)
    grid = 2 * points.flip(-1) - 1
    plane = region_map.permute(2, 0, 1).float()[None].expand(len(masks), -1, -1, -1)
    samples = F.grid_sample(plane, grid[:, :, None], mode="bilinear", padding_mode="zeros", align_corners=True)
    samples = samples[..., 0].transpose(1, 2)
    groups = samples.unflatten(1, (-1, config.pooling))
    return (groups.amax(2) if config.largest else groups.mean(2)).to(region_map.dtype)
