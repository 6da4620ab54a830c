"""Predictions for the tasks of a project, made in bulk: what runs behind ``python -m backend preannotate``.

Label Studio is the record of what was done: before a task is asked about it is looked whether it has a prediction of
this model version, and a request that got no answer is not sent again before that was looked at either. So a run that
was killed goes on where it was and sends nothing twice.

The score of a prediction is what Label Studio sorts by under "Uncertainty sampling", the lowest first. It is

    1 - error * novelty

where ``error`` 0..1 is how wrong the answer probably is (:mod:`x2sam.inference.survey`) and ``novelty`` 0..1 how little
the task looks like those with lower scores and those that are annotated already (:mod:`x2sam.inference.useful`). While
a run goes on tasks have ``1 - error``; when it ends all scores are settled.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import BackendError
from backend.label_studio_api import (
    LabelStudioApi,
    NotThereError,
    RefusedError,
    UnansweredError,
    task_filter,
)
from backend.preannotate_engines import Asked, Predictor, Prepared
from backend.preannotate_state import Sent, State
from backend.preannotate_tasks import tasks_meant
from backend.protocol import objects_in
from x2sam.inference.useful import useful_scores

Report = Callable[[str, int, int], None]
_AT_ONCE = 8  # tasks of one request
_FAILED_IN_A_ROW = 20
_TOLD = 5  # problems that are kept by name
_TRIES = 5
_PAUSE = 2.0
_DIGITS = 6
UNCERTAIN = "Uncertainty sampling"


class PreannotateError(BackendError):
    """It can't go on; the text says what to do."""


@dataclass(frozen=True)
class Wanted:
    """What to do. ``tasks`` as in :func:`tasks_meant`; ``budget`` new predictions at most, of tasks evenly spread over
    those that are meant; ``version`` by which predictions are known, the model's own where empty; ``use``: the project
    shows these predictions, and hands tasks out by their scores."""

    project: int
    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    prompt: str = ""
    budget: int | None = None
    version: str = ""
    use: bool = False


@dataclass
class Done:
    """What came of it: predictions sent, with how many masks, and without any; tasks that had one before; scores that
    were changed in the end; tasks that could not be answered, the first ones with their sentences; and whether the
    project hands tasks out by these scores."""

    project: int
    model_version: str = ""
    tasks: int = 0
    sent: int = 0
    masks: int = 0
    empty: int = 0
    there: int = 0
    rescored: int = 0
    failed: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    used: bool = False


def state_path(folder: Path, url: str, project: int, version: str) -> Path:
    """Where a run keeps what it has to know when it is started again."""
    name = hashlib.blake2b(f"{url} {project} {version}".encode(), digest_size=8).hexdigest()
    return folder / f"{project}-{name}.sqlite3"


def preannotate(
    api: LabelStudioApi, wanted: Wanted, open_predictor: Callable[[Asked], AbstractContextManager[Predictor]],
    folder: Path, report: Report, pause: float = _PAUSE,
) -> Done:  # fmt: skip
    """Makes and sends the predictions that are missing, and settles the scores of all.

    :raises LabelConfigError: the project's labeling configuration can't be filled, or has no such label.
    :raises SettingsError: ``wanted.tasks`` is not understood.
    :raises LabelStudioError: Label Studio can't be reached or refuses.
    :raises PreannotateError: one task after the other fails.
    """
    settings = api.project(wanted.project)
    asked = Asked(wanted.project, settings.get("label_config") or "<View/>", wanted.labels, wanted.prompt)
    asked.config()
    meant = iter(tasks_meant(api, wanted.project, wanted.tasks))
    with open_predictor(asked) as predictor:
        version = wanted.version or predictor.version
        state = State(state_path(folder, api.url, wanted.project, version))
        try:
            run = _Run(api, wanted, version, state, report, pause)
            run.go(predictor, meant)
            run.settle()
            run.use(settings)
            state.end()
        finally:
            state.close()
    return run.done


class _Run:
    """One run on one project."""

    def __init__(self, api: LabelStudioApi, wanted: Wanted, version: str, state: State, report: Report, pause: float):
        self._api, self._wanted, self._version, self._state = api, wanted, version, state
        self._report, self._pause = report, pause
        self.done = Done(wanted.project, version)
        self._ended = 0

    def go(self, predictor: Predictor, meant: Iterator[int]) -> None:
        """Every task that is meant gets a prediction, unless it has one."""
        plan = self._plan(meant)
        self.done.tasks, in_a_row = len(plan), 0
        for prepared in predictor.predict(self._without(plan)):
            problem = prepared.problem or self._sent(prepared)
            in_a_row = in_a_row + 1 if problem else 0
            if problem:
                self.done.failed += 1
                if len(self.done.problems) < _TOLD:
                    self.done.problems[prepared.task] = problem
            if in_a_row == _FAILED_IN_A_ROW:
                raise PreannotateError(
                    f"{in_a_row} tasks in a row could not be answered, the last one because: {problem} Mend that and "
                    "run the command again: it goes on where it stopped."
                )
            self._step()

    def _plan(self, meant: Iterator[int]) -> list[int]:
        """The tasks of this run: those of one that was stopped and asked the same, else new ones."""
        wanted = self._wanted
        question = json.dumps([sorted(wanted.tasks), sorted(wanted.labels), wanted.prompt, wanted.budget])
        plan = self._state.plan(question)
        if not plan:
            plan = list(meant)
            if wanted.budget is not None:
                known = self._state.tasks()
                fresh = [task for task in plan if task not in known]
                places = np.linspace(0, len(fresh) - 1, min(wanted.budget, len(fresh))).round().astype(int)
                plan = [fresh[place] for place in places.tolist()]
            self._state.begin(question, plan)
        return plan

    def _without(self, plan: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The tasks of the plan that have no prediction of this version, as Label Studio lists them."""
        for part in _neighbours(plan):
            listed = self._api.whole_tasks(self._wanted.project, part)
            found = {task["id"]: task for task in listed if task["id"] in part}
            for task in part:
                ours = self._ours(found[task].get("predictions")) if task in found else None
                if task not in found:  # it was deleted since
                    self.done.tasks -= 1
                elif ours is not None:
                    self._adopt(task, ours)
                    self.done.there += 1
                    self._step()
                else:
                    yield found[task]

    def _ours(self, predictions: Any) -> dict[str, Any] | None:
        """The prediction of this version among those of a task."""
        return next((one for one in objects_in(predictions) if one.get("model_version") == self._version), None)

    def _adopt(self, task: int, prediction: dict[str, Any]) -> None:
        """Takes note of a prediction that another run sent."""
        known = self._state.known(task)
        if known is not None and known.prediction == prediction["id"]:
            return
        score = prediction.get("score")
        score = float(score) if isinstance(score, int | float) else 0.0
        if known is not None and round(known.score, _DIGITS) == round(score, _DIGITS):  # sent, and then we were killed
            self._state.put(Sent(task, prediction["id"], score, known.error, known.vector))
        else:
            self._state.put(Sent(task, prediction["id"], score, 1 - score, np.zeros(0, np.float32)))

    def _sent(self, prepared: Prepared) -> str:
        """Sends a prediction, once. The sentence of what Label Studio has against it; empty where it took it."""
        error = 1.0 if prepared.error is None else prepared.error
        vector = np.zeros(0, np.float32) if prepared.vector is None else prepared.vector
        score = round(1 - error, _DIGITS)
        body = {
            "task": prepared.task, "result": list(prepared.items), "score": score, "model_version": self._version,
        }  # fmt: skip
        # known before it is sent: whoever goes on after a kill finds it in Label Studio and what it is made of here
        self._state.put(Sent(prepared.task, None, score, error, vector))
        try:
            prediction = self._post(body)
        except (RefusedError, NotThereError) as refused:
            self._state.forget([prepared.task])
            return str(refused)
        self._state.put(Sent(prepared.task, prediction, score, error, vector))
        self.done.sent += 1
        self.done.masks += prepared.masks
        self.done.empty += not prepared.masks
        return ""

    def _post(self, body: dict[str, Any]) -> int:
        """The id of the new prediction. A request without an answer may have been heard: that is looked at first."""
        for attempt in range(1, _TRIES):
            try:
                return self._api.predict([body])[0]
            except UnansweredError:
                time.sleep(self._pause * attempt)
            heard = self._ours(self._api.predictions(body["task"]))
            if heard is not None:
                return heard["id"]
        return self._api.predict([body])[0]

    def settle(self) -> None:
        """Gives every prediction the score that its place among all the others asks for."""
        known = [one for one in self._state.all() if one.prediction is not None]
        annotated = set(self._api.ids(self._wanted.project, [task_filter("total_annotations", "greater", "Number", 0)]))
        scores = useful_scores(
            np.array([one.error for one in known]), vector_table([one.vector for one in known]),
            seen=np.array([one.task in annotated for one in known], bool),
        )  # fmt: skip
        changed = [
            (one, score)
            for one, score in zip(known, scores.round(_DIGITS).tolist(), strict=True)
            if one.task not in annotated and score != one.score
        ]
        for done, (one, score) in enumerate(changed, 1):
            try:
                self._api.score_prediction(one.prediction, score)
            except NotThereError:
                self._state.forget([one.task])
            else:
                self._state.rescored(one.task, score)
                self.done.rescored += 1
            self._report("scores", done, len(changed))

    def use(self, settings: dict[str, Any]) -> None:
        """Has the project show these predictions and hand tasks out by their scores, where that is wanted."""
        theirs = {"model_version": self._version, "sampling": UNCERTAIN}
        if self._wanted.use and any(settings.get(name) != value for name, value in theirs.items()):
            self._api.change_project(self._wanted.project, theirs)
            settings = settings | theirs
        self.done.used = all(settings.get(name) == value for name, value in theirs.items())

    def _step(self) -> None:
        self._ended += 1
        self._report("predictions", self._ended, self.done.tasks)


def _neighbours(tasks: Sequence[int]) -> Iterator[list[int]]:
    """A few at a time, without others of the project in between, which would be listed too."""
    part: list[int] = []
    for task in tasks:
        if part and (task != part[-1] + 1 or len(part) == _AT_ONCE):
            yield part
            part = []
        part.append(task)
    if part:
        yield part


def vector_table(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (n, D); rows of nan for those that are not known, or of another length than most."""
    width = max((len(vector) for vector in vectors), default=0)
    unknown = np.full(width, np.nan, np.float32)
    rows = [vector if len(vector) == width and width else unknown for vector in vectors]
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
