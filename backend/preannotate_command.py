"""``python -m backend preannotate``: predictions for the tasks of a project, so that the most useful come first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated
from xml.sax.saxutils import quoteattr

import typer
from rich.console import Console

from backend.console import counted, progress_bar, read_text, told, write_result
from backend.errors import SettingsError
from backend.file_cache import FileCache
from backend.frames import DecodedPictures
from backend.label_studio_api import LabelStudioApi
from backend.media import MediaFetcher
from backend.preannotate_tasks import HELP
from backend.settings import Settings
from backend.warming import frames_by

_RATE = 20.0
LOCAL_FILES = "/data/local-files/?d="


def preannotate_tasks(
    project: Annotated[int | None, typer.Option(help="Id of the Label Studio project.", min=1)] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The pictures of a folder instead; needs --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --folder: write tasks.json with the predictions there.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="With --folder: masks as coco, png, x2sam too. May be given again.")
    ] = None,
    label_config: Annotated[
        Path | None, typer.Option(help="With --folder: a labeling configuration; by default brushes with --labels.")
    ] = None,
    media_prefix: Annotated[
        str, typer.Option(help="With --folder: what stands before a picture's path in tasks.json.")
    ] = LOCAL_FILES,
    tasks: Annotated[list[str] | None, typer.Option(help=f"Which tasks: {HELP}")] = None,
    labels: Annotated[str, typer.Option(help="Only these labels of the project, with commas.")] = "",
    prompt: Annotated[str, typer.Option(help="Ask for this text instead of the labels' names.")] = "",
    budget: Annotated[
        int | None, typer.Option(min=1, help="So many new predictions at most, of tasks spread evenly over all.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where the model runs: local, or ray.")] = "local",
    model: Annotated[str | None, typer.Option(help="nano, x2sam-4b, a directory, or auto. See X2SAM_MODEL.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto. See X2SAM_DEVICE.")] = None,
    model_version: Annotated[
        str, typer.Option(help="Name of these predictions; by default the model's, which serve gives as well.")
    ] = "",
    use: Annotated[
        bool, typer.Option("--use", help="Show these predictions and hand tasks out by their scores from now on.")
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0, help="Requests to Label Studio per second at most; 0: no limit.")
    ] = _RATE,
    review: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a page of pictures with masks, the most doubtful first.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Predicts what the labels name, in every task without annotations, or in every picture of a folder. Run again
    after a stop: it goes on.

    A prediction's score is lowest where the answer is probably wrong and nothing like it comes before: by "Uncertainty
    sampling" Label Studio hands out the most useful tasks first.
    """
    listed = tuple(label.strip() for label in labels.split(",") if label.strip())
    with told(Console(stderr=True)):
        settings = Settings.from_environment().with_options(model=model, device=device)
        if (project is None) == (folder is None):
            raise SettingsError("Give either --project ID or --folder DIR.")
        of_project = {"--tasks": tasks, "--use": use, "--review": review}
        of_folder = {"--out": out, "--format": format, "--label-config": label_config}
        if strange := [name for name, value in (of_project if folder else of_folder).items() if value]:
            other = "--project" if folder else "--folder"
            raise SettingsError(f"{', '.join(strange)} belongs to {other}; leave it out.")
        if folder is not None:
            asked = _about_folder(listed, prompt.strip(), label_config)
            wanted = _folder_of(folder, out, media_prefix, format or [], budget, model_version.strip())
            failed = _in_folder(settings, wanted, asked, engine, json_file)
        else:
            # late, as below: the model's base class depends on what is installed
            from backend.preannotate import Wanted

            whole = (project, tuple(tasks or ()), listed, prompt.strip(), budget, model_version.strip(), use)
            failed = _in_project(settings, Wanted(*whole), engine, rate, review, json_file)
    raise typer.Exit(1 if failed else 0)


def _in_project(
    settings: Settings, wanted, engine: str, rate: float, review: Path | None, json_file: Path | None
) -> int:  # fmt: skip
    """How many tasks have no answer."""
    from backend.preannotate import preannotate

    open_predictor = _opener(settings, engine)
    api, state = LabelStudioApi(settings, rate=rate), _state(settings)
    with progress_bar() as report:
        done = preannotate(api, wanted, open_predictor, state, report)
    result = asdict(done)
    _tell(done)
    if review is not None:
        result["review"] = _review(api, settings, done, state, review)
    write_result(json_file, result)
    return done.failed


def _in_folder(settings: Settings, wanted, asked, engine: str, json_file: Path | None) -> int:
    """How many pictures have no answer."""
    from backend.preannotate_folder import preannotate_folder

    open_predictor = _opener(replace(settings, media_dirs=(str(wanted.pictures),)), engine)
    with progress_bar() as report:
        done = preannotate_folder(wanted, asked, open_predictor, report)
    _tell_folder(done, wanted.out)
    write_result(json_file, asdict(done))
    return done.failed


def _state(settings: Settings) -> Path:
    return Path(settings.state_dir).expanduser() / "preannotate"


def _opener(settings: Settings, engine: str) -> Callable:
    """What opens a predictor for what is asked, on the engine of this name."""
    from backend.preannotate_engines import ENGINES, Place
    from backend.wsgi import loader_for

    if engine not in ENGINES:
        raise SettingsError(f"There is no engine {engine!r}; choose one of {', '.join(ENGINES)}.")
    place = Place(settings, _state(settings), loader_for)
    return lambda asked: ENGINES[engine](place, asked)


def _about_folder(labels: tuple[str, ...], prompt: str, file: Path | None):
    """What is asked of each picture: by a labeling configuration, or by one that has a brush with the labels."""
    from backend.preannotate_engines import Asked

    if file is not None:
        return Asked(0, read_text(file), labels, prompt)
    if not labels and not prompt:
        raise SettingsError("Say what to look for: --labels 'car,person', --prompt TEXT, or --label-config FILE.")
    made = "".join(f"<Label value={quoteattr(label)}/>" for label in labels or ("Object",))
    image = '<Image name="image" value="$image"/>'
    return Asked(0, f'<View>{image}<BrushLabels name="mask" toName="image">{made}</BrushLabels></View>', (), prompt)


def _folder_of(pictures: Path, out: Path | None, prefix: str, formats: list[str], budget: int | None, version: str):
    from backend.export_formats import FORMATS
    from backend.preannotate_folder import Folder

    if out is None:
        raise SettingsError("Say where the predictions of the folder go: --out DIR.")
    if not pictures.is_dir():
        raise SettingsError(f"{pictures} is no folder.")
    if strange := sorted(set(formats) - FORMATS.keys()):
        raise SettingsError(f"There is no format {strange[0]!r}; choose one of {', '.join(FORMATS)}.")
    return Folder(pictures.resolve(), out.resolve(), prefix, tuple(dict.fromkeys(formats)), budget, version)


def _tell_folder(done, out: Path) -> None:
    there = f", {done.there} had an answer before" if done.there else ""
    empty = f", nothing in {done.empty} of them" if done.empty else ""
    pictures, masks = counted(done.pictures, "picture"), counted(done.masks, "mask")
    typer.echo(f"{done.sent} of {pictures} asked about: {masks}{empty}{there}.")
    typer.echo(f"Written to {out}: {', '.join(done.files)}.")
    for name, problem in done.problems.items():
        typer.echo(f"  {name}: {problem}", err=True)
    if done.failed > len(done.problems):
        typer.echo(f"  and {done.failed - len(done.problems)} more pictures without an answer", err=True)


def _review(api: LabelStudioApi, settings: Settings, done, folder: Path, out: Path) -> int:
    """Writes the page; how many tasks it shows."""
    from backend.label_config import parse_label_config
    from backend.preannotate import state_path
    from backend.preannotate_review import Shown, write_review
    from backend.preannotate_state import State

    state = State(state_path(folder, api.url, done.project, done.model_version))
    try:
        sent = [one for one in state.all() if one.prediction is not None]
    finally:
        state.close()
    config = parse_label_config(api.project(done.project).get("label_config") or "<View/>")
    cache = FileCache(
        Path(settings.media_cache_dir).expanduser(), settings.media_cache_bytes, settings.media_cache_seconds
    )
    frames_of = frames_by(settings, MediaFetcher(settings, cache), DecodedPictures(settings.decoded_bytes))
    url = settings.label_studio_public_url or settings.label_studio_url
    with progress_bar() as report:
        shown = Shown(url, done.project, done.model_version)
        count = write_review(api, shown, sent, config, frames_of, out, report)
    typer.echo(f"{counted(count, 'task')} in {out / 'index.html'}.")
    return count


def _tell(done) -> None:
    there = f", {done.there} had one before" if done.there else ""
    empty = f", nothing in {done.empty} of them" if done.empty else ""
    typer.echo(
        f"{counted(done.sent, 'prediction')} of {done.model_version} sent to project {done.project}: "
        f"{counted(done.masks, 'mask')}{empty}{there}; {counted(done.rescored, 'score')} settled."
    )
    if not done.tasks:
        typer.echo(
            "No task was left to ask about: --tasks all means annotated ones as well, and those with a prediction of "
            "this version are not asked about again; --model-version gives new ones another name.",
            err=True,
        )
    for task, problem in done.problems.items():
        typer.echo(f"  task {task}: {problem}", err=True)
    if done.failed > len(done.problems):
        typer.echo(f"  and {done.failed - len(done.problems)} more tasks without an answer", err=True)
    if done.tasks and not done.used:
        typer.echo(
            "Label Studio hands tasks out by these scores once the project has 'Uncertainty sampling' and shows "
            f"{done.model_version}: give --use, or choose both in its settings.",
            err=True,
        )
