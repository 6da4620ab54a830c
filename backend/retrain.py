"""From a project's corrections to a version of the model: collect, learn, compare, take or leave.

The network is trained and compared by ``python -m x2sam adapt``, a process of its own that lets people go first. What
happens is told in a file, for a server that looks on; a run that was stopped or killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.corrections import Collected, collect
from backend.errors import BackendError
from backend.export_run import Report
from backend.file_cache import FileCache
from backend.label_studio_api import LabelStudioApi
from backend.media import MediaFetcher
from backend.model_versions import REFUSED, ModelVersions, Table, Version
from backend.settings import Settings
from backend.starting import base_directory
from x2sam.placement import version_of

log = logging.getLogger(__name__)

PROGRESS, PEOPLE, OUTCOME = "progress.json", "people.lock", "outcome.json"
COLLECTING, TRAINING, COMPARING = "collecting", "training", "comparing"
_LOOK_SECONDS = 0.5
_TOLD_BYTES = 2000
_CACHE_BYTES = 256 << 20


class RetrainError(BackendError):
    """A training can't begin or was not finished; the text says why and what to do."""


class RunningError(RetrainError):
    """Another training has the device."""


@dataclass(frozen=True)
class Outcome:
    """What came of a training. ``version`` is the new one, ``promoted`` whether it serves from now on, ``reason`` in
    words why or why not."""

    project: int
    version: str
    promoted: bool
    reason: str
    masks: int
    pictures: int
    unfetched: int
    scores: dict[str, Any]


@dataclass(frozen=True)
class Learning:
    """The folder of trainings below ``X2SAM_STATE_DIR``: one runs at a time."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> Learning:
        return cls(Path(settings.state_dir).expanduser() / "learning")

    def project(self, project: int) -> Path:
        """Where the corrections of a project and the state of its training are."""
        return self.folder / f"project-{project}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """:raises RunningError: another training runs; RetrainError: the folder can't be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self.folder / "run.lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise RunningError("Another training runs; this one can begin when it has ended.") from error
                yield
        except OSError as error:
            raise RetrainError(
                f"{self.folder} can't be written ({error.strerror}); free some space or mend X2SAM_STATE_DIR."
            ) from error

    def tell(self, part: str, done: int, whole: int) -> None:
        """How far the part before the training is."""
        place = self.folder / PROGRESS
        part_file = place.with_name(f".{PROGRESS}.part")
        part_file.write_text(json.dumps({"part": part, "done": done, "of": whole, "waited": 0.0}), encoding="utf-8")
        part_file.replace(place)


def retrain(
    settings: Settings, project: int, steps: int = 0, seed: int = 0, report: Report = lambda *_: None
) -> Outcome:  # fmt: skip
    """Learns from a project's corrections; the version serves from now on where it is better, and nothing else changes.

    :raises RetrainError: another training runs, or this one failed; its log is named.
    :raises ExportError, LabelStudioError: the corrections can't be had.
    """
    learning = Learning.of(settings)
    with learning.alone():
        begun = time.time()
        place = learning.project(project)
        versions = ModelVersions(Path(settings.state_dir).expanduser() / "models", settings.versions)

        def collecting(what: str, done: int, whole: int) -> None:
            learning.tell(COLLECTING, done, whole)
            report(what, done, whole)

        try:
            collecting("tasks", 0, 0)
            fetcher = MediaFetcher(settings, FileCache(place / "fetched", _CACHE_BYTES, 3600))
            collected = collect(LabelStudioApi(settings), fetcher, project, place / "corrections", collecting)
            shutil.rmtree(place / "fetched", ignore_errors=True)
            if not collected.masks:
                raise RetrainError(
                    f"Nobody has submitted a mask in project {project} yet: there is nothing to learn from. Brushes, "
                    "bitmasks, polygons and ellipses count; boxes and points do not."
                )
            table = versions.table()
            learning.tell(TRAINING, 0, 0)  # its process takes seconds to begin
            found = _adapted(settings, versions, learning, place, steps, seed, report)
            outcome = _decided(versions, table, project, place, found, collected)
        finally:
            (learning.folder / PROGRESS).unlink(missing_ok=True)
        (learning.folder / OUTCOME).write_text(json.dumps(asdict(outcome) | {"begun": begun}), encoding="utf-8")
    log.info("training of project %d: %s", project, outcome.reason)
    return outcome


def _adapted(
    settings: Settings, versions: ModelVersions, learning: Learning, place: Path, steps: int, seed: int, report: Report
) -> dict[str, Any]:  # fmt: skip
    """What ``python -m x2sam adapt`` found. Its state stays for the next try unless it was finished."""
    verdict, begun = place / "verdict.json", place / "begun.json"
    verdict.unlink(missing_ok=True)
    start = str(_start(settings, versions))
    about = json.dumps({"model": start, "steps": steps, "seed": seed})
    if not begun.is_file() or begun.read_text(encoding="utf-8") != about:
        shutil.rmtree(place / "run", ignore_errors=True)  # of another beginning
        begun.write_text(about, encoding="utf-8")
    command = [
        sys.executable, "-m", "x2sam", "adapt", str(place / "corrections"), "--out", str(place), "--model", start,
        "--device", settings.device, "--steps", str(steps or settings.retrain_steps), "--seed", str(seed),
        "--gain", str(settings.promote_gain), "--loss", str(settings.promote_loss),
        "--objects", str(settings.promote_objects), "--people", str(learning.folder / PEOPLE),
        "--patience", str(settings.retrain_patience), "--progress", str(learning.folder / PROGRESS),
        "--json", str(verdict), *(["--general", settings.general_dir] if settings.general_dir else []),
    ]  # fmt: skip
    code = _run(command, settings, place / "log.txt", lambda: _watched(learning.folder / PROGRESS, report))
    if code or not verdict.is_file():
        raise RetrainError(f"The training ended with code {code}: {_last_words(place / 'log.txt')}")
    found = json.loads(verdict.read_text(encoding="utf-8"))
    for path in (place / "run" / "states", begun):  # the next training begins anew
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def _start(settings: Settings, versions: ModelVersions) -> Path:
    """The directory of the model that serves: it is gone on with. A version that began with another model does not."""
    table, base = versions.table(), base_directory(settings)
    if table.current and table.versions[table.current].root == version_of(base):
        versions.check(table.current)
        return versions.directory(table.current)
    return base


def _decided(
    versions: ModelVersions, table: Table, project: int, place: Path, found: dict[str, Any], collected: Collected
) -> Outcome:  # fmt: skip
    """``table`` as it was when the training began."""
    parent = table.versions.get(found["before"])
    scores = {name: found[name] for name in ("corrections", "general")}
    if found["after"] == found["before"]:
        raise RetrainError("The training changed nothing; raise X2SAM_RETRAIN_STEPS.")
    version = Version(
        found["after"], parent.root if parent else found["before"], found["before"], reason=found["reason"],
        project=str(project), scores=scores,
    )  # fmt: skip
    versions.add(Path(found["directory"]), version)
    if found["promoted"]:
        if versions.table().current != table.current:
            found |= {"promoted": False, "reason": "another version was chosen meanwhile; train again to go on from it"}
            versions.decided(version.name, REFUSED, found["reason"])
        else:
            versions.promote(version.name, found["reason"])
    else:
        versions.decided(version.name, REFUSED, found["reason"])
    shutil.rmtree(place / "run" / "model", ignore_errors=True)
    counts = (collected.masks, collected.items, collected.unfetched)
    return Outcome(project, version.name, found["promoted"], found["reason"], *counts, scores)


def _run(command: Sequence[str], settings: Settings, log_file: Path, look: Callable[[], None]) -> int:
    """The exit code of a child that ends with this process; what it says goes to a file."""
    environment = dict(os.environ)
    if settings.model_dir:
        environment["X2SAM_HOME"] = str(Path(settings.model_dir).expanduser())
    for name in ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN", "BASIC_AUTH_PASS", "X2SAM_WEBHOOK_SECRET"):
        environment.pop(name, None)  # it learns, it asks nobody
    with log_file.open("ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_SECONDS)
            look()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _watched(path: Path, report: Report) -> None:
    told = read_progress(path)
    if told is not None:
        report(told["part"], int(told["done"]), int(told["of"]))


def read_progress(path: Path) -> dict[str, Any] | None:
    """``part``, ``done``, ``of`` and ``waited`` of the training that runs; None where none does."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and told.keys() >= {"part", "done", "of", "waited"} else None


def _last_words(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TOLD_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1][:300] if lines else 'it told nothing'} (all of it in {path})"


