"""An engine that is asked as the published benchmarks ask (X2SAM, evaluation): each question read in one pass, the
clip walked forward with the first-in-first-out memory, the benchmarks' score thresholds.

What a person at a screen gets differs on purpose (best answer where none is sure, corrections, pinned memory); that is
:class:`x2sam.inference.session.Session`, measured by ``evaluate clicks`` and ``evaluate video``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from x2sam.data.task_sample import TaskSample
from x2sam.data.tasks import VIDEO, ItemKind, Task, is_sentence
from x2sam.evaluation.contract import FrameAnswer, View
from x2sam.evaluation.protocol import Chunk, Protocol, Question, views_of
from x2sam.inference.clip_stream import ClipStream
from x2sam.inference.conversation import Query
from x2sam.inference.engine import Engine
from x2sam.inference.interpreter import Looked, Reading
from x2sam.inference.looking import Looking
from x2sam.inference.postprocess import Quirks, Rule, Segments
from x2sam.inference.preprocess import linspace_indices, rate_indices, region_masks
from x2sam.inference.scheduler import Priority
from x2sam.layouts import X2SAM_LAYOUT, Layout
from x2sam.model.x2sam import FrameFeatures

QUIRKS = Quirks(leave_unclaimed=False, rate_small=False)
"""As published where figures depend on it: every pixel gets its best category, masks are rated at picture size."""
PATIENCE = 3600.0
"""Seconds for one step: a large model on a CPU takes minutes, and nobody waits at a screen."""


class BenchmarkModel:
    """Implements :class:`x2sam.evaluation.contract.Answerer` for an engine."""

    def __init__(self, engine: Engine, protocol: Protocol | None = None):
        self.engine, self.protocol = engine, protocol or Protocol()

    @contextmanager
    def open(self, sample: TaskSample, chunk: Chunk) -> Iterator[LookedAt]:
        """The frames of a chunk; what depends on them alone is computed once for all its questions."""
        session = self.engine.open(sample.frames[list(chunk.frames)])
        try:
            yield LookedAt(self.engine, session.looking, chunk.frames, self.protocol)
        finally:
            session.close()


class LookedAt:
    """The frames of one chunk. ``numbers`` are their indices in the sample."""

    def __init__(self, engine: Engine, looking: Looking, numbers: Sequence[int], protocol: Protocol):
        self.engine, self.looking, self.protocol = engine, looking, protocol
        self.places = {number: place for place, number in enumerate(numbers)}
        self._seen: dict[tuple, Looked] = {}

    def ask(self, question: Question) -> Iterator[FrameAnswer]:
        """See :class:`x2sam.evaluation.contract.OpenChunk`."""
        places = [self.places[number] for number in question.frames]
        reading, rules = self._run(lambda: self._read(question, places))
        stream = ClipStream(self.looking.model, reading.condition, rules)
        for number, place in zip(question.frames, places, strict=True):
            segments = self._run(lambda p=place: self._step(stream, p, last=p == places[-1]))
            views = {name: _view(found, name, question.things) for name, found in segments.items()}
            yield FrameAnswer(number, views, reading.text, reading.phrases)

    def _run(self, job):
        return self.engine.run(job, Priority.BATCH, timeout=PATIENCE)

    def _read(self, question: Question, places: list[int]) -> tuple[Reading, dict[str, Rule]]:
        task = question.task
        interpreter, looked = self.looking.interpreter, self._looked(task, places)
        regions = tokens = None
        if question.regions is not None:
            regions = region_masks(list(question.regions), self.looking.sizes(places[0]))
            generator = torch.Generator().manual_seed(self.engine.seed)
            stage3 = self.looking.encoded(places[0]).stage3
            tokens = self.looking.model.region_tokens(stage3, regions, generator)
        layout = self.looking.model.config.family
        rules = rules_of(question, self.protocol, regions, layout)
        if task.generates:
            return interpreter.generate(looked, task, Query(), self.engine.generate_limit), rules
        if task.items is ItemKind.REGIONS:
            query = Query(regions=len(question.items))
        else:
            query = Query(phrases=question.items, sentence=is_sentence(question.items[0]))
        condition = interpreter.read(looked, interpreter.render(task, query), tokens, share=task.shares_conditions)
        return Reading(condition, question.items), rules

    def _looked(self, task: Task, places: list[int]) -> Looked:
        """What the language model sees: the question's frames, thinned where the benchmark does so."""
        shown = places
        if task.modality == VIDEO:
            config = self.looking.model.config
            picked = rate_indices(len(places), None, config.preprocess) if task.benchmark_resample else None
            shown = [places[i] for i in picked] if picked else places
            most = min(task.llm_frames, config.language_frames)
            if len(shown) > most:
                shown = [shown[i] for i in linspace_indices(len(shown), most)]
        key = (task.modality, *shown)
        if key not in self._seen:
            frames = np.stack([self.looking.picture(i) for i in shown])
            encoded = lambda: self.looking.encoded(shown[0])  # noqa: E731
            self._seen = {key: self.looking.interpreter.look(frames, task, encoded=encoded)}
        return self._seen[key]

    def _step(self, stream: ClipStream, place: int, last: bool) -> dict[str, Segments]:
        """The network once, its answer read by every rule, and what later frames remember of it."""
        features = self.looking.features(place) if stream.time == 0 else self._later_features(place)
        return stream.advance(features, self.looking.sizes(place), last)

    def _later_features(self, place: int) -> FrameFeatures:
        """Of a frame behind the first, kept while the cache holds it: several objects are followed through a chunk."""
        looking = self.looking
        make = lambda: looking.model.decode_pixels(looking.encoded(place), first=False)  # noqa: E731
        return looking.cache.get((looking.key, "later", place), make)


def rules_of(
    question: Question, protocol: Protocol, regions: torch.Tensor | None, layout: Layout = X2SAM_LAYOUT
) -> dict[str, Rule]:
    """The rules by which an answer is read, by view; ``regions`` int64 (K, H, W) at the network's size."""
    task = question.task
    rule = Rule(task, protocol.threshold_for(task), quirks=QUIRKS, layout=layout)
    if task.items is ItemKind.CATEGORIES:
        count = len(question.things)
        things = {"panoptic": question.things, "semantic": (False,) * count, "instances": (True,) * count}
        return {view: replace(rule, things=things[view]) for view in views_of(question.things)}
    if task.items is ItemKind.REGIONS and regions is not None:
        several = task.select == "instances"
        return {"instances" if several else "masks": replace(rule, region=regions[0], regions=len(regions))}
    return {"masks": replace(rule, generalised=protocol.several, allow_none=protocol.several)}


def _view(found: Segments, name: str, things: Sequence[bool]) -> View:
    """Instances of stuff are left out: their queries compete for places, as in Mask2Former, but only things count."""
    keep = np.ones(len(found), bool)
    if name == "instances" and things:
        keep = np.array([things[c] for c in found.categories], bool)
    return View(found.masks[keep], found.scores[keep], found.categories[keep], found.ids[keep])
