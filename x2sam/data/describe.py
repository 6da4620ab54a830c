"""Expressions for pictures whose objects have a category and an outline but no words: place, size, measured colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from x2sam.data.colours import COLOUR_NAMES, colour_matches
from x2sam.data.masks import IGNORE, drop_small, label_centres
from x2sam.data.phrases import Described, describe_objects
from x2sam.structures import Sample

_STEP = 3
_MOSTLY, _PARTLY = 0.6, 0.12
ENOUGH_PIXELS = 16
"""Fewer looked-at pixels say nothing about a colour: it could be any."""


def colour_shares(picture: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels of each label value were looked at, int64 (256,), and the share of them that each colour name
    fits, float64 (256, 11), for picture uint8 (H, W, 3) RGB and labels uint8 (H, W). Every third pixel is looked at.
    """
    values = labels[::_STEP, ::_STEP].ravel()
    chosen = (values != 0) & (values != IGNORE)
    values = values[chosen]
    fits = colour_matches(picture[::_STEP, ::_STEP].reshape(-1, 3)[chosen])
    counts = np.bincount(values, minlength=256)
    votes = np.stack([np.bincount(values, fits[:, k], 256) for k in range(fits.shape[1])], -1)
    return counts, votes / np.maximum(counts, 1)[:, None]


def names_present(shares: np.ndarray) -> frozenset[str]:
    """Names that fit a part worth mentioning, of ``shares`` (11,)."""
    return frozenset(COLOUR_NAMES[k] for k in np.flatnonzero(shares >= _PARTLY))


def _known(sample: Sample, t: int) -> list[Described]:
    """What can be said about the objects seen in frame ``t``."""
    areas, centres = label_centres(sample.labels[t])
    counts, shares = colour_shares(sample.frames[t], sample.labels[t])
    items = []
    for o in sample.objects:
        if not areas[o.id]:
            continue
        colour, present = None, None
        if counts[o.id] >= ENOUGH_PIXELS:
            best = int(np.argmax(shares[o.id]))
            colour = COLOUR_NAMES[best] if shares[o.id][best] >= _MOSTLY else None
            present = names_present(shares[o.id])
        centre = (float(centres[o.id][0]), float(centres[o.id][1]))
        items.append(
            Described(o.id, o.category, float(areas[o.id]), centre, colours=present, colour=colour, thing=o.thing)
        )
    return items


def describe_sample(sample: Sample, rng: np.random.Generator) -> Sample:
    """``sample`` with fresh expressions for what its label maps show; objects hardly seen are dropped.

    Order, size and colour tell objects of a kind apart only where all of them are outlined (``complete``) and nothing
    is ignored; elsewhere only kinds that occur once get an expression. An expression holds in the first frame that
    shows the object, and against objects that come later.
    """
    whole = sample.complete and not (sample.labels == IGNORE).any()
    shown: dict[int, int] = {}
    known: dict[int, list[Described]] = {}
    for t in range(len(sample.labels)):
        known[t] = _known(sample, t)
        for item in known[t]:
            shown.setdefault(item.id, t)
    described = {}
    for t in sorted(set(shown.values())):
        seen = {item.id for item in known[t]}
        later = [item for when in known for item in known[when] if shown[item.id] == when and item.id not in seen]
        for o in describe_objects([*known[t], *later], sample.labels.shape[1:], rng, whole):
            if shown[o.id] == t:
                described[o.id] = o
    labels, kept = drop_small(sample.labels, [o.id for o in sample.objects])
    return replace(sample, labels=labels, objects=tuple(described[k] for k in kept))
