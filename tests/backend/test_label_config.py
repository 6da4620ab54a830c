from __future__ import annotations

from pathlib import Path

import pytest
from label_studio_sdk.label_interface import LabelInterface

from backend.errors import LabelConfigError
from backend.label_config import parse_label_config, task_value

OUR_CONFIGS = sorted((Path(__file__).parents[2] / "label_config").glob("*.xml"))

ALL = """<View>
  <Header value="Mark things"/>
  <Image name="image" value="$image"/>
  <TextArea name="notes" toName="image" smart="false" editable="true"/>
  <TextArea name="prompt" toName="image" editable="true"/>
  <TextArea name="reply" toName="image" smart="false" editable="false"/>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="A"/></RectangleLabels>
  <PolygonLabels name="poly" toName="image"><Label value="A"/><Label value="B" alias="bee"/></PolygonLabels>
  <View><BitmaskLabels name="bits" toName="image"><View><Label value="A"/></View></BitmaskLabels></View>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="A"/></KeyPointLabels>
</View>"""


def test_tags_and_labels():
    config = parse_label_config(ALL)
    assert config.objects["image"].kind == "image"
    assert config.objects["image"].key == "$image"
    assert {name: tag.kind for name, tag in config.controls.items()} == {
        "notes": "textarea",
        "prompt": "textarea",
        "reply": "textarea",
        "box": "rectanglelabels",
        "poly": "polygonlabels",
        "bits": "bitmasklabels",
        "point": "keypointlabels",
    }
    assert [label.value for label in config.controls["poly"].labels] == ["A", "bee"]
    assert config.controls["poly"].labels[1].names == ("B",)
    assert [label.value for label in config.controls["bits"].labels] == ["A"]
    assert config.controls["point"].smart
    assert not config.controls["bits"].smart


def test_masks_go_to_the_best_tag():
    assert parse_label_config(ALL).output("image").name == "bits"
    assert parse_label_config(ALL.replace("BitmaskLabels", "BrushLabels")).output("image").kind == "brushlabels"
    assert parse_label_config(ALL.replace("BitmaskLabels", "EllipseLabels")).output("image").name == "poly"


def test_the_tag_of_the_prompt_does_not_take_the_answer():
    two = """<View><Image name="i" value="$i"/>
      <RectangleLabels name="smart" toName="i" smart="true"><Label value="A"/></RectangleLabels>
      <RectangleLabels name="out" toName="i"><Label value="A"/></RectangleLabels></View>"""
    assert parse_label_config(two).output("i", "smart").name == "out"
    with pytest.raises(LabelConfigError, match="BrushLabels"):
        parse_label_config(two.replace('name="out" toName="i"', 'name="out" toName="j"')).output("i", "smart")


def test_reply_and_prompts():
    config = parse_label_config(ALL)
    assert config.reply().name == "reply"
    assert config.is_text_prompt("prompt")
    assert not config.is_text_prompt("reply")
    assert not config.is_text_prompt("notes")
    assert not config.is_text_prompt("unknown")


def test_a_config_without_reply(captured):
    config = parse_label_config(captured("predict_interactive_video_text")["label_config"])
    assert config.reply() is None
    assert config.is_text_prompt("prompt")
    assert config.objects["video"].kind == "video"


def test_labels_of_prompts_must_be_labels_of_the_answer():
    config = parse_label_config(ALL)
    poly = config.controls["poly"]
    assert poly.label_value("A") == "A"
    assert poly.label_value(None) == "A"
    assert config.controls["bits"].label_value("anything") == "A"
    with pytest.raises(LabelConfigError, match="same labels"):
        poly.label_value("C")


def test_names_for_the_model_can_differ_from_labels():
    xml = """<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i">
      <Label value="Vehicle" predicted_values="car, truck"/></BrushLabels></View>"""
    assert parse_label_config(xml).controls["m"].labels[0].names == ("car", "truck")


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View>",
        "<View></Image>",
        "<View>&nbsp;</View>",
        "\ud800",
        '<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>',
        '<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>',
        "<View>" * 100 + "</View>" * 100,
        "<View>" + " " * 1_000_001 + "</View>",
    ],
)
def test_unusable_xml(xml):
    with pytest.raises(LabelConfigError):
        parse_label_config(xml)


def test_an_encoding_in_the_header_does_not_matter():
    parse_label_config('<?xml version="1.0" encoding="latin-1"?><View><Header value="ü"/></View>')


@pytest.mark.parametrize(
    ("key", "data", "value"),
    [
        ("$image", {"image": "a"}, "a"),
        ("$frames", {"frames": ["a", "b"]}, ["a", "b"]),
        ("$outer.inner", {"outer": {"inner": "a"}}, "a"),
        ("$list[1]", {"list": ["a", "b"]}, "b"),
        ("$a.b", {"a.b": "whole"}, "whole"),
        ("https://example.com/a.png", {}, "https://example.com/a.png"),
    ],
)
def test_values_of_tasks(key, data, value):
    config = parse_label_config(f'<View><Image name="i" value="{key}"/></View>')
    assert task_value(config.objects["i"], data) == value


@pytest.mark.parametrize("data", [{}, {"picture": "a"}, {"image": None, "x": 1}])
def test_a_task_without_the_value(data):
    config = parse_label_config('<View><Image name="i" value="$image.url"/></View>')
    with pytest.raises(LabelConfigError, match=r"image\.url"):
        task_value(config.objects["i"], data)


@pytest.mark.parametrize("path", OUR_CONFIGS, ids=lambda path: path.stem)
def test_our_configurations_are_what_they_say(path):
    xml = path.read_text(encoding="utf-8")
    interface, config = LabelInterface(xml), parse_label_config(xml)
    assert interface.is_valid
    assert config.reply() is not None or path.stem == "image_clicks"
    assert set(config.controls) <= {control.name for control in interface.controls}
    if "video_boxes" not in path.stem:
        tag = config.picture()
        for prompt in (control for control in config.on(tag.name) if control.smart and control.labels):
            for label in prompt.labels:
                answer = config.output(tag.name, prompt.name, label.value)
                assert answer.label_value(label.value) == label.value and not answer.smart
        assert tag.pages == path.stem.startswith("video")


def test_tags_that_find_all():
    names = ("point_all", "ALL", "find-all", "all2", "small", "wall", "ball_point", "overall")
    tags = "".join(f'<KeyPointLabels name="{name}" toName="i" smart="true"/>' for name in names)
    tags += '<KeyPointLabels name="said" toName="i" find="all"/><KeyPointLabels name="all_but" toName="i" find="one"/>'
    config = parse_label_config(f"<View>{tags}</View>")
    found = {name for name, control in config.controls.items() if control.finds_all}
    assert found == {"point_all", "ALL", "find-all", "said"}


@pytest.mark.parametrize("value", ["wide", "-1", "nan", "1e9"])
def test_a_tolerance_that_is_none(value):
    xml = f'<View><PolygonLabels name="p" toName="i" tolerance="{value}"/></View>'
    with pytest.raises(LabelConfigError, match="tolerance on 'p'"):
        parse_label_config(xml).controls["p"].pixels("tolerance", 0.5)


IN_TASKS = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="point" toName="image" smart="true" value="$labels"/>
<BrushLabels name="brush" toName="image" value="$labels"><Label value="Object"/></BrushLabels></View>"""


def test_labels_that_tasks_name():
    config = parse_label_config(IN_TASKS)
    listed = [
        {"value": "Car", "background": "red", "predicted_values": "car,van"},
        {"value": "Group", "children": [{"value": "Sky", "kind": "stuff", "alias": "sky-1"}, {"no": 1}, 5]},
        {"value": 7}, {"value": ""}, "x", {"value": "Road", "selected": True},
    ]  # fmt: skip
    own = config.for_task({"image": "a", "labels": listed})
    assert [label.value for label in own.controls["point"].labels] == ["Car", "Group", "sky-1", "Road"]
    assert [label.value for label, _ in own.labels_on("image")] == ["Object", "Car", "Group", "sky-1", "Road"]
    car, _, sky, road = own.controls["point"].labels
    assert (car.names, sky.stuff, road.selected, car.selected) == (("car", "van"), True, True, False)
    for data in ({}, {"labels": None}, {"labels": "Car"}, {"labels": {"value": "Car"}}):
        assert [label.value for label, _ in config.for_task(data).labels_on("image")] == ["Object"]
    many = config.for_task({"labels": [{"value": str(number)} for number in range(5000)]})
    assert len(many.controls["point"].labels) == 1000
    plain = parse_label_config("""<View><Image name="i" value="$i"/><Labels name="l" toName="i" value="$a.b"/>
      <KeyPoint name="k" toName="i" smart="true"/><Brush name="b" toName="i"/></View>""")
    found = plain.for_task({"a": {"b": [{"value": "Car"}]}}).labels_on("i")
    assert [(label.value, tag.name) for label, tag in found] == [("Car", "b")]
    static = parse_label_config("<View><Image name='i' value='$i'/></View>")
    assert static.for_task({}) is static


def test_plain_tags_have_the_labels_of_their_picture():
    config = parse_label_config("""<View><Image name="i" value="$i"/><Image name="j" value="$j"/>
      <Labels name="kinds" toName="j"><Label value="A"/></Labels><Brush name="b" toName="j"/>
      <Brush name="c" toName="i"/></View>""")
    assert [(label.value, tag.name, tag.labels_name) for label, tag in config.labels_on("j")] == [("A", "b", "kinds")]
    with pytest.raises(LabelConfigError, match="no tag for masks"):
        config.outputs("i")


def test_the_configurations():
    assert [path.stem for path in OUR_CONFIGS] == [
        "image_clicks",
        "image_find_all",
        "image_outlines",
        "image_panoptic",
        "image_text",
        "video_boxes",
        "video_frames",
        "video_frames_brush",
        "video_words",
    ]


def test_tags_that_track():
    names = ("track_point", "Track", "box-track", "tracks", "soundtrack", "track2")
    tags = "".join(f'<KeyPointLabels name="{name}" toName="i" smart="true"/>' for name in names)
    tags += '<KeyPointLabels name="said" toName="i" track="true"/><KeyPointLabels name="track_no" track="false"/>'
    tags += '<KeyPointLabels name="track_all" toName="i"/>'
    config = parse_label_config(f"<View>{tags}</View>")
    assert {name for name, control in config.controls.items() if control.tracks} == {
        "track_point", "Track", "box-track", "said"
    }  # fmt: skip
