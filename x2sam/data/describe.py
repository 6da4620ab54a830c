"""Expressions for pictures whose objects have a category and an outline but no words: place, size, measured colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from x2sam.data.colours import COLOUR_NAMES, colour_matches
from x2sam.data.masks import IGNORE, drop_small, label_centres
from x2sam.data.phrases import Described, describe_objects
from x2sam.structures import Sample

_STEP = 3
_MOSTLY, _PARTLY, _ENOUGH = 0.6, 0.12, 16


def measured_colours(picture: np.ndarray, labels: np.ndarray) -> dict[int, tuple[str | None, frozenset[str] | None]]:
    """Label value -> (the name that fits at least 60 % of its pixels or None, names that fit at least 12 %).

    picture uint8 (H, W, 3) RGB, labels uint8 (H, W). Every third pixel is looked at; values with fewer than 16 of
    these are left out, which callers read as "any colour".
    """
    values = labels[::_STEP, ::_STEP].ravel()
    chosen = (values != 0) & (values != IGNORE)
    values = values[chosen]
    fits = colour_matches(picture[::_STEP, ::_STEP].reshape(-1, 3)[chosen])
    counts = np.bincount(values, minlength=256)
    votes = np.stack([np.bincount(values, fits[:, k], 256) for k in range(fits.shape[1])], -1)
    found = {}
    for value in np.flatnonzero(counts >= _ENOUGH):
        share = votes[value] / counts[value]
        best = int(np.argmax(share))
        present = frozenset(COLOUR_NAMES[k] for k in np.flatnonzero(share >= _PARTLY))
        found[int(value)] = (COLOUR_NAMES[best] if share[best] >= _MOSTLY else None, present)
    return found


def _known(sample: Sample, t: int) -> list[Described]:
    """What can be said about the objects seen in frame ``t``."""
    areas, centres = label_centres(sample.labels[t])
    colours = measured_colours(sample.frames[t], sample.labels[t])
    items = []
    for o in sample.objects:
        if areas[o.id]:
            colour, present = colours.get(o.id, (None, None))
            centre = (float(centres[o.id][0]), float(centres[o.id][1]))
            items.append(
                Described(o.id, o.category, float(areas[o.id]), centre, frozenset(), present, colour, None, o.thing)
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
