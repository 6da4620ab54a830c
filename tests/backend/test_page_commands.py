"""An object that is not on a page: ``gone`` says so, no track makes a mask there, a person's mask takes it back."""

from __future__ import annotations

import numpy as np
import pytest
from clip_desk import HEIGHT, PAGES, WIDTH, Desk, by_page, moved, point, typed
from picture_server import picture_bytes
from prompting import edited, object_of
from reading import pixels, regions, sentences

from backend.app import close_app, create_app
from backend.page_commands import gone
from backend.track_replies import GONE_WHERE, GONE_WHICH
from backend.tracking import order_of

AWAY = 6


@pytest.fixture
def pictures(pictures):
    pictures.files["small"] = picture_bytes(WIDTH, HEIGHT)
    return pictures


@pytest.fixture
def desk(client, pictures):
    return Desk(client)


@pytest.fixture
def items(desk):
    """An object that was clicked on the first page and carried over all."""
    return by_page(desk(point(50, 50, 0)))


def without(items, page=AWAY):
    return [item for number, item in items.items() if number != page]


def test_no_mask_is_made_again_where_it_is_gone(desk, items, engine, app, settings):
    told = desk(typed("gone", AWAY), on_screen=without(items))
    assert sentences(told) == ["Object 1: not on page 7 from now on. Type track to make the pages around it fit."]
    assert not regions(told)
    engine.corrected.clear()
    again = desk(typed("track"), on_screen=without(items))
    assert {(page, mask.any()) for page, _, mask in engine.corrected} == {(0, True), (AWAY, False)}
    # The stand-in carries the nearest known mask on: up to page 4 that of the first page, then that there is none.
    assert sorted(by_page(again)) == [1, 2, 3] and "Not seen on pages 5-10." in sentences(again)[0]

    close_app(app)
    second = create_app(settings, lambda: engine)
    try:
        second.extensions["x2sam"].engines.wait(5)
        engine.corrected.clear()
        Desk(second.test_client())(typed("track"), on_screen=[items[0], items[8]])
        known = {page: mask for page, _, mask in engine.corrected}
        assert AWAY not in by_page(again) and (not known or not known[AWAY].any()), "it outlives a restart"
    finally:
        close_app(second)


def test_a_mask_that_stands_there_is_not_gone(desk, items):
    told = desk(typed("Not here.", AWAY), on_screen=items.values())
    assert "Nothing is gone from page 7: delete the mask" in sentences(told)[0]
    whole = by_page(desk(typed("track"), on_screen=items.values()))
    assert sorted(whole) == list(range(1, PAGES))


def test_of_several_objects_the_deleted_one_is_meant(desk, items, engine):
    other = by_page(desk(point(20, 50, 0, "Object 2"), on_screen=items.values()))
    other = {page: item for page, item in other.items() if object_of(item) != object_of(items[0])}
    told = desk(typed("gone", AWAY), on_screen=[*items.values(), *without(other)])
    assert sentences(told)[0].startswith("Object 2: not on page 7")
    engine.corrected.clear()
    desk(typed("track"), on_screen=[*items.values(), *without(other)])
    assert {(name, page) for page, name, mask in engine.corrected if not mask.any()} == {(object_of(other[0]), AWAY)}


def test_what_nobody_accepted_yet(desk, engine):
    first = point(50, 50, 0)
    items = by_page(desk(first))
    told = desk(typed("gone", AWAY), on_screen=[first])
    assert "Object 1: not on page 7" in sentences(told)[0]
    assert sorted(by_page(told)) == sorted(items.keys() - {AWAY}), "the others are shown again"


def test_of_several_that_nobody_accepted_it_is_not_clear_which(desk):
    prompts = [point(50, 50, 0), point(20, 50, 0, "Object 2")]
    desk(*prompts)
    assert GONE_WHICH in sentences(desk(typed("gone", AWAY), on_screen=prompts))[0]


def test_a_mask_that_is_drawn_there_later_counts(desk, items, engine):
    desk(typed("gone", AWAY), on_screen=without(items))

    def upper_half(mask):
        mask[: HEIGHT // 2] = False

    mine = edited(items[AWAY], upper_half)
    engine.corrected.clear()
    again = by_page(desk(typed("track"), on_screen=[*without(items), mine]))
    (known,) = [mask for page, _, mask in engine.corrected if page == AWAY]
    np.testing.assert_array_equal(known, pixels(mine))
    assert AWAY not in again
    np.testing.assert_array_equal(pixels(again[AWAY + 1]), moved(pixels(mine), 1))


def test_a_click_where_it_was_out_of_sight_begins_anew(desk, engine):
    engine.out_of_sight = {AWAY}
    items = by_page(desk(point(50, 50, 0)))
    assert AWAY not in items
    desk(point(60, 50, AWAY, tag="point"), on_screen=items.values())
    prompt = engine.asked[-1][2]
    assert len(prompt.points) == 1 and prompt.previous is None, "no empty mask is corrected"


def test_where_the_field_is_of_all_pages():
    assert gone(None, (), None) == GONE_WHERE


def test_what_is_no_command():
    assert order_of("gone", 3).page == order_of("NOT  here!", 3).page == 3
    assert [order_of(text, 3) for text in ("gone with the wind", "here", "not", "the gone one")] == [None] * 4
