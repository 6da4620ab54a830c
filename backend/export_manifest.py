"""``manifest.json``: what is in an export, where each mask is from, and the numbers that later exports keep."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ijson

from backend.export_dataset import DataSet, Item, item_size, objects_only, sized_items
from backend.export_files import Output, compact, write_list
from backend.export_rows import ORIGINS
from backend.export_staging import ExportError, Staging

VERSION = 1
NAME = "manifest.json"
_ASIDE = ".manifest.earlier.json"


def item_entry(data: DataSet, item: Item) -> dict[str, Any]:
    """What the manifest says about an item: its tasks and annotations, and of each object on which frames it was left
    as proposed, changed, accepted or drawn."""
    known: list[int] = []
    frames: dict[str, dict[str, list[int]]] = {name: {} for name in item.objects}
    agreed: dict[str, Any] = {}
    for frame, drawn in data.known_frames(item):
        known.append(frame.number)
        for one in objects_only(drawn):
            frames[one.object].setdefault(one.origin, []).append(frame.number)
            agreed[one.object] = one.agreement
    height, width = item_size(data, item)
    return {
        "key": item.key,
        "name": item.name,
        "kind": "video" if item.paged else "picture",
        "size": [height, width],
        "length": item.length,
        "split": item.split,
        "known": ranges(known),
        "tasks": list(item.tasks),
        "objects": [
            {
                "id": one.number,
                "name": name,
                "category": one.label,
                **{origin: ranges(frames[name][origin]) for origin in ORIGINS if origin in frames[name]},
                **_agreement(agreed.get(name)),
            }
            for name, one in item.objects.items()
        ],
    }


def _agreement(found: tuple[int, int, float] | None) -> dict[str, Any]:
    return {} if found is None else {"agreement": dict(zip(("annotators", "drew", "overlap"), found, strict=True))}


def ranges(numbers: Iterable[int]) -> str:
    """``0-3,7`` of ascending numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


def write_manifest(data: DataSet, out: Output, about: Mapping[str, Any], files: Iterable[str]) -> None:
    """The last file to be written."""
    with out.text(NAME) as file:
        head = compact({**about, "skipped": data.skipped()})
        file.write(f"{head[:-1]},\n")
        categories = ({"id": c.number, "name": c.name, "thing": c.thing} for c in data.categories())
        write_list(file, "categories", categories)
        write_list(file, "files", iter(files))
        write_list(file, "items", (item_entry(data, item) for item in sized_items(data)), last=True)
        file.write("}\n")


def standing(directory: Path) -> Path | None:
    """The manifest of the last export that was finished in a directory; None where there is none."""
    return next((path for path in (directory / NAME, directory / _ASIDE) if path.is_file()), None)


@contextmanager
def set_aside(directory: Path) -> Iterator[None]:
    """While files are renewed nothing says that the export is whole; after a stop the numbers are still known."""
    own, aside = directory / NAME, directory / _ASIDE
    if own.is_file():
        try:
            os.replace(own, aside)
        except OSError as error:
            raise ExportError(f"{own} can't be renewed ({error.strerror}); mend its rights.") from error
    yield
    with suppress(OSError):  # the newer one counts
        aside.unlink(missing_ok=True)


def forget_earlier(staging: Staging) -> None:
    """Numbers that a run took, or gave, before it was stopped."""
    for table in ("category", "earlier_object", "earlier_file"):
        staging.database.execute(f"DELETE FROM {table}")


def read_numbers(path: Path, staging: Staging) -> None:
    """Takes the numbers of categories and objects from a manifest.

    :raises ExportError: it is no manifest of an export.
    """
    with _read(path):
        for entry in _entries(path, "categories.item"):
            staging.database.execute("INSERT INTO category VALUES (?, ?)", (str(entry["name"]), int(entry["id"])))
        for entry in _entries(path, "items.item"):
            entry = entry.get("export", entry)
            rows = ((entry["key"], str(one["name"]), int(one["id"])) for one in entry["objects"])
            staging.database.executemany("INSERT INTO earlier_object VALUES (?, ?, ?)", rows)


def read_files(path: Path, staging: Staging) -> None:
    """Takes the list of files from a manifest.

    :raises ExportError: it is no manifest of an export.
    """
    with _read(path):
        rows = ((str(name),) for name in _entries(path, "files.item"))
        staging.database.executemany("INSERT OR IGNORE INTO earlier_file VALUES (?)", rows)


@contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"{path} can't be read ({error.strerror}); name another manifest.") from error
    except (ijson.JSONError, KeyError, TypeError, ValueError, AttributeError, sqlite3.IntegrityError) as error:
        raise ExportError(
            f"{path} is no manifest of an export ({type(error).__name__}); name another one, or another --out."
        ) from error


def format_of(path: Path) -> str:
    """The format of an export, from its manifest; empty where it can't be told."""
    try:
        with path.open("rb") as file:
            return next((str(value) for value in ijson.items(file, "format")), "")
    except (OSError, ijson.JSONError):
        return ""


def _entries(path: Path, prefix: str) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from ijson.items(file, prefix, use_float=True)
