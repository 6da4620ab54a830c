"""Tasks to export, one at a time: from a JSON export of Label Studio, or from its API."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ijson
import orjson

from backend.export_staging import ExportError
from backend.label_config import LabelConfig, parse_label_config
from backend.label_studio_api import LabelStudioApi

Known = Callable[[int, str], bool]
"""Whether a task was taken already, as it was then: its number and stamp."""
Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""
_AT_ONCE = 8  # tasks of one request


@dataclass(frozen=True)
class Fetched:
    """A task and a stamp that changes when the task does; ``content`` is None of those that were taken already."""

    task: int
    stamp: str
    content: Mapping[str, Any] | None


class TaskSource(Protocol):
    """Where tasks come from. ``config`` is None where it is not known; ``name`` stands in the staging's options."""

    config: LabelConfig | None
    name: str

    def tasks(self, known: Known, progress: Progress) -> Iterator[Fetched]: ...


class JsonFile:
    """A JSON export of Label Studio, read task by task.

    Raises :class:`ExportError` where it is none. ``xml`` is the project's labeling configuration.
    """

    def __init__(self, path: Path, xml: str = ""):
        self._path = path
        self.config = parse_label_config(xml) if xml else None
        self.name = f"file {_digest(xml)}"

    def tasks(self, known: Known, progress: Progress) -> Iterator[Fetched]:
        try:
            whole = self._path.stat().st_size
            with self._path.open("rb") as file:
                for number, task in enumerate(ijson.items(file, "item", use_float=True)):
                    yield self._fetched(task, number, known)
                    progress(file.tell(), whole)
                if file.tell() == 0 or not self._is_list():
                    raise ExportError(self._told("is no list of tasks"))
        except OSError as error:
            raise ExportError(f"{self._path} can't be read ({error.strerror}); check the path.") from error
        except ijson.JSONError as error:
            raise ExportError(self._told("is not JSON, or was cut")) from error

    def _fetched(self, task: Any, number: int, known: Known) -> Fetched:
        identity = task.get("id") if isinstance(task, dict) else None
        if isinstance(identity, bool) or not isinstance(identity, int):
            raise ExportError(self._told(f"has no task with a number at place {number}"))
        if not isinstance(task.get("annotations"), list):  # JSON-MIN has numbers, too, but no annotations
            raise ExportError(self._told("has tasks without a list of annotations"))
        try:
            stamp = hashlib.blake2b(orjson.dumps(task), digest_size=16).hexdigest()
        except orjson.JSONEncodeError as error:
            raise ExportError(self._told(f"has entries too deep within each other in task {identity}")) from error
        return Fetched(identity, stamp, None if known(identity, stamp) else task)

    def _is_list(self) -> bool:
        with self._path.open("rb") as file:
            return file.read(64).decode("utf-8-sig", "replace").lstrip().startswith("[")

    def _told(self, what: str) -> str:
        return f"{self._path} {what}; export the project from Label Studio as JSON (not JSON-MIN) again."


class Project:
    """A project of Label Studio, asked page by page; tasks that did not change since they were taken are not asked.
    ``title`` is its name."""

    def __init__(self, api: LabelStudioApi, project: int):
        self._api, self._project = api, project
        settings = api.project(project)
        xml, self.title = settings.get("label_config") or "<View/>", str(settings.get("title") or "")
        self.config = parse_label_config(xml)
        self.name = f"project {project} of {api.url} {_digest(xml)}"

    def tasks(self, known: Known, progress: Progress) -> Iterator[Fetched]:
        listed = list(self._api.listing(self._project))
        waiting: list[tuple[int, str]] = []
        for done, (task, stamp) in enumerate(listed, 1):
            if known(task, stamp):
                yield from self._fetched(waiting)
                yield Fetched(task, stamp, None)
                waiting = []
            else:
                waiting.append((task, stamp))
            if len(waiting) == _AT_ONCE:
                yield from self._fetched(waiting)
                waiting = []
            progress(done, len(listed))
        yield from self._fetched(waiting)

    def _fetched(self, wanted: Sequence[tuple[int, str]]) -> Iterator[Fetched]:
        stamps = dict(wanted)
        if stamps:
            for task in self._api.whole_tasks(self._project, list(stamps)):
                if task["id"] in stamps:
                    yield Fetched(task["id"], stamps[task["id"]], task)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
