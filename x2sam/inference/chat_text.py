"""A prompt in the words the model was trained on: what is asked, and the one turn of chat that asks it.

One turn reads ``<|im_start|>user\\n{visual}{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n``;
there is no system turn. Families of checkpoints with other marks have a row in :data:`STYLES`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..data.tasks import CategoryList, ItemKind, Task, is_sentence, templates_of
from ..data.tokenizer import PHRASE_CLOSE, PHRASE_OPEN, TURN_END, TURN_START, VISION_END, VISION_START
from ..errors import PromptError
from ..structures import Prompt

REGION_MARK = "<region>"


@dataclass(frozen=True)
class ChatStyle:
    """How a family of models writes a turn.

    opening, reply, end:       what stands before the picture, between question and answer, behind the answer
    vision_start, vision_end:  around the rows of a picture
    after_picture:             between the picture and the question
    bos:                       token that the sequence starts with, "" for none
    blank_pieces:              pieces of blanks between regions are tokens too
    full_stop:                 a caption always ends with one
    blank_after_mark:          the tokenizer puts a blank behind every mark (SentencePiece), which is no one's
    """

    opening: str = f"{TURN_START}user\n"
    reply: str = f"{TURN_END}\n{TURN_START}assistant\n"
    end: str = TURN_END
    vision_start: str = VISION_START
    vision_end: str = VISION_END
    after_picture: str = ""
    bos: str = ""
    blank_pieces: bool = False
    full_stop: bool = True
    blank_after_mark: bool = False

    def mark(self, modality: str) -> str:
        """Where the rows of an ``image`` or ``video`` go."""
        return f"{self.vision_start}<{modality}>{self.vision_end}"

    def read(self, decoded: str) -> str:
        """What was decoded as it would have been written: text that is encoded gives the same ids again."""
        return re.sub(rf"({_MARKS.pattern}) ", r"\1", decoded) if self.blank_after_mark else decoded

    @property
    def tokens(self) -> tuple[str, ...]:
        """The marks that a tokenizer must know as one token each."""
        found = _MARKS.findall(self.opening + self.reply + self.end + self.vision_start + self.vision_end)
        return (*dict.fromkeys(found), *filter(None, [self.bos]))


_MARKS = re.compile(r"<\|[^<>|]{1,40}\|>|<SEG>|</?[ps]>|<unk>|<image>|<video>|<region>")
QWEN3 = ChatStyle()
_PHI3 = ChatStyle(
    "<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>", "", "", after_picture="\n", bos="<s>", blank_pieces=True,
    full_stop=False, blank_after_mark=True,
)  # fmt: skip
STYLES = {"qwen3": QWEN3, "phi3": _PHI3, "phi3-2026": replace(_PHI3, after_picture="", full_stop=True)}
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
    task: Task, query: Query, rng: random.Random | None = None, answer: bool = True, suffix: bool = True,
    style: ChatStyle = QWEN3,
) -> Turn:  # fmt: skip
    """The text of one turn, in the ``style`` of a family of models.

    Without ``rng`` the task's served templates are used, so equal queries give equal text. With it one ``rng.random()``
    (heads: give the known explanation) comes first, then ``rng.choice`` for the question and for the answer; that
    order is part of the contract with the published model's seeds. ``answer=False`` leaves the output to be
    generated; ``suffix=False`` leaves out the closing ``<|im_end|>`` of the answer.
    """
    if task.templates is None:
        question, reply = clean_text(query.question or ""), ""
    else:
        question, reply = _question_answer(task, query, rng, style.full_stop)
    text = f"{style.opening}{style.mark(task.modality)}{style.after_picture}{question}{style.reply}"
    if not answer or not reply:
        return Turn(text)
    return Turn(text, reply + (style.end if suffix else ""))


def _question_answer(task: Task, query: Query, rng: random.Random | None, full_stop: bool) -> tuple[str, str]:
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
            prefix = (_full_stop(caption) if full_stop else caption) + " "
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
