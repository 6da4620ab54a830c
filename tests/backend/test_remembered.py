from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.evidence import parse_work
from backend.protocol import parse_context
from backend.remembered import STEPS, PackedMask, Remembered, Step
from backend.standing import standing_mask

SIZE = (60, 80)


def blob(seed=0):
    mask = np.zeros(SIZE, bool)
    mask[10 + seed % 20 : 30 + seed % 20, 20:50] = True
    return PackedMask.of(mask)


def step(seed=0, label="Object", page=0):
    return Step(label, page, blob(seed), 0.5)


def test_masks_come_back_as_they_were():
    mask = np.random.default_rng(0).random((37, 53)) > 0.5
    np.testing.assert_array_equal(PackedMask.of(mask).unpack(), mask)
    assert PackedMask.of(np.zeros(SIZE, bool)).box is None
    assert blob().box == (20.0, 10.0, 50.0, 30.0)


def test_objects_are_found_by_the_prompts_about_them():
    remembered = Remembered()
    remembered.add("7", "obj1", ["a", "b"], step())
    assert remembered.object_of("7", "Object", ["x", "b"]) == "obj1"
    assert remembered.object_of("8", "Object", ["b"]) is None
    assert remembered.object_of("7", "Other", ["b"]) is None
    assert len(remembered.steps("7", "obj1", 0)) == 1
    assert remembered.steps("8", "obj1", 0) == (), "another task of the same video has its own pages"
    assert remembered.steps("7", "obj1", 1) == remembered.steps("7", "obj2", 0) == ()


def test_families():
    remembered = Remembered()
    for name in ("objaa", "objaan2", "objaan13", "objab"):
        remembered.add("7", name, [], step())
    assert remembered.family("7", "objaan2") == ["objaa", "objaan2", "objaan13"]


def test_the_newest_steps_of_an_object_are_kept():
    remembered = Remembered()
    for number in range(3 * STEPS):
        remembered.add("7", "obj1", ["a"], step(number))
    kept = remembered.steps("7", "obj1", 0)
    assert len(kept) == STEPS
    assert kept[-1].mask == blob(3 * STEPS - 1)


@pytest.mark.parametrize("limits", [{"max_objects": 5}, {"max_bytes": 12_000}])
def test_what_was_not_used_for_long_is_forgotten(limits):
    remembered = Remembered(**limits)
    for number in range(50):
        remembered.add("7", f"obj{number}", [f"prompt{number}"], step(number))
        remembered.add("7", "obj0", ["prompt0"], step(number))
        remembered.decoded(str(number).encode(), lambda n=number: blob(n).unpack())
        remembered.first_time(("alt", str(number)))
    assert 1 < len(remembered) < 20
    assert remembered.total_bytes < 20_000 if "max_bytes" in limits else remembered.total_bytes < 200_000
    assert remembered.object_of("7", "Object", ["prompt0"]) == "obj0"
    assert remembered.object_of("7", "Object", ["prompt1"]) is None, "its prompts are forgotten with it"
    assert len(remembered._by_prompt) == len(remembered)


def test_bytes_are_counted_right():
    remembered, dice = Remembered(max_objects=7), random.Random(0)
    for _ in range(300):
        remembered.add("7", f"obj{dice.randrange(12)}", [str(dice.randrange(40))], step(dice.randrange(9)))
    assert remembered.total_bytes == sum(entry.nbytes for entry in remembered._entries.values())


def test_something_is_told_once():
    remembered = Remembered()
    assert remembered.first_time(("alt", "7"))
    assert not remembered.first_time(("alt", "7"))
    assert remembered.first_time(("alt", "8"))


def test_a_mask_is_decoded_once():
    remembered, calls = Remembered(), []
    for _ in range(3):
        remembered.decoded(b"x", lambda: calls.append(1) or np.ones(SIZE, bool))
    assert len(calls) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "rle": JSON | st.lists(st.integers(0, 255), max_size=40),
        "imageDataURL": JSON | st.just("data:image/png;base64,iVBORw0KGgo="),
        "points": JSON | st.lists(st.lists(st.floats(), max_size=3), max_size=5),
        **{name: JSON | st.floats(-1000, 1000) for name in ("x", "y", "width", "height", "rotation")},
        **{f"{kind}labels": JSON | st.just(["Object"]) for kind in ("brush", "bitmask", "polygon", "rectangle")},
    },
)
ITEMS = st.fixed_dictionaries(
    {
        "id": JSON | st.just("obj0123456789-0000") | st.just("obj0123456789n2.3-0001"),
        "type": JSON | st.sampled_from(["brushlabels", "bitmask", "polygonlabels", "rectanglelabels", "labels"]),
        "value": JSON | VALUES,
    },
    optional={"original_width": JSON | st.just(80), "original_height": JSON | st.just(60), "item_index": JSON},
)  # fmt: skip


@given(st.fixed_dictionaries({}, optional={
    name: JSON | st.lists(JSON | st.fixed_dictionaries({"result": JSON | st.lists(ITEMS, max_size=4)}), max_size=3)
    for name in ("drafts", "annotations", "predictions")
}))  # fmt: skip
def test_whatever_stands_in_a_task_is_read_or_left_out(task):
    work = parse_work(task, parse_context({"result": []}))
    remembered = Remembered()
    for region in work.regions:
        mask = standing_mask([region], SIZE, remembered)
        assert mask is None or mask.size == SIZE
