"""Phi-3 with two picture encoders, from transformers: what X-SAM has in the place of Qwen3-VL.

A picture is seen twice: as the tokens of SigLIP, and behind them as those of the mask encoder. Unlike X2SAM's, the
states handed to the segmentor are those *after* the final norm, and attention reaches back over a window only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from x2sam.config import X2SAMConfig
from x2sam.model.layers import Projector
from x2sam.model.lean_import import lean_import
from x2sam.model.vision_language import VisualRows

with lean_import():
    from transformers import DynamicCache, Phi3Config, Phi3Model, SiglipVisionConfig, SiglipVisionModel


def build_tower(vision: dict) -> SiglipVisionModel:
    """SigLIP without its last block, final norm and pooling: the state that enters the last block is what is read."""
    config = SiglipVisionConfig(**{**vision, "num_hidden_layers": vision["num_hidden_layers"] - 1})
    config.vision_use_head = False
    tower = SiglipVisionModel(config)
    tower.post_layernorm = nn.Identity()
    return tower


class DualVisionLanguage(nn.Module):
    """``visual`` tower, ``language`` layers with their final norm, and ``head`` for the words; takes the place of
    :class:`x2sam.model.vision_language.VisionLanguage`."""

    def __init__(self, config: X2SAMConfig):
        super().__init__()
        self.visual = build_tower(config.vision)
        self.language = Phi3Model(Phi3Config(**config.text))
        width = config.text["hidden_size"]
        self.visual_projector = Projector(config.vision["hidden_size"], width)
        self.head = nn.Linear(width, config.text["vocab_size"], bias=False)

    def see(self, pixels: Tensor, grid: Tensor, scene: Callable[[], Tensor]) -> VisualRows:
        """``pixels`` (1, 3, side, side); ``scene`` gives the mask encoder's map (1, h, w, D) of the same picture.

        ``grid`` is there because other towers need it. Rows of the tower come first, then those of the map.
        """
        state = self.visual(pixels.to(self.visual.embeddings.patch_embedding.weight.dtype)).last_hidden_state
        return VisualRows(torch.cat((self.visual_projector(state)[0], scene()[0].flatten(0, 1))), [])

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
        """States (B, L, D) after the final norm; arguments as for Qwen3-VL, nothing is added to deeper layers here."""
        start = cache.get_seq_length() if cache is not None else 0
        position = torch.arange(start, start + embeds.shape[1], device=embeds.device)[None]
        return self.language(
            inputs_embeds=embeds, position_ids=position, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state

    def word_logits(self, states: Tensor) -> Tensor:
        """Next-token logits (..., vocabulary)."""
        return self.head(states)

    def new_cache(self) -> DynamicCache:
        """Keeps every position, also those that the window hides from later ones: a prefix can be gone on from and
        left as it was found, whatever was read behind it."""
        return DynamicCache()
