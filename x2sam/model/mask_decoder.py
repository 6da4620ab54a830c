"""Queries that read the picture and the words, and turn into masks and scores (Mask2Former with text attention).

Order inside a layer, all post-norm: masked attention to the picture, attention to the words, attention among
queries, feed-forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import MaskDecoderConfig
from x2sam.model.layers import Attention, PackedAttention, sine_position


@dataclass(eq=False)
class Condition:
    """What the language model says to look for; batch ``B`` counts prompts.

    classes:     (B, K + 1, C), the last one is the background
    class_mask:  bool (B, K + 1), False for padding
    tokens:      (B, N, C), the states of the phrases, un-averaged
    token_mask:  bool (B, N), False for padding
    seg:         (B, 1, C), the state of the ``<SEG>`` token
    """

    classes: Tensor
    class_mask: Tensor
    tokens: Tensor
    token_mask: Tensor
    seg: Tensor

    def to(self, *args, **kwargs) -> Condition:
        move = lambda x: x.to(*args, **kwargs) if x.is_floating_point() else x.to(x.device)  # noqa: E731
        return Condition(*(move(x) for x in self.parts))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Sizes without the batch: conditions with the same can be stacked."""
        return tuple(tuple(x.shape[1:]) for x in self.parts)

    @classmethod
    def stacked(cls, conditions: Sequence[Condition]) -> Condition:
        """Conditions as one batch; where one has fewer classes or tokens than another, it is filled up with padding."""
        if len(conditions) == 1:
            return conditions[0]
        classes, tokens = (max(sizes) for sizes in zip(*(c._counts for c in conditions), strict=True))
        filled = [c.filled(classes, tokens).parts for c in conditions]
        return cls(*(torch.cat(parts) for parts in zip(*filled, strict=True)))

    @property
    def _counts(self) -> tuple[int, int]:
        return self.classes.shape[1], self.tokens.shape[1]

    def filled(self, classes: int, tokens: int) -> Condition:
        """With so many classes, the background among them and still the last, and so many tokens."""
        if self._counts == (classes, tokens):
            return self
        more = classes - self._counts[0]
        split = lambda x, *ends: torch.cat((F.pad(x[:, :-1], (*ends, 0, more)), x[:, -1:]), 1)  # noqa: E731
        fill = (0, tokens - self._counts[1])
        return Condition(
            split(self.classes, 0, 0), split(self.class_mask), F.pad(self.tokens, (0, 0, *fill)),
            F.pad(self.token_mask, fill), self.seg,
        )  # fmt: skip

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.classes, self.class_mask, self.tokens, self.token_mask, self.seg


@dataclass(eq=False)
class LevelPrediction:
    """``mask_logits`` (B, Q, h, w) at stride 4, ``class_logits`` (B, Q, K + 1), ``queries`` (B, Q, C), normed."""

    mask_logits: Tensor
    class_logits: Tensor
    queries: Tensor

    def __getitem__(self, rows: slice) -> LevelPrediction:
        return LevelPrediction(self.mask_logits[rows], self.class_logits[rows], self.queries[rows])

    def answers(self, conditions: Sequence[Condition]) -> list[LevelPrediction]:
        """The prediction for each of the conditions that were stacked, without the classes that are only padding."""
        answers = [self[n : n + 1] for n in range(len(conditions))]
        for answer, condition in zip(answers, conditions, strict=True):
            classes, logits = condition.classes.shape[1], answer.class_logits
            if classes < logits.shape[-1]:
                answer.class_logits = torch.cat((logits[..., : classes - 1], logits[..., -1:]), -1)
        return answers


class NoWords(nn.Module):
    """Stands where a model has no attention to words: it adds nothing."""

    def forward(self, query: Tensor, *_: Tensor) -> Tensor:
        return torch.zeros_like(query)


Seen = tuple[Tensor, Tensor]
"""A map's projected keys and values (F, HW, C), as one layer's queries attend to it."""


@dataclass(eq=False)
class PreparedMaps:
    """What the decoder makes of a picture before any prompt is known; good for maps that have read no memory.

    layers: for each layer the keys and values of the map that it attends to
    """

    layers: list[Seen]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for seen in self.layers for t in seen)


class DecoderLayer(nn.Module):
    def __init__(self, config: MaskDecoderConfig):
        super().__init__()
        width = config.width
        self.cross_attn = PackedAttention(width, config.heads)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.text_cross_attn = PackedAttention(width, config.heads) if config.text_attention else NoWords()
        self.text_cross_attn_layer_norm = nn.LayerNorm(width) if config.text_attention else nn.Identity()
        self.self_attn = Attention(width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, content: Tensor, position: Tensor, seen: Seen, allowed: Tensor, text: Condition) -> Tensor:
        """``content`` (B, Q, C); ``seen`` (F, HW, C) of F pictures; ``allowed`` bool (B, Q, HW).

        B is a multiple of F: prompts on the same picture share its keys and values, their queries lie side by side.
        """
        pictures = seen[0].shape[0]
        fold = lambda x: x.unflatten(0, (pictures, -1)).flatten(1, 2)  # noqa: E731
        read = self.cross_attn.read(fold(content + position), *seen, fold(allowed)[:, None])
        content = self.cross_attn_layer_norm(content + read.view_as(content))
        mask = text.token_mask[:, None, None, :]
        read = self.text_cross_attn(content + position, text.tokens, text.tokens, mask)
        content = self.text_cross_attn_layer_norm(content + read)
        query = content + position
        content = self.self_attn_layer_norm(content + self.self_attn(query, query, content))
        return self.final_layer_norm(content + self.fc2(F.relu(self.fc1(content))))


class MaskEmbedder(nn.Module):
    """Three linears with ReLU between them: query state to mask kernel."""

    def __init__(self, width: int):
        super().__init__()
        self.mask_embedder = nn.Sequential(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mask_embedder(x)


class ClassHead(nn.Module):
    """Scaled cosine between queries and class embeddings, within ``clamp`` of 0; padded classes get ``padding``."""

    def __init__(self, clamp: float, padding: float):
        super().__init__()
        self.clamp, self.padding = clamp, padding
        self.logit_scale = nn.Parameter(torch.full((1,), 1 / 0.07).log())

    def forward(self, queries: Tensor, condition: Condition) -> Tensor:
        cosine = F.normalize(queries, dim=-1) @ F.normalize(condition.classes, dim=-1).transpose(1, 2)
        logits = (self.logit_scale.exp() * cosine).clamp(-self.clamp, self.clamp)
        return logits.masked_fill(~condition.class_mask[:, None, :], self.padding)


class MaskDecoder(nn.Module):
    def __init__(self, config: MaskDecoderConfig):
        super().__init__()
        self.config = config
        self.queries_embedder = nn.Embedding(config.queries, config.width)
        self.queries_features = nn.Embedding(config.queries, config.width)
        self.level_embed = nn.Embedding(3, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layernorm = nn.LayerNorm(config.width)
        self.mask_predictor = MaskEmbedder(config.width)
        self.class_head = ClassHead(config.clamp, config.padding)

    def forward(
        self, maps: list[Tensor], mask_features: Tensor, condition: Condition, every_level: bool = False,
        prepared: Sequence[Seen | None] = (),
    ) -> list[LevelPrediction]:  # fmt: skip
        """``maps`` at strides 16, 8, 4 and ``mask_features``, all (F, C, H, W); ``condition`` of B = F * P prompts.

        Prompt ``i`` belongs to picture ``i // P``. Returns the last prediction only, or with ``every_level`` (for the
        auxiliary losses) the initial one and the one after each layer. ``prepared`` has what :meth:`prepare` made of
        the same maps, layer by layer, None where it has to be made now.
        """
        tokens: dict[int, Seen] = {}  # of maps that something has to be made of
        coarse = {} if every_level else {tuple(m.shape[-2:]): _coarser(mask_features, m.shape[-2:]) for m in maps}
        batch = condition.seg.shape[0]
        content = self.queries_features.weight + condition.seg
        position = self.queries_embedder.weight.expand(batch, -1, -1)
        state, logits = self._masks(content, coarse.get(tuple(maps[0].shape[-2:]), mask_features))
        levels = [self._predict(state, logits, condition)] if every_level else []
        for index, layer in enumerate(self.layers):
            level, last = index % len(maps), index == len(self.layers) - 1
            seen = prepared[index] if prepared else None
            if seen is None:
                tokens.setdefault(level, self._tokens(maps[level], level))
                seen = layer.cross_attn.keys_and_values(*tokens[level])
            allowed = self._allowed(logits, tuple(maps[level].shape[-2:]))
            content = layer(content, position, seen, allowed, condition)
            following = tuple(maps[(index + 1) % len(maps)].shape[-2:])
            state, logits = self._masks(content, mask_features if last else coarse.get(following, mask_features))
            if every_level or last:
                levels.append(self._predict(state, logits, condition))
        return levels

    def prepare(self, maps: list[Tensor]) -> PreparedMaps:
        """Keys and values of maps (F, C, H, W) that depend on no prompt."""
        tokens = [self._tokens(one, level) for level, one in enumerate(maps)]
        rows = [tokens[index % len(maps)] for index in range(len(self.layers))]
        return PreparedMaps(
            [layer.cross_attn.keys_and_values(*row) for layer, row in zip(self.layers, rows, strict=True)]
        )

    def _tokens(self, one: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """What keys and values are made of, both (F, HW, C): the map with and without where each cell is."""
        values = one.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        sine = sine_position(*one.shape[-2:], self.config.width, one.device, one.dtype).flatten(1).T
        return values + sine, values

    def _masks(self, content: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Normed states (B, Q, C) and mask logits (B, Q, h, w) at the size of ``mask_features``."""
        state = self.layernorm(content)
        kernels = self.mask_predictor(state)
        pictures = mask_features.shape[0]
        folded = kernels.unflatten(0, (pictures, -1)).flatten(1, 2)
        logits = torch.bmm(folded, mask_features.flatten(2))
        return state, logits.view(*kernels.shape[:2], *mask_features.shape[-2:])

    def _predict(self, state: Tensor, logits: Tensor, condition: Condition) -> LevelPrediction:
        return LevelPrediction(logits, self.class_head(state, condition), state)

    @staticmethod
    @torch.no_grad()
    def _allowed(logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Where each query may look in the next layer: inside its own mask so far; everywhere when that is empty."""
        inside = _coarser(logits, size).flatten(2) >= 0  # a probability of one half and more
        return inside | ~inside.any(-1, keepdim=True)


def _coarser(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) at another size (H, W). A mask is a sum of feature maps, and so is resizing: logits made of
    coarser features are the coarser logits, for a fraction of the work."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
