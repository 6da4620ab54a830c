"""What the commands share: options, one-line errors, progress on a terminal, results on disk."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from x2sam.errors import DeviceError, X2SAMError
from x2sam.structures import Point, Prompt

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

Box = tuple[float, float, float, float]


def _numbers(text: str, counts: Sequence[int], form: str, option: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(math.isfinite(v) for v in values):
        raise typer.BadParameter(f"{text!r} should be {form}", param_hint=option)
    return values


def parse_point(text: str) -> Point:
    """``X,Y`` or ``X,Y,1`` is a positive click, ``X,Y,0`` a negative one; pixels of the picture as it is seen."""
    values = _numbers(text, (2, 3), "X,Y or X,Y,0 or X,Y,1", "--point")
    if len(values) == 3 and values[2] not in (0, 1):
        raise typer.BadParameter(
            f"the third number of {text!r} is 1 for 'this' or 0 for 'not this'", param_hint="--point"
        )
    return Point(values[0], values[1], len(values) == 2 or values[2] == 1)


def parse_box(text: str) -> Box:
    """``X0,Y0,X1,Y1``, two opposite corners in any order."""
    x0, y0, x1, y1 = _numbers(text, (4,), "X0,Y0,X1,Y1", "--box")
    if x0 == x1 or y0 == y1:
        raise typer.BadParameter(f"{text!r} has no inside; give two opposite corners", param_hint="--box")
    return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


Points = Annotated[
    list[str] | None, typer.Option("--point", metavar="X,Y[,0|1]", help="A click; 0: not this. May be repeated.")
]
Boxes = Annotated[
    list[str] | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A box around an object. May be repeated.")
]
Text = Annotated[str | None, typer.Option("--text", help="A phrase, a question, 'describe', or 'ins: cat; sem: sky'.")]
Model = Annotated[str, typer.Option("--model", help="auto, nano, x2sam-4b, or a directory with a model.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
Result = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file.")]


def prompt_of(points: Sequence[str] | None, boxes: Sequence[str] | None, text: str | None) -> Prompt:
    """The prompt of a command line. Raises BadParameter when nothing was asked for or a number can't be read."""
    if not (points or boxes or (text and text.strip())):
        raise typer.BadParameter("say what to segment: --point X,Y, --box X0,Y0,X1,Y1 or --text WORDS")
    return Prompt(tuple(map(parse_point, points or ())), tuple(map(parse_box, boxes or ())), text=text)


@contextmanager
def plain_errors() -> Iterator[None]:
    """A problem that names its cure ends the command with that sentence on stderr and exit code 1, no traceback."""
    try:
        yield
    except X2SAMError as problem:
        typer.secho(str(problem), fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from problem
    except RuntimeError as problem:
        import torch  # late; whoever runs out of the device's memory has imported it

        if not isinstance(problem, torch.OutOfMemoryError):
            raise
        told = "the device's memory is full; end other programs on it, take a smaller picture, or use --device cpu"
        typer.secho(told, fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from problem


def chosen_device(name: str) -> str:
    """``auto`` is the first GPU where there is one. Raises BadParameter for a device that is not there."""
    from x2sam.placement import find_device

    try:
        return find_device(name)
    except DeviceError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from error


def load_engine(model: str, device: str) -> Engine:
    from x2sam.inference.engine import Engine

    return Engine.load(model, chosen_device(device))


class Clock:
    """Milliseconds by name, for the ``ms`` of a result."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = round((time.perf_counter() - began) * 1e3, 2)


@contextmanager
def progress_bar(total: int | None, title: str = "") -> Iterator[Callable[[str], None]]:
    """A bar on stderr, on a terminal only. The function it gives takes one step; its text replaces the title."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, total=total)

        def step(text: str = "") -> None:
            bar.update(task, advance=1, description=text or title)

        yield step


def output_directory(path: Path) -> Path:
    """Made if need be, before the work starts. Raises BadParameter when that can't be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be made ({error.strerror}); choose another place") from error
    return path


def output_file(path: Path, suffixes: Sequence[str]) -> Path:
    """A file that will be written; its directory is made. Raises BadParameter for another kind of file."""
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(f"{path.name} should end in {' or '.join(suffixes)}")
    output_directory(path.parent)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that appears when it is complete: write to the path that is given, it then takes the name of ``path``."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be written ({error.strerror}); choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """The result as JSON, all of it or nothing; nothing when no file was named."""
    if path is None:
        return
    output_directory(path.parent)
    with whole_file(path) as part:
        part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
