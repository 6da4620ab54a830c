"""Sentences for the annotator about tracks: how far they came, where objects were not seen, what goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.journal_tracks import FINISHED, RUNNING
from backend.replies import page_ranges
from backend.track_job import Progress

NOTHING_RUNS = "There is nothing to stop: none of your tracks runs here."
BEGUN_AGAIN = "It is being tracked again with this correction; type track to see how far."
NOT_KEPT = (
    "The ML backend can't write its journal: go on, but tell whoever runs it. What Label Studio has saved is safe, "
    "tracks are lost if the backend restarts."
)
GONE_WHERE = "Type “gone” on the page where it is not: this field belongs to all pages (it needs perItem=\"true\")."
GONE_WHICH = "Accept the masks first and delete the wrong one on this page, so that it is clear which object is gone."
_LEAST_SURE = 3


@dataclass(frozen=True)
class Carriage:
    """How an object came over the pages, counted from 0: where it was not seen, and the scores where it was."""

    label: str
    unseen: Sequence[int]
    scores: Sequence[tuple[float, int]]


def about_track(objects: Sequence[Carriage], progress: Progress) -> str:
    """The answer to ``track``: pages, where objects were not seen, and the pages that are least sure."""
    parts = [f"{_named([one.label for one in objects])}: {_how_far(progress)}"]
    if progress.problem:
        parts.append(progress.problem)
    for one in objects:
        if one.unseen:
            whose = f"{_short(one.label, 40)}: not" if len(objects) > 1 else "Not"
            parts.append(f"{whose} seen on {page_ranges(one.unseen)}.")
    lowest = sorted(score for one in objects for score in one.scores)[:_LEAST_SURE]
    if lowest:
        unsure = ", ".join(f"page {page + 1} ({100 * min(max(score, 0.0), 1.0):.0f} %)" for score, page in lowest)
        parts.append(f"Least sure: {unsure}.")
    return " ".join(parts)


def about_news(labels: Sequence[str], progress: Progress) -> str:
    """What a track found since it was asked about."""
    return f"{_named(labels)}: {_how_far(progress)}"


def about_locks(pages: Sequence[int], page: int | None) -> str:
    """The answer to ``lock``: pages, counted from 0, of which masks were locked; ``page`` is the one that was meant."""
    if pages:
        return f"Locked on {page_ranges(pages)}: these masks stay as they are."
    where = "on any page" if page is None else f"on page {page + 1}"
    return f"There is nothing to lock {where}: no mask that a track has made waits or stands there."


def about_gone(labels: Sequence[str], page: int) -> str:
    """The answer to ``gone`` on a page, counted from 0."""
    if labels:
        return f"{_named(labels)}: not on page {page + 1} from now on. Type track to make the pages around it fit."
    return (
        f"Nothing is gone from page {page + 1}: delete the mask of what is not there, wait until Label Studio has "
        "saved that (5 seconds), then type gone again."
    )


def _how_far(progress: Progress) -> str:
    done, total = progress.done, _pages(progress.total)
    if progress.state == RUNNING:
        if not progress.begun:
            return f"tracked {done} of {total}, waiting for other tracks. Type track to see more, stop to end it."
        left = f", {_seconds(progress.left)} left" if progress.left is not None else ""
        return f"tracked {done} of {total}{left}. It goes on: type track to see more, stop to end it."
    if progress.state == FINISHED:
        return f"tracked {total}."
    if progress.problem:
        return f"tracked {done} of {total}."
    return f"tracked {done} of {total} and stopped; type track to go on."


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def _named(labels: Sequence[str]) -> str:
    return _short(", ".join(dict.fromkeys(labels)))


def _short(text: str, longest: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
