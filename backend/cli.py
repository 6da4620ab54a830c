"""``python -m backend``: commands around the ML backend."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from backend import logs
from backend.bench import bench
from backend.capacity_command import capacity
from backend.doctor_command import doctor
from backend.errors import EXPECTED
from backend.export_command import export_masks
from backend.import_command import import_masks
from backend.models_command import app as models_app
from backend.preannotate_command import preannotate_tasks
from backend.probe import ask_ready
from backend.replay_command import replay_recording
from backend.report_command import report
from backend.retrain_command import retrain_model
from backend.settings import Settings, settings_help, unknown_settings
from backend.starting import check_start
from backend.video_cli import app as video_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


app.add_typer(video_app, name="video")
app.add_typer(models_app, name="models")


@app.callback()
def main() -> None:
    """X2SAM as an ML backend for Label Studio. Configured by environment variables; see the README."""


def _settings_text() -> str:
    """Every setting for the help, as a table that is not wrapped."""
    rows = [f"  {names}  [{default}]\n      {text}" for names, default, text in settings_help()]
    return "\b\nSettings, read from the environment once [with their defaults]:\n" + "\n".join(rows)


@app.command(epilog=_settings_text())
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all. See X2SAM_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. See PORT.")] = None,
    model: Annotated[str | None, typer.Option(help="nano, x2sam-4b, a directory, or auto. See X2SAM_MODEL.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, or auto. See X2SAM_DEVICE.")] = None,
    engine: Annotated[str | None, typer.Option(help="local, or ray for many engines. See X2SAM_ENGINE.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR. See LOG_LEVEL.")] = None,
) -> None:
    """Answers Label Studio at http://HOST:PORT until it is stopped. Options go before settings of the environment."""
    try:
        settings = Settings.from_environment()
        settings = settings.with_options(
            host=host, port=port, model=model, device=device, engine=engine, log_level=log_level
        )
        settings.check_exposure(settings.host)
        # late: the model's base class depends on what is installed
        from backend.server import Server

        check_start(settings)
    except EXPECTED as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    logs.configure(settings.logging_level, settings.log_format)
    for sentence in unknown_settings():
        logging.getLogger(__name__).warning(sentence)
    Server(settings).run()


@app.command()
def ready() -> None:
    """Asks the server on this machine whether it is ready, with the same settings; exit code 0: it is.

    For health checks of containers, which have no credentials of their own.
    """
    try:
        found = ask_ready(Settings.from_environment())
    except EXPECTED as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(found or "ready")
    raise typer.Exit(1 if found else 0)


app.command()(capacity)
app.command()(doctor)
app.command()(bench)
app.command("export")(export_masks)
app.command("retrain")(retrain_model)
app.command("import-masks")(import_masks)
app.command("replay")(replay_recording)
app.command("report")(report)
app.command("preannotate")(preannotate_tasks)
