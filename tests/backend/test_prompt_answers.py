"""What is told and where answers go: labels of texts, lists, "all like this", tags, hints; through the app."""

from __future__ import annotations

import re

import pytest
from prompting import Asker, click, draft, last, only, region, typed
from reading import center, pixels, regions, sentences


@pytest.fixture
def ask(client, captured):
    return Asker(client, captured)


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
    without = "No label fits “a dog”, “a cat”. Name one of: Car, Person."
    assert sentences(found) == [f"A dog lies beside a cat. {without}"]


def test_labels_that_the_task_names(client, captured, engine):
    body = captured("predict_interactive_text")
    for tag in ("KeyPointLabels", "BrushLabels"):
        with_labels = re.compile(f"(<{tag} [^>]*)>.*?</{tag}>", re.DOTALL)
        body["label_config"] = with_labels.sub(r'\1 value="$labels"/>', body["label_config"])
    body["tasks"][0]["data"]["labels"] = [{"value": "Car"}, {"value": "Person"}]
    body["params"]["context"]["result"] = [region("keypoint", "point", {"x": 30, "y": 50}, "Person")]
    (entry,) = client.post("/predict", json=body).json["results"]
    assert only(entry)["value"]["brushlabels"] == ["Person"] and "Person: 97 % sure" in sentences(entry)[0]
    body["params"]["context"]["result"] = [typed("the red car")]
    (entry,) = client.post("/predict", json=body).json["results"]
    assert only(entry)["value"]["brushlabels"] == ["Car"]
    body["params"]["context"] = None
    client.post("/predict", json=body)
    assert last(engine).categories == ("Car", "Person")


TWO_LABELS = """<View><Image name="image" value="$image"/>
<Labels name="kind" toName="image"><Label value="Car"/><Label value="Person"/></Labels>
<Labels name="seen" toName="image"><Label value="well"/><Label value="badly"/></Labels>
<KeyPoint name="point" toName="image" smart="true"/><Brush name="brush" toName="image"/></View>"""


@pytest.mark.parametrize("order", [("kind", "seen"), ("seen", "kind")])
def test_of_two_tags_with_labels_the_first_says_what_it_is(ask, order):
    """The other one may say how well it is seen."""
    plain = click(30, 50) | {"type": "keypoint", "value": {"x": 30, "y": 50, "width": 0.2}}
    said = {"kind": "Person", "seen": "well"}
    further = [plain | {"type": "labels", "from_name": tag, "value": {"labels": [said[tag]]}} for tag in order]
    mask, label = ask(plain, *further, change=lambda _: TWO_LABELS)["result"]
    assert (mask["type"], label["from_name"], label["value"]["labels"]) == ("brush", "kind", ["Person"])
    drawn = plain | {"type": "labels", "from_name": "seen", "value": {"labels": ["badly"]}, "id": mask["id"]}
    again = click(31, 50) | {"type": "keypoint", "value": {"x": 31, "y": 50, "width": 0.2}}
    more = [again | {"type": "labels", "from_name": tag, "value": {"labels": [said[tag]]}} for tag in order]
    better = ask(again, *more, drafts=[draft(mask, label, drawn)], change=lambda _: TWO_LABELS)["result"][0]
    assert better["id"] == mask["id"], "it corrects the one that was accepted"


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
