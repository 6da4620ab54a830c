"""X-SAM: the network without a memory, for pictures one by one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from x2sam.config import MemoryConfig
from x2sam.errors import PromptError
from x2sam.model.dual_vision_language import DualVisionLanguage
from x2sam.model.mask_decoder import Condition, LevelPrediction, PreparedMaps
from x2sam.model.mask_memory import MemoryEntry
from x2sam.model.sam_encoder import SamEncoder
from x2sam.model.x2sam import X2SAM, EncodedFrame, FrameFeatures


class XSAM(X2SAM):
    """Other parts look at the picture and read the words; the rest is :class:`X2SAM`'s. Maps lie at strides 32, 16, 8
    and masks at stride 8."""

    language_part, encoder_part = DualVisionLanguage, SamEncoder

    def build_memory(self, config: MemoryConfig) -> None:
        """There is none."""

    def decode_pixels(self, encoded: EncodedFrame, first: bool = True) -> FrameFeatures:
        """Nothing is ever remembered, so every picture is a first one."""
        return FrameFeatures(*self.pixel_decoder(encoded.fpn))

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
        """Decode one picture, conditioned on the words. Raises PromptError where something was remembered."""
        if memory:
            raise PromptError(f"the model {self.config.name} has no memory of other frames")
        known = () if prepared is None else prepared.layers
        return self.mask_decoder(features.maps, features.mask_features, condition, every_level, known)

    def remember(self, features: FrameFeatures, guidance: Tensor | LevelPrediction, time: int) -> MemoryEntry:
        raise PromptError(f"the model {self.config.name} has no memory; it answers about pictures, one by one")
