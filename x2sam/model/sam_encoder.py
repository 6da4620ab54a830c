"""Frame to feature maps for X-SAM: SAM's plain image encoder of transformers, and a connector that makes a pyramid."""

from __future__ import annotations

from torch import Tensor, nn

from x2sam.layouts import SamEncoderConfig
from x2sam.model.layers import ChannelNorm, Projector, pixel_shuffle
from x2sam.model.lean_import import lean_import

with lean_import():
    from transformers.models.sam.configuration_sam import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder


def build_encoder(config: SamEncoderConfig) -> SamVisionEncoder:
    """Patch embedding, positions and blocks; the neck of the original is read by nothing here."""
    encoder = SamVisionEncoder(
        SamVisionConfig(
            hidden_size=config.width,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch,
            window_size=config.window,
            global_attn_indexes=list(config.global_blocks),
            mlp_dim=config.ffn,
        )
    )
    encoder.neck = nn.Identity()
    return encoder


class ConnectorLevel(nn.Module):
    """A state (B, H, W, C) to a map (B, C', s H, s W): three convolutions with norms, then a pixel shuffle by ``s``."""

    def __init__(self, width: int, inner: int, scale: float):
        super().__init__()
        self.scale = scale
        channels = round(width * scale)
        self.model = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), ChannelNorm(inner),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), ChannelNorm(inner),
            nn.Conv2d(inner, channels, 1, bias=False), ChannelNorm(channels),
        )  # fmt: skip

    def forward(self, state: Tensor) -> Tensor:
        maps = self.model(state.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return pixel_shuffle(maps, self.scale).permute(0, 3, 1, 2)


class Connector(nn.Module):
    """States of several depths to maps, high to low resolution: the shallowest becomes the finest."""

    def __init__(self, config: SamEncoderConfig):
        super().__init__()
        self.model = nn.ModuleList(ConnectorLevel(config.width, config.connector_width, s) for s in config.scales)

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        return [level(state) for level, state in zip(self.model, states, strict=True)]


class SamEncoder(nn.Module):
    """Takes the place of :class:`x2sam.model.mask_encoder.MaskEncoder`."""

    def __init__(self, config: SamEncoderConfig, region_width: int):
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.connector = Connector(config)
        self.region_projector = Projector(config.width * 4, region_width)

    def states(self, pixels: Tensor) -> list[Tensor]:
        """The state (B, S/16, S/16, width) before the first block and after each one."""
        state = self.encoder.patch_embed(pixels) + self.encoder.pos_embed
        states = [state]
        for block in self.encoder.layers:
            states.append(block(states[-1]))
        return states

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """``pixels`` (B, 3, S, S), ImageNet-normalised, zero beside the picture.

        Returns maps (B, C, H, W) at strides 8, 16, 32 and the state that regions are read from (B, S/16, S/16, width).
        """
        states = self.states(pixels)
        return self.connector([states[i] for i in self.config.taps]), states[self.config.region_tap]

    def region_map(self, state: Tensor) -> Tensor:
        """To the map that the region sampler and the language model read, (B, S/32, S/32, D)."""
        return self.region_projector(pixel_shuffle(state, 0.5))
