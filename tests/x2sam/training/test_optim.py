"""Parameter groups by name, the schedule's shape, clipping."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from x2sam.errors import TrainingError
from x2sam.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"stem": nn.Linear(3, 4), "head": nn.Linear(4, 4)})
        self.words = nn.Embedding(5, 4)
        self.level_embed = nn.Parameter(torch.zeros(3, 4))
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 2)


def names_by(groups: list[dict], key: str) -> dict[float, set[str]]:
    found: dict[float, set[str]] = {}
    for group in groups:
        found.setdefault(group[key], set()).update(name for name, _ in group["params"])
    return found


def test_longest_prefix_sets_the_rate_and_frozen_ones_are_left_out():
    toy = Toy()
    toy.out.bias.requires_grad_(False)
    config = OptimConfig(lr=1e-3, lr_multipliers=(("encoder.", 0.1), ("encoder.head.", 0.5), ("words.", 0.0)))
    rates = names_by(parameter_groups(toy, config), "initial_lr")
    assert rates == {
        1e-4: {"encoder.stem.weight", "encoder.stem.bias"},
        5e-4: {"encoder.head.weight", "encoder.head.bias"},
        1e-3: {"level_embed", "norm.weight", "norm.bias", "out.weight"},
    }
    kept = [name for group in build_optimizer(toy, config).param_groups for name in group["param_names"]]
    assert set(kept) == set.union(*rates.values())
    assert {name for name, one in toy.named_parameters() if one.requires_grad} == set(kept), "frozen"


def test_weight_decay_spares_vectors_and_embeddings_on_request():
    assert set(names_by(parameter_groups(Toy(), OptimConfig()), "weight_decay")) == {0.05}
    decays = names_by(parameter_groups(Toy(), OptimConfig(decay_all=False)), "weight_decay")
    assert decays[0.05] == {"encoder.stem.weight", "encoder.head.weight", "out.weight"}
    assert {"words.weight", "level_embed", "norm.weight", "out.bias"} <= decays[0.0]


def test_settings_that_name_nothing_are_refused():
    with pytest.raises(TrainingError, match="segmentor"):
        parameter_groups(Toy(), OptimConfig(lr_multipliers=(("segmentor.encoder.", 0.1),)))
    with pytest.raises(TrainingError, match="frozen"):
        parameter_groups(Toy().requires_grad_(False), OptimConfig())
    for wrong in ({"lr": 0.0}, {"warmup_fraction": 1.0}, {"clip_norm": 0.0}, {"lr_multipliers": (("a", -1.0),)}):
        with pytest.raises(TrainingError):
            OptimConfig(**wrong)


def test_schedule_warms_up_and_falls_as_a_cosine():
    config = OptimConfig(warmup_fraction=0.1, final_fraction=0.2)
    factors = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0 and factors[-1] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert factors[10 + 30] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 30 / 89)))
    assert learning_rate_factor(500, 100, config) == pytest.approx(0.2)
    assert learning_rate_factor(0, 1, OptimConfig(warmup_fraction=0.0)) == 1.0


def test_set_learning_rate_keeps_the_ratio_of_groups():
    config = OptimConfig(lr=1e-3, warmup_fraction=0.5, lr_multipliers=(("encoder.", 0.1),))
    optimizer = build_optimizer(Toy(), config)
    assert set_learning_rate(optimizer, 0, 8, config) == 0.25
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([2.5e-5, 2.5e-4])


def test_clipping():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([weight], OptimConfig(clip_norm=None)) == 5.0
    assert weight.grad.tolist() == [3.0, 4.0]
    assert clip_gradients([weight], OptimConfig(clip_norm=10.0)) == 5.0
    assert weight.grad.tolist() == [3.0, 4.0]
    assert clip_gradients([weight], OptimConfig(clip_norm=0.5)) == 5.0
    assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)
    weight.grad[0] = torch.inf
    with pytest.raises(TrainingError, match="not finite"):
        clip_gradients([weight], OptimConfig())
    assert clip_gradients([nn.Parameter(torch.zeros(1))], OptimConfig()) == 0.0
