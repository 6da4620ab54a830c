"""Fetching the published model from a stand-in hub: whole, interrupted, moved, wrong, out of reach."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from stand_in_hub import StandInHub
from typer.testing import CliRunner

from x2sam import hub_files
from x2sam.cli import app
from x2sam.download import BASE, CHECKPOINTS, pick_checkpoint
from x2sam.errors import DownloadError
from x2sam.inference.engine import Engine
from x2sam.model.weights import WRAPPER

LAST = "s3_train/x2sam_large/pytorch_model.bin"
FILES = ["README.md", "X2SAM.pdf", "s1_train/x2sam/pytorch_model.bin", LAST]
PUSHED = (CHECKPOINTS, BASE)


@pytest.fixture
def hub(published, monkeypatch):
    """A hub with the files of the tiny model; its bytes are random enough to be told from each other."""
    weights = {"README.md": b"about", "s1_train/x2sam/pytorch_model.bin": b"old", LAST: checkpoint()}
    base = {path.name: path.read_bytes() for path in Path("base").iterdir()} | {"cat.png": b"a picture"}
    hub = StandInHub()
    hub.push(CHECKPOINTS, weights)
    hub.push(BASE, base)
    monkeypatch.setattr(hub_files, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("X2SAM_HOME", str(published / "home"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with hub.run():
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def checkpoint() -> bytes:
    return Path("pytorch_model.bin").read_bytes()


def line(*words: str) -> list[str]:
    return ["download", "--config", "shape.json", "--out", "model", *words]


def download(*words: str):
    return CliRunner().invoke(app, line(*words))


def done(outcome) -> dict:
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    return json.loads(Path("model/source.json").read_text())


def told(outcome) -> str:
    assert outcome.exit_code == 1 and outcome.stdout == "", (outcome.output, outcome.exception)
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr


def changed() -> bytes:
    """The checkpoint with another background."""
    state = torch.load("pytorch_model.bin", weights_only=True)
    state["bg_embeds.weight"] = state["bg_embeds.weight"] + 1
    torch.save(state, "moved.bin")
    return Path("moved.bin").read_bytes()


def test_the_last_stage_and_its_base_become_a_model(hub):
    source = done(download("--json", "r.json"))
    commits = [hub.commits[name][-1][0] for name in PUSHED]
    assert [source[key] for key in ("checkpoint", "base", "file")] == [*PUSHED, LAST]
    assert [source["checkpoint_commit"], source["base_commit"]] == commits
    assert set(source["digests"]) == {"config.json", "model.safetensors", "tokenizer/tokenizer.json"}
    result = json.loads(Path("r.json").read_text())
    assert result.items() >= {"directory": "model", **source}.items()
    assert result["verified"]["dtype"] == "bfloat16" and result["verified"]["tensors"] > 100
    with Engine.load("model", "cpu") as engine:
        assert engine.version.startswith("tiny-")
    assert {sent.path for sent in hub.sent} == {LAST, *(p.name for p in Path("base").iterdir())}
    assert not list(Path().glob(".model*"))


def test_a_model_that_is_there_is_not_fetched_again(hub):
    done(download())
    hub.asked.clear()
    assert "--force" in told(download()) and not hub.asked


def test_the_token_stays_with_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done(download())
    seen = {(sent.path, sent.authorization) for sent in hub.sent}
    assert ("config.json", "Bearer hf_secret") in seen and (LAST, None) in seen


def test_a_connection_that_breaks_is_taken_up_where_it_was(hub):
    hub.breaks[LAST] = [70_000, 0, 30_000]
    done(download())
    assert [sent.begin for sent in hub.sent if sent.path == LAST] == [0, 70_000, 70_000, 100_000]
    assert hub.bytes_of(LAST) == len(checkpoint())


def test_a_second_run_asks_for_the_rest_only(hub):
    hub.breaks[LAST] = [70_000, 0, 0]
    problem = told(download())
    assert "could not be fetched" in problem and "run this again, it goes on where it stopped" in problem
    first = {sent.path for sent in hub.sent}
    assert not Path("model").exists()
    hub.sent.clear(), hub.asked.clear()
    done(download())
    assert [(sent.path, sent.begin) for sent in hub.sent] == [(LAST, 70_000)]
    assert len(first) > 1 and not [path for path in hub.asked if path.startswith("/api")]


def test_a_killed_download_goes_on(hub):
    hub.pace = 0.2
    command = [sys.executable, "-m", "x2sam", *line()]
    part = Path(".model.download/checkpoint") / (LAST + ".part")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not (part.is_file() and part.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    had = part.stat().st_size
    assert 0 < had < len(checkpoint())
    hub.pace = 0.0
    time.sleep(0.5)  # the hub notices that nobody reads
    hub.sent.clear()
    done(download())
    assert [(sent.path, sent.begin, sent.count) for sent in hub.sent] == [(LAST, had, len(checkpoint()) - had)]


def test_two_at_once_do_not_mix_their_bytes(hub):
    place = Path(".model.download")
    place.mkdir()
    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another download fills" in told(download()) and not hub.asked
    done(download())


def test_a_server_without_ranges_sends_all_again(hub):
    hub.whole_only, hub.breaks[LAST] = True, [70_000]
    done(download())
    assert [sent.begin for sent in hub.sent if sent.path == LAST] == [0, 0]


def test_a_wrong_file_is_dropped_and_named(hub):
    hub.served[LAST] = checkpoint()[:-1] + b"?"
    problem = told(download())
    assert f"{LAST} of {CHECKPOINTS} is not what" in problem and "HF_ENDPOINT" in problem
    assert not Path("model").exists() and not list(Path(".model.download/checkpoint").rglob("*.*"))
    hub.served.clear()
    done(download())


def test_a_small_file_that_differs_is_noticed_too(hub):
    hub.served["config.json"] = Path("base/config.json").read_bytes().replace(b"7", b"8")
    assert f"config.json of {BASE} is not what" in told(download())


def test_weights_of_another_model_name_their_keys(hub):
    state = torch.load("pytorch_model.bin", weights_only=True)
    del state["bg_embeds.weight"]
    torch.save(state, "other.bin")
    hub.push(CHECKPOINTS, {LAST: Path("other.bin").read_bytes()})
    assert "missing background.weight" in told(download())
    assert not Path("model").exists()


def test_a_moved_branch_changes_nothing_until_it_is_asked_for(hub):
    first = hub.commits[CHECKPOINTS][0][0]
    hub.breaks[LAST] = [70_000, 0, 0]
    told(download())
    second = hub.push(CHECKPOINTS, {LAST: changed()})
    assert done(download())["checkpoint_commit"] == first
    before = Path("model/model.safetensors").read_bytes()
    assert done(download("--force"))["checkpoint_commit"] == first
    assert Path("model/model.safetensors").read_bytes() == before
    assert done(download("--force", "--revision", "main"))["checkpoint_commit"] == second
    assert Path("model/model.safetensors").read_bytes() != before
    assert done(download("--force", "--revision", first))["checkpoint_commit"] == first
    assert Path("model/model.safetensors").read_bytes() == before


def test_bytes_of_the_old_commit_are_not_mixed_with_the_new(hub):
    hub.breaks[LAST] = [70_000, 0, 0]
    told(download())
    hub.push(CHECKPOINTS, {LAST: changed()})
    hub.sent.clear()
    done(download("--revision", "main"))
    assert [(sent.path, sent.begin) for sent in hub.sent] == [(LAST, 0)]


def test_a_commit_that_is_gone_is_a_sentence(hub):
    done(download())
    hub.commits[CHECKPOINTS] = []
    hub.push(CHECKPOINTS, {LAST: changed()})
    hub.commits[CHECKPOINTS][0] = ("f" * 40, hub.commits[CHECKPOINTS][0][1])
    assert "has no revision" in (problem := told(download("--force"))) and "--revision main" in problem
    assert "no repository made/up" in told(download("--force", "--checkpoint", "made/up"))


def test_files_that_are_here_are_converted_without_a_network(hub, monkeypatch):
    done(download("--keep"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done(download("--force"))
    assert not Path(".model.download").exists()


def test_what_the_hubs_own_client_fetched_is_taken(hub, monkeypatch):
    import huggingface_hub

    cache = Path("cache").absolute()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    commit = hub.commits[CHECKPOINTS][-1][0]
    snapshot = cache / "models--hao9610--X2SAM" / "snapshots" / commit / LAST
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(checkpoint())
    done(download())
    assert not hub.bytes_of(LAST) and snapshot.is_file()


def test_without_a_network_one_sentence_says_what_to_do(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    problem = told(download())
    for part in (f"{CHECKPOINTS} could not be fetched from 127.0.0.1:9", "check the network", "x2sam convert"):
        assert part in problem
    assert not Path("model").exists()


def test_a_full_disk_is_noticed_before_anything_is_fetched(hub, monkeypatch):
    from x2sam import download as module

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000})())
    assert "--out" in told(download()) and not hub.sent


def test_a_place_that_can_not_be_written_is_a_sentence(hub):
    Path("file").touch()
    outcome = CliRunner().invoke(app, ["download", "--config", "shape.json", "--out", "file/model"])
    assert "can't be written" in told(outcome) and "--out" in outcome.stderr


def test_a_model_that_changed_on_disk_is_noticed(hub):
    done(download())
    outcome = download("--check", "--json", "c.json")
    assert outcome.exit_code == 0 and "loads:" in outcome.stdout
    assert json.loads(Path("c.json").read_text())["verified"]["tokens"] > 100
    path = Path("model/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "is not the file that was written" in told(download("--check"))
    path.unlink()
    assert "can't be read" in told(download("--check"))


def test_bars_tell_steps_and_bytes_on_a_terminal_only(monkeypatch):
    from rich.console import Console

    from x2sam.commands import models

    def drawn(terminal: bool) -> str:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
        monkeypatch.setattr(models, "Console", lambda stderr: console)
        with models.transfer_bars(3) as (step, transfer):
            step("fetching")
            transfer(1_500_000, 9_000_000_000)
            time.sleep(0.3)  # drawn ten times a second
        return screen.getvalue()

    assert "fetching" in (told := drawn(True)) and "1.5 MB of 9.0 GB" in told
    assert not drawn(False)


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


def test_the_lora_of_the_published_file_is_in_the_model(hub):
    """The digests would not notice a conversion that leaves half of the checkpoint out."""
    done(download())
    state = torch.load("pytorch_model.bin", weights_only=True)
    assert any(name.startswith(WRAPPER) and ".lora_A." in name for name in state)
    from safetensors import safe_open

    with safe_open("model/model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lora" in name]  # noqa: SIM118
