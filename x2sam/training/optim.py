"""AdamW groups, learning-rate schedule and gradient clipping (X2SAM, joint training)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam.errors import TrainingError


@dataclass(frozen=True)
class OptimConfig:
    """How the weights move.

    lr_multipliers:  (name prefix, factor) pairs; the longest matching prefix wins, 1.0 without one, 0.0 leaves the
                     parameters out of the optimizer
    decay_all:       False spares norms, biases, other vectors and embeddings from weight decay
    clip_norm:       largest total gradient norm; None does not clip
    warmup_fraction: share of all steps in which the rate rises linearly
    stable_fraction: share of all steps after the warm-up in which the rate stays full, before the cosine begins
    final_fraction:  rate of the last step, as a share of ``lr``
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay_all: bool = True
    clip_norm: float | None = 1.0
    warmup_fraction: float = 0.03
    stable_fraction: float = 0.0
    final_fraction: float = 0.0
    lr_multipliers: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup_fraction < 1.0 or not 0.0 <= self.final_fraction <= 1.0:
            raise TrainingError("warmup_fraction must lie in [0, 1) and final_fraction in [0, 1]")
        if not 0.0 <= self.stable_fraction < 1.0 - self.warmup_fraction:
            raise TrainingError("stable_fraction must lie in [0, 1) and leave steps for the descent after the warm-up")
        if self.lr <= 0.0 or self.weight_decay < 0.0 or (self.clip_norm is not None and self.clip_norm <= 0.0):
            raise TrainingError("lr and clip_norm must be positive, weight_decay not negative")
        if any(factor < 0.0 for _, factor in self.lr_multipliers):
            raise TrainingError("learning-rate multipliers can't be negative")


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Groups for a torch optimizer, one per (multiplier, decay) in order of first use.

    ``params`` are (name, parameter) pairs, so that the optimizer keeps the names; frozen parameters are left out.
    ``initial_lr`` is the group's rate at factor 1. Raises TrainingError for a prefix that no parameter has.
    """
    named = list(model.named_parameters())
    unused = [prefix for prefix, _ in config.lr_multipliers if not any(name.startswith(prefix) for name, _ in named)]
    if unused:
        raise TrainingError(f"no parameter is called {', '.join(unused)}...; correct lr_multipliers")
    spared = set() if config.decay_all else _without_decay(model)
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in named:
        factor = _multiplier(name, config)
        if not parameter.requires_grad or factor == 0.0:
            continue
        key = (factor, name not in spared)
        rate = config.lr * factor
        decay = config.weight_decay if key[1] else 0.0
        group = groups.setdefault(key, {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay})
        group["params"].append((name, parameter))
    if not groups:
        raise TrainingError("every parameter is frozen; nothing is left to train")
    return list(groups.values())


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`. What it does not move is frozen: no gradient is computed for it."""
    groups = parameter_groups(model, config)
    moved = {parameter for group in groups for _, parameter in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in moved)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def learning_rate_factor(step: int, total_steps: int, config: OptimConfig) -> float:
    """Share of the full rate at ``step`` 0..total_steps - 1: linear warm-up, a plateau if there is one, then half a
    cosine to ``final_fraction``.

    The first step of a warm-up already moves; after the last step the factor stays where it ended.
    """
    warmup = math.ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    descent = warmup + math.floor(config.stable_fraction * total_steps)
    progress = min(1.0, max(0, step - descent) / max(1, total_steps - 1 - descent))
    return config.final_fraction + (1.0 - config.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, total_steps: int, config: OptimConfig) -> float:
    """Set every group's rate for ``step`` and return the factor.

    A function of the step alone: a resumed run needs no scheduler state.
    """
    factor = learning_rate_factor(step, total_steps, config)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return factor


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Tensor:
    """Scale gradients down to ``clip_norm`` and return their total norm before, a scalar tensor.

    Raises TrainingError when the norm is not finite: a step with it would destroy every weight.
    """
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not bool(norm.isfinite()):
        raise TrainingError("the gradient norm is not finite; skip this step, or lower the learning rate")
    if config.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    return norm


def _multiplier(name: str, config: OptimConfig) -> float:
    fitting = [pair for pair in config.lr_multipliers if name.startswith(pair[0])]
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else 1.0


def _without_decay(model: nn.Module) -> set[str]:
    """Names of vectors and scalars (norms, biases, scales) and of embeddings, learned positions included."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim < 2 or id(parameter) in embeddings or "embed" in name.rsplit(".", 1)[-1]
    }
