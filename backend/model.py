"""X2SAM in the shape of a label-studio-ml 2.x model: our own routes and ``label-studio-ml start`` call this class."""

from __future__ import annotations

import logging
import time
from typing import Any, ClassVar

from backend.admission import STOPPING
from backend.answers import Answer, Services, kind_of, with_words, words_only
from backend.errors import EXPECTED
from backend.events import ACTIONS
from backend.evidence import Work, parse_work
from backend.label_config import LabelConfig, parse_label_config
from backend.logs import loggable, note
from backend.measuring import measured
from backend.ml_base import model_base
from backend.opened import answer_opened
from backend.prompted import answer_context
from backend.protocol import Context, Json, Task, parse_context, parse_task
from backend.recorded import Asked
from backend.track_replies import NOT_KEPT
from x2sam.errors import CancelledError
from x2sam.stages import stage

log = logging.getLogger(__name__)


class X2SAMModel(model_base()):
    """One request's view of the model: made for each request with its project and labeling configuration.

    The engine and everything else that lives longer is in ``services``; get a class that has it with :meth:`bound_to`.
    """

    services: ClassVar[Services]

    @classmethod
    def bound_to(cls, services: Services) -> type[X2SAMModel]:
        """This class with its services."""
        return type(cls.__name__, (cls,), {"services": services})

    def setup(self) -> None:
        self.set("model_version", self.services.model_version)

    def predict(self, tasks: list[Json], context: Any = None, **_params: Any) -> list[dict[str, Any]]:
        """One entry for each task, in order.

        With a context, an annotator waits: problems are answered as a sentence in the read-only TextArea, if the
        labeling configuration has one. Without, these are predictions to be stored; an entry without ``result`` makes
        Label Studio store nothing for that task.

        :raises BackendError, X2SAMError: no task could be answered; the text is meant for a person.
        """
        asked = Asked(str(self.project_id), self.label_config or "", tasks, context)
        with self.services.engines.one_engine(), self.services.recorder.taking(asked) as taken:
            taken.told = self._predicted(tasks, context)
            return taken.told

    def _predicted(self, tasks: list[Json], context: Any) -> list[dict[str, Any]]:
        config = parse_label_config(self.label_config or "<View/>")
        prompts = parse_context(context, config.label_tags)
        parsed = [parse_task(task) for task in tasks]
        try:
            if prompts is None:
                return self._predictions(parsed, config)
            with self.services.warmer.person_waits(), self.services.learner.people.waits():
                works = [parse_work(task, prompts) for task in tasks]
                pairs = zip(parsed, works, strict=True)
                return [self._entry(self._interactive(task, config, prompts, work)) for task, work in pairs]
        finally:
            if len(parsed) == 1:  # somebody has this task open; several are a batch
                warm = prompts is not None and bool(prompts.regions)
                self.services.warmer.opened(self.project_id, parsed[0], config, encoded=warm)

    def refuse(self, tasks: list[Json], context: Any, reason: Exception) -> list[dict[str, Any]] | None:
        """The answer to prompts that are not worked on: the reason, as a sentence in the read-only TextArea. None where
        no annotator waits, or there is no such field."""
        prompts = parse_context(context)
        if prompts is None:
            return None
        if not (prompts.regions or prompts.texts):
            return [self._entry(Answer()) for _ in tasks]
        answer = words_only(parse_label_config(self.label_config or "<View/>"), str(reason), prompts)
        if answer is None:
            return None
        self.services.metrics.errors.labels(type(reason).__name__).inc()
        note(error=type(reason).__name__)
        return [self._entry(answer) for _ in tasks]

    def fit(self, event: str, data: Json, **_params: Any) -> dict[str, str]:
        """Writes an event down and returns at once, since Label Studio lets the annotator wait for it."""
        known = event if event in ACTIONS else "other"
        self.services.metrics.events.labels(known).inc()
        kept = self.services.events.note(str(self.project_id), known, data)
        self.services.effort.told(known, data, self.label_config)
        self.services.learner.wake()
        log.info("event %s in project %s%s", known, loggable(self.project_id), "" if kept else ", in memory only")
        return {"event": known}

    def _interactive(self, task: Task, config: LabelConfig, context: Context, work: Work) -> Answer:
        try:
            return self._measured(task, config, context, work) or Answer()
        except CancelledError:
            if self.services.admission.stopping:
                return words_only(config, STOPPING, context) or Answer()
            return Answer()  # a newer prompt took its place; the editor shows that one's answer only
        except EXPECTED as error:
            words = words_only(config, str(error), context)
            if words is None:
                raise
            return words

    def _predictions(self, tasks: list[Task], config: LabelConfig) -> list[dict[str, Any]]:
        """What fits into Label Studio's patience; the tasks left out are asked for again by the next action."""
        start = time.monotonic()
        longest, entries, failures = 0.0, [], []
        for task in tasks:
            begun = time.monotonic()
            if entries and begun - start + longest > self.services.settings.batch_seconds:
                log.warning("batch stopped after %d of %d tasks: out of time", len(entries), len(tasks))
                break
            if self.services.admission.stopping:
                log.warning("batch stopped after %d of %d tasks: the server stops", len(entries), len(tasks))
                break
            try:
                left = self.services.settings.batch_seconds - (begun - start)
                entries.append(self._entry(self._measured(task, config, None, seconds=left)))
            except EXPECTED as error:
                failures.append(error)
                entries.append(self._entry(None))
            longest = max(longest, time.monotonic() - begun)
        if len(failures) == len(tasks):
            raise failures[0]
        return entries + [self._entry(None)] * (len(tasks) - len(entries))

    def _measured(
        self, task: Task, config: LabelConfig, context: Context | None, work: Work | None = None,
        seconds: float | None = None,
    ) -> Answer | None:  # fmt: skip
        """The answer, measured; what nobody expected becomes an error that can be shown."""
        config = config.for_task(task.data)
        with measured(self.services.metrics, task.id, kind_of(context)) as outcome:
            if context is None:
                answer = answer_opened(self.services, task, config, seconds)
            else:
                answer = answer_context(self.services, task, config, context, work or Work())
            outcome.masks = answer.masks if answer else 0
            with stage("journal"):
                kept = self.services.journal.flush()
        if context is None:
            return answer
        told = " ".join(filter(None, ("" if kept else NOT_KEPT, self.services.learner.sentence(str(self.project_id)))))
        return with_words(config, answer, told) if told else answer

    def _entry(self, answer: Answer | None) -> dict[str, Any]:
        entry: dict[str, Any] = {"model_version": self.services.model_version}
        if answer is not None:
            entry["result"] = answer.items
            if answer.score is not None:
                entry["score"] = answer.score
        return entry
