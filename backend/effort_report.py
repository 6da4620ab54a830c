"""The effort of a whole project: its annotations from Label Studio's API, what was proposed from the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from backend.effort import Measured, measure, prompts_of
from backend.effort_tally import Summary
from backend.errors import LabelConfigError
from backend.export_sources import Progress, TaskSource
from backend.export_tasks import person_of
from backend.journal_codec import BROKEN, name_of, parts_of, unpack_step
from backend.journal_file import JournalError, reading
from backend.label_config import LabelConfig, parse_label_config
from backend.protocol import Json, objects_in
from backend.pseudonyms import Pseudonyms
from backend.remembered import Step

log = logging.getLogger(__name__)

Steps = Mapping[tuple[str, int], Sequence[Step]]
"""What was answered about the objects of a task, by object and page, oldest first."""
StepsOf = Callable[[str], Steps]
"""A task to that."""


@contextmanager
def steps_in(folder: Path) -> Iterator[tuple[StepsOf | None, str]]:
    """What the journal below ``folder`` knows, also while a server writes it; None where none can be read, and why.

    :raises JournalError: it can't be read on.
    """
    with ExitStack() as stack:
        try:
            database = stack.enter_context(reading(folder))
        except JournalError as error:
            found = None, str(error)
        else:
            found = (lambda task: _steps(database, task)), ""
        yield found


def collect(
    source: TaskSource,
    steps_of: StepsOf | None,
    people: Pseudonyms | None = None,
    tolerance: float = 0.5,
    report: Progress = lambda *_: None,
) -> Summary:
    """Every annotation that was not skipped, one task at a time; ``tolerance`` of outlines as in the settings.

    :raises LabelStudioError: Label Studio can't be reached or refuses.
    """
    summary = Summary.begin(people is not None, steps_of is not None)
    collector = _Collector(summary, source.config or parse_label_config("<View/>"), people, tolerance)
    for fetched in source.tasks(lambda *_: False, report):
        summary.tasks += 1
        if fetched.content is not None:
            collector.add(fetched.content, steps_of(str(fetched.task)) if steps_of else {})
    return summary


@dataclass(frozen=True)
class _Collector:
    summary: Summary
    config: LabelConfig
    people: Pseudonyms | None
    tolerance: float

    def add(self, task: Mapping[str, Any], steps: Steps) -> None:
        """One task with its annotations and predictions."""
        predictions = {one.get("id"): one for one in objects_in(task.get("predictions"))}
        kept: set[str] = set()
        submitted = False
        for annotation in objects_in(task.get("annotations")):
            if annotation.get("was_cancelled"):
                self.summary.cancelled += 1
                continue
            submitted = True
            found = self._measured(annotation, task, steps, predictions.get(annotation.get("parent_prediction")))
            if found is None:
                self.summary.failed += 1
                continue
            annotator = self.people.of(person_of(annotation)) if self.people is not None else ""
            self.summary.add(found, str(annotation.get("created_at") or ""), annotator)
            kept |= found.objects
        if submitted:
            _add_dropped(self.summary, steps, kept)

    def _measured(
        self, annotation: Json, task: Mapping[str, Any], steps: Steps, begun_from: Json | None
    ) -> Measured | None:
        def answers(name: str, page: int) -> Sequence[Step]:
            return steps.get((name, page), ())

        try:
            return measure(annotation, task, self.config, answers, begun_from, self.tolerance)
        except LabelConfigError as error:
            log.warning("an annotation of task %s can't be measured: %s", task["id"], error)
            return None


def _add_dropped(summary: Summary, steps: Steps, kept: set[str]) -> None:
    dropped: set[str] = set()
    for (name, _), own in steps.items():
        prompts = prompts_of(own)
        if prompts and name not in kept:
            dropped.add(name)
            summary.dropped_prompts += prompts
    summary.dropped += len(dropped)


def _steps(database: Connection, task: str) -> Steps:
    begin = name_of(task)[:-1]  # a name is a JSON list: those of the task's objects go on with a comma
    query = "SELECT owner, page, about FROM step WHERE owner >= ? AND owner < ? ORDER BY id"
    found: dict[tuple[str, int], list[Step]] = {}
    for row in database.exec_driver_sql(query, (f"{begin},", f"{begin}-")):
        try:
            name, step = parts_of(row.owner)[1], unpack_step(row.about)
        except BROKEN:
            continue  # as if it were forgotten
        found.setdefault((name, row.page), []).append(step)
    return found
