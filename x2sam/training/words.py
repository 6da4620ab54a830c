"""The language side of a batch: conversations about pictures or clips, put together and read by the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from x2sam.inference.conversation import ExpandedTokens
from x2sam.inference.preprocess import VisualInput
from x2sam.model.vision_language import VisualRows
from x2sam.model.x2sam import X2SAM
from x2sam.training.matching import IGNORE_LABEL


@dataclass(eq=False)
class Words:
    """B conversations about F pictures or clips, padded on the right to the longest, L positions.

    patches, grids: of all F, for the vision tower; grids int64 (F, 3)
    token_ids, cond_ids, seg_ids, labels: int64 (B, L) as in :class:`ExpandedTokens`, padded with -1, -1, -1, -100
    visual_mask, region_mask: bool (B, L), where visual and region rows go
    regions: per conversation bool (n, S, S), the regions drawn for it, at the mask encoder's size
    owner:   which of the F each conversation is about
    """

    patches: Tensor
    grids: Tensor
    token_ids: Tensor
    cond_ids: Tensor
    seg_ids: Tensor
    labels: Tensor
    visual_mask: Tensor
    region_mask: Tensor
    regions: list[Tensor]
    owner: list[int]

    def to(self, device: torch.device | str) -> Words:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return Words(**values | moved)

    @property
    def phrases(self) -> list[int]:
        """Number of phrases or regions of each conversation."""
        return (self.cond_ids.amax(1) + 1).tolist()


def collate_words(
    tokens: Sequence[ExpandedTokens],
    regions: Sequence[np.ndarray],
    owner: Sequence[int],
    patches: Sequence[Tensor],
    grids: Sequence[tuple[int, int, int]],
) -> Words:
    """``tokens``, ``regions`` and ``owner`` of B conversations; ``patches`` and ``grids`` of F pictures or clips."""

    def pad(name: str, fill: int) -> Tensor:
        arrays = [torch.from_numpy(np.asarray(getattr(one, name))) for one in tokens]
        return torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True, padding_value=fill)

    return Words(
        patches=torch.cat(list(patches)),
        grids=torch.tensor(list(grids)),
        token_ids=pad("token_ids", -1),
        cond_ids=pad("cond_ids", -1),
        seg_ids=pad("seg_ids", -1),
        labels=pad("labels", IGNORE_LABEL),
        visual_mask=pad("visual_mask", 0).bool(),
        region_mask=pad("region_mask", 0).bool(),
        regions=[torch.from_numpy(np.ascontiguousarray(one)) for one in regions],
        owner=list(owner),
    )


def split_views(views: Sequence[VisualInput]) -> tuple[list[Tensor], list[tuple[int, int, int]]]:
    """Patches and grids, as :func:`collate_words` takes them."""
    return [view.patches for view in views], [view.grid for view in views]


def read_words(model: X2SAM, words: Words, stage3: Tensor | None) -> Tensor:
    """States (B, L, D) of the language model, before its final norm.

    stage3: (F, h, w, width), the mask encoder's map of the frames that regions are drawn on; None where there are none
    """
    language = model.vision_language
    counts = (words.grids.prod(1) // language.visual.spatial_merge_unit).tolist()
    seen = language.see(words.patches, words.grids)
    gather = lambda rows: torch.cat([rows.split(counts)[i] for i in words.owner])  # noqa: E731
    rows = VisualRows(gather(seen.rows), [gather(d) for d in seen.deepstack])
    embeds = language.embed(words.token_ids)
    embeds = embeds.masked_scatter(words.visual_mask[..., None], rows.rows.to(embeds.dtype))
    regions = [
        model.region_tokens(stage3[i : i + 1], drawn)
        for i, drawn in zip(words.owner, words.regions, strict=True)
        if len(drawn)
    ]
    if regions:
        tokens = torch.cat([one.flatten(0, 1) for one in regions]).to(embeds.dtype)
        embeds = embeds.masked_scatter(words.region_mask[..., None], tokens)
    return language.read(embeds, words.visual_mask, rows.deepstack)
