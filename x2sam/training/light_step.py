"""The last light step of a small model learns from corrections as its network does.

Its few convolutions (:mod:`x2sam.inference.refine_net`) were fitted to answers about pictures of many kinds; a network
that has learned from corrections answers otherwise, about pictures of one kind. A simulated person clicks on the
corrected pictures once more, on generated scenes too so that nothing is forgotten, and the convolutions go on learning
from what comes up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from x2sam.data.masks import visible_objects
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.data.scenes import generate_picture
from x2sam.evaluation.dataset import object_mask
from x2sam.inference.engine import Engine
from x2sam.inference.refine import Snap, snap_for
from x2sam.inference.refine_fit import EngineNetwork, play
from x2sam.inference.refine_net import RefineNet
from x2sam.inference.refine_net_fit import BATCH, Example, example, fit
from x2sam.inference.refine_weights import embedded_weights
from x2sam.structures import Sample
from x2sam.training.train import BeforeStep
from x2sam.training.yielding import PATIENT

_PER_PICTURE = 4  # objects
_MOST = 48  # corrected pictures: with as many generated ones 800 MB of evidence
_CLICKS = 3
_BOXED = 4  # one object in so many is given by its box first
_MOST_STEPS = 1000
_RATE = 1e-3
_SCENE = (320, 320)


def learn_light_step(
    model: Path, start: RefineNet, pictures: OwnPictures, passes: int, share: float = 1.0, seed: int = 0,
    device: str = "cpu", before_step: BeforeStep = lambda number, whole: None,
) -> RefineNet:  # fmt: skip
    """``start``, fitted on to the answers of the model in a directory, ``passes`` times over each of them.

    share:       of the new weights in the mean with those of ``start``
    before_step: called before each picture and each step with its number and how many there are; it may wait
    """
    rng = np.random.default_rng((seed, 31))
    samples = list(_samples(pictures, rng))
    snap = snap_for(True, start)
    examples: list[Example] = []
    with contextlib.closing(Engine.load(model, device, timeout=PATIENT, hang=PATIENT)) as engine:
        for number, make in enumerate(samples):
            before_step(number, len(samples))
            examples.extend(_examples(engine, make(), number, snap, rng))
    if not examples:
        return start
    before = start.state_dict()
    net = RefineNet()
    net.load_state_dict(before)
    steps = min(_MOST_STEPS, max(1, passes * len(examples) // BATCH))
    after = fit(net, examples, steps, rng, _RATE, before_step).state_dict()
    net.load_state_dict({name: torch.lerp(before[name], value, share) for name, value in after.items()})
    return net


def _samples(pictures: OwnPictures, rng: np.random.Generator) -> Iterator[Callable[[], Sample]]:
    """Corrected pictures, and as many generated ones."""
    places = rng.permutation(len(pictures))[:_MOST].tolist()
    for place in places:
        yield lambda place=place: pictures.bare(place)
    for number in range(len(places)):
        drawn = np.random.default_rng((int(rng.integers(2**31)), number))
        yield lambda drawn=drawn: generate_picture(drawn, _SCENE)


def _examples(engine: Engine, sample: Sample, key: int, snap: Snap, rng: np.random.Generator) -> Iterator[Example]:
    """What comes up when objects of a picture are clicked on; ``key`` names the picture, which is encoded once."""
    weights, able = embedded_weights("weak"), [one.id for one in visible_objects(sample)]
    for thing in rng.permutation(able)[:_PER_PICTURE].tolist():
        network = EngineNetwork(engine, sample.frames[0], key)
        try:
            truth, ignore = object_mask(sample.labels[0], [thing])
            boxed = rng.random() < 1 / _BOXED
            for met in play(sample.frames[0], truth, ignore, network, snap, boxed, rng, _CLICKS):
                yield example(met, weights)
        finally:
            network.session.close()
