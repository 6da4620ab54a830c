"""A summary of effort as one HTML page for a team lead: no scripts, no network, plots as SVG within the page.

The words and the form are in ``report_page.html``; here numbers become texts and places of bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backend.effort import KINDS
from backend.effort_tally import OVERLAPS, PROMPTS, Summary, Tally

FEW = 20
"""With fewer masks than this, numbers are shown as uncertain."""
_NO_NUMBER = "–"
_WIDTH, _HEIGHT = 560.0, 150.0
_ROOM = 0.28  # of a column's place that stays free
_WEEKS_SHOWN = 26
_ROWS_SHOWN = 60


@dataclass(frozen=True)
class Column:
    """A column of a plot, in units of its SVG; ``told`` is its value in words, for the text above it."""

    x: float
    y: float
    width: float
    height: float
    name: str
    told: str


@dataclass(frozen=True)
class Part:
    """A part of a bar, in percent of its length."""

    kind: str
    start: float
    length: float
    told: str


def page(summary: Summary, project: int, made: datetime, title: str = "") -> str:
    """The page; ``title`` is the project's name."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "plain": plain, "duration": duration}
    weeks = summary.weeks.by_name()[-_WEEKS_SHOWN:]
    return environment.get_template("report_page.html").render(
        summary=summary,
        total=summary.total,
        project=project,
        title=title,
        made=f"{made:%Y-%m-%d %H:%M}",
        kinds=KINDS,
        few=FEW,
        parts=came_to_be(summary.total),
        overlaps=columns(spans(OVERLAPS, 0.0, 1.0), summary.total.overlap.bars(OVERLAPS)),
        prompts=columns(counts(PROMPTS), summary.total.asked.bars(PROMPTS)),
        weeks=[
            ("Proposed masks submitted untouched", by_week(weeks, lambda tally: tally.untouched, percent, 1.0)),
            ("Prompts for a mask that was prompted, mean", by_week(weeks, lambda tally: tally.asked.mean, plain)),
            ("Time for a mask, median", by_week(weeks, lambda tally: tally.seconds.median, duration)),
        ] if len(weeks) > 1 else [],
        tables=_tables(summary),
        outcome=outcome,
        width=_WIDTH,
        height=_HEIGHT,
    )  # fmt: skip


def percent(share: float | None) -> str:
    """``72 %``; a dash where it is not known."""
    return _NO_NUMBER if share is None else f"{100 * share:.0f} %"


def plain(number: float | None) -> str:
    """``1.4``, ``0.97``, ``12``."""
    if number is None:
        return _NO_NUMBER
    digits = 2 if abs(number) < 1 else 1 if abs(number) < 10 else 0
    return f"{number:.{digits}f}"


def duration(seconds: float | None) -> str:
    """``4.2 s``, ``45 s``, ``2 min 5 s``."""
    if seconds is None:
        return _NO_NUMBER
    if seconds < 59.5:
        return f"{plain(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def columns(names: Sequence[str], values: Sequence[float | None], tell=str, top: float | None = None) -> list[Column]:
    """A column for each value, the highest as high as the plot, or as much of it as it is of ``top``."""
    known = [value for value in values if value is not None]
    top = top or max(known, default=0.0) or 1.0
    place = _WIDTH / max(len(names), 1)
    found = []
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        height = _HEIGHT * min((value or 0.0) / top, 1.0)
        x = place * (number + _ROOM / 2)
        told = "" if value is None else tell(value)
        found.append(Column(round(x, 1), round(_HEIGHT - height, 1), round(place * (1 - _ROOM), 1), round(height, 1),
                            name, told))  # fmt: skip
    return found


def by_week(weeks: Sequence[tuple[str, Tally]], value, tell, top: float | None = None) -> list[Column]:
    """A column for each week, named by its Monday without the year."""
    return columns([name[5:] for name, _ in weeks], [value(tally) for _, tally in weeks], tell, top)


def spans(edges: Sequence[float], first: float, last: float) -> list[str]:
    """``0-0.5``, ``0.5-0.6`` and so on."""
    ends = [first, *edges, last]
    return [f"{begin:g}-{end:g}" for begin, end in pairwise(ends)]


def counts(edges: Sequence[int]) -> list[str]:
    """``below 1``, ``1``, ``6-7``, ``11+`` for whole numbers between edges."""
    inner = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(edges)]
    return [f"below {edges[0]}", *inner, f"{edges[-1]}+"]


def came_to_be(tally: Tally) -> list[Part]:
    """How masks came to be, as parts of one bar."""
    return _parts([(kind, tally.kinds[kind], KINDS[kind]) for kind in KINDS])


def outcome(tally: Tally) -> list[Part]:
    """What became of masks: untouched, changed, not known, drawn by hand."""
    unknown = tally.proposed - tally.touched.total()
    return _parts(
        [
            ("untouched", tally.touched[False], "submitted untouched"),
            ("changed", tally.touched[True], "changed"),
            ("unknown", unknown, "not known"),
            ("drawn", tally.kinds["drawn"], "drawn by hand"),
        ]
    )


def _parts(counted: Sequence[tuple[str, int, str]]) -> list[Part]:
    whole = sum(count for _, count, _ in counted) or 1
    parts, start = [], 0.0
    for kind, count, words in counted:
        length = 100 * count / whole
        if count:
            parts.append(Part(kind, round(start, 2), round(length, 2), f"{count} {words} ({_share(length)})"))
        start += length
    return parts


def _share(length: float) -> str:
    return f"{math.ceil(length) if length < 1 else round(length)} %"


def _tables(summary: Summary) -> list[tuple[str, str, list[tuple[str, Tally]], int]]:
    """Title, name of the first column, rows, and how many more there are."""
    groups = [
        ("By label", "label", summary.labels),
        ("By model version", "version", summary.versions),
        ("By annotator", "pseudonym", summary.annotators),
    ]
    tables = []
    for title, column, group in groups:
        rows = group.largest_first() if group is not None else []
        if rows:
            tables.append((title, column, rows[:_ROWS_SHOWN], max(len(rows) - _ROWS_SHOWN, 0)))
    return tables
