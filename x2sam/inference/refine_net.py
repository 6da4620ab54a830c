"""A small convolutional network that looks at the evidence of the snap step once more, around each cell.

Weights that are the same everywhere (:mod:`x2sam.inference.refine_weights`) can't say "the object ends at this edge,
not at that one". This network reads the same evidence maps, the colours and the weighed result on the grid around the
object, and corrects that result. It has some 27,000 parameters; :mod:`x2sam.inference.refine_net_fit` fits it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from x2sam.errors import WeightsError
from x2sam.inference.refine_terms import FINE_TERMS, SHARED_TERMS, Scene
from x2sam.placement import SNAP_NET

FILE = Path(__file__).parent.parent / "data" / "snap_net.safetensors"
INPUTS = len(FINE_TERMS) + len(SHARED_TERMS) + 6
WIDTH = 24
REACH = (1, 2, 4, 8, 1)  # dilations, in cells


class RefineNet(nn.Module):
    """Evidence (B, INPUTS, h, w) to a correction (B, h, w) in log-odds; zero before it is fitted."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(INPUTS))
        self.register_buffer("spread", torch.ones(INPUTS))
        self.enter = nn.Conv2d(INPUTS, WIDTH, 1)
        self.around = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d) for d in REACH)
        self.leave = nn.Conv2d(WIDTH, 1, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, evidence: Tensor) -> Tensor:
        x = (evidence - self.centre[:, None, None]) / self.spread[:, None, None]
        x = self.enter(x.clamp(-6, 6)).relu()
        for layer in self.around:
            x = x + layer(x).relu()
        return self.leave(x)[:, 0]


def evidence_of(scene: Scene, terms: np.ndarray, score: np.ndarray) -> np.ndarray:
    """What the network reads, float32 (INPUTS, h, w): fine ``terms`` (h, w, n), their weighed ``score`` (h, w), how
    unsure and how sharp the large network is, and the colours."""
    more = (np.clip(score, -8, 8), scene.indecision, np.full_like(score, scene.sharpness))
    planes = [np.clip(terms, -8, 8), np.stack(more, -1), scene.lab / 64 - 2]
    # cell by cell in memory, as the terms are: nothing is moved, and convolutions are quicker by a quarter
    return np.concatenate(planes, -1).astype(np.float32).transpose(2, 0, 1)


@torch.inference_mode()
def correct(net: RefineNet, scene: Scene, terms: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The score (h, w) with the network's correction."""
    return score + net(torch.from_numpy(evidence_of(scene, terms, score))[None])[0].numpy()


def save_net(net: RefineNet, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)


def read_net(path: Path) -> RefineNet:
    """Raises :class:`WeightsError` for a file that can't be read or belongs to another version."""
    net = RefineNet()
    try:
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as problem:
        message = f"{path.name} does not fit this version ({problem}); install the package or get the model again"
        raise WeightsError(message) from problem
    return net.eval().requires_grad_(False)


@cache
def embedded_net() -> RefineNet:
    """The network that comes with the package."""
    return read_net(FILE)


def net_of(directory: Path) -> RefineNet:
    """The network that a model directory has for its own answers, or that of the package. Raises WeightsError."""
    own = directory / SNAP_NET
    return read_net(own) if own.is_file() else embedded_net()
