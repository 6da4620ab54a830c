"""``manifest.json``: what is in an export, where each mask is from, and the numbers that later exports keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ijson

from backend.export_dataset import DataSet, Item, item_size, objects_only, sized_items
from backend.export_files import Output, compact, write_list
from backend.export_rows import ORIGINS
from backend.export_staging import ExportError, Staging

VERSION = 1
NAME = "manifest.json"


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


def read_earlier(path: Path, staging: Staging, files_too: bool) -> None:
    """Takes the numbers of categories and objects from a manifest, and with ``files_too`` the list of its files.

    :raises ExportError: it is no manifest of an export.
    """
    database = staging.database
    for table in ("category", "earlier_object", "earlier_file"):
        database.execute(f"DELETE FROM {table}")
    try:
        for entry in _entries(path, "categories.item"):
            database.execute("INSERT INTO category VALUES (?, ?)", (str(entry["name"]), int(entry["id"])))
        for entry in _entries(path, "items.item"):
            entry = entry.get("export", entry)
            rows = ((entry["key"], str(one["name"]), int(one["id"])) for one in entry["objects"])
            database.executemany("INSERT INTO earlier_object VALUES (?, ?, ?)", rows)
        if files_too:
            rows = ((str(name),) for name in _entries(path, "files.item"))
            database.executemany("INSERT OR IGNORE INTO earlier_file VALUES (?)", rows)
    except (OSError, ijson.JSONError, KeyError, TypeError, ValueError, AttributeError, sqlite3.IntegrityError) as error:
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
