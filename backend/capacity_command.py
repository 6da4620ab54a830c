"""``python -m backend capacity``: how many annotators engines carry, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backend.capacity import Steps, Work, carried, steps_of
from backend.errors import EXPECTED, BadRequestError

ENGINES = (1, 2, 4, 8, 16)
_CASES = (
    ("pictures encoded ahead", True, 0),
    ("not encoded ahead", False, 0),
    ("ahead, a track per engine", True, 1),
    ("not ahead, a track per engine", False, 1),
)


def capacity(
    bench: Annotated[Path, typer.Option(help="What 'python -m x2sam bench --json FILE' wrote.")],
    limit: Annotated[float, typer.Option(help="The p95 of clicks that people accept, in ms.")] = 200.0,
    think: Annotated[float, typer.Option(help="Mean seconds between an answer and the next click.")] = 3.0,
    clicks: Annotated[int, typer.Option(help="Clicks on each picture.")] = 5,
    look: Annotated[float, typer.Option(help="Seconds from opening a picture to the first click.")] = 2.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table to this file.")] = None,
) -> None:
    """Simulates annotators at 1 to 16 engines with the measured times of one, and tells how many they carry."""
    try:
        try:
            steps = steps_of(json.loads(bench.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BadRequestError(f"{bench} can't be read as JSON; name what 'python -m x2sam bench' wrote.") from error
        rows = _rows(steps, Work(think=think, clicks=clicks, look=look), limit / 1e3)
        if json_file is not None:
            json_file.write_text(json.dumps({"limit_ms": limit, "engines": ENGINES, "people": rows}, indent=1))
    except (*EXPECTED, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    table = Table("annotators carried by", *(f"{n} engine{'s' * (n > 1)}" for n in ENGINES))
    for name, people in rows.items():
        table.add_row(name, *map(str, people))
    Console().print(table)


def _rows(steps: Steps, work: Work, limit: float) -> dict[str, list[int]]:
    console = Console(stderr=True)
    cells = [(name, ahead, tracks, n) for name, ahead, tracks in _CASES for n in ENGINES]
    rows: dict[str, list[int]] = {}
    for name, ahead, tracks, engines in track(cells, "Simulating", console=console, disable=not console.is_terminal):
        one = Work(work.think, work.clicks, work.look, ahead, tracks * engines)
        rows.setdefault(name, []).append(carried(steps, one, engines, limit))
    return rows
