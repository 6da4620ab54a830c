"""Chat text -> token ids, with a note of where pictures, regions, phrases and ``<SEG>`` are; and back from an answer.

The text is cut at its markers and every piece is tokenised by itself, so what stands before a piece never changes its
ids: everything up to the last visual row can be computed once per picture.

Arrays are int64 of shape (L,). ``L`` counts one position per visual row; a region is one position until
:func:`expand` opens it to its rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..data.tasks import IMAGE, VIDEO, template_texts
from ..data.tokenizer import PHRASE_CLOSE, PHRASE_OPEN, SEG
from ..errors import PromptError, WeightsError
from .chat_text import (
    QWEN3,
    REGION_MARK,
    ChatStyle,
    Query,
    Turn,
    category_phrase,
    clean_text,
    query_of,
    render,
    tag_caption,
)

__all__ = [
    "IGNORE", "REGION", "VISUAL", "ChatEncoder", "ChatStyle", "ChatTokens", "ExpandedTokens", "Generated", "Query",
    "Turn", "category_phrase", "clean_text", "expand", "fake_timestamps", "parse_generated", "patch_timestamps",
    "phrase_spans", "prefix_length", "query_of", "render", "tag_caption",
]  # fmt: skip

VISUAL, REGION = -1000, -400
"""Ids that stand for a row of the vision tower and for a region; never looked up in the embedding table."""
IGNORE = -100
"""Label of a position that is not learned."""


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


def fake_timestamps(steps: int) -> tuple[float, ...]:
    """1, 2, 3 ... seconds: what the model is told when the true times are not used (all segmentation tasks)."""
    return tuple(float(step + 1) for step in range(steps))


def patch_timestamps(indices: Sequence[int], fps: float, temporal_patch: int = 2) -> tuple[float, ...]:
    """Seconds in the middle of each temporal patch of the frames ``indices``; the last frame fills the last patch."""
    padded = list(indices) + [indices[-1]] * (-len(indices) % temporal_patch)
    ends = zip(padded[::temporal_patch], padded[temporal_patch - 1 :: temporal_patch], strict=True)
    return tuple((first + last) / (2 * fps) for first, last in ends)


class ChatEncoder:
    """Turns text into :class:`ChatTokens` with the ids of one tokenizer.

    tokenizer: a fast tokenizer that knows ``<SEG>``, ``<p>``, ``</p>`` and the turn and vision marks
    merge:     the vision tower joins ``merge`` x ``merge`` patches to one row
    style:     that of the model's family, in which the turns are written
    """

    def __init__(self, tokenizer, merge: int = 2, style: ChatStyle = QWEN3):
        vocabulary = tokenizer.get_vocab()
        needed = (SEG, PHRASE_OPEN, PHRASE_CLOSE, *style.tokens)
        missing = [token for token in needed if token not in vocabulary]
        if missing:
            raise WeightsError(f"the tokenizer lacks {', '.join(missing)}; use the one stored beside the model")
        self.tokenizer = tokenizer
        self.merge = merge
        self.style = style
        self._begin = [vocabulary[style.bos]] if style.bos else []
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
        mark, kind = self._visual_mark(turn.input)
        pieces = self._visual_pieces(kind, grid, timestamps)
        visual = "".join(text + "<|placeholder|>" * rows for text, rows in pieces)
        told = turn.input.replace(mark, visual + self.style.vision_end) + (turn.output + "\n" if turn.output else "")
        return self.style.bos + told

    def _input_ids(self, text: str, grid, timestamps) -> np.ndarray:
        mark, kind = self._visual_mark(text)
        if not mark:
            return np.array(self._begin + self._region_pieces(text), dtype=np.int64)
        if grid is None:
            raise PromptError("the question is about a picture, but the size of the picture is not given")
        head, _, question = text.partition(mark)
        times = None if timestamps is None else tuple(timestamps)
        prefix = self._visual_ids(head, kind, tuple(int(n) for n in grid), times)
        return np.concatenate([prefix, np.array(self._region_pieces(self.style.vision_end + question), dtype=np.int64)])

    def _tokenise_visual(self, head: str, kind: str, grid: tuple[int, int, int], times) -> np.ndarray:
        ids = list(self._begin)
        for index, (text, rows) in enumerate(self._visual_pieces(kind, grid, times)):
            ids += self._ids(head + text if index == 0 else text) + [VISUAL] * rows
        array = np.array(ids, dtype=np.int64)
        array.setflags(write=False)
        return array

    def _region_pieces(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, piece in enumerate(text.split(REGION_MARK)):
            ids += [REGION] * (index > 0)
            ids += self._ids(piece) if piece.strip() or (piece and self.style.blank_pieces) else []
        return ids

    def _visual_mark(self, text: str) -> tuple[str, str]:
        for kind in (IMAGE, VIDEO):
            mark = self.style.mark(kind)
            if mark in text:
                return mark, kind
        return "", ""

    def _visual_pieces(self, kind: str, grid, timestamps: Sequence[float] | None) -> list[tuple[str, int]]:
        """(text, number of visual rows behind it) for each temporal patch, the last closing mark left out."""
        steps, height, width = grid
        rows = height * width // self.merge**2
        start, end = self.style.vision_start, self.style.vision_end
        if kind == IMAGE:
            return [(start, steps * rows)]
        times = fake_timestamps(steps) if timestamps is None else timestamps
        if len(times) != steps:
            raise PromptError(f"{len(times)} time stamps were given for {steps} temporal patches")
        texts = [f"<{seconds:.1f} seconds>{start}" for seconds in times]
        return [(end * (index > 0) + text, rows) for index, text in enumerate(texts)]

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


def expand(tokens: ChatTokens, visual_rows: int, region_rows: Sequence[int] = (), mend: bool = True) -> ExpandedTokens:
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


@dataclass(frozen=True, eq=False)
class Generated:
    """A generated answer, ready for the mask branch.

    text:     the answer for a person, without markers and without the sentence that carries ``<SEG>``
    caption:  the same with ``<p>...</p>`` kept, to force the answer where generation went wrong
    phrases:  the phrases of the answer; empty when it has none and those of the prompt stay in force
    cond_ids: int64 (L,), phrase index over the prompt and the answer, else -1
    seg_ids:  int64 (L,), running index on the answer's ``<SEG>``, else -1
    problem:  None when exactly one ``<SEG>`` with a state is there, else why the masks can't be taken from this answer
    """

    text: str
    caption: str
    phrases: tuple[str, ...]
    cond_ids: np.ndarray
    seg_ids: np.ndarray
    problem: str | None

    @property
    def fallback(self) -> bool:
        """The answer must be forced: render the task again with ``caption`` and read it in one pass."""
        return self.problem is not None


def parse_generated(
    output_ids: Sequence[int], tokenizer, prompt_tokens: ExpandedTokens, states: int | None = None,
    style: ChatStyle = QWEN3,
) -> Generated:  # fmt: skip
    """Find phrases and ``<SEG>`` in a generated answer.

    output_ids: ids of the answer, the closing ``<|im_end|>`` included when it was generated
    states:     how many of them the language model has read; by default all but the last, which ends the answer

    Phrases in the answer replace those of the prompt; ``<SEG>`` counts in the answer only (X2SAM, generation).
    """
    output = np.asarray(output_ids, dtype=np.int64)
    states = max(len(output) - 1, 0) if states is None else states
    seg_id, open_id, close_id = tokenizer.convert_tokens_to_ids([SEG, PHRASE_OPEN, PHRASE_CLOSE])
    read = output[:states]
    spans = phrase_spans(read, open_id, close_id)
    before = np.full(len(prompt_tokens), -1, dtype=np.int64) if spans else prompt_tokens.cond_ids
    after = np.full(len(read), -1, dtype=np.int64)
    for index, (start, end) in enumerate(spans):
        after[start : end + 1] = index
    seg_ids = np.full(len(prompt_tokens) + len(read), -1, dtype=np.int64)
    at = np.flatnonzero(read == seg_id)
    seg_ids[len(prompt_tokens) + at] = np.arange(len(at))
    problem = None if len(at) == 1 else f"the answer has {len(at)} {SEG} marks instead of one"
    caption = _without_seg(style.read(tokenizer.decode(output.tolist(), skip_special_tokens=False)))
    text = re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", re.sub(r"</?p>", "", caption))).strip()
    phrases = tuple(tokenizer.decode(read[start + 1 : end].tolist()).strip() for start, end in spans)
    return Generated(text, caption, phrases, np.concatenate([before, after]), seg_ids, problem)


@lru_cache(maxsize=1)
def _seg_sentences() -> tuple[str, ...]:
    """Answers that carry ``<SEG>``, longest first, so that none is cut in half."""
    answers = {text for text in template_texts() if SEG in text and "{" not in text}
    return tuple(sorted(answers, key=len, reverse=True))


def _without_seg(answer: str) -> str:
    answer = re.sub(r"<\|[^<>|]{1,40}\|>", "", answer).strip()
    for sentence in _seg_sentences():
        answer = answer.replace(sentence, " ")
    return answer.replace(SEG, " ").strip()
