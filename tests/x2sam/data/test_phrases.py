"""Expressions are true of their object and of nothing else, checked against the attributes by a second way."""

import re

import numpy as np
import pytest

from x2sam.data.colours import COLOUR_NAMES, colour_matches, draw_colour
from x2sam.data.describe import describe_sample
from x2sam.data.phrases import Described, describe_objects, expressions
from x2sam.data.scenes import generate_picture
from x2sam.structures import Sample, SampleObject

SIZE = (100, 100)


def item(k, category, x=50.0, y=50.0, area=100.0, colour=None, pattern="plain", **more):
    colours = frozenset({colour}) if colour else more.pop("colours", None)
    return Described(k, category, area, (x, y), colours=colours, colour=colour, pattern=pattern, **more)


def test_colour_tells_two_of_a_kind_apart():
    items = [item(1, "star", colour="red"), item(2, "star", colour="blue")]
    assert "red star" in expressions(items[0], items, SIZE, True)
    assert "star" not in expressions(items[0], items, SIZE, True)


def test_an_unknown_colour_could_be_any():
    items = [item(1, "star", colour="red"), item(2, "star")]
    assert "red star" not in expressions(items[0], items, SIZE, True)


def test_order_needs_a_margin():
    near = [item(1, "cup", x=50.0), item(2, "cup", x=53.0)]
    assert not [p for p in expressions(near[0], near, SIZE, True) if "leftmost" in p]
    far = [item(1, "cup", x=20.0), item(2, "cup", x=80.0)]
    found = expressions(far[0], far, SIZE, True)
    assert {"leftmost cup", "cup on the left", "leftmost object"} <= set(found)


def test_size_needs_a_ratio():
    items = [item(1, "cup", area=150.0), item(2, "cup", area=140.0), item(3, "cup", area=20.0)]
    assert "largest cup" not in expressions(items[0], items, SIZE, True)
    assert {"smallest cup", "smallest object"} <= set(expressions(items[2], items, SIZE, True))


def test_names_that_may_be_confused_are_rivals():
    items = [item(1, "circle", also=frozenset({"oval"})), item(2, "oval", also=frozenset({"circle"}))]
    assert "circle" not in expressions(items[0], items, SIZE, True)


def test_incomplete_pictures_name_only_single_kinds():
    items = [item(1, "dog", x=10.0, colour="black"), item(2, "dog", x=90.0), item(3, "cat", x=50.0, area=900.0)]
    assert expressions(items[0], items, SIZE, False) == []
    assert expressions(items[2], items, SIZE, False)[:3] == ["cat", "cat in the middle", "plain cat"]


def test_the_one_large_thing_is_the_main_object():
    items = [item(1, "dog", x=10.0, area=2000.0), item(2, "dog", x=90.0), item(3, "cat", x=50.0, area=900.0)]
    assert expressions(items[0], items, SIZE, False) == []
    large = [item(1, "dog", x=10.0, area=2000.0), item(3, "cat", x=50.0, area=900.0)]
    assert {"dog on the left", "main object", "object on the left"} <= set(expressions(large[0], large, SIZE, False))
    assert "main object" not in expressions(large[1], large, SIZE, False)


def holds(phrase, target, items):
    """Whether ``target`` is the only one of ``items`` that the words of ``phrase`` can mean."""
    words = phrase.removeprefix("the ")
    place = re.search(r" (on the left|on the right|in the middle|at the top|at the bottom)$", words)
    words = words[: place.start()] if place else words
    name = next(c for c in sorted({i.category for i in items} | {"object"}, key=len, reverse=True) if words.endswith(c))
    fits = [i for i in items if i.thing] if name == "object" else [
        i for i in items if i.category == name or name in i.also or i.category in target.also
    ]  # fmt: skip
    for word in words.removesuffix(name).split():
        if word == "main":
            fits = [max(fits, key=lambda i: i.area)]
        elif word in COLOUR_NAMES:
            assert target.colour == word
            fits = [i for i in fits if i.colours is None or word in i.colours]
        elif word in ("plain", "striped", "dotted", "checkered", "spotted"):
            assert target.pattern == word
            fits = [i for i in fits if i.pattern in (None, word)]
        else:
            key = {"leftmost": lambda i: i.centre[0], "rightmost": lambda i: -i.centre[0],
                   "topmost": lambda i: i.centre[1], "bottom": lambda i: -i.centre[1],
                   "largest": lambda i: -i.area, "large": lambda i: -i.area,
                   "smallest": lambda i: i.area, "small": lambda i: i.area}[word]  # fmt: skip
            fits = [min(fits, key=key)]
    if place:
        axis, below = {"in the middle": (0, None), "on the left": (0, True), "on the right": (0, False),
                       "at the top": (1, True), "at the bottom": (1, False)}[place.group(1)]  # fmt: skip
        if below is None:
            fits = [i for i in fits if 35 <= i.centre[axis] <= 65]
        else:
            fits = [i for i in fits if (i.centre[axis] < 50) == below]
    return fits == [target]


def random_items(rng):
    kinds = ("star", "ring", "cup", "grass")
    items = []
    for k in range(1, int(rng.integers(2, 8)) + 1):
        category = str(rng.choice(kinds))
        colour = str(rng.choice(COLOUR_NAMES[:4])) if rng.random() < 0.7 else None
        items.append(
            item(k, category, *rng.uniform(0, 100, 2), rng.uniform(10, 500), colour=colour,
                 pattern=rng.choice(("plain", "dotted", None)), thing=category != "grass")
        )  # fmt: skip
    return items


@pytest.mark.parametrize("seed", range(30))
def test_every_expression_means_one_object(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        items = random_items(rng)
        for target in items:
            for phrase in expressions(target, items, SIZE, True):
                assert holds(phrase, target, items), (phrase, target, items)


def test_drawn_expressions_are_unique_within_a_picture():
    count = 0
    for seed in range(25):
        sample = generate_picture(np.random.default_rng(seed), (128, 128))
        said = [p.removeprefix("the ") for o in sample.objects for p in set(o.phrases)]
        count += len(said)
        assert len({(o.id, p.removeprefix("the ")) for o in sample.objects for p in o.phrases}) == len(set(said))
    assert count > 100


def test_number_of_expressions_is_bounded_and_reproducible():
    items = [item(1, "cup", x=10.0, colour="red", area=900.0), item(2, "cup", x=90.0, colour="blue")]
    a, b = (describe_objects(items, SIZE, np.random.default_rng(3), most=4) for _ in range(2))
    assert a == b and all(len(o.phrases) == 4 for o in a)


@pytest.mark.parametrize("name", COLOUR_NAMES)
def test_a_drawn_colour_is_called_by_its_name(name):
    rng = np.random.default_rng(0)
    pixels = np.array([draw_colour(rng, name) for _ in range(200)]).astype(np.uint8)
    fits = colour_matches(pixels)
    assert fits[:, COLOUR_NAMES.index(name)].mean() > 0.97
    assert np.delete(fits, COLOUR_NAMES.index(name), 1).mean(0).max() < 0.1


def two_blocks(complete=True, ignored=False):
    frame, labels = np.full((60, 60, 3), 120, np.uint8), np.zeros((60, 60), np.uint8)
    labels[10:25, 5:20], labels[30:50, 35:55] = 1, 2
    frame[labels == 1], frame[labels == 2] = (220, 20, 25), (30, 60, 220)
    labels[58:, :5] = 255 if ignored else 0
    objects = (SampleObject(1, "cup"), SampleObject(2, "cup"))
    return Sample(frame[None], labels[None], objects, complete)


def phrases_of(sample):
    seen = [set() for _ in sample.objects]
    for seed in range(30):
        for found, o in zip(seen, describe_sample(sample, np.random.default_rng(seed)).objects, strict=True):
            found.update(p.removeprefix("the ") for p in o.phrases)
    return seen


def test_measured_colour_and_order_where_everything_is_outlined():
    first, second = phrases_of(two_blocks())
    assert {"red cup", "leftmost cup", "topmost cup"} <= first and {"blue cup", "largest cup"} <= second


@pytest.mark.parametrize("sample", [two_blocks(complete=False), two_blocks(ignored=True)])
def test_no_claims_where_something_may_be_missing(sample):
    assert phrases_of(sample) == [set(), set()]


def test_expressions_of_a_clip_hold_against_later_objects():
    early, late = two_blocks(), two_blocks()
    first_frame = np.where(early.labels == 2, 0, early.labels).astype(np.uint8)
    clip = Sample(
        np.concatenate([early.frames, late.frames]), np.concatenate([first_frame, late.labels]), early.objects, True
    )
    first, _ = phrases_of(clip)
    assert "cup" not in first and "red cup" in first
