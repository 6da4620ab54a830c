"""``python -m x2sam train``: train from a TOML file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from x2sam.commands.common import Clock, Device, Result, chosen_device, plain_errors, write_json
from x2sam.errors import TrainingError

if TYPE_CHECKING:
    from x2sam.training.train import TrainConfig


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, see x2sam/training/settings.py.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in its directory.")] = False,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Train a model, or continue a run that was stopped."""
    log_to_stderr()
    with plain_errors():
        # Late: with PyTorch this takes seconds.
        from x2sam.training import train as training

        settings = training.load_train_config(config)
        if not resume:
            check_fresh(settings)
        clock = Clock()
        with clock.measure("train"):
            finished = training.train(settings, resume, own_device(device))
    if int(os.environ.get("RANK", "0")):
        return  # one process of a group speaks for all
    write_json(result, {"directory": str(finished), "steps": settings.loop.steps, "ms": clock.ms})
    use = "name it as model.segmentor of stage 3" if settings.stage.number == 1 else f"use it with --model {finished}"
    typer.echo(f"{finished}: {use}")


def log_to_stderr() -> None:
    """In colour on a terminal; one whole line a record in a file, where Rich would break them at 80 columns."""
    console = Console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])


def check_fresh(settings: TrainConfig) -> None:
    """Raises TrainingError where a new run would write over the states of another one."""
    from x2sam.training.checkpoint import CheckpointStore

    directory = Path(settings.loop.directory)
    states = CheckpointStore(directory / "states").steps()
    if states:
        raise TrainingError(
            f"{directory} holds the states of a run ({states[-1].name}); continue it with --resume, or name another "
            "loop.directory in the configuration"
        )


def own_device(name: str) -> str:
    """The device of this process; of several on one machine each takes the GPU that the launcher gave it."""
    device = chosen_device(name)
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
