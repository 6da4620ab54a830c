"""Phrases in the words that a small network knows: nothing unknown stays beside a known name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x2sam.data.plain_words import bare_name, plain_names, plainly, trained_words, words_in

KNOWN = frozenset(
    trained_words(("the red cup", "wine glass", "leftmost person", "flower", "white", "ESP8266 board", "main object"))
)


@pytest.mark.parametrize(
    ("phrase", "plain"),
    [
        ("the red cup", "the red cup"),
        ("ESP8266 board", "ESP8266 board"),
        ("the shiny red cup", "the red cup"),
        ("the young man on the left with a white hat", "the man on the left"),
        ("the bouquet of white and red flowers", "the white red flower"),
        ("the front of the building", "the front of the building"),
        ("man standing there", "man"),
        ("the running man", "the man"),
        ("the red painting", "the red painting"),
        ("cyclist", "cyclist"),
        ("a tall cyclist by the road", "cyclist"),
        ("cup on the top shelf", "cup"),
        ("person in the centre of the picture", "person in the middle"),
        ("the cup at the bottom, near the person", "the cup at the bottom"),
        ("person at the top left", "person on the left"),
        ("the one on the far right side of the image", "the object on the right"),
        ("the second cup from the left", "the cup"),
        ("wine glasses", "wine glass"),
        ("three people", "person"),
        ("one cup", "cup"),
        ("one of the cups", "the cup"),
        ("two cups", "cup"),
        ("on the left", "on the left"),
        ("white", "white"),
        ("", ""),
    ],
)
def test_phrases(phrase, plain):
    assert plainly(phrase, KNOWN) == plain


@given(st.text(max_size=60))
def test_where_nothing_is_known_a_phrase_stays_as_it_is(phrase):
    assert plainly(phrase, ()) == phrase


@given(st.lists(st.sampled_from([*sorted(KNOWN), "shiny", "Zebra", "with", "on the left", ",", "the"]), max_size=8))
def test_said_plainly_it_is_plain(parts):
    """Nothing is made up: what comes out stood in the phrase (plurals, places and "one" aside), and stays the same."""
    phrase = " ".join(parts)
    plain = plainly(phrase, KNOWN)
    assert plainly(plain, KNOWN) == plain
    said = words_in([phrase])
    assert words_in([plain]) <= said | {"object"} | {word.removesuffix("s") for word in said}


def test_names_stay_apart():
    assert plain_names(("old person", "young person", "shiny cup"), KNOWN) == ("old person", "young person", "cup")


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("the red bus on the left", "the bus"),
        ("a piece of white cake at the bottom", "the piece of cake"),
        ("the bouquet of red", "the bouquet"),
        ("the man with the green cap", "the man"),
        ("Largest Sign", "the sign"),
        ("object in the middle", "the object"),
        ("the bus", None),
        ("bus", None),
        ("a piece of cake", None),
        ("the largest", None),
        ("of the left", None),
        ("", None),
    ],
)
def test_names_are_asked_for_alone(phrase, name):
    """None where the phrase is no more than its name, and where it has none."""
    assert bare_name(phrase) == name
