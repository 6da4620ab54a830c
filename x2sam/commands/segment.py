"""``python -m x2sam segment``: masks of one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from x2sam.commands.common import (
    Boxes,
    Clock,
    Device,
    Model,
    Points,
    Result,
    Text,
    load_engine,
    output_file,
    plain_errors,
    progress_bar,
    prompt_of,
    write_json,
)
from x2sam.commands.pictures import label_map, write_label_map, write_overlay
from x2sam.structures import Mask


def segment(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    point: Points = None,
    box: Boxes = None,
    text: Text = None,
    out: Annotated[Path | None, typer.Option(help="Write a label map: 1 is the best mask, 2 the next.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write the picture with the masks in colour.")] = None,
    model: Model = "auto",
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Cut objects out of a picture by clicks, boxes or words."""
    prompt = prompt_of(point, box, text)
    for file in (out, overlay):
        if file is not None:
            output_file(file, (".png",))
    clock = Clock()
    with plain_errors(), progress_bar(3, "loading the model") as step:
        with clock.measure("load"):
            engine = load_engine(model, device)
        with engine:
            step("reading the picture")
            with clock.measure("open"):
                session = engine.open(image)
                size = session.size()
            step("segmenting")
            with clock.measure("first"):
                masks = session.segment(prompt)
            step()
            labels = label_map([m.mask for m in masks], range(1, len(masks) + 1), size)
            if out is not None:
                write_label_map(out, labels)
            if overlay is not None:
                write_overlay(overlay, session.looking.picture(0), labels)
    write_json(result, {"model": engine.version, "masks": [describe(m) for m in masks], "ms": clock.ms})
    show(engine.version, masks, clock.ms["first"])


def describe(mask: Mask) -> dict:
    """A mask as the result lists it: ``area`` in pixels, ``bbox`` as x, y, width, height."""
    return {"score": round(float(mask.score), 6), "area": mask.area, "bbox": list(mask.bbox), "phrase": mask.phrase}


def show(version: str, masks: list[Mask], ms: float) -> None:
    if not masks:
        typer.echo(f"{version}: nothing found ({ms:.0f} ms)")
        return
    table = Table("", "score", "area", "x, y, width, height", "phrase", title=f"{version}: {ms:.0f} ms")
    for number, mask in enumerate(masks, 1):
        box = ", ".join(str(v) for v in mask.bbox)
        table.add_row(str(number), f"{mask.score:.3f}", str(mask.area), box, mask.phrase or "")
    Console().print(table)
