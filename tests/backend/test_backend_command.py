from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import app

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
        (["serve"], {"X2SAM_THREADS": "many"}, "X2SAM_THREADS"),
        (["serve", "--log-level", "loud"], {}, "--log-level"),
        (["serve", "--port", "0"], {}, "--port"),
    ],
)
def test_what_cannot_be_used_is_said(arguments, environment, text):
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


def test_serving_and_stopping(captured, tmp_path):
    port = free_port()
    code = SERVE.format(here=str(Path(__file__).parent), port=port)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "X2SAM_CACHE_DIR": str(tmp_path)}
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
