"""Sentences for the annotator: what was found, how sure the model is, or why there is no answer."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam.structures import Mask

VIDEO_TAG = (
    "Text on a Video tag is not answered: masks need the frames as pages. Import the clip as a list of pictures and "
    "use an Image tag with valueList (label_config/video_frames.xml)."
)
ANSWERED_BEFORE = "These texts were answered before: change one, or delete its regions, to ask again."
ALT_CLICK = "Click again to add a part; Alt + click takes away."
UNSURE = 0.5
NOTHING_ASKED = "There is nothing to answer here: type into the prompt field, or click with a smart tool."


def percent_sure(masks: Sequence[Mask]) -> str:
    """``97 % sure``, or ``97 %, 81 % and 40 % sure``."""
    shares = [f"{100 * min(max(mask.score, 0.0), 1.0):.0f} %" for mask in masks]
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


def which_label(labels: Sequence[str], text: str | None) -> str:
    """Asks for a label that the text does not name."""
    example = f"{labels[0]}: {_short(text or '', 40)}" if labels else ""
    return f"Which label? Write it first, as in “{example}”. There are: {_short(', '.join(labels), 200)}."


def no_label_for(phrases: Sequence[str], labels: Sequence[str]) -> str:
    """Tells what was found but has no label."""
    found = _short(", ".join(f"“{_short(phrase, 40)}”" for phrase in phrases if phrase) or "what was found", 200)
    return f"No label fits {found}. Name one of: {_short(', '.join(labels), 200)}."


def on_page(page: int | None, sentence: str) -> str:
    """The sentence with its page, counted from 1 as in the editor."""
    return sentence if page is None else f"Page {page + 1}: {sentence}"


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def _short(text: str, longest: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
