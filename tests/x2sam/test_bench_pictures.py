"""The benchmark on a model for pictures: its own work each way, equal outputs, and no tracks."""

from __future__ import annotations

import json

import pytest

from x2sam.bench import TOLERANCE, rows_of, run
from x2sam.bench_models import engine_for
from x2sam.bench_plan import Plan

SMALL = Plan(repeats=5, straight=2, picture=(48, 64), clip=(32, 48), frames=3, modes=(), objects=(1,))


@pytest.fixture(scope="module")
def measured():
    engine, weights, directory = engine_for("xsam-tiny", "auto", "cpu", "auto")
    assert (weights, directory) == ("random", None)
    with engine:
        return run(engine, SMALL)


def test_a_second_click_runs_no_encoder(measured):
    assert measured["calls"]["next_click"] == {
        "mask_encoder": 0, "pixel_decoder": 0, "vision_tower": 0, "mask_decoder": 1, "language_model": 1
    }  # fmt: skip
    straight = dict(measured["calls"]["straightforward_click"])
    assert straight.pop("language_model") > 2 and set(straight.values()) == {1}


def test_both_ways_agree(measured):
    assert set(measured["differences"]) == {"click", "text"}
    assert 0 <= measured["float64_abs_diff"] <= TOLERANCE and measured["mask_iou"] == 1.0
    assert measured["dtype"] == "float32"


def test_tracks_are_left_out_and_it_says_so(measured):
    assert measured["first_frame_ms"] is None and measured["track_fps"] == {"1": None}
    assert measured["notes"] == ["tracking was left out: the model looks at pictures one by one"]
    json.dumps(measured, allow_nan=False)
    told = {what: (ours, theirs) for what, ours, theirs, _ in rows_of(measured)}
    assert told["next click, p50"][0] and told["next click, p50"][1]
