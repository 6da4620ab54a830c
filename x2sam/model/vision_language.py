"""Qwen3-VL from transformers: pictures to visual rows, a chat to states, states to words.

Two habits of the published model differ from the library's defaults and are kept here: the states handed to the
segmentor are those *before* the final norm, and all three rotary axes count plain positions, visual rows included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.config import X2SAMConfig
from x2sam.model.lean_import import lean_import

with lean_import():
    from transformers import DynamicCache
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel


@dataclass(eq=False)
class VisualRows:
    """What the language model sees of a picture or clip: ``rows`` (N, D) and one (N, D) per DeepStack layer."""

    rows: Tensor
    deepstack: list[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.rows, *self.deepstack))


class VisionLanguage(nn.Module):
    """``visual`` tower, ``language`` layers without their final norm, and ``final_norm`` for the words."""

    def __init__(self, config: X2SAMConfig):
        super().__init__()
        self.visual = Qwen3VLVisionModel(Qwen3VLVisionConfig(**config.vision))
        self.language = Qwen3VLTextModel(Qwen3VLTextConfig(**config.text))
        # taken out of the language model, so that its output is the un-normalised state that the segmentor reads
        self.final_norm = self.language.norm
        self.language.norm = nn.Identity()

    def see(self, patches: Tensor, grid: Tensor, scene: Callable[[], Tensor] | None = None) -> VisualRows:
        """``patches`` (gt*gh*gw, channels*time*patch*patch) and ``grid`` (1, 3) as frames, rows, columns.

        ``scene`` gives the mask encoder's map of the picture, which this model does not look at.
        """
        out = self.visual(patches.to(self.visual.patch_embed.proj.weight.dtype), grid_thw=grid)
        return VisualRows(out.pooler_output, list(out.deepstack_features))

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) to embeddings (B, L, D); negative ids (rows written later) give zeros."""
        return self.language.embed_tokens(ids.clamp(min=0)) * (ids >= 0)[..., None]

    def read(
        self,
        embeds: Tensor,
        visual_mask: Tensor | None = None,
        deepstack: list[Tensor] | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """States (B, L, D) before the final norm.

        ``visual_mask`` bool (B, L) marks where the rows of ``deepstack``, concatenated over the batch, are added. With
        ``cache`` the sequence goes on where the cache ends, and is appended to it. Padding must lie on the right.
        """
        start = cache.get_seq_length() if cache is not None else 0
        batch, length = embeds.shape[:2]
        position = torch.arange(start, start + length, device=embeds.device).expand(3, batch, length)
        return self.language(
            inputs_embeds=embeds,
            position_ids=position,
            visual_pos_masks=visual_mask,
            deepstack_visual_embeds=deepstack,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def word_logits(self, states: Tensor) -> Tensor:
        """Next-token logits (..., vocabulary); the output matrix is the input embedding."""
        return F.linear(self.final_norm(states), self.language.embed_tokens.weight)

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.language.config)
