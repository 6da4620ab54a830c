"""Which family a checkpoint belongs to, from its keys alone; and the names of X-SAM's keys in ours.

A file of X-SAM is complete: nothing has to be merged, no base model's weights go below it. Both of its layouts are
rows of patterns here; X2SAM's own names are in :mod:`x2sam.model.weights`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from x2sam.errors import WeightsError
from x2sam.layouts import LAYOUTS, Layout
from x2sam.model.weights import LORA, TIED, UNUSED, WRAPPER, rename

SHOWN = 5

_SIGLIP, _SIGLIP_LAYER = r"vision_model\.(embeddings\.|encoder\.layers\.)", r"\.vision_model\.encoder\.layers\.(\d+)\."
_PHI3 = (
    r"llm\.model\.(embed_tokens\.|norm\.|layers\.\d+\.(?:self_attn\.(?:qkv|o)_proj|mlp\.(?:gate_up|down)_proj"
    r"|(?:input|post_attention)_layernorm)\.)"
)
# pattern of a published key's beginning -> ours, {0} being what its group holds
_SHARED = (
    (_PHI3, "vision_language.language.{0}"),
    (r"llm\.lm_head\.", "vision_language.head."),
    (r"visual_projector\.", "vision_language.visual_projector."),
    (r"seg_projector\.", "mask_encoder.region_projector."),
    (r"seg_connector\.", "mask_encoder.connector."),
    (r"segmentor\.encoder\.(patch_embed\.|pos_embed|layers\.)", "mask_encoder.encoder.{0}"),
    (r"segmentor\.pixel_decoder\.", "pixel_decoder."),
    (r"segmentor\.decoder\.decoder\.", "mask_decoder."),
    (r"segmentor\.decoder\.", "mask_decoder."),
    (r"llm_projector\.", "text_projector."),
    (r"bg_embeds\.", "background."),
)
_PATTERNS = {
    "xsam-2025": (
        *_SHARED,
        (r"visual_encoder\." + _SIGLIP, "vision_language.visual.{0}"),
        (r"segmentor\.logit_scale$", "mask_decoder.class_head.logit_scale"),
    ),
    "xsam-2026": (
        *_SHARED,
        (r"vision_encoder\." + _SIGLIP, "vision_language.visual.{0}"),
        (r"segmentor\.class_predictor\.", "mask_decoder.class_head."),
    ),
}
# stored, and read by nothing: the tower's end, the SAM neck, and a buffer of SAM's own decoder
_IGNORED = re.compile(
    r"vis(?:ual|ion)_encoder\.vision_model\.(?:head|post_layernorm)\.|segmentor\.encoder\.neck\."
    r"|segmentor\.shared_image_embedding\.positional_embedding$"
)


@dataclass(frozen=True)
class Fit:
    """How a file's keys fit a layout; ``unfit`` are those that have no place in it."""

    layout: Layout
    unfit: tuple[str, ...]


def _fits_x2sam(key: str) -> bool:
    plain = key.removeprefix(WRAPPER).replace(".base_layer.", ".").split(LORA)[0]
    return plain in (*UNUSED, TIED) or rename(plain) is not None


def _fits_xsam(name: str) -> Callable[[str], bool]:
    return lambda key: _IGNORED.match(key) is not None or _rename(key, name) is not None


_FITS = {"x2sam": _fits_x2sam, "xsam-2025": _fits_xsam("xsam-2025"), "xsam-2026": _fits_xsam("xsam-2026")}


def _rename(key: str, layout: str) -> str | None:
    for pattern, ours in _PATTERNS[layout]:
        if found := re.match(pattern, key):
            return ours.format(*found.groups()) + key[found.end() :]
    return None


def recognise(keys: Collection[str]) -> Layout:
    """The layout that every key of a checkpoint fits.

    Raises WeightsError with the first keys that do not fit the layout that fits best.
    """
    fits = [Fit(row, tuple(sorted(k for k in keys if not _FITS[row.name](k)))) for row in LAYOUTS.values()]
    best = min(fits, key=lambda fit: len(fit.unfit))
    if not best.unfit:
        return best.layout
    known = ", ".join(row.title for row in LAYOUTS.values())
    first, more = ", ".join(best.unfit[:SHOWN]), len(best.unfit) - SHOWN
    like = f"it is most like {best.layout.title}; " if len(best.unfit) < len(keys) else ""
    rest = f" and {more} more" if more > 0 else ""
    raise WeightsError(f"the checkpoint is none of {known}: {like}unexpected keys: {first}{rest}")


def convert_complete(published: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A checkpoint of X-SAM in our names. Its keys all fit, see :func:`recognise`."""
    blocks = [int(found[1]) for key in published if (found := re.search(_SIGLIP_LAYER, key))]
    # the tower's state is taken before its last block, so that block is never run
    last = f".vision_model.encoder.layers.{max(blocks, default=-1)}."
    kept = (key for key in published if not _IGNORED.match(key) and last not in key)
    return {name: published[key] for key in kept if (name := _rename(key, layout.name)) is not None}
