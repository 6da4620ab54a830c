"""Where pre-annotation gets its answers from: a table of engines, each a :class:`Predictor` that others can be put
beside.

A predictor takes tasks as Label Studio lists them and gives for each what it found, in any order; it knows nothing of
the API, of what was sent, or of scores. :class:`Asked` and :class:`Prepared` are plain values, so that they can go to
another process and back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.answers import Answer, Services, frames_of
from backend.app import close_services, create_services, models_folder
from backend.categories import category_ask
from backend.clip_words import session_on
from backend.engines import BATCH_PRIORITY, EngineLoader
from backend.errors import EXPECTED, LabelConfigError, SettingsError
from backend.evidence import Work
from backend.hot_swap import HotSwap, VersionLoader
from backend.journal import Journal
from backend.label_config import MODES, ControlTag, LabelConfig, labels_of, parse_label_config
from backend.measuring import measured
from backend.model_versions import ModelVersions
from backend.opened import answer_opened
from backend.predicted import predict_pages
from backend.prompted import answer_context
from backend.protocol import Context, Json, Task, TypedText, parse_task
from backend.results import Item
from backend.settings import Settings
from backend.words import label_for, needs_label, text_asks
from x2sam.structures import Prompt

_TASK_SECONDS = 3600.0  # that looking for things in a clip and carrying them may take: nobody waits
_PAGES = 4  # of a clip, that are surveyed
_TYPED = "preannotate"  # id of the text that stands for what somebody might have typed


@dataclass(frozen=True)
class Asked:
    """What is asked of every task of a project with the labeling configuration ``xml``: its labels by name, or the
    ``prompt``; only of these ``labels``, if any are named."""

    project: int
    xml: str
    labels: tuple[str, ...] = ()
    prompt: str = ""

    def name(self, url: str, version: str) -> str:
        """Tells questions to models of this version about projects of the Label Studio at ``url`` apart."""
        about = json.dumps([url, version, self.project, self.xml, self.labels, self.prompt])
        return hashlib.blake2b(about.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def config(self) -> LabelConfig:
        """The labeling configuration with what was asked: other labels gone, clips filled too, a field for the text.

        :raises LabelConfigError: it has no such label, no picture, no tag for masks, or says that nothing is filled.
        """
        return configured(parse_label_config(self.xml), self.labels, self.prompt)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What was found in a task. ``error`` 0..1 is to be expected of it, ``vector`` float32 (D,) is what it looks like;
    None where nothing could be told. ``problem`` says why there is nothing to send."""

    task: int
    items: tuple[Item, ...] = ()
    masks: int = 0
    error: float | None = None
    vector: np.ndarray | None = None
    problem: str = ""


class Predictor(Protocol):
    """``version`` is the model's, as predictions carry it."""

    version: str

    def predict(self, tasks: Iterable[Json]) -> Iterator[Prepared]: ...


@dataclass(frozen=True)
class Place:
    """What an engine needs to start: settings, a ``folder`` of its own for what must outlive it, and how models are
    loaded."""

    settings: Settings
    folder: Path
    loader: Callable[[Settings], VersionLoader]


def configured(config: LabelConfig, labels: tuple[str, ...] = (), prompt: str = "") -> LabelConfig:
    """See :meth:`Asked.config`."""
    tag = config.picture()
    if tag is None or tag.kind == "video":
        raise LabelConfigError("The project shows no pictures or pages of pictures; masks need an Image tag.")
    outputs = {control.name for control in config.outputs(tag.name)}
    controls = dict(config.controls)
    if labels:
        wanted = {label.strip().casefold() for label in labels}
        pairs = config.labels_on(tag.name)
        known = {name.casefold(): own.value for own, _ in pairs for name in (own.value, *own.names)}
        strange = sorted(label for label in labels if label.strip().casefold() not in known)
        if strange:
            have = ", ".join(dict.fromkeys(known.values()))
            names = ", ".join(map(repr, strange))
            raise LabelConfigError(f"The project has no label {names} for masks; it has {have}.")
        values = {known[name] for name in wanted}
        controls |= {name: _with_labels(controls[name], values) for name in outputs}
    if not any(controls[name].mode not in (None, "off") for name in outputs):
        # somebody asks for it, so clips are filled without a hint as well
        unhinted = [name for name in outputs if controls[name].mode is None]
        controls |= {name: _hinted(controls[name]) for name in unhinted}
    made = replace(config, controls=controls)
    if not prompt:
        if category_ask(Task("0", {}, frozenset()), made, tag.name) is None:
            raise LabelConfigError('Every tag for masks says preannotate="off"; change that, or give --prompt.')
        return made
    if not any(made.is_text_prompt(name) for name in controls):
        made = replace(made, controls=controls | {_TYPED: ControlTag(_TYPED, "textarea", (tag.name,), (), {})})
    _check_label(made, prompt)
    return made


def _with_labels(control: ControlTag, values: set[str]) -> ControlTag:
    return replace(control, labels=tuple(label for label in control.labels if label.value in values))


def _hinted(control: ControlTag) -> ControlTag:
    return replace(control, attributes={**control.attributes, "preannotate": MODES[2]})


def _check_label(config: LabelConfig, prompt: str) -> None:
    """Raises where nobody can tell which label the answer to a phrase gets: no task would get any."""
    (ask,) = text_asks(Task("0", {}, frozenset()), [_typed(config, prompt)], config, _labels(config))
    if needs_label(ask) and not ask.label and label_for(_labels(config), ask.typed) is None:
        have = ", ".join(label.value for label in _labels(config))
        raise LabelConfigError(
            f"Which label do the masks get: {have}? Name it before the text, as in --prompt '{have.split(', ')[0]}: "
            f"{prompt}', or choose one with --labels."
        )


def _labels(config: LabelConfig) -> list:
    return [label for label, _ in labels_of(config.outputs(config.picture().name))]


def _typed(config: LabelConfig, prompt: str) -> TypedText:
    field = next(name for name in config.controls if config.is_text_prompt(name))
    return TypedText(_TYPED, field, config.picture().name, None, prompt)


class LocalPredictor:
    """The model in this process, by the paths that a task goes when somebody opens it."""

    def __init__(self, place: Place, asked: Asked):
        settings = place.settings
        # as little besides as can be: no tasks are encoded ahead, and no answer has to be there within a request
        changes = {"warm_tasks": 0, "track_seconds": _TASK_SECONDS, "batch_seconds": _TASK_SECONDS, "engine": "local"}
        settings = replace(settings, **changes)
        self.config, self.prompt, self._ended = asked.config(), asked.prompt, False
        # the version that serves now, to the end of the run, whatever is promoted meanwhile
        loader, versions = place.loader(settings), ModelVersions(models_folder(settings), settings.versions)
        engine = HotSwap(EngineLoader(loader.base), versions, loader, lambda version: None).first()
        self.version = engine.version
        # tracks that a killed run left are gone on with, those of another question or model are not
        self._folder = place.folder / asked.name(settings.label_studio_url, self.version)
        journal = Journal(self._folder, settings.journal_bytes, settings.journal_days * 86400)
        self.services: Services = create_services(settings, lambda: engine, journal=journal)

    def close(self) -> None:
        close_services(self.services)
        if self._ended:
            shutil.rmtree(self._folder, ignore_errors=True)

    def predict(self, tasks: Iterable[Json]) -> Iterator[Prepared]:
        for raw in tasks:
            try:
                yield self._prepared(parse_task(raw))
            except EXPECTED as error:
                yield Prepared(raw["id"], problem=str(error))
        self._ended = True

    def _prepared(self, task: Task) -> Prepared:
        with measured(self.services.metrics, task.id, "batch") as outcome:
            answer = self._answer(task)
            outcome.masks = answer.masks
            error, vector = self._survey(task)
        self.services.journal.flush()
        return Prepared(int(task.id), tuple(answer.items), answer.masks, error, vector)

    def _answer(self, task: Task) -> Answer:
        """The prediction of a task, when all that goes on in the background for it has ended."""
        self._wait(task)  # for what a killed run left
        if self.prompt:
            found = predict_pages(self.services, task, self.config)
            context = Context(texts=(_typed(self.config, self.prompt),))
            found = found or answer_context(self.services, task, self.config, context, Work())
        else:
            found = answer_opened(self.services, task, self.config, _TASK_SECONDS)
        if self._wait(task):
            found = predict_pages(self.services, task, self.config)
        return found or Answer()

    def _wait(self, task: Task) -> bool:
        """Whether tracks of the task ran; they have ended when this returns."""
        running = [job for job in self.services.tracks.of_task(task.id) if job.running]
        for job in running:
            while job.running:
                job.wait(_TASK_SECONDS)
        return bool(running)

    def _survey(self, task: Task) -> tuple[float, np.ndarray]:
        """The expected error of a task and what it looks like: of a clip the means over a few of its pages."""
        tag = self.config.picture()
        frames, _ = frames_of(self.services, tag, task)
        prompt = self._question(task)
        pages = sorted(set(np.linspace(0, len(frames) - 1, _PAGES).round().astype(int).tolist()))
        with session_on(self.services, frames) as session:
            seen = [session.survey(prompt, page, priority=BATCH_PRIORITY) for page in pages]
        return float(np.mean([one.error for one in seen])), np.mean([one.vector for one in seen], axis=0)

    def _question(self, task: Task) -> Prompt:
        if self.prompt:
            (ask,) = text_asks(task, [_typed(self.config, self.prompt)], self.config, _labels(self.config))
        else:
            ask, _ = category_ask(task, self.config, self.config.picture().name)
        return ask.prompt


@contextmanager
def _local(place: Place, asked: Asked) -> Iterator[Predictor]:
    predictor = LocalPredictor(place, asked)
    try:
        yield predictor
    finally:
        predictor.close()


@contextmanager
def _ray(place: Place, asked: Asked) -> Iterator[Predictor]:
    try:
        from backend.preannotate_ray import on_ray
    except ModuleNotFoundError as error:
        raise SettingsError(f"--engine ray needs {error.name}: pip install 'ray[serve,data]'.") from error
    with on_ray(place, asked) as predictor:
        yield predictor


ENGINES: Mapping[str, Callable[[Place, Asked], AbstractContextManager[Predictor]]] = {"local": _local, "ray": _ray}
"""``--engine``: how a predictor is opened, and closed when all is done."""
