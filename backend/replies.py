"""Sentences for the annotator: what was found, how sure the model is, or why there is no answer."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam.structures import Mask

VIDEO_TAG = (
    "Text on a Video tag is not answered: masks need the frames as pages. Import the clip as a list of pictures and "
    "use an Image tag with valueList (label_config/video_frames.xml)."
)
ANSWERED_BEFORE = "These texts were answered before: change one, or delete its regions, to ask again."
NOTHING_ASKED = "There is nothing to answer here: type into the prompt field, or click with a smart tool."


def percent_sure(masks: Sequence[Mask]) -> str:
    """``97 % sure``, or ``97 %, 81 % and 40 % sure``."""
    shares = [f"{100 * min(max(mask.score, 0.0), 1.0):.0f} %" for mask in masks]
    return " and ".join(filter(None, (", ".join(shares[:-1]), shares[-1]))) + " sure"


def about_region(label: str, masks: Sequence[Mask]) -> str:
    """The answer to clicks or a box."""
    if not masks:
        return f"{label}: nothing found there; click elsewhere or draw a box."
    return f"{label}: {percent_sure(masks)}."


def about_text(text: str, masks: Sequence[Mask]) -> str:
    """The answer to a typed text."""
    if not masks:
        return f"Found nothing for “{_short(text)}”."
    objects = "1 object" if len(masks) == 1 else f"{len(masks)} objects"
    phrases = [mask.phrase for mask in masks]
    if all(phrases) and set(phrases) != {text}:
        named = ", ".join(f"{_short(mask.phrase)} ({percent_sure([mask])})" for mask in masks)
        return f"Found {objects} for “{_short(text)}”: {named}."
    return f"Found {objects} for “{_short(text)}”: {percent_sure(masks)}."


def on_page(page: int | None, sentence: str) -> str:
    """The sentence with its page, counted from 1 as in the editor."""
    return sentence if page is None else f"Page {page + 1}: {sentence}"


def _short(text: str, longest: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
