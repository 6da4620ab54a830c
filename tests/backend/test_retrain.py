"""A project's submitted masks become a version of the model: collected, learned by another process, taken or left."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from exporting import annotation, drawn, task
from picture_server import picture_bytes
from test_export_sources import FakeApi
from typer.testing import CliRunner

from backend import retrain as module
from backend.cli import app
from backend.corrections import collect
from backend.export_staging import ExportError
from backend.model_versions import PROMOTED, REFUSED, ModelVersions, Version
from backend.retrain import Learning, RetrainError, retrain
from backend.retrain_command import RUNNING
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.inference.engine import Engine
from x2sam.placement import EMBEDDED, SNAP_NET, version_of
from x2sam.training.adapt import HELD, TRAIN

SIDE = 64
BASE = version_of(EMBEDDED / "nano")


class Api(FakeApi):
    def listed_data(self, project):
        return ({"id": number, "data": one["data"]} for number, one in self.tasks.items())


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10 : 30 + number % 20, 8:40] = True
    return mask


@pytest.fixture
def api(pictures, monkeypatch):
    tasks = []
    for number in range(1, 17):
        name = f"p{number}"
        pictures.files[name] = picture_bytes(SIDE, SIDE)
        result = [drawn(mask_of(number), f"r{number}")]
        if number == 1:  # says too little about an outline
            box = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0, "rectanglelabels": ["dog"]}
            result.append(drawn(mask_of(1), "b") | {"from_name": "rectangle", "type": "rectanglelabels", "value": box})
        tasks.append(task(number, annotation(result, number), image=f"/data/local-files/?d={name}"))
    made = Api(tasks)
    monkeypatch.setattr(module, "LabelStudioApi", lambda settings: made)
    return made


@pytest.fixture
def versions(settings):
    return ModelVersions(Path(settings.state_dir) / "models")


def test_corrections_are_collected_with_their_pictures(api, fetcher_for, pictures, tmp_path):
    out = tmp_path / "out"
    found = collect(api, fetcher_for(), 7, out)
    assert (found.masks, found.items, found.unfetched) == (16, 16, 0)
    sides = {split: OwnPictures(out, split) for split in (TRAIN, HELD)}
    assert len(sides[TRAIN]) + len(sides[HELD]) == 16 and 1 <= len(sides[HELD]) <= 8
    sample = sides[TRAIN].bare(0)
    assert sample.frames.shape == (1, SIDE, SIDE, 3) and sample.objects[0].category == "cat"
    assert sample.labels[0].astype(bool).any()
    held = {sides[HELD].bare(i).source for i in range(len(sides[HELD]))}
    # later: one more picture, one changed mask, and one that can't be had; nothing changes sides or is fetched again
    before = len(pictures.seen)
    for number in (17, 18):
        one = task(number, annotation([drawn(mask_of(number), f"r{number}")], number))
        api.tasks[number] = one | {"data": {"image": f"/data/local-files/?d=p{number}"}}
        api.times[number] = "2026-01-02"
    pictures.files["p17"] = picture_bytes(SIDE, SIDE)
    again = collect(api, fetcher_for(), 7, out)
    assert (again.masks, again.unfetched) == (18, 1)
    assert len({path for path, _ in pictures.seen[before:] if "d=p" in path}) == 2
    later = OwnPictures(out, HELD)
    assert held <= {later.bare(i).source for i in range(len(later))}


def test_nothing_was_submitted(fetcher_for, tmp_path):
    with pytest.raises(ExportError, match="no tasks"):
        collect(Api([]), fetcher_for(), 7, tmp_path / "out")


def learned(monkeypatch, promoted=True, code=0, after="nano-1", meanwhile=lambda: None):
    """Stands in for the process that learns."""
    commands = []

    def run(command, settings, log_file, look):
        commands.append(command)
        log_file.write_text("step 1\nthe device's memory is full\n")
        look()  # before it has told anything
        if code:
            return code
        place = Path(command[command.index("--out") + 1]) / "run" / "model"
        (place / "tokenizer").mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
            (place / name).write_text(after)
        start = Path(command[command.index("--model") + 1]).name
        found = {
            "before": start if start.startswith("nano-") else BASE, "after": after, "directory": str(place),
            "promoted": promoted, "reason": "because", "corrections": {"difference": 0.1}, "general": {},
        }  # fmt: skip
        Path(command[command.index("--json") + 1]).write_text(json.dumps(found))
        meanwhile()
        return 0

    monkeypatch.setattr(module, "_run", run)
    return commands


def test_a_better_version_serves_and_the_next_training_goes_on_from_it(
    api, settings, versions, monkeypatch, tmp_path
):
    commands = learned(monkeypatch)
    outcome = retrain(settings, 7)
    assert outcome.promoted and outcome.version == "nano-1" and outcome.masks == 16
    table = versions.table()
    assert table.current == "nano-1" and table.versions["nano-1"].root == BASE
    assert table.versions["nano-1"].project == "7"
    assert table.versions["nano-1"].scores["corrections"] == {"difference": 0.1}
    learned_again = learned(monkeypatch, promoted=False, after="nano-2")
    assert not retrain(settings, 7).promoted
    assert commands[0][commands[0].index("--model") + 1] == str(EMBEDDED / "nano")
    assert learned_again[0][learned_again[0].index("--model") + 1] == str(versions.directory("nano-1"))
    table = versions.table()
    assert table.current == "nano-1" and table.versions["nano-2"].state == REFUSED
    assert (table.versions["nano-2"].root, table.versions["nano-2"].parent) == (BASE, "nano-1")
    assert not (Learning.of(settings).folder / "progress.json").exists()
    # another model in the settings: the line of trainings that began with nano is not gone on with
    other = tmp_path / "other"
    shutil.copytree(EMBEDDED / "nano", other)
    (other / "model.safetensors").write_bytes(b"others")
    third = learned(monkeypatch, promoted=False, after="nano-3")
    retrain(replace(settings, model=str(other)), 7)
    assert third[0][third[0].index("--model") + 1] == str(other)


def test_what_somebody_chose_meanwhile_stays(api, settings, versions, monkeypatch, tmp_path):
    def choose():
        place = Learning.of(settings).project(7) / "run" / "model"
        versions.add(place, Version("nano-9", BASE, BASE))
        versions.promote("nano-9")

    learned(monkeypatch, meanwhile=choose)
    outcome = retrain(settings, 7)
    assert not outcome.promoted and "chosen meanwhile" in outcome.reason
    assert versions.table().current == "nano-9"


def test_nothing_to_learn_from_is_told_before_anything_begins(api, settings, monkeypatch):
    commands = learned(monkeypatch)
    for one in api.tasks.values():
        one["annotations"].clear()
    with pytest.raises(RetrainError, match="Nobody has submitted a mask in project 7 yet"):
        retrain(settings, 7)
    assert not commands and not (Learning.of(settings).folder / "progress.json").exists()


def test_what_is_told_before_its_process_tells_anything(api, settings, monkeypatch):
    learned(monkeypatch)
    seen = []
    retrain(settings, 7, report=lambda *told: seen.append(told))
    assert seen[-1] == ("training", 0, 0)


def test_a_training_that_failed(api, settings, versions, monkeypatch):
    learned(monkeypatch, code=1)
    with pytest.raises(RetrainError, match="code 1: the device's memory is full"):
        retrain(settings, 7)
    assert versions.table().current == "" and not (Learning.of(settings).folder / "progress.json").exists()


def test_the_process_gets_no_secrets_and_ends_with_this_one(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "hidden")
    code = "import os; print('KEY', os.environ.get('LABEL_STUDIO_API_KEY')); raise SystemExit(5)"
    log = tmp_path / "log.txt"
    assert module._run([sys.executable, "-c", code], settings, log, lambda: None) == 5
    assert log.read_text().strip() == "KEY None"

    def stop():
        if len(log.read_text().split()) > 2:  # it runs
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        module._run([sys.executable, "-c", sleeper], settings, log, stop)
    pid = int(log.read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_command(api, settings, monkeypatch, tmp_path):
    monkeypatch.setenv("X2SAM_STATE_DIR", settings.state_dir)
    monkeypatch.setenv("LABEL_STUDIO_URL", settings.label_studio_url)
    monkeypatch.setattr("backend.retrain_command.signal.signal", lambda *_: None)
    monkeypatch.setattr("backend.retrain_command.logs.configure", lambda *_: None)
    learned(monkeypatch)
    told = tmp_path / "told.json"
    words = ["retrain", "--project", "7", "--model", "nano", "--json", str(told)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "nano-1: serves from now on" in result.output
    assert json.loads(told.read_text())["promoted"]
    with Learning.of(settings).alone():
        assert CliRunner().invoke(app, words).exit_code == RUNNING


def test_from_masks_to_a_version_that_loads(api, settings, versions, tmp_path, sketching_model, tiny_tokenizer):
    """The real process, with a model that is small."""
    sketching_model.save_pretrained(tmp_path / "start", tiny_tokenizer)
    general = tmp_path / "general"
    (general / "p").mkdir(parents=True)
    entries = []
    for number in range(2):
        (general / "p" / f"{number}.png").write_bytes(picture_bytes(SIDE, SIDE))
        cv2.imwrite(str(general / "p" / f"m{number}.png"), mask_of(number).astype(np.uint8))
        about = {"width": SIDE, "height": SIDE, "source": "p", "objects": [{"id": 1, "category": "cat"}]}
        entries.append({"file": f"p/{number}.png", "mask": f"p/m{number}.png", **about})
    (general / "train.json").write_text(json.dumps({"pictures": entries}))
    wanted = replace(settings, model=str(tmp_path / "start"), device="cpu", general_dir=str(general), promote_objects=1)
    seen = []
    outcome = retrain(wanted, 7, steps=1, report=lambda *told: seen.append(told))
    version = versions.check(outcome.version)
    assert version.state == (PROMOTED if outcome.promoted else REFUSED)
    assert outcome.scores["corrections"]["objects"] >= 1 and outcome.scores["general"]["objects"] == 2
    assert {"pictures", "outlining"} <= {what for what, *_ in seen}
    assert SNAP_NET in version.files, "its last light step has learned too"
    with Engine.load(versions.directory(outcome.version), "cpu") as engine:
        assert engine.version == outcome.version
