"""``python -m x2sam bench``: how fast, beside the straightforward way on the same weights."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from x2sam.commands.common import Device, Result, chosen_device, plain_errors, progress_bar, write_json


class Size(StrEnum):
    tiny = "tiny"
    nano = "nano"
    mid = "mid"
    published = "4b"
    xsam_tiny = "xsam-tiny"
    xsam_mid = "xsam-mid"
    xsam = "xsam"


class Part(StrEnum):
    first = "first"
    text = "text"
    together = "together"
    track = "track"
    compiled = "compiled"
    none = "none"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def bench(
    size: Annotated[Size, typer.Option(help="nano, or the others with random weights.")] = Size.nano,
    model: Annotated[str, typer.Option(help="Measure this model instead of --size; a name or a directory.")] = "auto",
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Number format; equal outputs are asserted in float32.")] = Dtype.auto,
    repeats: Annotated[int, typer.Option(min=1, help="Next clicks that are timed.")] = 12,
    only: Annotated[
        list[Part] | None,
        typer.Option(
            help="Beside next clicks measure only this: first, text, together or track; none of it; or compiled, which "
            "is left out unless it is named, as it compiles for minutes."
        ),
    ] = None,
    track_seconds: Annotated[
        float, typer.Option(min=0, help="Leave tracking out where it would take longer than this.")
    ] = 300.0,
    objects: Annotated[list[int] | None, typer.Option(min=1, help="Objects followed at once; 1 and 4.")] = None,
    frames: Annotated[
        list[int] | None, typer.Option(min=1, help="Only memory: follow an object through generated clips this long.")
    ] = None,
    floor: Annotated[
        bool, typer.Option("--floor", help="Only count: operations and bytes of every stage of nano, mid and 4b.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats and short clips.")] = False,
    result: Result = None,
) -> None:
    """Measure clicks, words, tracking, start-up and memory, and assert that both ways give the same masks."""
    if floor:
        return count_floor(result)
    if frames:
        return measure_memory(size, frames, result)
    with plain_errors():
        # Late: with PyTorch this takes seconds.
        from x2sam import bench as benchmark
        from x2sam.bench_models import engine_for, startup_ms
        from x2sam.bench_plan import Plan

        where = chosen_device(device)
        plan = replace(Plan.quick(), repeats=min(repeats, 3)) if quick else Plan(repeats=repeats)
        plan = replace(plan, track_seconds=track_seconds, objects=tuple(objects or plan.objects))
        if only:
            plan = replace(plan, parts=tuple(part.value for part in only), startup=False)
        steps = benchmark.STEPS + 2 + benchmark.STEPS_COMPILED * ("compiled" in plan.parts)
        with progress_bar(steps, "building the model") as step:
            engine, weights, directory = engine_for(size.value, model, where, dtype.value)
            with engine:
                step("warming up")
                measured = benchmark.run(engine, plan, step)
                step("starting up")
                startup = startup_ms(engine, directory) if plan.startup else None
    name = size.value if model == "auto" else engine.name
    summary = {"size": name, "weights": weights, **measured, "startup_ms": startup}
    write_json(result, summary)
    show(summary, benchmark.rows_of(summary))


def count_floor(result: Path | None) -> None:
    """Prints the table as Markdown: it stands in x2sam/inference/SPEED.md."""
    from x2sam.floor import markdown, table

    rows = table(("nano", "mid", "4b"))
    write_json(result, {"stages": rows})
    typer.echo(markdown(rows))


def measure_memory(size: Size, frames: list[int], result: Result) -> None:
    """Resident memory of tracks through clips of so many frames, each in a process of its own."""
    with plain_errors():
        from x2sam import bench_memory

        summary = bench_memory.run(size.value, frames)
    write_json(result, summary)
    table = Table("frames", "resident MiB", "peak MiB", "frames/s", title=f"{summary['size']}, one object")
    for row in summary["rows"]:
        table.add_row(*(str(row[key]) for key in ("frames", "rss_mb", "peak_rss_mb", "fps")))
    console = Console()
    console.print(table)
    console.print(f"largest to smallest: {100 * summary['growth']:+.1f} %", highlight=False)


def show(summary: dict[str, Any], rows: Any) -> None:
    title = f"{summary['size']}, {summary['weights']} weights, {summary['dtype']} on {summary['device']}"
    table = Table("", "engine", "straightforward", "times", "unit", title=title)
    for what, ours, plain, unit in rows:
        gain = None
        if ours and plain:
            gain = ours / plain if unit == "frames/s" else plain / ours
        cells = ["-" if v is None else f"{v:.4g}" for v in (ours, plain)]
        table.add_row(what, *cells, "-" if gain is None else f"{gain:.1f} x", unit)
    console = Console()
    console.print(table)
    if summary["startup_ms"] is not None:
        console.print(f"ready after {summary['startup_ms'] / 1e3:.1f} s, from a fresh process", highlight=False)
    if summary["float32_mask_iou"] is not None:
        console.print(f"masks overlap those in float32 by {summary['float32_mask_iou']:.4f}", highlight=False)
    console.print(
        f"outputs: mask logits at most {summary['max_abs_diff']:.1e} apart, masks overlap {summary['mask_iou']:.4f}; "
        f"peak memory {summary['peak_rss_mb']:.0f} MiB",
        highlight=False,
    )
    for note in summary["notes"]:
        console.print(note, highlight=False)
