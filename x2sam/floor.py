"""The least work that a request can take: operations and bytes of every stage, from shapes alone.

Operations are counted by torch's own counter while the network's real code runs on tensors without data; two
operations are one multiplication with its addition. Three things the counter can't see are added by formula: the vision
tower, whose code looks at the values of its grid, and the places that the pixel decoder samples. Masked and causal
attention count in full, as the counter does. Bytes: each weight, each input and each output moved once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from x2sam.bench_models import SIZES
from x2sam.config import X2SAMConfig
from x2sam.inference.preprocess import image_size_for
from x2sam.model.mask_decoder import Condition
from x2sam.model.mask_memory import MemoryEntry
from x2sam.model.weights import build_empty
from x2sam.model.x2sam import X2SAM, FrameFeatures

PICTURE = (640, 960)
"""(H, W) that the language model looks at; the mask encoder's input has one size."""
WORDS_BEHIND, ANSWER = 48, 8
"""Tokens of a question and its forced answer behind the picture, regions left out; tokens of an answer that is
generated. Of the published templates and tokenizer, about."""
NUMBER_BYTES = {"4b": 2}  # bfloat16 on a GPU; float32 elsewhere
H200 = (989e12, 4.8e12)
"""Operations per second (bfloat16, dense) and bytes per second, by the data sheet."""


@dataclass(frozen=True)
class Stage:
    name: str
    operations: float
    bytes: float

    def seconds(self, machine: tuple[float, float] = H200) -> float:
        """What a machine of so many operations and bytes per second takes at least."""
        return max(self.operations / machine[0], self.bytes / machine[1])


def stages(size: str) -> list[Stage]:
    """Of a size of :data:`x2sam.bench_models.SIZES`, for one picture or frame, one object, and a full memory."""
    config = SIZES[size]()
    return Counting(config, NUMBER_BYTES.get(size, 4)).stages()


class Counting:
    """``number``: bytes of a number."""

    def __init__(self, config: X2SAMConfig, number: int):
        self.config, self.number = config, number
        self.model: X2SAM = build_empty(config).eval().requires_grad_(False)

    def stages(self) -> list[Stage]:
        model, config = self.model, self.config
        side, width = config.mask_encoder.image_size, config.text["hidden_size"]
        height, columns = (n // config.preprocess.patch for n in image_size_for(*PICTURE, config.preprocess))
        rows = height * columns // config.preprocess.merge**2
        language, words = model.vision_language, config.region.tokens + WORDS_BEHIND

        encoder, encoded = self._count(
            "mask encoder", lambda: model.encode(empty(1, 3, side, side)), model.mask_encoder.encoder
        )
        pixel, features = self._count(
            "pixel decoder", lambda: model.decode_pixels(encoded, first=True), model.pixel_decoder, encoded.fpn
        )
        pixel = Stage(pixel.name, pixel.operations + sampling(config), pixel.bytes)
        region, _ = self._count(
            "region map", lambda: model.mask_encoder.region_map(encoded.stage3), model.mask_encoder.region_projector,
            [encoded.stage3],
        )  # fmt: skip
        moved = numbers_of(language.visual) + height * columns * config.vision["hidden_size"] + rows * width
        tower = Stage("vision tower", vision(config, 1, height, columns), self.number * moved)
        cache = language.new_cache()
        # the embedding table is looked up, not read
        layers = language.language.layers
        prefix, _ = self._count("words, picture", lambda: language.read(empty(1, rows, width), cache=cache), layers)
        kept = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        suffix, _ = self._count(
            "words, question", lambda: language.read(empty(1, words, width), cache=cache), layers, kept
        )
        token, _ = self._count("words, one more", lambda: language.read(empty(1, 1, width), cache=cache), layers, kept)
        return [
            encoder, pixel, region, tower, prefix, *self._decoder(features), suffix, token, *self._memory(features)
        ]  # fmt: skip

    def _decoder(self, features: FrameFeatures) -> list[Stage]:
        model, prepared = self.model, self.model.prepare(features)
        seen = [t for pair in prepared.layers for t in pair]
        keys, _ = self._count(
            "keys and values", lambda: [t for pair in model.prepare(features).layers for t in pair], None, features.maps
        )
        decode, _ = self._count(
            "mask decoder", lambda: model.step(features, one_condition(model), prepared=prepared)[-1].mask_logits,
            model.mask_decoder, [*seen, features.mask_features],
        )  # fmt: skip
        return [keys, decode]

    def _memory(self, features: FrameFeatures) -> list[Stage]:
        model, maps = self.model, features.maps
        guidance = empty(1, 1, *features.mask_features.shape[-2:])
        write, entry = self._count(
            "memory, write", lambda: model.remember(features, guidance, 0), model.memory_encoder, maps
        )
        bank = [MemoryEntry(time, entry.levels, entry.grid) for time in range(self.config.memory.slots)]
        held = [*maps, *(level for one in bank for level in one.levels)]
        read = lambda coarse: lambda: model.memory_attention(maps, bank, len(bank), coarse)  # noqa: E731
        exact, _ = self._count("memory, read", read(False), model.memory_attention, held)
        coarse, _ = self._count("memory, read, fast", read(True), model.memory_attention, held)
        return [write, exact, coarse]

    def _count(
        self, name: str, work: Callable[[], Any], weights: nn.Module | None = None, inputs: Sequence[Tensor] = ()
    ) -> tuple[Stage, Any]:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            out = work()
        moved = sum(t.numel() for t in (*inputs, *tensors_of(out))) + (numbers_of(weights) if weights else 0)
        return Stage(name, float(counter.get_total_flops()), float(self.number * moved)), out


def empty(*shape: int) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, device="meta")


def numbers_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a tensor, a list, or a dataclass of those."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, (list, tuple)) else vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def one_condition(model: X2SAM) -> Condition:
    """What one region or phrase comes to: a class, the background and the states of a phrase."""
    width, tokens = model.config.width, model.config.region.tokens + 2
    known = lambda n: torch.ones(1, n, dtype=torch.bool, device="meta")  # noqa: E731
    return Condition(empty(1, 2, width), known(2), empty(1, tokens, width), known(tokens), empty(1, 1, width))


def vision(config: X2SAMConfig, frames: int, height: int, columns: int) -> float:
    """Operations of the vision tower on ``frames`` x ``height`` x ``columns`` patches; a frame attends to itself."""
    vision, merge = config.vision, config.preprocess.merge
    width, patches = vision["hidden_size"], frames * height * columns
    patch = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 2 * patches * (4 * width**2 + 2 * width * vision["intermediate_size"])
    block += 4 * patches * height * columns * width
    joined = width * merge**2
    merger = 2 * (patches // merge**2) * (joined**2 + joined * vision["out_hidden_size"])
    mergers = 1 + len(vision["deepstack_visual_indexes"])
    return float(2 * patches * patch * width + vision["depth"] * block + mergers * merger)


def sampling(config: X2SAMConfig) -> float:
    """Operations of the pixel decoder's sampling: a weighted sum of four cells for each place that is read."""
    decoder, side = config.pixel_decoder, config.mask_encoder.image_size
    tokens = sum((side // stride) ** 2 for stride in (4, 8, 16))
    return float(8 * tokens * decoder.width * len(decoder.in_channels) * decoder.points * decoder.layers)


@dataclass(frozen=True)
class Sum:
    """What a request is made of: how often each stage, by name."""

    name: str
    parts: dict[str, int]

    def of(self, found: Sequence[Stage]) -> Stage:
        known = {stage.name: stage for stage in found}
        pick = lambda what: sum(n * getattr(known[name], what) for name, n in self.parts.items())  # noqa: E731
        return Stage(self.name, pick("operations"), pick("bytes"))

    def seconds(self, found: Sequence[Stage]) -> float:
        known = {stage.name: stage for stage in found}
        return sum(n * known[name].seconds() for name, n in self.parts.items())


_PICTURE = dict.fromkeys(
    ("mask encoder", "pixel decoder", "region map", "vision tower", "words, picture", "keys and values"), 1
)
_CLICK = {"words, question": 1, "mask decoder": 1}
_FRAME = {"mask encoder": 1, "pixel decoder": 1, "keys and values": 1, "mask decoder": 1, "memory, write": 1}
REQUESTS = (
    Sum("first click", _PICTURE | _CLICK),
    Sum("next click", _CLICK),
    Sum("any click, straightforward", _PICTURE | _CLICK | {"words, one more": ANSWER}),
    Sum("frame of a track", _FRAME | {"memory, read": 1}),
    Sum("frame of a track, fast", _FRAME | {"memory, read, fast": 1}),
)


def table(sizes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each stage and each request: ``size``, ``what``, ``gflop``, ``mb``, and ``h200_ms`` for ``4b``."""
    rows = []
    for size in sizes:
        found = stages(size)
        every = [(one, one.seconds()) for one in found] + [(r.of(found), r.seconds(found)) for r in REQUESTS]
        for one, seconds in every:
            row = {"size": size, "what": one.name, "gflop": digits(one.operations / 1e9), "mb": digits(one.bytes / 1e6)}
            rows.append(row | {"h200_ms": digits(seconds * 1e3) if size == "4b" else None})
    return rows


def digits(value: float) -> float:
    """Three digits that count."""
    return 0.0 if not value else round(value, 2 - math.floor(math.log10(abs(value))))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows side by side: for each stage or request GFLOP and MB of every size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    head = [f"{size} GFLOP | {size} MB" for size in sizes] + (["H200 ms"] if "4b" in sizes else [])
    lines = [f"| | {' | '.join(head)} |", "|---|" + "---|" * (2 * len(sizes) + ("4b" in sizes))]
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = []
        for row in (row for row in rows if row["what"] == what):
            cells += [f"{row['gflop']:,g}", f"{row['mb']:,g}"] + ([f"{row['h200_ms']:g}"] if row["h200_ms"] else [])
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)
