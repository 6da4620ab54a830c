"""``python -m backend export``: submitted masks as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.console import counted, progress_bar, read_text, told, write_result
from backend.errors import BadRequestError, SettingsError
from backend.export_dataset import FIRST_TASKS, Choices, Splits
from backend.export_rows import SKIPPED, shapes_of
from backend.export_run import Exported, Wanted, export
from backend.export_sources import JsonFile, Project, TaskSource
from backend.export_tasks import Policy
from backend.label_studio_api import LabelStudioApi
from backend.settings import Settings


def export_masks(
    format: Annotated[str, typer.Option(help="coco, ytvis, davis, png or x2sam.")],
    out: Annotated[Path, typer.Option(help="Directory to write; an export of the same format there is renewed.")],
    project: Annotated[int | None, typer.Option(help="Id of the Label Studio project.", min=1)] = None,
    from_json: Annotated[Path | None, typer.Option(help="Label Studio's own JSON export, instead.")] = None,
    label_config: Annotated[
        Path | None, typer.Option(help="With --from-json: the labeling configuration, which tells prompts from boxes.")
    ] = None,
    annotations: Annotated[
        str, typer.Option(help="Of several annotations of a task: latest, all, or majority (a vote pixel by pixel).")
    ] = "latest",
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Take skipped annotations as well.")] = False,
    overlap: Annotated[
        str, typer.Option(help="Whose are pixels of several objects: keep (all), top, small (smallest), void (nobody).")
    ] = "keep",
    pages: Annotated[str, typer.Option(help="Pages of a submitted task that count: all, or only marked ones.")] = "all",
    shapes: Annotated[
        str, typer.Option(help="Only these, with commas: brush, bitmask, polygon, ellipse, rectangle, keypoint, ...")
    ] = "",
    values: Annotated[str, typer.Option(help="Numbers in png label maps: category or object.")] = "category",
    splits: Annotated[str, typer.Option(help="Like train=0.8,val=0.2: by a digest, so nothing moves later.")] = "",
    complete: Annotated[
        bool, typer.Option("--complete", help="x2sam: everything of the categories is outlined on every picture.")
    ] = False,
    previous: Annotated[
        Path | None, typer.Option(help="Manifest of an earlier export whose numbers stay; default: the one in --out.")
    ] = None,
    video_size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT of videos on a Video tag, whose boxes do not tell it.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Writes submitted masks as a data set. Run again after a stop: it goes on where it was.

    The same project gives the same bytes. DIR/manifest.json tells where each mask is from.
    """
    console = Console(stderr=True)
    with told(console):
        policy = Policy(annotations, cancelled, pages, _shapes(shapes), parse_size(video_size))
        choices = Choices(overlap, values, complete)
        wanted = Wanted(format, out, policy, choices, Splits(splits), previous)
        with progress_bar() as report:
            done = export(_source(project, from_json, label_config), wanted, report)
    _tell(done, out)
    with told(console):
        write_result(json_file, {"format": format, **asdict(done)})


def _shapes(written: str) -> frozenset[str]:
    try:
        return shapes_of(part.strip() for part in written.split(",") if part.strip())
    except BadRequestError as error:
        raise SettingsError(str(error)) from error


def _source(project: int | None, from_json: Path | None, label_config: Path | None) -> TaskSource:
    if (project is None) == (from_json is None):
        raise SettingsError("Give either --project ID or --from-json FILE.")
    if from_json is not None:
        return JsonFile(from_json, read_text(label_config) if label_config else "")
    return Project(LabelStudioApi(Settings.from_environment()), project)


def parse_size(written: str) -> tuple[int, int] | None:
    """(H, W) of ``WIDTHxHEIGHT``; None of nothing.

    :raises SettingsError: it is something else.
    """
    if not written:
        return None
    sides = written.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and 0 < int(side) < 1 << 16 for side in sides):
        raise SettingsError(f"The size {written!r} is not like 1280x720.")
    return int(sides[1]), int(sides[0])


def _tell(done: Exported, out: Path) -> None:
    before = f", {done.reused} of them read before" if done.reused else ""
    items = counted(done.items, "picture or video", "pictures and videos")
    typer.echo(f"{counted(done.masks, 'mask')} of {items} in {out} ({counted(done.tasks, 'task')}{before}).")
    if not done.items and not done.skipped:
        typer.echo("  nobody has submitted an annotation yet", err=True)
    for kind, found in done.skipped.items():
        typer.echo(f"  not in it: {SKIPPED[kind]}: {found['count']} ({_named(found['first_tasks'])})", err=True)


def _named(tasks: Sequence[int]) -> str:
    """The tasks, and whether there are more."""
    shown = ", ".join(map(str, tasks[: FIRST_TASKS - 1]))
    return f"task{'s' if len(tasks) > 1 else ''} {shown}{' and others' if len(tasks) == FIRST_TASKS else ''}"
