"""Versions with real weights: one that is sound takes over, one that is cut, misshapen or not finite never does."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.app import close_app, create_app
from backend.model_versions import BROKEN, ModelVersions, Version
from backend.wsgi import load_engine, loader_for
from x2sam.placement import version_of

SOON = 60.0


@pytest.fixture
def place(tmp_path, build_tiny, tiny_tokenizer):
    def place(name: str, seed: int) -> Path:
        build_tiny(seed=seed).save_pretrained(tmp_path / name, tiny_tokenizer)
        return tmp_path / name

    return place


def cut(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def misshapen(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["mask_decoder.queries_features.weight"] = torch.zeros(3, 32)
    save_file(tensors, directory / "model.safetensors")


def not_finite(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    poisoned = {name: torch.full_like(value, float("nan")) for name, value in tensors.items() if "decoder" in name}
    save_file(tensors | poisoned, directory / "model.safetensors")


def another_config(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"name": "tiny", "strange": 1}))


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_real_weights_take_over_and_broken_ones_do_not(settings, place, captured, tmp_path):
    settings = replace(settings, model=str(place("base", 0)), device="cpu", cpu_threads=1)
    root = version_of(Path(settings.model))
    versions = ModelVersions(Path(settings.state_dir) / "models", keep=9)
    app = create_app(settings, lambda: load_engine(settings), loader_for(settings))
    try:
        services = app.extensions["x2sam"]
        services.swap._seconds = 0.02
        assert services.engines.wait(SOON).version == root
        for number, harm in enumerate((cut, misshapen, not_finite, another_config)):
            bad = place(f"bad{number}", 2 + number)
            name = f"{version_of(bad).split('-')[0]}-{number:08x}"
            harm(bad)
            name = version_of(bad) if harm in (misshapen, not_finite) else name
            versions.add(bad, Version(name, root, root))
            versions.promote(name)
            until(lambda name=name: versions.table().versions[name].state == BROKEN)
            assert versions.table().current == "" and services.engines.ready_engine.version == root, harm
        good = place("good", 1)
        name = version_of(good)
        versions.add(good, Version(name, root, root))
        shutil.rmtree(good)
        versions.promote(name)
        until(lambda: services.engines.ready_engine.version == name)
        until(lambda: services.engines.retiring == 0)
        answer = app.test_client().post("/predict", json=captured("predict_interactive_keypoint_positive"))
        assert answer.status_code == 200 and answer.json["results"][0]["model_version"] == name
    finally:
        close_app(app)
    again = create_app(settings, lambda: load_engine(settings), loader_for(settings))
    try:
        assert again.extensions["x2sam"].engines.wait(SOON).version == name, "it serves after a restart"
    finally:
        close_app(again)
