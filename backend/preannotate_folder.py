"""Predictions for the pictures of a folder, made in bulk without a Label Studio.

What was found in a picture is one line in a file beside the results, written as soon as it is there: a run that was
killed goes on where it was, asks about no picture twice, and a line that the kill cut counts as none. Pictures that
changed since are asked about again. In the end the lines become what Label Studio imports, and data sets.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from backend.bodies import as_json_text
from backend.errors import LabelConfigError
from backend.export_run import Wanted as Export
from backend.export_run import export
from backend.export_sources import JsonFile
from backend.preannotate import PreannotateError, Report, vector_table
from backend.preannotate_engines import Asked, Predictor, Prepared
from x2sam.inference.useful import useful_scores

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
STATE = ".preannotate.jsonl"
TASKS = "tasks.json"
LOCAL_FILES = "/data/local-files/?d="
_FAILED_IN_A_ROW = 20
_TOLD = 5
_DIGITS = 6


@dataclass(frozen=True)
class Folder:
    """What to do. ``prefix`` stands before a picture's path in the tasks; ``formats`` are those of ``export``;
    ``budget`` new pictures at most; ``version`` the predictions' name, the model's own where empty."""

    pictures: Path
    out: Path
    prefix: str = LOCAL_FILES
    formats: tuple[str, ...] = ()
    budget: int | None = None
    version: str = ""


@dataclass
class FolderDone:
    """What came of it: pictures in the folder, how many were asked about now and had an answer before; masks of those
    now, and pictures without any; those without an answer, the first ones by name; the files that were written."""

    model_version: str = ""
    pictures: int = 0
    sent: int = 0
    there: int = 0
    masks: int = 0
    empty: int = 0
    failed: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def preannotate_folder(
    folder: Folder, asked: Asked, open_predictor: Callable[[Asked], AbstractContextManager[Predictor]], report: Report
) -> FolderDone:
    """Asks about the pictures that have no answer yet, and writes the results of all.

    :raises PreannotateError: there are no pictures, the results of something else are in the way, or one picture after
        the other fails.
    :raises ExportError: a data set can't be written.
    """
    key = _key_of(asked)
    with open_predictor(asked) as predictor:
        version = folder.version or predictor.version
        lines = Lines(folder.out / STATE, {"asked": asdict(asked), "model_version": version})
        try:
            run = _Run(folder, key, lines, FolderDone(version), report)
            run.go(predictor)
            results = _Results(folder, key, lines, run.done)
            results.write_tasks()
        finally:
            lines.close()
    results.write_data_sets(asked.xml, report)
    return run.done


def pictures_below(folder: Path) -> Iterator[str]:
    """Paths of the pictures below a folder, in order, as they are named below it; hidden ones are none."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in PICTURES and not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix()


class Lines:
    """What was found, by the picture's path: a line each in a file that is only added to."""

    def __init__(self, path: Path, question: Mapping[str, Any]):
        self._path = path
        self._places: dict[str, tuple[str, int]] = {}  # stamp of the picture, and where its line begins
        head = orjson.dumps({"question": question}, option=orjson.OPT_SORT_KEYS) + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read(head)
            self._file.truncate(self._end)
            if not self._end:
                self._append(head)
        except BlockingIOError as error:
            raise PreannotateError(f"Another run writes into {path.parent}; wait for it.") from error
        except OSError as error:
            raise _refused(path, error) from error

    def _read(self, head: bytes) -> int:
        """How much of the file is whole."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            if not end and line != head:
                raise PreannotateError(
                    f"{self._path.parent} holds the answers to another question, or of another model: choose another "
                    "--out, or remove it."
                )
            if end:
                try:
                    found = orjson.loads(line)
                    self._places[found["path"]] = found["stamp"], end
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise PreannotateError(f"{self._path} is damaged; remove it to begin anew.") from error
            end += len(line)
        return end

    def known(self, path: str, stamp: str) -> bool:
        return path in self._places and self._places[path][0] == stamp

    def put(self, path: str, stamp: str, prepared: Prepared) -> None:
        """Takes note of an answer; it is in the file when this returns."""
        vector = None
        if prepared.vector is not None:
            vector = base64.b64encode(prepared.vector.astype(np.float16).tobytes()).decode()
        about = {"path": path, "stamp": stamp, "error": prepared.error, "vector": vector, "items": list(prepared.items)}
        place = self._end
        try:
            self._append(as_json_text(about) + b"\n")
        except OSError as error:
            self._file.truncate(place)
            raise _refused(self._path, error) from error
        self._places[path] = stamp, place

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        self._end += len(line)

    def read(self, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The lines of these pictures, one by one."""
        with self._path.open("rb") as file:
            for path in paths:
                file.seek(self._places[path][1])
                yield orjson.loads(file.readline())

    def paths(self) -> list[str]:
        """The pictures that there are lines of, in order."""
        return sorted(self._places)

    def close(self) -> None:
        self._file.close()


class _Run:
    """One run over a folder."""

    def __init__(self, folder: Folder, key: str, lines: Lines, done: FolderDone, report: Report):
        self._folder, self._key, self._lines, self.done, self._report = folder, key, lines, done, report
        self._waiting: dict[int, tuple[str, str]] = {}
        self._failed: dict[str, str] = {}

    def go(self, predictor: Predictor) -> None:
        """Every picture gets an answer, unless it has one. Those that fail are tried once more in the end."""
        names = list(pictures_below(self._folder.pictures))
        self.done.pictures = len(names)
        if not names:
            kinds = ", ".join(sorted(PICTURES))
            raise PreannotateError(f"There are no pictures below {self._folder.pictures} ({kinds}).")
        missing = [name for name in names if not self._lines.known(name, self._stamp(name))]
        self.done.there = len(names) - len(missing)
        if self._folder.budget is not None:
            places = np.linspace(0, len(missing) - 1, min(self._folder.budget, len(missing))).round().astype(int)
            missing = [missing[place] for place in places.tolist()]
        self._ask(predictor, missing)
        if self._failed:
            again, self._failed = list(self._failed), {}
            self._ask(predictor, again)
        self.done.failed = len(self._failed)
        self.done.problems = dict(list(self._failed.items())[:_TOLD])

    def _ask(self, predictor: Predictor, names: Sequence[str]) -> None:
        in_a_row = 0
        for prepared in predictor.predict(self._tasks(names)):
            name, stamp = self._waiting.pop(prepared.task)
            if prepared.problem:
                self._failed[name] = prepared.problem
                in_a_row += 1
                if in_a_row == _FAILED_IN_A_ROW:
                    raise PreannotateError(
                        f"{in_a_row} pictures in a row could not be answered, the last one because: "
                        f"{prepared.problem} Mend that and run the command again: it goes on where it stopped."
                    )
                continue
            in_a_row = 0
            self._lines.put(name, stamp, prepared)
            self.done.sent += 1
            self.done.masks += prepared.masks
            self.done.empty += not prepared.masks
            self._report("predictions", self.done.there + self.done.sent, self.done.pictures)

    def _tasks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for name in names:
            # by the path, so that names of regions are the same whenever a picture is asked about
            number = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).digest())
            while number in self._waiting:
                number += 1
            self._waiting[number] = name, self._stamp(name)
            yield {"id": number, "data": {self._key: LOCAL_FILES + quote(name)}}

    def _stamp(self, name: str) -> str:
        """Changes when the picture does."""
        try:
            status = (self._folder.pictures / name).stat()
        except OSError:  # it was removed; whoever reads it says so
            return "gone"
        return f"{status.st_size}-{status.st_mtime_ns}"


class _Results:
    """The lines as files that others read, the pictures in order."""

    def __init__(self, folder: Folder, key: str, lines: Lines, done: FolderDone):
        self._folder, self._key, self._lines, self._done = folder, key, lines, done
        self._paths = [path for path in lines.paths() if (folder.pictures / path).is_file()]

    def write_tasks(self) -> None:
        """What Label Studio imports: tasks with their predictions, scored as those of a project are."""
        scores = self._scores()
        self._write(self._folder.out / TASKS, (self._task(*pair) for pair in zip(self._rows(), scores, strict=True)))
        self._done.files.append(TASKS)

    def write_data_sets(self, xml: str, report: Report) -> None:
        """The masks in formats of ``export``, each in a folder of its own."""
        if not self._folder.formats:
            return
        file = self._folder.out / ".annotated.json"
        self._write(file, (self._annotated(number, row) for number, row in enumerate(self._rows(), 1)))
        try:
            for name in self._folder.formats:
                export(JsonFile(file, xml), Export(name, self._folder.out / name), report)
                self._done.files.append(name)
        finally:
            file.unlink(missing_ok=True)

    def _rows(self) -> Iterator[dict[str, Any]]:
        return self._lines.read(self._paths)

    def _scores(self) -> list[float]:
        errors, vectors = [], []
        for row in self._rows():
            errors.append(1.0 if row["error"] is None else row["error"])
            coded = base64.b64decode(row["vector"] or "")
            vectors.append(np.frombuffer(coded, np.float16).astype(np.float32))
        return useful_scores(np.array(errors), vector_table(vectors)).round(_DIGITS).tolist()

    def _task(self, row: Mapping[str, Any], score: float) -> dict[str, Any]:
        found = {"model_version": self._done.model_version, "score": score, "result": row["items"]}
        return {"data": self._data(row), "predictions": [found] if row["items"] else []}

    def _annotated(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": number, "data": self._data(row), "annotations": [{"id": number, "result": row["items"]}]}

    def _data(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {self._key: self._folder.prefix + quote(row["path"])}

    def _write(self, path: Path, tasks: Iterator[dict[str, Any]]) -> None:
        """A list of tasks, whole or not at all."""
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                for number, task in enumerate(tasks):
                    file.write((b",\n" if number else b"[\n") + as_json_text(task))
                file.write(b"\n]\n" if file.tell() else b"[]\n")
            part.replace(path)
        except OSError as error:
            raise _refused(path, error) from error


def _key_of(asked: Asked) -> str:
    """What tasks hold their picture under.

    :raises LabelConfigError: the labeling configuration shows no single pictures.
    """
    tag = asked.config().picture()
    if tag.pages or not tag.key.startswith("$"):
        raise LabelConfigError("A folder of pictures needs a labeling configuration with an Image tag for one picture.")
    return tag.key[1:]


def _refused(path: Path, error: OSError) -> PreannotateError:
    return PreannotateError(f"{path} can't be used ({error.strerror}); free space, or choose another --out.")
