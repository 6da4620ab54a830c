"""``python -m x2sam data``: formats, check, vgd."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.x2sam.data.format_fixtures import build_coco, build_ytvis
from x2sam.cli import app
from x2sam.data.readers import READERS, DatasetSpec, open_dataset


@pytest.fixture
def run():
    def run(*words: object):
        return CliRunner().invoke(app, ["data", *map(str, words)])

    return run


def test_formats_are_listed(run):
    answer = run("formats")
    assert answer.exit_code == 0
    assert all(name in answer.output for name in READERS)


def test_prompts_are_built_and_read(run, tmp_path):
    spec = build_ytvis(tmp_path)
    out, told = tmp_path / "out" / "vgd.json", tmp_path / "told.json"
    words = ["vgd", "--format", "ytvis", "--annotations", spec.annotations, "--images", spec.images, "--out", out,
             "--frames-per-clip", 3, "--kinds", "point,box", "--seed", 5]  # fmt: skip
    answer = run(*words, "--json", told)
    assert answer.exit_code == 0, answer.output
    first = out.read_bytes()
    dataset = open_dataset(DatasetSpec("v", "vgd", "vgdseg", out, spec.images, source=spec.annotations))
    assert json.loads(told.read_text())["samples"] == 4
    assert len(dataset) >= 8
    assert all(sample.regions.any((1, 2)).all() for sample in dataset)
    assert run(*words).exit_code == 0
    assert out.read_bytes() == first
    assert sorted(p.name for p in out.parent.iterdir()) == ["vgd.json"]


def test_what_cannot_be_built_is_told_in_a_sentence(run, tmp_path):
    spec = build_coco(tmp_path)
    words = ["--annotations", spec.annotations, "--images", spec.images, "--out"]
    assert "has no objects" in run("vgd", "--format", "chat", *words, tmp_path / "a.json").output.replace("\n", " ")
    assert run("vgd", "--format", "coco", *words, tmp_path / "a.txt").exit_code == 2
    answer = run("vgd", "--format", "coco", *words, tmp_path / "a.json", "--kinds", "star")
    assert answer.exit_code == 1
    assert "use some of point" in answer.output
    (spec.images / "000001.jpg").unlink()
    answer = run("vgd", "--format", "coco", *words, tmp_path / "a.json")
    assert answer.exit_code == 1
    assert "000001.jpg" in answer.output
    assert not (tmp_path / "a.json").exists()


def test_a_check_reads_every_sample(run, tmp_path):
    spec = build_coco(tmp_path)
    told = tmp_path / "told.json"
    words = ["check", "--format", "coco", "--task", "genseg", "--annotations", spec.annotations]
    words += ["--images", spec.images]
    answer = run(*words, "--json", told)
    assert answer.exit_code == 0
    assert "4 of 4 samples can be read" in answer.output
    (spec.images / "000002.jpg").write_bytes(b"no picture")
    answer = run(*words, "--json", told)
    assert answer.exit_code == 1
    assert "3 of 4 samples" in answer.output
    (problem,) = json.loads(told.read_text())["broken"]
    assert "000002.jpg" in problem
