"""``python -m backend report``: what masks cost the annotators of a project, as a page and as JSON."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.console import counted, progress_bar, say, told, write_result
from backend.effort_report import collect, steps_in
from backend.effort_tally import Summary
from backend.export_sources import Project
from backend.export_staging import ExportError
from backend.label_studio_api import LabelStudioApi
from backend.pseudonyms import Pseudonyms
from backend.report_page import duration, page, percent, plain
from backend.settings import Settings


def report(
    project: Annotated[int, typer.Option(help="Id of the Label Studio project.", min=1)],
    out: Annotated[Path | None, typer.Option(help="The page to write; it needs no network and no other file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Tells how many prompts and seconds submitted masks took, and how much of what was proposed was changed.

    Reads annotations from Label Studio and what was proposed from the journal: run it where the ML backend runs, with
    the same X2SAM_STATE_DIR. X2SAM_REPORT_ANNOTATORS=1 tells annotators apart, under pseudonyms.
    """
    console = Console(stderr=True)
    with told(console):
        settings = Settings.from_environment()
        source = Project(LabelStudioApi(settings), project)
        people = Pseudonyms.wanted(settings)
        with steps_in(Path(settings.state_dir).expanduser()) as (steps_of, problem), progress_bar() as progress:
            outlines = settings.polygon_tolerance
            found = collect(source, steps_of, people, outlines, lambda done, whole: progress("tasks", done, whole))
        if problem:
            say(console, f"{problem} Without it prompts are not known.", "yellow")
        if out is not None:
            _write(out, page(found, project, datetime.now(), source.title))
        write_result(json_file, {"project": project, **found.as_json()})
    _tell(found, out)


def _write(path: Path, text: str) -> None:
    """The whole page or none."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(f"{path} can't be written ({error.strerror}); name another file.") from error


def _tell(found: Summary, out: Path | None) -> None:
    total = found.total
    if not total.masks:
        typer.echo(f"Nobody has submitted a mask yet{f'; see {out}' if out is not None else ''}.")
        return
    masks, annotations = counted(total.masks, "mask"), counted(found.submitted, "annotation")
    typer.echo(
        f"{masks} in {annotations}, {total.proposed} of them proposed: "
        f"{percent(total.untouched)} submitted untouched, {plain(total.asked.mean)} prompts for one that was prompted, "
        f"{duration(total.seconds.median)} for a mask{f'; see {out}' if out is not None else ''}."
    )
