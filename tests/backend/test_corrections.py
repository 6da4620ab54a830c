"""Clicks that correct a mask on the screen, through the app: the request shows what belongs together."""

from __future__ import annotations

import numpy as np
import pytest
from prompting import SIZE, Asker, box, click, draft, edited, last, object_of, only, typed
from reading import pixels, regions

from backend.evidence import StandingRegion
from backend.label_config import ControlTag
from backend.remembered import Remembered
from backend.results import Place, region_items
from backend.standing import standing_mask
from x2sam.structures import Mask


@pytest.fixture
def ask(client, captured):
    return Asker(client, captured)


@pytest.fixture
def forget(app):
    """What a restart of the server does to its memory."""

    def restart():
        remembered = app.extensions["x2sam"].remembered
        fresh = type(remembered)()
        remembered.__dict__.update(fresh.__dict__)

    return restart


# text and boxes, then clicks


def test_a_click_corrects_the_box_before_it(ask, engine):
    drawn, added = box(30, 30, 20, 40), click(52, 50)
    boxed = only(ask(drawn))
    corrected = only(ask(added, drafts=[draft(drawn)]))
    assert corrected["id"] == boxed["id"]
    assert last(engine).boxes and [p.positive for p in last(engine).points] == [True]
    assert (pixels(corrected) & pixels(boxed)).sum() == pixels(boxed).sum() < pixels(corrected).sum()
    taken = click(35, 40, positive=False)
    again = only(ask(added, taken, drafts=[draft(drawn, added)]))
    assert again["id"] == boxed["id"]
    assert not pixels(again)[192, 224]
    assert pixels(again)[300, 300]


def test_a_negative_click_alone_corrects_a_box_too(ask, engine):
    drawn = box(30, 30, 20, 40)
    boxed = only(ask(drawn))
    item = only(ask(click(35, 40, positive=False), drafts=[draft(drawn)]))
    assert item["id"] == boxed["id"]
    assert not pixels(item)[192, 224]


def test_after_a_restart_the_box_in_the_draft_is_enough(ask, engine, forget):
    drawn = box(30, 30, 20, 40)
    boxed = only(ask(drawn))
    forget()
    corrected = only(ask(click(35, 40), drafts=[draft(drawn)]))
    assert corrected["id"] == boxed["id"]
    assert len(last(engine).boxes) == 1


def test_a_click_corrects_what_a_text_found(ask, engine):
    words, added = typed("the red rectangle"), click(52, 50)
    found = only(ask(words))
    corrected = only(ask(added, drafts=[draft(words)]))
    assert corrected["id"] == found["id"]
    np.testing.assert_array_equal(last(engine).previous, pixels(found))
    further = only(ask(added, click(40, 60), drafts=[draft(words)]))
    assert further["id"] == found["id"]
    np.testing.assert_array_equal(last(engine).previous, pixels(found))
    assert len(last(engine).points) == 2


def test_a_click_far_from_the_answer_is_a_new_object(ask, engine):
    words = typed("the red rectangle")
    found = only(ask(words))
    other = only(ask(click(5, 5), drafts=[draft(words)]))
    assert object_of(other) != object_of(found)
    assert last(engine).previous is None


def test_the_other_finds_of_a_text_stay_on_the_screen(ask, engine):
    def with_cat(config):
        return config.replace('"Other"', '"Cat"')

    words = typed("describe")
    both = regions(ask(words, change=with_cat))
    assert [item["value"]["brushlabels"] for item in both] == [["Object"], ["Cat"]]
    answer = regions(ask(click(50, 50, label="Cat"), drafts=[draft(words)], change=with_cat))
    assert [item["id"] for item in answer] == [both[1]["id"], both[0]["id"]]
    np.testing.assert_array_equal(pixels(answer[1]), pixels(both[0]))
    accepted = ask(click(50, 50, label="Cat"), drafts=[draft(words, both[0])], change=with_cat)
    assert [item["id"] for item in regions(accepted)] == [both[1]["id"]]


def test_without_a_draft_nothing_is_joined(ask):
    boxed = only(ask(box(30, 30, 20, 40)))
    assert object_of(only(ask(click(40, 50)))) != object_of(boxed)


def test_another_label_is_another_object(ask, engine):
    drawn = box(30, 30, 20, 40)
    boxed = only(ask(drawn))
    other = only(ask(click(40, 50, label="Other"), drafts=[draft(drawn)]))
    assert object_of(other) != object_of(boxed)
    assert not last(engine).boxes
    assert other["value"]["brushlabels"] == ["Other"]


# accepted masks


def test_auto_accept_takes_the_prompts_away_and_we_remember_them(ask, engine):
    first = only(ask(click(30, 50)))
    second = only(ask(click(33, 50), drafts=[draft(first)]))
    third = only(ask(click(36, 50, positive=False), drafts=[draft(second)]))
    assert first["id"] == second["id"] == third["id"]
    assert [(round(p.x), p.positive) for p in last(engine).points] == [(192, True), (211, True), (230, False)]
    assert last(engine).previous is None


def test_a_draft_that_is_saved_late_still_counts(ask, engine):
    first = only(ask(click(30, 50)))
    saved = draft(first)
    ask(click(33, 50), drafts=[saved])
    ask(click(36, 50), drafts=[saved])
    assert [round(p.x) for p in last(engine).points] == [192, 211, 230]


def test_undo_of_an_accepted_correction(ask, engine):
    first = only(ask(click(30, 50)))
    ask(click(33, 50), drafts=[draft(first)])
    ask(click(30, 54), drafts=[draft(first)])
    assert [(round(p.x), round(p.y)) for p in last(engine).points] == [(192, 240), (192, 259)]


def test_a_mask_that_was_painted_over_is_what_clicks_correct(ask, engine):
    first = only(ask(click(30, 50)))
    changed = edited(first, lambda mask: mask.__setitem__((slice(200, 240), slice(150, 192)), False))
    item = only(ask(click(33, 50), drafts=[draft(changed)]))
    assert item["id"] == first["id"]
    np.testing.assert_array_equal(last(engine).previous, pixels(changed))
    assert [round(p.x) for p in last(engine).points] == [211]
    assert not pixels(item)[205, 160]


@pytest.mark.parametrize("tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "RectangleLabels"])
def test_after_a_restart_the_mask_in_the_draft_is_corrected(ask, engine, forget, tag):
    def change(config):
        return config.replace("BrushLabels", tag)

    first = only(ask(click(30, 50), change=change))
    remembered = only(ask(click(33, 50), drafts=[draft(first)], change=change))
    assert remembered["id"] == first["id"]
    assert len(last(engine).points) == 2, "the draft is recognised in this form too"
    forget()
    item = only(ask(click(33, 50), drafts=[draft(first)], change=change))
    assert item["id"] == first["id"]
    assert len(last(engine).points) == 1
    truth = np.hypot(*np.ogrid[-239.5:240.5, -191.5:448.5]) < 40
    overlap = (last(engine).previous & truth).sum() / (last(engine).previous | truth).sum()
    assert overlap > (0.75 if tag == "RectangleLabels" else 0.97)


def test_a_neighbour_of_an_accepted_mask_is_a_new_object(ask, engine):
    first = only(ask(click(30, 50)))
    other = only(ask(click(45, 50), drafts=[draft(first)]))
    assert object_of(other) != object_of(first)
    assert last(engine).previous is None
    assert len(last(engine).points) == 1


def test_the_mask_that_was_clicked_on_is_corrected(ask, engine):
    first = only(ask(click(20, 50)))
    second = only(ask(click(60, 50), drafts=[draft(first)]))
    assert only(ask(click(61, 50), drafts=[draft(first, second)]))["id"] == second["id"]
    assert only(ask(click(21, 50), drafts=[draft(first, second)]))["id"] == first["id"]


def test_a_region_that_was_deleted_is_no_evidence(ask):
    first = only(ask(click(30, 50)))
    other = only(ask(click(31, 50), drafts=[draft()]))
    assert object_of(other) != object_of(first)


def test_damaged_and_foreign_masks_in_a_draft_are_no_evidence(ask, engine):
    first = only(ask(click(30, 50)))
    for value in ({"rle": [1, 2, 3]}, {"rle": "x"}, {"rle": None}, {"rle": [300]}, {"imageDataURL": "data:,"}):
        damaged = first | {"value": {"brushlabels": ["Object"], "format": "rle", **value}}
        for fields in ({}, {"original_width": 10**5, "original_height": 10**5}, {"type": "bitmasklabels"}):
            ask(click(31, 50), drafts=[draft(damaged | fields)])
            assert last(engine).previous is None
            assert len(last(engine).points) == 1
    foreign = first | {"id": "xYz123"}
    assert object_of(only(ask(click(31, 50), drafts=[draft(foreign)]))) != object_of(first)


def test_an_outline_nested_beyond_reason_is_no_evidence():
    points = []
    for _ in range(5000):
        points = [points]
    part = StandingRegion("obj0123456789", 0, "Object", "polygon", SIZE, {"points": points})
    assert standing_mask([part], SIZE, Remembered()) is None


def test_an_untouched_prediction_is_corrected_where_it_is_clicked(ask, engine):
    prediction = ask(click(30, 50))
    (item,) = regions(prediction)
    shown = {"id": 5, "model_version": "fake-0001", "result": [item]}
    assert only(ask(click(31, 50), predictions=[shown]))["id"] == item["id"]
    assert object_of(only(ask(click(38, 50), predictions=[shown]))) != object_of(item)
    assert only(ask(click(36, 50, positive=False), predictions=[shown]))["id"] == item["id"]
    other = {"id": 7, "result": [], "completed_by": 2}
    assert object_of(only(ask(click(31, 50), predictions=[shown], annotations=[other]))) != object_of(item)


def test_pictures_beside_each_other_are_two_matters(client, captured):
    """A mask on one of them is not what a click at the same place of the other one corrects."""
    body = captured("predict_interactive_text")
    one = """<Image name="{0}" value="$image"/>
      <KeyPointLabels name="point{0}" toName="{0}" smart="true"><Label value="Object"/></KeyPointLabels>
      <BrushLabels name="brush{0}" toName="{0}" smart="false"><Label value="Object"/></BrushLabels>"""
    body["label_config"] = f"<View>{one.format('left')}{one.format('right')}</View>"

    def on(side, x, *accepted):
        body["params"]["context"]["result"] = [click(x, 50, from_name=f"point{side}", to_name=side)]
        body["tasks"][0]["drafts"] = [draft(*accepted)] if accepted else []
        return only(client.post("/predict", json=body).json["results"][0])

    left = on("left", 30)
    right = on("right", 31, left)
    assert object_of(right) != object_of(left) and right["to_name"] == "right"
    assert on("right", 32, left, right)["id"] == right["id"]
    assert on("left", 29, left, right)["id"] == left["id"]
    body["params"]["context"] = None
    (filled,) = client.post("/predict", json=body).json["results"]
    assert [item["to_name"] for item in filled["result"]] == ["left", "right"]
    assert len({item["id"] for item in filled["result"]}) == 2
    assert filled["score"] == min(item["score"] for item in filled["result"])


# two people


def test_another_persons_annotation_is_no_evidence(ask, engine):
    mine, drawn = only(ask(click(30, 50))), box(60, 30, 20, 40)
    ask(drawn)
    annotation = {"id": 3, "completed_by": 1, "result": [mine, drawn]}
    theirs = only(ask(click(31, 50), annotations=[annotation]))
    assert object_of(theirs) != object_of(mine)
    assert len(last(engine).points) == 1 and last(engine).previous is None
    only(ask(click(70, 50), annotations=[annotation]))
    assert not last(engine).boxes
    own = draft(user="ben@example.com")
    assert object_of(only(ask(click(31, 50), annotations=[annotation], drafts=[own]))) != object_of(mine)


def test_an_annotation_with_the_prompts_themselves_is_ones_own(ask, engine):
    drawn, added = box(30, 30, 20, 40), click(40, 50)
    mine = only(ask(drawn))
    annotation = {"id": 3, "completed_by": 1, "result": [drawn, added]}
    assert only(ask(added, click(45, 50), annotations=[annotation]))["id"] == mine["id"]


def test_drafts_of_several_people_are_no_evidence(ask):
    mine = only(ask(click(30, 50)))
    both = [draft(mine), draft(user="ben@example.com")]
    assert object_of(only(ask(click(31, 50), drafts=both))) != object_of(mine)


def test_two_people_on_one_task_and_label(ask, engine):
    ann, ben = only(ask(click(30, 50))), only(ask(click(70, 50)))
    assert object_of(ann) != object_of(ben)
    for x, mine, user in ((31, ann, "ann"), (71, ben, "ben"), (29, ann, "ann")):
        item = only(ask(click(x, 50), drafts=[draft(mine, user=user)]))
        assert item["id"] == mine["id"]
        assert {round(p.x / 64) for p in last(engine).points} == {3 if user == "ann" else 7}


def test_the_newest_request_of_a_person_replaces_the_older_ones(ask, engine):
    moved = click(30, 50)
    ask(moved)
    ask(moved | {"value": moved["value"] | {"x": 40}})
    ask(click(70, 50))
    ask(click(30, 20), drafts=[draft()])
    ask(click(30, 80), drafts=[draft()])
    ask(click(30, 80), drafts=[draft(user="ben@example.com")])
    keys = [turn.key for _, turn in engine.urgency]
    numbers = [turn.number for _, turn in engine.urgency]
    assert keys[0] == keys[1] and keys[3] == keys[4]
    assert len(set(keys)) == 4
    assert numbers == sorted(numbers)


# undo, deleted and moved prompts, pages


def test_a_prompt_that_was_undone_does_not_count(ask, engine):
    first, second = click(30, 50), click(40, 50)
    one = only(ask(first))
    two = only(ask(first, second))
    assert two["id"] == one["id"]
    third = click(30, 60)
    assert only(ask(first, third))["id"] == one["id"]
    assert [(round(p.x), round(p.y)) for p in last(engine).points] == [(192, 240), (192, 288)]
    assert only(ask(third))["id"] == one["id"], "the first click was deleted, the object is still the same"
    assert len(last(engine).points) == 1


def test_a_moved_prompt_replaces_the_answer(ask, engine):
    first = click(30, 50)
    one = only(ask(first))
    two = only(ask(first | {"value": first["value"] | {"x": 60}}))
    assert two["id"] == one["id"]
    assert [round(p.x) for p in last(engine).points] == [384]
    assert not (pixels(one) & pixels(two)).any()


def test_a_moved_box_forgets_its_clicks_and_an_unmoved_one_keeps_them(ask, engine):
    drawn, added = box(30, 30, 20, 40), click(52, 50)
    ask(drawn)
    corrected = only(ask(added, drafts=[draft(drawn)]))
    second = box(70, 30, 10, 10)
    answer = regions(ask(drawn, second, drafts=[draft(drawn, added)]))
    assert answer[0]["id"] == corrected["id"]
    np.testing.assert_array_equal(pixels(answer[0]), pixels(corrected))
    moved = drawn | {"value": drawn["value"] | {"x": 20}}
    again = regions(ask(moved, second, drafts=[draft(drawn, added)]))
    assert again[0]["id"] == corrected["id"]
    assert pixels(again[0]).sum() == pytest.approx(128 * 192, rel=0.01)


def test_a_box_whose_mask_was_painted_over_is_left_alone(ask):
    drawn = box(30, 30, 20, 40)
    boxed = only(ask(drawn))
    changed = edited(boxed, lambda mask: mask.__setitem__(slice(0, 200), False))
    answer = regions(ask(drawn, box(70, 30, 10, 10), drafts=[draft(changed, drawn)]))
    assert len(answer) == 1
    assert answer[0]["id"] != boxed["id"]


def test_deleted_prompts_leave_an_empty_context(ask, engine):
    first = only(ask(click(30, 50)))
    assert ask(drafts=[draft(first)])["result"] == []
    assert len(engine.asked) == 1


def test_pages_are_corrected_each_by_itself(ask, engine):
    like = "predict_interactive_keypoint_three_pages"

    def on(page, x, **fields):
        shown = {"item_index": page, "original_width": 1280, "original_height": 720, "label": "Object 1"}
        return click(x, 50, **shown, **fields)

    first, third = on(0, 30), on(2, 60)
    answer = regions(ask(first, third, like=like))
    assert [item["item_index"] for item in answer] == [0, 2]
    changed = item_with_png(answer[0], slice(0, 340))
    more = on(2, 61)
    again = regions(ask(first, third, more, like=like, drafts=[draft(changed, answer[1])]))
    assert [item["id"] for item in again] == [answer[1]["id"]], "the painted page is left alone"
    assert len(last(engine).points) == 2
    fix = on(0, 31)
    fixed = regions(ask(first, third, more, fix, like=like, drafts=[draft(changed, answer[1])]))
    assert [item["id"] for item in fixed] == [item["id"] for item in answer]
    before = next(prompt for _, frame, prompt in reversed(engine.asked) if frame == 0)
    assert before.previous is not None and not before.previous[:340].any()


def item_with_png(item, rows):
    mask = pixels(item).copy()
    mask[rows] = False
    control = ControlTag(item["from_name"], "bitmasklabels", ("image",), (), {})
    place = Place(object_of(item), "image", "Object 1", mask.shape, item["item_index"])
    return region_items(control, place, Mask(mask, 1.0))[0] | {"id": item["id"]}
