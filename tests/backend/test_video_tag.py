"""Texts on a Video tag, through the app: words and rectangles followed over the frames, keyframes that stay."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import STEP, FakeSession
from label_studio_sdk.label_interface import LabelInterface
from prompting import IDS, draft
from reading import regions, sentences
from video_clips import HEIGHT, WIDTH, write_clip, write_cut_clip

from backend import replies, video_tag
from backend.app import close_app, create_app
from backend.video_boxes import box_iou, sequence_to_boxes
from x2sam.errors import FramesError

XML = (Path(__file__).parents[2] / "label_config" / "video_boxes.xml").read_text(encoding="utf-8")
SIZE, FRAMES, RATE = (HEIGHT, WIDTH), 20, 10


def typed(text):
    return {
        "id": next(IDS), "from_name": "prompt", "to_name": "video", "type": "textarea", "origin": "manual",
        "value": {"text": [text]},
    }  # fmt: skip


def key(frame, box, **fields):
    x0, y0, x1, y1 = box
    percent = {"x": x0 / 1.6, "y": y0 / 0.64, "width": (x1 - x0) / 1.6, "height": (y1 - y0) / 0.64}
    return {"frame": frame, "enabled": True, "rotation": 0, **percent, "time": frame / RATE, **fields}


def rectangle(*keys, name="k3fJ2", label="Object 1"):
    value = {"framesCount": FRAMES, "duration": FRAMES / RATE, "sequence": list(keys), "labels": [label]}
    return {"id": name, "from_name": "box", "to_name": "video", "type": "videorectangle", "value": value}


def right(box, frames):
    x0, y0, x1, y1 = box
    return (x0 + STEP * frames, y0, x1 + STEP * frames, y1)


def drawn(item, frames=FRAMES):
    """What Label Studio draws, by its number of the frame."""
    boxes = sequence_to_boxes(item["value"]["sequence"], SIZE, frames)
    return {frame: box for frame, box in enumerate(boxes, 1) if box is not None}


def same(one, other):
    rows = [np.array([[b[0], b[1], b[2] - b[0], b[3] - b[1]]]) for b in (one, other)]
    return box_iou(*rows)[0] >= 0.95 - 1e-6


class Desk:
    def __init__(self, client, xml=XML):
        self.client, self.xml = client, xml

    def __call__(self, *prompts, on_screen=(), annotations=(), drafts=None, data=None):
        data = data or {"video": "/data/local-files/?d=clip.mp4", "video_fps": RATE}
        drafts = drafts if drafts is not None else [draft(*on_screen)] if on_screen else []
        task = {"id": 5, "data": data, "drafts": drafts, "annotations": list(annotations)}
        body = {"tasks": [task], "project": "1.1", "label_config": self.xml}
        answer = self.client.post("/predict", json={**body, "params": {"context": {"result": list(prompts)}}})
        assert answer.status_code == 200, answer.json
        (entry,) = answer.json["results"]
        assert not LabelInterface(self.xml).validate_prediction(entry, return_errors=True)
        return entry


@pytest.fixture
def pictures(pictures, tmp_path):
    pictures.files["clip.mp4"] = write_clip(tmp_path / "clip.mp4", FRAMES, RATE).read_bytes()
    return pictures


@pytest.fixture
def desk(client, pictures):
    return Desk(client)


MINE = (40.0, 16.0, 60.0, 40.0)


def test_words_give_a_track(desk):
    entry = desk(typed("the square"))
    (item,) = regions(entry)
    assert re.fullmatch(r"obj[0-9a-f]{10}", item["id"])
    assert (item["from_name"], item["to_name"], item["type"]) == ("box", "video", "videorectangle")
    value = item["value"]
    assert (value["framesCount"], value["duration"], value["labels"]) == (FRAMES, 2.0, ["Object 1"])
    assert [(k["frame"], k["time"], k["enabled"]) for k in value["sequence"]] == [(1, 0.1, True), (20, 2.0, True)]
    boxes = drawn(item)
    assert sorted(boxes) == list(range(1, FRAMES + 1))
    assert all(same(boxes[n], right((72.0, 24.0, 88.0, 40.0), n - 1)) for n in boxes)
    (sentence,) = sentences(entry)
    assert sentence.startswith("Found 1 object for “the square”: 83 % sure. Object 1: tracked 20 frames.")
    assert regions(desk(typed("the square")))[0]["id"] != item["id"], "another text field entry, another object"


def test_a_phrase_of_which_the_model_knows_few_words(desk, engine):
    engine.words = ("square",)
    (sentence,) = sentences(desk(typed("the shiny square")))
    assert "sure. Understood as “square”. Object 1: tracked" in sentence


def test_the_label_that_a_text_names_and_several_things(desk):
    assert regions(desk(typed("Object 2: the square")))[0]["value"]["labels"] == ["Object 2"]
    items = regions(desk(typed("cars, people")))
    assert [item["id"] for item in items] == [items[0]["id"], f"{items[0]['id']}n2"]


def test_all_like_a_rectangle(desk, engine):
    assert "All of what?" in sentences(desk(typed("all")))[0]
    entry = desk(typed("all"), on_screen=[rectangle(key(1, MINE), key(20, right(MINE, 19)), label="Object 2")])
    (item,) = regions(entry)
    assert item["value"]["labels"] == ["Object 2"] and item["id"] != "k3fJ2"
    (asked,) = {prompt.boxes for _, _, prompt in engine.asked if prompt.task == "vgdseg"}
    np.testing.assert_allclose(asked, [MINE], atol=1e-4)
    mirrored = (WIDTH - MINE[2], MINE[1], WIDTH - MINE[0], MINE[3])
    assert same(drawn(item)[1], mirrored), "the one that has no rectangle yet"
    assert "1 object of that kind is marked already" in sentences(entry)[0]


def test_of_two_fields_the_new_text_counts(client, pictures):
    second = '<TextArea name="other" toName="video"/></View>'
    desk = Desk(client, XML.replace("</View>", second))
    first, other = typed("the square"), typed("track") | {"from_name": "other"}
    (item,) = regions(desk(first))
    assert "nothing to do" in sentences(desk(first, other, on_screen=[item]))[0]
    changed = typed("the big square")
    assert "big" in sentences(desk(changed, other, on_screen=[item]))[0]


def test_nothing_found_and_questions(desk, engine, monkeypatch):
    entry = desk(typed("nothing at all"))
    assert not regions(entry) and "Found nothing" in sentences(entry)[0]
    entry = desk(typed("How many squares are there?"))
    assert not regions(entry) and sentences(entry) == ["There are two."]
    monkeypatch.setattr(FakeSession, "chat", lambda *_, **__: (" ", []))
    assert sentences(desk(typed("How many squares are there?"))) == [replies.NO_ANSWER]
    assert not engine.walked


def test_track_follows_a_rectangle_both_ways(desk, engine):
    mine = key(8, MINE)
    entry = desk(typed("track"), on_screen=[rectangle(mine)])
    (item,) = regions(entry)
    assert (item["id"], item["value"]["labels"]) == ("k3fJ2", ["Object 1"]), "it takes the place of what stands"
    assert mine in item["value"]["sequence"], "a person's keyframe comes back as it is"
    boxes = drawn(item)
    assert sorted(boxes) == list(range(1, FRAMES + 1))
    assert all(same(boxes[n], right(MINE, n - 8)) for n in boxes)
    assert engine.asked[0][1:] and engine.asked[0][1] == 7, "frame 8 of Label Studio is the eighth of the file"
    assert "Object 1: tracked 20 frames." in sentences(entry)[0]


def test_the_frames_to_look_at_are_noted_by_the_editors_numbers(desk, app, monkeypatch):
    noted = []
    monkeypatch.setattr(app.extensions["x2sam"].look_lists, "note", lambda *given: noted.append(given))
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    ((_, task, names, marked, unit),) = noted
    assert (task, names, unit) == ("5", {item["id"]}, "frame")
    # The stand-in is less sure with every frame: of 20, a tenth is two, the farthest from frame 8.
    assert [(one.page, one.object, one.seen) for one in marked] == [(20, "k3fJ2", True), (19, "k3fJ2", True)]


@pytest.mark.parametrize(
    ("text", "frames"),
    [("track forward", range(8, 21)), ("track backward", range(1, 9)), ("track 5", range(8, 14))],
)
def test_how_far(desk, engine, text, frames):
    (item,) = regions(desk(typed(text), on_screen=[rectangle(key(8, MINE))]))
    walked = {page + 1 for _, page in engine.walked}
    assert walked == set(frames)
    boxes = drawn(item)
    assert all(same(boxes[n], right(MINE, n - 8)) for n in frames)


def test_several_keyframes_are_met_from_both_sides(desk, engine):
    other = (90.0, 20.0, 110.0, 50.0)
    keys = [key(3, MINE), key(12, other, x=56.25)]
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(*keys)]))
    assert all(one in item["value"]["sequence"] for one in keys)
    boxes = drawn(item)
    for n in set(boxes) - {3, 12}:
        near, at = (MINE, 3) if abs(n - 3) <= abs(n - 12) else (other, 12)
        assert same(boxes[n], right(near, n - at))
    assert sorted(frame for frame, *_ in engine.corrected) == [2, 2, 11]


def test_where_a_person_hid_it_nothing_is_drawn(desk, engine):
    keys = [key(3, MINE), key(6, right(MINE, 3), enabled=False), key(12, right(MINE, 9)), key(17, MINE, enabled=False)]
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(*keys)]))
    assert sorted(drawn(item)) == [*range(1, 7), *range(12, 18)]
    assert all(one in item["value"]["sequence"] for one in keys)
    gone = {frame for frame, _, mask in engine.corrected if not mask.any()}
    assert gone == {6, 10, 17, 19}, "its ends are known to be out of sight"


def test_a_turned_keyframe_stays_turned(desk):
    turned = key(8, MINE, rotation=30)
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(turned)]))
    sequence = item["value"]["sequence"]
    assert turned in sequence and {7, 8, 9} <= {one["frame"] for one in sequence}
    assert all(one["rotation"] == 0 for one in sequence if one is not turned and one["frame"] != 8)


def test_many_rectangles_with_many_keyframes_take_no_longer_than_there_is_time(desk, engine, monkeypatch):
    keys = [key(n, right(MINE, n)) for n in range(1, FRAMES + 1)]
    screen = [rectangle(*keys, name=f"box{number}") for number in range(24)]
    monkeypatch.setattr(video_tag, "MOST_OF_ALL", 48)
    entry = desk(typed("track"), on_screen=screen)
    assert len(engine.asked) == 48
    assert all(item["value"]["sequence"] == keys for item in regions(entry)), "keyframes come back as they are"
    monkeypatch.setattr(video_tag, "SEARCH_SHARE", 0)
    entry = desk(typed("track"), on_screen=screen)
    assert sentences(entry) == ["There was time to look at 1 of 24 rectangles; type “track” again to go on from there."]


def test_lost_and_found(desk, engine):
    engine.out_of_sight = {12, 13, 19}
    entry = desk(typed("track"), on_screen=[rectangle(key(8, MINE))])
    (item,) = regions(entry)
    assert sorted(drawn(item)) == [*range(1, 13), *range(15, 20)]
    assert "Not seen on frames 13-14 and 20." in sentences(entry)[0]


def test_a_correction_is_kept_and_the_rest_follows(desk, engine):
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    engine.corrected.clear()
    right_there = key(15, (20.0, 10.0, 50.0, 34.0))
    sequence = [one for one in item["value"]["sequence"] if one["frame"] < 15] + [
        right_there,
        key(20, (130, 5, 150, 25)),
    ]
    last = item["value"]["sequence"][-1]
    sequence[-1] = last
    screen = item | {"value": {**item["value"], "sequence": sequence}}
    (again,) = regions(desk(typed("track"), on_screen=[screen]))
    assert right_there in again["value"]["sequence"] and key(8, MINE) in again["value"]["sequence"]
    assert {frame + 1 for frame, *_ in engine.corrected} == {8, 15}, "keyframes of ours are made anew"
    boxes = drawn(again)
    assert same(boxes[16], right((20.0, 10.0, 50.0, 34.0), 1))
    assert same(boxes[9], right(MINE, 1))


def test_nothing_changed_is_not_walked_again(desk, engine):
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    engine.walked.clear()
    entry = desk(typed("track"), on_screen=[item])
    assert not regions(entry) and "nothing to do" in sentences(entry)[0] and not engine.walked
    (item,) = regions(desk(typed("the square")))
    engine.walked.clear()
    assert "nothing to do" in sentences(desk(typed("track"), on_screen=[item]))[0] and not engine.walked


def test_a_rectangle_that_words_found_is_followed_again_from_there(desk, engine):
    words = typed("the square")
    (item,) = regions(desk(words))
    moved = key(20, (20.0, 10.0, 50.0, 34.0))
    screen = item | {"value": {**item["value"], "sequence": [item["value"]["sequence"][0], moved]}}
    engine.corrected.clear()
    (again,) = regions(desk(typed("track"), on_screen=[screen]))
    assert moved in again["value"]["sequence"]
    assert sorted({frame for frame, *_ in engine.corrected}) == [0, 9, 19]
    np.testing.assert_allclose(drawn(again)[20], (20.0, 10.0, 50.0, 34.0), atol=1e-4)
    (asked_again,) = regions(desk(words, on_screen=[screen]))
    assert moved in asked_again["value"]["sequence"], "the same words again leave what a person did alone"


def test_what_was_submitted_stays(desk):
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    submitted = {"id": 9, "completed_by": 1, "result": [item]}
    (again,) = regions(desk(typed("track"), annotations=[submitted]))
    assert all(one in again["value"]["sequence"] for one in item["value"]["sequence"])
    moved = key(14, MINE)
    reopened = draft(item | {"value": {**item["value"], "sequence": [*item["value"]["sequence"], moved]}}, annotation=9)
    (again,) = regions(desk(typed("track"), annotations=[submitted], drafts=[reopened]))
    assert all(one in again["value"]["sequence"] for one in (moved, *item["value"]["sequence"]))


def test_after_a_restart_all_keyframes_are_the_persons(desk, app):
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    told = app.extensions["x2sam"].told_sequences
    told.__dict__.update(type(told)().__dict__)
    (again,) = regions(desk(typed("track"), on_screen=[item]))
    assert all(one in again["value"]["sequence"] for one in item["value"]["sequence"])


def test_what_is_gone_is_hidden_by_hand(desk):
    entry = desk(typed("gone"), on_screen=[rectangle(key(8, MINE))])
    assert not regions(entry) and "hide its rectangle" in sentences(entry)[0]


def test_lock_and_stop(desk):
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))
    assert "Locked" in sentences(desk(typed("lock"), on_screen=[item]))[0]
    (again,) = regions(desk(typed("track"), on_screen=[item]))
    assert all(one in again["value"]["sequence"] for one in item["value"]["sequence"])
    assert "nothing to lock" in sentences(desk(typed("lock")))[0]
    entry = desk(typed("stop"), on_screen=[item])
    assert not regions(entry) and sentences(entry)


def test_two_rectangles(desk):
    two = [rectangle(key(3, MINE)), rectangle(key(12, (10, 40, 30, 60)), name="zz9", label="Object 2")]
    items = regions(desk(typed("track"), on_screen=two))
    assert [(item["id"], item["value"]["labels"]) for item in items] == [("k3fJ2", ["Object 1"]), ("zz9", ["Object 2"])]
    assert all(len(drawn(item)) == FRAMES for item in items)


# frames and rates


@pytest.mark.parametrize(("rate", "frames"), [(10, 20), (20, 40), (5, 10), (24, 48)])
def test_frame_numbers_are_those_of_the_editor(desk, engine, rate, frames):
    data = {"video": "/data/local-files/?d=clip.mp4", "video_fps": rate}
    (item,) = regions(desk(typed("track"), on_screen=[rectangle(key(7, MINE))], data=data))
    value = item["value"]
    assert value["framesCount"] == frames and value["duration"] == pytest.approx(2.0)
    boxes = drawn(item, frames)
    shown = [min(int((n - 1) / rate * 10 + 1e-6), 19) for n in range(1, frames + 1)]
    here = sorted(set(shown))
    for n, file_frame in enumerate(shown, 1):
        assert same(boxes[n], right(MINE, here.index(file_frame) - here.index(shown[6])))
    assert all(k["time"] == pytest.approx(k["frame"] / rate, abs=1e-6) for k in value["sequence"] if k["frame"] != 7)


# time


@pytest.fixture
def slow(settings, engine, pictures):
    """Time for three frames or so."""
    app = create_app(replace(settings, track_seconds=0.35), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    engine.on_page = lambda page: time.sleep(0.1)
    yield Desk(app.test_client())
    close_app(app)


def test_out_of_time_and_on(slow, engine):
    screen, rounds, before = [rectangle(key(1, MINE))], 0, 0
    while True:
        entry = slow(typed("track"), on_screen=screen)
        screen, rounds = regions(entry), rounds + 1
        boxes = drawn(screen[0])
        told = re.search(r"tracked (\d+) of 20 frames; type track to go on", sentences(entry)[0])
        if told is None:
            break
        done = int(told[1])
        assert before < done < FRAMES and rounds < 30
        assert all(same(boxes[n], right(MINE, n - 1)) for n in range(1, done + 1))
        assert same(boxes[FRAMES], right(MINE, done - 1)), "what is not tracked yet keeps the last box"
        before = done
    assert rounds > 1 and all(same(boxes[n], right(MINE, n - 1)) for n in range(1, FRAMES + 1))
    assert engine.walked == [("forward", page) for page in range(FRAMES)], "no frame is walked twice"


def test_a_frame_that_can_not_be_decoded(desk, engine):
    def fail(page):
        if page == 12:
            raise FramesError("the video can't be decoded at 1.2 s")

    engine.on_page = fail
    entry = desk(typed("track forward"), on_screen=[rectangle(key(8, MINE))])
    assert "tracked 5 of 13 frames. the video can't be decoded at 1.2 s" in sentences(entry)[0]
    assert same(drawn(regions(entry)[0])[12], right(MINE, 4)), "what was done before it is kept"
    entry = desk(typed("track"), on_screen=[rectangle(key(8, MINE))])
    assert "tracked 12 of 20 frames. the video can't be decoded at 1.2 s" in sentences(entry)[0]
    assert min(drawn(regions(entry)[0])) == 1, "the other way is walked all the same"


# what is wrong


def test_a_file_that_ends_early(desk, pictures, tmp_path):
    pictures.files["clip.mp4"] = write_cut_clip(tmp_path / "cut.mp4").read_bytes()
    told = sentences(desk(typed("track"), on_screen=[rectangle(key(8, MINE))]))[0]
    assert "Object 1: tracked" in told and re.search(r"The file ends early: its last \d\.\d s can't be read\.", told)


def test_nothing_to_follow(desk):
    assert "draw a rectangle" in sentences(desk(typed("track")))[0]
    damaged = rectangle({"frame": "1"}, {"frame": 2, "x": None})
    assert "draw a rectangle" in sentences(desk(typed("track"), on_screen=[damaged]))[0]


def test_a_configuration_without_rectangles(client, pictures):
    xml = re.sub(r"<VideoRectangle[^>]*/>", "", XML)
    assert "VideoRectangle" in sentences(Desk(client, xml)(typed("the square")))[0]


def test_files_that_are_no_videos(desk, pictures):
    pictures.files["clip.mp4"] = b"not a video"
    assert "not a video that can be decoded" in sentences(desk(typed("track")))[0]
    assert "bucket" in sentences(desk(typed("track"), data={"video": "s3://bucket/clip.mp4"}))[0]
    assert "no address" in sentences(desk(typed("track"), data={"video": ["a", "b"]}))[0]


def test_opening_a_video_stores_nothing(client, pictures, engine):
    task = {"id": 5, "data": {"video": "/data/local-files/?d=clip.mp4", "video_fps": RATE}}
    body = {"tasks": [task], "project": "1.1", "label_config": XML, "params": {"context": None}}
    (entry,) = client.post("/predict", json=body).json["results"]
    assert "result" not in entry and not engine.asked
