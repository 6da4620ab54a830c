"""Zero wait with a real Label Studio: opening a task encodes those that come after it, and Label Studio is none the
wiser: nothing is locked, predicted or written into anybody's history."""

from __future__ import annotations

import re
import time

import pytest
import requests
from label_studio_server import click
from PIL import Image, ImageDraw
from workplace import ROOT

SIZE = (120, 160)
NEXT = 3  # tasks that are encoded ahead by default
XML = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pictures(files):
    """Eight different pictures that nobody else uses."""
    folder = files / "warming"
    folder.mkdir(exist_ok=True)
    for number in range(8):
        picture = Image.new("RGB", SIZE[::-1], (30 * number, 90, 200 - 20 * number))
        ImageDraw.Draw(picture).ellipse((40, 20, 120, 100), fill=(220, 60, 10 * number))
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def project(workplace, pictures, request):
    """(project, backend, ids of its tasks in order); each test sees pictures that are new to the backend."""
    server = workplace.label_studio
    project = server.create_project(f"{request.node.name[:30]} {workplace.engine}", XML)
    server.serve_folder(project, pictures)
    folder = pictures / re.sub(r"\W+", "-", request.node.name)
    folder.mkdir()
    salt = len(list(pictures.iterdir()))
    for path in sorted(pictures.glob("*.png")):
        with Image.open(path) as picture:
            picture.putpixel((salt % 160, 0), (255, 255, 255))
            picture.save(folder / path.name)
    data = [{"image": f"/data/local-files/?d=warming/{folder.name}/{number}.png"} for number in range(8)]
    return project, server.attach_backend(project, workplace.url), sorted(server.import_tasks(project, data))


class Counters:
    """Numbers of the backend, read once nothing happens in it any more."""

    def __init__(self, workplace):
        self.url = f"{workplace.url}/metrics"
        self.pieces = 1 if workplace.engine == "fake" else 3  # features of a picture that are counted one by one

    def read(self):
        text = requests.get(self.url, timeout=30).text
        names = {"misses": "x2sam_feature_misses_total", "warmed": "x2sam_warmed_tasks_total"}
        names["used"] = "x2sam_warmed_tasks_used_total"
        return {key: float(re.search(rf"^{name} (\S+)", text, re.MULTILINE)[1]) for key, name in names.items()}

    def settled(self):
        last, since = self.read(), time.monotonic()
        until = time.monotonic() + 120
        while time.monotonic() - since < 2.5:
            assert time.monotonic() < until
            time.sleep(0.25)
            now = self.read()
            if now != last:
                last, since = now, time.monotonic()
        return last

    def encoded_since(self, before):
        return (self.settled()["misses"] - before["misses"]) / self.pieces


@pytest.fixture
def counters(workplace):
    return Counters(workplace)


def test_a_click_on_the_next_task_encodes_nothing_before_it_is_answered(workplace, project, counters):
    server, (_, backend, tasks) = workplace.label_studio, project
    before = counters.settled()
    assert server.ask(backend, tasks[0], click(50, 50, SIZE, "a"))["result"]
    assert counters.encoded_since(before) == 1 + NEXT
    before = counters.read()
    for number in range(1, 1 + NEXT):
        assert server.ask(backend, tasks[number], click(50, 50, SIZE, f"b{number}"))["result"]
    after = counters.settled()
    assert after["used"] - before["used"] == NEXT
    assert (after["misses"] - before["misses"]) / counters.pieces == NEXT, "only those that follow the last one"


def test_the_last_tasks_of_a_project(workplace, project, counters):
    server, (_, backend, tasks) = workplace.label_studio, project
    before = counters.settled()
    server.ask(backend, tasks[-3], click(50, 50, SIZE, "a"))
    assert counters.encoded_since(before) == 3
    before = counters.read()
    for number in (-2, -1):
        assert server.ask(backend, tasks[number], click(50, 50, SIZE, f"b{number}"))["result"]
    assert counters.encoded_since(before) == 0, "opened and clicked without a run of an encoder"


def test_opening_a_task_is_enough(workplace, project, counters):
    """As the editor opens it: Label Studio asks for a prediction. The listing of the next tasks must not do that."""
    server, (number, backend, tasks) = workplace.label_studio, project
    server.api("PATCH", f"/api/projects/{number}/", {"evaluate_predictions_automatically": True})
    before = counters.settled()
    server.api("GET", f"/api/tasks/{tasks[-2]}?project={number}")
    assert counters.encoded_since(before) == 2
    before = counters.read()
    assert server.ask(backend, tasks[-1], click(50, 50, SIZE, "a"))["result"]
    assert counters.encoded_since(before) == 0
    predicted = {entry["task"] for entry in server.api("GET", f"/api/predictions/?project={number}")}
    assert predicted <= {tasks[-2]}


def test_finished_tasks_are_passed_over_and_nothing_is_locked(workplace, project, counters):
    server, (number, backend, tasks) = workplace.label_studio, project
    for task in tasks[1:-1]:
        server.api("POST", f"/api/tasks/{task}/annotations/", {"result": []})
    before = counters.settled()
    server.ask(backend, tasks[0], click(50, 50, SIZE, "a"))
    assert counters.encoded_since(before) == 2
    before = counters.read()
    server.ask(backend, tasks[-1], click(50, 50, SIZE, "b"))
    assert counters.encoded_since(before) == 0
    assert server.api("GET", f"/api/projects/{number}/label-stream-history/") == []
    assert server.api("GET", f"/api/projects/{number}/next")["id"] == tasks[0], "as if nobody had asked"


def test_the_order_of_uncertain_tasks(workplace, project, counters):
    server, (number, backend, tasks) = workplace.label_studio, project
    for task, score in zip(tasks, (0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.5), strict=True):
        body = {"task": task, "result": [], "score": score, "model_version": "v1"}
        server.api("POST", "/api/predictions/", body)
    # the scores that count are those of the project's own version
    server.api("PATCH", f"/api/projects/{number}/", {"sampling": "Uncertainty sampling", "model_version": "v1"})
    before = counters.settled()
    server.ask(backend, tasks[0], click(50, 50, SIZE, "a"))
    assert counters.encoded_since(before) == 1 + NEXT
    used = counters.read()["used"]
    for task in tasks[4:7]:  # those with the lowest scores
        assert server.ask(backend, task, click(50, 50, SIZE, f"b{task}"))["result"]
    assert counters.settled()["used"] - used == NEXT
