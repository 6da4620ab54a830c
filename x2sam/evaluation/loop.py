"""The one loop over a data set, whatever its format and task."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from x2sam.data.task_sample import TaskDataset, TaskSample
from x2sam.errors import FramesError
from x2sam.evaluation.contract import Answerer, FrameAnswer
from x2sam.evaluation.dataset import Progress, silent
from x2sam.evaluation.meters import Meter, MeterOptions, meters_for
from x2sam.evaluation.protocol import Chunk, Protocol, Question, plan
from x2sam.evaluation.worst import WorstCases, side_by_side


@dataclass
class TaskScores:
    """What came of a data set. ``samples`` were asked about, ``frames`` answers came back."""

    meters: list[Meter] = field(default_factory=list)
    samples: int = 0
    frames: int = 0
    seconds: float = 0.0

    def metrics(self) -> dict:
        """The figures of every meter under its name."""
        return {meter.name: meter.result() for meter in self.meters}


def evaluate_task(
    model: Answerer,
    dataset: TaskDataset,
    protocol: Protocol | None = None,
    options: MeterOptions | None = None,
    limit: int | None = None,
    progress: Progress = silent,
    worst: WorstCases | None = None,
) -> TaskScores:
    """Ask about every sample and score the answers; ``limit`` takes the first samples only.

    One sample and its truth are held at a time; samples that follow each other in one video are scored as one clip.
    Raises the data set's error for a broken sample, so that a figure never leaves samples out without a word.
    """
    protocol, options = protocol or Protocol(), options or MeterOptions()
    scores = TaskScores()
    place = _Place()
    for index in progress(range(len(dataset))[:limit], dataset.name):
        sample = dataset[index]
        for chunk in plan(sample, protocol):
            if not scores.meters:
                scores.meters = meters_for(chunk.questions[0], options)
            place.enter(sample, scores)
            _ask(model, sample, chunk, scores, worst)
    place.leave(scores)
    if not scores.samples:
        raise FramesError(f"{dataset.name} has nothing to ask about; check the task, the split and the limit")
    return scores


@dataclass
class _Place:
    """Which sample is being asked about, and where its frames end in their video."""

    sample: TaskSample | None = None
    group: str = ""
    last: int = -1

    def enter(self, sample: TaskSample, scores: TaskScores) -> None:
        """Tells the meters when a picture or clip begins; nothing when the same sample goes on."""
        if sample is self.sample:
            return
        goes_on = bool(sample.group) and sample.group == self.group and bool(sample.frame_numbers)
        if not (goes_on and sample.frame_numbers[0] > self.last):
            self.leave(scores)
            for meter in scores.meters:
                meter.begin(sample)
        self.sample, self.group = sample, sample.group
        self.last = sample.frame_numbers[-1] if sample.frame_numbers else -1
        scores.samples += 1

    def leave(self, scores: TaskScores) -> None:
        if self.sample is not None:
            for meter in scores.meters:
                meter.end()
        self.sample = None


def _ask(model: Answerer, sample: TaskSample, chunk: Chunk, scores: TaskScores, worst: WorstCases | None) -> None:
    began = time.perf_counter()
    with model.open(sample, chunk) as looked:
        for question in chunk.questions:
            for answer in looked.ask(question):
                # Only the model's own time counts, not the scoring.
                scores.seconds += time.perf_counter() - began
                _score(sample, question, answer, scores, worst)
                began = time.perf_counter()


def _score(
    sample: TaskSample, question: Question, answer: FrameAnswer, scores: TaskScores, worst: WorstCases | None
) -> None:
    scores.frames += 1
    values = [meter.add(sample, question, answer) for meter in scores.meters]
    if worst is None:
        return
    words = "_".join(question.items) if len(question.items) == 1 else question.task.name
    key = f"{sample.key}_{answer.frame:05d}_{words}"

    def draw():
        view = answer.views[scores.meters[0].view]
        truths = [sample.masks[answer.frame, n] for n in question.targets]
        shown = question.regions.any(0) if question.regions is not None and answer.frame == question.frames[0] else None
        return side_by_side(sample.frames[answer.frame], truths, list(view.masks), shown)

    worst.offer(values[0], key, draw)
