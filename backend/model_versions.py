"""Versions of the model that were learned from corrections: a directory for each, and one small file that tells which
of them serves.

Below ``X2SAM_STATE_DIR``::

    models/models.json        the table, replaced as a whole; written last, so it never names half a version
    models/<version>/         config.json, model.safetensors, tokenizer/, about.json: never changed once it is there

The server, the commands and a training run may look and write at once: changes are made under a lock of the file
system, which a kill releases.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.errors import BackendError

log = logging.getLogger(__name__)

_TABLE, _ABOUT, _PART = "models.json", "about.json", ".part"
_FORMAT = {"format": "x2sam-models", "version": 1}
_NEEDED = ("config.json", "model.safetensors", "tokenizer/tokenizer.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HISTORY = 50
CANDIDATE, REFUSED, PROMOTED, BROKEN = "candidate", "refused", "promoted", "broken"


class ModelVersionError(BackendError):
    """A version can't be kept or used; the text says why and what to do."""


@dataclass(frozen=True)
class Version:
    """One version.

    name:    that of the engine when it is loaded: kind and digest of the weights
    root:    version of the model, of the settings, that the line of trainings began with
    parent:  version that this one began with
    state:   ``candidate``, ``refused``, ``promoted`` (at least once) or ``broken``
    reason:  of that, in words
    project: of the corrections; made: seconds since 1970; files: digest (SHA-256) of each file
    scores:  what was measured before it was decided
    """

    name: str
    root: str
    parent: str
    state: str = CANDIDATE
    reason: str = ""
    project: str = ""
    made: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All versions, oldest first. ``current`` is the one that serves, "" the model of the settings; ``history`` are
    those that served before, the latest last."""

    versions: Mapping[str, Version] = field(default_factory=dict)
    current: str = ""
    history: tuple[str, ...] = ()


class ModelVersions:
    """Below ``folder``; at most ``keep`` versions are kept, those that serve or are next in a rollback always."""

    def __init__(self, folder: Path, keep: int = 5, clock: Callable[[], float] = time.time):
        self._folder, self._keep, self._clock = folder, keep, clock

    def directory(self, name: str) -> Path:
        """Where a version is."""
        return self._folder / name

    def stamp(self) -> tuple[int, int, int]:
        """Changes whenever the table does."""
        try:
            found = (self._folder / _TABLE).stat()
        except OSError:
            return (0, 0, 0)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def table(self) -> Table:
        """The table as it is; an empty one where there is none.

        :raises ModelVersionError: it can't be read.
        """
        path = self._folder / _TABLE
        try:
            return _parsed(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Table()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelVersionError(
                f"{path} can't be read ({type(error).__name__}); the model of the settings serves. Move the file away: "
                "the versions beside it are listed anew."
            ) from error

    def add(self, source: Path, version: Version) -> Version:
        """Takes in the files of ``source``, which may be on another disk; the version as it stands in the table.

        :raises ModelVersionError: a file is missing, or the disk does not take them.
        """
        if not _NAME.fullmatch(version.name):
            raise ModelVersionError(f"{version.name[:60]!r} is no name for a version.")
        for name in _NEEDED:
            if not (source / name).is_file():
                raise ModelVersionError(f"{source} has no {name}; it is no whole model, so it was not taken.")
        with self._change() as change:
            place, part = self.directory(version.name), self._folder / f"{version.name}{_PART}"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            files = {name: digest for name, digest in _digests(part)}
            version = replace(version, files=files, made=version.made or self._clock())
            _write(part / _ABOUT, asdict(version))
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)
            change.table = self._pruned(_with(change.table, version))
        return version

    def check(self, name: str) -> Version:
        """The version, after each of its files was read and compared.

        :raises ModelVersionError: there is none of this name, or a file is damaged or missing.
        """
        version = self._known(self.table(), name)
        found = dict(_digests(self.directory(name)))
        wrong = sorted(one for one, digest in version.files.items() if found.get(one) != digest)
        if wrong or not version.files:
            raise ModelVersionError(f"Version {name} is damaged ({', '.join(wrong) or 'no files'}); train it again.")
        return version

    def promote(self, name: str, reason: str = "") -> None:
        """From now on this version serves; running servers take it within seconds. "" is the model of the settings.

        :raises ModelVersionError: there is none of this name, or it is damaged.
        """
        if name:
            self.check(name)
        with self._change() as change:
            table = change.table
            if name:
                version = self._known(table, name)
                table = _with(table, replace(version, state=PROMOTED, reason=reason or version.reason))
            history = table.history if table.current == name else (*table.history, table.current)
            change.table = self._pruned(replace(table, current=name, history=history[-_HISTORY:]))

    def rollback(self) -> str:
        """The version that served before serves again; its name, "" for the model of the settings.

        :raises ModelVersionError: none served before.
        """
        with self._change() as change:
            change.table = _before(change.table)
            return change.table.current

    def decided(self, name: str, state: str, reason: str) -> None:
        """Writes down what became of a version. One that is broken serves no longer: the one before takes its place."""
        with self._change() as change:
            table = change.table
            if name in table.versions:
                table = _with(table, replace(table.versions[name], state=state, reason=reason[:500]))
            change.table = _before(table) if state == BROKEN and table.current == name else table

    # inside

    @staticmethod
    def _known(table: Table, name: str) -> Version:
        if name not in table.versions:
            known = ", ".join(table.versions) or "none yet"
            raise ModelVersionError(f"There is no version {name[:100]!r}; there are: {known}.")
        return table.versions[name]

    @contextlib.contextmanager
    def _change(self) -> Iterator[_Change]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._folder / ".lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                change = _Change(self._standing())
                before = change.table
                yield change
                if change.table != before:
                    about = {name: asdict(one) for name, one in change.table.versions.items()}
                    table = {"current": change.table.current, "history": list(change.table.history), "versions": about}
                    _write(self._folder / _TABLE, _FORMAT | table)
                    self._tidy(change.table)
        except OSError as error:
            raise ModelVersionError(
                f"{self._folder} can't be written ({error.strerror}); free some space or mend X2SAM_STATE_DIR. The "
                "version that serves stays."
            ) from error

    def _standing(self) -> Table:
        """The table, or what the directories tell where it is damaged."""
        try:
            if (self._folder / _TABLE).exists():
                return self.table()
        except ModelVersionError as error:
            log.error("%s", error)
            (self._folder / _TABLE).rename(self._folder / f"models-damaged-{time.strftime('%Y%m%d-%H%M%S')}.json")
        found = []
        for path in self._folder.glob(f"*/{_ABOUT}"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Version(**json.loads(path.read_text(encoding="utf-8"))))
        found.sort(key=lambda one: one.made)
        return Table({one.name: one for one in found if _NAME.fullmatch(one.name)})

    def _pruned(self, table: Table) -> Table:
        held = {table.current, *table.history[-1:]}
        free = [name for name in table.versions if name not in held]
        gone = set(free[: max(0, len(table.versions) - self._keep)])
        versions = {name: one for name, one in table.versions.items() if name not in gone}
        return replace(table, versions=versions, history=tuple(one for one in table.history if one not in gone))

    def _tidy(self, table: Table) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in table.versions:
                shutil.rmtree(path, ignore_errors=True)


@dataclass
class _Change:
    table: Table


def _before(table: Table) -> Table:
    """The table with the version that served before; :class:`ModelVersionError` where none did."""
    history = list(table.history)
    while history:
        name = history.pop()
        if not name or (name in table.versions and table.versions[name].state != BROKEN):
            return replace(table, current=name, history=tuple(history))
    if not table.current:
        raise ModelVersionError("No version served before the one that serves now.")
    return replace(table, current="", history=())


def _with(table: Table, version: Version) -> Table:
    return replace(table, versions={**table.versions, version.name: version})


def _parsed(content: Any) -> Table:
    if {key: content[key] for key in _FORMAT} != _FORMAT:
        raise ValueError("another format")
    versions = {name: Version(**about) for name, about in content["versions"].items()}
    current, history = content["current"], tuple(content["history"])
    if not all(not name or _NAME.fullmatch(name) for name in (*versions, current, *history)):
        raise ValueError("a name")
    return Table(versions, current if current in versions else "", history)


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _ABOUT:
            with path.open("rb") as file:
                yield path.relative_to(folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}{_PART}")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=dict)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
