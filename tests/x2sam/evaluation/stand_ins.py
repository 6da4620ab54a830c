"""Samples drawn by hand, and answerers that follow simple rules."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from x2sam.data.task_sample import TaskSample
from x2sam.evaluation.contract import FrameAnswer, View
from x2sam.evaluation.protocol import views_of


def view(masks, categories=None, scores=None, ids=None, size=(1, 1)):
    """A view of bool masks (H, W); categories, scores and ids default to 0, 1 and the position."""
    count = len(masks)
    return View(
        np.stack(masks) if count else np.zeros((0, *size), bool),
        np.ones(count) if scores is None else np.array(scores, float),
        np.zeros(count, int) if categories is None else np.array(categories, int),
        np.arange(1, count + 1) if ids is None else np.array(ids, int),
    )


class Oracle:
    """Answers with the truth, through :meth:`answer`, which tests replace. Keeps what it was asked."""

    def __init__(self):
        self.opened, self.asked = [], []

    @contextmanager
    def open(self, sample, chunk):
        self.opened.append(chunk.frames)
        self.sample = sample
        yield self

    def ask(self, question):
        self.asked.append(question)
        for frame in question.frames:
            yield self.answer(self.sample, question, frame)

    def answer(self, sample, question, frame) -> FrameAnswer:
        if question.task.name == "gcgseg":
            masks = [sample.masks[frame, sample.labels == k].any(0) for k in range(len(sample.items))]
            found = view(masks, range(len(masks)))
            return FrameAnswer(frame, {"masks": found}, sample.caption, sample.items)
        shown = [n for n in question.targets if sample.masks[frame, n].any()]
        masks = [sample.masks[frame, n] for n in shown]
        categories = [question.labels.index(int(sample.labels[n])) for n in shown]
        ids = [sample.ids[n] if sample.ids else n for n in shown]
        size = sample.masks.shape[2:]
        if question.task.select == "instances":
            return FrameAnswer(frame, {"instances": view(masks, categories, ids=ids, size=size)})
        if not question.things:
            return FrameAnswer(frame, {"masks": view([question.truth(sample, frame)])})
        return FrameAnswer(frame, self.categories(question, masks, categories, ids, size))

    def categories(self, question, masks, categories, ids, size):
        """Things in instances, one mask a category in semantic maps, all in panoptic ones."""
        things = [n for n, c in enumerate(categories) if question.things[c]]
        merged = {c: np.any([m for m, k in zip(masks, categories, strict=True) if k == c], 0) for c in set(categories)}
        every = {
            "panoptic": view(masks, categories, ids=ids, size=size),
            "semantic": view(list(merged.values()), list(merged), size=size),
            "instances": view([masks[n] for n in things], [categories[n] for n in things], size=size),
        }
        return {name: every[name] for name in views_of(question.things)}


class Listed:
    """A data set of samples that are there already."""

    name = "by hand"

    def __init__(self, *samples: TaskSample):
        self.samples = samples
        self.task, self.modality = samples[0].task, samples[0].modality
        self.lengths = np.array([len(s.frames) for s in samples])

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def row(text, marks="x"):
    """bool (1, W): where ``text`` has one of ``marks``."""
    return np.array([[c in marks for c in text]])


def sample(task, frames, labels, items=(), things=(), **facts) -> TaskSample:
    """frames: for each frame a text, whose letters a, b ... are the masks 0, 1 ... (one row of pixels)."""
    masks = np.stack([[row(text, "abcdefgh"[n]) for n in range(len(labels))] for text in frames])
    masks = masks.reshape(len(frames), len(labels), 1, len(frames[0]))
    pictures = np.zeros((len(frames), 1, len(frames[0]), 3), np.uint8)
    facts = {"video": len(frames) > 1, "key": "hand", **facts}
    return TaskSample(task, pictures, masks, np.array(labels, np.int64), tuple(items), tuple(things), **facts)
