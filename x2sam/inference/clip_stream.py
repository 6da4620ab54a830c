"""A clip as the paper walks it: one condition, every frame in order of time, one first-in-first-out memory for all
queries (X2SAM, inference on videos). What is served, evaluated and held against the reference goes this way."""

from __future__ import annotations

from collections.abc import Mapping

from x2sam.inference.postprocess import Prediction, Rule, Segments, State, new_state, postprocess
from x2sam.inference.preprocess import FrameSizes
from x2sam.model.mask_decoder import Condition
from x2sam.model.mask_memory import MaskMemory
from x2sam.model.x2sam import X2SAM, FrameFeatures


class ClipStream:
    """Each frame's answer may be read by several ``rules``, every one with a state of its own."""

    def __init__(self, model: X2SAM, condition: Condition, rules: Mapping[str, Rule]):
        self.model, self.condition, self.rules = model, condition, dict(rules)
        # a model without memory is asked about single pictures, after which nothing is remembered
        self.memory = MaskMemory(max(1, model.config.memory.slots))
        self.time = 0
        self._states: dict[str, State | None] = {name: new_state(rule) for name, rule in self.rules.items()}

    def advance(self, features: FrameFeatures, sizes: FrameSizes, last: bool = False) -> dict[str, Segments]:
        """The next frame's segments by rule; ``features`` are those of a first frame only for the first one.

        The frame is written into the memory with the blend of all queries, unless it is the ``last``.
        """
        level = self.model.step(features, self.condition, self.memory.read(), self.time)[-1]
        prediction = Prediction(level.mask_logits[0], level.class_logits[0], sizes)
        found = {name: postprocess(rule, prediction, self._states[name]) for name, rule in self.rules.items()}
        if not last:
            self.memory.push(self.model.remember(features, level, self.time))
        self.time += 1
        return found
