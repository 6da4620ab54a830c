"""Whether two ways of computing do the same: in float64, where rounding hides nothing, and between number types.

In float32 two orders of the same additions differ by 1e-5 or so. That is enough to carry a cell of a mask, between two
layers of the mask decoder, from one side of one half to the other; then a query looks at that cell or not, and its
later logits move by hundredths. In float64 the same two orders differ by 1e-13, and no cell is carried over.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch

from x2sam.bench_models import PATIENCE
from x2sam.data.tasks import find_task
from x2sam.inference.engine import Engine
from x2sam.inference.walk import at_picture_size
from x2sam.straightforward import Straightforward, watched
from x2sam.structures import Prompt

MOST_PARAMETERS = 1_000_000_000  # in float64 they take eight bytes each, beside those of the engine


def difference_in_float64(engine: Engine, picture: np.ndarray, clicks: Sequence[Prompt]) -> float | None:
    """The largest difference of mask logits between the engine and the straightforward way, with the weights of the
    engine in float64. ``clicks``: prompts of one object, each with the one before in it. None where the weights are not
    float32 or too many for this: 8 bytes each."""
    model = engine.model
    if model.dtype != torch.float32 or sum(p.numel() for p in model.parameters()) > MOST_PARAMETERS:
        return None
    task, before, mask, apart = find_task("intseg", "image"), None, None, [0.0]
    tokenizer = engine.interpreter.encoder.tokenizer
    exact = Engine(deepcopy(model).double(), tokenizer, timeout=PATIENCE, hang=PATIENCE)
    with exact, watched(exact.model) as watch:
        session, straight = exact.open(picture), Straightforward(exact, picture[None], watch)
        for prompt in clicks:
            answer = exact.run(lambda p=prompt, b=before, m=mask: session.rounds.answer(p, b, m, 0, task))
            ours = watch.last
            straight.click(prompt, before, mask)
            apart.append(float((ours.mask_logits - watch.last.mask_logits).abs().max()))
            before, mask = answer, at_picture_size(answer.probability, picture.shape[:2])
    return float(np.max(apart))


def overlap_with_float32(engine: Engine, picture: np.ndarray, prompts: Sequence[Prompt]) -> float | None:
    """The least overlap of masks with those of the same weights in float32, on the same clicks and words; None where
    the numbers are float32 already. Every prompt starts anew, so that one difference is not counted twice."""
    if engine.model.dtype == torch.float32:
        return None
    tokenizer = engine.interpreter.encoder.tokenizer
    with Engine(deepcopy(engine.model).float(), tokenizer, timeout=PATIENCE, hang=PATIENCE) as exact:
        pairs = [[one.open(picture).segment(prompt) for one in (engine, exact)] for prompt in prompts]
    found = [overlap(ours[0].mask, theirs[0].mask) for ours, theirs in pairs if ours and theirs]
    return min(found) if len(found) == len([1 for pair in pairs if any(pair)]) else 0.0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return rounded(np.count_nonzero(a & b) / union) if union else 1.0


def rounded(value: float) -> float:
    return float(f"{value:.4g}")
