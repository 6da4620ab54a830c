"""``python -m x2sam data``: the annotation formats, checking a data set, and building V-VGD prompts.

The readers load decoders of pictures and videos, so each command imports them when it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from x2sam.commands.common import Result, output_file, plain_errors, progress_bar, whole_file, write_json
from x2sam.errors import X2SAMError

app = typer.Typer(no_args_is_help=True, help="Data sets: list the formats, check one, build V-VGD prompts.")

Format = Annotated[str, typer.Option("--format", help="The annotation format; 'data formats' lists them.")]
Annotations = Annotated[Path, typer.Option("--annotations", help="Annotation file or directory.")]
Images = Annotated[str, typer.Option("--images", help="Directory that file names start from.")]
Masks = Annotated[str, typer.Option("--masks", help="Directory of label maps.")]
Source = Annotated[str, typer.Option("--source", help="The annotation file that the annotations refer to.")]
Split = Annotated[str, typer.Option("--split")]
Modality = Annotated[str, typer.Option("--modality", help="image or video, where a file holds both.")]
Frames = Annotated[int | None, typer.Option("--frames-per-clip", help="Cut videos; whole videos without it.")]
Stride = Annotated[int, typer.Option("--stride", help="Of the frames of a video take every so many-th.")]
Sampling = Annotated[str, typer.Option("--sampling", help="stride: consecutive frames; span: spread over the video.")]
Limit = Annotated[int | None, typer.Option("--limit", help="The first N samples only.")]


@app.command("formats")
def formats() -> None:
    """List the annotation formats with their tasks and settings."""
    from x2sam.data.readers import READERS

    table = Table("format", "what", "tasks", "needs", "takes", box=None)
    for name, row in READERS.items():
        table.add_row(name, row.summary, " ".join(row.tasks), " ".join(row.needs), " ".join(row.takes))
    Console().print(table)


@app.command("check")
def check(
    format: Format,
    task: Annotated[str, typer.Option("--task", help="genseg, refseg ...")],
    annotations: Annotations,
    images: Images = "",
    masks: Masks = "",
    source: Source = "",
    split: Split = "",
    modality: Modality = "",
    frames_per_clip: Frames = None,
    stride: Stride = 1,
    sampling: Sampling = "stride",
    limit: Limit = None,
    result: Result = None,
) -> None:
    """Read every sample of a data set and tell which can't be used, and why."""
    from x2sam.data.readers import DatasetSpec, open_dataset

    with plain_errors():
        dataset = open_dataset(DatasetSpec(
            annotations.name, format, task, annotations, images, masks, source, split, modality=modality,
            frames_per_clip=frames_per_clip, stride=stride, sampling=sampling, limit=limit,
        ))  # fmt: skip
        broken: list[str] = []
        objects = 0
        with progress_bar(len(dataset), "reading") as step:
            for index in range(len(dataset)):
                try:
                    objects += dataset[index].masks.shape[1]
                except X2SAMError as problem:
                    broken.append(str(problem))
                step("")
    write_json(result, {"samples": len(dataset), "masks": objects, "broken": broken})
    for problem in broken[:20]:
        typer.echo(problem, err=True)
    typer.echo(f"{len(dataset) - len(broken)} of {len(dataset)} samples can be read, with {objects} masks")
    if broken:
        raise typer.Exit(1)


@app.command("vgd")
def vgd(
    format: Format,
    annotations: Annotations,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Where the prompts go.")],
    images: Images = "",
    masks: Masks = "",
    split: Split = "",
    modality: Modality = "",
    frames_per_clip: Frames = None,
    stride: Stride = 1,
    sampling: Sampling = "stride",
    limit: Limit = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same prompts.")] = 0,
    kinds: Annotated[str, typer.Option("--kinds", help="Kinds of prompts, with commas.")] = "point,scribble,box,mask",
    result: Result = None,
) -> None:
    """Prompt an example of every category of every picture or clip; read the file as format 'vgd'."""
    from x2sam.data.readers import DatasetSpec, open_dataset
    from x2sam.data.vgd import SOURCES, build_prompts

    if format not in SOURCES:
        raise typer.BadParameter(f"{format!r} has no objects; use one of {', '.join(SOURCES)}", param_hint="--format")
    out = output_file(out, (".json",))
    with plain_errors():
        spec = DatasetSpec(
            annotations.name, format, "genseg", annotations, images, masks, split=split, mode="instance",
            modality=modality, frames_per_clip=frames_per_clip, stride=stride, sampling=sampling, limit=limit,
        )  # fmt: skip
        dataset = open_dataset(spec)
        with progress_bar(len(dataset), "prompts") as step:
            content = build_prompts(spec, dataset, [kind.strip() for kind in kinds.split(",")], seed, step)
    with whole_file(out) as part:
        part.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    made = sum(len(sample["prompts"]) for sample in content["samples"])
    write_json(result, {"samples": len(content["samples"]), "prompts": made, "seed": seed})
    typer.echo(f"{out}: {made} prompts for {len(content['samples'])} samples")
