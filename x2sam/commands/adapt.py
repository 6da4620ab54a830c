"""``python -m x2sam adapt``: learn from corrected masks, and tell whether the result is better."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x2sam.commands.common import Clock, Device, Model, Result, chosen_device, plain_errors, write_json
from x2sam.commands.train import log_to_stderr

if TYPE_CHECKING:
    from x2sam.evaluation.comparing import Samples, Verdict

NICE = 15


def adapt(
    corrections: Annotated[
        Path, typer.Argument(metavar="DIR", help="Corrected masks: an export as x2sam with the splits train and held.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the run and its result; a run that was stopped goes on.")],
    model: Model = "auto",
    steps: Annotated[int, typer.Option(min=0, help="0: by the number of corrected pictures.")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="Of learning; 0: that of the kind of model.")] = 0.0,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the new weights in the mean with those before; 0: the usual.")
    ] = 0.0,
    outline: Annotated[
        int, typer.Option(min=0, help="Passes from which the last light step learns; 0: it stays as it is.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn at random.")] = 0,
    general: Annotated[
        Path | None, typer.Option(help="Labelled pictures on which it must not get worse; default: generated scenes.")
    ] = None,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks per object in the comparison.")] = 3,
    gain: Annotated[float, typer.Option(help="Least gain on held-out masks, sure to 95 %.")] = 0.0,
    loss: Annotated[float, typer.Option(min=0, help="Largest loss elsewhere, sure to 95 %.")] = 0.02,
    objects: Annotated[int, typer.Option(min=1, help="Held-out masks that are needed to decide.")] = 5,
    people: Annotated[
        Path | None, typer.Option(help="A file that is locked while people are answered: the run waits then.")
    ] = None,
    patience: Annotated[float, typer.Option(min=0, help="Longest wait before a step, in seconds.")] = 30.0,
    progress: Annotated[Path | None, typer.Option(help="File that tells how far the run is.")] = None,
    device: Device = "auto",
    result: Result = None,
) -> None:
    """Fine-tunes a model on corrected masks and compares both on held-out ones and elsewhere.

    OUT/model is the adapted model, whatever the verdict; the exit code is 0 either way.
    """
    log_to_stderr()
    if hasattr(os, "nice"):
        os.nice(max(0, NICE - os.nice(0)))
    with plain_errors():
        # Late: with PyTorch this takes seconds.
        import torch

        from x2sam.data.readers.own_pictures import OwnPictures
        from x2sam.evaluation.comparing import Thresholds, general_set, held_out, judge
        from x2sam.placement import find_model, version_of
        from x2sam.training.adapt import HELD, Adaptation
        from x2sam.training.adapt import adapt as learn
        from x2sam.training.yielding import PeopleFirst, ProgressFile

        place = chosen_device(device)
        if place == "cpu":
            torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is left to those who answer
        start, clock, wait, told = find_model(model), Clock(), PeopleFirst(people, patience), ProgressFile(progress)

        wanted = Adaptation(steps, rate, seed, share or Adaptation.share, outline=outline)

        def before_step(number: int, whole: int) -> None:
            wait()
            told.tell("training", number, whole, wait.waited)

        def before_outline(number: int, whole: int) -> None:
            wait()
            told.tell("outlining", number, whole, wait.waited)

        with clock.measure("train"):
            finished = learn(start, corrections, out, wanted, place, before_step, before_outline)
        here, there = held_out(OwnPictures(corrections, HELD)), general_set(general)
        whole = 2 * (len(here) + len(there))
        done = iter(range(whole + 1))

        def before_picture() -> None:
            wait()
            told.tell("comparing", next(done), whole, wait.waited)

        with clock.measure("compare"):
            compared = _compared((start, finished), place, (here, there), clicks, before_picture)
        verdict: Verdict = judge(*compared, Thresholds(gain, loss, objects))
        told.tell("comparing", whole, whole, wait.waited)
        summary = {
            "before": version_of(start), "after": version_of(finished), "directory": str(finished), **verdict.summary(),
            "seconds_waited": round(wait.waited, 1), "ms": clock.ms,
        }  # fmt: skip
    write_json(result, summary)
    typer.echo(f"{'better' if verdict.promoted else 'not taken'}: {verdict.reason}")


def _compared(
    models: tuple[Path, Path], device: str, sets: tuple[Samples, Samples], clicks: int, wait: Callable[[], None]
) -> list[Any]:
    """A comparison for each set of pictures; the models are on the device one after the other."""
    from x2sam.evaluation.comparing import click_table, compare
    from x2sam.inference.engine import Engine
    from x2sam.training.yielding import PATIENT

    tables = []
    for directory in models:
        with Engine.load(directory, device, timeout=PATIENT, hang=PATIENT) as engine:
            tables.append([click_table(engine, samples, clicks, wait) for samples in sets])
    return [compare(before, after) for before, after in zip(*tables, strict=True)]
