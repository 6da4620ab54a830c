"""``python -m backend import-masks``: masks of other people's files into a project."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.console import counted, progress_bar, told, write_result
from backend.import_masks import Brought, Wanted, bring
from backend.label_studio_api import LabelStudioApi
from backend.settings import Settings


def import_masks(
    source: Annotated[
        Path, typer.Argument(help="annotations.json of COCO or YouTube-VIS, or the directory with it, or of DAVIS.")
    ],
    format: Annotated[str, typer.Option(help="coco, ytvis or davis.")],
    project: Annotated[int, typer.Option(help="Id of the Label Studio project.", min=1)],
    kind: Annotated[str, typer.Option("--as", help="predictions or annotations.")] = "predictions",
    media_prefix: Annotated[
        str,
        typer.Option(help="Make tasks for pictures that none shows: this and their name, as /data/local-files/?d=x/"),
    ] = "",
    model_version: Annotated[str, typer.Option(help="Under this name predictions stand.")] = "imported",
    label: Annotated[str, typer.Option(help="davis: label of all objects; else object n gets the n-th label.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Sends masks to the tasks that show their pictures. Run again after a stop: nothing is sent twice."""
    with told(Console(stderr=True)):
        api = LabelStudioApi(Settings.from_environment())
        wanted = Wanted(source, format, project, kind, media_prefix, model_version, label)
        with progress_bar() as report:
            done = bring(api, wanted, report)
    _tell(done, wanted)
    with told(Console(stderr=True)):
        write_result(json_file, asdict(done))
    if done.unknown or done.unlabelled:
        raise typer.Exit(1)


def _tell(done: Brought, wanted: Wanted) -> None:
    made = f", {counted(done.created, 'task')} made" if done.created else ""
    there = f", {done.there} had them already" if done.there else ""
    masks, tasks = counted(done.masks, "mask"), counted(done.tasks, "task")
    typer.echo(f"{masks} as {wanted.kind} of {tasks} in project {wanted.project}{made}{there}.")
    if done.unknown:
        names = ", ".join(done.first_unknown)
        unknown = counted(done.unknown, "picture")
        typer.echo(f"  left out: {unknown} that no task shows, or several may ({names})", err=True)
    for name, count in sorted(done.unlabelled.items()):
        masks = counted(count, "mask")
        typer.echo(f"  left out: {masks} of {name!r}, for which the project has no label", err=True)
