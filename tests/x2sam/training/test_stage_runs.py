"""What happens to runs: killed, resumed with other settings, spread over processes, fed with broken data, diverging."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.x2sam.training.conftest import stage_config
from x2sam.errors import CheckpointError, TrainingError
from x2sam.training import checkpoint, recipes
from x2sam.training.batches import Skipped
from x2sam.training.checkpoint import CheckpointStore
from x2sam.training.losses import total_loss
from x2sam.training.optim import build_optimizer
from x2sam.training.recipes import build_recipe
from x2sam.training.train import make_accelerator, resume_run, train, train_step

ROOT = Path(__file__).parents[3]
PLAIN = {**os.environ, "OMP_NUM_THREADS": "1"}


def losses(directory: Path) -> list[tuple[int, float]]:
    """The last record of each step."""
    lines = (directory / "log.jsonl").read_text().splitlines()
    return sorted({record["step"]: record["loss"] for record in map(json.loads, lines)}.items())


def write_config(path: Path, specs, directory: Path, steps: int) -> Path:
    """The settings of ``stage_config(3, ...)`` as a file."""
    rows = []
    for spec in specs:
        given = {key: value for key, value in vars(spec).items() if value not in ("", None, False)}
        rows.append("[[dataset]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in given.items()))
    path.write_text(
        f"""
[model]
preset = "tiny"
vocabulary = 400
[stage]
number = 3
points = 128
[data]
seed = 1
workers = 0
[engine]
frames = 3
language_frames = 4
chat_frames = 4
[batch]
images = 2
clip_accumulation = 1
[optim]
lr = 3e-3
lr_multipliers = [["mask_encoder.encoder.", 0.1]]
[loop]
steps = {steps}
save_minutes = 0.0
log_every = 1
tensorboard = false
directory = "{directory}"
"""
        + "\n".join(rows)
    )
    return path


def _toml(value) -> str:
    return str(value) if type(value) is int else f'"{value}"'


@pytest.fixture(scope="module")
def few(every_format):
    """A picture task with shared phrases, a clip task and a chat."""
    return [every_format[name] for name in ("refer", "vos", "chat")]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(few, tmp_path):
    """SIGKILL from outside, at any moment after the second state; the losses are those of a run that was left alone."""
    steps, whole, killed = 8, tmp_path / "whole", tmp_path / "killed"
    config = stage_config(3, few, whole, steps, save_minutes=0.0, tensorboard=False)
    expected = load_file(train(config) / "model.safetensors")

    path = write_config(tmp_path / "run.toml", few, killed, steps)
    command = [sys.executable, "-m", "x2sam", "train", str(path), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, env=PLAIN, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not (killed / "states" / "step-00000002").is_dir() and process.poll() is None:
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(losses(killed))
    assert 2 <= done < steps

    resumed = dataclasses.replace(config, loop=dataclasses.replace(config.loop, directory=str(killed)))
    found = load_file(train(resumed, resume=True) / "model.safetensors")
    assert losses(killed) == losses(whole) and len(losses(whole)) == steps
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_two_processes_share_a_step(few, tmp_path):
    """``torchrun``, as on several GPUs: a picture task, a chat without masks, and a clip, on two processes."""
    path = write_config(tmp_path / "run.toml", few, tmp_path / "run", 3)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "x2sam", "train", str(path), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=PLAIN, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("use it with --model") == 1  # one speaks for all
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3]
    assert "3 steps on 2 processes" in done.stderr
    state = tmp_path / "run" / "states" / "step-00000003" / "state.json"
    assert json.loads(state.read_text())["state"]["notes"]["processes"] == 2


def test_changed_settings_take_effect_when_a_run_is_resumed(few, tmp_path):
    config = stage_config(3, few, tmp_path, 2, save_minutes=0.0, tensorboard=False)
    train(config)
    optim = dataclasses.replace(config.optim, lr=1e-4, weight_decay=0.5, final_fraction=1.0)
    loop = dataclasses.replace(config.loop, steps=4)
    train(dataclasses.replace(config, optim=optim, loop=loop), resume=True)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([3e-3, 3e-3, 1e-4, 1e-4])
    state = json.loads((tmp_path / "states" / "step-00000004" / "state.json").read_text())["state"]
    groups = state["optimizer"]["groups"]
    assert {(g["weight_decay"], round(g["lr"], 7)) for g in groups} == {(0.5, 1e-4), (0.5, 1e-5)}


class Torn:
    """A data set of which every other sample can't be read."""

    def __init__(self, inner, bad):
        self.inner, self.bad = inner, bad
        self.name, self.task, self.modality, self.lengths = inner.name, inner.task, inner.modality, inner.lengths

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int):
        if index in self.bad:
            raise TrainingError(f"sample {index} is torn")
        return self.inner[index]


@pytest.fixture
def torn(monkeypatch):
    opened = recipes.open_dataset
    monkeypatch.setattr(recipes, "open_dataset", lambda spec: Torn(opened(spec), {0, 2}))


def test_broken_samples_are_counted_and_told(few, tmp_path, torn, caplog):
    caplog.set_level("INFO")
    config = stage_config(3, few[:1], tmp_path, 0, tensorboard=False)  # one pass, so all of them are met
    train(config)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told and all("torn" in message and message.startswith("sample skipped") for message in told)
    assert f"skipped: {len(told)} broken" in caplog.text
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert record["broken"] == len(told)
    # a resumed run goes on counting
    recipe = build_recipe(config)
    store = CheckpointStore(tmp_path / "states", trainable_only=True)
    optimizer = build_optimizer(recipe.model, config.optim)
    _, skipped = resume_run(make_accelerator(False, "cpu"), store, recipe.model, optimizer, config)
    assert skipped.broken == len(told) and skipped.seen == 2 * recipe.length


def test_too_many_broken_samples_stop_the_run():
    batch = SimpleNamespace(broken=["torn"] * 4, names=["a"] * 10, empty=0)
    skipped = Skipped(0.1)
    skipped.add([batch, batch, batch])  # 12 of 30, and 10 + 0.1 * 30 = 13 may be
    with pytest.raises(TrainingError, match=r"16 broken samples among 40; mend the data or raise data.broken.*torn"):
        skipped.add([batch])  # 16 of 40, where 14 may be


def test_values_that_are_not_finite_stop_the_run_and_name_step_and_samples(few, tmp_path):
    config = stage_config(3, few[:1], tmp_path, 5)
    recipe = build_recipe(config)
    with torch.no_grad():
        recipe.model.text_projector.model[2].weight[0, 0] = torch.nan
    optimizer = build_optimizer(recipe.model, config.optim)
    batches = recipe.steps.step(4)
    before = {name: value.clone() for name, value in recipe.model.named_parameters()}
    accelerator = make_accelerator(False, "cpu")
    with pytest.raises(TrainingError, match=rf"step 5, samples {batches[0].names[0]}, .*not finite"):
        train_step(accelerator, recipe.objective, optimizer, batches, 4, config.optim, 0)
    same = [torch.equal(value, before[name]) for name, value in recipe.model.named_parameters()]
    assert np.mean(same) > 0.99  # all but the weight with the NaN itself, which never equals anything


def test_a_full_disk_stops_the_run_with_its_last_state_kept(few, tmp_path, monkeypatch):
    config = stage_config(3, few[2:], tmp_path, 3, save_minutes=0.0, tensorboard=False)
    write, calls = checkpoint.save_file, []

    def full(tensors, path, *rest):
        calls.append(path)
        if len(calls) > 2:  # the second state
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step 2 can't be written.*No space left.*step-00000001.*--resume"):
        train(config)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000001"]
    monkeypatch.setattr(checkpoint, "save_file", write)
    train(config, resume=True)
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]


def test_half_precision_and_recomputed_states_learn_the_same_loss(few, tmp_path):
    """bfloat16 arithmetic with a bfloat16 base, inner states computed twice: the loss agrees to a percent."""
    config = stage_config(3, few[:2], tmp_path, 1)
    found = {}
    for name, change in (("plain", {}), ("lean", {"checkpointing": True, "frozen_dtype": "bfloat16"})):
        recipe = build_recipe(dataclasses.replace(config, stage=dataclasses.replace(config.stage, **change)))
        recipe.model.eval()
        recipe.model.vision_language.language.train(bool(change))  # what recomputing needs; dropout is in LoRA only
        for module in recipe.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(change)):
            for number in range(4):
                for batch in recipe.steps.step(number):
                    loss = total_loss(recipe.objective(batch, number)[0])
                    loss.backward()
                    found.setdefault(name, []).append(loss.item())
        kinds = {p.dtype for p in recipe.model.parameters() if p.requires_grad}
        assert kinds == {torch.float32}
        assert all(p.grad is not None for n, p in recipe.model.named_parameters() if "lora_B" in n)
    assert found["lean"] == pytest.approx(found["plain"], rel=0.02)
