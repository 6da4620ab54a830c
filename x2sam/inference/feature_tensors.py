"""Features as named tensors and back, so that they can lie in safetensors files.

Everything that :class:`x2sam.inference.looking.Looking` keeps of a picture has a row in the table here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from x2sam.inference.interpreter import Looked
from x2sam.model.vision_language import VisualRows
from x2sam.model.x2sam import EncodedFrame, FrameFeatures

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """``unpack(tensors, new_cache)`` undoes ``pack(value)``."""

    name: str
    pack: Callable[[Any], dict[str, Tensor]]
    unpack: Callable[[Tensors, Callable[[], DynamicCache]], Any]


def kind_of(value: Any) -> Kind:
    """The row of a value. Raises KeyError for what is no feature."""
    return _KINDS[type(value)]


def kind_named(name: str) -> Kind:
    """The row with a name. Raises KeyError when there is none."""
    return _NAMED[name]


def _listed(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{number:03d}": tensor for number, tensor in enumerate(tensors)}


def _list(name: str, tensors: Tensors) -> list[Tensor]:
    return [tensors[key] for key in sorted(tensors) if key.startswith(f"{name}.")]


def _pack_encoded(value: EncodedFrame) -> dict[str, Tensor]:
    return {**_listed("fpn", value.fpn), "stage3": value.stage3}


def _unpack_encoded(tensors: Tensors, _new_cache: Callable[[], DynamicCache]) -> EncodedFrame:
    return EncodedFrame(_list("fpn", tensors), tensors["stage3"])


def _pack_features(value: FrameFeatures) -> dict[str, Tensor]:
    return {**_listed("maps", value.maps), "mask_features": value.mask_features}


def _unpack_features(tensors: Tensors, _new_cache: Callable[[], DynamicCache]) -> FrameFeatures:
    return FrameFeatures(_list("maps", tensors), tensors["mask_features"])


def _pack_looked(value: Looked) -> dict[str, Tensor]:
    layers = [] if value.prefix is None else value.prefix.layers
    return {
        "rows": value.visual.rows,
        **_listed("deepstack", value.visual.deepstack),
        **_listed("keys", [layer.keys for layer in layers]),
        **_listed("values", [layer.values for layer in layers]),
        "grid": torch.tensor(value.grid),
        "prefix_length": torch.tensor(value.prefix_length),
    }


def _unpack_looked(tensors: Tensors, new_cache: Callable[[], DynamicCache]) -> Looked:
    prefix = None
    layers = list(zip(_list("keys", tensors), _list("values", tensors), strict=True))
    if layers:
        prefix = new_cache()
        for number, (keys, values) in enumerate(layers):
            prefix.update(keys, values, number)
    visual = VisualRows(tensors["rows"], _list("deepstack", tensors))
    return Looked(visual, tuple(tensors["grid"].tolist()), prefix, int(tensors["prefix_length"]))


_KINDS: dict[type, Kind] = {
    EncodedFrame: Kind("encoded", _pack_encoded, _unpack_encoded),
    FrameFeatures: Kind("features", _pack_features, _unpack_features),
    Looked: Kind("looked", _pack_looked, _unpack_looked),
}
_NAMED = {kind.name: kind for kind in _KINDS.values()}
