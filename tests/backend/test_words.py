from __future__ import annotations

from dataclasses import replace

import pytest

from backend.categories import category_ask
from backend.errors import LabelConfigError
from backend.label_config import parse_label_config
from backend.protocol import Task, TypedText, parse_context
from backend.words import category_names, label_for, listed_names, named_label, needs_label, text_asks, understood
from x2sam.errors import PromptError

TASK = Task("7", {}, frozenset())
HEAD = '<View><Image name="i" value="$i"/><TextArea name="prompt" toName="i"/>'


def config_of(*tags):
    return parse_label_config(HEAD + "".join(tags) + "</View>")


def masks(labels, name="m", tag="BrushLabels", more=""):
    inside = "".join(f"<Label {label}/>" for label in labels)
    return f'<{tag} name="{name}" toName="i" {more}>{inside}</{tag}>'


CARS = config_of(masks(['value="Object"', 'value="Car" predicted_values="car,van"', 'value="Race car"']))
PLAIN = config_of(masks(['value="Car"', 'value="Person" alias="human"']))


def labels(config):
    return [label for label, _ in config.labels_on("i")]


def asked(config, text):
    (ask,) = text_asks(TASK, [TypedText("t", "prompt", "i", None, text)], config, labels(config))
    return ask


@pytest.fixture
def per_page(captured):
    body = captured("predict_interactive_text_per_item")
    return parse_label_config(body["label_config"]), parse_context(body["params"]["context"]).texts


def test_texts_of_pages_without_the_models_own(per_page):
    config, texts = per_page
    asks = text_asks(TASK, texts, config)
    assert [(ask.page, ask.prompt.text) for ask in asks] == [(3, "the cup"), (1, "second page text")]
    assert len({ask.object_id for ask in asks}) == 2


def test_pages_answered_before_are_left_alone(per_page):
    config, texts = per_page
    cup = text_asks(TASK, texts, config)[0]
    answered = replace(TASK, region_ids=frozenset({f"{cup.object_id}-0003"}))
    assert [ask.page for ask in text_asks(answered, texts, config)] == [1]
    changed = [replace(texts[0], text="the mug"), *texts[1:]]
    assert [ask.page for ask in text_asks(answered, changed, config)] == [3, 1]
    assert [ask.page for ask in text_asks(answered, texts[:1], config)] == [3]


def test_only_the_prompt_field_is_read(captured):
    body = captured("predict_interactive_text_with_reply")
    config, context = parse_label_config(body["label_config"]), parse_context(body["params"]["context"])
    (ask,) = text_asks(TASK, context.texts, config)
    assert ask.prompt.text == "the cup two"


def test_a_very_long_text(captured):
    config = parse_label_config(captured("predict_interactive_text")["label_config"])
    with pytest.raises(PromptError, match="shorten"):
        text_asks(TASK, [TypedText("a", "prompt", "image", None, "a" * 2001)], config)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("the thing on the left", None),
        ("a red CAR", "Car"),
        ("the van", "Car"),
        ("two vans", "Car"),
        ("every race car", "Race car"),
        ("a carpet", None),
        (None, None),
    ],
)
def test_the_label_that_a_text_names(text, label):
    assert getattr(named_label(labels(CARS), text), "value", None) == label


def test_labels_of_texts_that_name_none():
    assert label_for(labels(CARS), "a carpet").value == "Object", "a general label fits anything"
    assert label_for(labels(PLAIN), "a carpet") is None
    assert label_for(labels(PLAIN), "a carpet", "a human").value == "human"
    assert label_for(labels(config_of(masks(['value="Car"']))), "a carpet").value == "Car", "the only one"
    selected = config_of(masks(['value="Car"', 'value="Dog" selected="true"', 'value="Object"']))
    assert label_for(labels(selected), "a carpet").value == "Dog"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("car, person", ("car", "person")),
        ("a car, and an old man; dog", ("car", "old man", "dog")),
        ("car, car", ("car",)),
        ("the man, the dog", ()),
        ("the man on the left, with a hat", ()),
        ("find the car, please", ()),
        ("car", ()),
        ("What is this, a car?", ()),
        ("car, a very long description of something", ()),
    ],
)
def test_lists_of_names(text, names):
    assert listed_names(text) == names


def test_a_list_is_a_question_about_categories():
    ask = asked(PLAIN, "car, person")
    assert ask.prompt.categories == ("car", "person")
    assert category_names(ask.prompt) == ("car", "person")
    assert not needs_label(ask)
    assert category_names(asked(PLAIN, "ins: car; sem: sky, road").prompt) == ("car", "sky", "road")


def test_a_text_may_begin_with_its_label():
    ask = asked(PLAIN, "Person: the one on the left")
    assert (ask.label, ask.prompt.text) == ("human", "the one on the left")
    assert asked(PLAIN, "note: the one on the left").prompt.text == "note: the one on the left"
    assert asked(PLAIN, "Person:").prompt.text == "Person:"


@pytest.mark.parametrize(
    ("text", "needed"),
    [("the red one", True), ("What can drive?", True), ("describe", False), ("How many are there?", False)],
)
def test_what_needs_a_label_beforehand(text, needed):
    assert needs_label(asked(PLAIN, text)) == needed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the red car", ""),
        ("the red cars", ""),
        ("the shiny red car next to the house", "Understood as “the red car”."),
        ("Car: the old car", "Understood as “the car”."),
        ("old car, person", ""),
        ("Where is the shiny car?", ""),
        ("describe", ""),
    ],
)
def test_what_a_model_of_few_words_makes_of_a_phrase(text, sentence):
    """Lists and sentences are another matter."""
    assert understood(asked(PLAIN, text), ("the", "red", "car", "person")) == sentence
    assert understood(asked(PLAIN, text), ()) == ""


@pytest.mark.parametrize("text", ["all", "All.", "find all", "all like this", "all of them"])
def test_all_needs_an_example(text):
    with pytest.raises(PromptError, match="All of what"):
        asked(PLAIN, text)


def test_all_dogs_is_a_phrase():
    assert asked(PLAIN, "all dogs").prompt.text == "all dogs"


def test_categories_lead_back_to_labels():
    ask, found = category_ask(TASK, CARS, "i")
    assert ask.prompt.categories == ("Object", "car", "van", "Race car")
    assert [category.label for category in found] == ["Object", "Car", "Car", "Race car"]


@pytest.mark.parametrize(
    ("hint", "categories"),
    [
        ("", ("Car", "sem: Sky")),
        ('preannotate="panoptic"', ("Car", "sem: Sky")),
        ('preannotate="instance"', ("Car", "Sky")),
        ('preannotate="semantic"', ("sem: Car", "sem: Sky")),
    ],
)
def test_the_hint_for_opening_a_task(hint, categories):
    config = config_of(masks(['value="Car"', 'value="Sky" kind="stuff"'], more=hint))
    ask, found = category_ask(TASK, config, "i")
    assert ask.prompt.categories == categories
    assert [category.name for category in found] == ["Car", "Sky"]
    assert category_names(replace(ask.prompt, task=None)) == ("Car", "Sky")


def test_only_tags_with_a_hint_are_filled():
    boxes = masks(['value="Car"'], "b", "RectangleLabels", 'preannotate="instance"')
    _, found = category_ask(TASK, config_of(masks(['value="Car"', 'value="Dog"']), boxes), "i")
    assert [(category.label, category.control.name) for category in found] == [("Car", "b")]
    off = config_of(masks(['value="Car"'], more='preannotate="off"'))
    assert category_ask(TASK, off, "i") is None
    both = config_of(masks(['value="Car"'], more='preannotate="off"'), masks(['value="Dog"'], "n"))
    assert [category.label for category in category_ask(TASK, both, "i")[1]] == ["Dog"]


def test_a_wrong_hint_is_told():
    with pytest.raises(LabelConfigError, match="preannotate on 'm' is not known: write one of instance"):
        category_ask(TASK, config_of(masks(['value="Car"'], more='preannotate="yes"')), "i")


def test_names_that_would_be_taken_for_lists():
    ask, found = category_ask(TASK, config_of(masks(['value="Car, red" kind="stuff"', 'value="Car, blue"'])), "i")
    assert ask.prompt.categories == ("sem: Car red", "Car blue")
    assert [category.label for category in found] == ["Car, red", "Car, blue"]
    assert category_names(replace(ask.prompt, task=None)) == ("Car red", "Car blue")
