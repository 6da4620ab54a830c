"""Region prompts: exact rasters for drawn prompts, sensible ones for simulated prompts."""

import numpy as np
import pytest

from x2sam.data.masks import mask_iou
from x2sam.data.noisy_masks import CHANGES, noisy_mask
from x2sam.data.prompts import (
    KINDS,
    box_prompt,
    click_radius,
    disc,
    mask_prompt,
    point_prompt,
    prompt_region,
    rasterize_box,
    rasterize_stroke,
    scribble_prompt,
    simulated_prompt,
)
from x2sam.errors import PromptError
from x2sam.structures import Point, Prompt

SIZE = (80, 120)


def block(size=SIZE, rows=slice(20, 60), cols=slice(30, 90)):
    mask = np.zeros(size, bool)
    mask[rows, cols] = True
    return mask


def test_click_radius_grows_with_long_pictures():
    assert click_radius((480, 640)) == 10 and click_radius((100, 100)) == 10 and click_radius((1280, 960)) == 20


def test_disc_is_exact_and_clipped():
    assert np.argwhere(disc((5, 5), 2.5, 2.5, 1.0)).tolist() == [[1, 2], [2, 1], [2, 2], [2, 3], [3, 2]]
    rows, cols = np.indices(SIZE) + 0.5
    for x, y, r in ((3.2, 4.1, 10.0), (119.9, 79.9, 7.3), (60.0, 40.0, 10.0)):
        assert np.array_equal(disc(SIZE, x, y, r), (cols - x) ** 2 + (rows - y) ** 2 <= r * r)
    assert not disc(SIZE, -30, -30, 10).any()


def test_the_smallest_disc_is_the_pixel_under_the_pointer():
    assert np.argwhere(disc((5, 5), 3.9, 0.1, 0.2)).tolist() == [[0, 3]]
    assert np.argwhere(disc((5, 5), 5.0, 5.0, 0.1)).tolist() == [[4, 4]]


@pytest.mark.parametrize(
    ("box", "rows", "cols"),
    [
        ((2, 1, 5, 4), (1, 4), (2, 5)),
        ((5, 4, 2, 1), (1, 4), (2, 5)),
        ((1.6, 1.4, 4.4, 3.6), (1, 4), (2, 4)),
        ((-9, -9, 99, 99), (0, 6), (0, 8)),
        ((3.1, 2, 3.2, 5), (2, 5), (3, 4)),
        ((8, 6, 8, 6), (5, 6), (7, 8)),
    ],
)
def test_boxes(box, rows, cols):
    found = np.argwhere(rasterize_box((6, 8), box))
    assert found.min(0).tolist() == [rows[0], cols[0]] and (found.max(0) + 1).tolist() == [rows[1], cols[1]]
    assert len(found) == (rows[1] - rows[0]) * (cols[1] - cols[0])


def test_a_box_outside_leaves_nothing():
    assert not rasterize_box((6, 8), (20, 20, 30, 30)).any()


def test_a_stroke_is_as_wide_as_asked():
    stroke = rasterize_stroke(SIZE, np.array([(20.0, 40.0), (100.0, 40.0)]), 5.0)
    assert 9 <= stroke[:, 60].sum() <= 11 and not stroke[:, 10].any() and stroke[40, 17]
    assert np.array_equal(rasterize_stroke(SIZE, np.array([(30.0, 30.0)]), 5.0), disc(SIZE, 30, 30, 5))
    assert rasterize_stroke(SIZE, np.array([(-1e9, 40.0), (1e9, 40.0)]), 2.0).any(0).all()


def test_regions_are_united_and_negative_points_leave_no_trace():
    prompt = Prompt(
        points=(Point(10, 10), Point(100, 70, False)),
        boxes=((40, 40, 50, 50),),
        strokes=(np.array([(5.0, 75.0), (30.0, 75.0)]),),
        masks=(block(),),
    )
    region = prompt_region(prompt, SIZE)
    expected = disc(SIZE, 10, 10, 10) | rasterize_box(SIZE, (40, 40, 50, 50)) | block()
    expected |= rasterize_stroke(SIZE, np.array([(5.0, 75.0), (30.0, 75.0)]), 5.0)
    assert np.array_equal(region, expected) and not region[70, 105]


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        (Prompt(), "mark a part"),
        (Prompt(points=(Point(5, 5, False),)), "mark a part"),
        (Prompt(points=(Point(-50, -50),)), "mark a part"),
        (Prompt(boxes=((200, 200, 300, 300),)), "mark a part"),
        (Prompt(masks=(np.zeros(SIZE, bool),)), "mark a part"),
        (Prompt(masks=(np.ones((9, 9), bool),)), "draw it on this picture"),
        (Prompt(points=(Point(float("nan"), 5),)), "draw it again"),
    ],
)
def test_prompts_without_a_region_say_what_to_do(prompt, hint):
    with pytest.raises(PromptError, match=hint):
        prompt_region(prompt, SIZE)


MASKS = {
    "block": block(),
    "corner": block(rows=slice(0, 6), cols=slice(0, 5)),
    "ring": disc(SIZE, 60, 40, 30) & ~disc(SIZE, 60, 40, 22),
    "pixel": block(rows=slice(40, 41), cols=slice(7, 8)),
    "parts": block(cols=slice(5, 40)) | block(cols=slice(80, 110)),
    "everything": np.ones(SIZE, bool),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", sorted(MASKS))
def test_simulated_prompts_touch_their_object(kind, name):
    mask = MASKS[name]
    for seed in range(15):
        region = simulated_prompt(mask, np.random.default_rng(seed), kind)
        assert region.shape == SIZE and region.dtype == bool and (region & mask).any()
        assert np.array_equal(region, simulated_prompt(mask, np.random.default_rng(seed), kind))


def test_points_lie_inside_and_can_cover_every_part():
    for seed in range(20):
        for name in ("ring", "parts", "block"):
            clicked = point_prompt(MASKS[name], np.random.default_rng(seed), radius=0.1)
            assert clicked.sum() == 1 and MASKS[name][clicked].all()
    both = point_prompt(MASKS["parts"], np.random.default_rng(0), 1.0, every_part=True)
    assert both[:, :60].any() and both[:, 60:].any()


def test_boxes_and_masks_stay_close_to_the_truth():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert mask_iou(box_prompt(block(), rng), block()) > 0.75
        assert mask_iou(mask_prompt(block(), rng), block()) > 0.75
        assert mask_iou(scribble_prompt(block(), rng), block()) < 0.6


def test_empty_masks_and_unknown_kinds_are_refused():
    for kind in KINDS:
        with pytest.raises(PromptError):
            simulated_prompt(np.zeros(SIZE, bool), np.random.default_rng(0), kind)
    with pytest.raises(PromptError, match="point, scribble, box, mask"):
        simulated_prompt(block(), np.random.default_rng(0), "lasso")


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_every_change_changes_something_plausible(change):
    scores = [mask_iou(CHANGES[change](block(), np.random.default_rng(s), None), block()) for s in range(20)]
    assert min(scores) > 0.2 and np.mean(scores) < 0.99


def test_noisy_masks_are_wrong_but_not_empty_and_can_take_in_a_neighbour():
    labels = np.where(block(), 1, 0).astype(np.uint8)
    labels[20:60, 90:110] = 2
    merged = CHANGES["merged"](block(), np.random.default_rng(0), labels)
    assert np.array_equal(merged, labels > 0)
    scores = [mask_iou(noisy_mask(block(), np.random.default_rng(s), labels), block()) for s in range(40)]
    assert 0.3 < np.mean(scores) < 0.95
    for s in range(20):
        assert noisy_mask(MASKS["pixel"], np.random.default_rng(s)).any()
    with pytest.raises(PromptError):
        noisy_mask(np.zeros(SIZE, bool), np.random.default_rng(0))
