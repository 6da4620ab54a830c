"""``python -m backend video``: videos as tasks of pages. The only place where a path of a video is taken from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.console import progress_bar, say, told, write_result
from backend.errors import EXPECTED
from backend.label_studio_api import LabelStudioApi
from backend.settings import Settings
from backend.video_import import Imported, Importer, Renewal, Wanted, renew_addresses
from backend.video_library import VideoLibrary
from backend.video_pages import MOST_PAGES, PAGES, parse_range

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Videos as tasks of pages, and their addresses.")

_WORDS = {
    "frames": "finding the frames of",
    "bytes": "reading",
    "uploads": "uploading pages of",
    "tasks": "making tasks of",
    "projects": "renewing addresses of",
}


@app.command("import")
def import_videos(
    files: Annotated[list[Path], typer.Argument(help="Video files.")],
    project: Annotated[int, typer.Option(help="Id of the Label Studio project.", min=1)],
    fps: Annotated[float | None, typer.Option(help="Pages per second; every frame without it.", min=0.001)] = None,
    pages: Annotated[int, typer.Option(help="Pages of a task, at most.", min=1, max=MOST_PAGES)] = PAGES,
    range: Annotated[str | None, typer.Option(help="Only frames A to B - 1, as A:B, counted from 0.")] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="Copy the pages into Label Studio; else this backend serves them.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Makes tasks whose pages are frames of videos. Run again to go on after a stop: nothing is made twice.

    Frames are counted from 0 in the order in which a player shows them, whatever their time stamps are; pictures that
    the file's edit list leaves out have no number.

    Pages come from this backend at BACKEND_PUBLIC_URL, made when somebody looks at them; so `python -m backend serve`
    must run on this machine with the same X2SAM_STATE_DIR, and the video must stay where it is.
    """
    errors = Console(stderr=True)
    with told(errors):
        settings = Settings.from_environment()
        wanted = Wanted(project, fps, pages, parse_range(range), upload)
        api, library = LabelStudioApi(settings), library_of(settings)
    done: list[Imported] = []
    failed: list[str] = []
    for file in files:
        try:
            with progress_bar(file.name, _WORDS) as report:
                done.append(Importer(api, library, settings.public_url, report).run(file, wanted))
        except EXPECTED as error:
            say(errors, f"{file.name}: {error}", "red")
            failed.append(file.name)
            continue
        typer.echo(_sentence(done[-1], project))
        for note in _notes(done[-1]):
            say(errors, note, "yellow")
    if done and not upload:
        typer.echo(f"Browsers fetch the pages from {settings.public_url} (BACKEND_PUBLIC_URL).")
    with told(errors):
        videos = [entry.as_json() for entry in done]
        write_result(json_file, {"project": project, "videos": videos, "failed": failed})
    if failed:
        raise typer.Exit(1)


@app.command("rotate-key")
def rotate_key(
    project: Annotated[list[int] | None, typer.Option(help="Further projects to look through.")] = None,
) -> None:
    """Replaces the key that signs addresses of pages, and the addresses in all tasks. The old ones then stop working.

    A stopped run is completed by the next one; until then old and new addresses both work.
    """
    with told(Console(stderr=True)):
        settings = Settings.from_environment()
        library = library_of(settings)
        if len(library.keys()) == 1:
            library.add_key()
        _renew(settings, library, project or [])


@app.command("renew")
def renew(
    project: Annotated[list[int] | None, typer.Option(help="Further projects to look through.")] = None,
) -> None:
    """Rewrites the addresses of pages in all tasks: after BACKEND_PUBLIC_URL changed, or a stopped rotate-key."""
    with told(Console(stderr=True)):
        settings = Settings.from_environment()
        _renew(settings, library_of(settings), project or [])


def library_of(settings: Settings) -> VideoLibrary:
    """The known videos of this machine."""
    return VideoLibrary(Path(settings.state_dir).expanduser())


def _renew(settings: Settings, library: VideoLibrary, projects: list[int]) -> None:
    with progress_bar("tasks", _WORDS) as report:
        result: Renewal = renew_addresses(LabelStudioApi(settings), library, settings.public_url, projects, report)
    typer.echo(f"{result.changed} tasks have new addresses.")
    for number in result.gone:
        typer.echo(f"Project {number} is not there any more.")
    if result.behind:
        places = ", ".join(f"project {number} of {url}" for url, number in result.behind)
        typer.echo(
            f"The old key stays good: {places} still need it. Run this again with LABEL_STUDIO_URL set to each.",
            err=True,
        )
        raise typer.Exit(1)


def _sentence(done: Imported, project: int) -> str:
    before = len(done.tasks) - done.created
    there = f", {before} were there" if before else ""
    return f"{done.video.name}: {done.pages} pages in project {project}, {done.created} tasks made{there}."


def _notes(done: Imported) -> Iterator[str]:
    """What somebody should know who thinks that all is well."""
    if done.missing:
        yield (
            f"{done.video.name} ends early: its last {done.missing:.1f} s, which its header promises, are not there. "
            "All frames before that are imported; get the whole file if the rest is needed."
        )
    if done.overlapping:
        yield (
            f"{done.video.name}: {done.overlapping} tasks that were there show some of the same frames, cut in another "
            "way (--pages, --range). Delete those that are not wanted, else people label these frames twice."
        )
