from __future__ import annotations

import json

import numpy as np
import pytest
from exporting import CONFIG as XML
from exporting import annotation, drawn, items, pages, task
from hypothesis import given
from hypothesis import strategies as st

from backend.effort import Effort, Measured, measure
from backend.effort_tally import OTHERS, Groups, Spread, Summary, Tally, week_of
from backend.label_config import parse_label_config
from backend.pseudonyms import SOMEBODY, Pseudonyms
from backend.remembered import PackedMask, Step
from backend.results import Place, region_items
from backend.settings import Settings
from x2sam.structures import Mask, Point

SIZE = (40, 60)
A, B, C = "obj000000000a", "obj000000000b", "obj000000000c"
CONFIG = parse_label_config(XML)


def box(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


TEN = box(0, 0, 10, 10)  # 100 pixels
TWENTY = box(0, 0, 20, 10)  # 200 pixels, TEN among them
APART = box(40, 20, 50, 30)


def click(name, x=5.0, positive=True):
    return name, Point(x, 5.0, positive)


def step(mask, *clicks, label="cat", page=0, **fields):
    return Step(label, page, PackedMask.of(mask), 0.9, clicks, version=fields.pop("version", "v1"), **fields)


def measured(result, steps=(), prediction=None, about=None, **fields):
    """``steps`` by object, or by object and page."""
    known = {key if isinstance(key, tuple) else (key, 0): own for key, own in dict(steps).items()}
    given = annotation(result, lead_time=12.0, **fields)
    return measure(given, about or task(1), CONFIG, lambda name, page: known.get((name, page), ()), prediction)


def origin(kind, found):
    return [item | {"origin": kind} for item in found]


def test_clicks_a_changed_mask_and_one_by_hand():
    steps = {
        A: [step(TEN, click("a")), step(TWENTY, click("a"), click("b"), version="v2")],
        B: [step(TEN, click("c"))],
    }
    result = [*items(TWENTY, name=A), *items(TWENTY, name=B), drawn(APART, "fTgh56", "dog")]
    found = measured(result, steps)
    # 12 s for three masks; TEN is half of TWENTY
    assert found.masks == (
        Effort("cat", "prompted", "v2", 2, 4.0, 1.0, 0.5, True),
        Effort("cat", "prompted", "v1", 1, 4.0, 0.5, 0.5, False),
        Effort("dog", "drawn", seconds=4.0),
    )
    assert found.objects == {A, B} and (found.removed, found.unread) == (0, 0)


def test_what_counts_as_a_prompt():
    moved = [step(TEN, click("a", 5.0)), step(TEN, click("a", 6.0)), step(TEN, click("a", 6.0), click("b"))]
    boxed = [step(TEN, boxes=((0.0, 0.0, 9.0, 9.0),)), step(TEN, click("c"), boxes=((0.0, 0.0, 9.0, 9.0),))]
    # by hand between the two: the second answer corrects what stood there and has only the newer click
    changed = [step(TWENTY, click("d")), step(TEN, click("e"), previous=PackedMask.of(APART))]
    found = measured([item for name in (A, B, C) for item in items(TEN, name=name)], {A: moved, B: boxed, C: changed})
    assert [mask.prompts for mask in found.masks] == [3, 2, 2]  # a, a moved, b; the box, c; d, e


def test_an_earlier_answer_that_was_taken_back_to():
    steps = {A: [step(TEN, click("a")), step(TWENTY, click("a"), click("b"))]}
    (mask,) = measured(items(TEN, name=A), steps).masks
    assert mask.untouched and mask.overlap == 1.0 and mask.prompts == 2


def test_a_text_is_shared_by_what_was_kept_of_it():
    found = {f"{A}n2": [step(TEN)], A: [step(APART), step(TWENTY, click("a"), previous=PackedMask.of(APART))]}
    found[f"{A}n3"] = [step(APART)]
    result = [*items(TEN, name=f"{A}n2"), *items(TWENTY, name=A)]  # the third was not accepted
    assert [(mask.kind, mask.prompts) for mask in measured(result, found).masks] == [("worded", 0.5), ("prompted", 1.5)]


def test_pages_of_a_track():
    about = pages(3, count=3, start=6)
    steps = {
        (A, 0): [step(TEN, click("a"))],
        (A, 1): [step(TWENTY, page=1, tracked=True)],
        # tracked, then locked, which is no prompt
        (A, 2): [step(TWENTY, page=2, tracked=True), step(TWENTY, page=2)],
    }
    result = [item for page in range(3) for item in items(TEN if page < 2 else TWENTY, name=A, page=page)]
    found = measured(result, steps, about=about).masks
    assert [(one.kind, one.prompts, one.overlap, one.first) for one in found] == [
        ("prompted", 1, 1.0, 1.0), ("tracked", 0, 0.5, None), ("tracked", 0, 1.0, None),
    ]  # fmt: skip
    assert [one.untouched for one in found] == [True, False, True]


def test_predictions_that_nobody_prompted():
    prediction = {
        "model_version": "nightly",
        "result": [*items(TEN, name=A), *items(TEN, name=B), *items(APART, name=C)],
    }
    result = [*origin("prediction", items(TEN, name=A)), *origin("prediction-changed", items(TWENTY, name=B))]
    kept, changed = measured(result, prediction=prediction).masks
    assert kept == Effort("cat", "predicted", "nightly", 0.0, 6.0, 1.0, None, True)
    assert changed == Effort("cat", "predicted", "nightly", 0.0, 6.0, 0.5, None, False)
    assert measured(result, prediction=prediction).removed == 1
    kept, changed = measured(result).masks  # the prediction can't be had
    assert (kept.overlap, kept.version, changed.overlap, changed.untouched) == (1.0, "", None, False)


def test_what_is_not_known_counts_nowhere():
    assert measured(items(TEN, name=A)).masks == (Effort("cat", "unknown", seconds=12.0),)
    for lead in (None, 0, -1, float("nan"), True, "12"):
        found = measure(annotation(items(TEN), lead_time=lead), task(1), CONFIG, lambda *_: ())
        assert found.masks[0].seconds is None


def test_another_label_is_a_change():
    (mask,) = measured(items(TEN, name=A, label="dog"), {A: [step(TEN, click("a"))]}).masks
    assert (mask.label, mask.untouched, mask.overlap) == ("dog", False, 1.0)


@pytest.mark.parametrize("control", ["bitmask", "polygon", "rectangle", "brush"])
def test_what_a_form_loses_is_no_change(control):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = np.hypot(x - 30, y - 20) < 15
    (mask,) = measured(items(disc, control, A), {A: [step(disc, click("a"))]}).masks
    assert mask.untouched and mask.overlap == 1.0
    (other,) = measured(items(TWENTY, control, A), {A: [step(TEN, click("a"))]}).masks
    assert not other.untouched and other.overlap == pytest.approx(0.5)  # a box of 10 x 10 in one of 20 x 10


def test_a_corner_that_was_moved_is_a_change():
    """Not hidden in what outlines lose: at a tolerance of 2 pixels a disc is an octagon or so."""
    config = parse_label_config(XML.replace('tolerance="0"', 'tolerance="2"'))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = np.hypot(x - 30, y - 20) < 15
    tag = config.controls["polygon"]
    (kept,) = region_items(tag, Place(A, "image", "cat", SIZE), Mask(disc, 0.9))
    points = [list(point) for point in kept["value"]["points"]]
    points[0][0] += 10
    moved = kept | {"value": kept["value"] | {"points": points}}
    for item, untouched in ((kept, True), (moved, False)):
        (mask,) = measure(annotation([item]), task(1), config, lambda *_: [step(disc, click("a"))]).masks
        assert mask.untouched is untouched and (mask.overlap == 1.0) is untouched


def test_a_larger_picture_in_the_browser():
    twice = np.kron(TWENTY, np.ones((2, 2), bool))
    kept, changed = measured(
        [*items(twice, name=A), *items(twice, name=B)], {A: [step(TWENTY, click("a"))], B: [step(TEN, click("b"))]}
    ).masks
    assert kept.untouched and kept.overlap == 1.0
    assert not changed.untouched and changed.overlap == 0.5


def test_regions_that_cannot_be_read():
    broken = items(TEN, name=A)[0]
    broken = broken | {"value": broken["value"] | {"rle": [1, 2, 3]}}
    found = measured([broken, *items(TEN, name=B)])
    assert found.unread == 1 and len(found.masks) == 1 and found.masks[0].seconds == 12.0


def test_numbers_of_a_project():
    summary = Summary.begin(by_annotator=True, journal=True)
    first = Measured(
        (
            Effort("cat", "prompted", "v1", 3, 4.0, 1.0, 0.5, True),
            Effort("cat", "tracked", "v1", 0, 4.0, 0.6, None, False),
            Effort("dog", "drawn", seconds=4.0),
        ),
        removed=2,
    )
    second = Measured((Effort("cat", "worded", "", 1, 10.0, 0.8, 0.8, False),))
    summary.add(first, "2026-11-29T23:59:00Z", "ann")  # a Sunday
    summary.add(second, "2026-11-30T00:01:00Z", "ben")
    summary.add(Measured(()), "2026-11-30T00:02:00Z", "ben")
    found = summary.as_json()
    assert found["annotations"] == {"with_masks": 2, "without": 1, "cancelled": 0, "unmeasured": 0}
    total = found["total"]
    assert (total["masks"], total["proposed"]) == (4, 3)
    assert total["untouched"] == {"known": 3, "share": 0.3333}
    assert total["prompts_per_mask"] == {"known": 3, "mean": 1.3333, "median": 1.0}  # 3, 0, 1
    assert total["prompts_per_prompted_mask"] == {"known": 2, "mean": 2.0, "median": 2.0}  # 3, 1
    assert total["seconds_per_mask"] == {"known": 4, "mean": 5.5, "median": 4.0}  # 4, 4, 4, 10
    assert total["iou"] == {"known": 3, "mean": 0.8, "median": 0.8}  # 1, 0.6, 0.8
    assert total["iou_of_first_answer"]["mean"] == 0.65
    assert [(row["name"], row["masks"]) for row in found["by_label"]] == [("cat", 3), ("dog", 1)]
    assert [(row["name"], row["masks"]) for row in found["by_version"]] == [("v1", 2), ("(unknown)", 1)]
    assert [(row["name"], row["masks"]) for row in found["by_annotator"]] == [("ann", 3), ("ben", 1)]
    assert [(row["name"], row["masks"]) for row in found["by_week"]] == [("2026-11-23", 3), ("2026-11-30", 1)]
    assert found["predictions_removed"] == 2
    assert found["bars"]["iou"]["masks"] == [0, 0, 1, 0, 1, 0, 0, 1]  # 0.6, 0.8 and 1
    assert found["bars"]["prompts"]["masks"] == [0, 1, 0, 1, 0, 0, 0, 0, 0]  # 1 and 3
    json.dumps(found, allow_nan=False)


def test_nobody_is_told_apart_unless_asked_for():
    summary = Summary.begin(by_annotator=False, journal=True)
    summary.add(Measured((Effort("cat", "drawn"),)), "", "3f9a1c20")
    assert "by_annotator" not in summary.as_json() and "3f9a1c20" not in json.dumps(summary.as_json())


def test_too_many_names_are_counted_together():
    groups = Groups(2)
    for name in ("a", "b", "c", "d", "a"):
        groups.add(name, Effort(name, "drawn"))
    assert [(name, tally.masks) for name, tally in groups.largest_first()] == [("a", 2), ("b", 1), (OTHERS, 2)]


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_a_spread_is_small_and_near(values):
    spread = Spread()
    for value in values:
        spread.add(value)
    assert spread.mean == pytest.approx(np.mean(values))
    assert spread.median == pytest.approx(np.median(values), rel=0.006, abs=0.002)
    assert sum(spread.bars([1, 10])) == len(values) == spread.known


def test_a_spread_never_grows_beyond_its_digits():
    spread = Spread()
    for value in np.random.default_rng(0).uniform(0, 1e5, 50_000):
        spread.add(float(value))
    assert len(spread.counts) < 6_500


def test_an_empty_tally_knows_nothing():
    found = Tally().as_json()
    assert found["untouched"] == {"known": 0, "share": None} and found["iou"]["mean"] is None


def test_weeks():
    assert week_of("2026-11-20T16:37:59.649359Z") == "2026-11-16"
    assert week_of("") == week_of("yesterday") == ""


def test_pseudonyms_need_their_key_and_are_off(tmp_path):
    settings = Settings(state_dir=str(tmp_path), report_annotators=True)
    people = Pseudonyms.wanted(settings)
    assert people.of(1) == Pseudonyms.wanted(settings).of(1) != people.of(2) and len(people.of(1)) == 8
    assert people.of(None) == SOMEBODY
    assert (tmp_path / "annotator-key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "annotator-key").unlink()
    assert Pseudonyms.wanted(settings).of(1) != people.of(1)
    assert Pseudonyms.wanted(Settings(state_dir=str(tmp_path))) is None
