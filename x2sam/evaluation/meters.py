"""Which figures a task gets, and how they are gathered while answers come in.

A meter sees every answer of every frame and keeps sums, run lengths or small tables, never a list of masks. Its
``add`` also returns how good this one answer is, 0..1, so that the worst can be shown; None where that makes no sense.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from x2sam.data.task_sample import TaskSample
from x2sam.data.tasks import IMAGE, VIDEO, ItemKind
from x2sam.evaluation.contract import FrameAnswer, View
from x2sam.evaluation.metrics.boundary import ObjectScores, mean_jf
from x2sam.evaluation.metrics.captions import meteor_stages
from x2sam.evaluation.metrics.grounded import GroundedTotals, Similarity, common_words
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.evaluation.metrics.iou import IouTotals, iou
from x2sam.evaluation.metrics.panoptic import PanopticTotals, VideoPanopticTotals
from x2sam.evaluation.metrics.precision import PrecisionTotals, encode
from x2sam.evaluation.metrics.segments import FrameTable, Name, dense_map
from x2sam.evaluation.metrics.semantic import Consistency, SemanticTotals
from x2sam.evaluation.metrics.tracking import TrackingTotals
from x2sam.evaluation.protocol import Question, ignored, name_of, views_of


class Meter(Protocol):
    """``name`` is where its figures stand in the result, ``view`` the way of reading answers that it scores."""

    name: str
    view: str

    def begin(self, sample: TaskSample) -> None:
        """Before the first answer about a picture, or about a clip of one or several samples."""

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None: ...

    def end(self) -> None:
        """After the last one."""

    def result(self) -> dict: ...


@dataclass(frozen=True)
class MeterOptions:
    """seen: categories that were trained on, for followed objects; similarity: of phrases, with its name."""

    seen: Collection[str] | None = None
    similarity: Similarity = common_words
    similarity_name: str = "common words"


class _Categories:
    """What meters of categories share. Categories go by their name: not every sample has to ask for the same ones."""

    def __init__(self, options: MeterOptions):
        self.things: set[str] = set()

    def begin(self, sample: TaskSample) -> None:
        """Before a clip or picture."""

    def end(self) -> None:
        """After it."""

    def note(self, question: Question) -> None:
        self.things |= {name for name, thing in zip(question.items, question.things, strict=True) if thing}


def truth_names(sample: TaskSample, question: Question) -> list[Name]:
    """A name for every mask of a sample: things have an id of their own, stuff is one segment a category."""
    ids = sample.ids or tuple(range(len(sample.labels)))
    return [
        (question.items[c], int(i) if question.things[c] else "stuff") for c, i in zip(sample.labels, ids, strict=True)
    ]


def answer_names(sample: TaskSample, view: View, question: Question) -> list[Name]:
    """Names of answered segments. What is followed in one chunk is not known in the next: ids are told apart."""
    pairs = zip(view.categories.tolist(), view.ids.tolist(), strict=True)
    chunk = (sample.key, question.chunk)
    return [(question.items[c], (*chunk, i) if question.things[c] else "stuff") for c, i in pairs]


def panoptic_table(sample: TaskSample, question: Question, answer: FrameAnswer, view: View) -> FrameTable:
    size, void = sample.masks.shape[2:], ignored(sample, answer.frame)
    return FrameTable.of(
        dense_map(view.masks, size), answer_names(sample, view, question),
        dense_map(sample.masks[answer.frame], size, void), truth_names(sample, question),
    )  # fmt: skip


def _quality_alone(table: FrameTable) -> float | None:
    """PQ of one picture by itself."""
    alone = PanopticTotals()
    alone.add([table])
    return alone.result(())["pq"]


class PanopticMeter(_Categories):
    """PQ, SQ, RQ of pictures."""

    name, view = "panoptic", "panoptic"

    def __init__(self, options: MeterOptions):
        super().__init__(options)
        self.totals = PanopticTotals()

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        self.note(question)
        table = panoptic_table(sample, question, answer, answer.views[self.view])
        self.totals.add([table])
        return _quality_alone(table)

    def result(self) -> dict:
        return self.totals.result(self.things)


class TubeMeter(_Categories):
    """VPQ and STQ of clips. Of a clip only the tables of shared pixels are held."""

    name, view = "panoptic", "panoptic"

    def __init__(self, options: MeterOptions):
        super().__init__(options)
        self.quality, self.tracking = VideoPanopticTotals(), TrackingTotals()
        self._tables: list[FrameTable] = []

    def begin(self, sample: TaskSample) -> None:
        self._tables = []

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        self.note(question)
        self._tables.append(panoptic_table(sample, question, answer, answer.views[self.view]))
        return _quality_alone(self._tables[-1])

    def end(self) -> None:
        self.quality.add(self._tables)
        self.tracking.add(self._tables, self.things)

    def result(self) -> dict:
        return {**self.quality.result(self.things), **self.tracking.result()}


class SemanticMeter(_Categories):
    """mIoU; for clips also how steady the map is."""

    name, view = "semantic", "semantic"

    def __init__(self, options: MeterOptions):
        super().__init__(options)
        self.totals = SemanticTotals()
        self.steady: Consistency | None = None

    def begin(self, sample: TaskSample) -> None:
        if sample.modality == VIDEO:
            self.steady = self.steady or Consistency()
            self.steady.begin()

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        view, size = answer.views[self.view], sample.masks.shape[2:]
        found = dense_map(view.masks, size)
        truth = dense_map(sample.masks[answer.frame], size, ignored(sample, answer.frame))
        answered, true = ([(question.items[c], 0) for c in numbers] for numbers in (view.categories, sample.labels))
        table = FrameTable.of(found, answered, truth, true)
        self.totals.add(table)
        if self.steady is not None:
            lookups = (np.array([-1, *numbers], np.int32) for numbers in (view.categories, sample.labels))
            self.steady.add(*(lookup[plane] for lookup, plane in zip(lookups, (found, truth), strict=True)))
        alone = SemanticTotals()
        alone.add(table)
        return alone.result()["pixel_accuracy"]

    def result(self) -> dict:
        return {**self.totals.result(), **(self.steady.result() if self.steady is not None else {})}


class PrecisionMeter:
    """COCO AP, each frame of a clip as a picture of its own."""

    name, view = "instances", "instances"

    def __init__(self, options: MeterOptions):
        self.totals = PrecisionTotals()

    def begin(self, sample: TaskSample) -> None:
        """Nothing is kept by picture."""

    def end(self) -> None:
        """As above."""

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        view, void = answer.views[self.view], ignored(sample, answer.frame)
        truths = []
        for n in question.targets:
            label, mask = int(sample.labels[n]), sample.masks[answer.frame, n]
            stuff = bool(question.things) and not question.things[question.labels.index(label)]
            if mask.any() and not stuff:
                truths.append((label, mask))
        self.totals.add(
            sample.masks.shape[2:],
            [(name_of(sample, label), encode(mask)) for label, mask in truths],
            [
                (question.items[c], float(score), encode(mask))
                for c, score, mask in zip(view.categories, view.scores, view.masks, strict=True)
            ],
            None if void is None else encode(void),
        )
        if not truths:
            return None
        best = []
        for label, mask in truths:
            same = view.masks[[question.labels[c] == label for c in view.categories]]
            best.append(max((iou(found, mask, void) for found in same), default=0.0))
        return float(np.mean(best))

    def result(self) -> dict:
        return self.totals.result()


class OverlapMeter:
    """cIoU and gIoU of single answers, with a 95 % interval of gIoU over pictures."""

    name, view = "overlap", "masks"

    def __init__(self, options: MeterOptions):
        self.totals = IouTotals()
        self.values: list[float] = []
        self.pictures: list[str] = []

    def begin(self, sample: TaskSample) -> None:
        """Nothing is kept by picture."""

    def end(self) -> None:
        """As above."""

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        found, truth = answer.views[self.view].masks, question.truth(sample, answer.frame)
        value = self.totals.add(found.any(0) if len(found) else np.zeros_like(truth), truth,
                                ignored(sample, answer.frame))  # fmt: skip
        self.values.append(value)
        self.pictures.append(sample.key)
        return value

    def result(self) -> dict:
        some = self.totals.count > 0
        return {
            "n": self.totals.count,
            "ciou": self.totals.ciou if some else None,
            "giou": self.totals.giou if some else None,
            "giou_ci": bootstrap_mean(self.values, self.pictures),
        }


class ContourMeter:
    """J, F and their mean over the frames of each expression or object, then over those.

    A followed object counts behind the frame on which it is first in sight, where it was shown. Where the trained
    categories are named (``seen``) the means of seen and unseen ones stand beside that of all; ``overall`` is the mean
    of their four, as YouTube-VOS has it.
    """

    name, view = "contour", "masks"

    def __init__(self, options: MeterOptions):
        self.seen = None if options.seen is None else {s.strip().lower() for s in options.seen}
        self.done: list[tuple[str, ObjectScores]] = []
        self._open: dict[tuple, ObjectScores] = {}

    def begin(self, sample: TaskSample) -> None:
        self._open = {}

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        ids = sample.ids or tuple(range(len(sample.labels)))
        key = (name_of(sample, question.labels[0]), *(ids[n] for n in question.targets))
        first = key not in self._open
        scores = self._open.setdefault(key, ObjectScores())
        if first and question.task.select == "object":
            return None
        truth, found = question.truth(sample, answer.frame), answer.views[self.view].masks
        scores.add(found.any(0) if len(found) else np.zeros_like(truth), truth, ignored(sample, answer.frame))
        return (scores.j[-1] + scores.f[-1]) / 2

    def end(self) -> None:
        self.done += [(key[0], _short(scores)) for key, scores in self._open.items() if scores.j]

    def result(self) -> dict:
        out: dict = {**_means([s for _, s in self.done]), "n": len(self.done)}
        if self.seen is not None:
            parts = {
                "seen": _means([s for name, s in self.done if name.strip().lower() in self.seen]),
                "unseen": _means([s for name, s in self.done if name.strip().lower() not in self.seen]),
            }
            four = [part[k] for part in parts.values() for k in ("J", "F")]
            out |= {**parts, "overall": None if None in four else float(np.mean(four))}
        return out


def _short(scores: ObjectScores) -> ObjectScores:
    """The means only: of a long evaluation no frames are kept."""
    return ObjectScores([float(np.mean(scores.j))], [float(np.mean(scores.f))])


def _means(objects: list[ObjectScores]) -> dict[str, float | None]:
    return dict(mean_jf(objects)) if objects else {"J": None, "F": None, "JF": None}


class GroundedMeter:
    """Masks, phrases and words of grounded captions. The masks of the clip that is asked about are held."""

    name, view = "grounded", "masks"

    def __init__(self, options: MeterOptions):
        meteor_stages()  # what is missing is named now, not after hours
        self.totals = GroundedTotals(options.similarity, options.similarity_name)
        self._answers: list[FrameAnswer] = []
        self._sample: TaskSample | None = None

    def begin(self, sample: TaskSample) -> None:
        self._answers = []

    def add(self, sample: TaskSample, question: Question, answer: FrameAnswer) -> float | None:
        if self._answers and answer.frame in {a.frame for a in self._answers} | {question.frames[0]}:
            self.end()  # a chunk with a caption of its own
        self._answers.append(answer)
        self._sample = sample
        view, size = answer.views[self.view], sample.masks.shape[2:]
        found = view.masks.any(0) if len(view.masks) else np.zeros(size, bool)
        return iou(found, question.truth(sample, answer.frame), ignored(sample, answer.frame))

    def end(self) -> None:
        if self._answers and self._sample is not None:
            self._compare(self._sample)

    def _compare(self, sample: TaskSample) -> None:
        frames, phrases = [a.frame for a in self._answers], self._answers[0].phrases
        found = np.zeros((len(frames), len(phrases), *sample.masks.shape[2:]), bool)
        scores = np.zeros((len(frames), len(phrases)))
        for t, answer in enumerate(self._answers):
            view = answer.views[self.view]
            for c, mask, score in zip(view.categories, view.masks, view.scores, strict=True):
                if c < len(phrases):
                    found[t, c], scores[t, c] = mask, score
        # Masks of one phrase are one truth: the answer has one mask for a phrase.
        truths = [sample.masks[frames][:, sample.labels == k].any(1) for k in range(len(sample.items))]
        stacked = np.stack(truths, 1) if truths else np.zeros((len(frames), 0, *sample.masks.shape[2:]), bool)
        void = None if sample.ignore is None else sample.ignore[frames]
        self.totals.add_masks(found, scores.mean(0).tolist(), phrases, stacked, sample.items, void)
        if sample.caption:
            self.totals.add_words(self._answers[0].text or "", sample.caption)
        self._answers = []

    def result(self) -> dict:
        return self.totals.result()


MeterMaker = Callable[[MeterOptions], Meter]
METERS: Mapping[tuple[str, str], tuple[MeterMaker, ...]] = {
    ("genseg", IMAGE): (PanopticMeter, SemanticMeter, PrecisionMeter),
    ("ovseg", IMAGE): (PanopticMeter, SemanticMeter, PrecisionMeter),
    ("genseg", VIDEO): (TubeMeter, SemanticMeter, PrecisionMeter),
    ("ovseg", VIDEO): (TubeMeter, SemanticMeter, PrecisionMeter),
    ("refseg", IMAGE): (OverlapMeter,),
    ("reaseg", IMAGE): (OverlapMeter,),
    ("intseg", IMAGE): (OverlapMeter,),
    ("refseg", VIDEO): (ContourMeter,),
    ("reaseg", VIDEO): (ContourMeter,),
    ("objseg", VIDEO): (ContourMeter,),
    ("vgdseg", IMAGE): (PrecisionMeter,),
    ("vgdseg", VIDEO): (PrecisionMeter,),
    ("gcgseg", IMAGE): (GroundedMeter,),
    ("gcgseg", VIDEO): (GroundedMeter,),
}
"""Task and modality -> what it is scored by. Of a task about categories those whose view its categories allow."""


def meters_for(question: Question, options: MeterOptions) -> list[Meter]:
    """Fresh meters for a data set with such questions; the first one decides which answers are the worst."""
    makers = METERS[question.task.name, question.task.modality]
    views = views_of(question.things) if question.task.items is ItemKind.CATEGORIES else None
    return [make(options) for make in makers if views is None or make.view in views]
