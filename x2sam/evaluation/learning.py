"""How much a model learns from the masks that one person corrects: fewer clicks on other pictures of the same kind?

A simulated annotator corrects some masks of a domain; the model is adapted to them exactly as in service
(:mod:`x2sam.training.adapt`); then clicks per object and IoU are measured on *other* pictures of that domain, and on
pictures of other kinds. Each number of masks and each seed begins with the model as it is given.

The domain is a source of a training set (``train.json``). Whether the model has seen it before is for whoever runs this
to know: train one with ``data.leave_out``, or name a shift, which makes another domain of the same pictures:

    speckle    grey, with the multiplicative grain of ultrasound and radar pictures
    negative   inverted, with red and blue exchanged
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from x2sam.data.masks import MIN_VISIBLE
from x2sam.data.readers.labelmaps import LabelMapDataset, held_out
from x2sam.data.readers.own_format import OwnItem, OwnObject, write_dataset
from x2sam.errors import FramesError
from x2sam.evaluation.clicks import number_of_clicks
from x2sam.evaluation.comparing import ClickTable, Comparison, click_table, compare, general_set
from x2sam.evaluation.contract import Opener
from x2sam.structures import Sample
from x2sam.training.adapt import TRAIN, Adaptation, adapt

_TEST_SHARE = 3  # one picture in so many is for the test, whatever the seed
_PER_PICTURE = 5  # masks that the annotator corrects on one picture
_SURE = 0.85


@dataclass(frozen=True)
class Domain:
    """The pictures of one source, shifted or not, in two parts by their names: to correct, and to test on."""

    data: LabelMapDataset
    source: str
    shift: str = ""

    def __post_init__(self) -> None:
        if self.shift not in SHIFTS:
            raise FramesError(f"there is no shift {self.shift!r}; choose one of {', '.join(filter(None, SHIFTS))}")
        known = sorted({record.source for record in self.data.records})
        if self.source not in known:
            raise FramesError(f"{self.data.root} has no source {self.source!r}; it has {', '.join(known)}")

    def places(self, test: bool) -> list[int]:
        found = enumerate(self.data.records)
        return [i for i, one in found if one.source == self.source and held_out(one, _TEST_SHARE) == test]

    def sample(self, place: int) -> Sample:
        sample = self.data.bare(place)
        return replace(sample, frames=SHIFTS[self.shift](sample.frames[0], place)[None])


def speckle(picture: np.ndarray, seed: int) -> np.ndarray:
    """uint8 (H, W, 3): grey, times grain (gamma noise of 4 looks, a little blurred), dark towards the lower edge."""
    rng = np.random.default_rng((seed, 11))
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    grain = cv2.GaussianBlur(rng.gamma(4.0, 0.25, grey.shape).astype(np.float32), (0, 0), 0.7)
    fading = np.linspace(1.1, 0.5, len(grey), dtype=np.float32)[:, None]
    return np.repeat(np.clip((grey + 12) * grain * fading, 0, 255).astype(np.uint8)[..., None], 3, 2)


def negative(picture: np.ndarray, seed: int) -> np.ndarray:
    """uint8 (H, W, 3): inverted, red and blue exchanged."""
    return np.ascontiguousarray(255 - picture[..., ::-1])


SHIFTS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = MappingProxyType(
    {"": lambda picture, seed: picture, "speckle": speckle, "negative": negative}
)


def corrected(domain: Domain, masks: int, seed: int, out: Path) -> int:
    """Writes what an annotator submits who corrects ``masks`` masks on pictures drawn by ``seed``; how many pictures
    they are. A patient annotator's mask is the truth.

    :raises FramesError: the domain has fewer
    """
    rng = np.random.default_rng((seed, 29))
    items, left = [], masks
    (out / "media").mkdir(parents=True, exist_ok=True)
    for place in rng.permutation(domain.places(test=False)).tolist():
        if not left:
            break
        sample = domain.sample(place)
        areas = np.bincount(sample.labels[0].ravel(), minlength=256)
        able = [one for one in sample.objects if areas[one.id] >= MIN_VISIBLE]
        chosen = [able[int(k)] for k in rng.permutation(len(able))[: min(left, _PER_PICTURE)]]
        if not chosen:
            continue
        left -= len(chosen)
        name = f"media/{place:06d}.png"
        cv2.imwrite(str(out / name), cv2.cvtColor(sample.frames[0], cv2.COLOR_RGB2BGR))
        shown = {one.id: sample.labels[0] == one.id for one in chosen}
        objects = tuple(OwnObject(one.id, one.category) for one in chosen)
        items.append(OwnItem(f"picture-{place}", sample.labels.shape[1:], objects, {0: shown}, name, split=TRAIN))
    if left:
        raise FramesError(f"source {domain.source!r} has {left} masks less than {masks} to correct; ask for fewer")
    write_dataset(out, items, {"made_by": "a simulated annotator", "source": domain.source, "shift": domain.shift})
    return len(items)


def clicks_of(table: ClickTable) -> dict:
    """IoU after each click, and the clicks until an IoU of 0.8 and 0.85 (all of them where it is never reached)."""
    return {
        "objects": len(table.iou),
        "miou": [float(v) for v in table.iou.mean(0)],
        "noc": {"80": number_of_clicks(table.iou, 0.80), "85": number_of_clicks(table.iou, _SURE)},
    }


@dataclass(frozen=True)
class Trial:
    """One adaptation: how many masks, which seed, and what was measured after it."""

    masks: int
    seed: int
    domain: ClickTable
    elsewhere: ClickTable


def evaluate_learning(
    load: Callable[[Path], Opener], model: Path, domain: Domain, out: Path, counts: Sequence[int],
    seeds: Sequence[int], wanted: Adaptation = Adaptation(), elsewhere: Path | None = None, pictures: int = 30,
    clicks: int = 5, device: str = "cpu", told: Callable[[dict], None] = lambda result: None,
) -> dict:  # fmt: skip
    """Adapts the model once for each number of masks and each seed; ``told`` gets the result so far after each.

    load:      from a directory to an engine, which is closed again
    elsewhere: a directory of labelled pictures of other kinds; generated scenes without one
    pictures:  most test pictures of either kind
    """
    tests = domain.places(test=True)
    places = np.unique(np.linspace(0, len(tests) - 1, min(pictures, len(tests))).astype(int))
    here = [lambda place=tests[int(k)]: domain.sample(place) for k in places]
    there = list(general_set(elsewhere))
    there = [there[int(k)] for k in np.unique(np.linspace(0, len(there) - 1, min(pictures, len(there))).astype(int))]

    def measured(directory: Path) -> tuple[ClickTable, ClickTable]:
        engine = load(directory)
        try:
            return click_table(engine, here, clicks), click_table(engine, there, clicks)
        finally:
            engine.close()

    before = measured(model)
    trials: list[Trial] = []
    for masks in counts:
        for seed in seeds:
            place = out / f"{masks}-{seed}"
            shutil.rmtree(place, ignore_errors=True)
            corrected(domain, masks, seed, place / "corrections")
            adapted = adapt(model, place / "corrections", place, replace(wanted, seed=seed), device)
            trials.append(Trial(masks, seed, *measured(adapted)))
            shutil.rmtree(place)
            told(_summary(domain, before, trials))
    return _summary(domain, before, trials)


def _summary(domain: Domain, before: tuple[ClickTable, ClickTable], trials: Sequence[Trial]) -> dict:
    rows = []
    for masks in dict.fromkeys(trial.masks for trial in trials):
        same = [trial for trial in trials if trial.masks == masks]
        rows.append(
            {
                "masks": masks,
                "domain": _of_seeds(before[0], [trial.domain for trial in same]),
                "elsewhere": _of_seeds(before[1], [trial.elsewhere for trial in same]),
            }
        )
    return {
        "source": domain.source,
        "shift": domain.shift,
        "before": {"domain": clicks_of(before[0]), "elsewhere": clicks_of(before[1])},
        "after": rows,
    }


def _of_seeds(before: ClickTable, after: Sequence[ClickTable]) -> dict:
    """Mean and spread over the seeds, and each seed's difference with its bounds."""
    found = [clicks_of(table) for table in after]
    paired: list[Comparison] = [compare(before, table) for table in after]
    return {
        "miou": np.mean([one["miou"] for one in found], 0).tolist(),
        "miou_spread": np.std([one["miou"] for one in found], 0).tolist(),
        "noc": {level: float(np.mean([one["noc"][level] for one in found])) for level in ("80", "85")},
        "noc_spread": {level: float(np.std([one["noc"][level] for one in found])) for level in ("80", "85")},
        "differences": [{"mean": one.difference, "low": one.low, "high": one.high} for one in paired],
    }
