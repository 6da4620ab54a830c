"""The benchmark on the tiny network: what it reports, that both ways do the work they claim, and agree."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from x2sam import bench_exact, bench_models, bench_tracks
from x2sam.bench import TOLERANCE, rows_of, run
from x2sam.bench_clicks import clicks_of
from x2sam.bench_exact import difference_in_float64
from x2sam.bench_models import check_memory, engine_for, random_model, startup_ms
from x2sam.bench_plan import Bench, Plan
from x2sam.bench_tracks import discs, follow_both_ways, track_seconds
from x2sam.cli import app
from x2sam.config import tiny, x2sam_4b
from x2sam.errors import MeasurementError
from x2sam.inference.engine import Engine
from x2sam.model.weights import load_tensors, save_pretrained
from x2sam.straightforward import Straightforward, WordByWord, watched
from x2sam.structures import Prompt

SMALL = Plan(
    repeats=5, straight=2, picture=(48, 64), clip=(32, 48), frames=9, modes=("fifo",), objects=(1, 2), waiting=(2, 3)
)


@pytest.fixture(scope="module")
def measured(tiny_model, tiny_tokenizer):
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine:
        return run(engine, SMALL)


def test_the_result_has_the_promised_keys(measured):
    promised = {
        "device", "first_click_ms", "next_click_ms", "straightforward_click_ms", "ratio_next_click", "track_fps",
        "peak_rss_mb", "peak_device_mb", "max_abs_diff", "first_click_prepared_ms", "cpu_ms", "ratio_next_click_cpu",
        "straightforward_first_frame_ms", "box_ms",
    }  # fmt: skip
    assert promised <= set(measured)
    assert set(measured["next_click_ms"]) == {"p50", "p95"} and set(measured["track_fps"]) == {"1", "2"}
    assert set(measured["track_fps_by_memory"]) == {"pinned", "fifo"}
    assert measured["device"] == "cpu" and measured["peak_device_mb"] is None and measured["notes"] == []
    json.dumps(measured, allow_nan=False)
    expected = measured["straightforward_click_ms"] / measured["next_click_ms"]["p50"]
    assert measured["ratio_next_click"] == pytest.approx(expected, rel=2e-3)


def test_parts_that_nobody_asked_for_are_left_out(tiny_model, tiny_tokenizer):
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine:
        result = run(engine, replace(SMALL, parts=("none",)))
    assert result["first_click_ms"] is result["text_ms"] is result["first_frame_ms"] is None
    assert result["together"] == {}
    assert result["next_click_ms"]["p50"] > 0 and set(result["differences"]) == {"click"}
    assert result["ratio_next_click_cpu"] > 0
    told = {what: ours for what, ours, _, _ in rows_of(result)}
    assert told["first click"] is None and told["next click, processor"] > 0


def test_prompts_that_wait_together_are_measured_beside_the_same_one_by_one(measured):
    assert {what: list(counts) for what, counts in measured["together"].items()} == {
        "next_click": ["2", "3"], "words": ["2", "3"]
    }  # fmt: skip
    for counts in measured["together"].values():
        for times in counts.values():
            assert times["ratio"] == pytest.approx(times["one_by_one_ms"] / times["together_ms"], rel=2e-3)
    assert ("3 words at once", "ms") in {(what, unit) for what, *_, unit in rows_of(measured)}


def test_both_ways_agree(measured):
    assert set(measured["differences"]) == {"click", "text", "track", "track pinned", "track fifo"}
    assert 0 <= measured["max_abs_diff"] == max(measured["differences"].values()) <= 2e-3
    assert measured["mask_iou"] == 1.0 and measured["dtype"] == "float32"
    # two orders of the same additions, and nothing else; some processors add in one order both ways
    assert 0 <= measured["float64_abs_diff"] <= TOLERANCE / 1000


def test_a_difference_in_float64_is_seen(tiny_model, tiny_tokenizer, monkeypatch):
    """On some processors both ways agree to the last bit, so that no difference must not mean nothing was compared."""
    picture, clicks = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8), clicks_of((48, 64), 1)[0][:2]
    mirrored = lambda engine, frames, watch: Straightforward(engine, frames[:, :, ::-1].copy(), watch)  # noqa: E731
    monkeypatch.setattr(bench_exact, "Straightforward", mirrored)
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine:
        assert difference_in_float64(engine, picture, clicks) > TOLERANCE


def test_each_way_does_its_own_work(measured):
    ours, theirs = measured["calls"]["next_click"], measured["calls"]["straightforward_click"]
    nothing_again = {"mask_encoder": 0, "pixel_decoder": 0, "vision_tower": 0, "mask_decoder": 1, "language_model": 1}
    assert ours == nothing_again
    # each once a request, and the answer token by token
    assert theirs["language_model"] > 2
    assert {k: v for k, v in theirs.items() if k != "language_model"} == {
        "mask_encoder": 1, "pixel_decoder": 1, "vision_tower": 1, "mask_decoder": 1
    }  # fmt: skip


def test_no_click_that_is_timed_was_answered_before(tiny_model, tiny_tokenizer):
    """The first of them too: a session knows its last answers."""
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine:
        result = run(engine, replace(SMALL, repeats=1, parts=("none",)))
    assert result["calls"]["next_click"]["mask_decoder"] == 1


def test_other_numbers_are_held_against_float32(tiny_model, tiny_tokenizer):
    """As on a GPU: bfloat16 serves, and the same weights in float32 tell what that costs."""
    small = Plan(repeats=2, straight=1, picture=(48, 64), clip=(32, 48), frames=8, objects=(1,), modes=())
    assert small.frames > tiny_model.config.memory.slots
    with Engine(deepcopy(tiny_model).bfloat16(), tiny_tokenizer, "tiny") as engine:
        result = run(engine, small)
    assert result["dtype"] == "bfloat16" and 0 < result["float32_mask_iou"] <= 1
    json.dumps(result, allow_nan=False)


def test_models_that_sketch_agree_too(sketching_model, tiny_tokenizer):
    with Engine(sketching_model, tiny_tokenizer, "tiny") as engine:
        result = run(
            engine, Plan(repeats=2, straight=2, picture=(48, 64), clip=(32, 48), frames=8, objects=(2,), modes=())
        )
    assert result["calls"]["next_click"]["language_model"] == 0
    assert result["calls"]["straightforward_click"]["language_model"] > 2
    assert result["float64_abs_diff"] <= TOLERANCE and result["mask_iou"] == 1.0


def test_each_object_is_held_against_itself_though_one_is_out_of_sight(sketching_model, tiny_tokenizer, monkeypatch):
    """That one has no sketch, so the network is asked for it after the others, and its row comes last."""
    three = discs((32, 48), 3)
    three[1] = np.zeros((32, 48), bool)
    three[1][16, 24] = True  # too small to be followed: out of sight on the next frame
    monkeypatch.setattr(bench_tracks, "discs", lambda size, count: three)
    with Engine(sketching_model, tiny_tokenizer, "tiny") as engine, watched(sketching_model) as watch:
        bench = Bench(engine, watch, replace(SMALL, frames=2), lambda text: None)
        follow_both_ways(bench, Straightforward(engine, bench.clip, watch), 3, "per-object")
    assert bench.overlaps == [1.0, 1.0, 1.0] and bench.differences["track"] <= 1e-4


def test_outputs_that_differ_are_not_reported(tiny_model, tiny_tokenizer, monkeypatch):
    read = WordByWord.read

    def forgetful(self, *args, **kwargs):
        condition = read(self, *args, **kwargs)
        condition.seg = condition.seg + 1.0
        return condition

    monkeypatch.setattr(WordByWord, "read", forgetful)
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine, pytest.raises(MeasurementError, match="float64"):
        run(engine, SMALL)


def test_every_query_comes_to_picture_size(tiny_model, tiny_tokenizer):
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine, watched(tiny_model) as watch:
        prompt = clicks_of((40, 56), 1)[0][0]
        _, masks = Straightforward(engine, picture[None], watch).click(prompt, None, None)
        words = Straightforward(engine, picture[None], watch).words(Prompt(text="the red circle"))
    assert masks.shape == (tiny_model.config.mask_decoder.queries, 40, 56) and masks.dtype == bool
    assert words[0].mask.shape == (40, 56)


def test_tracking_that_would_take_too_long_is_left_out(tiny_model, tiny_tokenizer):
    assert track_seconds(tiny_model, SMALL) > 0
    with Engine(tiny_model, tiny_tokenizer, "tiny") as engine:
        result = run(engine, Plan(repeats=1, straight=1, picture=(48, 64), clip=(32, 48), frames=8, track_seconds=0.0))
    assert result["track_fps"] == {"1": None, "4": None} and "left out" in result["notes"][0]
    assert "straightforward_track_fps" not in result
    assert all(plain is None for what, _, plain, _ in rows_of(result) if what.startswith("tracking"))


def test_discs_do_not_overlap():
    masks = np.stack(discs((36, 64), 4))
    assert masks.any((1, 2)).all() and masks.sum(0).max() == 1


def test_random_models_are_the_same_each_time():
    first, second = (random_model(tiny(), "cpu", torch.bfloat16, seed=4) for _ in range(2))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert a.dtype == torch.bfloat16 and torch.equal(a, b), name
    assert {b.dtype for b in first.buffers() if b.is_floating_point()} == {torch.float32}


def test_too_little_memory_is_told_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(bench_models, "free_memory", lambda: 3 * 2**30)
    with pytest.raises(MeasurementError, match=r"needs about \d+ GiB on cpu, 3 are free.*--size mid"):
        check_memory("4b", x2sam_4b(), "cpu")
    check_memory("tiny", tiny(), "cpu")


def test_sizes_are_built_with_random_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(bench_models.SIZES, "mid", tiny)
    engine, weights, directory = engine_for("mid", "auto", "cpu", "auto")
    with engine:
        assert (engine.name, weights, directory, engine.device) == ("mid", "random", None, "cpu")
    monkeypatch.setitem(bench_models.SIZES, "nano", tiny)
    monkeypatch.setattr(bench_models, "EMBEDDED", tmp_path)
    engine, weights, _ = engine_for("nano", "auto", "cpu", "float32")
    engine.close()
    assert weights == "random"


def test_start_up_is_that_of_a_fresh_process(tiny_engine, monkeypatch):
    seen = []

    def run_process(command, check, env):
        directory = Path(command[3])
        seen.append(
            (command[4], (directory / "tokenizer").is_dir(), len(load_tensors(directory / "model.safetensors")))
        )

    monkeypatch.setattr("subprocess.run", run_process)
    assert startup_ms(tiny_engine, None) > 0
    assert seen == [("cpu", True, len(tiny_engine.model.state_dict()))]
    monkeypatch.setattr(bench_models, "SAVED_AT_MOST", 10)
    assert startup_ms(tiny_engine, None) is None


def test_the_command_measures_a_model_that_is_given(tmp_path, monkeypatch, tiny_model, tiny_tokenizer):
    monkeypatch.chdir(tmp_path)
    save_pretrained(tiny_model, Path("model"))
    tiny_tokenizer.save_pretrained("model/tokenizer")
    small = Plan(
        repeats=2, straight=1, picture=(48, 64), clip=(32, 48), frames=8, modes=(), objects=(1,), startup=False
    )
    monkeypatch.setattr(Plan, "quick", classmethod(lambda cls: small))
    outcome = CliRunner().invoke(app, ["bench", "--model", "model", "--quick", "--repeats", "2", "--json", "b.json"])
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    result = json.loads(Path("b.json").read_text())
    assert (result["size"], result["weights"], result["startup_ms"]) == ("tiny", "given", None)
    for word in ("first click", "next click", "tracking 1"):
        assert word in outcome.stdout


def test_the_command_tells_that_memory_is_too_small(monkeypatch):
    monkeypatch.setattr(bench_models, "free_memory", lambda: 0)
    outcome = CliRunner().invoke(app, ["bench", "--size", "mid", "--device", "cpu"])
    assert outcome.exit_code == 1 and "size mid needs" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
