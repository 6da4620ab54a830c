"""``python -m backend``: commands around the ML backend."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated

import typer

from backend.doctor_command import doctor
from backend.errors import EXPECTED
from backend.settings import Settings
from backend.video_cli import app as video_app

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


app.add_typer(video_app, name="video")


@app.callback()
def main() -> None:
    """X2SAM as an ML backend for Label Studio. Configured by environment variables; see the README."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 9090,
    model: Annotated[
        str | None, typer.Option(help="nano, x2sam-4b, a directory, or auto. [default: X2SAM_MODEL or auto]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto. [default: X2SAM_DEVICE or auto]")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Answers Label Studio at http://HOST:PORT until it is stopped."""
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"'{log_level}' is no log level", param_hint="--log-level")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for talkative in ("urllib3", "PIL"):  # at DEBUG they would write addresses of pictures
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        from backend.server import Server  # late: the model's base class depends on what is installed
    except EXPECTED as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    changes = {name: value for name, value in (("model", model), ("device", device)) if value is not None}
    Server(replace(settings, **changes), host, port).run()


app.command()(doctor)
