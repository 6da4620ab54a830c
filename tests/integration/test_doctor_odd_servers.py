"""The doctor before servers that answer in odd ways: an ML backend of somebody else, attached to a real Label Studio,
and something that calls itself Label Studio."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ward import CLICKS, odd_server

from backend.rle import encode_mask

SIZE = (240, 320)
HALF = np.arange(SIZE[1])[None].repeat(SIZE[0], 0) < SIZE[1] // 2


def brush(mask=HALF, **fields):
    height, width = SIZE
    item = {"id": "a", "from_name": "mask", "to_name": "image", "type": "brushlabels", "image_rotation": 0}
    item |= {"original_width": width, "original_height": height}
    return item | {"value": {"format": "rle", "rle": encode_mask(mask), "brushlabels": ["Object"]}} | fields


@pytest.fixture
def answers():
    """What the odd ML backend says; tests change it once it is attached."""
    health = {"status": "UP", "model_class": "Other", "version": "odd-1", "state": "ready"}
    return {"/health": health, "/setup": {"model_version": "odd-1"}, "/predict": {"results": [{"result": [brush()]}]}}


@pytest.fixture
def attached(ward, answers) -> Iterator[int]:
    number = ward.project(CLICKS)
    with odd_server(answers) as url:
        ward.attach(number, url)
        yield number


ODD = {
    "no result": ({}, "predict", "the answer has no result"),
    "nothing found": ({"result": []}, "predict", "a click in the middle gave no mask"),
    "another tag": ({"result": [brush(from_name="gone")]}, "encode", "an answer is for 'gone'"),
    "another kind": ({"result": [brush(type="bitmasklabels")]}, "encode", "an answer is for 'mask'"),
    "another size": ({"result": [brush(original_width=64)]}, "encode", "for a picture of 64 x 240"),
    "no run-lengths": ({"result": [brush(value={"rle": [1, 2, 3]})]}, "encode", "can't be unpacked"),
    "an empty mask": ({"result": [brush(HALF & False)]}, "encode", "is empty"),
}


def test_answers_that_no_editor_could_show(ward, attached, answers):
    report = ward.examine("--project", attached)
    assert report.mark("encode") == "ok", report.output
    for name, (entry, check, text) in ODD.items():
        answers["/predict"] = {"results": [entry]}
        report = ward.examine("--project", attached)
        report.failed(check, text)
        assert report.failures() == {check}, name


def test_a_backend_that_hangs_up(ward, attached, answers):
    answers["/predict"] = None
    ward.examine("--project", attached).failed("predict", "Label Studio got no answer from", "log of the ML backend")
    answers["/predict"] = 500
    ward.examine("--project", attached).failed("predict", "the backend answered 500: nothing that is readable")
    answers["/setup"] = None
    ward.examine("--project", attached).failed("connected", "it does not answer /setup")


def test_a_backend_of_another_kind(ward, attached, answers):
    del answers["/health"]["version"]
    ward.examine("--project", attached).failed("version", "is not this ML backend", "Correct the URL")


def test_a_task_that_is_more_than_a_backend_takes(ward, attached):
    report = ward.examine("--project", attached, X2SAM_MAX_REQUEST_MB="0.0001")
    report.failed("size", "with each click, the backend takes", "X2SAM_MAX_REQUEST_MB")


@pytest.mark.parametrize(
    ("path", "says", "check", "parts"),
    [
        ("/api/current-user/whoami", None, "token", ("Label Studio did not answer",)),
        ("/api/current-user/whoami", 500, "token", ("Label Studio answered 500 to a token", "log")),
        ("/api/projects/1/", None, "project", ("Label Studio did not answer", "log")),
        ("/api/projects/1/", 502, "project", ("Label Studio answered 502", "log")),
        ("/api/ml", 403, "attached", ("does not list the project's ML backends", "may change the project's settings")),
        ("/api/ml", None, "attached", ("Label Studio did not answer",)),
    ],
)
def test_a_label_studio_that_fails_in_the_middle(ward, path, says, check, parts):
    answers = {
        "/api/version/": {"release": "1.23.2"},
        "/api/current-user/whoami": {"email": "ann@example.com"},
        "/api/projects/1/": {"id": 1, "title": "One", "label_config": CLICKS},
        "/api/tasks": {"tasks": []},
        "/api/webhooks/": [],
    }
    with odd_server(answers | {path: says}) as url:
        ward.examine("--project", 1, LABEL_STUDIO_URL=url).failed(check, *parts)
