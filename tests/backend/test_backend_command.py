from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import app
from backend.settings import Settings, unknown_settings

ROOT = Path(__file__).parents[2]
SERVE = """
import logging, sys
sys.path[:0] = [{here!r}]
from fake_engine import FakeEngine
import backend.wsgi
backend.wsgi.load_engine = lambda settings: FakeEngine()
from backend.cli import app
app(["serve", "--port", {port!r}, "--model", "nano"])
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_help_names_the_options():
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for option in ("--host", "--port", "--model"):
        assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        ([], {"X2SAM_THREADS": "many"}, "X2SAM_THREADS"),
        (["--log-level", "loud"], {}, "--log-level"),
        (["--port", "0"], {}, "--port"),
        (["--device", "gpu"], {}, "--device"),
        (["--host", "0.0.0.0"], {}, "X2SAM_ALLOW_OPEN"),
        ([], {"X2SAM_HOST": "0.0.0.0"}, "X2SAM_ALLOW_OPEN"),
        ([], {"X2SAM_ALLOW_OPEN": "maybe"}, "X2SAM_ALLOW_OPEN"),
        ([], {"PORT": "http"}, "PORT"),
        ([], {"DEVICE": "gpu"}, "DEVICE"),
        ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ([], {"LOG_FORMAT": "xml"}, "LOG_FORMAT"),
        ([], {"WORKERS": "4"}, "WORKERS"),
        ([], {"BASIC_AUTH_USER": "me"}, "BASIC_AUTH_PASS"),
        ([], {"LABEL_STUDIO_URL": "localhost"}, "LABEL_STUDIO_URL"),
        ([], {"X2SAM_STATE_DIR": "/dev/null/here"}, "X2SAM_STATE_DIR"),
        ([], {"X2SAM_CACHE_DIR": "/dev/null/here"}, "X2SAM_CACHE_DIR"),
        ([], {"X2SAM_FEATURES_DIR": "/dev/null/here", "X2SAM_FEATURES_DISK_MB": "10"}, "X2SAM_FEATURES_DIR"),
        ([], {"X2SAM_MEDIA_DIRS": "/no/such/place"}, "X2SAM_MEDIA_DIRS"),
        ([], {"X2SAM_MEDIA_HOSTS": "*example.com"}, "X2SAM_MEDIA_HOSTS"),
        ([], {"REQUESTS_CA_BUNDLE": "/no/such/file"}, "REQUESTS_CA_BUNDLE"),
        ([], {"X2SAM_MODEL": "no-such-model"}, "X2SAM_MODEL: there is no model 'no-such-model'"),
        (["--model", "x2sam-4b"], {"MODEL_DIR": "/no/such/place"}, "python -m x2sam download"),
        ([], {"BASIC_AUTH_USER": "a:b", "BASIC_AUTH_PASS": "c"}, "BASIC_AUTH_USER"),
    ],
)
def test_what_cannot_be_used_stops_the_start_and_is_named(monkeypatch, tmp_path, arguments, environment, text):
    monkeypatch.setattr("backend.server.Server.run", lambda _: pytest.fail("it started"))
    monkeypatch.setenv("X2SAM_HOME", "")
    places = {name: str(tmp_path / name) for name in ("X2SAM_CACHE_DIR", "X2SAM_STATE_DIR")}
    result = CliRunner().invoke(app, ["serve", *arguments], env=places | environment)
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


def test_folders_that_take_no_files(monkeypatch):
    """They may be there and be full, or belong to somebody else."""

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("backend.starting.tempfile.NamedTemporaryFile", full)
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "X2SAM_CACHE_DIR" in result.output and "No space left" in result.output


def test_a_device_that_is_not_there_stops_the_start(tmp_path):
    """It is found out in the process that will use it."""
    own = {"X2SAM_CACHE_DIR": str(tmp_path / "cache"), "X2SAM_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "backend", "serve", "--port", free_port(), "--device", "cuda:63"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "DEVICE: cuda:63 is not there; use cpu, or leave it out." in done.stderr
    assert "Traceback" not in done.stderr


def test_options_go_before_the_environment(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr("backend.server.Server.run", lambda server: started.append(server.settings))
    environment = {
        "PORT": "9000",
        "MODEL_DIR": "/models",
        "DEVICE": "cuda:1",
        "LOG_LEVEL": "warning",
        "THREADS": "8",
        "X2SAM_CACHE_DIR": str(tmp_path / "cache"),
        "X2SAM_STATE_DIR": str(tmp_path / "state"),
    }
    result = CliRunner().invoke(app, ["serve", "--port", "9001", "--device", "cpu"], env=environment)
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert (settings.port, settings.device, settings.model_dir) == (9001, "cpu", "/models")
    assert (settings.log_level, settings.threads) == ("WARNING", 8)


def test_the_help_lists_every_setting_with_its_default():
    output = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for entry in fields(Settings):
        for variable in entry.metadata["variables"]:
            assert variable in output
        assert entry.metadata["text"], entry.name
        assert entry.metadata["text"] in output
    assert "X2SAM_MEDIA_TIMEOUT  [30]" in output and "LABEL_STUDIO_API_KEY, LABEL_STUDIO_ACCESS_TOKEN  [none]" in output


def test_a_mistyped_setting_is_told():
    told = list(unknown_settings({"X2SAM_THREDS": "4", "X2SAM_PARITY_DIR": "x", "PATH": "y"}))
    assert told == ["X2SAM_THREDS is no setting; X2SAM_THREADS is."]


def test_serving_and_stopping(captured, tmp_path):
    port = free_port()
    code = SERVE.format(here=str(Path(__file__).parent), port=port)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "X2SAM_CACHE_DIR": str(tmp_path / "cache")}
    environment["X2SAM_STATE_DIR"] = str(tmp_path / "state")
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        health = None
        for _ in range(150):
            try:
                health = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2))
                if health["state"] == "ready":
                    break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None
            time.sleep(0.1)
        assert health is not None
        assert health["version"] == "fake-0001"
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors.decode()
    assert b"model fake, version fake-0001, on cpu" in errors


def test_the_web_part_needs_no_pytorch():
    code = "import sys, backend.app, backend.cli, backend.model; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "backend.model" in modules
    assert not {"torch", "transformers", "x2sam.inference.engine"} & set(modules)
