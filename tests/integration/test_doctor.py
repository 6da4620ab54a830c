"""The doctor, at the bedside of a real Label Studio: every failure that it knows is caused, then it must name it."""

from __future__ import annotations

import pytest
import requests
from label_studio_server import free_port
from PIL import Image
from typer.testing import CliRunner
from ward import CLICKS, QUIET, TEXT, UPRIGHT, BrokenEngine, NoisyEngine, plain_server
from workplace import NANO, signed_in

from backend.cli import app


def test_nothing_is_found_where_nothing_is_wrong(ward, whole):
    report = ward.examine("--project", whole)
    assert report.healthy and report.exit_code == 0, report.output
    # a slow machine is remarked
    marks = {name: check["mark"] for name, check in report.checks.items() if name != "predict"}
    assert set(marks.values()) == {"ok"} and report.mark("predict") in QUIET, report.output
    assert report.checks["model"]["text"] == "fake-0001 on cpu" and "1 mask in" in report.checks["predict"]["text"]
    assert "320 x 240" in report.checks["encode"]["text"]
    assert report.output.count("✓") >= len(marks)


def test_without_a_project_it_lists_them(ward, whole):
    report = ward.examine()
    assert report.exit_code == 0 and report.mark("token") == "ok"
    assert report.mark("project") == "skipped" and "'doctor'" in report.checks["project"]["text"]


def test_a_wrong_address(ward):
    report = ward.examine("--project", 1, LABEL_STUDIO_URL=f"http://127.0.0.1:{free_port()}")
    report.failed("url", "connection is refused", "LABEL_STUDIO_URL")
    assert report.failures() == {"url"} and report.mark("size") == "skipped"
    ward.examine(LABEL_STUDIO_URL="http://nobody.invalid").failed("url", "host name is unknown")


def test_an_address_of_something_else(ward, backend):
    ward.examine(LABEL_STUDIO_URL=backend).failed("url", "is an ML backend, not Label Studio")
    with plain_server(200) as url:
        ward.examine(LABEL_STUDIO_URL=url).failed("url", "is a server, not Label Studio")
    with plain_server(301, {"Location": "https://labels.example.com/ls/api/version/?a=1"}) as url:
        ward.examine(LABEL_STUDIO_URL=url).failed("url", "Set LABEL_STUDIO_URL to https://labels.example.com/ls.")


def test_tokens_that_are_not_accepted(ward, personal_token):
    ward.examine(LABEL_STUDIO_API_KEY="").failed("token", "is not set", "Personal Access Token")
    ward.examine(LABEL_STUDIO_API_KEY="e" * 40).failed("token", "does not accept the legacy token")
    forged = personal_token[:-6] + "AAAAAA"
    ward.examine(LABEL_STUDIO_API_KEY=forged).failed("token", "does not accept the personal token")
    answer = requests.post(f"{ward.label_studio.url}/api/token/refresh/", json={"refresh": personal_token}, timeout=60)
    ward.examine(LABEL_STUDIO_API_KEY=answer.json()["access"]).failed("token", "ends after five minutes")


def test_a_personal_token_goes_all_the_way(ward, whole, personal_token):
    report = ward.examine("--project", whole, LABEL_STUDIO_API_KEY=personal_token)
    assert report.healthy and "a personal token" in report.checks["token"]["text"], report.output


def test_legacy_tokens_that_are_switched_off(ward, whole, personal_token):
    with signed_in(ward.label_studio.url, ward.label_studio.username, ward.label_studio.password) as browser:
        switch = f"{ward.label_studio.url}/api/jwt/settings"
        browser.post(switch, json={"legacy_api_tokens_enabled": False}, timeout=60).raise_for_status()
        try:
            report = ward.examine("--project", whole)
        finally:
            browser.post(switch, json={"legacy_api_tokens_enabled": True}, timeout=60).raise_for_status()
    report.failed("token", "legacy tokens are switched off", "personal access token")


def test_a_project_that_is_not_there(ward, whole):
    ward.examine("--project", 999_999).failed("project", "sees no project 999999", f"{whole} 'doctor'")


ELLIPSES = CLICKS.replace("BrushLabels", "EllipseLabels").replace("RectangleLabels", "EllipseLabels")


CONFIGS = {
    "no mask tag": (ELLIPSES, ("no tag for masks on 'image'", "BrushLabels")),
    "smart brush": (
        CLICKS.replace('toName="image" smart="false"', 'toName="image" smart="true"'),
        ("'mask' has smart=\"true\"", 'smart="false"'),
    ),
    "no prompt": (CLICKS.replace('smart="true"', 'smart="false"'), ("no tag asks the backend",)),
    "other labels": (
        CLICKS.replace('"Object" background="#E4572E" showInline', '"Thing" background="#E4572E" showInline'),
        ("labels Thing of 'point'", "the same labels"),
    ),
    "a hint that is none": (
        CLICKS.replace('toName="image" smart="false"', 'toName="image" smart="false" preannotate="everything"'),
        ("preannotate on 'mask' is not known", "Write one of instance, semantic"),
    ),
    "no picture": (
        '<View><Text name="t" value="$image"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>',
        ("no Image tag",),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_labeling_configurations_that_do_not_work(ward, name):
    config, parts = CONFIGS[name]
    ward.examine("--project", ward.project(config, None)).failed("config", *parts)


def test_a_configuration_without_a_reply_field_is_remarked(ward):
    report = ward.examine("--project", ward.project(CLICKS, None))
    assert report.mark("config") == "note" and 'name="reply"' in report.checks["config"]["mend"]


def test_the_doctor_changes_nothing(ward, whole):
    def everything():
        api = ward.label_studio.api
        rows = [{**row, "updated_at": ""} for row in api("GET", f"/api/ml?project={whole}")]
        tasks = api("GET", f"/api/tasks?project={whole}&fields=all")["tasks"]
        stored = api("GET", f"/api/predictions/?project={whole}")
        return rows, tasks, stored, api("GET", f"/api/webhooks/?project={whole}")

    before = everything()
    assert ward.examine("--project", whole).healthy
    assert everything() == before


PICTURES = {
    "missing": ("/data/local-files/?d=made/missing.png", {}, "media", ("no such picture", "storage")),
    "no storage": ("/data/local-files/?d=clips/none.png", {}, "media", ("no such picture",)),
    "host": ("https://pictures.example.com/a.png", {}, "media", ("pictures.example.com", "X2SAM_MEDIA_HOSTS")),
    "private": ("http://localhost/a.png", {"X2SAM_MEDIA_HOSTS": "*"}, "media", ("private", "MEDIA_HOSTS")),
    "no picture": ("/data/local-files/?d=made/words.png", {}, "decode", ("not a picture", "JPEG or PNG")),
    "too large": (UPRIGHT, {"X2SAM_MAX_MEGAPIXELS": "0.01"}, "decode", ("320 x 240", "X2SAM_MAX_MEGAPIXELS")),
    "too heavy": (UPRIGHT, {"X2SAM_MEDIA_MAX_MB": "0.0001"}, "media", ("X2SAM_MEDIA_MAX_MB",)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_not_had(ward, files, name):
    picture, environment, check, parts = PICTURES[name]
    (files / "made" / "words.png").write_text("no pixels")
    report = ward.examine("--project", ward.project(picture=picture), **environment)
    report.failed(check, *parts)
    assert report.mark("predict") == "skipped"


def test_tasks_that_do_not_fit(ward, whole):
    report = ward.examine("--project", ward.project(picture=None))
    report.failed("task", "the project has no tasks", "Import some")
    number = ward.project(TEXT.replace("$image", "$photo"), None)
    ward.label_studio.import_tasks(number, [{"photo": UPRIGHT}])
    listed = ward.label_studio.api("GET", f"/api/tasks?project={number}")["tasks"][0]["id"]
    ward.label_studio.api("PATCH", f"/api/tasks/{listed}/", {"data": {"photo": ""}})
    ward.examine("--project", number).failed("task", f"task {listed}:", "$photo")
    ward.examine("--project", whole, "--task", listed).failed("task", f"is in project {number}")
    ward.examine("--project", whole, "--task", 999_999).failed("task", "there is no task 999999")


def test_what_opened_tasks_show_is_remarked(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    (task,) = ward.label_studio.api("GET", f"/api/tasks?project={number}")["tasks"]
    stored = {"task": task["id"], "result": [], "score": 0.5, "model_version": "elsewhere"}
    ward.label_studio.api("POST", "/api/predictions/", stored)
    ward.label_studio.api("PATCH", f"/api/projects/{number}/", {"model_version": "elsewhere"})
    report = ward.examine("--project", number)
    assert report.mark("prefill") == "note" and "'elsewhere'" in report.checks["prefill"]["text"]
    closed = {"show_collab_predictions": False, "evaluate_predictions_automatically": False}
    ward.label_studio.api("PATCH", f"/api/projects/{number}/", closed)
    report = ward.examine("--project", number)
    assert report.mark("prefill") == "note" and "no prediction" in report.checks["prefill"]["text"]
    assert report.exit_code == 0


def test_an_answer_that_is_too_large(ward, files):
    Image.new("RGB", (1600, 1200), (40, 90, 40)).save(files / "made" / "wide.png")
    number = ward.project(picture="/data/local-files/?d=made/wide.png")
    with ward.backend(NoisyEngine) as url:
        ward.attach(number, url)
        report = ward.examine("--project", number)
    report.failed("size", "the answer to one prompt has", "BitmaskLabels")
    assert report.mark("encode") == "ok"


def test_a_backend_that_does_not_answer_prompts(ward):
    sentence = "The stand-in refuses every prompt"
    silent, told = ward.project(CLICKS), ward.project(TEXT)
    with ward.backend(BrokenEngine) as url:
        ward.attach(silent, url)
        ward.attach(told, url)
        ward.examine("--project", silent).failed("predict", "the backend answered 422", sentence)
        ward.examine("--project", told).failed("predict", "a click in the middle gave no mask", sentence)


@pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")
def test_a_model_of_its_own(ward):
    report = ward.examine("--project", ward.project(), "--model", "nano")
    assert report.failures() == {"attached"}
    assert "nano" in report.checks["model"]["text"]
    assert report.mark("predict") in QUIET and report.mark("encode") == "ok" and report.mark("size") == "ok"


def test_a_model_that_is_not_there(ward):
    report = ward.examine("--project", ward.project(), "--model", "no-such-model")
    report.failed("model", "no-such-model", "python -m x2sam download")
    assert report.mark("predict") == "skipped"


def test_settings_that_can_not_be_read(ward):
    outcome = CliRunner().invoke(app, ["doctor"], env={"X2SAM_THREADS": "many"})
    assert outcome.exit_code == 1 and "X2SAM_THREADS" in outcome.output
