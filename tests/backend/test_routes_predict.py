"""Every request that Label Studio was seen to send to /predict, answered by the app with the fake engine."""

from __future__ import annotations

import base64
import json
import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_engine import BOX_SCORE, CLICK_SCORE, TEXT_SCORE
from label_studio_sdk.label_interface import LabelInterface
from picture_server import picture_bytes
from PIL import Image
from reading import center, pixels, regions, sentences
from video_clips import write_clip

from x2sam.errors import BusyError, CancelledError, FramesError, PromptError
from x2sam.inference.scheduler import Priority, Turn


@pytest.fixture
def ask(client):
    """Sends a request body and returns its results after checking them against the labeling configuration."""

    def send(body, status=200):
        answer = client.post("/predict", json=body)
        assert answer.status_code == status, answer.json
        if status != 200:
            return answer.json
        results = answer.json["results"]
        assert len(results) == len(body["tasks"])
        interface = LabelInterface(body["label_config"])
        for entry in results:
            assert entry["model_version"] == "fake-0001"
            if entry.get("result"):
                assert not interface.validate_prediction(entry, return_errors=True)
        return results

    return send


def test_a_click(ask, captured, engine):
    (entry,) = ask(captured("predict_interactive_keypoint_positive"))
    (item,) = entry["result"]
    assert (item["type"], item["from_name"], item["to_name"]) == ("brushlabels", "brush", "image")
    assert item["value"]["brushlabels"] == ["Object"]
    assert item["score"] == entry["score"] == CLICK_SCORE
    assert center(pixels(item)) == pytest.approx((191.2, 191.7), abs=1)
    assert pixels(item).sum() == pytest.approx(np.pi * 40**2, rel=0.01)
    assert "item_index" not in item
    assert len(engine.asked) == 1


def test_another_label(ask, captured):
    (entry,) = ask(captured("predict_interactive_keypoint_other_label"))
    assert entry["result"][0]["value"]["brushlabels"] == ["Other"]


def test_accumulated_clicks_with_a_negative_one(ask, captured, engine):
    body = captured("predict_interactive_keypoint_accumulated_negative")
    body["params"]["context"]["result"][2]["value"] |= {"x": 38.0, "y": 40.0}
    (entry,) = ask(body)
    mask = pixels(entry["result"][0])
    assert mask[192, 192]
    assert not mask[192, 243]
    assert [point.positive for point in engine.asked[0][2].points] == [True, True, False]


def test_the_same_clicks_get_the_same_answer(ask, captured):
    body = captured("predict_interactive_keypoint_accumulated_negative")
    first, second = ask(body), ask(body)
    assert first == second
    body["params"]["context"]["result"] = body["params"]["context"]["result"][:1]
    assert ask(body)[0]["result"][0]["id"] == first[0]["result"][0]["id"]


def test_a_box(ask, captured):
    (entry,) = ask(captured("predict_interactive_rectangle"))
    (item,) = entry["result"]
    rows, cols = np.nonzero(pixels(item))
    assert (cols.min(), rows.min(), cols.max(), rows.max()) == (192, 144, 383, 335)
    assert item["score"] == BOX_SCORE


def test_a_click_on_a_page(ask, captured, engine, pictures):
    (entry,) = ask(captured("predict_interactive_keypoint_multipage"))
    (item,) = entry["result"]
    assert item["item_index"] == 2
    assert item["id"].endswith("-0002")
    assert (item["original_width"], item["original_height"]) == (1280, 720)
    assert center(pixels(item)) == pytest.approx((383.6, 288), abs=1)
    assert [frame for _, frame, _ in engine.asked] == [2]
    assert len(pictures.seen) == 1, "the other pages are not fetched"


def test_clicks_on_three_pages(ask, captured, engine):
    (entry,) = ask(captured("predict_interactive_keypoint_three_pages"))
    items = regions(entry)
    assert [item["type"] for item in items] == ["bitmasklabels"] * 3
    assert [item["item_index"] for item in items] == [0, 3, 6]
    assert len({item["id"].rsplit("-", 1)[0] for item in items}) == 1
    assert [round(center(pixels(item))[0]) for item in items] == [256, 383, 511]
    assert sentences(entry) == [
        "Page 1: Object 1: 97 % sure. Page 4: Object 1: 97 % sure. Page 7: Object 1: 97 % sure."
    ]
    assert len(engine.sessions) == 1


def test_a_text(ask, captured, engine):
    (entry,) = ask(captured("predict_interactive_text"))
    (item,) = regions(entry)
    assert engine.asked[0][2].text == "the red rectangle"
    assert (item["from_name"], item["value"]["brushlabels"], item["score"]) == ("brush", ["Object"], TEXT_SCORE)
    assert center(pixels(item)) == pytest.approx((320, 240), abs=1)
    assert sentences(entry) == ["Found 1 object for “the red rectangle”: 83 % sure."]
    assert entry["result"][-1]["from_name"] == "reply"


def test_a_text_of_which_the_model_knows_few_words(ask, captured, engine):
    engine.words = ("the", "rectangle")
    (entry,) = ask(captured("predict_interactive_text"))
    assert engine.asked[0][2].text == "the red rectangle"
    assert sentences(entry) == ["Found 1 object for “the red rectangle”: 83 % sure. Understood as “the rectangle”."]


def test_a_text_beside_the_models_own_reply(ask, captured, engine):
    (entry,) = ask(captured("predict_interactive_text_with_reply"))
    assert [prompt.text for _, _, prompt in engine.asked] == ["the cup two"]
    assert len(regions(entry)) == 1


def test_a_text_that_fits_nothing(ask, captured):
    body = captured("predict_interactive_text")
    body["params"]["context"]["result"][0]["value"]["text"] = ["nothing of the kind"]
    (entry,) = ask(body)
    assert regions(entry) == []
    assert sentences(entry) == [
        "Found nothing for “nothing of the kind”. Try other words, one thing at a time, or click on it."
    ]
    assert "score" not in entry


def test_a_question_is_answered_in_words(ask, captured):
    body = captured("predict_interactive_text")
    body["params"]["context"]["result"][0]["value"]["text"] = ["How many cups are there?"]
    (entry,) = ask(body)
    assert regions(entry) == []
    assert sentences(entry) == ["There are two."]


def test_what_the_model_calls_its_masks(ask, captured):
    body = captured("predict_interactive_text")
    body["params"]["context"]["result"][0]["value"]["text"] = ["describe"]
    body["label_config"] = body["label_config"].replace('"Other"', '"Cat"')
    (entry,) = ask(body)
    assert [item["value"]["brushlabels"] for item in regions(entry)] == [["Object"], ["Cat"]]
    assert sentences(entry) == [
        "A dog lies beside a cat. Found 2 objects for “describe”: a dog (83 % sure), a cat (83 % sure)."
    ]


def test_urgency(ask, captured, engine):
    ask(captured("predict_interactive_keypoint_positive"))
    ask(captured("predict_interactive_text"))
    ask(captured("predict_task_open"))
    *prompted, batch = engine.urgency
    assert [priority for priority, _ in prompted] == [None, None]
    assert all(isinstance(turn, Turn) for _, turn in prompted)
    assert prompted[0][1].key != prompted[1][1].key
    assert batch == (Priority.BATCH, None)


@pytest.fixture
def on_pages(captured):
    """Texts on pages 4 and 2 that say that they mean their page."""
    body = captured("predict_interactive_text_per_item")
    for item in body["params"]["context"]["result"]:
        item["value"]["text"] = [f"here: {text}" for text in item["value"]["text"]]
    return body


def test_texts_on_pages(ask, on_pages, engine):
    (entry,) = ask(on_pages)
    assert [(frame, prompt.text) for _, frame, prompt in engine.asked] == [(3, "the cup"), (1, "second page text")]
    assert [item["item_index"] for item in regions(entry)] == [3, 1]
    replies = [item for item in entry["result"] if item["type"] == "textarea"]
    assert [item["item_index"] for item in replies] == [3, 1]
    assert "the cup" in replies[0]["value"]["text"][0]


def test_texts_on_pages_that_were_answered_already(ask, on_pages, engine):
    body = on_pages
    first = ask(body)[0]["result"]
    body["tasks"][0]["drafts"] = [{"result": [item for item in first if item["item_index"] == 3]}]
    again = ask(body)[0]
    assert [item["item_index"] for item in regions(again)] == [1]
    body["tasks"][0]["drafts"] = [{"result": first}]
    asked = len(engine.asked)
    (entry,) = ask(body)
    assert regions(entry) == []
    assert "answered before" in sentences(entry)[0]
    assert len(engine.asked) == asked


def test_a_text_on_a_clip_without_pages_is_about_all_of_them(ask, captured):
    body = captured("predict_interactive_text_per_item")
    body["label_config"] = body["label_config"].replace('perItem="true"', "")
    body["params"]["context"]["result"] = body["params"]["context"]["result"][:1]
    del body["params"]["context"]["result"][0]["item_index"]
    (entry,) = ask(body)
    assert sorted(item["item_index"] for item in regions(entry)) == list(range(10))
    assert sentences(entry)[0].startswith("Found 1 object for “the cup”")


def test_a_text_on_a_video(ask, captured, pictures, tmp_path):
    body = captured("predict_interactive_video_text")
    assert "no such picture" in ask(body, status=422)["error"], "there is no field for an answer in words"
    pictures.files["video/v.webm"] = write_clip(tmp_path / "v.mp4", rate=25).read_bytes()
    (item,) = regions(ask(body)[0])
    assert (item["type"], item["from_name"], item["value"]["framesCount"]) == ("videorectangle", "box", 20)


def test_an_empty_context_and_unknown_ones(ask, captured, engine):
    body = captured("predict_interactive_empty_context")
    assert ask(body)[0]["result"] == []
    for context in ({}, {"event": "capabilities"}, {"result": "x"}, "track", {"result": [{"type": "choices"}]}):
        body["params"]["context"] = context
        (entry,) = ask(body)
        assert entry["result"] == []
    assert engine.asked == []


def test_a_click_prefers_the_brush_and_never_the_own_tag(ask, captured):
    body = captured("predict_interactive_empty_context")
    click = captured("predict_interactive_keypoint_positive")["params"]["context"]
    body["params"]["context"] = click
    (entry,) = ask(body)
    assert entry["result"][0]["type"] == "brushlabels"


def test_opening_a_task(ask, captured, engine):
    (entry,) = ask(captured("predict_task_open"))
    assert engine.asked[0][2].categories == ("Object", "Other")
    assert [item["value"]["brushlabels"] for item in entry["result"]] == [["Object"], ["Other"]]
    assert len({item["id"] for item in entry["result"]}) == 2
    assert entry["score"] == min(item["score"] for item in entry["result"])
    assert pixels(entry["result"][1])[:, 330:].all()


def test_opening_a_task_where_nothing_is_found_stores_nothing(ask, captured):
    body = captured("predict_task_open")
    body["label_config"] = body["label_config"].replace('"Object"', '"unseen"').replace('"Other"', '"unseen"')
    (entry,) = ask(body)
    assert "result" not in entry


@pytest.mark.parametrize("name", ["predict_video_task_open", "predict_interactive_keypoint_three_pages"])
def test_opening_videos_and_clips_stores_nothing(ask, captured, engine, name):
    body = captured(name)
    body["params"]["context"] = None
    (entry,) = ask(body)
    assert "result" not in entry
    assert engine.asked == []


def test_a_batch(ask, captured, engine):
    entries = ask(captured("predict_bulk"))
    assert [len(entry["result"]) for entry in entries] == [2] * 5
    ids = [item["id"] for entry in entries for item in entry["result"]]
    assert len(set(ids)) == len(ids)
    assert len(engine.sessions) == 1, "the same picture is opened once"


def test_a_batch_with_an_unreadable_picture_stores_the_others(ask, captured, pictures):
    pictures.files["imgs/img1.png"] = b"no picture"
    entries = ask(captured("predict_bulk"))
    assert ["result" in entry for entry in entries] == [True, False, True, True, False]


def test_a_batch_of_unreadable_pictures_is_an_error(ask, captured, pictures):
    pictures.files["imgs"] = b"no picture"
    assert "not a picture" in ask(captured("predict_bulk"), 422)["error"]


def test_a_batch_stops_before_label_studio_gives_up(app, client, captured, engine, monkeypatch):
    clock = iter(range(0, 1000, 15))
    slow_time = SimpleNamespace(monotonic=lambda: next(clock), perf_counter=time.perf_counter)
    monkeypatch.setattr("backend.model.time", slow_time)
    entries = client.post("/predict", json=captured("predict_bulk")).json["results"]
    assert ["result" in entry for entry in entries] == [True, True, False, False, False]


WITH_REPLY = "predict_interactive_text"


def said(caplog):
    """All that was logged: texts, and the fields beside them."""
    return "\n".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in caplog.records)


@pytest.mark.parametrize(
    ("error", "status"),
    [(PromptError("Too small."), 422), (BusyError("Try later."), 503), (FramesError("No frames."), 422)],
)
def test_errors_are_told_in_the_reply_field_or_by_status(ask, captured, engine, error, status):
    engine.raises = error
    (entry,) = ask(captured(WITH_REPLY))
    assert entry["result"] == [
        {
            "id": "reply-0000",
            "from_name": "reply",
            "to_name": "image",
            "type": "textarea",
            "value": {"text": [str(error)]},
        }
    ]
    assert ask(captured("predict_interactive_keypoint_positive"), status) == {"error": str(error)}


def test_a_replaced_prompt_is_answered_with_nothing(ask, captured, engine):
    engine.raises = CancelledError("newer click")
    assert ask(captured(WITH_REPLY))[0]["result"] == []
    assert ask(captured("predict_interactive_keypoint_positive"))[0]["result"] == []


def test_a_bug_is_no_traceback_for_the_client_and_no_task_text_in_the_log(ask, captured, engine, caplog):
    engine.raises = KeyError("secret of the task")
    with caplog.at_level(logging.DEBUG, logger="backend"):
        told = sentences(ask(captured(WITH_REPLY))[0])[0]
        error = ask(captured("predict_interactive_keypoint_positive"), 500)["error"]
    for text in (told, error):
        assert "its log says more" in text
        assert "secret" not in text
    logged = said(caplog)
    assert "fake_engine.py" in logged
    assert told.split()[-1].strip(").") in logged
    for hidden in ("secret of the task", "the red rectangle", "img0.png"):
        assert hidden not in logged


def test_texts_stay_out_of_the_log(ask, captured, caplog):
    with caplog.at_level(logging.DEBUG, logger="backend"):
        ask(captured(WITH_REPLY))
    logged = said(caplog)
    assert "'task': '8', 'kind': 'text', 'masks': 1" in logged
    assert "rectangle" not in logged


def test_a_picture_that_cannot_be_fetched(ask, captured, pictures):
    pictures.token = "Token other"
    told = sentences(ask(captured(WITH_REPLY))[0])[0]
    assert "LABEL_STUDIO_API_KEY" in told
    assert "LABEL_STUDIO_API_KEY" in ask(captured("predict_interactive_keypoint_positive"), 422)["error"]


def test_only_negative_clicks(ask, captured):
    body = captured("predict_interactive_keypoint_positive")
    body["params"]["context"]["result"][0]["is_positive"] = False
    assert "without Alt" in ask(body, 422)["error"]


def test_a_page_that_is_not_there(ask, captured):
    body = captured("predict_interactive_keypoint_three_pages")
    body["params"]["context"]["result"][1]["item_index"] = 10
    assert "page 11" in sentences(ask(body)[0])[0]


def test_a_config_without_a_tag_for_masks(ask, captured):
    body = captured(WITH_REPLY)
    body["label_config"] = body["label_config"].replace("BrushLabels", "EllipseLabels")
    body["label_config"] = body["label_config"].replace("RectangleLabels", "HyperTextLabels")
    assert "BrushLabels" in sentences(ask(body)[0])[0]


def test_a_label_that_the_answer_cannot_have(ask, captured):
    body = captured("predict_interactive_keypoint_positive")
    body["params"]["context"]["result"][0]["value"]["keypointlabels"] = ["Else"]
    assert "same labels" in ask(body, 422)["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": None},
        {"tasks": []},
        {"tasks": [5]},
        {"params": []},
        {"label_config": 5},
        {"label_config": "<View>"},
        {"label_config": "<!DOCTYPE x><View/>"},
        {"params": {"context": {"result": [5]}}},
        {"params": {"tasks": [], "self": 1, "context": {"result": [5]}}},
    ],
)
def test_malformed_requests_are_4xx(client, captured, change):
    answer = client.post("/predict", json=captured("predict_interactive_keypoint_positive") | change)
    assert 400 <= answer.status_code < 500
    assert answer.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"tasks": NaN}', b"9" * 10_000])
def test_bodies_that_are_no_json(client, body):
    answer = client.post("/predict", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json["error"]


def test_a_rotated_photograph_is_answered_upright(ask, captured, pictures):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures.files["imgs"] = picture_bytes(640, 480, "JPEG", exif=exif)
    body = captured("predict_interactive_keypoint_positive")
    body["params"]["context"]["result"][0] |= {"original_width": 480, "original_height": 640}
    (entry,) = ask(body)
    mask = pixels(entry["result"][0])
    assert mask.shape == (640, 480)
    assert center(mask) == pytest.approx((143.8, 256.3), abs=1)


def test_the_answer_has_the_size_that_the_browser_shows(ask, captured, pictures):
    pictures.files["imgs"] = picture_bytes(1280, 960)
    (entry,) = ask(captured("predict_interactive_keypoint_positive"))
    item = entry["result"][0]
    assert (item["original_width"], item["original_height"]) == (640, 480)
    assert center(pixels(item)) == pytest.approx((191.2, 191.7), abs=1)


def test_a_picture_that_the_browser_shows_turned(ask, captured, pictures):
    pictures.files["imgs"] = picture_bytes(480, 640)
    assert "turned" in ask(captured("predict_interactive_keypoint_positive"), 422)["error"]


def test_data_in_the_task_itself(ask, captured, pictures):
    body = captured("predict_interactive_keypoint_positive")
    picture = base64.b64encode(picture_bytes()).decode()
    body["tasks"][0]["data"]["image"] = f"data:image/png;base64,{picture}"
    assert regions(ask(body)[0])
    assert pictures.seen == []


def test_answers_are_plain_json(client, captured):
    raw = client.post("/predict", json=captured("predict_interactive_keypoint_positive")).data
    json.loads(raw, parse_constant=lambda name: pytest.fail(name))
