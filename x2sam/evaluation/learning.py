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

import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from x2sam.data.masks import visible_objects
from x2sam.data.readers.labelmaps import LabelMapDataset, held_out
from x2sam.data.readers.own_format import OwnItem, OwnObject, write_dataset
from x2sam.data.readers.own_pictures import OwnPictures
from x2sam.errors import FramesError
from x2sam.evaluation.clicks import number_of_clicks
from x2sam.evaluation.comparing import (
    ClickTable,
    Comparison,
    Samples,
    click_table,
    compare,
    general_set,
    judge,
)
from x2sam.evaluation.comparing import held_out as held_out_of
from x2sam.evaluation.contract import Opener
from x2sam.evaluation.metrics.interval import bootstrap_mean
from x2sam.placement import version_of
from x2sam.structures import Sample
from x2sam.training.adapt import HELD, TRAIN, Adaptation, adapt

_TEST_SHARE = 3  # one picture in so many is for the test, whatever the seed
_PER_PICTURE = 5  # masks that the annotator corrects on one picture
_HELD_SHARE = 4  # one corrected picture in so many is held out, to decide whether the model is taken
_JUDGED_CLICKS = 3  # of the decision, as in service
LEVELS: Mapping[str, float] = MappingProxyType({"80": 0.80, "85": 0.85})


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
    they are. A patient annotator's mask is the truth. As in service some of the pictures are held out of the learning.

    :raises FramesError: the domain has fewer
    """
    rng = np.random.default_rng((seed, 29))
    items, left = [], masks
    (out / "media").mkdir(parents=True, exist_ok=True)
    for place in rng.permutation(domain.places(test=False)).tolist():
        if not left:
            break
        sample = domain.sample(place)
        able = visible_objects(sample)
        chosen = [able[int(k)] for k in rng.permutation(len(able))[: min(left, _PER_PICTURE)]]
        if not chosen:
            continue
        left -= len(chosen)
        name = f"media/{place:06d}.png"
        cv2.imwrite(str(out / name), cv2.cvtColor(sample.frames[0], cv2.COLOR_RGB2BGR))
        shown = {one.id: sample.labels[0] == one.id for one in chosen}
        objects = tuple(OwnObject(one.id, one.category) for one in chosen)
        split = HELD if held_out(domain.data.records[place], _HELD_SHARE) else TRAIN
        items.append(OwnItem(f"picture-{place}", sample.labels.shape[1:], objects, {0: shown}, name, split=split))
    if left:
        raise FramesError(f"source {domain.source!r} has {left} masks less than {masks} to correct; ask for fewer")
    write_dataset(out, items, {"made_by": "a simulated annotator", "source": domain.source, "shift": domain.shift})
    return len(items)


@dataclass(frozen=True, eq=False)
class Measured:
    """What one model answers: on the domain, on the domain by the network alone (without the last light step, which
    was fitted on answers to pictures of all sources), and elsewhere."""

    domain: ClickTable
    network: ClickTable
    elsewhere: ClickTable


@dataclass(frozen=True, eq=False)
class Trial:
    """One adaptation: how many masks, which seed, what was measured after it, whether it would serve from then on and
    why, how many steps of training it was and how many seconds."""

    masks: int
    seed: int
    after: Measured
    promoted: bool = False
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0


PARTS = ("domain", "network", "elsewhere")


def evaluate_learning(
    load: Callable[[Path, bool], Opener], model: Path, domain: Domain, out: Path, counts: Sequence[int],
    seeds: Sequence[int], wanted: Adaptation = Adaptation(), elsewhere: Path | None = None, pictures: int = 30,
    clicks: int = 5, device: str = "cpu", told: Callable[[dict], None] = lambda result: None,
) -> dict:  # fmt: skip
    """Adapts the model once for each number of masks and each seed; ``told`` gets the result so far after each.

    load:      from a directory, and whether the last light step is taken, to an engine, which is closed again
    out:       what was measured stays there, so that the same call goes on where one was stopped
    elsewhere: a directory of labelled pictures of other kinds; generated scenes without one
    pictures:  most test pictures of either kind
    """
    here, there = _tests(domain, elsewhere, pictures)
    asking = {
        "model": version_of(model), "data": str(domain.data.root), "source": domain.source, "shift": domain.shift,
        "elsewhere": str(elsewhere), "pictures": pictures, "clicks": clicks,
    }  # fmt: skip
    about = asking | asdict(replace(wanted, seed=0))

    def asked(directory: Path, snap: bool, *wanted: tuple[Samples, int]) -> list[ClickTable]:
        with contextlib.closing(load(directory, snap)) as engine:
            return [click_table(engine, samples, count) for samples, count in wanted]

    def measured(directory: Path) -> Measured:
        in_service = asked(directory, True, (here, clicks), (there, _JUDGED_CLICKS))
        return Measured(in_service[0], asked(directory, False, (here, clicks))[0], in_service[1])

    def trial(masks: int, seed: int, before: Measured) -> Trial:
        place = out / f"{masks}-{seed}"
        _fresh(place, about)
        corrected(domain, masks, seed, place / "corrections")
        begun, taken = time.monotonic(), itertools.count()
        adapted = adapt(
            model, place / "corrections", place, replace(wanted, seed=seed), device,
            before_step=lambda number, whole: next(taken),
        )  # fmt: skip
        seconds, after = time.monotonic() - begun, measured(adapted)
        held = (held_out_of(OwnPictures(place / "corrections", HELD)), _JUDGED_CLICKS)
        verdict = judge(
            compare(*(asked(directory, True, held)[0] for directory in (model, adapted))),
            compare(before.elsewhere, after.elsewhere),
        )
        shutil.rmtree(place)
        return Trial(masks, seed, after, verdict.promoted, verdict.reason, next(taken), seconds)

    before = _kept(out / "before.npz", asking, lambda: Trial(0, 0, measured(model))).after
    trials: list[Trial] = []
    for masks in counts:
        for seed in seeds:
            file = out / f"{masks}-{seed}.npz"
            trials.append(_kept(file, about, lambda masks=masks, seed=seed: trial(masks, seed, before)))
            told(_summary(domain, before, trials))
    return _summary(domain, before, trials)


def _fresh(place: Path, about: dict) -> None:
    """Empties a directory unless a run of the same settings was stopped in it: that run is gone on with."""
    note, written = place / "about.json", json.dumps(about)
    if not note.is_file() or note.read_text(encoding="utf-8") != written:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        note.write_text(written, encoding="utf-8")


def _kept(file: Path, about: dict, make: Callable[[], Trial]) -> Trial:
    """What an earlier run with the same settings measured, else what ``make`` finds, which is kept."""
    if file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            head = json.loads(str(kept["about"]))
            trial = head.pop("trial")
            if head == about:
                tables = {part: ClickTable(kept[part], kept[f"{part}_picture"]) for part in PARTS}
                return Trial(after=Measured(**tables), **trial)
    found = make()
    values = {part: getattr(found.after, part).iou for part in PARTS}
    values |= {f"{part}_picture": getattr(found.after, part).picture for part in PARTS}
    trial = {one.name: getattr(found, one.name) for one in fields(found) if one.name != "after"}
    part = file.with_suffix(".part.npz")
    np.savez(part, about=json.dumps(about | {"trial": trial}), **values)
    part.replace(file)
    return found


def _tests(domain: Domain, elsewhere: Path | None, pictures: int) -> tuple[Samples, Samples]:
    """Pictures to measure on: of the domain, and others."""
    tests = domain.places(test=True)
    here = [lambda place=tests[k]: domain.sample(place) for k in _spread(len(tests), pictures)]
    there = general_set(elsewhere)
    return here, [there[k] for k in _spread(len(there), pictures)]


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()


def _summary(domain: Domain, before: Measured, trials: Sequence[Trial]) -> dict:
    rows = []
    for masks in dict.fromkeys(trial.masks for trial in trials):
        same = [trial for trial in trials if trial.masks == masks]
        row = {part: _of_seeds(getattr(before, part), [getattr(one.after, part) for one in same]) for part in PARTS}
        about = [
            {
                "seed": one.seed, "promoted": one.promoted, "reason": one.reason, "steps": one.steps,
                "seconds": round(one.seconds, 1),
            }
            for one in same
        ]  # fmt: skip
        rows.append({"masks": masks, **row, "trials": about})
    return {
        "source": domain.source,
        "shift": domain.shift,
        "before": {part: clicks_of(getattr(before, part)) for part in PARTS},
        "after": rows,
    }


def clicks_of(table: ClickTable) -> dict:
    """IoU after each click, and the clicks until an IoU of 0.8 and 0.85 (all of them where it is never reached)."""
    return {
        "objects": len(table.iou),
        "miou": [float(v) for v in table.iou.mean(0)],
        "noc": {name: number_of_clicks(table.iou, level) for name, level in LEVELS.items()},
    }


def _of_seeds(before: ClickTable, after: Sequence[ClickTable]) -> dict:
    """Mean and spread over the seeds, each seed's difference in IoU with its bounds, and that of all seeds together."""
    found = [clicks_of(table) for table in after]
    nocs = {name: [one["noc"][name] for one in found] for name in LEVELS}
    # each object's mean over the seeds: pictures are drawn, the seeds are the ones that were run
    together = ClickTable(np.mean([table.iou for table in after], 0), before.picture)
    return {
        "miou": np.mean([one["miou"] for one in found], 0).tolist(),
        "miou_spread": np.std([one["miou"] for one in found], 0).tolist(),
        "noc": {name: float(np.mean(values)) for name, values in nocs.items()},
        "noc_spread": {name: float(np.std(values)) for name, values in nocs.items()},
        "noc_difference": {
            name: fewer_clicks(before, after, level) for name, level in LEVELS.items() if len(before.iou)
        },
        "differences": [_bounds(compare(before, table)) for table in after],
        "difference": _bounds(compare(before, together)),
    }


def fewer_clicks(before: ClickTable, after: Sequence[ClickTable], level: float) -> dict:
    """Clicks per object until an IoU of ``level``, after (mean of the tables) less before, with its one-sided 95 %
    bounds."""
    needed = [[number_of_clicks(row[None], level) for row in table.iou] for table in (before, *after)]
    change = np.mean(needed[1:], 0) - needed[0]
    low, high = bootstrap_mean(change, before.picture.tolist(), level=0.9) or (None, None)
    return {"mean": float(change.mean()), "low": low, "high": high}


def _bounds(one: Comparison) -> dict:
    return {"mean": one.difference, "low": one.low, "high": one.high}
