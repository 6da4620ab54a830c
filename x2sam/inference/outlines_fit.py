"""Fits which outline has which name: ``python -m x2sam.inference.outlines_fit``.

Generated pictures say what their objects are, hidden parts and picture borders included. Their masks are made as
uneven as answers are, measured, and a network of one hidden layer learns the names. Pictures of another seed tell how
often the most probable name is right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from x2sam.data.scenes import generate_picture
from x2sam.inference.outlines import FILE, LEAST_PIXELS, NAMES, OutlineNames, measures

PICTURES = 1500
HIDDEN = 40
RIDGE = 2e-4
STEPS = 400
_SIZE = (320, 320)
_CHECKED = 200


def gather(pictures: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Measures float32 (n, MEASURES) of objects and their names (n,), as indices."""
    rows = list(_measured(pictures, seed))
    return np.stack([row for row, _ in rows]), np.array([name for _, name in rows])


def _measured(pictures: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    for number in range(pictures):
        rng = np.random.default_rng((seed, number))
        sample = generate_picture(rng, _SIZE)
        for item in sample.objects:
            if item.category in NAMES:
                mask = spoiled(rng, sample.labels[0] == item.id)
                if mask.sum() >= LEAST_PIXELS:
                    yield measures(mask), NAMES.index(item.category)


def spoiled(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A mask with an uneven outline: its soft edge moved in and out by smooth noise, up to a tenth of its root area."""
    reach = max(1.0, rng.uniform(0.0, 0.05) * float(mask.sum()) ** 0.5)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), reach)
    noise = cv2.resize(rng.standard_normal((20, 20), dtype=np.float32), mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return soft > 0.5 + 0.12 * noise


def fit(measured: np.ndarray, names: np.ndarray, seed: int = 0) -> OutlineNames:
    """Cross-entropy with every name counting alike."""
    centre, spread = measured.mean(0), measured.std(0) + 1e-6
    x = torch.from_numpy(np.clip((measured - centre) / spread, -6, 6)).float()
    y, count = torch.from_numpy(names), np.bincount(names, minlength=len(NAMES))
    weight = torch.from_numpy(len(names) / (len(NAMES) * np.maximum(count, 1))).float()
    generator = torch.Generator().manual_seed(seed)
    sizes = ((x.shape[1], HIDDEN), (HIDDEN,), (HIDDEN, len(NAMES)), (len(NAMES),))
    layers = [(torch.randn(size, generator=generator) * 0.1).requires_grad_() for size in sizes]
    search = torch.optim.LBFGS(layers, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        enter, bias, leave, prior = layers
        wrong = torch.nn.functional.cross_entropy((x @ enter + bias).tanh() @ leave + prior, y, weight)
        total = wrong + RIDGE * (enter.square().sum() + leave.square().sum())
        total.backward()
        return total

    search.step(loss)
    enter, bias, leave, prior = (layer.detach().numpy() for layer in layers)
    return OutlineNames(centre, spread, enter, bias, leave, prior)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE, help="by default the weights of the package")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="generated pictures")
    options = parser.parse_args(arguments)
    names = fit(*gather(options.pictures, 11))
    names.save(options.out)
    measured, truth = gather(_CHECKED, 12)
    right = names.log_odds(measured).argmax(1) == truth
    print(f"{len(truth)} other objects, most probable name right: {right.mean():.2f}")


if __name__ == "__main__":
    main()
