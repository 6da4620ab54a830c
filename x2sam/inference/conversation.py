"""Prompt and task -> chat text -> token ids, with a note of where pictures, regions, phrases and ``<SEG>`` are.

One turn reads ``<|im_start|>user\\n{visual}{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n``; there is
no system turn. The text is cut at its markers and every piece is tokenised by itself, so what stands before a piece
never changes its ids: everything up to the last visual row can be computed once per picture.

Arrays are int64 of shape (L,). ``L`` counts one position per visual row; a region is one position until
:func:`expand` opens it to its rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..data.tasks import CategoryList, ItemKind, Task, is_sentence, templates_of
from ..data.tokenizer import PHRASE_CLOSE, PHRASE_OPEN, SEG, TURN_END, TURN_START, VISION_END, VISION_START
from ..errors import PromptError, WeightsError
from ..structures import Prompt

VISUAL, REGION = -1000, -400
"""Ids that stand for a row of the vision tower and for a region; never looked up in the embedding table."""
IGNORE = -100
"""Label of a position that is not learned."""

_REGION_MARK = "<region>"
_VISUAL_MARKS = {"image": f"{VISION_START}<image>{VISION_END}", "video": f"{VISION_START}<video>{VISION_END}"}
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


@dataclass(frozen=True, eq=False)
class ChatTokens:
    """A tokenised turn, every array int64 (L,).

    token_ids: vocabulary ids; :data:`VISUAL` for a visual row, :data:`REGION` for a region
    labels:    the answer's ids, elsewhere :data:`IGNORE`
    cond_ids:  index of the phrase a position belongs to, both markers included, else -1
    seg_ids:   running index on ``<SEG>``, else -1
    """

    token_ids: np.ndarray
    labels: np.ndarray
    cond_ids: np.ndarray
    seg_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def visual_rows(self) -> int:
        return int((self.token_ids == VISUAL).sum())

    @property
    def regions(self) -> int:
        return int((self.token_ids == REGION).sum())

    @property
    def position_ids(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)

    @property
    def attention_mask(self) -> np.ndarray:
        return np.ones(len(self), dtype=bool)


@dataclass(frozen=True, eq=False)
class ExpandedTokens(ChatTokens):
    """Tokens as the language model sees them: ``token_ids`` is -1 where a visual or region row goes.

    visual_mask, region_mask: bool (L,), the positions of those rows, in the order of the rows
    """

    visual_mask: np.ndarray
    region_mask: np.ndarray

    @property
    def visual_rows(self) -> int:
        return int(self.visual_mask.sum())

    @property
    def conditions(self) -> int:
        """Number of phrases (or regions) that get a condition vector."""
        return int(self.cond_ids.max(initial=-1)) + 1


def clean_text(text: str, keep_phrases: bool = False) -> str:
    """A person's words without anything that the model would read as a marker.

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

    Without ``rng`` the task's served templates are used, so equal queries give equal text. With it the question is
    drawn first and the answer second, by ``rng.choice``. ``answer=False`` leaves the output to be generated;
    ``suffix=False`` leaves out the closing ``<|im_end|>`` of the answer.
    """
    question, reply = (query.question or "", "") if task.templates is None else _question_answer(task, query, rng)
    text = f"{TURN_START}user\n{_VISUAL_MARKS[task.modality]}{question}{TURN_END}\n{TURN_START}assistant\n"
    if not answer or not reply:
        return Turn(text)
    return Turn(text, reply + (TURN_END if suffix else ""))


def _question_answer(task: Task, query: Query, rng: random.Random | None) -> tuple[str, str]:
    known = templates_of(task.templates or "")
    questions, answers = known.questions, known.answers
    prefix = ""
    if task.items is ItemKind.SENTENCE:
        if query.explanation and (rng is None or rng.random() < 0.5):
            questions, answers, prefix = known.explain_questions, known.explain_answers, query.explanation + " "
        elif query.sentence:
            questions = known.sentence_questions
    elif task.items is ItemKind.CATEGORIES and query.caption:
        questions, answers = known.caption_questions, known.caption_answers
    question = questions[task.served[0]] if rng is None else rng.choice(questions)
    reply = answers[task.served[1]] if rng is None else rng.choice(answers)
    if task.items is ItemKind.NONE:
        if query.caption:
            prefix = _full_stop(query.caption) + " "
    else:
        question = question.replace("{items}", _items(task, query))
        reply = reply.replace("{caption}", query.caption or "")
    return question, prefix + reply


def _items(task: Task, query: Query) -> str:
    if task.items is ItemKind.REGIONS:
        return ", ".join([f"{PHRASE_OPEN}{_REGION_MARK}{PHRASE_CLOSE}"] * query.regions)
    phrases = [phrase.strip() for phrase in query.phrases]
    if task.items is ItemKind.CATEGORIES:
        phrases = [category_phrase(phrase) for phrase in phrases]
    if task.lower:
        phrases = [phrase.lower() for phrase in phrases]
    if task.single and len(phrases) != 1:
        raise PromptError(f"{task.name} takes one phrase, not {len(phrases)}; ask for them one by one")
    return ", ".join(f"{PHRASE_OPEN}{clean_text(phrase)}{PHRASE_CLOSE}" for phrase in phrases)


def fake_timestamps(steps: int) -> tuple[float, ...]:
    """1, 2, 3 ... seconds: what the model is told when the true times are not used (all segmentation tasks)."""
    return tuple(float(step + 1) for step in range(steps))


def patch_timestamps(indices: Sequence[int], fps: float, temporal_patch: int = 2) -> tuple[float, ...]:
    """Seconds in the middle of each temporal patch of the frames ``indices``; the last frame fills up the last patch."""
    padded = list(indices) + [indices[-1]] * (-len(indices) % temporal_patch)
    return tuple((padded[i] + padded[i + temporal_patch - 1]) / (2 * fps) for i in range(0, len(padded), temporal_patch))


class ChatEncoder:
    """Turns text into :class:`ChatTokens` with the ids of one tokenizer.

    tokenizer: a fast tokenizer that knows ``<SEG>``, ``<p>``, ``</p>`` and the turn and vision marks
    merge:     the vision tower joins ``merge`` x ``merge`` patches to one row
    """

    def __init__(self, tokenizer, merge: int = 2):
        vocabulary = tokenizer.get_vocab()
        needed = (SEG, PHRASE_OPEN, PHRASE_CLOSE, TURN_START, TURN_END, VISION_START, VISION_END)
        missing = [token for token in needed if token not in vocabulary]
        if missing:
            raise WeightsError(f"the tokenizer lacks {', '.join(missing)}; use the one stored beside the model")
        self.tokenizer = tokenizer
        self.merge = merge
        self.seg_id, self.open_id, self.close_id = (vocabulary[token] for token in needed[:3])
        self._backend = tokenizer.backend_tokenizer
        self._visual_ids = lru_cache(maxsize=16)(self._tokenise_visual)

    def encode(
        self,
        turn: Turn,
        grid: tuple[int, int, int] | None = None,
        timestamps: Sequence[float] | None = None,
        until_seg: bool = False,
    ) -> ChatTokens:
        """Tokenise a turn.

        grid:       (time, height, width) of the picture in patches, as the vision tower gets it
        timestamps: seconds per temporal patch of a video, by default :func:`fake_timestamps`
        until_seg:  stop behind ``<SEG>``: nothing later changes its state, so serving need not compute it

        Raises PromptError when the turn has a picture and no grid.
        """
        question = self._input_ids(turn.input, grid, timestamps)
        answer: list[int] = []
        if turn.output:
            answer = self._ids(turn.output)
            if until_seg and self.seg_id in answer:
                answer = answer[: answer.index(self.seg_id) + 1]
        tail = self._ids("\n") if answer and not until_seg else []
        token_ids = np.concatenate([question, np.array(answer + tail, dtype=np.int64)])
        labels = np.full(len(token_ids), IGNORE, dtype=np.int64)
        labels[len(question) : len(question) + len(answer)] = answer
        cond_ids, seg_ids = self._indices(token_ids)
        return ChatTokens(token_ids, labels, cond_ids, seg_ids)

    def rendered(self, turn: Turn, grid: tuple[int, int, int], timestamps: Sequence[float] | None = None) -> str:
        """The turn's text with one ``<|placeholder|>`` per visual row, for people and logs."""
        mark, kind = _visual_mark(turn.input)
        pieces = _visual_pieces(kind, grid, self.merge, timestamps)
        visual = "".join(text + "<|placeholder|>" * rows for text, rows in pieces)
        return turn.input.replace(mark, visual + VISION_END) + (turn.output + "\n" if turn.output else "")

    def _input_ids(self, text: str, grid, timestamps) -> np.ndarray:
        mark, kind = _visual_mark(text)
        if not mark:
            return np.array(self._region_pieces(text), dtype=np.int64)
        if grid is None:
            raise PromptError("the question is about a picture, but the size of the picture is not given")
        head, _, question = text.partition(mark)
        times = None if timestamps is None else tuple(timestamps)
        prefix = self._visual_ids(head, kind, tuple(int(n) for n in grid), times)
        return np.concatenate([prefix, np.array(self._region_pieces(VISION_END + question), dtype=np.int64)])

    def _tokenise_visual(self, head: str, kind: str, grid: tuple[int, int, int], times) -> np.ndarray:
        ids: list[int] = []
        for index, (text, rows) in enumerate(_visual_pieces(kind, grid, self.merge, times)):
            ids += self._ids(head + text if index == 0 else text) + [VISUAL] * rows
        array = np.array(ids, dtype=np.int64)
        array.setflags(write=False)
        return array

    def _region_pieces(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, piece in enumerate(text.split(_REGION_MARK)):
            ids += [REGION] * (index > 0)
            ids += self._ids(piece) if piece.strip() else []
        return ids

    def _ids(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _indices(self, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cond_ids = np.full(len(token_ids), -1, dtype=np.int64)
        for index, (start, end) in enumerate(phrase_spans(token_ids, self.open_id, self.close_id)):
            cond_ids[start : end + 1] = index
        seg_ids = np.full(len(token_ids), -1, dtype=np.int64)
        at = np.flatnonzero(token_ids == self.seg_id)
        seg_ids[at] = np.arange(len(at))
        return cond_ids, seg_ids


def _visual_mark(text: str) -> tuple[str, str]:
    for kind, mark in _VISUAL_MARKS.items():
        if mark in text:
            return mark, kind
    return "", ""


def _visual_pieces(kind: str, grid, merge: int, timestamps: Sequence[float] | None) -> list[tuple[str, int]]:
    """(text, number of visual rows behind it) for each temporal patch, the last ``<|vision_end|>`` left out."""
    steps, height, width = grid
    rows = height * width // merge**2
    if kind == "image":
        return [(VISION_START, steps * rows)]
    times = fake_timestamps(steps) if timestamps is None else timestamps
    if len(times) != steps:
        raise PromptError(f"{len(times)} time stamps were given for {steps} temporal patches")
    texts = [f"<{seconds:.1f} seconds>{VISION_START}" for seconds in times]
    return [(VISION_END * (index > 0) + text, rows) for index, text in enumerate(texts)]


def phrase_spans(token_ids: np.ndarray, open_id: int, close_id: int) -> list[tuple[int, int]]:
    """(position of ``<p>``, position of ``</p>``) of every phrase in order; a marker without its partner is skipped."""
    spans, start = [], -1
    for at in np.flatnonzero((token_ids == open_id) | (token_ids == close_id)).tolist():
        if token_ids[at] == open_id:
            start = at
        elif start >= 0:
            spans.append((start, at))
            start = -1
    return spans


def expand(
    tokens: ChatTokens, visual_rows: int, region_rows: Sequence[int] = (), mend: bool = True
) -> ExpandedTokens:
    """Open every region to its rows.

    visual_rows: rows that the vision tower returned; must be what ``tokens`` has room for
    region_rows: rows per region, in order
    mend:        region rows get the index of their own ``<p>...</p>``. False numbers them by counting regions only,
                 as the published code does; the two differ when phrases and regions stand in one question.

    Raises PromptError when the numbers do not fit.
    """
    if tokens.visual_rows != visual_rows:
        raise PromptError(f"the text has room for {tokens.visual_rows} visual rows, the picture gives {visual_rows}")
    at = np.flatnonzero(tokens.token_ids == REGION)
    if len(at) != len(region_rows):
        raise PromptError(f"the text has {len(at)} regions, but {len(region_rows)} were encoded")
    counts = np.ones(len(tokens), dtype=np.int64)
    counts[at] = np.asarray(region_rows, dtype=np.int64)
    cond_ids = tokens.cond_ids
    if not mend:
        cond_ids = cond_ids.copy()
        cond_ids[at] = np.arange(len(at))
    token_ids = np.repeat(tokens.token_ids, counts)
    visual_mask, region_mask = token_ids == VISUAL, token_ids == REGION
    return ExpandedTokens(
        token_ids=np.where(visual_mask | region_mask, -1, token_ids),
        labels=np.repeat(tokens.labels, counts),
        cond_ids=np.repeat(cond_ids, counts),
        seg_ids=np.repeat(tokens.seg_ids, counts),
        visual_mask=visual_mask,
        region_mask=region_mask,
    )


def prefix_length(tokens: ExpandedTokens) -> int:
    """Positions up to and including the last visual row: the part that depends on the picture only.

    The text in front of the picture is the same for every prompt, and the piece behind it is tokenised by itself.
    """
    rows = np.flatnonzero(tokens.visual_mask)
    return int(rows[-1]) + 1 if len(rows) else 0
