"""Fits the small network of the snap step: ``python -m x2sam.inference.refine_net_fit --data DIR --model nano``.

The click protocol is played on pictures with outlines as in :mod:`x2sam.inference.refine_fit`, whose weights must be
fitted before. Loss: soft IoU per answer plus cross-entropy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from x2sam.inference.refine import GRID_SIDE, weighed
from x2sam.inference.refine_fit import Met, gather
from x2sam.inference.refine_net import FILE, RefineNet, evidence_of, read_net, save_net
from x2sam.inference.refine_weights import SnapWeights, embedded_weights

BATCH = 12
RATE = 4e-3
CROSS_ENTROPY = 0.3
RUN, HELD = 30, 10


@dataclass(frozen=True, eq=False)
class Example:
    """evidence float16 (INPUTS, h, w); score, truth and valid float16 (h, w); share and outside as in :class:`Met`."""

    evidence: np.ndarray
    score: np.ndarray
    truth: np.ndarray
    valid: np.ndarray
    share: float
    outside: float
    regime: str


def example(met: Met, weights: SnapWeights) -> Example:
    scene = met.scene
    terms, score = weighed(scene, weights)
    half = lambda x: x.astype(np.float16)  # noqa: E731
    return Example(
        half(evidence_of(scene, terms, score)), half(score), half(met.truth), half(met.valid), met.share, met.outside,
        scene.regime,
    )  # fmt: skip


def stack(examples: Sequence[Example], mirror: Sequence[bool]) -> tuple[torch.Tensor, ...]:
    """Evidence, score, truth, valid padded to the size of the largest, and share and outside, as float32."""
    height, width = (max(sides) for sides in zip(*(e.score.shape for e in examples), strict=True))
    planes = []
    for e, flip in zip(examples, mirror, strict=True):
        whole = np.concatenate([e.evidence, e.score[None], e.truth[None], e.valid[None]]).astype(np.float32)
        if flip:
            whole = whole[:, :, ::-1]
        planes.append(np.pad(whole, ((0, 0), (0, height - whole.shape[1]), (0, width - whole.shape[2]))))
    all_ = torch.from_numpy(np.stack(planes)).contiguous(memory_format=torch.channels_last)
    share = torch.tensor([e.share for e in examples])
    outside = torch.tensor([e.outside for e in examples])
    return all_[:, :-3], all_[:, -3], all_[:, -2], all_[:, -1], share, outside


def loss_of(net: RefineNet, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    evidence, score, truth, valid, share, outside = batch
    z = score + net(evidence).float()
    p = z.sigmoid()
    both = (p * truth * valid).sum((1, 2)) * share
    either = ((p + truth - p * truth) * valid).sum((1, 2)) * share + outside
    # per cell of the largest grid there is, so that an answer counts alike whatever it is stacked with
    entropy = (F.binary_cross_entropy_with_logits(z, truth, reduction="none") * valid).sum((1, 2)) / GRID_SIDE**2
    return (1 - both / either).mean() + CROSS_ENTROPY * entropy.mean()


@torch.no_grad()
def measure(net: RefineNet | None, examples: Sequence[Example]) -> dict[str, float]:
    """Mean IoU on the grid by regime, with the network or without."""
    found: dict[str, list[float]] = {}
    for e in examples:
        evidence, score, truth, valid, share, outside = stack([e], [False])
        mask = (score + net(evidence) if net is not None else score) > 0
        wanted, known = truth > 0.5, valid > 0.5
        union = ((mask | wanted) & known).sum() * share + outside
        found.setdefault(e.regime, []).append(float((mask & wanted & known).sum() * share / union))
    return {regime: round(float(np.mean(values)), 4) for regime, values in sorted(found.items())}


def new_net(examples: Sequence[Example], rng: np.random.Generator) -> RefineNet:
    """One that changes nothing yet, its inputs brought to the spread of the examples."""
    torch.manual_seed(0)
    net = RefineNet()
    some = [examples[int(i)].evidence.astype(np.float32) for i in rng.integers(len(examples), size=200)]
    flat = np.concatenate([e.reshape(len(e), -1)[:, ::7] for e in some], 1)
    net.centre.copy_(torch.from_numpy(flat.mean(1)))
    net.spread.copy_(torch.from_numpy(flat.std(1) + 0.05))
    return net


def fit(
    net: RefineNet, examples: Sequence[Example], steps: int, rng: np.random.Generator, rate: float = RATE,
    before_step: Callable[[int, int], None] = lambda number, whole: None,
) -> RefineNet:  # fmt: skip
    """Fits ``net`` itself and returns it; ``rate`` is the highest on the way."""
    net.train().requires_grad_(True).to(memory_format=torch.channels_last)  # half the time of planes one by one
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for number in range(steps):
        before_step(number, steps)
        chosen = [examples[int(i)] for i in rng.integers(len(examples), size=BATCH)]
        loss = loss_of(net, stack(chosen, rng.random(BATCH) < 0.5))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.json")
    parser.add_argument("--model", help="play on this model too: nano, or a directory")
    parser.add_argument("--networks", default="weak", help=argparse.SUPPRESS)
    parser.add_argument("--simulated", type=float, default=0.3, help="share of simulated networks beside --model")
    parser.add_argument("--boxed", type=int, default=2, help="every n-th object is given by its box first")
    parser.add_argument("--clicks", type=int, default=3, help="answers per object")
    parser.add_argument("--amount", type=float, default=2.0, help="how many objects, as a factor of refine_fit's")
    parser.add_argument("--hold-out", type=int, default=0, help="leave out one picture in so many, as training does")
    parser.add_argument("--held-amount", type=float, default=0.0, help="as --amount, of the pictures left out")
    parser.add_argument("--leave-out", nargs="*", default=[], help="sources that are left out, as training does")
    parser.add_argument("--start", type=Path, help="fit a network on that was fitted before")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=RATE, help="the highest on the way")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.held_amount and not options.hold_out:
        parser.error("--held-amount takes pictures that training left out: say with --hold-out which")
    rng = np.random.default_rng(options.seed)
    weights = embedded_weights("weak")
    began = time.monotonic()
    met = gather(options, 0, weights, rng)
    if options.held_amount:
        # a network answers better about what it has learned from than about what it will meet
        met += gather(options, 0, weights, rng, held=True)
    examples = [example(m, weights) for m in met]
    print(f"{len(examples)} answers in {time.monotonic() - began:.0f} s", flush=True)
    # neighbours in the list are answers about one picture: whole runs of them are held out
    held = [e for i, e in enumerate(examples) if i // RUN % HELD == 0]
    fitted = [e for i, e in enumerate(examples) if i // RUN % HELD]
    start = read_net(options.start) if options.start else new_net(fitted, rng)
    print(f"held out, before: {measure(start, held)}", flush=True)
    net = fit(start, fitted, options.steps, rng, options.rate)
    save_net(net, options.out)
    for name, part in (("fitted on", fitted[:: max(1, len(fitted) // 400)]), ("held out", held)):
        print(f"{name}: weights {measure(None, part)}; with the network {measure(net, part)}")
    print(f"{time.monotonic() - began:.0f} s in all, written to {options.out}")


if __name__ == "__main__":
    main()
