"""What the commands share: sentences on the terminal, a bar of progress, the result as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from backend.errors import EXPECTED, BackendError

Report = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how much."""

WORDS = {
    "tasks": "reading tasks", "files": "writing files", "masks": "reading masks", "items": "sending masks",
    "pictures": "fetching pictures", "collecting": "collecting masks", "training": "learning",
    "outlining": "learning outlines", "comparing": "comparing",
    "predictions": "pre-annotating", "scores": "settling scores", "overlays": "drawing what was found",
    "requests": "replaying",
}  # fmt: skip


class FileError(BackendError):
    """A file that was named can't be read or written."""


def counted(number: int, noun: str, many: str = "") -> str:
    """``1 mask``, ``2 masks``; ``many`` is the plural where it is not made with an s."""
    return f"{number} {noun if number == 1 else many or f'{noun}s'}"


def say(console: Console, sentence: str, style: str) -> None:
    """A sentence in colour. On a terminal it is wrapped between words; elsewhere it stays one line, to be searched."""
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@contextmanager
def told(console: Console) -> Iterator[None]:
    """What is expected to go wrong ends the command with its sentence."""
    try:
        yield
    except EXPECTED as error:
        say(console, str(error), "red")
        raise typer.Exit(2) from error


@contextmanager
def progress_bar(name: str = "", words: Mapping[str, str] = WORDS) -> Iterator[Report]:
    """A bar on a terminal, nothing elsewhere. ``words`` are for the kinds of work, ``name`` says on what."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, object] = {}

        def report(what: str, done: int, whole: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(f"{words.get(what, what)} {name}".rstrip(), total=None)
            progress.update(bars[what], completed=done, total=whole or None)

        yield report


def read_text(path: Path) -> str:
    """The text of a small file; :class:`FileError` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} can't be read as text; check the path.") from error


def write_result(path: Path | None, result: Mapping[str, Any]) -> None:
    """The result as a file, where one was asked for; :class:`FileError` where it can't be written."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path} can't be written ({error.strerror}); all else is done.") from error
