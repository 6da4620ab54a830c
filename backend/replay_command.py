"""``python -m backend replay``: recorded prompts are asked again; are the answers the same, how long do they take."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backend.console import progress_bar, told, write_result
from backend.errors import SettingsError
from backend.recorder import DEPENDS, machine
from backend.settings import Settings

SPEEDS = ("asap", "recorded")
_NOBODY_WAITS = 3600.0  # seconds, for the model, a track over pages, or a batch
_SHOWN = 12


def replay_recording(
    file: Annotated[Path, typer.Argument(help="A recording, as a server with X2SAM_RECORD_DIR writes it.")],
    media: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with the pictures and videos, found by their content. May be given again."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="nano, x2sam-4b, a directory, or auto. See X2SAM_MODEL.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto. See X2SAM_DEVICE.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of PyTorch on a CPU; as recorded, unless given.")
    ] = None,
    speed: Annotated[str, typer.Option(help="asap, or recorded: with the pauses that people made.")] = SPEEDS[0],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Asks a model what was recorded, through the server's own code, and compares the answers byte by byte.

    Exit code 1: an answer is another one, or the weights are others. On another processor, or with another number of
    threads, masks may differ by rounding; then they are compared by their overlap, and that is said.
    """
    with told(Console(stderr=True)):
        if speed not in SPEEDS:
            raise SettingsError(f"There is no speed {speed!r}; choose one of {', '.join(SPEEDS)}.")
        # late: the model's base class depends on what is installed
        from backend.replay import find_media, read_recording

        recording = read_recording(file)
        given = Settings.from_environment().with_options(model=model, device=device)
        with tempfile.TemporaryDirectory(prefix="x2sam-replay-") as folder:
            place = Path(folder) / "media"
            place.mkdir()
            names = find_media(recording, file, media or (), place)
            settings = settings_for(recording.head, given, Path(folder), place, threads)
            with progress_bar() as report:
                done = run(settings, recording, names, report, speed == SPEEDS[1])
        tell(done, recording.cut)
        write_result(json_file, asdict(done) | {"counts": done.counts, "ms": done.times(), "holds": done.holds})
    if not done.holds:
        raise typer.Exit(1)


def settings_for(
    head: Mapping[str, Any], given: Settings, folder: Path, media: Path, threads: int | None
) -> Settings:
    """The settings of a server that keeps all that it makes in ``folder``, reads ``media``, and answers as the one
    that recorded did.

    :raises SettingsError: a recorded setting can't be used.
    """
    known = head.get("settings") if isinstance(head.get("settings"), dict) else {}
    recorded = {name: known[name] for name in DEPENDS if type(known.get(name)) is type(getattr(given, name))}
    named = {name: value for name, value in recorded.items() if isinstance(value, str)}
    changes = {
        **{name: value for name, value in recorded.items() if name not in named},
        "cpu_threads": threads or given.cpu_threads or int(head.get("threads") or 0),
        "journal_bytes": Settings.journal_bytes if head.get("journal", True) else 0,
        "media_cache_dir": str(folder / "cache"), "state_dir": str(folder / "state"), "media_dirs": (str(media),),
        "track_seconds": _NOBODY_WAITS, "batch_seconds": _NOBODY_WAITS, "warm_tasks": 0, "retrain_masks": 0,
        "features_dir": "", "features_disk_bytes": 0, "engine": "local", "record_dir": "",
        "label_studio_api_key": "", "basic_auth_user": "", "basic_auth_pass": "",
    }  # fmt: skip
    return replace(given.with_options(**named), **changes)


def run(settings: Settings, recording, names: Mapping[int, str], report, as_recorded: bool):
    """Loads the model and replays."""
    from backend.app import close_app, create_app
    from backend.replay import Replay
    from backend.wsgi import load_engine

    app = create_app(settings, partial(load_engine, settings))
    try:
        engine = app.extensions["x2sam"].engines.wait(_NOBODY_WAITS)
        about = {"version": engine.version, "device": engine.device, "threads": engine.vitals.threads}
        return Replay(app, recording, names, about | machine()).run(report, as_recorded)
    finally:
        close_app(app)


def tell(done, cut: bool) -> None:
    """What came of it, for a person."""
    if cut:
        typer.echo("The last line of the recording is not whole: whoever wrote it was ended. It is left out.", err=True)
    if done.model_version != done.recorded_version:
        typer.echo(
            f"The weights are others: recorded with {done.recorded_version}, replayed with {done.model_version}. "
            "Name the model that was recorded with --model.", err=True,
        )  # fmt: skip
    if done.rounding:
        both = "; ".join(f"{name}: {then}, now {now}" for name, (then, now) in done.rounding.items())
        typer.echo(f"Sums may be rounded otherwise than when it was recorded ({both}).", err=True)
    odd = [one for one in done.requests if one.difference]
    for one in odd[:_SHOWN]:
        why = f" (depends on {', '.join(one.reasons)})" if one.verdict == "depends" else ""
        typer.echo(f"  request {one.asked}, {one.kind}: {one.verdict}{why}: {one.difference}", err=True)
    if len(odd) > _SHOWN:
        typer.echo(f"  and {len(odd) - _SHOWN} more", err=True)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in done.counts.items() if count)
    left_out = f"; {done.replaced} that a newer prompt replaced are left out" if done.replaced else ""
    typer.echo(f"{len(done.requests)} requests: {counts or 'none'}{left_out}.")
    table = Table("ms", "n", "p50 then", "p50 now", "p95 then", "p95 now")
    for kind, row in done.times().items():
        cells = [row[when][name] for name in ("p50", "p95") for when in ("recorded", "replayed")]
        table.add_row(kind, str(row["n"]), *(f"{one:.0f}" for one in cells))
    Console().print(table)
