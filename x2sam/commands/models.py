"""``python -m x2sam convert`` and ``download``: make a model directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from x2sam.commands.common import Result, plain_errors, progress_bar, write_json
from x2sam.errors import WeightsError

if TYPE_CHECKING:
    from x2sam.config import X2SAMConfig
    from x2sam.download import Verified

Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The model's directory. [default: x2sam-4b in X2SAM_HOME]")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")]


class Preset(StrEnum):
    published = "x2sam-4b"
    mid = "mid"
    tiny = "tiny"


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The published pytorch_model.bin.")],
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Directory of the Qwen3-VL base model.")],
    out: Out = None,
    preset: Annotated[Preset, typer.Option(help="Sizes of the segmentation parts.")] = Preset.published,
    config: Annotated[Path | None, typer.Option(help="A config.json of ours, instead of a preset.")] = None,
    force: Force = False,
    result: Result = None,
) -> None:
    """Turn a published checkpoint and its base model into one model directory, LoRA merged."""
    # Late: with PyTorch this takes seconds.
    from x2sam.convert import STEPS
    from x2sam.convert import convert as run

    with plain_errors(), progress_bar(STEPS, "converting") as step:
        directory = out or default_place()
        written = run(checkpoint, base, directory, shape_of(preset, config), force, step)
    write_json(result, {"directory": str(directory), "name": written.name, "vocabulary": written.text["vocab_size"]})
    typer.echo(f"{directory}: use it with --model {directory}")


def shape_of(preset: Preset, config: Path | None) -> X2SAMConfig:
    """Raises WeightsError for a configuration file that can't be used."""
    from x2sam.config import PRESETS, X2SAMConfig

    if config is None:
        return PRESETS[preset.value]()
    try:
        return X2SAMConfig.from_dict(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{config} can't be read: {error}") from error


def default_place() -> Path:
    from x2sam.placement import PUBLISHED, model_home

    return model_home() / PUBLISHED


def download(
    out: Out = None,
    file: Annotated[str | None, typer.Option(help="Path of the checkpoint in its repository.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the checkpoint. [default: as recorded, or newest]")
    ] = None,
    base_revision: Annotated[str | None, typer.Option(help="The same of the base model.")] = None,
    checkpoint: Annotated[str | None, typer.Option(metavar="REPO", help="Another repository of X2SAM weights.")] = None,
    base: Annotated[str | None, typer.Option(metavar="REPO", help="Another repository of its base model.")] = None,
    preset: Annotated[Preset, typer.Option(help="Sizes of the segmentation parts.")] = Preset.published,
    config: Annotated[Path | None, typer.Option(help="A config.json of ours, instead of a preset.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fetched files after they were converted.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fetch nothing; verify the model that is there.")] = False,
    force: Force = False,
    result: Result = None,
) -> None:
    """Fetch the published model and its base from the Hugging Face hub, convert and verify them.

    Stopped and started again, it goes on where it was. The hub is HF_ENDPOINT; HF_TOKEN is sent where it is set.
    """
    # Late: with PyTorch this takes seconds.
    from x2sam.download import BASE, CHECKPOINTS, STEPS, Wanted, Watch, verify
    from x2sam.download import download as run

    directory = out or default_place()
    if check:
        with plain_errors():
            verified = verify(directory)
        write_json(result, {"directory": str(directory), "verified": asdict(verified)})
        typer.echo(summary(directory, verified))
        return
    wanted = Wanted(file, revision, base_revision, checkpoint or CHECKPOINTS, base or BASE)
    with plain_errors(), transfer_bars(STEPS) as (step, transfer):
        source, verified = run(directory, wanted, shape_of(preset, config), force, keep, Watch(step, transfer))
    write_json(result, {"directory": str(directory), **asdict(source), "verified": asdict(verified)})
    typer.echo(f"{source.checkpoint} {source.checkpoint_commit}: {source.file}")
    typer.echo(f"{source.base} {source.base_commit}")
    typer.echo(summary(directory, verified))
    typer.echo(f"{directory}: taken by --model auto where there is a GPU, or by --model {out or 'x2sam-4b'}")


def summary(directory: Path, verified: Verified) -> str:
    """What was verified, in a line."""
    return (
        f"{directory} loads: {verified.tensors} tensors, {verified.parameters / 1e6:.1f} M numbers in "
        f"{verified.dtype}, {verified.bytes / 1e6:.1f} MB, {verified.tokens} tokens"
    )


@contextmanager
def transfer_bars(steps: int) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """On a terminal a bar of steps and one of bytes, on stderr: functions to take a step, and to tell bytes."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        course = bars.add_task("downloading", total=steps, told="")
        bytes_here = bars.add_task("fetched", total=None, visible=False, told="")

        def step(text: str) -> None:
            bars.update(course, advance=1, description=text)

        def transfer(have: int, total: int) -> None:
            told = f"{decimal(have)} of {decimal(total)}"
            bars.update(bytes_here, completed=have, total=total, told=told, visible=have < total)

        yield step, transfer
