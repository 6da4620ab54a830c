"""Sentences for the annotator: what was found, how sure the model is, or why there is no answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from x2sam.structures import Mask

ANSWERED_BEFORE = "These texts were answered before: change one, or delete its regions, to ask again."
ALT_CLICK = "Click again to add a part; Alt + click takes away."
UNSURE = 0.5
_MOST_TOLD = 8
TRACK = "Type “track” to carry it over all pages (“track forward”, “track backward”, “track 20”)."
MEND = "To correct it, mend one page with the brush, eraser or a click, and type “track”: the others follow."
NOTHING_TO_TRACK = (
    "There is nothing to track: click on an object or draw a box around it, wait until Label Studio has saved that "
    "(5 seconds), then type “track” again."
)
NO_ANSWER = "The model says nothing to that; ask in other words, or for something that can be seen."
LOOKED_AT_SOME = "There was no time to look at more pages; type it again to look further."
NO_TIME = "There was no time for this text beside the others: clear their fields, then type it again."
WHICH_PAGE = (
    "Which page is here? This text field belongs to the whole clip: leave “here:” away to look on all pages, or click "
    "on the object."
)
PAGE_BY_PAGE = "Each page was looked at by itself: the model follows nothing from page to page."
KNOWN_FURTHER_ON = (
    "There is nothing to track on these pages: what is marked is known further on only. Type “track” there, or “track” "
    "for all pages."
)
ALL_KEPT = "There is nothing to do: the masks on all these pages stay as they are. Delete one to have it made anew."


def pictures_only(model: str) -> str:
    """Why nothing is carried: the model has no memory."""
    return (
        f"The model {model} looks at pictures one by one: it can't follow objects over pages or look through videos. "
        "Start the backend with X2SAM_MODEL=x2sam-4b or nano for that, or prompt each page by itself."
    )


def percent_sure(masks: Sequence[Mask]) -> str:
    """``97 % sure``, or ``97 %, 81 % and 40 % sure``."""
    shares = [_percent(mask.score) for mask in masks]
    return " and ".join(filter(None, (", ".join(shares[:-1]), shares[-1]))) + " sure"


def about_region(label: str, masks: Sequence[Mask]) -> str:
    """The answer to clicks or a box."""
    if not masks:
        return f"{label}: nothing found there; click elsewhere or draw a box."
    doubt = " If the mask is wrong, click on what is missing." if min(mask.score for mask in masks) < UNSURE else ""
    return f"{label}: {percent_sure(masks)}.{doubt}"


def about_all(label: str, masks: Sequence[Mask], marked: int) -> str:
    """The answer to "all like this"; ``marked`` of what was found has a mask already."""
    already = f" {_objects(marked)} of that kind {'is' if marked == 1 else 'are'} marked already." if marked else ""
    if not masks:
        return f"{label}: found no {'other' if marked else 'one'}; click on a clearer example.{already}"
    return f"{label}: found {_objects(len(masks))} of that kind, {percent_sure(masks)}.{already}"


def about_text(text: str, masks: Sequence[Mask]) -> str:
    """The answer to a typed text."""
    if not masks:
        return f"Found nothing for “{_short(text)}”. Try other words, one thing at a time, or click on it."
    phrases = [mask.phrase for mask in masks]
    if all(phrases) and set(phrases) != {text}:
        named = ", ".join(f"{_short(mask.phrase)} ({percent_sure([mask])})" for mask in masks)
        return f"Found {_objects(len(masks))} for “{_short(text)}”: {named}."
    return f"Found {_objects(len(masks))} for “{_short(text)}”: {percent_sure(masks)}."


def understood_as(phrase: str | None) -> str:
    """What a model made of a text that knows few words; nothing where it heard all of it."""
    return f"Understood as “{_short(phrase, 40)}”." if phrase else ""


@dataclass(frozen=True)
class Sight:
    """Something that words found in a clip: what it is called, how sure that is, and the page where it is seen best,
    counted from 0."""

    phrase: str
    score: float
    page: int


def about_clip(text: str, found: Sequence[Sight], looked: Sequence[int], pages: int, left_out: int = 0) -> str:
    """The answer to a text about a clip of ``pages``, of which some were ``looked`` at."""
    if not found:
        where = "any page" if len(looked) == pages else f"{page_ranges(looked, len(looked))} of {pages}"
        return (
            f"Found nothing for “{_short(text)}” on {where}. Try other words, one thing at a time, or click on it "
            "where it is seen well."
        )
    told = [f"{_percent(one.score)} sure, page {one.page + 1}" for one in found]
    if {one.phrase for one in found} - {text, ""}:
        told = [f"{_short(one.phrase, 40)} ({what})" for one, what in zip(found, told, strict=True)]
    listed = f"{', '.join(told[:_MOST_TOLD])}{' and others' if len(told) > _MOST_TOLD else ''}"
    more = f" {_objects(left_out)} less sure {'was' if left_out == 1 else 'were'} left out." if left_out else ""
    doubt = " Where it is the wrong thing, click on the right one." if min(one.score for one in found) < UNSURE else ""
    return f"Found {_objects(len(found))} for “{_short(text)}”: {listed}.{more}{doubt}"


def which_label(labels: Sequence[str], text: str | None) -> str:
    """Asks for a label that the text does not name."""
    example = f"{labels[0]}: {_short(text or '', 40)}" if labels else ""
    return f"Which label? Write it first, as in “{example}”. There are: {_short(', '.join(labels), 200)}."


def no_label_for(phrases: Sequence[str], labels: Sequence[str]) -> str:
    """Tells what was found but has no label."""
    found = _short(", ".join(f"“{_short(phrase, 40)}”" for phrase in phrases if phrase) or "what was found", 200)
    return f"No label fits {found}. Name one of: {_short(', '.join(labels), 200)}."


def not_shown(pages: Sequence[int]) -> str:
    """What to tell where masks were found on pages, counted from 0, that can't be had any more."""
    return f"The masks on {page_ranges(pages)} can't be shown: the pictures can't be had now. Try again later."


def page_ranges(pages: Iterable[int], most: int = 5) -> str:
    """``page 4``, or ``pages 1-3, 7 and 9-12``, counted from 1."""
    ranges: list[list[int]] = []
    for page in sorted(set(pages)):
        if ranges and page == ranges[-1][1] + 1:
            ranges[-1][1] = page
        else:
            ranges.append([page, page])
    told = [str(first + 1) if first == last else f"{first + 1}-{last + 1}" for first, last in ranges]
    if told == [str(ranges[0][0] + 1)]:
        return f"page {told[0]}"
    if len(told) > most:
        return f"pages {', '.join(told[:most])} and others"
    return "pages " + " and ".join(filter(None, (", ".join(told[:-1]), told[-1])))


LEARNING_FAILED = "Learning from your masks did not work; the log of the ML backend says more."


def learning(part: str, done: int, whole: int) -> str:
    """How far a training is that learns from the project's masks."""
    if part == "training" and not whole:
        return "Learning from your masks: it begins."
    if part == "training":
        return f"Learning from your masks: step {done} of {whole}."
    if part == "outlining":
        return f"Learning from your masks: outlines, {done} of {whole}."
    if part == "comparing":
        return "Learning from your masks: it is compared with what was before."
    return "Learning from your masks: they are collected."


def learned(version: str, promoted: bool, reason: str) -> str:
    """How a training ended."""
    if promoted:
        return f"Learned from your masks: {version} answers from now on ({reason})."
    return f"What was learned from your masks is not used: {reason}."


def on_page(page: int | None, sentence: str) -> str:
    """The sentence with its page, counted from 1 as in the editor."""
    return sentence if page is None else f"Page {page + 1}: {sentence}"


def _percent(score: float) -> str:
    return f"{100 * min(max(score, 0.0), 1.0):.0f} %"


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _short(text: str, longest: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
