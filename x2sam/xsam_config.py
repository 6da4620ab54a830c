"""Sizes of X-SAM, the predecessor for pictures: ``xsam`` as published in 2025, ``xsam-2026`` and ``xsam-tiny``.

The numbers are those of its final configuration and of the configurations of its base models (Phi-3-mini-4k-instruct,
SigLIP2 so400m patch14 384, SAM ViT-L, Mask2Former), so that none of these has to be fetched for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from x2sam.config import MaskDecoderConfig, MemoryConfig, PixelDecoderConfig, RegionConfig, X2SAMConfig
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.layouts import SamEncoderConfig


def phi3_text(**changes: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 32014,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return {**base, **changes}


def siglip_vision(**changes: Any) -> dict[str, Any]:
    """``num_hidden_layers`` counts the last block, which nothing reads."""
    base = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    return {**base, **changes}


def square_views(side: int, patch: int, mask_side: int, pad: bool) -> PreprocessConfig:
    """Pictures for the vision tower at ``side`` x ``side``, for the mask encoder scaled and padded to ``mask_side``."""
    return PreprocessConfig(
        patch=patch, temporal_patch=1, merge=1, square=side, square_pad=pad, scene=32,
        mask_size=(mask_side, mask_side), keep_aspect=True,
    )  # fmt: skip


def xsam() -> X2SAMConfig:
    """The published model: Phi-3-mini, SigLIP2, SAM ViT-L, 200 queries."""
    return X2SAMConfig(
        name="x-sam",
        layout="xsam-2025",
        text=phi3_text(),
        vision=siglip_vision(),
        mask_encoder=SamEncoderConfig(),
        pixel_decoder=PixelDecoderConfig(in_channels=(512, 1024, 2048)),
        mask_decoder=MaskDecoderConfig(text_attention=False, clamp=500.0, padding=-1e9),
        memory=MemoryConfig(slots=0),
        region=RegionConfig(pooling=256, largest=True),
        language_frames=1,
        preprocess=square_views(384, 14, 1024, pad=True),
    )


def xsam_2026() -> X2SAMConfig:
    """The same parts as the rewritten code trains and reads them."""
    return of_2026(xsam())


def of_2026(config: X2SAMConfig) -> X2SAMConfig:
    return replace(
        config,
        name=config.name + "-2026",
        layout="xsam-2026",
        mask_decoder=replace(config.mask_decoder, clamp=50.0, padding=-1e6),
        region=RegionConfig(points=config.region.points, pooling=4),
        preprocess=replace(config.preprocess, square_pad=False),
    )


def xsam_mid() -> X2SAMConfig:
    """For benchmarks, random weights: text 12 x 1024, SigLIP 12 x 512, SAM 12 x 512, pictures as large as published."""
    published = xsam()
    return replace(
        published,
        name="xsam-mid",
        text=phi3_text(
            vocab_size=4096, hidden_size=1024, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=8,
            num_key_value_heads=8,
        ),
        vision=siglip_vision(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8),
        mask_encoder=replace(
            published.mask_encoder, width=512, blocks=12, heads=8, ffn=2048, global_blocks=(2, 5, 8, 11),
            taps=(6, 9, 12), region_tap=11, connector_width=256,
        ),
        pixel_decoder=replace(published.pixel_decoder, in_channels=(256, 512, 1024)),
    )  # fmt: skip


def xsam_tiny(vocab_size: int = 568) -> X2SAMConfig:
    """For tests, random weights: every part is there, and questions are longer than the window of attention."""
    width = 32
    return X2SAMConfig(
        name="xsam-tiny",
        layout="xsam-2025",
        text=phi3_text(
            vocab_size=vocab_size, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, sliding_window=48,
        ),
        vision=siglip_vision(
            hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=42,
        ),
        mask_encoder=SamEncoderConfig(
            image_size=128, width=width, blocks=6, heads=2, ffn=64, window=5, global_blocks=(2, 5), taps=(2, 4, 6),
            region_tap=5, connector_width=16,
        ),
        pixel_decoder=PixelDecoderConfig(width=width, in_channels=(16, 32, 64), heads=4, layers=2, ffn=48),
        mask_decoder=MaskDecoderConfig(
            width=width, queries=10, layers=3, heads=4, ffn=48, text_attention=False, clamp=500.0, padding=-1e9
        ),
        memory=MemoryConfig(width=width, slots=0),
        region=RegionConfig(pooling=256, largest=True),
        language_frames=1,
        preprocess=square_views(42, 14, 128, pad=True),
    )  # fmt: skip


XSAM_PRESETS = {"x-sam": xsam, "x-sam-2026": xsam_2026, "xsam-tiny": xsam_tiny}
