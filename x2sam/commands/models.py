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
    Path | None, typer.Option(metavar="DIR", help="The model's directory. [default: x2sam-4b or x-sam in X2SAM_HOME]")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")]


class Preset(StrEnum):
    published = "x2sam-4b"
    mid = "mid"
    tiny = "tiny"
    xsam = "x-sam"
    xsam_2026 = "x-sam-2026"
    xsam_tiny = "xsam-tiny"


Sizes = Annotated[
    Preset | None,
    typer.Option(help="Sizes of the segmentation parts. [default: of the published model of the checkpoint's family]"),
]


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The published pytorch_model.bin.")],
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Directory of the base: Qwen3-VL; Phi-3 for X-SAM.")],
    out: Out = None,
    preset: Sizes = None,
    config: Annotated[Path | None, typer.Option(help="A config.json of ours, instead of a preset.")] = None,
    force: Force = False,
    result: Result = None,
) -> None:
    """Turn a published checkpoint (X2SAM, or X-SAM in either layout) and its base model into one model directory."""
    # Late: with PyTorch this takes seconds.
    from x2sam.convert import STEPS, layout_of
    from x2sam.convert import convert as run
    from x2sam.placement import PUBLISHED, PUBLISHED_XSAM, model_home

    with plain_errors(), progress_bar(STEPS, "converting") as step:
        layout = layout_of(checkpoint)
        directory = out or model_home() / (PUBLISHED_XSAM if layout.network == "xsam" else PUBLISHED)
        written = run(checkpoint, base, directory, shape_of(preset, config), force, step)
    found = {"found": layout.title, "layout": layout.name}
    vocabulary = written.text["vocab_size"]
    write_json(result, {"directory": str(directory), "name": written.name, "vocabulary": vocabulary, **found})
    typer.echo(f"{checkpoint.name} is {layout.title}")
    typer.echo(f"{directory}: use it with --model {directory}")


def shape_of(preset: Preset | None, config: Path | None) -> X2SAMConfig | None:
    """None where neither is given. Raises WeightsError for a configuration file that can't be used."""
    from x2sam.config import PRESETS, X2SAMConfig
    from x2sam.xsam_config import XSAM_PRESETS

    if config is None:
        return None if preset is None else {**PRESETS, **XSAM_PRESETS}[preset.value]()
    try:
        return X2SAMConfig.from_dict(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{config} can't be read: {error}") from error


def download(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="x2sam-4b, or x-sam for pictures (hao9610/X-SAM on the hub).")
    ] = "x2sam-4b",
    out: Out = None,
    file: Annotated[str | None, typer.Option(help="Path of the checkpoint in its repository.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the checkpoint. [default: as recorded, or newest]")
    ] = None,
    base_revision: Annotated[str | None, typer.Option(help="The same of the base model.")] = None,
    checkpoint: Annotated[str | None, typer.Option(metavar="REPO", help="Another repository of such weights.")] = None,
    base: Annotated[str | None, typer.Option(metavar="REPO", help="Another repository of its base model.")] = None,
    preset: Sizes = None,
    config: Annotated[Path | None, typer.Option(help="A config.json of ours, instead of a preset.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fetched files after they were converted.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fetch nothing; verify the model that is there.")] = False,
    force: Force = False,
    result: Result = None,
) -> None:
    """Fetch a published model and what is needed of its base from the Hugging Face hub, convert and verify them.

    Stopped and started again, it goes on where it was. The hub is HF_ENDPOINT; HF_TOKEN is sent where it is set.
    """
    # Late: with PyTorch this takes seconds.
    from x2sam.download import STEPS, Wanted, Watch, published, verify
    from x2sam.download import download as run
    from x2sam.placement import model_home

    with plain_errors():
        name, row = published(model)
    directory = out or model_home() / name
    if check:
        with plain_errors():
            verified = verify(directory)
        write_json(result, {"directory": str(directory), "verified": asdict(verified)})
        typer.echo(summary(directory, verified))
        return
    places = checkpoint or row.checkpoint, base or row.base
    wanted = Wanted(file, revision, base_revision, *places, row.base_files, row.last_stage)
    with plain_errors(), transfer_bars(STEPS) as (step, transfer):
        source, verified = run(directory, wanted, shape_of(preset, config), force, keep, Watch(step, transfer))
    write_json(result, {"directory": str(directory), **asdict(source), "verified": asdict(verified)})
    typer.echo(f"{source.checkpoint} {source.checkpoint_commit}: {source.file}")
    typer.echo(f"{source.base} {source.base_commit}")
    typer.echo(summary(directory, verified))
    auto = "taken by --model auto where there is a GPU, or " if not out and name == "x2sam-4b" else "taken "
    typer.echo(f"{directory}: {auto}by --model {out or name}")


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
