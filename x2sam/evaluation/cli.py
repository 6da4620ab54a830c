"""``python -m x2sam evaluate``: score a model on a directory of pictures and clips with ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from x2sam.errors import X2SAMError
from x2sam.evaluation.clicks import PROMPTS as CLICK_PROMPTS
from x2sam.evaluation.clicks import evaluate_clicks
from x2sam.evaluation.dataset import T
from x2sam.evaluation.referring import evaluate_referring
from x2sam.evaluation.video import PROMPTS as VIDEO_PROMPTS
from x2sam.evaluation.video import evaluate_video

app = typer.Typer(help="Score a model on pictures and clips with ground truth.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", help="Directory with images.json, videos.json, referring.json.")]
Model = Annotated[str, typer.Option("--model", help="nano, auto, or a directory with a model.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N of the list.")]
NoSnap = Annotated[bool, typer.Option("--no-snap", help="Leave out the last step that makes a mask obey its clicks.")]
Result = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


@app.command()
def clicks(
    data: Data,
    model: Model = "auto",
    prompt: Annotated[str, typer.Option(help="First prompt: " + ", ".join(CLICK_PROMPTS) + ".")] = "click",
    clicks: Annotated[int, typer.Option(min=1, help="Prompts per object, the first included.")] = 5,
    limit: Limit = None,
    no_snap: NoSnap = False,
    result: Result = None,
) -> None:
    """IoU after each click, the next one always in the middle of the largest error."""

    def measure(engine: Any) -> dict:
        return evaluate_clicks(engine, data, prompt, clicks, limit, _show).summary()

    _run(model, no_snap, result, measure)


@app.command()
def video(
    data: Data,
    model: Model = "auto",
    prompt: Annotated[str, typer.Option(help="On the first frame: " + ", ".join(VIDEO_PROMPTS) + ".")] = "mask",
    corrections: Annotated[int, typer.Option(min=0, help="Then correct each object's worst frame so often.")] = 0,
    memory: Annotated[str | None, typer.Option(help="How objects are remembered; by default the engine's way.")] = None,
    limit: Limit = None,
    no_snap: NoSnap = False,
    result: Result = None,
) -> None:
    """J and F of objects that are followed through clips, with speed and memory."""

    def measure(engine: Any) -> dict:
        return evaluate_video(engine, data, prompt, corrections, limit, _show).summary()

    _run(model, no_snap, result, measure, **({} if memory is None else {"memory": memory}))


@app.command()
def referring(
    data: Data, model: Model = "auto", limit: Limit = None, no_snap: NoSnap = False, result: Result = None
) -> None:
    """How well the objects that phrases mean are found."""

    def measure(engine: Any) -> dict:
        return evaluate_referring(engine, data, limit, _show).summary()

    _run(model, no_snap, result, measure)


def _run(model: str, no_snap: bool, result: Path | None, measure: Callable[[Any], dict], **settings: str) -> None:
    """Load, measure, show and write; a problem that names its cure ends the command with that sentence."""
    console = Console()
    # Torch takes seconds to import: --help and wrong arguments should not wait for it.
    from x2sam.inference.engine import Engine

    try:
        engine = Engine.load(model, snap=not no_snap, **settings)
        try:
            summary = measure(engine)
        finally:
            engine.close()
    except X2SAMError as problem:
        Console(stderr=True).print(f"[red]{problem}[/red]", highlight=False)
        raise typer.Exit(1) from problem
    console.print(_table(summary))
    if result is not None:
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _show(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar with a time estimate, on a terminal only."""
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not Console(stderr=True).is_terminal,
    )
    with bar:
        yield from bar.track(items)


def _table(summary: dict) -> Table:
    """All figures of a result, nested names joined by dots."""
    table = Table("measure", "value")

    def rows(prefix: str, value: Any) -> None:
        match value:
            case dict():
                for key, inner in value.items():
                    rows(f"{prefix}.{key}" if prefix else key, inner)
            case list():
                table.add_row(prefix, "  ".join(f"{v:.3f}" for v in value))
            case float():
                table.add_row(prefix, f"{value:.3f}")
            case _:
                table.add_row(prefix, "-" if value is None else str(value))

    rows("", summary)
    return table
