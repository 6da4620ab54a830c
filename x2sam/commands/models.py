"""``python -m x2sam convert`` and ``download``: make a model directory."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam.commands.common import Result, plain_errors, progress_bar, write_json
from x2sam.errors import WeightsError

if TYPE_CHECKING:
    from x2sam.config import X2SAMConfig

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
    from x2sam.inference.engine import PUBLISHED, model_home

    return model_home() / PUBLISHED


def download(
    out: Out = None,
    file: Annotated[str | None, typer.Option(help="Path of the checkpoint in its repository.")] = None,
    force: Force = False,
    result: Result = None,
) -> None:
    """Fetch the published model and its base from the Hugging Face hub and convert them."""
    from dataclasses import asdict

    from x2sam.download import STEPS
    from x2sam.download import download as run

    with plain_errors(), progress_bar(STEPS, "downloading") as step:
        directory = out or default_place()
        source = run(directory, file, force, step)
    write_json(result, {"directory": str(directory), **asdict(source)})
    typer.echo(f"{directory}: taken by --model auto where there is a GPU, or by --model x2sam-4b")
