"""The prompt routes with a model for pictures (a tiny X-SAM): every kind of prompt on one picture, pages of a clip one
by one, and sentences where a memory would be needed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from clip_desk import CONFIGS, HEIGHT, WIDTH, Desk, by_page, clip_item, point
from clip_desk import typed as typed_on
from PIL import Image
from prompting import Asker, box, click, draft, only, typed
from reading import pixels, regions, sentences

from backend import replies
from backend.app import close_services, create_app

PAGES = 3
MODEL = "The model xsam-tiny looks at pictures one by one"


@pytest.fixture(scope="module")
def pages() -> list[bytes]:
    """Noise: whatever the model makes of it, each page gives another answer."""
    files = []
    for page in range(PAGES):
        noise = np.random.default_rng(page).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.fixture
def xsam_client(xsam_engine, settings, pictures, pages):
    for page, content in enumerate(pages):
        pictures.files[f"small/{page}.png"] = content
    app = create_app(settings, lambda: xsam_engine)
    app.extensions["x2sam"].engines.wait(60)
    yield app.test_client()
    close_services(app.extensions["x2sam"])


@pytest.fixture
def ask(xsam_client, captured):
    return Asker(xsam_client, captured)


@pytest.fixture
def desk(xsam_client):
    return Desk(xsam_client, (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8"))


def with_all(config):
    more = '<KeyPointLabels name="point_all" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>'
    return config.replace("</View>", f"{more}</View>")


def test_clicks_boxes_and_corrections(ask):
    one, other = click(30, 50), click(80, 20, positive=False)
    first = only(ask(one))
    assert pixels(first)[240, 192]
    better = only(ask(one, other))
    assert better["id"] == first["id"] and pixels(better)[240, 192] and not pixels(better)[96, 512]
    less = only(ask(click(30, 50, positive=False), drafts=[draft(first)]))  # of a mask that was accepted
    assert less["id"] == first["id"] and not pixels(less)[240, 192]
    boxed = pixels(only(ask(box(10, 10, 30, 30))))
    assert boxed.any() and not boxed[:, 400:].any()


@pytest.mark.parametrize(
    "prompt",
    [typed("the red object"), typed("What could a child play with?"), typed("object, other"), typed("sem: object"),
     typed("describe"), click(30, 50, from_name="point_all")],
    ids=["phrase", "sentence", "names", "stuff", "describe", "all like this"],
)  # fmt: skip
def test_every_other_prompt_is_answered(ask, prompt):
    entry = ask(prompt, change=with_all)
    (told,) = sentences(entry)
    assert told and "memory" not in told and "Traceback" not in told
    assert all(pixels(item).any() for item in regions(entry))


def test_a_question_is_answered_in_words(ask):
    entry = ask(typed("How many are there?"))
    assert regions(entry) == [] and len(sentences(entry)) == 1


def test_a_prediction_for_a_picture(xsam_client, captured):
    body = captured("predict_interactive_text")
    body["params"]["context"] = None
    answer = xsam_client.post("/predict", json=body)
    assert answer.status_code == 200, answer.json


def test_a_click_on_a_page_is_answered_there_and_the_tag_that_tracks_says_why_not(desk):
    entry = desk(point(30, 50, 1), pages=PAGES)
    assert list(by_page(entry)) == [1]
    told = " ".join(sentences(entry))
    assert MODEL in told and "X2SAM_MODEL=x2sam-4b or nano" in told
    assert "track" not in told.replace("can't follow", "")  # nothing that can't be done is advised


def test_text_in_the_field_of_a_page_is_about_that_page(desk):
    assert list(by_page(desk(typed_on("object 1", page=2), pages=PAGES))) == [2]


def test_what_is_typed_to_track_is_told_what_can(desk):
    item = by_page(desk(point(30, 50, 0), pages=PAGES))[0]
    entry = desk(typed_on("track"), on_screen=[item], pages=PAGES)
    assert regions(entry) == [] and MODEL in sentences(entry)[0]


def test_text_about_the_whole_clip_is_asked_page_by_page(xsam_client):
    """A field without pages of its own: each page is a picture, and nothing is the same from page to page."""
    xml = (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8")
    desk = Desk(xsam_client, xml.replace('<TextArea name="prompt" toName="image" perItem="true"',
                                         '<TextArea name="prompt" toName="image" perItem="false"'))  # fmt: skip
    whole = {key: value for key, value in typed_on("object 1").items() if key != "item_index"}
    entry = desk(whole, pages=PAGES)
    items = by_page(entry)
    assert sorted(items) == list(range(PAGES))
    assert len({item["id"] for item in items.values()}) == PAGES
    assert replies.PAGE_BY_PAGE in " ".join(sentences(entry))
    alone = by_page(desk(typed_on("object 1", page=1), pages=PAGES))[1]
    assert np.array_equal(pixels(items[1]), pixels(alone))


def test_opening_a_clip_fills_its_pages_one_by_one(xsam_client, desk):
    assert "result" not in desk.open(pages=PAGES)  # nobody asked for it
    hinted = desk.xml.replace('<BrushLabels name="mask"', '<BrushLabels name="mask" preannotate="semantic"')
    assert hinted != desk.xml
    entry = Desk(xsam_client, hinted).open(pages=PAGES)
    assert {item["item_index"] for item in entry.get("result", ())} <= set(range(PAGES))


def test_a_video_is_told_what_can(xsam_client):
    xml = Path(CONFIGS / "video_boxes.xml").read_text(encoding="utf-8")
    prompt = {**clip_item("textarea", "prompt", {"text": ["object 1"]}, 0), "to_name": "video"}
    body = {
        "tasks": [{"id": 7, "data": {"video": "/data/local-files/?d=small/clip.mp4"}}], "project": "1.1",
        "label_config": xml, "params": {"context": {"result": [prompt]}},
    }  # fmt: skip
    answer = xsam_client.post("/predict", json=body)
    assert answer.status_code == 200, answer.json
    (entry,) = answer.json["results"]
    assert regions(entry) == [] and MODEL in sentences(entry)[0]
