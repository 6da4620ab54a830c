"""Two people at one task with one label, each in windows of their own: what one does never reaches the other."""

from __future__ import annotations

import pytest
from saved_masks import masks_of
from test_clicking import BESIDE, DISC, at, drawn

PICTURE = "/data/local-files/?d=made/upright.png"


@pytest.fixture
def task(fake):
    return fake.task("image_text", image=PICTURE)


@pytest.fixture
def both(editor, second_editor, fake, task):
    """Both have the task open and the smart click in hand before anybody has made anything."""
    for screen in (editor, second_editor):
        screen.open(fake.project("image_text")[0], task)
        screen.switch_on()
        screen.choose("1", "point: Object")
        screen.take_up("KeyPointTool")
    return editor, second_editor


def names(exchange):
    return {item["id"] for item in exchange.items if item["type"] == "brushlabels"}


def test_each_sees_and_submits_only_their_own(both, label_studio, second_login, saved, task):
    ann, ben = both
    for screen, place in ((ann, DISC), (ben, BESIDE)):
        asked = screen.click(*place)
        assert len(asked.context) == 1
        ((_, mask),) = masks_of(asked.items)
        assert (mask == drawn(asked.context)).all()
        assert at(mask, *place)
        assert screen.suggestions() == 1
    answers = {}
    for screen, place in ((ann, DISC), (ben, BESIDE)):
        screen.choose_by_key("1", "point: Object")
        answers[screen] = screen.click(place[0] + 4, place[1], negative=screen is ben)
        assert [region["value"]["x"] for region in answers[screen].context] == pytest.approx(
            [place[0], place[0] + 4], abs=0.5
        )
    assert not names(answers[ann]) & names(answers[ben])
    for screen in both:
        screen.accept()
        screen.wait_saved()
        ((label, mask),) = masks_of(screen.results())
        assert (label, (mask == drawn(answers[screen].context)).all()) == ("Object", True)

    # On what the other one has made, while its draft is stored: a new object, not a correction of that one.
    ben.choose_by_key("1", "point: Object")
    second = ben.click(*DISC)
    assert not names(second) & (names(answers[ann]) | names(answers[ben]))
    ((_, mask),) = masks_of(second.items)
    assert (mask == drawn(second.context)).all()
    ben.accept()
    ben.wait_saved()
    first = ann.submit()

    # Now the request carries what the other one has submitted: it is Ben's own that grows.
    ben.choose_by_key("1", "point: Object")
    third = ben.click(DISC[0] + 7.5, DISC[1])  # beside the mask: on it, the click would choose it
    assert names(third) == names(second)
    ben.accept()
    results = {"ann": saved(first), "ben": saved(ben.submit())}

    made = label_studio.api("GET", f"/api/tasks/{task}/annotations/")
    people = {entry["completed_by"] for entry in made}
    assert len(made) == len(people) == 2
    ((label, mask),) = masks_of(results["ann"])
    assert (label, (mask == drawn(answers[ann].context)).all()) == ("Object", True)
    theirs = masks_of(results["ben"])
    assert [label for label, _ in theirs] == ["Object", "Object"]
    assert (theirs[0][1] == drawn(answers[ben].context)).all()
    assert (theirs[1][1] == drawn([*second.context, *third.context])).all()
