"""The same thing found on several frames becomes one object: made-up boxes that move, carried with known errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x2sam.inference.clip_join import MOST_OBJECTS, Joining, without_doubles
from x2sam.inference.clip_objects import Sighting
from x2sam.structures import Mask

HEIGHT, WIDTH, SIDE, SPEED = 40, 200, 20, 1


def box(x, y=10, side=SIDE):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, max(x, 0) : x + side] = True
    return mask


def seen(frame, start, score=0.8, category=0, shift=0, **shape):
    """A box that moves to the right, found on a frame with an error of ``shift`` pixels."""
    return Sighting.of(frame, Mask(box(start + SPEED * frame + shift, **shape), score, "", "box", category))


class Carrier:
    """Moves boxes as they move, with an error of ``drift`` pixels a frame; ``rounds`` notes every walk."""

    def __init__(self, drift=0):
        self.drift, self.rounds = drift, []

    def __call__(self, seeds):
        (start,) = {one.frame for one in seeds.values()}
        self.rounds.append((start, path := [], sorted(seeds)))
        return Walk(dict(seeds), path, SPEED + self.drift)


class Walk:
    def __init__(self, known, path, speed):
        self.known, self.path, self.speed = known, path, speed

    def to(self, frame):
        self.path.append(frame)
        return {n: np.roll(o.finding.mask(), self.speed * (frame - o.frame), 1) for n, o in self.known.items()}

    def confirm(self, frame, seen):
        assert frame == self.path[-1] and all(one.frame == frame for one in seen.values())
        self.known |= seen


def join(sightings, carry=None, **options):
    joining = Joining(sightings, **options)
    for _ in joining.steps(carry or Carrier()):
        pass
    return joining


def frames_of(group):
    return sorted(one.frame for one in group.members)


def test_one_thing_on_all_frames_is_one_object():
    carry = Carrier()
    (group,) = join([seen(f, 10, shift=f % 3) for f in (0, 6, 12, 18)], carry).objects()
    assert frames_of(group) == [0, 6, 12, 18]
    assert len(carry.rounds) == 1, "nothing is left for a second round"


def test_it_begins_where_it_is_surest_and_goes_both_ways():
    carry = Carrier()
    found = [seen(0, 10, 0.6), seen(6, 10, 0.7), seen(12, 10, 0.9), seen(18, 10, 0.5)]
    (group,) = join(found, carry, stones=0).objects()
    assert carry.rounds == [(12, [18], [0]), (12, [6, 0], [0])]
    assert group.members[0] is found[2] and group.name is found[2]


def test_only_where_both_ways_agree_it_is_known():
    """A poor outline says that the thing is there; what is carried shows it better."""
    found = [seen(0, 10, 0.9), seen(6, 10, shift=2), seen(12, 10, shift=10)]
    (group,) = join(found, Carrier()).objects()
    assert frames_of(group) == [0, 6, 12]
    assert sorted(one.frame for one in group.anchors) == [0, 6]


def test_stones_make_the_steps_shorter():
    carry = Carrier()
    join([seen(0, 10), seen(6, 10), seen(7, 10)], carry, stones=2)
    assert carry.rounds[0][1] == [2, 4, 6, 7]


def test_what_was_recognised_is_where_the_way_goes_on():
    """Errors do not add up over the clip."""
    found = [seen(f, 10, 0.9 - f / 100) for f in (0, 6, 12, 18)]
    (group,) = join(found, Carrier(drift=1)).objects()
    assert frames_of(group) == [0, 6, 12, 18]
    apart = join([found[0], found[3]], Carrier(drift=1)).objects()
    assert [frames_of(group) for group in apart] == [[0], [18]], "without the others on the way it is lost"


def test_nothing_is_carried_further_than_needed():
    carry = Carrier()
    join([seen(0, 10, 0.9), seen(6, 10), seen(12, 150), seen(18, 150)], carry, stones=0)
    assert [path for _, path, _ in carry.rounds] == [[6, 12, 18], [18]], "nor is a walk begun for nothing"


def test_what_comes_later_is_an_object_of_its_own():
    found = [seen(0, 10, 0.9), seen(6, 10), seen(6, 120), seen(12, 10), seen(12, 120), seen(18, 120)]
    first, second = join(found).objects()
    assert frames_of(first) == [0, 6, 12] and frames_of(second) == [6, 12, 18]


def test_what_was_lost_and_is_found_elsewhere_is_another_one():
    found = [seen(0, 10, 0.9), seen(6, 10), seen(12, 150)]
    assert [frames_of(group) for group in join(found).objects()] == [[0, 6], [12]]


def test_a_part_of_what_arrives_is_neither_an_anchor_nor_an_object():
    found = [seen(0, 10, 0.9), seen(6, 10, 0.6, side=10), seen(12, 10)]
    (group,) = join(found).objects()
    assert frames_of(group) == [0, 12]


def test_categories_do_not_mix_unless_the_masks_are_the_same():
    other = [seen(6, 14, 0.6, category=1)]
    apart = join([seen(0, 10, 0.9), seen(12, 10), *other]).objects()
    assert sorted(frames_of(group) for group in apart) == [[0, 12], [6]]
    renamed = join([seen(0, 10, 0.9), seen(12, 10), seen(6, 10, 0.6, category=1)]).objects()
    assert [frames_of(group) for group in renamed] == [[0, 6, 12]]
    assert renamed[0].name.category == 0, "called what most speaks for"


def test_two_of_a_kind_keep_apart_where_they_come_close():
    found = [one for f in (0, 6, 12) for one in (seen(f, 10, 0.9), seen(f, 22, 0.8))]
    groups = join(found).objects()
    assert [frames_of(group) for group in groups] == [[0, 6, 12]] * 2
    for group in groups:
        lefts = {np.flatnonzero(one.finding.mask().any(0))[0] - SPEED * one.frame for one in group.members}
        assert len(lefts) == 1


def test_doubles_on_a_frame():
    one, double, other = seen(0, 10, 0.9), seen(0, 11, 0.8), seen(0, 11, 0.7, category=1)
    nothing = Sighting.of(0, Mask(np.zeros((HEIGHT, WIDTH), bool), 0.9))
    assert without_doubles([double, one, nothing, other]) == [one, other]


def test_stuff_is_one_object_for_each_name():
    found = [seen(f, x, category=1) for f in (0, 6) for x in (10, 100)] + [seen(0, 60)]
    carry = Carrier()
    groups = join(found, carry, things=(True, False)).objects()
    assert [len(group.members) for group in groups] == [4, 1]
    assert not carry.rounds, "nothing has to be carried for it"


# a phrase means one thing


def test_a_phrase_means_what_most_speaks_for():
    found = [seen(0, 120, 0.7), *(seen(f, 10, 0.6) for f in (6, 12, 18))]
    (group,) = join(found, one_each=True).objects()
    assert frames_of(group) == [6, 12, 18]


def test_a_phrase_is_not_looked_for_longer_than_needed():
    carry = Carrier()
    join([*(seen(f, 10, 0.9) for f in (0, 6, 12)), seen(18, 120, 0.6)], carry, one_each=True)
    assert len(carry.rounds) == 1


def test_the_page_where_a_phrase_was_typed_decides_when_it_is_sure_there():
    others = [seen(f, 10, 0.9) for f in (0, 12, 18)]
    (group,) = join([*others, seen(6, 120, 0.6)], one_each=True, prefer=6).objects()
    assert frames_of(group) == [6]
    (group,) = join([*others, seen(6, 120, 0.4)], one_each=True, prefer=6).objects()
    assert frames_of(group) == [0, 12, 18]


def test_each_phrase_of_a_description_has_its_object():
    found = [seen(f, x, category=c) for f in (0, 6) for c, x in ((0, 10), (1, 100))]
    assert [group.name.category for group in join(found, one_each=True).objects()] == [0, 1]


def test_two_phrases_may_mean_the_same_thing():
    found = [seen(0, 10, 0.9, category=0), seen(6, 10, category=1)]
    assert len(join(found, one_each=True).objects()) == 2


# limits


def test_too_many_things():
    found = [Sighting.of(0, Mask(box(5 * n, side=4), 0.5 + n / 1000)) for n in range(38)]
    joining = join(found)
    assert len(joining.objects()) == MOST_OBJECTS and joining.left_out == 38 - MOST_OBJECTS
    assert min(group.members[0].score for group in joining.objects()) > 0.5 + (37 - MOST_OBJECTS) / 1000


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_it_may_be_left_at_any_time(steps):
    joining = Joining([seen(f, x, 0.9 - x / 1000) for f in (0, 6, 12) for x in (10, 100)])
    for _ in itertools.islice(joining.steps(Carrier()), steps):
        pass
    groups = joining.objects()
    assert len(groups) == 2 and all(len(set(frames_of(group))) == len(group.members) for group in groups)


@settings(max_examples=60)
@given(st.data())
def test_ids_are_unique_and_stable(data):
    """Whatever was found: every finding is part of at most one object, no object has two on a frame, and the same
    findings in another order make the same objects."""
    count = data.draw(st.integers(1, 14))
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    found = [
        seen(draw(0, 3) * 6, draw(0, 8) * 20, round(0.5 + n / 100, 2), draw(0, 1), shift=draw(-4, 4))
        for n in range(count)
    ]
    one_each = data.draw(st.booleans())
    joining = join(found, one_each=one_each)
    members = [one for group in joining.groups for one in group.members]
    assert len(members) == len(set(members)) and set(members) <= set(found)
    for group in joining.objects():
        assert len(frames_of(group)) == len(set(frames_of(group)))
    assert len({group.number for group in joining.groups}) == len(joining.groups)
    again = join(data.draw(st.permutations(found)), one_each=one_each)
    assert [group.members for group in again.objects()] == [group.members for group in joining.objects()]
