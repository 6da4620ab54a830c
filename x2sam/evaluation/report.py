"""What the evaluate commands show: progress while they run, a table at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from x2sam.evaluation.dataset import T


def show(items: Iterable[T], title: str) -> Iterable[T]:
    """A progress bar with a time estimate, on a terminal only."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        yield from bar.track(items)


def table_of(summary: dict) -> Table:
    """All figures of a result, nested names joined by dots."""
    table = Table("measure", "value")

    def rows(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                rows(f"{prefix}.{key}" if prefix else key, inner)
        else:
            table.add_row(prefix, _shown(value))

    rows("", summary)
    return table


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.3f}"
        case [float(), *_] | [None, *_] | []:
            return "  ".join(_shown(v) for v in value)
        case [list(), *_]:
            return "  ".join(f"[{_shown(v)}]" for v in value)
        case _:
            return str(value)
