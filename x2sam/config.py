"""One typed configuration; presets ``x2sam_4b``, ``mid``, ``nano`` and ``tiny``.

Sizes of the published model are those of its final configuration (X2SAM, section 4.1) and of its base checkpoints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from x2sam.errors import WeightsError
from x2sam.inference.preprocess import PreprocessConfig
from x2sam.layouts import LAYOUTS, Layout, SamEncoderConfig


@dataclass(frozen=True)
class MaskEncoderConfig:
    """SAM2's Hiera backbone and neck. ``image_size`` is the side of the square that pictures are stretched to."""

    image_size: int = 1024
    widths: tuple[int, ...] = (144, 288, 576, 1152)
    blocks: tuple[int, ...] = (2, 6, 36, 4)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    windows: tuple[int, ...] = (8, 4, 16, 8)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    position_grid: tuple[int, int] = (7, 7)
    fpn_width: int = 256


@dataclass(frozen=True)
class PixelDecoderConfig:
    width: int = 256
    in_channels: tuple[int, ...] = (256, 256, 256)
    heads: int = 8
    points: int = 4
    layers: int = 6
    ffn: int = 1024


@dataclass(frozen=True)
class MaskDecoderConfig:
    """``text_attention``: layers read the words; class logits lie within ``clamp``, padded classes get ``padding``."""

    width: int = 256
    queries: int = 200
    layers: int = 9
    heads: int = 8
    ffn: int = 2048
    text_attention: bool = True
    clamp: float = 50.0
    padding: float = -1e6


@dataclass(frozen=True)
class MemoryConfig:
    """``levels`` that read memory: 0 is stride 16, 1 stride 8, 2 stride 4. Without ``slots`` there is no memory."""

    width: int = 256
    slots: int = 5
    levels: tuple[int, ...] = (0, 1, 2)
    attention_layers: int = 4
    ffn: int = 2048
    dropout: float = 0.1
    rope_theta: float = 10000.0
    fuser_layers: int = 2
    fuser_inner: int = 1024
    # clicks are painted and read as memory of the picture itself; the published checkpoint was not trained for it
    sketch: bool = False
    # what was read from memory is also added to the mask features; the published model leaves those alone
    dense: bool = False


@dataclass(frozen=True)
class RegionConfig:
    """Groups of ``pooling`` points become one token: their mean, or channel by channel their largest value."""

    points: int = 256
    pooling: int = 4
    largest: bool = False

    @property
    def tokens(self) -> int:
        return self.points // self.pooling


@dataclass(frozen=True)
class LoraSettings:
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def _qwen_text(**changes: Any) -> dict[str, Any]:
    base = {
        "vocab_size": 151672,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
        },
    }
    return {**base, **changes}


def _qwen_vision(**changes: Any) -> dict[str, Any]:
    base = {
        "depth": 24,
        "hidden_size": 1024,
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 4096,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 2560,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    return {**base, **changes}


@dataclass(frozen=True)
class X2SAMConfig:
    """Everything that fixes the shapes of the network and of what goes in. ``text`` and ``vision`` are in the words of
    the library's classes: Qwen3-VL's, or with an X-SAM ``layout`` Phi-3's and SigLIP's."""

    name: str = "x2sam-4b"
    layout: str = "x2sam"
    text: dict[str, Any] = field(default_factory=_qwen_text)
    vision: dict[str, Any] = field(default_factory=_qwen_vision)
    mask_encoder: MaskEncoderConfig | SamEncoderConfig = MaskEncoderConfig()
    pixel_decoder: PixelDecoderConfig = PixelDecoderConfig()
    mask_decoder: MaskDecoderConfig = MaskDecoderConfig()
    memory: MemoryConfig = MemoryConfig()
    region: RegionConfig = RegionConfig()
    lora: LoraSettings = LoraSettings()
    # frames of a clip that the language model sees at most
    language_frames: int = 16
    # all words that a small network was trained on, in small letters: others are left out of phrases (plain_words.py)
    words: tuple[str, ...] = ()
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    @property
    def width(self) -> int:
        return self.mask_decoder.width

    @property
    def family(self) -> Layout:
        return LAYOUTS[self.layout]

    @property
    def remembers(self) -> bool:
        """Whether there is a memory: without it a model answers about pictures, one by one."""
        return self.memory.slots > 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> X2SAMConfig:
        """Inverse of :meth:`to_dict` after JSON. Unknown or missing parts raise :class:`WeightsError`."""
        try:
            # configurations of before there were others have no layout
            layout = dict(data).get("layout", cls.layout)
            if layout not in tuple(LAYOUTS):
                raise WeightsError(f"config.json names the layout {layout!r}; known are {', '.join(LAYOUTS)}")
            parts = {
                "mask_encoder": _MASK_ENCODERS[LAYOUTS[layout].network],
                "pixel_decoder": PixelDecoderConfig,
                "mask_decoder": MaskDecoderConfig,
                "memory": MemoryConfig,
                "region": RegionConfig,
                "lora": LoraSettings,
                "preprocess": PreprocessConfig,
            }
            built = {k: kind(**_tuples(data[k])) for k, kind in parts.items()}
            towers = {k: dict(data[k]) for k in ("text", "vision")}
            rest = {k: v for k, v in data.items() if k not in parts and k not in towers}
            return cls(**_tuples(rest), **towers, **built)
        except KeyError as error:
            raise WeightsError(f"config.json does not describe an X2SAM model: {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise WeightsError(f"config.json does not describe an X2SAM model: {error}") from error


_MASK_ENCODERS = {"x2sam": MaskEncoderConfig, "xsam": SamEncoderConfig}


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def _square(side: int, image_pixels: tuple[int, int], video_pixels: tuple[int, int]) -> PreprocessConfig:
    return PreprocessConfig(image_pixels=image_pixels, video_pixels=video_pixels, mask_size=(side, side))


def x2sam_4b() -> X2SAMConfig:
    """The published model: Qwen3-VL-4B-Instruct, SAM2.1 Hiera-L, 200 queries."""
    return X2SAMConfig()


def mid() -> X2SAMConfig:
    """For benchmarks, random weights: text 12 x 1024, vision 12 x 512, SAM2.1-tiny at 1024 x 1024."""
    return X2SAMConfig(
        name="mid",
        text=_qwen_text(
            vocab_size=4096, hidden_size=1024, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=8,
            num_key_value_heads=4,
        ),
        vision=_qwen_vision(
            depth=12, hidden_size=512, intermediate_size=2048, num_heads=8, out_hidden_size=1024,
            deepstack_visual_indexes=[2, 5, 8],
        ),
        mask_encoder=MaskEncoderConfig(
            widths=(96, 192, 384, 768), blocks=(1, 2, 7, 2), heads=(1, 2, 4, 8), windows=(8, 4, 14, 7),
            global_blocks=(5, 7, 9),
        ),
    )  # fmt: skip


def nano(vocab_size: int = 1024) -> X2SAMConfig:
    """The embedded model: the same classes at a size that a laptop's CPU answers in tenths of a second."""
    width = 96
    sizes = _square(256, (96 * 96, 192 * 192), (4 * 64 * 64, 8 * 128 * 128))
    return X2SAMConfig(
        name="nano",
        text=_qwen_text(
            vocab_size=vocab_size, hidden_size=192, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=48, max_position_embeddings=8192,
            rope_parameters={
                "rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True, "mrope_section": [8, 8, 8],
            },
        ),
        vision=_qwen_vision(
            depth=4, hidden_size=128, intermediate_size=384, num_heads=4, out_hidden_size=192,
            num_position_embeddings=144, deepstack_visual_indexes=[1],
        ),
        mask_encoder=MaskEncoderConfig(
            image_size=256, widths=(32, 64, 128, 256), blocks=(1, 2, 5, 2), heads=(1, 2, 4, 8),
            windows=(8, 4, 8, 4), global_blocks=(5, 7), fpn_width=width,
        ),
        pixel_decoder=PixelDecoderConfig(width=width, in_channels=(width,) * 3, heads=4, points=2, layers=1, ffn=256),
        mask_decoder=MaskDecoderConfig(width=width, queries=16, layers=6, heads=4, ffn=384),
        memory=MemoryConfig(
            width=width, levels=(0,), attention_layers=2, ffn=256, dropout=0.0, fuser_inner=256, sketch=True, dense=True
        ),
        region=RegionConfig(points=64, pooling=8),
        language_frames=4,
        preprocess=dataclasses.replace(sizes, close_room=0.35),
    )  # fmt: skip


def tiny(vocab_size: int = 640) -> X2SAMConfig:
    """For tests, random weights: every part is there and a forward takes milliseconds."""
    return X2SAMConfig(
        name="tiny",
        text=_qwen_text(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=4096,
            rope_parameters={
                "rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True, "mrope_section": [4, 2, 2],
            },
        ),
        vision=_qwen_vision(
            depth=2, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32, num_position_embeddings=16,
            deepstack_visual_indexes=[0],
        ),
        mask_encoder=MaskEncoderConfig(
            image_size=64, widths=(8, 16, 24, 32), blocks=(1, 1, 2, 1), heads=(1, 1, 2, 2), windows=(8, 4, 4, 2),
            global_blocks=(3,), fpn_width=32,
        ),
        pixel_decoder=PixelDecoderConfig(width=32, in_channels=(32,) * 3, heads=2, points=2, layers=1, ffn=48),
        mask_decoder=MaskDecoderConfig(width=32, queries=6, layers=3, heads=2, ffn=48),
        memory=MemoryConfig(width=32, attention_layers=1, ffn=48, dropout=0.0, fuser_layers=1, fuser_inner=48),
        region=RegionConfig(points=16, pooling=4),
        lora=LoraSettings(rank=4, alpha=8),
        preprocess=_square(64, (32 * 32, 64 * 64), (32 * 32, 8 * 64 * 64)),
    )  # fmt: skip


PRESETS = {"x2sam-4b": x2sam_4b, "mid": mid, "nano": nano, "tiny": tiny}
