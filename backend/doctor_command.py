"""The command ``python -m backend doctor``: the table of checks, the model to ask, the report on the terminal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from flask import Flask
from rich.console import Console
from rich.markup import escape

from backend.clients import LabelStudioClient
from backend.doctor import Check, Finding, Looked, Mark, Visit, as_json, healthy, walk
from backend.doctor_answer import (
    check_compiled,
    check_decode,
    check_encode,
    check_media,
    check_model,
    check_predict,
    check_size,
)
from backend.doctor_connection import (
    check_address,
    check_attached,
    check_connected,
    check_first,
    check_version,
    check_webhook,
)
from backend.doctor_setup import check_config, check_prefill, check_project, check_task, check_token, check_url
from backend.errors import EXPECTED
from backend.settings import Settings

CHECKS = (
    Check("url", "Label Studio", check_url),
    Check("token", "Token", check_token, ("url",)),
    Check("project", "Project", check_project, ("token",)),
    Check("config", "Labeling configuration", check_config, ("project",)),
    Check("address", "Address of the backend", check_address, ("project",)),
    Check("attached", "Attached", check_attached, ("project",)),
    Check("first", "Asked by the editor", check_first, ("attached",)),
    Check("connected", "Connected", check_connected, ("attached",)),
    Check("version", "Model version", check_version, ("connected",)),
    Check("webhook", "Events", check_webhook, ("attached",)),
    Check("prefill", "Opening a task", check_prefill, ("project",)),
    Check("task", "Task", check_task, ("project",)),
    Check("media", "Fetching its picture", check_media, ("task",)),
    Check("decode", "Reading its picture", check_decode, ("media",)),
    Check("model", "Model", check_model),
    Check("compiled", "Compiled code", check_compiled),
    Check("predict", "Answering a prompt", check_predict, ("decode", "model")),
    Check("encode", "The answer's masks", check_encode, ("predict",)),
    Check("size", "The answer's size", check_size, ("predict",)),
)
_LOAD_SECONDS = 900.0  # nobody else waits, and large models take minutes
_SIGNS = {
    Mark.OK: "[green]✓[/]",
    Mark.NOTE: "[yellow]![/]",
    Mark.FAILED: "[red]✗[/]",
    Mark.SKIPPED: "[dim]-[/]",
}


def doctor(
    project: Annotated[int | None, typer.Option(metavar="ID", help="The project; its address has the number.")] = None,
    task: Annotated[int | None, typer.Option(metavar="ID", help="A task of it. [default: the first]")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="URL", help="This backend as attached. [default: the first interactive one]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Load this model here and ask it, in place of the attached backend.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto, for --model.")] = None,
    result: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found.")] = None,
) -> None:
    """Walk the way from Label Studio to a mask, and say at each step what to mend. Nothing is changed.

    Run it with the environment of the ML backend. Exit code 0: nothing failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        settings = Settings.from_environment()
    except EXPECTED as error:
        console.print(line("Settings", Finding(Mark.FAILED, str(error))))
        raise typer.Exit(1) from error
    visit = Visit(settings, LabelStudioClient(settings), address_of(backend), project, task)
    changes = {name: value for name, value in (("model", model), ("device", device)) if value is not None}
    looked: list[Looked] = []
    with loaded(replace(settings, **changes), model is not None) as visit.loaded, console.status("") as status:
        for one in walk(CHECKS, visit, lambda check: status.update(check.title)):
            looked.append(one)
            console.print(line(one.check.title, one.finding))
    if result is not None:
        write(result, as_json(visit, looked))
    raise typer.Exit(0 if healthy(looked) else 1)


def address_of(text: str | None) -> str | None:
    """``--backend`` without the slash at its end. Raises BadParameter when it is no web address."""
    if text is not None and not text.startswith(("http://", "https://")):
        raise typer.BadParameter(f"'{text}' should look like http://host:9090", param_hint="--backend")
    return text and text.rstrip("/")


def line(title: str, finding: Finding) -> str:
    """A check on the terminal: sign, title, what was found, and below it the mend."""
    text = f"{_SIGNS[finding.mark]} {title:<24}{escape(finding.text)}"
    return text + (f"\n{'':<26}[bold]{escape(finding.mend)}[/]" if finding.mend else "")


@contextmanager
def loaded(settings: Settings, wanted: bool) -> Iterator[LoadedBackend | None]:
    """The whole backend in this process, with the model of the settings; None unless it is ``wanted``."""
    if not wanted:
        yield None
        return
    from backend.app import close_app, create_app  # late: the model's base class depends on what is installed
    from backend.wsgi import load_engine

    with tempfile.TemporaryDirectory(prefix="x2sam-doctor-") as folder:
        # beside a backend that runs: nothing of its caches and its journal, and no work that nobody waits for
        own = {"media_cache_dir": folder, "features_dir": "", "features_disk_bytes": 0, "journal_bytes": 0}
        alone = replace(settings, **own, warm_tasks=0, compiled=False)
        app = create_app(alone, lambda: load_engine(alone))
        try:
            yield LoadedBackend(app, alone)
        finally:
            close_app(app)


class LoadedBackend:
    """The backend's web application, asked without a network."""

    def __init__(self, app: Flask, settings: Settings):
        self._app = app
        self._auth = (settings.basic_auth_user, settings.basic_auth_pass) if settings.basic_auth_user else None

    def load(self) -> str:
        engine = self._app.extensions["x2sam"].engines.wait(_LOAD_SECONDS)
        return f"{engine.version} on {engine.device}"

    def predict(self, body: dict[str, Any]) -> tuple[int, bytes]:
        answer = self._app.test_client().post("/predict", json=body, auth=self._auth)
        return answer.status_code, answer.get_data()


def write(path: Path, report: dict[str, Any]) -> None:
    """The report as JSON, all of it or nothing."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be written ({error.strerror})", param_hint="--json") from error
