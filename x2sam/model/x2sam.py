"""X2SAM: joins the parts. One frame step serves pictures, tracking and training.

    encoded   = model.encode(pixels)                     once per frame
    features  = model.decode_pixels(encoded, first)      once per frame
    condition = model.condition(states, ...)             once per prompt
    out       = model.step(features, condition, memory)  per frame and prompt
    memory.push(model.remember(features, guidance, time))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import MemoryConfig, X2SAMConfig
from x2sam.model.layers import Projector
from x2sam.model.mask_decoder import Condition, LevelPrediction, MaskDecoder, PreparedMaps, Seen
from x2sam.model.mask_encoder import MaskEncoder
from x2sam.model.mask_memory import MemoryEntry
from x2sam.model.memory_attention import MemoryAttention
from x2sam.model.memory_encoder import MemoryEncoder, blend_masks
from x2sam.model.pixel_decoder import PixelDecoder
from x2sam.model.region_sampler import sample_regions
from x2sam.model.vision_language import VisionLanguage


@dataclass(eq=False)
class EncodedFrame:
    """Mask encoder output: ``fpn`` maps (F, C, H, W) at strides 4, 8, 16 and ``stage3`` (F, H, W, width)."""

    fpn: list[Tensor]
    stage3: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.fpn, self.stage3))


@dataclass(eq=False)
class FrameFeatures:
    """What a frame step reads: ``maps`` at strides 16, 8, 4 and ``mask_features`` at stride 4, all (F, C, H, W)."""

    maps: list[Tensor]
    mask_features: Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.maps, self.mask_features))

    def __getitem__(self, rows: slice) -> FrameFeatures:
        return FrameFeatures([m[rows] for m in self.maps], self.mask_features[rows])


def heat_of(places: Tensor, embeddings: Tensor) -> Tensor:
    """Log-odds (B, h, w) that a place shows what words mean: their scaled dot product.

    places: the map at stride 8 (F, C, h, w); embeddings: (B, C), B a multiple of F, in the order of the pictures.
    Only models that were trained for it (:mod:`x2sam.training.grounding`) give more than noise.
    """
    rows = embeddings.unflatten(0, (places.shape[0], -1))
    return torch.einsum("fpc,fchw->fphw", rows, places).flatten(0, 1) / places.shape[1] ** 0.5


def _copies(maps: Tensor, rows: int) -> Tensor:
    """Maps (F, C, h, w) of F pictures as ``rows`` prompts see them, each picture's side by side; nothing is copied
    where all prompts are about one picture."""
    pictures = maps.shape[0]
    if pictures in (1, rows):
        return maps.expand(rows, -1, -1, -1)
    return maps.repeat_interleave(rows // pictures, 0)


class X2SAM(nn.Module):
    language_part, encoder_part = VisionLanguage, MaskEncoder

    def __init__(self, config: X2SAMConfig):
        super().__init__()
        self.config = config
        language_width = config.text["hidden_size"]
        self.vision_language = self.language_part(config)
        self.mask_encoder = self.encoder_part(config.mask_encoder, language_width)
        self.pixel_decoder = PixelDecoder(config.pixel_decoder)
        self.mask_decoder = MaskDecoder(config.mask_decoder)
        self.build_memory(config.memory)
        self.text_projector = Projector(language_width, config.width)
        self.background = nn.Embedding(1, config.width)

    def build_memory(self, config: MemoryConfig) -> None:
        """The parts that carry what was seen from frame to frame."""
        width = config.width
        self.memory_encoder = MemoryEncoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_bridge = nn.Conv2d(width, width, 1) if config.dense else None
        self.sketch_bridge = nn.Conv2d(1, width, 1) if config.sketch else None
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, width))

    @property
    def device(self) -> torch.device:
        return self.background.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.background.weight.dtype

    @classmethod
    def from_pretrained(cls, directory: str | Path, dtype: torch.dtype | None = None) -> X2SAM:
        """The model in ``directory`` (see :mod:`x2sam.model.weights`), frozen, in eval mode, float32 by default."""
        from x2sam.model.weights import from_pretrained  # it builds this class

        return from_pretrained(Path(directory), dtype)

    def save_pretrained(self, directory: str | Path, tokenizer=None, dtype: torch.dtype | None = None) -> None:
        """Writes weights, configuration with the processors' settings and, when given, the tokenizer."""
        from x2sam.model.weights import save_pretrained

        save_pretrained(self, Path(directory), dtype)
        if tokenizer is not None:
            tokenizer.save_pretrained(Path(directory) / "tokenizer")

    # once per frame

    def encode(self, pixels: Tensor) -> EncodedFrame:
        """``pixels`` (F, 3, S, S) as :mod:`x2sam.inference.preprocess` makes them."""
        return EncodedFrame(*self.mask_encoder(pixels))

    def decode_pixels(self, encoded: EncodedFrame, first: bool) -> FrameFeatures:
        """``first`` is True for pictures and for the frame a clip starts with: nothing is remembered yet."""
        fpn = encoded.fpn
        if first:
            fpn = [level + self.no_memory_embedding.transpose(1, 2)[..., None] for level in fpn]
        return FrameFeatures(*self.pixel_decoder(fpn))

    # once per prompt

    def region_tokens(self, stage3: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens (N, n, D) of N region masks at network size, read from one picture's ``stage3`` (1, H, W, width)."""
        return self.tokens_on(self.mask_encoder.region_map(stage3), masks, generator)

    def tokens_on(self, region_map: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same from the picture's map (1, H/2, W/2, D), which is the same for every prompt."""
        return sample_regions(region_map[0], masks, self.config.region, generator)

    def condition(self, states: Tensor, cond_ids: Tensor, seg_ids: Tensor, share: bool = False) -> Condition:
        """Language states (B, L, D) with phrase and ``<SEG>`` numbers (B, L), -1 elsewhere, to a condition.

        A class is the mean over its phrase with both markers. ``share`` gives every prompt all phrases of the batch
        (referring and reasoning tasks). Each row needs exactly one ``<SEG>``.
        """
        projected = self.text_projector(states)
        rows = [self._phrases(m, ids) for m, ids in zip(projected, cond_ids, strict=True)]
        if share:
            every = tuple(torch.cat(part) for part in zip(*rows, strict=True))
            rows = [every] * len(rows)
        pad = nn.utils.rnn.pad_sequence
        classes = pad([r[0] for r in rows], batch_first=True)
        tokens = pad([r[1] for r in rows], batch_first=True)
        counts = torch.tensor([[len(r[0]), len(r[1])] for r in rows], device=states.device)
        class_mask = torch.arange(classes.shape[1], device=states.device) < counts[:, :1]
        background = self.background.weight[None].expand(len(rows), -1, -1)
        return Condition(
            classes=torch.cat((classes, background), 1),
            class_mask=torch.cat((class_mask, class_mask.new_ones(len(rows), 1)), 1),
            tokens=tokens,
            token_mask=torch.arange(tokens.shape[1], device=states.device) < counts[:, 1:],
            seg=projected[seg_ids == 0][:, None],
        )

    @staticmethod
    def _phrases(projected: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Means (K, C) and the states themselves (N, C), both in the order of the phrases."""
        groups = [projected[ids == i] for i in range(int(ids.max()) + 1)]
        return torch.stack([g.mean(0) for g in groups]), torch.cat(groups)

    # once per frame and prompt

    def step(
        self,
        features: FrameFeatures,
        condition: Condition,
        memory: Sequence[MemoryEntry] = (),
        time: int = 0,
        every_level: bool = False,
        prepared: PreparedMaps | None = None,
        coarse: bool = False,
    ) -> list[LevelPrediction]:
        """Decode one frame, conditioned on the words and on what ``memory`` holds.

        ``features`` of F pictures, ``condition`` of B = F * P prompts, prompt i on picture i // P; entries have B rows,
        or F rows: then all prompts read the same memory. ``prepared``: of ``features.maps``, where many prompts come
        one after another; maps that read memory are another matter and go without. ``coarse``: memory is read on its
        own grid (see :class:`x2sam.model.memory_attention.MemoryAttention`).
        """
        maps = self.memory_attention(features.maps, list(memory), time, coarse)
        known: list[Seen | None] = []
        if prepared is not None:
            levels = len(maps)
            same = [one is plain for one, plain in zip(maps, features.maps, strict=True)]
            known = [seen if same[i % levels] else None for i, seen in enumerate(prepared.layers)]
        return self.mask_decoder(maps, self._mask_features(features, maps, memory), condition, every_level, known)

    def prepare(self, features: FrameFeatures) -> PreparedMaps:
        """What every prompt on these features would compute anew: the mask decoder's keys and values."""
        return self.mask_decoder.prepare(features.maps)

    def _mask_features(self, features: FrameFeatures, maps: list[Tensor], memory: Sequence[MemoryEntry]) -> Tensor:
        """Mask features (B or F, C, h, w): the picture's, plus what was read and drawn where the memory is dense."""
        out = features.mask_features
        if self.memory_bridge is not None and memory:
            read = F.interpolate(self.memory_bridge(maps[0]), size=out.shape[-2:], mode="bilinear", align_corners=False)
            out = _copies(out, read.shape[0]) + read
        for entry in memory:
            if self.sketch_bridge is not None and entry.sketch is not None:
                out = _copies(out, entry.sketch.shape[0]) + self.sketch_bridge(2 * entry.sketch - 1)
        return out

    def remember(self, features: FrameFeatures, guidance: Tensor | LevelPrediction, time: int) -> MemoryEntry:
        """The memory entry of a frame from its features *before* they read memory.

        ``guidance`` (B, 1, h, w) in 0..1 at stride 4, or a prediction, whose queries are then blended.
        """
        if isinstance(guidance, LevelPrediction):
            guidance = blend_masks(guidance)
        tokens, grid = self.memory_encoder(features.maps, guidance)
        return MemoryEntry(time, tuple(tokens), grid)

    def sketch(self, features: FrameFeatures, guidance: Tensor, time: int = 0) -> MemoryEntry:
        """What a person drew on this frame, as an entry for this same frame; ``guidance`` as in :meth:`remember`."""
        entry = self.remember(features, guidance, time)
        return MemoryEntry(entry.time, entry.levels, entry.grid, guidance)
