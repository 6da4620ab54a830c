"""The way that a competent engineer writes first, on the same weights: what the benchmark compares the engine with.

Every request computes everything anew (mask encoder, pixel decoder, vision tower, the whole prompt), the answer is
generated token by token, every query is brought to picture size, and objects of a clip are followed one by one. There
is no deliberate waste: attention is fused, nothing is computed twice within a request, the language model keeps its
keys and values while it generates. The words generated are those of the template, so that outputs can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from x2sam.data.tasks import Task, find_task
from x2sam.inference.conversation import IGNORE, ExpandedTokens, Turn
from x2sam.inference.engine import Engine
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.frames import FrameSource
from x2sam.inference.interpreter import Interpreter, Looked
from x2sam.inference.looking import Looking
from x2sam.inference.object_rounds import ObjectRounds, Round
from x2sam.inference.postprocess import Prediction, Rule
from x2sam.inference.preprocess import FrameSizes, region_masks
from x2sam.inference.session import Session
from x2sam.inference.walk import Anchor, ObjectTrack, Tracked
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.x2sam import X2SAM
from x2sam.structures import Mask, Prompt

ONE_REQUEST = 64 * 2**30


@dataclass(eq=False)
class Watch:
    """What the network did: ``calls`` of its parts and the mask decoder's last prediction."""

    calls: dict[str, int] = field(default_factory=dict)
    last: LevelPrediction | None = None

    def clear(self) -> None:
        self.calls = {name: 0 for name in self.calls}


@contextmanager
def watched(model: X2SAM) -> Iterator[Watch]:
    """Counts the calls of the expensive parts while it is open; a few microseconds each."""
    parts = {
        "mask_encoder": model.mask_encoder,
        "pixel_decoder": model.pixel_decoder,
        "vision_tower": model.vision_language.visual,
        "language_model": model.vision_language.language,
        "mask_decoder": model.mask_decoder,
    }
    watch = Watch(dict.fromkeys(parts, 0))

    def count(name: str):
        def hook(module, inputs, output) -> None:
            watch.calls[name] += 1
            if name == "mask_decoder":
                watch.last = output[-1]

        return hook

    handles = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_apart(model: X2SAM, conditions: Sequence[Condition]) -> Iterator[list[LevelPrediction | None]]:
    """The mask decoder's last prediction for each of the conditions, of one prompt each and told apart by their classes
    (1, K + 1, C), whatever others it was asked for with and in whichever order. Waits for the device at every call."""
    last: list[LevelPrediction | None] = [None] * len(conditions)

    def hook(module, inputs, output) -> None:
        asked: Condition = inputs[2]
        for row, classes in enumerate(asked.classes):
            for number, condition in enumerate(conditions):
                if torch.equal(classes, condition.classes[0]):
                    last[number] = output[-1][row : row + 1]

    handle = model.mask_decoder.register_forward_hook(hook)
    try:
        yield last
    finally:
        handle.remove()


class WordByWord(Interpreter):
    """Keeps nothing of a picture, reads the whole prompt every time and generates the answer."""

    def look(self, frames: np.ndarray, task: Task, keep_prefix: bool = False, encoded=None) -> Looked:
        return super().look(frames, task, keep_prefix=False, encoded=encoded)

    def read(
        self, looked: Looked, turn: Turn, regions: Tensor | None = None, share: bool = False, until_seg: bool = True,
        mend: bool = True,
    ) -> Condition:  # fmt: skip
        """The condition of a turn, its answer generated to the end, whatever ``until_seg`` says."""
        tokens = self._tokens(looked, turn, regions, until_seg=False, mend=mend)
        begins, *_, ends = np.flatnonzero(tokens.labels != IGNORE).tolist()
        prompt = ExpandedTokens(**{f.name: getattr(tokens, f.name)[:begins] for f in fields(tokens)})
        cache = self.language.new_cache()
        parts = [self._read(looked, prompt, regions, cache)]
        for known in tokens.token_ids[begins:ends].tolist():
            self._choose(parts[-1])
            # whatever was chosen, the template's token is taken
            step = self.language.embed(torch.tensor([[known]], device=self.device))
            parts.append(self.language.read(step, cache=cache))
        self._choose(parts[-1])  # the mark that ends the answer; it is not read any more
        return self._condition(torch.cat(parts, 1), tokens.cond_ids[:ends], tokens.seg_ids[:ends], share)

    def _choose(self, states: Tensor) -> int:
        return int(self.language.word_logits(states[:, -1]).argmax(-1))


class Straightforward:
    """Answers requests about ``frames`` without remembering anything between them."""

    def __init__(self, engine: Engine, frames: FrameSource, watch: Watch):
        self.engine, self.frames, self.watch = engine, frames, watch
        self.interpreter = WordByWord(engine.model, engine.interpreter.encoder.tokenizer)

    def click(self, prompt: Prompt, before: Round | None, mask_before: np.ndarray | None) -> tuple[Round, np.ndarray]:
        """The answer to a prompt whose beginning was answered by ``before``, and all masks bool (Q, H, W)."""
        looking = self._fresh()
        rounds = ObjectRounds(looking, self.engine.seed)
        task = find_task("intseg", "image" if len(self.frames) == 1 else "video")
        with torch.inference_mode():
            if before is not None and self.engine.model.config.memory.sketch:
                before = replace(before, condition=rounds.read(before.region, 0, task))
            answer = rounds.answer(prompt, before, mask_before, 0, task)
            return answer, self._every_mask(looking.sizes(0))

    def words(self, prompt: Prompt) -> list[Mask]:
        looking = self._fresh()
        masks = Session(self.engine, looking).segment(prompt)
        with torch.inference_mode():
            self._every_mask(looking.sizes(0))
        return masks

    @torch.inference_mode()
    def track(self, object_id: str, mask: np.ndarray, memory: str) -> Iterator[np.ndarray]:
        """An object given by its mask bool (H, W) on frame 0, followed by itself: its masks, frame by frame."""
        looking = self._fresh()
        sizes = looking.sizes(0)
        region = region_masks([mask], sizes)[0]
        task = find_task("intseg", "image" if len(self.frames) == 1 else "video")
        condition = ObjectRounds(looking, self.engine.seed).read(region, 0, task)
        tracked = Tracked(object_id, condition, Rule(task, region=region), {0: Anchor(0, mask, locked=True)})
        walk = ObjectTrack(self.engine.model, [tracked], memory)
        for frame in range(len(self.frames)):
            plain = looking.later_features(frame)
            features = looking.features(frame) if frame == 0 else plain
            found = walk.advance(features, sizes, frame, looking.picture(frame), plain)
            if frame:
                self._every_mask(sizes)
            yield found[object_id][0]

    def _fresh(self) -> Looking:
        """Features that last for one request: within it nothing is computed twice, after it nothing is left."""
        return Looking(self.interpreter, FeatureCache(ONE_REQUEST), self.frames, "request")

    def _every_mask(self, sizes: FrameSizes) -> np.ndarray:
        level = self.watch.last
        assert level is not None
        prediction = Prediction(level.mask_logits[0], level.class_logits[0], sizes)
        return (prediction.at_picture_size(torch.arange(prediction.queries)) > 0).cpu().numpy()
