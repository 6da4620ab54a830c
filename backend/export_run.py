"""One export from beginning to end: tasks are taken, what was taken is settled, the format's files are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.export_dataset import Choices, DataSet, Splits, sized_items
from backend.export_files import Output
from backend.export_formats import FORMATS
from backend.export_manifest import (
    NAME,
    VERSION,
    forget_earlier,
    format_of,
    read_files,
    read_numbers,
    set_aside,
    standing,
    write_manifest,
)
from backend.export_settle import settle
from backend.export_sources import TaskSource
from backend.export_staging import ExportError, Staging, told
from backend.export_tasks import Policy, take

_STAGING = ".export.sqlite3"
MADE_BY = "python -m backend export"
Report = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how much."""


@dataclass(frozen=True)
class Wanted:
    """What to export. ``earlier`` is the manifest whose numbers stay; without it that of the directory itself.

    :raises ExportError: there is no such format.
    """

    format: str
    out: Path
    policy: Policy = field(default_factory=Policy)
    choices: Choices = field(default_factory=Choices)
    splits: Splits = field(default_factory=Splits)
    earlier: Path | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ExportError(f"There is no format {self.format!r}; choose one of {', '.join(FORMATS)}.")


@dataclass(frozen=True)
class Exported:
    """What was written: counts, and what is not in it by reason."""

    items: int
    masks: int
    tasks: int
    reused: int
    skipped: Mapping[str, Mapping[str, Any]]


def export(source: TaskSource, wanted: Wanted, report: Report) -> Exported:
    """Writes an export; run again after a stop it goes on where it was.

    :raises ExportError: the source or a file is damaged, or the directory holds something else.
    :raises LabelStudioError: Label Studio can't be reached or refuses.
    """
    _check_directory(wanted)
    options = json.dumps([source.name, asdict(wanted.policy)], default=sorted, sort_keys=True)
    finished, made = False, not wanted.out.exists()
    staging = Staging(wanted.out / _STAGING, options)
    try:
        result = _export(staging, source, wanted, report)
        finished = True
        return result
    finally:
        staging.close(finished)
        if made and not finished:
            with suppress(OSError):  # something was taken, and is gone on with
                wanted.out.rmdir()


def _export(staging: Staging, source: TaskSource, wanted: Wanted, report: Report) -> Exported:
    with told(wanted.out / _STAGING):
        taken, reused = _take_all(staging, source, wanted.policy, report)
        _read_earlier(staging, wanted)
        labels = _labels(source)
        one_size = FORMATS[wanted.format].one_size
        settle(staging, wanted.choices.overlap, labels, one_size)
        staging.save()
        report("files", 0, 0)
        data = DataSet(staging, wanted.splits, frozenset(name for name, stuff in labels.items() if stuff), one_size)
        _write(data, staging, wanted)
        count = next(staging.rows("SELECT COUNT(*) FROM mask WHERE object <> '' AND NOT hidden"))[0]
        return Exported(sum(1 for _ in sized_items(data)), count, taken, reused, data.skipped())


def _check_directory(wanted: Wanted) -> None:
    earlier = standing(wanted.out)
    there = format_of(earlier) if earlier is not None else wanted.format
    if there != wanted.format:
        raise ExportError(f"{wanted.out} holds an export as {there or 'something else'}; choose another --out.")
    if earlier is None and not (wanted.out / _STAGING).is_file():
        found = (path for place in FORMATS[wanted.format].places for path in sorted(wanted.out.glob(place)))
        foreign = next(found, None)
        if foreign is not None:
            raise ExportError(f"{foreign} is there, and no export wrote it; choose another --out.")


def _take_all(staging: Staging, source: TaskSource, policy: Policy, report: Report) -> tuple[int, int]:
    taken = reused = 0
    seen: set[int] = set()
    for fetched in source.tasks(staging.known, lambda done, whole: report("tasks", done, whole)):
        if fetched.task in seen:
            raise ExportError(f"Task {fetched.task} is there twice; export the project from Label Studio again.")
        seen.add(fetched.task)
        taken += 1
        if fetched.content is None:
            reused += 1
        else:
            staging.put(take(fetched.content, policy, source.config), fetched.stamp)
    staging.forget_others()
    staging.save()
    if not taken:
        raise ExportError("There are no tasks to export; check the project, or the file.")
    return taken, reused


def _read_earlier(staging: Staging, wanted: Wanted) -> None:
    forget_earlier(staging)
    own = standing(wanted.out)
    if own is not None:
        read_files(own, staging)
    named = wanted.earlier is not None and wanted.earlier.resolve() != (wanted.out / NAME).resolve()
    numbers = wanted.earlier if named else own
    if numbers is not None:
        read_numbers(numbers, staging)


def _labels(source: TaskSource) -> dict[str, bool]:
    """Every label of the labeling configuration that masks can have, and whether it is stuff."""
    config = source.config
    tag = config.picture() if config is not None else None
    if config is None or tag is None:
        return {}
    tags = [control for control in config.on(tag.name) if control.kind != "textarea" and not control.smart]
    return {label.value: label.stuff for control in tags for label in control.labels}


def _write(data: DataSet, staging: Staging, wanted: Wanted) -> None:
    chosen = FORMATS[wanted.format]
    policy = {key: sorted(value) if key == "shapes" else value for key, value in asdict(wanted.policy).items()}
    about = {"format": wanted.format, "version": VERSION, "made_by": MADE_BY, "policy": policy | asdict(wanted.choices)}
    about["splits"] = wanted.splits.shares
    out = Output(wanted.out, staging)
    with set_aside(wanted.out):
        chosen.write(data, out, wanted.choices, about)
        out.remove_others()
        if not chosen.own_manifest:
            write_manifest(data, out, about, out.files())
    staging.save()
