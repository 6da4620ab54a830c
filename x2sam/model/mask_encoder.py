"""Frame to feature maps: the SAM2 image encoder of transformers, and its stage that region prompts are read from."""

from __future__ import annotations

from torch import Tensor, nn

from x2sam.config import MaskEncoderConfig
from x2sam.model.layers import Projector, pixel_shuffle
from x2sam.model.lean_import import lean_import

with lean_import():
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel


def build_encoder(config: MaskEncoderConfig) -> Sam2VisionModel:
    size = config.image_size
    backbone = Sam2HieraDetConfig(
        hidden_size=config.widths[0],
        num_attention_heads=config.heads[0],
        image_size=[size, size],
        blocks_per_stage=list(config.blocks),
        embed_dim_per_stage=list(config.widths),
        num_attention_heads_per_stage=list(config.heads),
        window_size_per_stage=list(config.windows),
        global_attention_blocks=list(config.global_blocks),
        window_positional_embedding_background_size=list(config.position_grid),
    )
    return Sam2VisionModel(
        Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=list(reversed(config.widths)),
            backbone_feature_sizes=[[size // s, size // s] for s in (4, 8, 16)],
            fpn_hidden_size=config.fpn_width,
        )
    )


class MaskEncoder(nn.Module):
    """SAM2's backbone and neck, and the projection of stage 3 to the language model's width."""

    def __init__(self, config: MaskEncoderConfig, region_width: int):
        super().__init__()
        self.encoder = build_encoder(config)
        self.region_projector = Projector(config.widths[2] * 4, region_width)

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """``pixels`` (B, 3, S, S), ImageNet-normalised.

        Returns FPN maps (B, C, H, W) at strides 4, 8, 16 and the stage-3 map (B, S/16, S/16, width).
        """
        stages = self.encoder.backbone(pixels).intermediate_hidden_states
        fpn, _ = self.encoder.neck(stages)
        count = self.encoder.num_feature_levels
        return list(fpn[-count:][::-1]), stages[2]

    def region_map(self, stage3: Tensor) -> Tensor:
        """Stage-3 map to the map that the region sampler reads, (B, H/2, W/2, D)."""
        return self.region_projector(pixel_shuffle(stage3, 0.5))
