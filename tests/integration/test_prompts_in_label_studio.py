"""Prompts through a real Label Studio: drafts of two people, "all like this", tags and hints that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from label_studio_sdk.label_interface import LabelInterface
from label_studio_server import click

CONFIGS = Path(__file__).resolve().parents[2] / "label_config"
SIZE = (240, 320)
PICTURE = "/data/local-files/?d=made/upright.png"
DISC = (31.25, 50.0)


class Person:
    """Somebody with a login, as the editor in the browser acts for them."""

    def __init__(self, url: str, headers: dict[str, str]):
        self._url, self._headers, self._drafts = url, headers, {}

    def call(self, method, path, body=None):
        answer = requests.request(method, self._url + path, json=body, headers=self._headers, timeout=60)
        assert answer.status_code < 400, answer.text
        return answer.json()

    def ask(self, backend, task, *prompts):
        body = {"task": task, "context": {"result": list(prompts)}}
        answer = self.call("POST", f"/api/ml/{backend}/interactive-annotating", body)
        assert "errors" not in answer, answer
        return answer["data"]["result"]

    def autosave(self, task, *items):
        """What the editor does at most five seconds after a change."""
        body = {"result": list(items), "lead_time": 1}
        if task in self._drafts:
            self.call("PATCH", f"/api/drafts/{self._drafts[task]}/", body)
        else:
            self._drafts[task] = self.call("POST", f"/api/tasks/{task}/drafts", body)["id"]


@pytest.fixture
def ann(label_studio):
    return Person(label_studio.url, {"Authorization": f"Token {label_studio.token}"})


@pytest.fixture
def ben(label_studio, second_login):
    return Person(label_studio.url, {"Authorization": f"Token {second_login.token}"})


@pytest.fixture
def fake(workplace):
    if workplace.engine != "fake":
        pytest.skip("which request means what does not depend on the model")
    return workplace


def masks(items):
    return [item for item in items if item["type"] not in ("textarea", "labels")]


def only(items):
    (item,) = masks(items)
    return item


def test_two_people_on_one_task_and_label(fake, ann, ben):
    task, (_, backend) = fake.task("image_clicks", image=PICTURE), fake.project("image_clicks")
    assert ann.call("GET", "/api/current-user/whoami")["id"] != ben.call("GET", "/api/current-user/whoami")["id"]
    mine = only(ann.ask(backend, task, click(*DISC, SIZE, "ann-1")))
    ann.autosave(task, mine)
    theirs = only(ben.ask(backend, task, click(32, 50, SIZE, "ben-1")))
    assert theirs["id"] != mine["id"], "Ann's draft is not shown to Ben"
    ben.autosave(task, theirs)
    assert only(ann.ask(backend, task, click(33, 50, SIZE, "ann-2")))["id"] == mine["id"]
    assert only(ben.ask(backend, task, click(34, 50, SIZE, "ben-2", is_positive=False)))["id"] == theirs["id"]
    ann.call("POST", f"/api/tasks/{task}/annotations/", {"result": [mine]})
    carl = only(ben.ask(backend, task, click(31, 50, SIZE, "ben-3")))
    assert carl["id"] == theirs["id"], "nor is what Ann submitted"


def test_a_draft_that_label_studio_saved_is_recognised(fake, ann):
    """Clicks after the box of one's own draft, then after the accepted mask."""
    task, (_, backend) = fake.task("image_text", image=PICTURE), fake.project("image_text")
    box = click(12.5, 25, SIZE, "box-1") | {"from_name": "box", "type": "rectanglelabels"}
    box["value"] = {"x": 12.5, "y": 25, "width": 30, "height": 30, "rotation": 0, "rectanglelabels": ["Object"]}
    del box["is_positive"]
    boxed = only(ann.ask(backend, task, box))
    ann.autosave(task, box)
    corrected = only(ann.ask(backend, task, click(44, 30, SIZE, "p-1")))
    assert corrected["id"] == boxed["id"]
    assert corrected["value"]["rle"] != boxed["value"]["rle"]
    ann.autosave(task, corrected)
    again = only(ann.ask(backend, task, click(15, 30, SIZE, "p-2", is_positive=False)))
    assert again["id"] == boxed["id"]
    far = only(ann.ask(backend, task, click(90, 90, SIZE, "p-3")))
    assert far["id"] != boxed["id"]


@pytest.mark.parametrize("tag", ["point_all", "box_all"])
def test_all_like_this(fake, ann, tag):
    task, (_, backend) = fake.task("image_find_all", image=PICTURE), fake.project("image_find_all")
    prompt = click(20, 50, SIZE, f"{tag}-1", from_name=tag)
    if tag == "box_all":
        prompt |= {"type": "rectanglelabels"}
        prompt["value"] = {"x": 10, "y": 40, "width": 9, "height": 9, "rotation": 0, "rectanglelabels": ["Object"]}
    items = ann.ask(backend, task, prompt)
    assert len(masks(items)) == 2
    assert "found 2 objects" in items[-1]["value"]["text"][0]
    ann.autosave(task, prompt)
    typed = {
        "id": f"{tag}-t",
        "from_name": "prompt",
        "to_name": "image",
        "type": "textarea",
        "value": {"text": ["all"]},
    }
    assert len(masks(ann.ask(backend, task, typed))) == 2


def test_the_label_decides_the_tag(fake, ann):
    task, (_, backend) = fake.task("image_outlines", image=PICTURE), fake.project("image_outlines")
    outline = only(ann.ask(backend, task, click(*DISC, SIZE, "o-1")))
    frame = only(ann.ask(backend, task, click(*DISC, SIZE, "o-2", "Boxed", from_name="point_boxed")))
    assert (outline["type"], frame["type"]) == ("polygonlabels", "rectanglelabels")
    ann.autosave(task, outline, frame)
    assert only(ann.ask(backend, task, click(32, 50, SIZE, "o-3")))["id"] == outline["id"]
    assert (
        only(ann.ask(backend, task, click(32, 50, SIZE, "o-4", "Boxed", from_name="point_boxed")))["id"] == frame["id"]
    )


PLAIN = """<View><Image name="image" value="$image"/>
  <Labels name="kind" toName="image"><Label value="Object"/><Label value="Other"/></Labels>
  <KeyPoint name="kp" toName="image" smart="true"/>{}
  <TextArea name="reply" toName="image" smart="false" editable="false"/></View>"""
OUTPUTS = {
    "brush": '<Brush name="out" toName="image"/>',
    "polygon": '<Polygon name="out" toName="image"/>',
    "rectangle": '<Rectangle name="out" toName="image"/>',
    "bitmask": '<Bitmask name="out" toName="image"/>',
}


@pytest.mark.parametrize("shape", OUTPUTS)
def test_one_labels_tag_for_plain_ones(fake, ann, shape):
    server, xml = fake.label_studio, PLAIN.format(OUTPUTS[shape])
    project = server.create_project(f"plain {shape}", xml)
    server.serve_folder(project, server.files_root / "made")
    (task,) = server.import_tasks(project, [{"image": PICTURE}])
    backend = server.attach_backend(project, fake.url)
    region = click(*DISC, SIZE, "k-1", from_name="kp")
    value = {key: region["value"][key] for key in ("x", "y", "width")}
    plain = region | {"type": "keypoint", "value": value}
    labelled = region | {"from_name": "kind", "type": "labels", "value": {**value, "labels": ["Other"]}}
    items = ann.ask(backend, task, plain, labelled)
    assert [(item["from_name"], item["type"]) for item in items] == [
        ("out", shape), ("kind", "labels"), ("reply", "textarea")
    ]  # fmt: skip
    assert items[1]["value"]["labels"] == ["Other"]
    assert not LabelInterface(xml).validate_prediction({"result": items}, return_errors=True)


def test_labels_that_tasks_name(fake, ann):
    """As in Label Studio's own templates: ``value="$labels"`` on a tag, and the labels in the data of the task."""
    server = fake.label_studio
    xml = """<View><Image name="image" value="$image"/>
      <KeyPointLabels name="point" toName="image" smart="true" value="$labels"/>
      <PolygonLabels name="outline" toName="image" value="$labels"/></View>"""
    project = server.create_project("labels in tasks", xml)
    server.serve_folder(project, server.files_root / "made")
    (task,) = server.import_tasks(project, [{"image": PICTURE, "labels": [{"value": "Car"}, {"value": "Person"}]}])
    backend = server.attach_backend(project, fake.url)
    outline = only(ann.ask(backend, task, click(*DISC, SIZE, "d-1", "Person")))
    assert (outline["type"], outline["value"]["polygonlabels"]) == ("polygonlabels", ["Person"])
    server.api("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
               {"selectedItems": {"all": True, "excluded": []}})  # fmt: skip
    (prediction,) = server.api("GET", f"/api/predictions/?project={project}")
    assert [item["value"]["polygonlabels"] for item in prediction["result"]] == [["Car"], ["Person"]]


def test_hints_for_retrieving_predictions(fake, ann):
    server = fake.label_studio
    xml = (CONFIGS / "image_panoptic.xml").read_text(encoding="utf-8").replace('"Road"', '"unseen"')
    project = server.create_project("hints", xml)
    server.serve_folder(project, server.files_root / "made")
    nothing = xml.replace("Person", "unseen").replace("Car", "unseen").replace("car,van,truck", "unseen")
    empty = server.create_project("hints, nothing found", nothing.replace("Sky", "unseen"))
    server.serve_folder(empty, server.files_root / "made")
    selection = {"selectedItems": {"all": True, "excluded": []}}
    stored = {}
    for number in (project, empty):
        server.import_tasks(number, [{"image": PICTURE}])
        server.attach_backend(number, fake.url)
        server.api("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={number}", selection)
        stored[number] = server.api("GET", f"/api/predictions/?project={number}")
    (prediction,) = stored[project]
    found = [item["value"]["brushlabels"][0] for item in prediction["result"]]
    assert found == ["Person", "Car", "Car", "Car", "Sky"]
    assert all(0 < item["score"] <= 1 for item in prediction["result"])
    assert prediction["score"] == min(item["score"] for item in prediction["result"])
    assert stored[empty] == [], "nothing found leaves no empty prediction"
