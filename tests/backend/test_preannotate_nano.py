"""Pre-annotation with the model of the repository: real pictures, real masks, scores and the page."""

from __future__ import annotations

import json

import numpy as np
from label_studio_sdk.label_interface import LabelInterface
from label_studio_standin import TOKEN
from PIL import Image
from project_standin import LABELS, ProjectStandIn
from typer.testing import CliRunner
from workplace import ROOT

from backend.cli import app


def test_pictures_are_asked_scored_and_shown(tmp_path, monkeypatch):
    studio = ProjectStandIn()
    try:
        for name in ("stop_sign.jpg", "stop_sign.jpg"):
            with Image.open(ROOT / "samples" / name) as picture:
                small = np.asarray(picture.convert("RGB").resize((320, 240)))
            studio.add(small if not studio.all_tasks else np.clip(small * 0.97, 0, 255).astype(np.uint8))
        studio.add(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
        for name, value in {
            "LABEL_STUDIO_URL": studio.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "X2SAM_CACHE_DIR": str(tmp_path / "media"),
            "X2SAM_STATE_DIR": str(tmp_path / "state"),
        }.items():
            monkeypatch.setenv(name, value)
        words = ["preannotate", "--project", "1", "--model", "nano", "--prompt", "dog: the red sign", "--rate", "0"]
        result = tmp_path / "result.json"
        done = CliRunner().invoke(app, [*words, "--json", str(result), "--review", str(tmp_path / "page")])
        assert done.exit_code == 0, (done.output, done.exception)
        told = json.loads(result.read_text())
        assert told["sent"] == 3 and told["model_version"].startswith("nano-") and told["review"] == 3
        predictions = [studio.of(task)[0] for task in (1, 2, 3)]
        for prediction in predictions:
            assert 0 < prediction["score"] < 1
            assert not LabelInterface(LABELS).validate_prediction({"result": prediction["result"]}, return_errors=True)
        assert {item["value"]["brushlabels"][0] for item in predictions[0]["result"]} == {"dog"}
        # of the picture that stands there twice, one waits until the other one has been seen
        first, copy, _ = (prediction["score"] for prediction in predictions)
        assert abs(first - copy) > 0.1 and studio.order(told["model_version"])[-1] in (1, 2)
    finally:
        studio.close()
