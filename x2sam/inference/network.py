"""The network's parts as requests call them: by compiled code where there is some for exactly this call, else eagerly.

Nothing is ever compiled by a call. What is not in the table of compiled code is noted there, and computed eagerly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam.model.mask_decoder import Condition, LevelPrediction, PreparedMaps
from x2sam.model.x2sam import X2SAM, EncodedFrame, FrameFeatures

Layout = tuple[tuple[tuple[int, ...], tuple[int, ...], str], ...]
"""Shape, strides and number type of each tensor that a call hands over: compiled code is for one of these only."""
Code = Callable[[list[Tensor]], list[Tensor]]

TOKENS = 32
"""Tokens of a phrase that compiled code takes; shorter ones are filled up with padding, which nothing looks at."""
CLASSES = 2
"""One phrase and the background."""
MOST_LAYOUTS = 2
"""Layouts of one part that are compiled at most: features that were computed, and those read from the disk."""

log = logging.getLogger(__name__)


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    kinds = (str(t.dtype).removeprefix("torch.") for t in tensors)
    return tuple((tuple(t.shape), _strides(t), kind) for t, kind in zip(tensors, kinds, strict=True))


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """How far apart neighbours are; 1 where there is none, as what tensors say there means nothing."""
    return tuple(step if size > 1 else 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


class Encode(nn.Module):
    """Pixels (1, 3, S, S) to the encoder's maps and the one that regions are read from."""

    def __init__(self, model: X2SAM):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        encoded = self.model.encode(pixels)
        return *encoded.fpn, encoded.stage3


class Decode(nn.Module):
    """A picture's features, what was asked and, where it is ``drawn``, the sketch: to mask logits, classes, queries."""

    drawn = False

    def __init__(self, model: X2SAM):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        *maps, mask_features = tensors[:4]
        sketch, rest = (tensors[4], tensors[5:]) if self.drawn else (None, tensors[4:])
        prepared = PreparedMaps(list(zip(rest[5::2], rest[6::2], strict=True)))
        level = decode(self.model, FrameFeatures(maps, mask_features), Condition(*rest[:5]), sketch, prepared)
        return level.mask_logits, level.class_logits, level.queries


class DecodeDrawn(Decode):
    drawn = True


def decode(
    model: X2SAM, features: FrameFeatures, condition: Condition, sketch: Tensor | None, prepared: PreparedMaps
) -> LevelPrediction:
    """The answer to B prompts about one picture; ``sketch`` (B, 1, h, w) in 0..1 is what was drawn for each."""
    entries = [] if sketch is None else [model.sketch(features, sketch)]
    return model.step(features, condition, entries, prepared=prepared)[-1]


@dataclass(frozen=True)
class Part:
    """A part of a request that is the same operations on the same shapes every time, as a module that takes and gives
    tensors only; ``children`` of the model are all that it uses. ``steady``: rounding moves nothing in it by much, as
    it decides nothing; the mask decoder does, where its queries may look next."""

    module: type[nn.Module]
    children: tuple[str, ...]
    steady: bool


_DECODING = ("mask_decoder", "memory_encoder", "memory_attention", "memory_bridge", "sketch_bridge")
PARTS = {
    "decoder with sketch": Part(DecodeDrawn, _DECODING, steady=False),
    "decoder": Part(Decode, _DECODING, steady=False),
    "encoder": Part(Encode, ("mask_encoder",), steady=True),
}
"""The pixel decoder is not among them: a place that it reads at the edge of a cell is rounded otherwise there, and then
it reads the cell beside (:file:`SPEED.md`)."""


def weights_of(part: str, model: X2SAM) -> dict[str, Tensor]:
    """All weights that a part uses, by name; compiled code is lent them with each call, in this order."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name.partition(".")[0] in PARTS[part].children}


class CodeTable:
    """Compiled code by part and layout. Filled and emptied by whoever compiles, looked into by the device's thread."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, Layout], Code] = {}
        self._asked: dict[tuple[str, Layout], None] = {}
        self.news = threading.Event()

    def __call__(self, part: str, tensors: list[Tensor]) -> list[Tensor] | None:
        """What the compiled code gives; None where there is none for this layout, or where it failed."""
        key = part, layout_of(tensors)
        code = self._code.get(key)
        if code is None:
            self._ask(key)
            return None
        try:
            return code(tensors)
        except RuntimeError as error:  # memory that ran out is told by the eager way, if it has too little as well
            self.drop(*key)
            log.warning("compiled code for %s failed and is not used any more (%s)", part, type(error).__name__)
            return None

    def put(self, part: str, layout: Layout, code: Code) -> None:
        self._code[part, layout] = code

    def drop(self, part: str, layout: Layout) -> None:
        self._code.pop((part, layout), None)

    @property
    def asked(self) -> list[tuple[str, Layout]]:
        """All that was called for and not there, in that order; ``news`` is set when there is more of it."""
        return list(self._asked)

    def _ask(self, key: tuple[str, Layout]) -> None:
        if key not in self._asked and sum(part == key[0] for part, _ in self._asked) < MOST_LAYOUTS:
            self._asked[key] = None
            self.news.set()


class Network:
    """``table``: None where everything is computed eagerly."""

    def __init__(self, model: X2SAM, table: CodeTable | None = None):
        self.model, self.table = model, table

    def encode(self, pixels: Tensor) -> EncodedFrame:
        """As :meth:`x2sam.model.x2sam.X2SAM.encode`, of one frame."""
        found = None if self.table is None else self.table("encoder", [pixels])
        return self.model.encode(pixels) if found is None else EncodedFrame(found[:-1], found[-1])

    def decode(
        self, features: FrameFeatures, condition: Condition, sketch: Tensor | None, prepared: PreparedMaps
    ) -> LevelPrediction:
        """As :func:`decode`. Compiled code takes one prompt at a time, of one short phrase."""
        if self.table is not None and _is_short(condition):
            drawn = [] if sketch is None else [sketch]
            asked = condition.filled(CLASSES, TOKENS).parts
            known = [tensor for seen in prepared.layers for tensor in seen]
            given = [*features.maps, features.mask_features, *drawn, *asked, *known]
            found = self.table("decoder with sketch" if drawn else "decoder", given)
            if found is not None:
                return LevelPrediction(*found)
        return decode(self.model, features, condition, sketch, prepared)


def _is_short(condition: Condition) -> bool:
    return tuple(condition.classes.shape[:2]) == (1, CLASSES) and condition.tokens.shape[1] <= TOKENS


def numbers_for(layout: Layout, device: torch.device | str, seed: int = 0) -> list[Tensor]:
    """Tensors of a layout with random numbers, to try code out; what says where to look says everywhere."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for shape, strides, kind in layout:
        empty = torch.empty_strided(shape, strides, dtype=getattr(torch, kind), device=device)
        filled = torch.ones(shape) if kind == "bool" else torch.randn(shape, generator=generator)
        made.append(empty.copy_(filled))
    return made
