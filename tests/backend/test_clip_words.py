"""Words that mean a whole clip, through the app: what is looked for, what its objects are called, what stays."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from clip_desk import CONFIGS, PAGES, WIDTH, Desk, by_page, moved, point, typed
from fake_engine import TEXT_SCORE
from prompting import draft, edited, object_of
from reading import pixels, regions, sentences

from backend.app import close_services, create_app
from x2sam.errors import FramesError

PAGELESS = (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8").replace('perItem="true"', "")
NAMED = PAGELESS.replace("Object 1", "Car").replace("Object 2", "Person")


def words(text, **fields):
    """A text in a field that belongs to the whole clip."""
    item = typed(text)
    del item["item_index"]
    return item | fields


@pytest.fixture(autouse=True)
def small(pictures):
    from picture_server import picture_bytes

    pictures.files["small"] = picture_bytes(WIDTH, 48)


@pytest.fixture
def desk(client):
    return Desk(client, PAGELESS)


@pytest.fixture
def named(client):
    return Desk(client, NAMED)


@pytest.fixture
def paged(client):
    return Desk(client, (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8"))


def by_object(entry):
    found: dict[str, dict[int, dict]] = {}
    for item in regions(entry):
        pages = found.setdefault(object_of(item), {})
        assert item["item_index"] not in pages, "one mask for an object on a page"
        assert item["id"] == f"{object_of(item)}-{item['item_index']:04d}"
        pages[item["item_index"]] = item
    return found


def labels_of(entry):
    return {name: {i["value"]["brushlabels"][0] for i in pages.values()} for name, pages in by_object(entry).items()}


# what a text asks for


def test_a_phrase_finds_its_target_in_the_clip(desk, engine):
    entry = desk(words("the red car"))
    ((_, pages),) = by_object(entry).items()
    assert sorted(pages) == list(range(PAGES))
    assert sorted({frame for _, frame, _ in engine.asked}) == [0, 4, 9], "a sample is looked at, not every page"
    for page, item in pages.items():
        np.testing.assert_array_equal(pixels(item), moved(pixels(pages[0]), page))
    (sentence,) = sentences(entry)
    assert sentence.startswith("Found 1 object for “the red car”: 83 % sure, page 1. Object 1: tracked 10 pages.")
    assert "Page 1:" not in sentence


def test_names_fill_the_clip_with_objects(named, engine):
    entry = named(words("car, person"))
    objects = by_object(entry)
    assert len(objects) == 2 and all(sorted(pages) == list(range(PAGES)) for pages in objects.values())
    assert sorted(map(str, labels_of(entry).values())) == ["{'Car'}", "{'Person'}"]
    assert "car (64 % sure, page 1), person (65 % sure, page 1)" in sentences(entry)[0]


def test_the_same_text_gives_the_same_ids(named):
    text = words("car, person")
    first, again = named(text), named(text)
    assert [item["id"] for item in regions(first)] == [item["id"] for item in regions(again)]
    other = named(words("car, person"))
    assert not set(by_object(first)) & set(by_object(other)), "another text, other objects"


def test_what_appears_later_is_known_from_there_on(named, engine):
    engine.in_sight = lambda category: range(4, 10) if category else range(10)
    objects = by_object(named(words("car, person")))
    given = {(name, page) for page, name, _ in engine.corrected}
    assert len(objects) == 2
    assert sorted(page for name, page in given if name in objects) == [0, 4, 4, 9, 9]


def test_a_description(named):
    entry = named(words("describe"))
    (sentence,) = sentences(entry)
    assert sentence.startswith("A dog and a cat.")
    assert "No label fits “a dog, a cat”" in sentence.replace("”, “", ", ")
    general = NAMED.replace("Person", "Object")
    entry = Desk(named.client, general)(words("describe"))
    assert len(by_object(entry)) == 2
    assert sentences(entry)[0].startswith("A dog and a cat. Found 2 objects for “describe”: a dog (83 % sure, page 1)")


def test_a_question_gets_an_answer(desk, engine):
    entry = desk(words("How many cars are there?"))
    assert regions(entry) == [] and sentences(entry) == ["There are two."]


def test_nothing_found(desk):
    entry = desk(words("nothing"))
    assert regions(entry) == []
    assert sentences(entry)[0].startswith("Found nothing for “nothing” on pages 1, 5 and 10 of 10. Try other words")


def test_a_phrase_of_which_the_model_knows_few_words(desk, engine):
    engine.words = ("cup",)
    assert ", page 1. Understood as “cup”. Object 1: tracked" in sentences(desk(words("the shiny cup")))[0]


def test_a_label_before_the_text(named):
    assert list(labels_of(named(words("Person: the one on the left"))).values()) == [{"Person"}]
    assert sentences(named(words("the one on the left")))[0].startswith("Which label?")


def test_all_of_a_kind(desk, engine):
    entry = desk(point(30, 50, 4, tag="point"))
    (clicked,) = regions(entry)
    everything = desk(words("all"), on_screen=[clicked])
    objects = by_object(everything)
    assert len(objects) == 1 and all(sorted(pages) == list(range(PAGES)) for pages in objects.values())
    assert "found 1 object of that kind" in sentences(everything)[0]
    assert "1 object of that kind is marked already" in sentences(everything)[0]
    assert object_of(clicked) not in objects


def test_all_of_what_waits_to_be_accepted(desk):
    prompt = point(30, 50, 4, tag="point")
    desk(prompt)
    assert len(by_object(desk(words("all"), on_screen=[prompt]))) == 2


# pages


def test_a_text_on_a_page_is_carried_from_there(paged, engine):
    entry = paged(typed("the red car", 6))
    ((_, pages),) = by_object(entry).items()
    assert sorted(pages) == list(range(PAGES))
    assert 6 in {frame for _, frame, _ in engine.asked}
    (reply,) = [item for item in entry["result"] if item["type"] == "textarea"]
    assert reply["item_index"] == 6 and "page 7" in reply["value"]["text"][0]


def test_here_means_the_page(paged, engine):
    entry = paged(typed("here: the red car", 6))
    assert sorted(by_page(entry)) == [6] and not engine.walked
    assert "“the red car”" in sentences(entry)[0]


def test_here_on_a_field_of_the_clip(desk, engine):
    entry = desk(words("here: the red car"))
    assert regions(entry) == [] and not engine.asked
    assert sentences(entry)[0].startswith("Which page is here?")


def test_here_on_a_task_of_one_page(paged):
    assert len(regions(paged(typed("here: the red car"), pages=1))) == 1


def test_the_reply_has_a_page_where_it_needs_one(client):
    one_each = PAGELESS.replace('<TextArea name="reply"', '<TextArea name="reply" perItem="true"')
    entry = Desk(client, one_each)(words("the red car"))
    (reply,) = [item for item in entry["result"] if item["type"] == "textarea"]
    assert reply["item_index"] == 0


def test_texts_of_other_pages_are_shown_again_not_looked_for(paged, engine):
    first, second = typed("the red car", 2), typed("the blue car", 6)
    before = paged(first)
    engine.asked.clear()
    both = by_object(paged(first, second))
    assert {prompt.text for *_, prompt in engine.asked} == {"the blue car"}
    assert len(both) == 2, "the new answer takes what waits off the screen, unless it has it too"
    for item in regions(before):
        np.testing.assert_array_equal(pixels(both[object_of(item)][item["item_index"]]), pixels(item))


def test_texts_whose_answers_were_accepted_are_left_alone(paged, engine):
    first, second = typed("the red car", 2), typed("the blue car", 6)
    screen = regions(paged(first))
    assert len(by_object(paged(first, second, on_screen=screen))) == 1


# words and clicks


def test_a_click_corrects_what_words_found_and_track_follows_it(desk, engine):
    text = words("the red car")
    screen = regions(desk(text))
    pages = {item["item_index"]: item for item in screen}
    click = point(60, 50, 6, tag="point")
    (corrected,) = [i for i in regions(desk(click, on_screen=[text, *screen])) if i["item_index"] == 6]
    assert corrected["id"] == pages[6]["id"]
    assert (pixels(corrected) & ~pixels(pages[6])).any()
    engine.corrected.clear()
    now = [*(pages[page] for page in pages if page != 6), corrected]
    again = by_page(desk(words("track"), on_screen=[text, *now]))
    assert sorted(again) == [page for page in range(PAGES) if page != 6]
    assert {page for page, *_ in engine.corrected} == {6}, "what was found is no lock: all of it follows the correction"
    np.testing.assert_array_equal(pixels(again[7]), moved(pixels(corrected), 1))


def test_a_click_keeps_the_other_pages_and_objects_on_the_screen(named):
    text = words("car, person")
    before = named(text)
    car = next(pages[6] for pages in by_object(before).values() if pages[6]["value"]["brushlabels"] == ["Car"])
    x = 100 * (np.nonzero(pixels(car).any(0))[0].mean() + 0.5) / WIDTH
    after = named(point(x, 50, 6, "Car", tag="point"), on_screen=[text])
    assert {item["id"] for item in regions(after)} == {item["id"] for item in regions(before)}


def test_what_a_person_changed_stays(desk, engine):
    text = words("the red car")
    pages = by_page(desk(text))
    mine = edited(pages[4], lambda mask: mask.__setitem__(np.s_[:, : WIDTH // 2 + 8], False))
    screen = [*(pages[page] for page in pages if page != 4), mine]
    engine.corrected.clear()
    again = by_page(desk(text, on_screen=screen))
    assert 4 not in again and len(again) == PAGES - 1
    given = {page: mask for page, _, mask in engine.corrected}
    np.testing.assert_array_equal(given[4], pixels(mine))
    submitted = {"id": 9, "completed_by": 1, "result": screen}
    assert regions(desk(text, annotations=[submitted], drafts=[draft(*screen, annotation=9)])) == []


# limits and faults


@pytest.fixture
def hurried(settings, engine, pictures):
    """Time for hardly anything."""
    app = create_app(replace(settings, track_seconds=0.3), lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    engine.on_page = lambda page: time.sleep(0.1)
    yield Desk(app.test_client(), PAGELESS)
    close_services(app.extensions["x2sam"])


def test_out_of_time(hurried):
    entry = hurried(words("the red car"))
    assert regions(entry), "what was found is shown"
    assert "There was no time to look at more pages" in sentences(entry)[0]


def test_a_page_that_can_not_be_read(desk, engine):
    def fail(page):
        raise FramesError("page 1 is damaged; import the clip again")

    engine.on_page = fail
    assert sentences(desk(words("the red car"))) == ["page 1 is damaged; import the clip again"]


def test_a_later_page_that_can_not_be_read(desk, engine):
    def fail(page):
        if page > 3:
            raise FramesError(f"page {page + 1} is damaged; import the clip again")

    engine.on_page = fail
    entry = desk(words("the red car"))
    assert sorted(by_page(entry)) == [0, 1, 2, 3], "what was found before it is kept"
    assert "page 5 is damaged" in sentences(entry)[0] and "tracked 4 of 10 pages" in sentences(entry)[0]


def test_scores_reach_the_editor(desk):
    entry = desk(words("the red car"))
    assert by_page(entry)[0]["score"] == pytest.approx(TEXT_SCORE)
    assert by_page(entry)[PAGES - 1]["score"] <= TEXT_SCORE


def test_many_texts_at_once_take_no_longer_than_one(settings, engine, pictures):
    app = create_app(replace(settings, track_seconds=0.4), lambda: engine)
    try:
        app.extensions["x2sam"].engines.wait(5)
        engine.on_page = lambda page: time.sleep(0.3)
        desk = Desk(app.test_client(), (CONFIGS / "video_frames_brush.xml").read_text(encoding="utf-8"))
        told = sentences(desk(*(typed(f"the disc number {page}", page) for page in range(6))))
        assert sum("There was no time for this text" in one for one in told) == 5
        assert len({frame for _, frame, _ in engine.asked}) == 1
    finally:
        close_services(app.extensions["x2sam"])
