"""Predictions for the pictures of a folder: once each, whatever dies when, as files that others read."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from typer.testing import CliRunner

import backend.wsgi
from backend.cli import app
from backend.import_files import read_coco
from backend.preannotate import PreannotateError
from backend.preannotate_engines import Asked, Prepared
from backend.preannotate_folder import STATE, Folder, pictures_below, preannotate_folder

XML = (
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"><Label value="cat"/>'
    '<Label value="dog"/></BrushLabels></View>'
)
ASKED = Asked(0, XML)


class Asking:
    """A predictor that notes which pictures it is asked about; those of ``bad`` fail, ``kills`` ends the run there."""

    version = "stand-in-1"

    def __init__(self):
        self.asked, self.bad, self.kills = [], set(), None

    @contextmanager
    def __call__(self, _asked):
        yield self

    def predict(self, tasks):
        for task in tasks:
            name = task["data"]["image"].partition("?d=")[2]
            self.asked.append(name)
            if name == self.kills:
                raise KeyboardInterrupt
            if name in self.bad:
                yield Prepared(task["id"], problem=f"{name} is bad")
            else:
                item = {"id": f"obj{task['id']}-0000", "type": "brushlabels", "value": {}}
                looks = np.eye(4, dtype=np.float32)[int(name.startswith("sub"))]
                yield Prepared(task["id"], (item,), 1, 0.25, looks)


@pytest.fixture
def folder(tmp_path) -> Folder:
    pictures = tmp_path / "pictures"
    for number, name in enumerate(("b.jpg", "a.png", "sub/c d#1.png", "sub/.hidden.png", ".cache/e.png")):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 32, 3), 40 * number, np.uint8)).save(pictures / name)
    (pictures / "notes.txt").write_text("no picture")
    return Folder(pictures, tmp_path / "out")


@pytest.fixture
def asking() -> Asking:
    return Asking()


def run(folder, asking, asked=ASKED):
    return preannotate_folder(folder, asked, asking, lambda *_: None)


def tasks_of(folder):
    return json.loads((folder.out / "tasks.json").read_text())


def test_each_picture_is_asked_about_once(folder, asking):
    assert list(pictures_below(folder.pictures)) == ["a.png", "b.jpg", "sub/c d#1.png"]
    done = run(folder, asking)
    assert (done.pictures, done.sent, done.there, done.masks) == (3, 3, 0, 3)
    assert [task["data"]["image"].partition("?d=")[2] for task in tasks_of(folder)] == asking.asked
    # error 0.25: the first is as useful as that, the second looks the same and is no use any more
    assert [task["predictions"][0]["score"] for task in tasks_of(folder)] == [0.75, 1.0, 0.75]
    before = (folder.out / "tasks.json").read_bytes()
    again = run(folder, asking)
    assert (again.sent, again.there, len(asking.asked)) == (0, 3, 3)
    assert (folder.out / "tasks.json").read_bytes() == before


def test_a_run_that_was_killed_goes_on(folder, asking):
    undisturbed = run(Folder(folder.pictures, folder.out.with_name("undisturbed")), Asking())
    asking.kills = "b.jpg"
    with pytest.raises(KeyboardInterrupt):
        run(folder, asking)
    with (folder.out / STATE).open("ab") as file:
        file.write(b'{"path":"b.jpg","stamp":"')  # a line that the kill cut
    asking.kills = None
    done = run(folder, asking)
    assert (done.sent, done.there) == (2, 1) and asking.asked == ["a.png", "b.jpg", "b.jpg", "sub/c%20d%231.png"]
    assert undisturbed.sent == 3
    assert tasks_of(folder) == json.loads((folder.out.with_name("undisturbed") / "tasks.json").read_text())


def test_changed_and_new_pictures_are_asked_about_and_removed_ones_leave(folder, asking):
    run(folder, asking)
    Image.new("RGB", (50, 40)).save(folder.pictures / "a.png")
    Image.new("RGB", (50, 40)).save(folder.pictures / "new.png")
    os.remove(folder.pictures / "b.jpg")
    asking.asked.clear()
    assert run(folder, asking).sent == 2 and asking.asked == ["a.png", "new.png"]
    assert [task["data"]["image"][21:] for task in tasks_of(folder)] == ["a.png", "new.png", "sub/c%20d%231.png"]


def test_what_fails_is_tried_twice_and_told(folder, asking):
    asking.bad = {"b.jpg"}
    done = run(folder, asking)
    assert (done.failed, done.problems) == (1, {"b.jpg": "b.jpg is bad"}) and asking.asked.count("b.jpg") == 2
    asking.bad = set()
    assert run(folder, asking).sent == 1 and len(tasks_of(folder)) == 3


def test_what_stands_in_the_way_is_told(folder, asking):
    run(folder, asking)
    with pytest.raises(PreannotateError, match="another question"):
        run(folder, asking, Asked(0, XML, ("cat",)))
    with (folder.out / STATE).open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(PreannotateError, match="damaged"):
        run(folder, asking)
    shutil.rmtree(folder.pictures)
    folder.pictures.mkdir()
    with pytest.raises(PreannotateError, match="no pictures"):
        run(Folder(folder.pictures, folder.out.with_name("other")), asking)


def test_one_run_at_a_time(folder, asking):
    class Slow(Asking):
        def predict(self, tasks):
            yield from super().predict(tasks)
            with pytest.raises(PreannotateError, match="Another run"):
                run(folder, Asking())

    assert run(folder, Slow()).sent == 3


def command(*words, code=0):
    done = CliRunner().invoke(app, ["preannotate", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


@pytest.fixture
def with_stand_in(monkeypatch, tmp_path):
    monkeypatch.setenv("X2SAM_CACHE_DIR", str(tmp_path / "media"))
    monkeypatch.setenv("X2SAM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(backend.wsgi, "load_engine", lambda _settings, _directory=None: FakeEngine())


def test_files_that_others_read(folder, with_stand_in):
    said = command(
        "--folder", folder.pictures, "--out", folder.out, "--labels", "cat, d&g", "--format", "coco",
        "--format", "png", "--media-prefix", "/data/local-files/?d=shop/",
    )  # fmt: skip
    assert said.startswith("3 of 3 pictures asked about: 6 masks.")
    tasks = tasks_of(folder)
    assert tasks[2]["data"] == {"image": "/data/local-files/?d=shop/sub/c%20d%231.png"}
    xml = XML.replace("dog", "d&amp;g")
    for task in tasks:
        (prediction,) = task["predictions"]
        assert not LabelInterface(xml).validate_prediction(prediction, return_errors=True)
    shown = list(read_coco(folder.out / "coco" / "annotations.json"))
    assert len(shown) == 3 and all({one.category for one in each.found} == {"cat", "d&g"} for each in shown)
    assert len(list((folder.out / "png").glob("*.png"))) == 3
    assert not list(Path(folder.out).glob(".*.part")) and not (folder.out / ".annotated.json").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        ((), "either --project ID or --folder DIR"),
        (("--folder", ".", "--project", "1"), "either --project ID or --folder DIR"),
        (("--folder", "."), "--labels"),
        (("--folder", ".", "--labels", "x"), "--out DIR"),
        (("--folder", "nowhere", "--labels", "x", "--out", "o"), "no folder"),
        (("--folder", ".", "--labels", "x", "--out", "o", "--format", "yolo"), "no format 'yolo'"),
        (("--folder", ".", "--labels", "x", "--out", "o", "--use"), "--use belongs to --project"),
        (("--project", "1", "--out", "o"), "--out belongs to --folder"),
    ],
)
def test_words_that_do_not_go_together(with_stand_in, words, told):
    assert told in command(*words, code=2)
