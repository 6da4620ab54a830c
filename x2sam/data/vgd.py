"""Building V-VGD: for every category of a picture or clip one object as an example, prompted in four ways.

The object is drawn among those of its category; it is prompted on the first annotated frame that shows it (X2SAM,
visual grounded segmentation). Radii are those of the paper, in pixels of the picture. The same seed gives the same
prompts, sample by sample, whatever else is built with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from x2sam.data.prompts import (
    CLICK_RADIUS,
    KINDS,
    STROKE_RADIUS,
    box_prompt,
    mask_prompt,
    point_prompt,
    scribble_prompt,
)
from x2sam.data.readers import READERS, DatasetSpec
from x2sam.data.readers.shapes import encode_rle
from x2sam.data.readers.vgd_reader import CLIP_SETTINGS, FORMAT, VERSION
from x2sam.data.task_sample import TaskDataset, TaskSample
from x2sam.errors import PromptError

SOURCES = tuple(name for name, row in READERS.items() if "vgdseg" in row.tasks and name != "vgd")
"""Formats with objects that can be examples."""

_DRAW: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "point": partial(point_prompt, radius=CLICK_RADIUS, every_part=True),
    "scribble": partial(scribble_prompt, radius=STROKE_RADIUS),
    "box": partial(box_prompt, jitter=0.1),
    "mask": partial(mask_prompt, sigma=2.0),
}


def build_prompts(
    spec: DatasetSpec,
    source: TaskDataset,
    kinds: Sequence[str],
    seed: int,
    step: Callable[[str], None] = lambda _: None,
) -> dict:
    """The content of a ``vgd`` file for ``source``, the data set of ``spec`` (task ``genseg``, mode ``instance``).

    kinds: of :data:`~x2sam.data.prompts.KINDS`
    step:  is called after each sample with its name

    Samples without objects are left out. Raises PromptError for an unknown kind.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise PromptError(f"there is no such kind among {', '.join(kinds) or 'none'}; use some of {', '.join(KINDS)}")
    samples = []
    for index in range(len(source)):
        sample = source[index]
        prompts = list(_prompts(sample, kinds, np.random.SeedSequence((seed, index))))
        if prompts:
            size = [int(n) for n in sample.frames.shape[1:3]]
            stated = {"index": index, "key": sample.key, "size": size, "frames": len(sample.frames)}
            samples.append({**stated, "prompts": prompts})
        step(sample.key)
    settings = {key: getattr(spec, key) for key in CLIP_SETTINGS}
    return {
        "format": FORMAT,
        "version": VERSION,
        "seed": seed,
        "kinds": list(kinds),
        "source": {"format": spec.format, "mode": "instance", **settings},
        "samples": samples,
    }


def _prompts(sample: TaskSample, kinds: Sequence[str], seeds: np.random.SeedSequence) -> Iterable[dict]:
    first = sample.first_seen()
    for category in np.unique(sample.labels):
        # A seed of its own: what is drawn for one category does not depend on the others, nor one kind on another.
        choice, *drawing = seeds.spawn(1 + len(KINDS))
        seed_of = dict(zip(KINDS, drawing, strict=True))
        shown = np.flatnonzero((sample.labels == category) & (first >= 0))
        if not len(shown):
            continue
        n = int(shown[np.random.default_rng(choice).integers(len(shown))])
        frame = int(first[n])
        mask = sample.masks[frame, n]
        regions = {kind: encode_rle(_DRAW[kind](mask, np.random.default_rng(seed_of[kind]))) for kind in kinds}
        targets = [sample.ids[k] for k in shown]
        yield {
            "category": sample.items[category], "object": sample.ids[n], "frame": frame, "targets": targets, **regions
        }  # fmt: skip
