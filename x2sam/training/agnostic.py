"""Stage 1: the segmentor by itself, which finds objects of any kind (X2SAM, agnostic segmentor training).

The same pixel decoder and mask decoder as in the whole model, by the same names, so that stage 3 finds them; no
language model, so queries have no ``<SEG>`` and no words to read, and a linear layer tells objects from background.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam.config import X2SAMConfig
from x2sam.model.mask_decoder import Condition, LevelPrediction, MaskDecoder
from x2sam.model.mask_encoder import MaskEncoder
from x2sam.model.pixel_decoder import PixelDecoder
from x2sam.training.checkpoint import write_tensors
from x2sam.training.losses import LossConfig, segmentation_losses
from x2sam.training.task_batches import TaskBatch


class Silence(nn.Module):
    """Stands where text attention is: nothing is said, so nothing is added."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.zeros_like(query)


class ObjectHead(nn.Module):
    """Two logits: an object, and background last."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, queries: Tensor, condition: Condition) -> Tensor:
        return self.linear(queries)


class AgnosticSegmentor(nn.Module):
    def __init__(self, config: X2SAMConfig):
        super().__init__()
        self.config = config
        self.mask_encoder = MaskEncoder(config.mask_encoder, 1)
        del self.mask_encoder.region_projector  # regions are read by the language model
        self.pixel_decoder = PixelDecoder(config.pixel_decoder)
        self.mask_decoder = MaskDecoder(config.mask_decoder)
        self.mask_decoder.class_head = ObjectHead(config.width)
        for layer in self.mask_decoder.layers:
            layer.text_cross_attn = Silence()
            layer.text_cross_attn_layer_norm = nn.Identity()

    def forward(self, pixels: Tensor, every_level: bool = False) -> list[LevelPrediction]:
        """``pixels`` (B, 3, S, S) to predictions, as :meth:`MaskDecoder.forward` gives them."""
        with torch.no_grad():
            fpn, _ = self.mask_encoder(pixels)
        maps, mask_features = self.pixel_decoder(fpn)
        return self.mask_decoder(maps, mask_features, self._nothing_said(len(pixels), pixels), every_level)

    def _nothing_said(self, rows: int, like: Tensor) -> Condition:
        none = like.new_zeros(rows, 1, self.config.width)
        mask = torch.ones(rows, 1, dtype=torch.bool, device=like.device)
        return Condition(classes=none, class_mask=mask, tokens=none, token_mask=mask, seg=none)


class AgnosticObjective(nn.Module):
    """The losses of a batch: every frame is a picture of its own."""

    logged = ("loss_mask", "loss_dice", "loss_cls")

    def __init__(self, model: AgnosticSegmentor, points: int):
        super().__init__()
        self.model = model
        self.config = LossConfig.with_points(points)

    def forward(self, batch: TaskBatch, number: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        frames = batch.pixels.transpose(0, 1)
        levels = self.model(frames.flatten(0, 1), every_level=True)
        names = batch.names * len(frames)
        return segmentation_losses(levels, batch.targets([0] * len(batch.names)), self.config, names=names), {}

    def look(self, batch: TaskBatch) -> tuple[Tensor, LevelPrediction, Tensor]:
        """The first picture (3, S, S), what is found in it, and the truth (N, S, S)."""
        return batch.pixels[0, 0], self.model(batch.pixels[:1, 0])[-1], batch.masks[0][0]


def save_segmentor(model: AgnosticSegmentor, directory: Path) -> None:
    """``config.json`` and the weights that were trained, for ``model.segmentor`` of stage 3."""
    trained = {name: value.detach().cpu() for name, value in model.named_parameters() if value.requires_grad}
    write_tensors(directory / "model.safetensors", trained)
    (directory / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1) + "\n")
