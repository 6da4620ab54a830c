"""The configurations that are delivered: the paper's numbers, and settings that the code understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2sam.config import x2sam_4b
from x2sam.data.readers import READERS
from x2sam.training.settings import load_train_config

CONFIGS = Path(__file__).parents[3] / "x2sam" / "training" / "configs"
# per task: how many data sets of the paper's third stage are pictures and clips
PAPER = {
    ("chat", "image"): 1, ("genseg", "image"): 1, ("refseg", "image"): 3, ("reaseg", "image"): 1,
    ("vgdseg", "image"): 1, ("gcgseg", "image"): 4, ("chat", "video"): 1, ("genseg", "video"): 3,
    ("refseg", "video"): 2, ("reaseg", "video"): 1, ("vgdseg", "video"): 2, ("objseg", "video"): 1,
    ("gcgseg", "video"): 5,
}  # fmt: skip
CLIPS = {"panoptic-video", "ytvis", "refer-video", "vos"}


@pytest.mark.parametrize("name", ["nano", "short", "stage1", "stage3"])
def test_they_can_be_read(name):
    config = load_train_config(CONFIGS / f"{name}.toml")
    assert config.stage.number == {"nano": 0, "short": 0, "stage1": 1, "stage3": 3}[name]
    for spec in config.datasets:
        reader = READERS[spec.format]
        assert spec.task in reader.tasks, spec.name
        given = {key for key in ("annotations", "images", "masks", "source") if getattr(spec, key)}
        assert set(reader.needs) <= given <= {*reader.needs, *reader.takes}, spec.name
        assert all("data" in Path(getattr(spec, key)).parts for key in given)


def test_numbers_of_the_paper():
    first, third = (load_train_config(CONFIGS / f"stage{n}.toml") for n in (1, 3))
    for config in (first, third):
        optim = config.optim
        assert (optim.lr, optim.betas, optim.weight_decay, optim.warmup_fraction) == (1e-4, (0.9, 0.999), 0.05, 0.03)
        assert (optim.stable_fraction, optim.final_fraction, optim.decay_all) == (0.0, 0.0, True)
        assert (config.model.preset, config.stage.points, config.batch.images) == ("x2sam-4b", 12544, 4)
        assert (config.loop.steps, config.loop.autocast) == (0, True)
    assert (first.optim.clip_norm, third.optim.clip_norm) == (0.01, 1.0)
    assert first.engine.annotations == 100 and first.optim.lr_multipliers == ()
    assert third.optim.lr_multipliers == (("mask_encoder.encoder.", 0.1),)
    assert (third.batch.clips, third.batch.clip_accumulation, third.data.threshold) == (1, 4, 0.1)
    rows = third.engine
    assert (rows.categories, rows.regions, rows.frames, rows.language_frames, rows.chat_frames) == (128, 8, 8, 16, 64)
    assert set(rows.kinds) == {"point", "scribble", "box", "mask"}
    lora = x2sam_4b().lora
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)


def test_data_sets_of_the_paper():
    config = load_train_config(CONFIGS / "stage3.toml")
    found: dict[tuple[str, str], int] = {}
    for spec in config.datasets:
        key = (spec.task, "video" if spec.format in CLIPS or spec.modality == "video" else "image")
        found[key] = found.get(key, 0) + 1
    assert found == PAPER
    assert len({spec.name for spec in config.datasets}) == len(config.datasets)
