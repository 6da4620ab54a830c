"""``python -m backend models``: versions of the model that were learned from corrections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend.console import told, write_result
from backend.model_versions import ModelVersions, Table, Version
from backend.settings import Settings

app = typer.Typer(help="Versions of the model that were learned from corrections.", no_args_is_help=True)

_COMPARED = (("IoU of masks held out", "corrections"), ("elsewhere", "general"))

Result = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


def versions_of(settings: Settings) -> ModelVersions:
    """Those of the server with these settings."""
    return ModelVersions(Path(settings.state_dir).expanduser() / "models", settings.versions)


@app.command("list")
def list_versions(result: Result = None) -> None:
    """What there is, which one serves, and why the others do not."""
    with told(Console(stderr=True)):
        table = versions_of(Settings.from_environment()).table()
        for one in table.versions.values():
            for line in _told(one, one.name == table.current):
                typer.echo(line)
        if not table.current:
            typer.echo("The model of the settings (base) serves." if table.versions else
                       "None yet: the model of the settings serves.")  # fmt: skip
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


def _told(one: Version, serves: bool) -> Iterator[str]:
    """The lines about a version; its name is whole, to be given to ``promote``."""
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made))
    compared = "".join(f", {words} {gain}" for words, part in _COMPARED if (gain := _gain(one, part)))
    yield f"{one.name}{' (serves)' if serves else ''}"
    yield f"  {one.state}; made {made}{f' of project {one.project}' if one.project else ''}{compared}"
    if one.reason:
        yield f"  {one.reason}"


def _gain(version: Version, part: str) -> str:
    found = version.scores.get(part) or {}
    difference = found.get("difference")
    return f"{difference:+.3f}" if isinstance(difference, int | float) else ""
