"""Versions of the model on disk: whole or not at all, promoted, rolled back, bounded, and damaged in every way."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import app
from backend.model_versions import BROKEN, CANDIDATE, PROMOTED, ModelVersionError, ModelVersions, Version


@pytest.fixture
def versions(tmp_path):
    return ModelVersions(tmp_path / "state" / "models", keep=3, clock=lambda: 100.0)


@pytest.fixture
def whole(tmp_path):
    """A directory with the files of a model."""

    def make(content: str = "weights") -> Path:
        place = tmp_path / "made" / content
        (place / "tokenizer").mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_text(content)
        (place / "tokenizer" / "tokenizer.json").write_text("{}")
        return place

    return make


def version(name: str, **fields) -> Version:
    return Version(name, "nano-0", "nano-0", **fields)


def test_a_version_is_added_promoted_and_rolled_back(versions, whole):
    assert versions.table().current == "" and versions.stamp() == (0, 0, 0)
    for name in ("nano-1", "nano-2"):
        before = versions.stamp()
        versions.add(whole(name), version(name))
        assert versions.stamp() != before
        assert versions.table().versions[name].state == CANDIDATE
        versions.promote(name, "better")
    table = versions.table()
    assert table.current == "nano-2" and table.history == ("", "nano-1")
    assert table.versions["nano-1"].state == PROMOTED and table.versions["nano-2"].made == 100.0
    assert versions.rollback() == "nano-1"
    assert versions.rollback() == ""
    with pytest.raises(ModelVersionError, match="No version served before"):
        versions.rollback()
    assert ModelVersions(versions._folder).table() == versions.table()


def test_half_a_model_is_not_taken(versions, whole):
    half = whole("half")
    (half / "config.json").unlink()
    with pytest.raises(ModelVersionError, match=r"has no config\.json"):
        versions.add(half, version("nano-1"))
    with pytest.raises(ModelVersionError, match="no name"):
        versions.add(whole("x"), version("../nano"))
    assert not versions.table().versions


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_version_is_not_promoted(versions, whole, harm):
    versions.add(whole("good"), version("nano-1"))
    versions.promote("nano-1")
    versions.add(whole("weights"), version("nano-2"))
    weights = versions.directory("nano-2") / "model.safetensors"
    if harm == "gone":
        weights.unlink()
    else:
        weights.write_text("weight" if harm == "cut" else "weighty")
    with pytest.raises(ModelVersionError, match="damaged"):
        versions.promote("nano-2")
    with pytest.raises(ModelVersionError, match="no version 'nano-3'"):
        versions.promote("nano-3")
    assert versions.table().current == "nano-1"


def test_a_broken_version_gives_way_to_the_one_before(versions, whole):
    for name in ("nano-1", "nano-2"):
        versions.add(whole(name), version(name))
        versions.promote(name)
    versions.decided("nano-2", BROKEN, "NaN")
    assert versions.table().current == "nano-1"
    versions.decided("nano-1", BROKEN, "NaN")
    assert versions.table().current == ""


def test_only_so_many_are_kept_and_never_without_the_one_that_serves(versions, whole):
    versions.add(whole("nano-1"), version("nano-1"))
    versions.promote("nano-1")
    for number in range(2, 8):
        versions.add(whole(f"nano-{number}"), version(f"nano-{number}"))
    table = versions.table()
    assert list(table.versions) == ["nano-1", "nano-6", "nano-7"] and table.current == "nano-1"
    assert sorted(p.name for p in versions._folder.iterdir() if p.is_dir()) == sorted(table.versions)


def test_a_kill_between_copy_and_table_leaves_no_version(versions, whole):
    versions.add(whole("nano-1"), version("nano-1"))
    code = (
        "import sys, os; from pathlib import Path; import backend.model_versions as m;"
        "write = m._write;"
        "m._write = lambda path, content: os._exit(9) if path.name == 'models.json' else write(path, content);"
        f"m.ModelVersions(Path({str(versions._folder)!r})).add(Path({str(whole('nano-2'))!r}), "
        "m.Version('nano-2', 'nano-0', 'nano-0'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert list(versions.table().versions) == ["nano-1"]
    versions.add(whole("nano-3"), version("nano-3"))  # tidies up
    assert sorted(p.name for p in versions._folder.iterdir() if p.is_dir()) == ["nano-1", "nano-3"]


def test_a_damaged_table_is_set_aside_and_made_anew(versions, whole):
    versions.add(whole("nano-1"), version("nano-1"))
    versions.promote("nano-1")
    (versions._folder / "models.json").write_text('{"format": "x2sam-models", "ver')
    with pytest.raises(ModelVersionError, match="can't be read"):
        versions.table()
    versions.add(whole("nano-2"), version("nano-2"))
    table = versions.table()
    assert list(table.versions) == ["nano-1", "nano-2"] and table.current == ""
    assert list(versions._folder.glob("models-damaged-*.json"))


def test_the_commands(tmp_path, versions, whole, monkeypatch):
    monkeypatch.setenv("X2SAM_STATE_DIR", str(tmp_path / "state"))
    run = lambda *words: CliRunner().invoke(app, ["models", *words])  # noqa: E731
    assert "None yet" in run("list").output
    versions.add(whole("nano-1"), replace(version("nano-1"), scores={"corrections": {"difference": 0.051}}))
    assert run("promote", "nano-1").exit_code == 0
    assert run("promote", "nano-9").exit_code == 2
    lines = run("list").output.splitlines()
    assert lines[0] == "nano-1 (serves)" and "promoted; made" in lines[1] and "held out +0.051" in lines[1]
    out = tmp_path / "list.json"
    assert run("list", "--json", str(out)).exit_code == 0
    told = json.loads(out.read_text())
    assert told["current"] == "nano-1" and told["versions"][0]["serves"]
    assert "serves again" in run("rollback").output
    assert run("list").output.splitlines()[-1] == "The model of the settings (base) serves."
    assert run("rollback").exit_code == 2
    assert run("promote", "base").exit_code == 0
