"""Every form of a region to pixels: what was a mask before is that mask again."""

from __future__ import annotations

import base64
import io
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from exporting import Exporting, annotation, blob, drawn, items, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from backend.export_shapes import DAMAGED, fill_outline, value_to_mask
from backend.geometry import mask_to_polygons, points_to_percent

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)).filter(lambda m: m.any())


def exported(directory):
    """Label and mask of each annotation of a COCO file."""
    coco = COCO(directory / "annotations.json")
    return [(coco.cats[a["category_id"]]["name"], coco.annToMask(a).astype(bool)) for a in coco.anns.values()]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=MASKS, control=st.sampled_from(["brush", "bitmask", "polygon"]))
def test_a_mask_comes_out_as_it_went_in(tmp_path, mask, control):
    """Outlines too, with a tolerance of nothing, apart from parts and holes that outlines leave out as too small."""
    result = items(mask, control)
    (label, found), *others = exported(Exporting(tmp_path).run([task(1, annotation(result))], "coco"))
    assert label == "cat" and not others
    if control != "polygon" or np.count_nonzero(mask) == mask.size:
        assert (found == mask).all()
    else:
        assert (found & mask).any()


@given(MASKS)
def test_outlines_with_all_parts_and_holes_are_exact(mask):
    found = np.zeros(mask.shape, bool)
    for outline in mask_to_polygons(mask, tolerance=0, smallest=0):
        found |= value_to_mask("polygon", {"points": points_to_percent(outline, mask.shape)}, mask.shape)
    assert (found == mask).all()


@given(st.integers(1, 90), st.integers(1, 90), st.data())
def test_boxes_are_exact(height, width, data):
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), bool)
    mask[y0 : data.draw(st.integers(y0 + 1, height)), x0 : data.draw(st.integers(x0 + 1, width))] = True
    (item,) = items(mask, "rectangle")
    assert (value_to_mask("rectangle", item["value"], mask.shape) == mask).all()


def test_holes_and_thin_parts_are_kept(tmp_path):
    mask = blob()
    result = [drawn(mask, "a"), *items(mask, "bitmask", label="dog")]
    found = exported(Exporting(tmp_path).run([task(1, annotation(result))], "coco"))
    assert [label for label, _ in found] == ["cat", "dog"]
    assert all((one == mask).all() for _, one in found)
    assert not mask[20, 30] and mask[20, 59], "the test itself: a hole, and a line of one pixel"


def test_soft_edges_are_cut_in_the_middle(tmp_path):
    """What a person brushed over has an alpha between nothing and all."""
    alpha = np.zeros((4, 6), np.uint8)
    alpha[1], alpha[2] = 127, 128
    layers = np.zeros((4, 6, 4), np.uint8)
    layers[..., 3] = alpha
    file = io.BytesIO()
    Image.fromarray(layers).save(file, "PNG")
    bitmask = items(np.ones((4, 6), bool), "bitmask")[0]
    bitmask["value"]["imageDataURL"] = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    bits = f"{96:032b}{7:05b}" + "".join(f"{n:04b}" for n in (2, 3, 7, 15))
    flat = layers.reshape(-1)
    bits += "0" + "10" + f"{95:08b}" + "".join(f"{value:08b}" for value in flat)
    bits += "0" * (-len(bits) % 8)
    brush = drawn(np.ones((4, 6), bool), "b", "dog")
    brush["value"]["rle"] = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    found = exported(Exporting(tmp_path).run([task(1, annotation([bitmask, brush]))], "coco"))
    assert len(found) == 2
    for _, mask in found:
        assert (mask == (alpha >= 128)).all()


def test_an_ellipse_by_its_equation():
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90}
    mask = value_to_mask("ellipse", value, (100, 200))
    y, x = np.mgrid[:100, :200] + 0.5
    assert (mask == (((x - 100) / 10) ** 2 + ((y - 50) / 50) ** 2 <= 1)).all()


def test_a_keypoint_is_the_disc_that_the_editor_draws():
    mask = value_to_mask("keypoint", {"x": 50, "y": 50, "width": 10}, (100, 100))
    assert abs(mask.sum() - np.pi * 100) < 12 and mask[50, 50]
    assert value_to_mask("keypoint", {"x": 100, "y": 0, "width": 0.01}, (10, 10)).sum() == 1


def test_a_turned_box():
    value = {"x": 50, "y": 20, "width": 30, "height": 30, "rotation": 45}
    mask = value_to_mask("rectangle", value, (100, 100))
    assert abs(int(mask.sum()) - 900) < 30 and mask[40, 50] and not mask[22, 60]


def test_a_star_is_filled_as_browsers_do():
    """The middle of a pentagram, which its outline goes round twice."""
    angle = np.pi * (0.5 + 0.8 * np.arange(5))
    points = np.stack([50 + 45 * np.cos(angle), 50 - 45 * np.sin(angle)], 1)
    assert fill_outline(points, (100, 100))[50, 50]


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ("brush", {"rle": [1, 2, 3]}),
        ("brush", {"rle": "x"}),
        ("bitmask", {"imageDataURL": "data:image/png;base64,AAAA"}),
        ("bitmask", {"imageDataURL": 7}),
        ("polygon", {"points": [[1, 1], [2, 2]]}),
        ("polygon", {"points": [[1, float("nan")], [2, 2], [3, 1]]}),
        ("rectangle", {"x": 1, "y": 1, "width": "2", "height": 2}),
        ("rectangle", {"x": 1e9, "y": 1, "width": 2, "height": 2}),
        ("ellipse", {"x": 1, "y": 1, "radiusX": None, "radiusY": 2}),
    ],
)
def test_damage_is_told(shape, value):
    with pytest.raises(DAMAGED):
        value_to_mask(shape, value, (8, 8))


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ("polygon", {"points": [[50 + k % 7, 100 * (k % 2)] for k in range(20_000)]}),
        ("keypoint", {"x": 50, "y": 50, "width": 1}),
    ],
)
def test_no_shape_takes_much_more_memory_than_its_picture(shape, value):
    tracemalloc.start()
    try:
        with suppress(ValueError):
            value_to_mask(shape, value, (1000, 8000))
        assert tracemalloc.get_traced_memory()[1] < 10 * 8_000_000
    finally:
        tracemalloc.stop()


def test_nothing_huge_is_made():
    with pytest.raises(DAMAGED):
        value_to_mask("rectangle", {"x": 0, "y": 0, "width": 1, "height": 1}, (1 << 20, 1 << 20))
