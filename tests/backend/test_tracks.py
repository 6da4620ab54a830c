"""Objects over the pages of a task, through the app: clicks with a track label, the command, masks that stay."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import HEIGHT, PAGES, WIDTH, Desk, by_page, clip_item, drawn, moved, point, typed, wait_for
from picture_server import picture_bytes
from prompting import draft, edited, object_of
from reading import pixels, regions, sentences

from backend.app import close_services, create_app
from backend.replies import page_ranges
from backend.tracking import Reach, command_of
from x2sam.errors import FramesError


@pytest.fixture
def pictures(pictures):
    pictures.files["small"] = picture_bytes(WIDTH, HEIGHT)
    return pictures


@pytest.fixture
def desk(client, pictures):
    return Desk(client)


@pytest.fixture
def forget(app):
    def restart():
        remembered = app.extensions["x2sam"].remembered
        remembered.__dict__.update(type(remembered)().__dict__)

    return restart


def eraser(mask):
    mask[:, : WIDTH // 2 + 12] = False


# the second pair of controls


def test_a_click_with_a_track_label_fills_all_pages(desk, engine):
    entry = desk(point(50, 50, 4))
    items = by_page(entry)
    assert sorted(items) == list(range(PAGES)) and len(regions(entry)) == PAGES
    name = object_of(items[4])
    assert [items[page]["id"] for page in sorted(items)] == [f"{name}-{page:04d}" for page in range(PAGES)]
    for page, item in items.items():
        np.testing.assert_array_equal(pixels(item), moved(pixels(items[4]), page - 4))
        assert item["value"]["brushlabels"] == ["Object 1"]
    (sentence,) = sentences(entry)
    assert "Object 1: tracked 10 pages." in sentence and "mend one page" in sentence
    assert "Least sure: page 10 (90 %), page 1 (92 %), page 9 (92 %)." in sentence
    assert "type" not in sentence.split("tracked")[1].split(".")[0]


def test_a_plain_click_answers_its_page_only(desk, engine):
    entry = desk(point(50, 50, 4, tag="point"))
    assert sorted(by_page(entry)) == [4] and not engine.walked
    assert "Type “track”" in sentences(entry)[0]


def test_a_box_with_a_track_label(desk):
    value = {"x": 40, "y": 30, "width": 20, "height": 40, "rotation": 0, "rectanglelabels": ["Object 2"]}
    items = by_page(desk(clip_item("rectanglelabels", "track_box", value, 0)))
    assert sorted(items) == list(range(PAGES))


def test_a_track_label_on_a_task_of_one_page_is_a_click(desk, engine):
    entry = desk(point(50, 50, 0), pages=1)
    assert len(regions(entry)) == 1 and not engine.walked


def test_a_plain_click_after_it_keeps_the_other_pages_on_the_screen(desk, engine):
    first = point(50, 50, 4)
    before = by_page(desk(first))
    engine.walked.clear()
    added = point(60, 50, 7, tag="point")
    after = by_page(desk(first, added))
    assert sorted(after) == sorted(before) and not engine.walked
    assert {item["id"] for item in after.values()} == {item["id"] for item in before.values()}
    assert (pixels(after[7]) & ~pixels(before[7])).any(), "the click adds to what was tracked"
    np.testing.assert_array_equal(pixels(after[2]), pixels(before[2]))


# the command


def test_the_command_carries_on_what_waits_to_be_accepted(desk):
    prompt = point(50, 50, 4, tag="point")
    item = by_page(desk(prompt))[4]
    entry = desk(typed("track", 4), on_screen=[prompt])
    items = by_page(entry)
    assert sorted(items) == list(range(PAGES))
    assert items[4] == item, "the page of the prompt is shown again, since the answer takes it off the screen"
    assert object_of(items[9]) == object_of(item)


@pytest.mark.parametrize(
    ("text", "page", "pages"),
    [
        ("track forward", 0, range(5, 10)),
        ("Track backwards.", 0, range(0, 4)),
        ("track 2", 4, range(5, 7)),
        ("track 2 pages", 6, range(5, 9)),
        ("track 500", 0, range(5, 10)),
    ],
)
def test_how_far(desk, text, page, pages):
    item = by_page(desk(point(50, 50, 4, tag="point")))[4]
    assert sorted(by_page(desk(typed(text, page), on_screen=[item]))) == list(pages)


def test_pages_on_which_nothing_is_known_yet(desk, engine):
    item = by_page(desk(point(50, 50, 7, tag="point")))[7]
    (sentence,) = sentences(desk(typed("track 3", 2), on_screen=[item]))
    assert sentence.startswith("There is nothing to track on these pages") and not engine.walked


def test_what_is_no_command():
    assert command_of("track") == Reach() == command_of(" TRACK! ")
    assert command_of("track 20", 3) == Reach("forward", 20, 3)
    for text in ("the track", "track 0", "tracks", "track the car", "track -3", "track 20 forward", "track 1000000"):
        assert command_of(text) is None


def test_other_texts_of_other_pages_are_left_alone(desk, engine):
    """All texts come with every request, and nothing marks the new one."""
    words = typed("here: the square", 2)
    found = by_page(desk(words))[2]
    command = typed("track", 4)
    items = by_page(desk(words, command, on_screen=[words]))
    assert sorted(items) == list(range(PAGES)) and {object_of(item) for item in items.values()} == {object_of(found)}
    other = typed("here: another square", 6)
    entry = desk(words, command, other, on_screen=list(items.values()))
    assert sorted(by_page(entry)) == [6] and "tracked" not in sentences(entry)[0]
    again = desk(words, command, other, on_screen=list(items.values()))
    assert "tracked" in sentences(again)[0], "where no text is new the command is given again"


def test_nothing_to_track(desk):
    assert sentences(desk(typed("track")))[0].startswith("There is nothing to track")


def test_masks_drawn_by_hand(desk):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    mine = [drawn(mask, 2), drawn(moved(mask, 9), 6), drawn(mask[::-1], 2, "Object 2")]
    items = regions(desk(typed("track"), on_screen=mine))
    pages = {label: [] for label in ("Object 1", "Object 2")}
    for item in items:
        pages[item["value"]["brushlabels"][0]].append(item["item_index"])
    assert pages == {
        "Object 1": [page for page in range(PAGES) if page not in (2, 6)],
        "Object 2": [page for page in range(PAGES) if page != 2],
    }
    again = regions(desk(typed("track"), on_screen=[*mine, *items]))
    assert [item["id"] for item in again] == [item["id"] for item in items], "they go on belonging together"


def test_a_mask_drawn_in_place_of_a_tracked_one(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 5:25] = True
    mine = drawn(mask, 5)
    screen = [item for page, item in items.items() if page != 5]
    again = by_page(desk(typed("track"), on_screen=[*screen, mine]))
    assert 5 not in again and object_of(again[6]) == object_of(items[6])
    np.testing.assert_array_equal(pixels(again[6]), moved(mask, 1))


# what stays


def test_a_mask_that_a_person_changed_stays_and_is_met_from_both_sides(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    mine = edited(items[6], eraser)
    engine.corrected.clear()
    again = by_page(desk(typed("track"), on_screen=[*(items[p] for p in items if p != 6), mine]))
    assert sorted(again) == [1, 2, 3, 4, 5, 7, 8, 9], "neither the prompt's page nor the changed one comes back"
    given = {page: mask for page, _, mask in engine.corrected}
    assert sorted(given) == [0, 6]
    np.testing.assert_array_equal(given[6], pixels(mine))
    np.testing.assert_array_equal(pixels(again[5]), moved(pixels(mine), -1))
    np.testing.assert_array_equal(pixels(again[9]), moved(pixels(mine), 3))
    np.testing.assert_array_equal(pixels(again[1]), moved(pixels(items[0]), 1))
    assert {item["id"] for item in again.values()} == {items[page]["id"] for page in again}


def test_what_was_accepted_unchanged_is_not_the_persons(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    engine.walked.clear()
    again = by_page(desk(typed("track"), on_screen=items.values()))
    assert sorted(again) == list(range(1, PAGES)), "only the page that was clicked stays"
    assert not engine.walked, "the same question has the same answer"


def test_a_click_on_a_tracked_page_makes_it_stay(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    corrected = by_page(desk(point(60, 50, 6, tag="point"), on_screen=items.values()))[6]
    assert corrected["id"] == items[6]["id"]
    screen = [*(items[page] for page in items if page != 6), corrected]
    again = by_page(desk(typed("track"), on_screen=screen))
    assert sorted(again) == [1, 2, 3, 4, 5, 7, 8, 9]
    np.testing.assert_array_equal(pixels(again[7]), moved(pixels(corrected), 1))


def test_what_was_submitted_stays(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    submitted = {"id": 9, "completed_by": 1, "result": [items[page] for page in (0, 1, 2, 3)]}
    assert sorted(by_page(desk(typed("track"), annotations=[submitted]))) == [4, 5, 6, 7, 8, 9]
    reopened = draft(*items.values(), annotation=9)
    assert sorted(by_page(desk(typed("track"), annotations=[submitted], drafts=[reopened]))) == [4, 5, 6, 7, 8, 9]


def test_what_others_submitted_is_not_carried_on(desk):
    items = by_page(desk(point(50, 50, 0)))
    both = [{"id": n, "completed_by": n, "result": [items[0]]} for n in (1, 2)]
    assert "nothing to track" in sentences(desk(typed("track"), annotations=both))[0]


def test_after_a_restart_all_that_stands_is_the_persons(desk, forget, engine):
    items = by_page(desk(point(50, 50, 0)))
    forget()
    some = [items[page] for page in (0, 1, 2, 6)]
    assert sorted(by_page(desk(typed("track"), on_screen=some))) == [3, 4, 5, 7, 8, 9]
    forget()
    assert "stay as they are" in sentences(desk(typed("track"), on_screen=items.values()))[0]


def test_tracks_do_not_see_what_others_left_in_a_session(desk, engine):
    items = by_page(desk(point(50, 50, 0)))
    mine = edited(items[6], eraser)
    desk(typed("track"), on_screen=[items[0], mine])
    undone = by_page(desk(typed("track"), on_screen=items.values()))
    np.testing.assert_array_equal(pixels(undone[6]), pixels(items[6]))
    assert all(session.closed for session in engine.sessions if session.known)


def test_objects_that_are_known_on_different_pages(desk):
    one, two = point(30, 50, 2, tag="point"), point(70, 50, 6, "Object 2", tag="point")
    screen = [*regions(desk(one)), *regions(desk(two))]
    items = regions(desk(typed("track"), on_screen=screen))
    pages = {object_of(item): set() for item in screen}
    for item in items:
        pages[object_of(item)].add(item["item_index"])
    assert list(pages.values()) == [set(range(PAGES)) - {2}, set(range(PAGES)) - {6}]
    assert len(items) == 2 * (PAGES - 1)


# what the reply tells


def test_where_it_was_not_seen(desk, engine):
    engine.out_of_sight = {5, 6, 8}
    entry = desk(point(50, 50, 2))
    assert sorted(by_page(entry)) == [0, 1, 2, 3, 4, 7, 9]
    assert "Not seen on pages 6-7 and 9." in sentences(entry)[0]


def test_a_page_that_can_not_be_read(desk, engine):
    def fail(page):
        if page == 7:
            raise FramesError("page 8 is damaged; import the clip again")

    engine.on_page = fail
    entry = desk(point(50, 50, 2))
    assert sorted(by_page(entry)) == list(range(7)), "what was done before it is kept, and the other way was walked"
    assert "tracked 7 of 10 pages. page 8 is damaged; import the clip again" in sentences(entry)[0]


# time


@pytest.fixture
def slow(settings, engine, pictures):
    """Time for three pages or so."""
    app = create_app(replace(settings, track_seconds=0.35), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    engine.on_page = lambda page: time.sleep(0.1)
    yield Desk(app.test_client())
    close_services(app.extensions["x2sam"])


def test_out_of_time_and_on(slow, engine):
    prompt = point(50, 50, 0, tag="point")
    screen, seen, rounds = regions(slow(prompt)), {0}, 0
    while True:
        entry = slow(typed("track"), on_screen=screen)
        items = by_page(entry)
        assert seen <= {0, *items}, "what was done before is shown again"
        told = re.search(r"tracked (\d+) of 10 pages, (\d+) s left\. It goes on", sentences(entry)[0])
        seen, rounds = {0, *items}, rounds + 1
        if told is None:
            break
        assert int(told[1]) == len(seen) < PAGES and int(told[2]) <= 10
        assert rounds < 30
    assert rounds > 1 and seen == set(range(PAGES))
    assert "tracked 10 pages." in sentences(entry)[0]
    assert engine.walked == [("forward", page) for page in range(PAGES)], "no page is walked twice"


def test_after_a_correction_only_what_it_touches_is_walked_again(slow, engine):
    screen = regions(slow(point(50, 50, 0, tag="point")))
    items = by_page(slow(typed("track"), on_screen=screen))
    mine = edited(items[1], lambda mask: mask.__setitem__(np.s_[:, 80:], False))
    wait_for(lambda: ("forward", 9) in engine.walked)
    engine.walked.clear()
    again = by_page(slow(typed("track"), on_screen=[*screen, mine]))
    assert 1 not in again
    wait_for(lambda: ("forward", 9) in engine.walked)
    assert engine.walked[0] == ("forward", 0), "the memory is made from the masks that are known"


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ([3], "page 4"),
        ([2, 1, 0], "pages 1-3"),
        ([0, 2], "pages 1 and 3"),
        ([0, 1, 5, 7, 8], "pages 1-2, 6 and 8-9"),
        (range(0, 20, 2), "pages 1, 3, 5, 7, 9 and others"),
    ],
)
def test_pages_in_short(pages, told):
    assert page_ranges(pages) == told
