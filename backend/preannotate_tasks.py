"""Which tasks of a project somebody means: ``--tasks`` in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from backend.errors import SettingsError
from backend.label_studio_api import LabelStudioApi, task_filter

_SPANS = re.compile(r"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", re.ASCII)
_EQUALS = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
HELP = "all, unlabelled (the default), ids like 12,40-90, or KEY=VALUE of the data; given several times, all hold."


def tasks_meant(api: LabelStudioApi, project: int, written: Sequence[str]) -> Iterator[int]:
    """Ids of the tasks that every one of these words means, in order.

    :raises SettingsError: a word is none.
    """
    filters: list[dict[str, Any]] = []
    spans: list[list[range]] = []
    for word in map(str.strip, written or ("unlabelled",)):
        equals = _EQUALS.fullmatch(word)
        if word == "unlabelled":
            filters.append(task_filter("total_annotations", "equal", "Number", 0))
        elif _SPANS.fullmatch(word):
            spans.append([_span(part) for part in word.split(",")])
        elif equals:
            filters.append(task_filter(f"data.{equals[1]}", "equal", "String", equals[2]))
        elif word != "all":
            raise SettingsError(f"--tasks {word!r} is not understood; it may be {HELP}")
    ids = api.ids(project, filters)
    return (task for task in ids if all(any(task in span for span in either) for either in spans))


def _span(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)
