"""Fetching the published model, with a hub that is made up."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from typer.testing import CliRunner

from x2sam import download as module
from x2sam.cli import app
from x2sam.download import BASE, CHECKPOINTS, pick_checkpoint
from x2sam.errors import DownloadError

LAST = "s3_train/x2sam_large/pytorch_model.bin"
FILES = ["README.md", "X2SAM.pdf", "s1_train/x2sam/pytorch_model.bin", LAST]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Snapshots as the hub's cache lays them out; what was asked for and converted is noted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X2SAM_HOME", str(tmp_path / "home"))
    asked = {}

    def snapshot_download(repository, allow_patterns):
        asked[repository] = allow_patterns
        commit = {CHECKPOINTS: "c" * 40, BASE: "b" * 40}[repository]
        path = tmp_path / "hub" / commit
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def convert(checkpoint, base, out, shape, force):
        asked["convert"] = (checkpoint, base, shape.name)
        out.mkdir(parents=True)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repository: FILES)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(module, "convert", convert)
    return asked


def test_the_last_stage_and_its_base_are_converted(hub, tmp_path):
    outcome = CliRunner().invoke(app, ["download", "--json", "r.json"])
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    assert hub[CHECKPOINTS] == [LAST] and "*.safetensors" in hub[BASE]
    snapshots = tmp_path / "hub"
    assert hub["convert"] == (snapshots / ("c" * 40) / LAST, snapshots / ("b" * 40), "x2sam-4b")
    source = {
        "checkpoint": CHECKPOINTS,
        "file": LAST,
        "checkpoint_commit": "c" * 40,
        "base": BASE,
        "base_commit": "b" * 40,
    }
    place = tmp_path / "home" / "x2sam-4b"
    assert json.loads((place / "source.json").read_text()) == source
    assert json.loads(Path("r.json").read_text()) == {"directory": str(place), **source}


def test_a_model_that_is_there_is_not_fetched_again(hub, tmp_path):
    place = tmp_path / "home" / "x2sam-4b"
    place.mkdir(parents=True)
    (place / "model.safetensors").touch()
    outcome = CliRunner().invoke(app, ["download"])
    assert outcome.exit_code == 1 and "--force" in outcome.stderr and not hub


@pytest.mark.parametrize("error", [HTTPError("Name or service not known"), LocalEntryNotFoundError("offline\nmore")])
def test_a_hub_that_is_out_of_reach_is_one_sentence(hub, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    outcome = CliRunner().invoke(app, ["download"])
    assert outcome.exit_code == 1 and len(outcome.stderr.strip().splitlines()) == 1
    assert f"{CHECKPOINTS} could not be fetched" in outcome.stderr and "check the network" in outcome.stderr
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repository: FILES)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert CliRunner().invoke(app, ["download"]).exit_code == 1


def test_an_unclear_choice_is_left_to_the_person():
    assert pick_checkpoint(FILES) == LAST
    assert pick_checkpoint(["a/model.safetensors", "README.md"]) == "a/model.safetensors"
    assert pick_checkpoint(FILES, FILES[2]) == FILES[2]
    two = [*FILES, "s3_train/small/pytorch_model.bin"]
    with pytest.raises(DownloadError, match=r"--file: s1_train/.*, s3_train/small/pytorch_model.bin"):
        pick_checkpoint(two)
    with pytest.raises(DownloadError, match="no weights at all"):
        pick_checkpoint(["README.md"])
    with pytest.raises(DownloadError, match=r"no file nothing\.bin"):
        pick_checkpoint(FILES, "nothing.bin")
