"""``python -m backend retrain``: a project's corrections become a version of the model, if it is a better one."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend import logs
from backend.console import progress_bar, say, told, write_result
from backend.retrain import RunningError, retrain
from backend.settings import Settings

RUNNING = 3
"""Exit code where another training runs."""


def retrain_model(
    project: Annotated[int, typer.Option(help="Id of the Label Studio project.", min=1)],
    model: Annotated[str | None, typer.Option(help="Where no version was learned yet. See X2SAM_MODEL.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto. See X2SAM_DEVICE.")] = None,
    steps: Annotated[int, typer.Option(min=0, help="0: by the number of corrected pictures.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Learns from submitted masks; the result serves only where it is better on masks that were held out and not worse
    elsewhere. Run again after a stop: it goes on where it was. Exit code 0 either way, 3 where another training runs.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the training's own process is ended, too
    console = Console(stderr=True)
    with told(console):
        settings = Settings.from_environment().with_options(model=model, device=device)
        logs.configure(settings.logging_level, settings.log_format)
        try:
            with progress_bar() as report:
                outcome = retrain(settings, project, steps, seed, report)
        except RunningError as error:
            say(console, str(error), "red")
            raise typer.Exit(RUNNING) from error
        typer.echo(f"{outcome.version}: {'serves from now on' if outcome.promoted else 'not taken'}, {outcome.reason}")
        write_result(json_file, asdict(outcome))
