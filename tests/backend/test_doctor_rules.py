"""The doctor's own rules; what it says about real servers is in tests/integration/test_doctor.py."""

from __future__ import annotations

import base64
import io
import json
import sys
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from backend.clients import LabelStudioClient, LimitedClient, NoAnswer, shown
from backend.doctor import Check, Finding, Mark, NotNow, Problem, Visit, as_json, healthy, walk
from backend.doctor_answer import LARGEST_ANSWER, check_compiled, check_encode, check_size
from backend.doctor_command import CHECKS, line
from backend.doctor_setup import check_config
from backend.errors import MediaError
from backend.label_config import parse_label_config
from backend.rle import encode_mask
from backend.settings import Settings

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image" smart="false"><Label value="Object"/></BrushLabels>
<BitmaskLabels name="bits" toName="image" smart="false"><Label value="Object"/></BitmaskLabels>
<PolygonLabels name="outline" toName="image"><Label value="Object"/></PolygonLabels>
<RectangleLabels name="frame" toName="image"><Label value="Object"/></RectangleLabels></View>"""
SIZE = (40, 60)
HALF = np.arange(60)[None].repeat(40, 0) < 30


def visit(**fields) -> Visit:
    settings = Settings(label_studio_api_key="very-secret", basic_auth_user="a", basic_auth_pass="pass-secret")
    return Visit(settings, LabelStudioClient(settings), config=parse_label_config(CONFIG), picture_size=SIZE, **fields)


def item(name: str, value: dict, **fields) -> dict:
    kind = {"mask": "brushlabels", "bits": "bitmasklabels", "outline": "polygonlabels", "frame": "rectanglelabels"}
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1]}
    return {"from_name": name, "to_name": "image", "type": kind[name], "value": value, **sizes, **fields}


def bits(mask: np.ndarray) -> dict:
    picture = np.zeros((*mask.shape, 4), np.uint8)
    picture[mask, 3] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}


def failing(text: str, mend: str = "Do this."):
    def look(_: Visit) -> str:
        raise Problem(text, mend)

    return look


def test_what_needs_a_failed_check_is_skipped_and_the_rest_goes_on():
    def later(_: Visit) -> str:
        raise NotNow("nobody is there")

    checks = (
        Check("a", "First", failing("broken")),
        Check("b", "Second", lambda _: "never", ("a",)),
        Check("c", "Third", lambda _: "never", ("b",)),
        Check("d", "Fourth", lambda _: Finding(Mark.NOTE, "works", "Look.")),
        Check("e", "Fifth", lambda _: "good", ("d",)),
        Check("f", "Sixth", later),
    )
    begun: list[str] = []
    looked = list(walk(checks, visit(), lambda check: begun.append(check.name)))
    assert [one.finding.mark.value for one in looked] == ["failed", "skipped", "skipped", "note", "ok", "skipped"]
    assert looked[1].finding.text == "needs 'First'" and looked[2].finding.text == "needs 'Second'"
    assert begun == list("abcdef") and not healthy(looked) and healthy(looked[3:])
    report = json.loads(json.dumps(as_json(visit(project_id=4), looked)))
    assert report["project"] == 4 and not report["healthy"]
    first = {"name": "a", "title": "First", "mark": "failed", "text": "broken", "mend": "Do this."}
    assert report["checks"][0] == first


def test_needs_name_earlier_checks():
    for number, check in enumerate(CHECKS):
        assert set(check.needs) <= {earlier.name for earlier in CHECKS[:number]}, check.name


def test_tokens_and_passwords_never_leave():
    checks = (Check("a", "First", failing("very-secret was refused", "Replace very-secret and pass-secret.")),)
    ((one,),) = (tuple(walk(checks, visit())),)
    assert "secret" not in one.finding.text + one.finding.mend and "***" in one.finding.mend


def test_brackets_of_servers_are_no_markup():
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(line("Title", Finding(Mark.FAILED, "[red]loud[/] [1, 2]", "Mend [it].")))
    assert "[red]loud[/] [1, 2]" in (text := console.export_text()) and "Mend [it]." in text and "✗" in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user:word@host:9090/a/?token=1", "http://host:9090/a"),
        ("https://host/", "https://host"),
    ],
)
def test_addresses_are_shown_without_what_they_may_hide(url, text):
    assert shown(url) == text


def test_what_is_compiled_and_by_what(tmp_path, monkeypatch):
    def look(**changes):
        settings = Settings(state_dir=str(tmp_path), **changes)
        return check_compiled(Visit(settings, LabelStudioClient(settings)))

    assert look() == "not asked for (X2SAM_COMPILE is 0)"
    monkeypatch.setenv("CXX", "/nowhere/c++")
    missing = look(compiled=True)
    assert missing.mark is Mark.NOTE and "no C++ compiler" in missing.text and "g++" in missing.mend
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "one.so").touch()
    monkeypatch.setenv("CXX", sys.executable)
    assert look(compiled=True).startswith(f"by {sys.executable}; 1 files in {tmp_path / 'compiled'}")


ANSWERS = {
    "brush": item("mask", {"rle": encode_mask(HALF)}),
    "bitmask": item("bits", bits(HALF)),
    "polygon": item("outline", {"points": [[0, 0], [50, 0], [50, 100], [0, 100]]}),
    "rectangle": item("frame", {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0}),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_masks_are_unpacked(kind):
    assert check_encode(visit(answer={"result": [ANSWERS[kind]]})).endswith("50.0% of the picture")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (item("mask", {"rle": encode_mask(HALF)[:20]}), "can't be unpacked"),
        (item("mask", {}), "can't be unpacked"),
        (item("bits", bits(HALF[:20])), "can't be unpacked"),
        (item("bits", {"imageDataURL": "data:image/png;base64,AAAA"}), "can't be unpacked"),
        (item("mask", {"rle": encode_mask(HALF & False)}), "is empty"),
        (item("mask", {"rle": encode_mask(HALF)}, original_width=61), "61 x 40"),
        (item("mask", {"rle": encode_mask(HALF)}, from_name="gone"), "'gone'"),
        (item("mask", {"rle": encode_mask(HALF)}, from_name="bits"), "'bits'"),
    ],
)
def test_answers_that_no_editor_could_show(answer, text):
    with pytest.raises(Problem, match=text) as problem:
        check_encode(visit(answer={"result": [answer]}))
    assert problem.value.mend


@pytest.mark.parametrize("hint", ['preannotate="everything"', 'tolerance="wide"'])
def test_hints_that_are_none(hint):
    looked = visit(project={"label_config": CONFIG.replace('smart="false"', f'smart="false" {hint}', 1)})
    with pytest.raises(Problem, match=f"{hint.partition('=')[0]} on 'mask'") as problem:
        check_config(looked)
    assert problem.value.mend.startswith("Write one ")


def test_sizes():
    result = {"result": [ANSWERS["brush"]]}
    assert isinstance(check_size(visit(answer=result, answer_bytes=LARGEST_ANSWER)), str)
    with pytest.raises(Problem, match=r"4\.0 MB"):
        check_size(visit(answer=result, answer_bytes=LARGEST_ANSWER + 1))
    heavy = visit(answer=result, answer_bytes=10, task={"data": "x" * (LARGEST_ANSWER + 1)})
    assert check_size(heavy).mark == Mark.NOTE
    heavy.settings = Settings(max_request_bytes=1000)
    with pytest.raises(Problem, match="the backend takes 1 kB"):
        check_size(heavy)


def test_answers_are_limited_in_size_and_time(pictures):
    pictures.files["/long"] = b"x" * 200_000
    assert len(LimitedClient(pictures.url).ask("GET", "/long").body) == 200_000
    with pytest.raises(NoAnswer, match="longer than"):
        LimitedClient(pictures.url, limit=100_000).ask("GET", "/long")
    pictures.drip_headers = 0.05
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer in time"):
        LimitedClient(pictures.url).ask("GET", "/long", seconds=0.5)
    assert time.monotonic() - begun < 5


def test_why_nobody_answers():
    for url, reason in (("http://127.0.0.1:1", "connection is refused"), ("http://nobody.invalid", "name is unknown")):
        with pytest.raises(NoAnswer, match=reason):
            LimitedClient(url).ask("GET", "/")


def test_a_server_that_answers_in_no_known_way_is_a_finding():
    def look(_: Visit) -> str:
        raise MediaError("Label Studio sent no access token for the personal one; check LABEL_STUDIO_API_KEY.")

    (one,) = walk((Check("a", "First", look),), visit())
    assert one.finding.mark == Mark.FAILED and "no access token" in one.finding.text
