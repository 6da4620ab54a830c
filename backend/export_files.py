"""Files of an export: each takes its name when it is complete, lists are written entry by entry, and what was written
before a stop is not written again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from backend.export_staging import ExportError, Staging
from x2sam.data.readers.files import inside

_EVERY = 500
_OURS = (".json", ".png", ".txt")


class Output:
    """The directory of an export. Paths are relative to it, with ``/``."""

    def __init__(self, directory: Path, staging: Staging):
        self.directory, self._staging, self._since = directory, staging, 0

    @contextmanager
    def text(self, path: str) -> Iterator[TextIO]:
        """A text file that is there when all of it is."""
        with self._part(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        self._note(path, "")

    def picture(self, path: str, content: str, make: Callable[[], bytes]) -> None:
        """A file made by ``make``, unless a run that was stopped wrote it with the same ``content`` already."""
        known = next(self._staging.rows("SELECT content FROM file WHERE path = ?", (path,)), None)
        if known != (content,) or not (self.directory / path).is_file():
            with self._part(path) as part:
                part.write_bytes(make())
        self._note(path, content)

    def wrote(self, path: str) -> None:
        """Takes note of a file that somebody else wrote."""
        self._note(path, "")

    def files(self) -> Iterator[str]:
        """What was written in this run, in order of names."""
        query = "SELECT path FROM file WHERE run = ? AND path <> 'manifest.json' ORDER BY path"
        return (path for (path,) in self._staging.rows(query, (self._staging.run,)))

    def remove_others(self) -> None:
        """Removes what earlier exports wrote here, by their own lists, and this one did not."""
        query = (
            "SELECT path FROM (SELECT path FROM earlier_file UNION SELECT path FROM file) "
            "EXCEPT SELECT path FROM file WHERE run = ?"
        )
        for (path,) in self._staging.rows(query, (self._staging.run,)):
            if path.endswith(_OURS):
                file = inside(self.directory, path, "the manifest")
                file.unlink(missing_ok=True)
                if file.parent != self.directory:
                    with suppress(OSError):  # something else is in it
                        file.parent.rmdir()

    def _note(self, path: str, content: str) -> None:
        row = (path, content, self._staging.run)
        self._staging.database.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?)", row)
        self._since += 1
        if self._since >= _EVERY:
            self._staging.save()
            self._since = 0

    @contextmanager
    def _part(self, path: str) -> Iterator[Path]:
        whole = self.directory / path
        part = whole.with_name(f".{whole.name}.part")  # nobody else writes here: the staging file is held
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, whole)
        except OSError as error:
            raise ExportError(f"{whole} can't be written ({error.strerror}); free space or mend its rights.") from error
        finally:
            part.unlink(missing_ok=True)


def write_list(file: TextIO, name: str, entries: Iterator[Any], last: bool = False) -> None:
    """``"name": [...]`` of a JSON object, an entry a line."""
    file.write(f'"{name}": [')
    for number, entry in enumerate(entries):
        file.write(",\n" if number else "\n")
        file.write(compact(entry))
    file.write("]\n" if last else "],\n")


def compact(value: Any) -> str:
    """JSON in one line; numbers that are none are refused."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
