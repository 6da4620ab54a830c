"""What masks cost: clicked, submitted and changed in a real Label Studio, then in /metrics and in the report."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import requests
from label_studio_server import click
from prometheus_client.parser import text_string_to_metric_families
from workplace import ROOT

from backend.geometry import Size
from backend.label_config import parse_label_config
from backend.results import Place, region_items
from x2sam.structures import Mask

SIZE: Size = (240, 320)
PICTURE = "/data/local-files/?d=made/upright.png"
XML = (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8")


def part(left, right):
    """Rows 60 to 120, columns as given."""
    mask = np.zeros(SIZE, bool)
    mask[60:120, left:right] = True
    return mask


def items(mask, name, label="Object"):
    tag = parse_label_config(XML).controls["mask"]
    return region_items(tag, Place(name, "image", label, SIZE), Mask(mask, 0.9))


def boxed():
    item = click(25, 25, SIZE, "b-1") | {"from_name": "box", "type": "rectanglelabels"}
    item["value"] = {"x": 25, "y": 25, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["Object"]}
    del item["is_positive"]
    return item


class Desk:
    """A project of its own on the backend with the stand-in engine."""

    def __init__(self, workplace):
        self.workplace, self.label_studio = workplace, workplace.label_studio
        self.project = self.label_studio.create_project("effort", XML, show_collab_predictions=False)
        self.label_studio.serve_folder(self.project, self.label_studio.files_root / "made")
        self.backend = self.label_studio.attach_backend(self.project, workplace.url)

    def task(self):
        return self.label_studio.import_tasks(self.project, [{"image": PICTURE}])[0]

    def ask(self, task, *prompts):
        answer = self.label_studio.ask(self.backend, task, *prompts)["result"]
        (item,) = (item for item in answer if item["type"] == "brushlabels")
        return item

    def submit(self, task, *result, **fields):
        body = {"result": list(result), **fields}
        return self.label_studio.api("POST", f"/api/tasks/{task}/annotations/", body)["id"]

    def masks(self):
        """Label, kind and touched to the number of masks in the metrics of this project's versions."""
        text = requests.get(f"{self.workplace.url}/metrics", timeout=30).text
        return {
            (s.labels["label"], s.labels["version"], s.labels["kind"], s.labels["touched"]): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
            if s.name == "x2sam_submitted_masks_total"
        }

    def report(self, folder, **environment):
        command = [sys.executable, "-m", "backend", "report", "--project", str(self.project)]
        command += ["--out", str(folder / "report.html"), "--json", str(folder / "report.json")]
        given = self.workplace.environment | environment
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.label_studio.token not in done.stdout + done.stderr and "Traceback" not in done.stderr
        return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text(), done.stdout


@pytest.fixture(scope="module")
def desk(workplaces):
    return Desk(workplaces("fake"))


def test_from_clicks_to_the_report(desk, tmp_path):
    before = desk.masks()
    # two clicks, accepted, submitted
    first, clicks = desk.task(), [click(31, 50, SIZE, "c-1"), click(44, 50, SIZE, "c-2")]
    desk.ask(first, clicks[0])
    desk.submit(first, desk.ask(first, *clicks), lead_time=10)
    # a box of 80 x 60 pixels, of which the left half was kept by hand; a mask drawn by hand; a click nobody kept
    second = desk.task()
    answer = desk.ask(second, boxed())
    assert items(part(80, 160), "any")[0]["value"]["rle"] == answer["value"]["rle"]
    half = answer | {"value": items(part(80, 120), "any")[0]["value"], "origin": "manual"}
    desk.ask(second, click(90, 90, SIZE, "c-3", "Background"))
    desk.submit(second, half, items(part(200, 210), "any", "Background")[0] | {"id": "h4nd"}, lead_time=20)
    # a stored prediction of two masks, one deleted; what is left is changed later
    third, kept = desk.task(), items(part(0, 40), "obj00000000aa")[0]
    prediction = {"task": third, "model_version": "nightly", "score": 0.5}
    prediction["result"] = [kept, *items(part(100, 140), "obj00000000bb")]
    begun = desk.label_studio.api("POST", "/api/predictions/", prediction)["id"]
    kept = kept | {"origin": "prediction"}
    annotation = desk.submit(third, kept, lead_time=3, parent_prediction=begun)

    counted = {
        ("Object", "fake-0001", "prompted", "no"): 1.0,
        ("Object", "fake-0001", "prompted", "yes"): 1.0,
        ("Background", "", "drawn", "unknown"): 1.0,
        ("Object", "nightly", "predicted", "no"): 1.0,
    }
    end = time.monotonic() + 30
    while time.monotonic() < end:
        now = desk.masks()
        if all(now.get(key, 0) - before.get(key, 0) == value for key, value in counted.items()):
            break
        time.sleep(0.2)
    assert {key: now.get(key, 0) - before.get(key, 0) for key in counted} == counted

    changed = items(part(0, 20), "any")[0]["value"]
    body = {"result": [kept | {"origin": "prediction-changed", "value": changed}], "lead_time": 8}
    desk.label_studio.api("PATCH", f"/api/annotations/{annotation}/", body)

    numbers, page, said = desk.report(tmp_path)
    total = numbers["total"]
    assert (numbers["tasks"], numbers["annotations"]["with_masks"], numbers["journal"]) == (3, 3, True)
    kinds = {kind: count for kind, count in total["kinds"].items() if count}
    assert kinds == {"prompted": 2, "predicted": 1, "drawn": 1}
    assert total["untouched"] == {"known": 3, "share": 0.3333}
    assert total["prompts_per_prompted_mask"] == {"known": 2, "mean": 1.5, "median": 1.5}  # 2 clicks, 1 box
    assert total["prompts_per_mask"]["mean"] == 1.0  # 2, 1 and none
    assert total["seconds_per_mask"] == {"known": 4, "mean": 9.5, "median": 10.0}  # 10; 20 for two; 8
    assert total["iou"] == {"known": 3, "mean": 0.6667, "median": 0.5}  # 1, a half and a half
    assert numbers["predictions_removed"] == 1
    assert numbers["prompted_and_dropped"] == {"objects": 1, "prompts": 1}
    versions = {row["name"]: row["masks"] for row in numbers["by_version"]}
    assert versions == {"fake-0001": 2, "nightly": 1} and "by_annotator" not in numbers
    assert {row["name"]: row["masks"] for row in numbers["by_label"]} == {"Object": 3, "Background": 1}
    assert "<b>33 %</b>of proposed masks" in page and "4 masks in 3 annotations" in said

    numbers, page, _ = desk.report(tmp_path, X2SAM_REPORT_ANNOTATORS="1")
    (row,) = numbers["by_annotator"]
    assert row["masks"] == 4 and row["name"] in page and desk.label_studio.username not in page


def test_elsewhere_prompts_are_unknown_and_wrong_numbers_are_told(desk, tmp_path):
    numbers, page, _ = desk.report(tmp_path, X2SAM_STATE_DIR=str(tmp_path / "empty"))
    assert numbers["journal"] is False and "could not be read" in page
    assert numbers["total"]["kinds"]["unknown"] == 2 and numbers["total"]["kinds"]["predicted"] == 1
    command = [sys.executable, "-m", "backend", "report", "--project", "99999"]
    done = subprocess.run(command, cwd=ROOT, env=desk.workplace.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "does not know project 99999" in " ".join(done.stderr.split())
