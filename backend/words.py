"""Typed text: what it asks for, and which label of the configuration its answers get."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from backend import replies
from backend.label_config import Label, LabelConfig
from backend.prompts import Ask, text_name
from backend.protocol import Task, TypedText
from x2sam.data import plain_words
from x2sam.data.tasks import CategoryList, is_sentence, task_of
from x2sam.errors import PromptError
from x2sam.structures import Prompt

if TYPE_CHECKING:
    from backend.history import History

LONGEST_TEXT = 2000
NO_EXAMPLE = (
    "All of what? Click on one of them or draw a box around it, wait until Label Studio has saved that (5 seconds), "
    "then type “all” again."
)
_ALL = re.compile(r"(find\s+)?all(\s+(like|of)\s+(this|that|these|them))?\s*[.!]*", re.IGNORECASE)
_LIST = re.compile(r"\s*(?:,|;|\n)\s*(?:and\s+)?", re.IGNORECASE)
_NAME = re.compile(r"(?:an?\s+)?((?!the\b|all\b|on\b|in\b|with\b)[\w'-]+(?:\s+[\w'-]+){0,2})\.?", re.IGNORECASE)
_HERE = re.compile(r"here\s*:\s*(?=\S)", re.IGNORECASE)
_NOUN_PHRASES = frozenset({"refseg", "reaseg"})


def text_asks(
    task: Task,
    texts: Iterable[TypedText],
    config: LabelConfig,
    labels: Sequence[Label] = (),
    history: History | None = None,
) -> list[Ask]:
    """Questions for the texts in prompt TextAreas: the newest of each page. ``label`` is the one that a text names.
    A text that begins with ``here:`` is about its page only.

    Where several pages have a text, Label Studio sends them all again; a page whose answer already stands in the
    annotation is left out then, so that what was corrected there by hand is not replaced.

    :raises PromptError: a text is too long, or says "all" and there is nothing that it could mean.
    """
    newest = {text.page: text for text in texts if config.is_text_prompt(text.from_name)}
    asks = [_text_ask(task, text, labels, history) for text in newest.values()]
    if len(asks) > 1:
        asks = [ask for ask in asks if not any(known.startswith(ask.object_id) for known in task.region_ids)]
    return asks


def named_label(labels: Sequence[Label], text: str | None) -> Label | None:
    """The label that a text names, in singular or plural; the longest one."""
    named = [
        (len(name), -index, label)
        for index, label in enumerate(labels)
        for name in (label.value, *label.names)
        if text and re.search(rf"(?<!\w){re.escape(name)}(?:s|es)?(?!\w)", text, re.IGNORECASE)
    ]
    return max(named, key=lambda found: found[:2])[2] if named else None


def label_for(labels: Sequence[Label], *texts: str | None) -> Label | None:
    """The label that the first of the texts names that names one; else the selected, the only, or a general one
    (``Object``); None where a person has to say which."""
    for text in texts:
        if (label := named_label(labels, text)) is not None:
            return label
    if len(labels) == 1:
        return labels[0]
    return next((label for label in labels if label.selected), None) or next(
        (label for label in labels if label.generic), None
    )


def needs_label(ask: Ask) -> bool:
    """Whether the answer is one mask for the text as a whole, so that its label is known before the model is asked."""
    return ask.prompt.text is not None and task_of(ask.prompt, "image").name in _NOUN_PHRASES


def understood(ask: Ask, words: Collection[str]) -> str:
    """A sentence about what a model that knows few ``words`` made of a phrase; "" where it heard all of it."""
    phrase = ask.prompt.text is not None and task_of(ask.prompt, "image").name == "refseg"
    return replies.understood_as(plain_words.understood(ask.prompt.text, words) if phrase else None)


def category_names(prompt: Prompt) -> tuple[str, ...]:
    """What :attr:`x2sam.structures.Mask.category` counts through; empty for other prompts than lists of names."""
    listed = prompt.task is None and not prompt.has_region and task_of(prompt, "image").name == "genseg"
    return CategoryList.of(prompt).names if listed else ()


def listed_names(text: str) -> tuple[str, ...]:
    """The names in a list such as ``car, person``; empty for anything else."""
    parts = [part for part in _LIST.split(text.strip()) if part]
    found = [_NAME.fullmatch(part) for part in parts]
    if len(parts) < 2 or not all(found) or is_sentence(text.replace(";", ",")):
        return ()
    return tuple(dict.fromkeys(match[1] for match in found))


def _text_ask(task: Task, text: TypedText, labels: Sequence[Label], history: History | None) -> Ask:
    if len(text.text) > LONGEST_TEXT:
        raise PromptError(f"The text is longer than {LONGEST_TEXT} characters; shorten it.")
    name, words = text_name(task.id, text), text.text
    label, rest = _split_label(labels, words)
    here = None if label is not None else _HERE.match(words)
    if here is not None:
        label, rest = _split_label(labels, words[here.end() :])
    if _ALL.fullmatch(rest) and label is None:
        return replace(_all_ask(name, text, history), here=here is not None)
    names = listed_names(rest)
    return Ask(
        name,
        Prompt(categories=names) if names else Prompt(text=rest),
        text.to_name,
        text.from_name,
        label.value if label is not None else None,
        text.page,
        prompt_ids=(text.id,),
        worded=True,
        typed=rest,
        here=here is not None,
    )


def _all_ask(name: str, text: TypedText, history: History | None) -> Ask:
    example = history.example(text.page) if history is not None else None
    if example is None:
        raise PromptError(NO_EXAMPLE)
    drawn = example.prompt
    prompt = Prompt(points=drawn.points, boxes=drawn.boxes, masks=drawn.masks, task="vgdseg", object_id=name)
    return Ask(
        name, prompt, text.to_name, text.from_name, example.label, example.page, example.shown, (text.id,), worded=True
    )


def _split_label(labels: Sequence[Label], text: str) -> tuple[Label | None, str]:
    """``Background: the sky`` -> the label and the rest; no label where nothing is split off."""
    head, colon, rest = text.partition(":")
    wanted = head.strip().lower()
    named = [label for label in labels if wanted in (name.lower() for name in (label.value, *label.names))]
    return (named[0], rest.strip()) if colon and named and rest.strip() else (None, text)
