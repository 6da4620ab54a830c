"""The model under label-studio-ml: the same answers through its server, and the old release refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from video_clips import write_clip

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUESTS = HERE / "data" / "requests"


def run(*arguments, path=(), **options):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT, HERE)))}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60, **options
    )


def test_the_captured_requests_through_its_server(client, pictures, tmp_path):
    pictures.files["video"] = write_clip(tmp_path / "v.mp4", count=60, rate=25).read_bytes()
    files = sorted(path for path in REQUESTS.glob("*.json") if path.stem not in ("versions",))
    done = run(HERE / "replay_through_standin.py", pictures.url, tmp_path / "cache", *files, path=(HERE / "standin",))
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert len(theirs) == len(files)
    for file in files:
        asked = json.loads(file.read_text(encoding="utf-8"))
        ours = client.open(asked["path"], method=asked["method"], json=asked["body"])
        status, answer = theirs[file.stem]
        assert status in (200, 201), file.stem
        if asked["path"] == "/predict":
            assert answer == ours.json, file.stem
        elif asked["path"] == "/setup":
            assert answer == {"model_version": "fake-0001"}


def test_its_start_command_finds_the_package(tmp_path):
    done = run(ROOT / "backend" / "_wsgi.py", "--help", path=(HERE / "standin",), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout


@pytest.fixture
def old_release(tmp_path):
    folder = tmp_path / "label_studio_ml-1.0.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: label-studio-ml\nVersion: 1.0.9\n")
    return tmp_path


def test_the_release_of_2022_is_refused_with_a_sentence(old_release):
    done = run("-m", "backend", "serve", path=(old_release,))
    assert done.returncode == 2
    assert "label-studio-ml 1.0.9 can't be used" in done.stderr
    assert "Traceback" not in done.stderr
