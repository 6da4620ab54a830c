"""``python -m backend models``: versions of the model that were learned from corrections."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Shown

from backend.console import told, write_result
from backend.model_versions import ModelVersions, Table, Version
from backend.settings import Settings

app = typer.Typer(help="Versions of the model that were learned from corrections.", no_args_is_help=True)

Result = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


def versions_of(settings: Settings) -> ModelVersions:
    """Those of the server with these settings."""
    return ModelVersions(Path(settings.state_dir).expanduser() / "models", settings.versions)


@app.command("list")
def list_versions(result: Result = None) -> None:
    """What there is, which one serves, and why the others do not."""
    console = Console()
    with told(Console(stderr=True)):
        table = versions_of(Settings.from_environment()).table()
        console.print(_shown(table) if table.versions else "None yet: the model of the settings serves.")
        write_result(result, _content(table))


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Name of a version; 'base' is the model of the settings.")],
    result: Result = None,
) -> None:
    """Lets a version serve. Running servers take it within seconds, without dropping a request."""
    with told(Console(stderr=True)):
        versions = versions_of(Settings.from_environment())
        versions.promote("" if version == "base" else version, "chosen by hand")
        typer.echo(f"{version} serves from now on.")
        write_result(result, _content(versions.table()))


@app.command()
def rollback(result: Result = None) -> None:
    """Lets the version serve that served before."""
    with told(Console(stderr=True)):
        versions = versions_of(Settings.from_environment())
        name = versions.rollback()
        typer.echo(f"{name or 'The model of the settings'} serves again.")
        write_result(result, _content(versions.table()))


def _content(table: Table) -> dict:
    shown = [asdict(one) | {"serves": one.name == table.current} for one in table.versions.values()]
    return {"current": table.current or None, "versions": shown}


def _shown(table: Table) -> Shown:
    shown = Shown("version", "made", "project", "state", "masks held out", "elsewhere", "why")
    for one in table.versions.values():
        mark = f"{one.name} (serves)" if one.name == table.current else one.name
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made))
        shown.add_row(mark, made, one.project, one.state, _gain(one, "corrections"), _gain(one, "general"), one.reason)
    return shown


def _gain(version: Version, part: str) -> str:
    found = version.scores.get(part) or {}
    difference = found.get("difference")
    return f"{difference:+.3f}" if isinstance(difference, int | float) else ""
