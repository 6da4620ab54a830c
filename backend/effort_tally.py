"""Efforts added up: of a whole project, by label, model version, annotator and week. Of bounded size, however many
masks there are."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from backend.effort import KINDS, Effort, Measured

OTHERS = "(all others)"
"""The name of what is counted together because there are too many names."""
UNKNOWN_VERSION = "(unknown)"
OVERLAPS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Where bars of overlaps begin after the first one, which begins at 0."""
PROMPTS = (1, 2, 3, 4, 5, 6, 8, 11)
"""The same of prompts for a mask that was prompted."""
_LONGEST_NAME = 100
_LABELS, _VERSIONS, _PEOPLE, _WEEKS = 200, 50, 200, 520


class Spread:
    """Numbers from 0 on, as their sum and how often each was there, to three digits and a thousandth."""

    def __init__(self) -> None:
        self.counts: Counter[float] = Counter()
        self.total = 0.0

    def add(self, value: float | None) -> None:
        """One more, where it is known."""
        if value is None:
            return
        self.total += value
        self.counts[float(f"{round(min(value, 1e6), 3):.3g}")] += 1

    @property
    def known(self) -> int:
        return self.counts.total()

    @property
    def mean(self) -> float | None:
        return self.total / self.known if self.known else None

    @property
    def median(self) -> float | None:
        """The middle one; of two middle ones their mean."""
        if not self.known:
            return None
        places = (self.known - 1) // 2, self.known // 2
        found, seen = [], 0
        for value, count in sorted(self.counts.items()):
            seen += count
            while len(found) < 2 and seen > places[len(found)]:
                found.append(value)
        return sum(found) / 2

    def bars(self, edges: Sequence[float]) -> list[int]:
        """How many there are below the first edge, from each edge to the next, and from the last one on."""
        bars = [0] * (len(edges) + 1)
        for value, count in self.counts.items():
            bars[bisect.bisect_right(edges, value)] += count
        return bars

    def as_json(self) -> dict[str, Any]:
        return {"known": self.known, "mean": _rounded(self.mean), "median": _rounded(self.median)}


@dataclass
class Tally:
    """Some masks. ``prompts`` are of all masks where they are known, ``asked`` of those only that somebody prompted."""

    kinds: Counter[str] = field(default_factory=Counter)
    touched: Counter[bool] = field(default_factory=Counter)
    prompts: Spread = field(default_factory=Spread)
    asked: Spread = field(default_factory=Spread)
    seconds: Spread = field(default_factory=Spread)
    overlap: Spread = field(default_factory=Spread)
    first: Spread = field(default_factory=Spread)

    def add(self, mask: Effort) -> None:
        self.kinds[mask.kind] += 1
        if mask.untouched is not None:
            self.touched[not mask.untouched] += 1
        self.prompts.add(mask.prompts)
        self.asked.add(mask.prompts if mask.kind in ("prompted", "worded") else None)
        self.seconds.add(mask.seconds)
        self.overlap.add(mask.overlap)
        self.first.add(mask.first)

    @property
    def masks(self) -> int:
        return self.kinds.total()

    @property
    def proposed(self) -> int:
        return self.masks - self.kinds["drawn"]

    @property
    def untouched(self) -> float | None:
        """The share of proposed masks that were submitted as they were proposed, of those where that is known."""
        return self.touched[False] / self.touched.total() if self.touched else None

    def as_json(self) -> dict[str, Any]:
        return {
            "masks": self.masks,
            "proposed": self.proposed,
            "kinds": {kind: self.kinds[kind] for kind in KINDS},
            "untouched": {"known": self.touched.total(), "share": _rounded(self.untouched)},
            "prompts_per_mask": self.prompts.as_json(),
            "prompts_per_prompted_mask": self.asked.as_json(),
            "seconds_per_mask": self.seconds.as_json(),
            "iou": self.overlap.as_json(),
            "iou_of_first_answer": self.first.as_json(),
        }


class Groups:
    """A tally for each name, for at most ``limit`` of them; those that come later are counted together."""

    def __init__(self, limit: int):
        self._limit = limit
        self.tallies: dict[str, Tally] = {}

    def add(self, name: str, mask: Effort) -> None:
        name = name[:_LONGEST_NAME]
        if name not in self.tallies and len(self.tallies) >= self._limit:
            name = OTHERS
        self.tallies.setdefault(name, Tally()).add(mask)

    def largest_first(self) -> list[tuple[str, Tally]]:
        """Names with their tallies, all others last."""
        return sorted(self.tallies.items(), key=lambda pair: (pair[0] == OTHERS, -pair[1].masks, pair[0]))

    def by_name(self) -> list[tuple[str, Tally]]:
        return sorted(self.tallies.items())


@dataclass
class Summary:
    """All of a project. ``annotators`` is None where nobody asked for it; ``journal``: prompts could be read.

    submitted, empty, cancelled, failed: annotations with masks, without any, skipped ones, and those that do not fit
             the labeling configuration
    unread, removed: regions whose pixels can't be had; masks of predictions that are not in the annotation
    dropped, dropped_prompts: objects that were prompted in submitted tasks and are not in any annotation of theirs
    """

    annotators: Groups | None = None
    journal: bool = True
    total: Tally = field(default_factory=Tally)
    labels: Groups = field(default_factory=lambda: Groups(_LABELS))
    versions: Groups = field(default_factory=lambda: Groups(_VERSIONS))
    weeks: Groups = field(default_factory=lambda: Groups(_WEEKS))
    tasks: int = 0
    submitted: int = 0
    empty: int = 0
    cancelled: int = 0
    failed: int = 0
    unread: int = 0
    removed: int = 0
    dropped: int = 0
    dropped_prompts: int = 0

    @classmethod
    def begin(cls, by_annotator: bool, journal: bool) -> Summary:
        return cls(Groups(_PEOPLE) if by_annotator else None, journal)

    def add(self, found: Measured, created: str, annotator: str) -> None:
        """One annotation, by whom (a pseudonym) and when it was made, as Label Studio writes times."""
        self.submitted += bool(found.masks)
        self.empty += not found.masks
        self.unread += found.unread
        self.removed += found.removed
        week = week_of(created)
        for mask in found.masks:
            self.total.add(mask)
            self.labels.add(mask.label, mask)
            if mask.kind != "drawn":
                self.versions.add(mask.version or UNKNOWN_VERSION, mask)
            if week:
                self.weeks.add(week, mask)
            if self.annotators is not None:
                self.annotators.add(annotator, mask)

    def as_json(self) -> dict[str, Any]:
        """The numbers under names that scripts may rely on; None where nothing is known. ``by_*`` are lists of rows
        with a ``name`` and what ``total`` has; ``bars`` count masks between edges."""
        total = self.total
        groups = {"by_label": self.labels.largest_first(), "by_version": self.versions.largest_first()}
        if self.annotators is not None:
            groups["by_annotator"] = self.annotators.largest_first()
        return {
            "tasks": self.tasks,
            "annotations": {
                "with_masks": self.submitted,
                "without": self.empty,
                "cancelled": self.cancelled,
                "unmeasured": self.failed,
            },
            "journal": self.journal,
            "total": total.as_json(),
            "predictions_removed": self.removed,
            "prompted_and_dropped": {"objects": self.dropped, "prompts": self.dropped_prompts},
            "regions_unread": self.unread,
            **{name: list(_rows(pairs)) for name, pairs in groups.items()},
            "by_week": list(_rows(self.weeks.by_name())),
            "bars": {
                "iou": {"edges": list(OVERLAPS), "masks": total.overlap.bars(OVERLAPS)},
                "prompts": {"edges": list(PROMPTS), "masks": total.asked.bars(PROMPTS)},
            },
        }


def week_of(time: str) -> str:
    """The Monday before a time, both as in ISO 8601; empty where it is no time."""
    try:
        day = datetime.fromisoformat(time).date()
    except ValueError:
        return ""
    return (day - timedelta(days=day.weekday())).isoformat()


def _rows(pairs: Iterable[tuple[str, Tally]]) -> Iterator[dict[str, Any]]:
    return ({"name": name, **tally.as_json()} for name, tally in pairs)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
