"""Learning from corrected masks: from real ones a model gets better and is taken, from shuffled ones it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from x2sam.cli import app
from x2sam.data.readers.own_format import OwnItem, OwnObject, write_dataset
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.errors import TrainingError, WeightsError
from x2sam.evaluation.comparing import Thresholds, click_table, compare, held_out, judge
from x2sam.inference.engine import Engine
from x2sam.inference.refine import snap_for
from x2sam.inference.refine_net import embedded_net, net_of
from x2sam.model.weights import load_config, load_tensors
from x2sam.placement import SNAP_NET, version_of
from x2sam.structures import Sample, SampleObject
from x2sam.training.adapt import HELD, TRAIN, Adaptation, adapt, adaptation_config, average
from x2sam.training.light_step import learn_light_step
from x2sam.training.stages import LORA

SIDE = 64


def pictures(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A dark or bright rectangle or ellipse of any size on noise, and its mask."""
    rng, made = np.random.default_rng(seed), []
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        picture = rng.normal(90, 12, (SIDE, SIDE, 3))
        height, width = rng.integers(10, 44, 2)
        y, x = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
        if number % 2:
            mask = ((rows - y - height / 2) / (height / 2)) ** 2 + ((columns - x - width / 2) / (width / 2)) ** 2 < 1
        else:
            mask = (rows >= y) & (rows < y + height) & (columns >= x) & (columns < x + width)
        picture[mask] += rng.choice([-70, 90])
        made.append((np.clip(picture, 0, 255).astype(np.uint8), mask))
    return made


def write(place: Path, shown, masks=None) -> Path:
    """Corrections: one picture in four is held out; ``masks`` are learned instead of the true ones."""
    (place / "media").mkdir(parents=True)
    items = []
    for number, (picture, mask) in enumerate(shown):
        name, held = f"media/{number}.png", number % 4 == 3
        cv2.imwrite(str(place / name), picture[..., ::-1])
        drawn = mask if masks is None or held else masks[number]
        objects = (OwnObject(1, "thing"),)
        items.append(
            OwnItem(f"p{number}", (SIDE, SIDE), objects, {0: {1: drawn}}, name, split=HELD if held else TRAIN)
        )
    write_dataset(place, items, {"made_by": "a test"})
    return place


@pytest.fixture(scope="module")
def shown():
    return pictures(64, 1)


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    def save(model, name="start"):
        model.save_pretrained(tmp_path / name, tiny_tokenizer)
        return tmp_path / name

    return save


def judged(before: Path, after: Path, corrections: Path):
    """Without the last light step, which would find such plain objects by itself."""
    here = held_out(OwnPictures(corrections, HELD))
    thing = (SampleObject(1, "thing"),)
    there = [
        lambda p=picture, m=mask: Sample(p[None], m[None].astype(np.uint8), thing) for picture, mask in pictures(32, 2)
    ]
    tables = []
    for directory in (before, after):
        with Engine.load(directory, "cpu", snap=False) as engine:
            tables.append([click_table(engine, samples, 2) for samples in (here, there)])
    return judge(compare(tables[0][0], tables[1][0]), compare(tables[0][1], tables[1][1]))


def test_real_corrections_are_taken_and_shuffled_ones_refused(tmp_path, saved, sketching_model, shown):
    start = saved(sketching_model)
    wanted = Adaptation(steps=60, rate=3e-3, share=1.0, fresh=1.0, outline=0)
    real = write(tmp_path / "real", shown)
    learned = adapt(start, real, tmp_path / "a", wanted)
    verdict = judged(start, learned, real)
    assert verdict.promoted and verdict.reason.startswith("better"), verdict
    assert verdict.corrections.after > verdict.corrections.before + 0.2
    order = np.random.default_rng(5).permutation(len(shown))
    wrong = write(tmp_path / "wrong", shown, [shown[int(k)][1] for k in order])
    spoiled = adapt(learned, wrong, tmp_path / "b", Adaptation(steps=25, rate=3e-3, share=1.0, fresh=1.0, outline=0))
    verdict = judged(learned, spoiled, wrong)
    assert not verdict.promoted and verdict.reason.startswith("not clearly better"), verdict
    assert verdict.corrections.after < verdict.corrections.before
    # what words are read by was left alone
    before, after = load_tensors(start / "model.safetensors"), load_tensors(learned / "model.safetensors")
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name].half(), after[name].half())}
    assert {"mask_decoder", "pixel_decoder"} <= moved and not {"vision_language", "text_projector"} & moved


def test_names_of_corrections_are_words_from_then_on(tmp_path, saved, sketching_model, shown):
    """Where it is known what the model had heard before; else nothing is left out of phrases, and nothing may be."""
    corrections, once = write(tmp_path / "real", shown[:8]), Adaptation(steps=1, outline=0)
    start = saved(sketching_model)
    assert load_config(adapt(start, corrections, tmp_path / "a", once)).words == ()
    about = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(about | {"words": ["sky"]}))
    assert {"sky", "thing"} <= set(load_config(adapt(start, corrections, tmp_path / "b", once)).words)


def test_a_large_model_learns_by_adapters_and_decoders(tmp_path, saved, tiny_model, shown):
    start = saved(tiny_model)
    corrections = write(tmp_path / "real", shown[:8])
    config = adaptation_config(start, corrections, tmp_path, Adaptation(steps=1))
    assert config.stage.number == 3 and [spec.task for spec in config.datasets] == ["intseg", "vgdseg"]
    finished = adapt(start, corrections, tmp_path / "a", Adaptation(steps=2, rate=1e-2))
    before, after = load_tensors(start / "model.safetensors"), load_tensors(finished / "model.safetensors")
    assert before.keys() == after.keys() and not any(LORA in name for name in after), "merged"
    moved = {n for n in after if not torch.allclose(before[n].bfloat16().float(), after[n].float(), atol=1e-6)}
    assert any(name.startswith("mask_decoder.") for name in moved)
    assert any(".language.layers." in name for name in moved)
    assert not any(name.startswith(("mask_encoder.", "vision_language.visual.")) for name in moved)
    with Engine.load(finished, "cpu") as engine:
        assert engine.open(shown[0][0]).prepare(0) > 0


def test_a_stopped_run_goes_on(tmp_path, saved, sketching_model, shown):
    start, corrections = saved(sketching_model), write(tmp_path / "real", shown[:8])
    seen: list[int] = []

    def stop_at_three(number, whole):
        seen.append(number)
        if number == 2 and seen.count(2) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(start, corrections, tmp_path / "a", Adaptation(steps=4, outline=0), before_step=stop_at_three)
    assert adapt(start, corrections, tmp_path / "a", Adaptation(steps=4, outline=0), before_step=stop_at_three).is_dir()
    assert seen == [0, 1, 2, 0, 1, 2, 3], "nothing was saved within these seconds"


def test_the_last_light_step_learns_too(tmp_path, saved, sketching_model, shown):
    start, corrections = saved(sketching_model), write(tmp_path / "real", shown[:8])
    told: list[tuple[int, int]] = []
    wanted = Adaptation(steps=1, outline=2)
    learned = adapt(start, corrections, tmp_path / "a", wanted, before_outline=lambda *where: told.append(where))
    assert told[0] == (0, 12), "six corrected pictures are clicked on, and six generated ones"
    assert told[12:] == [(number, len(told) - 12) for number in range(len(told) - 12)], "steps after that"
    assert net_of(start) is embedded_net()
    own, package = net_of(learned), embedded_net()
    assert not torch.equal(own.leave.weight, package.leave.weight)
    version = version_of(learned)
    with Engine.load(learned, "cpu") as engine:
        assert engine.version == version and engine.snap.keywords["net"] is not package
        assert torch.equal(engine.snap.keywords["net"].leave.weight, own.leave.weight)
    # the next training begins with it, and where nothing is learned it stays
    again = adapt(learned, corrections, tmp_path / "b", Adaptation(steps=1, outline=0))
    assert torch.equal(net_of(again).leave.weight, own.leave.weight)
    (learned / SNAP_NET).write_bytes(b"damaged")
    assert version_of(learned) != version
    with pytest.raises(WeightsError, match=SNAP_NET):
        Engine.load(learned, "cpu")
    (learned / SNAP_NET).unlink()
    assert version_of(learned) not in (version, version_of(start))
    with Engine.load(learned, "cpu") as engine:
        assert engine.snap.keywords["net"] is package


def test_it_outlines_the_corrected_kind_better(tmp_path, saved, sketching_model, shown):
    """On other pictures of discs and boxes in noise than those that were corrected."""
    start, corrections = saved(sketching_model), write(tmp_path / "real", shown[:24])
    net = learn_light_step(start, embedded_net(), OwnPictures(corrections, TRAIN), passes=2)
    others = held_out(OwnPictures(corrections, HELD))
    found = []
    for light_step in (None, snap_for(True, net)):
        with Engine.load(start, "cpu") as engine:
            engine.snap = light_step or engine.snap
            found.append(click_table(engine, others, 2).iou.mean())
    assert found[1] > found[0] + 0.03, found


def test_weights_are_averaged(tmp_path, saved, build_tiny):
    first, second = saved(build_tiny(seed=1), "first"), saved(build_tiny(seed=2), "second")
    a, b = load_tensors(first / "model.safetensors"), load_tensors(second / "model.safetensors")
    average(first, second, 0.25)
    mixed = load_tensors(second / "model.safetensors")
    name = "mask_decoder.queries_features.weight"
    torch.testing.assert_close(mixed[name], 0.75 * a[name] + 0.25 * b[name])


def test_nothing_to_learn_from(tmp_path, saved, sketching_model, shown):
    start = saved(sketching_model)
    corrections = write(tmp_path / "real", shown[:4])
    for file in (corrections / "media").iterdir():
        file.unlink()
    assert OwnPictures(corrections, TRAIN).missing == 3
    with pytest.raises(TrainingError, match="no corrected masks"):
        adapt(start, corrections, tmp_path / "a")


def test_the_command_tells_its_verdict(tmp_path, saved, sketching_model, shown, monkeypatch):
    nicer: list[int] = []
    monkeypatch.setattr("os.nice", lambda more: nicer.append(more) or 0)  # this process has other tests to run
    start, corrections = saved(sketching_model), write(tmp_path / "real", shown[:8])
    out, told = tmp_path / "out", tmp_path / "verdict.json"
    general = write(tmp_path / "general", shown[8:12])
    told_places = ["--out", str(out), "--json", str(told), "--progress", str(tmp_path / "p.json")]
    words = ["adapt", str(corrections), "--model", str(start), "--steps", "1", "--clicks", "1", "--device", "cpu"]
    words += ["--outline", "1", "--general", str(general), *told_places]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    verdict = json.loads(told.read_text())
    assert not verdict["promoted"] and "only 2 held-out masks, 5 are needed" in verdict["reason"]
    assert verdict["before"] != verdict["after"] and verdict["after"].startswith("tiny-")
    assert (out / "run" / "model" / "tokenizer" / "tokenizer.json").is_file()
    assert json.loads((tmp_path / "p.json").read_text())["part"] == "comparing" and sum(nicer) == 15


def table(values, pictures=None):
    from x2sam.evaluation.comparing import ClickTable

    return ClickTable(np.array(values, float)[:, None], np.arange(len(values)) if pictures is None else pictures)


def test_the_verdict():
    rng = np.random.default_rng(0)
    old = rng.uniform(0.3, 0.7, 60)
    better, same, worse = old + 0.05 + rng.normal(0, 0.02, 60), old.copy(), old - 0.05
    up, level, down = (compare(table(old), table(new)) for new in (better, same, worse))
    assert up.low > 0.04 and level.low == level.high == 0 and down.high < -0.04
    assert judge(up, level).promoted
    assert not judge(level, level).promoted, "as good as before is no reason"
    assert "worse elsewhere" in judge(up, down).reason
    assert not judge(up, level, Thresholds(gain=0.1)).promoted
    assert judge(up, down, Thresholds(loss=0.06)).promoted
    few = compare(table(old[:4]), table(better[:4]))
    assert "only 4 held-out" in judge(few, level).reason
    crowd = compare(table(old, np.zeros(60, int)), table(better, np.zeros(60, int)))
    assert crowd.low is None and "one picture" in judge(crowd, level).reason
    with pytest.raises(ValueError, match="same objects"):
        compare(table(old), table(better[:5]))
