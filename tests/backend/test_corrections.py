"""Clicks that correct a mask on the screen, through the app: the request shows what belongs together."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from reading import center, pixels, regions, sentences

from backend.rle import encode_mask

SIZE = (480, 640)
IDS = (f"prompt{number:04d}" for number in itertools.count())
STAMPS = (f"2026-01-01T00:00:{number:09.4f}Z" for number in itertools.count())


def region(kind, tag, value, label="Object", **fields):
    item = {
        "id": next(IDS),
        "from_name": tag,
        "to_name": "image",
        "type": f"{kind}labels",
        "origin": "manual",
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label]},
    }
    return item | fields


def click(x, y, positive=True, **fields):
    return region("keypoint", "point", {"x": x, "y": y, "width": 0.23}, is_positive=positive, **fields)


def box(x, y, width, height, **fields):
    return region("rectangle", "box", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}, **fields)


def typed(text, **fields):
    item = {"id": next(IDS), "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": [text]}}
    return item | fields


def draft(*items, user="ann@example.com", **fields):
    return {"id": 1, "user": user, "updated_at": next(STAMPS), "annotation": None, "result": list(items)} | fields


@pytest.fixture
def ask(client, captured, app):
    """Sends prompts on a task with drafts, and returns the answer; ``like`` gives task and configuration."""

    def send(
        *prompts, drafts=(), annotations=(), predictions=(), like="predict_interactive_text", change=None, status=200
    ):
        body = captured(like)
        if change is not None:
            body["label_config"] = change(body["label_config"])
        body["params"]["context"] = {"result": list(prompts)}
        body["tasks"][0] |= {
            "drafts": list(drafts),
            "annotations": list(annotations),
            "predictions": list(predictions),
        }
        answer = client.post("/predict", json=copy.deepcopy(body))
        assert answer.status_code == status, answer.json
        if status != 200:
            return answer.json
        (entry,) = answer.json["results"]
        if entry.get("result"):
            assert not LabelInterface(body["label_config"]).validate_prediction(entry, return_errors=True)
        return entry

    return send


def only(entry):
    (item,) = regions(entry)
    return item


def object_of(item):
    return item["id"].rsplit("-", 1)[0]


def last(engine):
    return engine.asked[-1][2]


def edited(item, change):
    """The item after a person has worked on its mask with the brush."""
    mask = pixels(item).copy()
    change(mask)
    return item | {"value": {**item["value"], "rle": encode_mask(mask)}}


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


def test_an_untouched_prediction_is_corrected_where_it_is_clicked(ask, engine):
    prediction = ask(click(30, 50))
    (item,) = regions(prediction)
    shown = {"id": 5, "model_version": "fake-0001", "result": [item]}
    assert only(ask(click(31, 50), predictions=[shown]))["id"] == item["id"]
    assert object_of(only(ask(click(38, 50), predictions=[shown]))) != object_of(item)
    assert only(ask(click(36, 50, positive=False), predictions=[shown]))["id"] == item["id"]
    other = {"id": 7, "result": [], "completed_by": 2}
    assert object_of(only(ask(click(31, 50), predictions=[shown], annotations=[other]))) != object_of(item)


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
    from backend.label_config import ControlTag
    from backend.results import Place, region_items
    from x2sam.structures import Mask

    mask = pixels(item).copy()
    mask[rows] = False
    control = ControlTag(item["from_name"], "bitmasklabels", ("image",), (), {})
    place = Place(object_of(item), "image", "Object 1", mask.shape, item["item_index"])
    return region_items(control, place, Mask(mask, 1.0))[0] | {"id": item["id"]}


# words in the reply


def test_the_first_click_on_a_task_teaches_alt_click_once(ask):
    first = click(30, 50)
    assert sentences(ask(first)) == ["Object: 97 % sure. Click again to add a part; Alt + click takes away."]
    assert sentences(ask(first)) == ["Object: 97 % sure."]
    item = only(ask(first, click(40, 50)))
    assert sentences(ask(click(80, 50), drafts=[draft(item, user="new@example.com")])) == ["Object: 97 % sure."]


def test_a_negative_click_on_nothing(ask):
    told = sentences(ask(click(30, 50, positive=False)))
    assert "without Alt" in told[0] and "saved" in told[0]


def test_a_text_without_a_label_asks_for_one(ask, engine):
    def change(config):
        return config.replace('"Object"', '"Car"').replace('"Other"', '"Person"')

    entry = ask(typed("the red one"), change=change)
    assert regions(entry) == [] and engine.asked == []
    assert sentences(entry) == ["Which label? Write it first, as in “Car: the red one”. There are: Car, Person."]
    named = ask(typed("Person: the red one"), change=change)
    assert only(named)["value"]["brushlabels"] == ["Person"]
    assert last(engine).text == "the red one"
    assert only(ask(typed("the red person"), change=change))["value"]["brushlabels"] == ["Person"]
    assert sentences(ask(typed("How many are there?"), change=change)) == ["There are two."]
    found = ask(typed("describe"), change=change)
    assert sentences(found) == ["No label fits “a dog”, “a cat”. Name one of: Car, Person."]


def test_a_list_of_names(ask, engine):
    def change(config):
        return config.replace('"Object"', '"Car"').replace('"Other"', '"Person"')

    entry = ask(typed("car, person, tree"), change=change)
    assert last(engine).categories == ("car", "person", "tree")
    assert [item["value"]["brushlabels"] for item in regions(entry)] == [["Car"], ["Person"]]
    told = sentences(entry)[0]
    assert "car (64 % sure), person (65 % sure)" in told and "No label fits “tree”" in told


# all like this


def with_all(config):
    more = '<KeyPointLabels name="point_all" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>'
    return config.replace("</View>", f"{more}</View>")


def test_all_like_what_is_clicked(ask, engine):
    one = click(30, 50, from_name="point_all")
    entry = ask(one, change=with_all)
    assert last(engine).task == "vgdseg"
    items = regions(entry)
    assert [round(center(pixels(item))[0]) for item in items] == [192, 448]
    assert items[1]["id"].replace("n2-", "-") == items[0]["id"]
    assert sentences(entry) == [
        "Object: found 2 objects of that kind, 88 % and 68 % sure. Click again to add a part; Alt + click takes away."
    ]
    kept = ask(one, click(70, 50, positive=False, from_name="point_all"), change=with_all)
    assert [item["id"] for item in regions(kept)] == [items[0]["id"]]
    rest = ask(one, change=with_all, drafts=[draft(items[0])])
    assert [round(center(pixels(item))[0]) for item in regions(rest)] == [448]
    assert "1 object of that kind is marked already" in sentences(rest)[0]


def test_of_two_kinds_of_clicks_the_last_one_counts(ask, engine):
    plain, every = click(30, 50), click(70, 50, from_name="point_all")
    assert len(regions(ask(plain, every, change=with_all))) == 2
    assert len(last(engine).points) == 1
    assert len(regions(ask(every, plain, change=with_all))) == 1
    assert last(engine).task is None


def test_one_of_all_is_corrected_and_the_others_stay(ask):
    one = click(30, 50, from_name="point_all")
    items = regions(ask(one, change=with_all))
    answer = regions(ask(click(71, 50), change=with_all, drafts=[draft(one)]))
    assert [item["id"] for item in answer] == [items[1]["id"], items[0]["id"]]


def test_the_word_all(ask, engine):
    drawn = click(30, 50, label="Other")
    ask(drawn)
    entry = ask(typed("all"), drafts=[draft(drawn)])
    assert last(engine).task == "vgdseg" and len(last(engine).masks) == 1
    assert [item["value"]["brushlabels"] for item in regions(entry)] == [["Other"]] * 2
    accepted = only(ask(click(20, 20)))
    entry = ask(typed("all"), drafts=[draft(accepted)])
    assert [round(center(pixels(item))[0]) for item in regions(entry)] == [512], "the example itself is there already"
    assert "All of what?" in sentences(ask(typed("all"), drafts=[draft()]))[0]


# tags


def test_the_label_decides_the_tag(ask):
    def change(config):
        more = '<PolygonLabels name="outline" toName="image"><Label value="Leaf"/></PolygonLabels>'
        pair = '<KeyPointLabels name="leaf" toName="image" smart="true"><Label value="Leaf"/></KeyPointLabels>'
        return config.replace("</View>", f"{more}{pair}</View>")

    assert only(ask(click(30, 50), change=change))["type"] == "brushlabels"
    item = only(ask(click(30, 50, label="Leaf", from_name="leaf"), change=change))
    assert (item["type"], item["from_name"]) == ("polygonlabels", "outline")
    assert only(ask(typed("the leaf"), change=change))["from_name"] == "outline"


PLAIN = """<View><Image name="image" value="$image"/>
  <Labels name="kind" toName="image"><Label value="Object"/><Label value="Other"/></Labels>
  <KeyPoint name="kp" toName="image" smart="true"/><Rectangle name="rect" toName="image" smart="true"/>
  <Brush name="paint" toName="image"/></View>"""


def test_one_labels_tag_for_plain_ones(ask, engine):
    def twice(kind, name, value):
        item = region(kind, name, value)
        plain = item | {"type": kind, "value": value}
        return [plain, item | {"from_name": "kind", "type": "labels", "value": {**value, "labels": ["Other"]}}]

    prompts = twice("keypoint", "kp", {"x": 30, "y": 50, "width": 0.2})
    items = regions(ask(*prompts, change=lambda _: PLAIN))
    assert [(item["from_name"], item["type"]) for item in items] == [("paint", "brush"), ("kind", "labels")]
    assert items[0]["id"] == items[1]["id"]
    assert items[1]["value"]["labels"] == ["Other"] and "labels" not in items[0]["value"]
    assert items[0]["value"]["rle"] == items[1]["value"]["rle"]
    more = twice("keypoint", "kp", {"x": 32, "y": 50, "width": 0.2})
    again = regions(ask(*more, change=lambda _: PLAIN, drafts=[draft(*items)]))
    assert again[0]["id"] == items[0]["id"]
    assert len(last(engine).points) == 2
    boxed = regions(
        ask(
            *twice("rectangle", "rect", {"x": 60, "y": 30, "width": 9, "height": 9, "rotation": 0}),
            change=lambda _: PLAIN,
        )
    )
    assert [item["type"] for item in boxed] == ["brush", "labels"]


def test_opening_a_task_with_hints(ask, client, captured, engine):
    body = captured("predict_task_open")
    body["label_config"] = body["label_config"].replace('name="brush"', 'name="brush" preannotate="semantic"')
    (entry,) = client.post("/predict", json=body).json["results"]
    assert last(engine).categories == ("sem: Object", "sem: Other")
    assert [item["value"]["brushlabels"] for item in entry["result"]] == [["Object"], ["Other"]]
    assert entry["score"] == min(item["score"] for item in entry["result"])
    body["label_config"] = body["label_config"].replace("semantic", "off")
    (entry,) = client.post("/predict", json=body).json["results"]
    assert "result" not in entry
