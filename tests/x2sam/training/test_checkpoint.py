"""States of a run: bit-exact resume, damaged files, old states, atomic writing."""

import json
import logging
import random
import resource

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from x2sam.errors import CheckpointError
from x2sam.training import checkpoint
from x2sam.training.checkpoint import CheckpointStore, write_tensors
from x2sam.training.optim import OptimConfig, build_optimizer, clip_gradients, set_learning_rate

CONFIG = OptimConfig(lr=1e-2, decay_all=False, warmup_fraction=0.2, lr_multipliers=(("0.", 0.1),))


class Toy(nn.Sequential):
    """Tied weights and a buffer included."""

    def __init__(self, seed: int, width: int = 6):
        torch.manual_seed(seed)
        super().__init__(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width))
        self[3].weight = self[2].weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def run(model, optimizer, generator, start: int, stop: int) -> list[float]:
    """Training steps that use every source of randomness there is."""
    losses = []
    for step in range(start, stop):
        set_learning_rate(optimizer, step, 10, CONFIG)
        noise = random.random() + float(np.random.rand()) + torch.rand(())
        x = torch.randn(8, 4, generator=generator)
        loss = (model(x) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), CONFIG)
        optimizer.step()
        model.seen += 1
        losses.append(loss.item())
    return losses


def fresh(seed: int):
    model = Toy(seed)
    return model, build_optimizer(model, CONFIG), torch.Generator().manual_seed(seed)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def saved_names(file) -> set[str]:
    return set(file.keys())


def corrupt(path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_resume_is_bit_exact(tmp_path):
    store = CheckpointStore(tmp_path)
    random.seed(1)
    np.random.seed(1)
    model, optimizer, generator = fresh(0)
    run(model, optimizer, generator, 0, 4)
    store.save(4, model, optimizer, {"best": 0.1 + 0.2, "order": [3, 1]}, {"data": generator})
    expected = run(model, optimizer, generator, 4, 9)

    other, other_optimizer, other_generator = fresh(5)
    resumed = store.resume(other, other_optimizer, {"data": other_generator})
    assert resumed.step == 4 and resumed.notes == {"best": 0.1 + 0.2, "order": [3, 1]}
    assert run(other, other_optimizer, other_generator, resumed.step, 9) == expected
    assert same(model, other) and other.seen == 9
    assert other[3].weight is other[2].weight
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        before, after = optimizer.state[one], other_optimizer.state[two]
        assert set(before) == set(after) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(before[slot], after[slot]) for slot in before)
    keys = ("lr", "initial_lr", "betas", "weight_decay", "param_names")
    for one, two in zip(optimizer.param_groups, other_optimizer.param_groups, strict=True):
        assert {key: one[key] for key in keys} == {key: two[key] for key in keys}


def test_the_configuration_decides_about_rates_when_a_run_is_resumed(tmp_path):
    """Saved with lr 1e-2, a tenth of it for the first layer; resumed with 4e-2, half of it for the last."""
    store = CheckpointStore(tmp_path)
    model, optimizer, generator = fresh(0)
    run(model, optimizer, generator, 0, 3)
    store.save(3, model, optimizer)
    changed = OptimConfig(lr=4e-2, weight_decay=0.3, betas=(0.8, 0.9), lr_multipliers=(("3.", 0.5),))
    other = Toy(1)
    resumed = build_optimizer(other, changed)
    store.resume(other, resumed)
    set_learning_rate(resumed, 5, 10, changed)
    expected = build_optimizer(Toy(1), changed)
    set_learning_rate(expected, 5, 10, changed)
    for one, two in zip(resumed.param_groups, expected.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in two.items() if k != "params"}
    moments = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    assert all(
        torch.equal(resumed.state[p]["exp_avg"], m) for p, m in zip(other.parameters(), moments, strict=True)
    )


def test_a_full_disk_keeps_the_last_state(tmp_path):
    """The limit on file size fails in the middle of writing, as a full disk does."""
    store = CheckpointStore(tmp_path)
    model, optimizer, _ = fresh(0)
    store.save(1, model, optimizer)
    whole = max(file.stat().st_size for file in (tmp_path / "step-00000001").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, hard))
    try:
        with pytest.raises(CheckpointError, match=r"step 2 can't be written .*step-00000001.*--resume"):
            store.save(2, model, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert store.resume(model, optimizer).step == 1


def test_files_are_plain_tensors_and_json(tmp_path):
    model, optimizer, generator = fresh(0)
    run(model, optimizer, generator, 0, 1)
    path = CheckpointStore(tmp_path).save(1, model, optimizer)
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    json.loads((path / "state.json").read_text())
    with safe_open(path / "optimizer.safetensors", "pt") as file:
        assert "2.weight/exp_avg_sq" in saved_names(file)
    with safe_open(path / "model.safetensors", "pt") as file:
        assert "2.weight" in saved_names(file) and "3.weight" not in saved_names(file)  # tied: once


def test_keeps_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer, _ = fresh(0)
    for step in (1, 2, 2, 3):
        store.save(step, model, optimizer)
    assert [path.name for path in store.steps()] == ["step-00000002", "step-00000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    with pytest.raises(CheckpointError, match="another run"):
        store.save(1, model, optimizer)


REFUSED = {
    ("model.safetensors", "truncated"): "truncated or changed: .* bytes instead of",
    ("model.safetensors", "flipped"): "damaged: its SHA-256",
    ("optimizer.safetensors", "truncated"): "truncated or changed: .* bytes instead of",
    ("optimizer.safetensors", "flipped"): "damaged: its SHA-256",
    ("state.json", "truncated"): "missing or truncated",
    ("state.json", "flipped"): "(damaged: its SHA-256|missing or truncated)",
}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_state_is_refused_and_the_one_before_is_used(tmp_path, caplog, name, kind):
    store = CheckpointStore(tmp_path, keep=2)
    model, optimizer, generator = fresh(0)
    for step in (1, 2):
        run(model, optimizer, generator, step - 1, step)
        latest = store.save(step, model, optimizer)
        if step == 1:
            first = {key: value.clone() for key, value in model.state_dict().items()}
    corrupt(latest / name, kind)
    with pytest.raises(CheckpointError, match=f"{name} is .*{REFUSED[name, kind]}"):
        checkpoint.read_state(latest)
    other, other_optimizer, _ = fresh(3)
    with caplog.at_level(logging.WARNING):
        assert store.resume(other, other_optimizer).step == 1
    assert name in caplog.text
    assert all(torch.equal(value, first[key]) for key, value in other.state_dict().items())
    # the damaged one no longer counts as one of those kept
    store.save(2, other, other_optimizer)
    assert [path.name for path in store.steps()] == ["step-00000001", "step-00000002"]
    assert (tmp_path / "step-00000002.damaged").is_dir()


def test_only_damaged_states_left(tmp_path):
    store = CheckpointStore(tmp_path)
    model, optimizer, _ = fresh(0)
    assert store.resume(model, optimizer) is None
    (store.save(1, model, optimizer) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no sound state .*model\.safetensors is missing"):
        store.resume(model, optimizer)


def test_a_killed_save_leaves_the_state_before(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    model, optimizer, _ = fresh(0)
    store.save(1, model, optimizer)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "random_state", die)  # after the tensors are written, before the rename
        with pytest.raises(KeyboardInterrupt):
            store.save(2, model, optimizer)
    assert store.resume(model, optimizer).step == 1
    store.save(2, model, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_another_model_or_optimizer_is_an_error_not_a_fallback(tmp_path):
    store = CheckpointStore(tmp_path)
    model, optimizer, _ = fresh(0)
    store.save(1, model, optimizer)
    wider = Toy(0, width=7)
    with pytest.raises(CheckpointError, match=r"other shapes.*0\.bias \(6,\) -> \(7,\)"):
        store.resume(wider, build_optimizer(wider, CONFIG))
    frozen = Toy(0)
    frozen[0].requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"other parameters \(only saved: \['0\.bias', '0\.weight'\]"):
        store.resume(model, build_optimizer(frozen, CONFIG))
    with pytest.raises(CheckpointError, match="names; give it"):
        store.save(2, model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(CheckpointError, match="generator called data"):
        store.resume(model, optimizer, {"data": torch.Generator()})


def test_trainable_only_leaves_the_frozen_base_out(tmp_path):
    store = CheckpointStore(tmp_path, trainable_only=True)
    model, _, generator = fresh(0)
    model[0].requires_grad_(False)
    config = OptimConfig(lr=1e-2)
    optimizer = build_optimizer(model, config)
    run(model, optimizer, generator, 0, 2)
    path = store.save(2, model, optimizer)
    with safe_open(path / "model.safetensors", "pt") as file:
        assert not any(key.startswith("0.") for key in saved_names(file))
    other = Toy(9)
    other[0].load_state_dict(model[0].state_dict())
    other[0].requires_grad_(False)
    store.resume(other, build_optimizer(other, config))
    assert same(model, other)
    with pytest.raises(CheckpointError, match=r"missing: \['0\.bias', '0\.weight'\]"):
        CheckpointStore(tmp_path).resume(Toy(9))


def test_other_optimizers_scalar_slots_survive(tmp_path):
    model = Toy(0)
    optimizer = torch.optim.SGD(list(model.named_parameters()), lr=0.1, momentum=0.9)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    store = CheckpointStore(tmp_path)
    store.save(1, model, optimizer)
    other = torch.optim.SGD(list(model.named_parameters()), lr=0.5, momentum=0.9)
    store.resume(model, other)
    assert other.param_groups[0]["lr"] == 0.5
    for parameter in model.parameters():
        assert torch.equal(other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


def test_write_tensors_is_all_or_nothing(tmp_path):
    path = write_tensors(tmp_path / "a" / "weights.safetensors", {"w": torch.ones(2)}, {"step": "3"})
    before = path.read_bytes()
    with pytest.raises(Exception, match="share memory"):
        shared = torch.ones(4)
        write_tensors(path, {"a": shared, "b": shared})
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "3"}
