"""Pre-annotation on a real Label Studio: what it sends stands there once, and decides which task is handed out next."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from workplace import ROOT

VERSION = "fake-0001"
BRIGHT = (40, 200, 120, 160)  # of the pictures: the stand-in engine is wrong by brightness / 255


def picture(place: int, brightness: int) -> np.ndarray:
    """One of sixteen places is bright, so that no two are alike."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    row, col = divmod(place, 4)
    pixels[12 * row : 12 * row + 12, 16 * col : 16 * col + 16] = brightness
    return pixels


@pytest.fixture(scope="module")
def project(label_studio):
    """A project with a task for each brightness; their ids."""
    xml = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
    number = label_studio.create_project("pre-annotated", xml)
    folder = label_studio.files_root / "useful"
    folder.mkdir(exist_ok=True)
    for place, brightness in enumerate(BRIGHT):
        Image.fromarray(picture(5 * place, brightness)).save(folder / f"{place}.png")
    label_studio.serve_folder(number, folder)
    data = [{"image": f"/data/local-files/?d=useful/{k}.png", "part": "ab"[k % 2]} for k in range(len(BRIGHT))]
    return number, label_studio.import_tasks(number, data)


@pytest.fixture
def preannotate(label_studio, project, tmp_path):
    own = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "X2SAM_CACHE_DIR": str(tmp_path / "cache"),
        "X2SAM_STATE_DIR": str(tmp_path / "state"),
    }

    def run(*words: object) -> dict:
        result = tmp_path / "result.json"
        script = ROOT / "tests" / "backend" / "project_standin.py"
        command = [sys.executable, script, "preannotate", "--project", project[0], "--json", result, *words]
        words = [str(word) for word in command]
        done = subprocess.run(words, env=os.environ | own, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert label_studio.token not in done.stdout + done.stderr
        return json.loads(result.read_text())

    return run


def test_the_lowest_score_is_handed_out_first(label_studio, project, preannotate, tmp_path):
    number, tasks = project
    some = preannotate("--tasks", "part=b", "--tasks", f"{tasks[0]}-{tasks[2]}")
    assert (some["sent"], some["used"]) == (1, False)
    done = preannotate("--use", "--review", tmp_path / "page")
    assert (done["sent"], done["there"], done["failed"], done["used"]) == (3, 1, 0, True)
    predictions = [label_studio.api("GET", f"/api/predictions/?task={task}") for task in tasks]
    assert [len(found) for found in predictions] == [1] * 4
    scores = [found[0]["score"] for found in predictions]
    assert {found[0]["model_version"] for found in predictions} == {VERSION} and predictions[0][0]["result"]
    settings = label_studio.api("GET", f"/api/projects/{number}/")
    assert (settings["model_version"], settings["sampling"]) == (VERSION, "Uncertainty sampling")
    # bright is wrong, and no picture is like another
    expected = [tasks[k] for k in (1, 3, 2, 0)]
    assert [tasks[k] for k in np.argsort(scores)] == expected
    handed = []
    for _ in tasks:
        task = label_studio.api("GET", f"/api/projects/{number}/next")["id"]
        handed.append(task)
        label_studio.api("POST", f"/api/tasks/{task}/annotations/", {"result": []})
        if len(handed) == 1:
            again = preannotate()  # with what was annotated in mind
            assert (again["sent"], again["tasks"], again["there"]) == (0, 3, 3)
    assert handed == expected
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("data:image/jpeg") == 4 and f"task={expected[0]}" in page
