"""A prompt in the words the model was trained on: what is asked, and the one turn of chat that asks it.

One turn reads ``<|im_start|>user\\n{visual}{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n``;
there is no system turn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.tasks import CategoryList, ItemKind, Task, is_sentence, templates_of
from ..data.tokenizer import PHRASE_CLOSE, PHRASE_OPEN, TURN_END, TURN_START, VISION_END, VISION_START
from ..errors import PromptError
from ..structures import Prompt

REGION_MARK = "<region>"
VISUAL_MARKS = {"image": f"{VISION_START}<image>{VISION_END}", "video": f"{VISION_START}<video>{VISION_END}"}
_MARKS = re.compile(r"<\|[^<>|]{1,40}\|>|<SEG>|</?p>|<image>|<video>|<region>")
_LONGEST_TEXT = 4000


@dataclass(frozen=True)
class Query:
    """What is asked, already in the words of the prompt's items.

    phrases:     category names, or one phrase or sentence, in the order of their condition index
    regions:     number of drawn regions
    question:    a person's words, for chat
    sentence:    the one phrase is a whole sentence or question (reasoning segmentation has templates for both)
    caption:     description with ``<p>...</p>`` around its phrases: the known answer of a grounded caption
    explanation: known reasoning that may precede the answer of reasoning segmentation
    """

    phrases: tuple[str, ...] = ()
    regions: int = 0
    question: str | None = None
    sentence: bool = True
    caption: str | None = None
    explanation: str | None = None


@dataclass(frozen=True)
class Turn:
    """One question and its answer, visual marker and turn marks included; ``output`` is empty when it is generated."""

    input: str
    output: str = ""


def clean_text(text: str, keep_phrases: bool = False) -> str:
    """A person's words without anything that the model would read as a marker (``keep_phrases``: but ``<p>``).

    Raises PromptError when nothing is left or the text is longer than the model can use.
    """
    cleaned = _MARKS.sub(lambda m: m[0] if keep_phrases and m[0] in (PHRASE_OPEN, PHRASE_CLOSE) else " ", text).strip()
    if not cleaned:
        raise PromptError("the text is empty; type what to look for")
    if len(cleaned) > _LONGEST_TEXT:
        raise PromptError(f"the text has {len(cleaned)} characters; use at most {_LONGEST_TEXT}")
    return cleaned


def category_phrase(name: str) -> str:
    """A dataset's category name as the model knows it: ``sky-other-merged`` -> ``sky``."""
    for ending in ("-merged", "-other", "-stuff"):
        name = name.replace(ending, "")
    return name.replace("-", " ").strip().lower()


def tag_caption(caption: str, spans: Sequence[tuple[int, int]]) -> str:
    """Mark character ranges ``(start, end)`` of a picture's caption as phrases and close it with a full stop.

    Phrases are numbered in reading order. A space follows each closing marker, as in training.
    """
    text, at = "", 0
    caption = _full_stop(caption)
    for start, end in sorted(spans):
        if start < at or end > len(caption) or start >= end:
            raise PromptError(f"the span {start}-{end} of the caption is empty, outside, or overlaps another")
        text += f"{caption[at:start]}{PHRASE_OPEN}{caption[start:end]}{PHRASE_CLOSE} "
        at = end
    return text + caption[at:]


def _full_stop(text: str) -> str:
    text = text.strip()
    return text if text.endswith(".") else text + "."


def query_of(task: Task, prompt: Prompt, regions: int = 0) -> Query:
    """What ``prompt`` asks of ``task``; ``regions`` is the number of region masks made from what was drawn.

    Raises PromptError when the prompt lacks what the task needs.
    """
    text = (prompt.text or "").strip()
    if task.items is ItemKind.CATEGORIES:
        return Query(phrases=CategoryList.of(prompt).names)
    if task.items is ItemKind.REGIONS:
        if regions < 1 or (task.single and regions != 1):
            raise PromptError(f"{task.name} needs {'exactly one region' if task.single else 'a region'}, not {regions}")
        return Query(regions=regions)
    if task.name == "chat":
        return Query(question=clean_text(text))
    if task.items is ItemKind.NONE:
        return Query()
    if not text and len(prompt.categories) == 1:
        text = prompt.categories[0]
    return Query(phrases=(clean_text(text),), sentence=is_sentence(text))


def render(
    task: Task, query: Query, rng: random.Random | None = None, answer: bool = True, suffix: bool = True
) -> Turn:
    """The text of one turn.

    Without ``rng`` the task's served templates are used, so equal queries give equal text. With it one ``rng.random()``
    (heads: give the known explanation) comes first, then ``rng.choice`` for the question and for the answer; that
    order is part of the contract with the published model's seeds. ``answer=False`` leaves the output to be
    generated; ``suffix=False`` leaves out the closing ``<|im_end|>`` of the answer.
    """
    if task.templates is None:
        question, reply = clean_text(query.question or ""), ""
    else:
        question, reply = _question_answer(task, query, rng)
    text = f"{TURN_START}user\n{VISUAL_MARKS[task.modality]}{question}{TURN_END}\n{TURN_START}assistant\n"
    if not answer or not reply:
        return Turn(text)
    return Turn(text, reply + (TURN_END if suffix else ""))


def _question_answer(task: Task, query: Query, rng: random.Random | None) -> tuple[str, str]:
    known = templates_of(task.templates or "")
    questions, answers = known.questions, known.answers
    prefix, caption = "", clean_text(query.caption, keep_phrases=True) if query.caption else ""
    explain = rng is None or rng.random() < 0.5
    if task.items is ItemKind.SENTENCE:
        if query.explanation and explain:
            questions, answers, prefix = known.explain_questions, known.explain_answers, query.explanation + " "
        elif query.sentence:
            questions = known.sentence_questions
    elif task.items is ItemKind.CATEGORIES and caption:
        questions, answers = known.caption_questions, known.caption_answers
    question = questions[task.served[0]] if rng is None else rng.choice(questions)
    reply = answers[task.served[1]] if rng is None else rng.choice(answers)
    if task.items is ItemKind.NONE:
        if caption:
            prefix = _full_stop(caption) + " "
    else:
        question = question.replace("{items}", _items(task, query))
        reply = reply.replace("{caption}", caption)
    return question, prefix + reply


def _items(task: Task, query: Query) -> str:
    if task.items is ItemKind.REGIONS:
        return ", ".join([f"{PHRASE_OPEN}{REGION_MARK}{PHRASE_CLOSE}"] * query.regions)
    phrases = [phrase.strip() for phrase in query.phrases]
    if task.items is ItemKind.CATEGORIES:
        phrases = [category_phrase(phrase) for phrase in phrases]
    if task.lower:
        phrases = [phrase.lower() for phrase in phrases]
    if task.single and len(phrases) != 1:
        raise PromptError(f"{task.name} takes one phrase, not {len(phrases)}; ask for them one by one")
    return ", ".join(f"{PHRASE_OPEN}{clean_text(phrase)}{PHRASE_CLOSE}" for phrase in phrases)
