"""One run of the reference, repeated with our code from the raw pixels to the masks.

Everything goes through what the engine calls: :class:`Looking` for features, :class:`Interpreter` for the words,
:class:`Walker` for the frames. What happens inside is overheard with hooks.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from x2sam.data.tasks import find_task
from x2sam.inference.conversation import Query, render, tag_caption
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter, Looked, Reading
from x2sam.inference.looking import Looking
from x2sam.inference.postprocess import PanopticLimits, Quirks, Rule, Segments
from x2sam.inference.preprocess import region_masks
from x2sam.inference.walk import Walker
from x2sam.model import region_sampler
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.mask_memory import MaskMemory, MemoryEntry
from x2sam.model.x2sam import X2SAM, EncodedFrame, FrameFeatures

PLENTY = 2**30


def task_of_case(case):
    return find_task(case.manifest["task"], case.modality)


def query_of_case(case) -> Query:
    """What the case asks, from its raw prompt."""
    manifest = case.manifest
    caption = manifest["caption"]
    if caption and manifest["tokens_positive"]:
        caption = tag_caption(caption, manifest["tokens_positive"])
    return Query(
        phrases=tuple(manifest["all_classes"] or ([manifest["prompt"]] if manifest["prompt"] else [])),
        regions=len(case.inputs.get("raw.vprompt_masks", ())),
        question=manifest["prompt"],
        sentence=case.modality == "image",
        caption=caption,
    )


def rule_of_case(case, regions: Tensor | None, quirks: Quirks) -> Rule:
    """The post-processing that the case was run with. ``regions`` (N, H, W) at the network's size."""
    asked, settings = case.manifest, case.manifest["post_kwargs"] or {}
    limits = PanopticLimits(
        mask=settings.get("mask_threshold", 0.5), overlap=settings.get("overlap_mask_area_threshold", 0.8)
    )
    return Rule(
        task_of_case(case),
        threshold=settings.get("threshold"),
        things=[name in asked["things"] for name in asked["all_classes"] or ()],
        region=None if regions is None else regions[0],
        regions=0 if regions is None else len(regions),
        limits=limits,
        quirks=quirks,
    )


def frames_of(case, key: str = "raw.frames") -> np.ndarray:
    """uint8 (T, H, W, 3): of ``key`` where the case has it, else what the language model sees."""
    names = (key, "raw.frames", "raw.image")
    frames = next(case.inputs[name] for name in names if name in case.inputs).numpy()
    return frames if frames.ndim == 4 else frames[None]


@dataclass(eq=False)
class Frame:
    """One frame on the way: ``maps`` are those that the decoder read, ``seen`` what the memory held before, ``last``
    the prediction that was used; ``decode`` makes those of every layer."""

    encoded: EncodedFrame
    features: FrameFeatures
    maps: list[Tensor]
    seen: list[MemoryEntry]
    last: LevelPrediction
    segments: Segments
    entry: MemoryEntry
    decode: Callable[[], list[LevelPrediction]]

    @cached_property
    def levels(self) -> list[LevelPrediction]:
        levels = self.decode()
        assert torch.equal(levels[-1].mask_logits, self.last.mask_logits)
        return levels


@dataclass(eq=False)
class Replay:
    """``calls`` of the language model: inputs by name and the states; ``layers``: outputs of each of its layers;
    ``words``: next-token logits of each step; ``points`` and ``regions``: what the region sampler chose and made."""

    looked: Looked
    calls: list[dict[str, Tensor]]
    layers: dict[int, list[Tensor]]
    words: list[Tensor]
    points: list[Tensor]
    regions: Tensor | None
    first: EncodedFrame
    reading: Reading
    frames: list[Frame]
    model: X2SAM

    @property
    def condition(self) -> Condition:
        assert self.reading.condition is not None
        return self.reading.condition

    @cached_property
    def states(self) -> Tensor:
        """(1, L, D) of the whole turn: what was read when looking, then the rest."""
        return torch.cat([call["states"] for call in self.calls], 1)

    @cached_property
    def projected(self) -> Tensor:
        return self.model.text_projector(self.states)

    def told(self, name: str) -> Tensor:
        """An input of the language model, all calls in a row."""
        return torch.cat([call[name] for call in self.calls], -1 if name == "position_ids" else 1)

    def layer(self, index: int) -> Tensor:
        return torch.cat(self.layers[index], 1)


@contextmanager
def overheard(model: X2SAM) -> Iterator[SimpleNamespace]:
    """Notes what passes through the language model, its word logits, the memory attention and the region sampler."""
    heard = SimpleNamespace(calls=[], layers=defaultdict(list), words=[], maps=[], points=[])
    language = model.vision_language

    def language_call(_, args, kwargs, output):
        embeds = kwargs["inputs_embeds"]
        mask = kwargs["visual_pos_masks"]
        heard.calls.append(
            {
                "inputs_embeds": embeds,
                "position_ids": kwargs["position_ids"],
                "visual_pos_masks": torch.zeros(embeds.shape[:2], dtype=torch.bool) if mask is None else mask,
                "states": output.last_hidden_state,
            }
        )

    def layer_call(index: int) -> Callable:
        # the state that comes out is changed in place where DeepStack is added
        return lambda _module, _args, output: heard.layers[index].append(output.clone())

    hooks = [
        language.language.register_forward_hook(language_call, with_kwargs=True),
        model.memory_attention.register_forward_hook(lambda _m, _a, output: heard.maps.append(output)),
        *(layer.register_forward_hook(layer_call(i)) for i, layer in enumerate(language.language.layers)),
    ]
    word_logits, sample_points = language.word_logits, region_sampler.sample_points

    def note(kept: list, function: Callable) -> Callable:
        def noting(*args, **kwargs):
            kept.append(function(*args, **kwargs))
            return kept[-1]

        return noting

    language.word_logits = note(heard.words, word_logits)
    region_sampler.sample_points = note(heard.points, sample_points)
    try:
        yield heard
    finally:
        del language.word_logits
        region_sampler.sample_points = sample_points
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def replay(
    run, model: X2SAM, tokenizer, keep_prefix: bool = True, forced: bool = True, limit: int = 256, walked: bool = True
) -> Replay:
    """Repeat ``run``. With ``forced=False`` a generated answer takes its own words, at most ``limit``; with
    ``walked=False`` it ends with the condition, before any frame."""
    case, task = run.case, task_of_case(run.case)
    interpreter = Interpreter(model, tokenizer)
    looking = Looking(interpreter, FeatureCache(PLENTY), frames_of(case, "raw.extra_frames"), case.name)
    with overheard(model) as heard:
        if keep_prefix:
            looked = Looking(interpreter, FeatureCache(PLENTY), frames_of(case), case.name).looked(task, 0)
        else:
            looked = interpreter.look(frames_of(case), task, keep_prefix=False)
        masks, tokens = regions_of(case, looking)
        rng, query = random.Random(case.manifest["py_seed"]), query_of_case(case)
        if run.mode == "predict":
            ids = case.manifest["forced_ids"] if forced else None
            reading = interpreter.generate(looked, task, query, limit, ids, rng, tokens)
        else:
            turn, share = render(task, query, rng, suffix=task.suffix), task.shares_conditions
            reading = Reading(interpreter.read(looked, turn, tokens, share=share, until_seg=False))
        rule = rule_of_case(case, masks, Quirks.reference())
        frames = walk(looking, rule, reading, heard) if task.segments and walked else []
        first = looking.encoded(0)
    return Replay(looked, heard.calls, heard.layers, heard.words, heard.points, tokens, first, reading, frames, model)


def regions_of(case, looking: Looking) -> tuple[Tensor | None, Tensor | None]:
    """Masks (N, H, W) at the network's size and their tokens (N, n, D), None where nothing was drawn."""
    if "raw.vprompt_masks" not in case.inputs:
        return None, None
    masks = region_masks(case.inputs["raw.vprompt_masks"].numpy(), looking.sizes(0))
    generator = torch.Generator().manual_seed(case.manifest["torch_seed"])
    return masks, looking.model.region_tokens(looking.encoded(0).stage3, masks, generator)


def walk(looking: Looking, rule: Rule, reading: Reading, heard: SimpleNamespace) -> list[Frame]:
    """Every frame looked at in turn and remembered with the blend of its queries, as the paper does."""
    model = looking.model
    walker = Walker(model, reading.condition, rule, MaskMemory(model.config.memory.slots))
    frames = []
    for time in range(len(looking)):
        encoded = looking.encoded(time)
        features = looking.features(time) if time == 0 else looking.later_features(time)
        seen = walker.memory.read()
        heard.maps.clear()
        segments, last = walker.look(features, looking.sizes(time), time)
        maps = heard.maps[0]
        walker.remember(features, last, time)
        decode = partial(model.step, features, walker.condition, seen, time, every_level=True)
        frames.append(Frame(encoded, features, maps, seen, last, segments, walker.memory.read()[-1], decode))
    return frames
