"""Multiple choice about pictures and videos: is the right letter the most likely next word.

The file is a JSON list; paths of media are relative to it, or to a directory that is named::

    [{"media": "kitchen.jpg", "question": "What is on the stove?", "choices": ["a pan", "a cat"], "answer": "A"}]

``category`` may be added to have accuracies apart. The question ends with the choices and the order to answer with a
letter; the answer is read off the probabilities of the letters behind it, so nothing is generated and no words have to
be interpreted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from x2sam.errors import FramesError
from x2sam.evaluation.dataset import Progress, silent
from x2sam.evaluation.metrics.interval import bootstrap_mean

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine


@dataclass(frozen=True)
class ChoiceQuestion:
    """``answer`` is the index of the right one of ``choices``."""

    media: Path
    question: str
    choices: tuple[str, ...]
    answer: int
    category: str = ""

    @property
    def text(self) -> str:
        """What the model is asked."""
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, self.choices, strict=False))
        return f"{self.question}\n{listed}\nAnswer with the option's letter from the given choices directly."


class ChoiceModel(Protocol):
    """Something that knows how likely each letter is."""

    def letters(self, question: ChoiceQuestion) -> tuple[str, np.ndarray]:
        """(``image`` or ``video``, log-likelihood (n,) of the letters A, B, ...)."""


def read_questions(path: Path, media: Path | None = None) -> list[ChoiceQuestion]:
    """All questions of a file. Raises FramesError naming the entry that lacks something or contradicts itself."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise FramesError(f"{path} can't be read as JSON ({problem}); write a list of questions") from problem
    if not isinstance(entries, list) or not entries:
        raise FramesError(f"{path} holds no list of questions; see the documentation of 'evaluate mcq'")
    root = path.parent if media is None else media
    return [_question(entry, root, f"{path}, question {number}") for number, entry in enumerate(entries, 1)]


def _question(entry: Any, root: Path, where: str) -> ChoiceQuestion:
    if not isinstance(entry, dict):
        raise FramesError(f"{where} is no object with media, question, choices and answer; correct it")
    texts = {key: entry.get(key) for key in ("media", "question", "answer")}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise FramesError(f"{where} lacks {key!r}; write it as text")
    choices = entry.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise FramesError(f"{where}: 'choices' is a list of 2 to {len(ascii_uppercase)} texts; correct it")
    letter = texts["answer"].strip().upper()
    if len(letter) != 1 or letter not in ascii_uppercase[: len(choices)]:
        raise FramesError(f"{where}: the answer {texts['answer']!r} is no letter of its {len(choices)} choices")
    name = PurePosixPath(texts["media"])
    if name.is_absolute() or ".." in name.parts:
        raise FramesError(f"{where}: {texts['media']!r} lies outside {root}; use a path relative to it")
    category = str(entry.get("category", ""))
    answer = ascii_uppercase.index(letter)
    return ChoiceQuestion(root / name, texts["question"], tuple(str(c) for c in choices), answer, category)


class LikelyLetters:
    """Implements :class:`ChoiceModel` for an engine."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def letters(self, question: ChoiceQuestion) -> tuple[str, np.ndarray]:
        from x2sam.inference.scheduler import Priority

        session = self.engine.open(question.media)
        try:
            job = lambda: self._read(session, question)  # noqa: E731
            return session.modality, self.engine.run(job, Priority.BATCH, timeout=3600.0)
        finally:
            session.close()

    def _read(self, session: Any, question: ChoiceQuestion) -> np.ndarray:
        from x2sam.data.tasks import find_task
        from x2sam.inference.conversation import Query, expand

        interpreter = session.looking.interpreter
        task = find_task("chat", session.modality)
        looked = session.looking.looked(task, 0)
        turn = interpreter.render(task, Query(question=question.text), answer=False)
        tokens = interpreter.encoder.encode(turn, looked.grid)
        expanded = expand(tokens, looked.visual.rows.shape[0])
        _, states = interpreter.states(looked, expanded, None)
        likely = interpreter.language.word_logits(states[:, -1]).float().log_softmax(-1)[0]
        return likely[self._ids(len(question.choices))].cpu().numpy()

    def _ids(self, count: int) -> list[int]:
        """Token of each letter; with a byte-level vocabulary every letter is one."""
        encode = self.engine.interpreter.encoder.tokenizer.backend_tokenizer.encode
        return [encode(letter, add_special_tokens=False).ids[0] for letter in ascii_uppercase[:count]]


@dataclass
class ChoiceScores:
    """Right or wrong, question by question."""

    right: list[bool] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    groups: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    categories: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> dict:
        """``accuracy`` with its interval over media, ``chance`` (guessing), and the same for image, video, category."""
        return {
            "questions": len(self.right),
            "accuracy": float(np.mean(self.right)) if self.right else None,
            "accuracy_ci": bootstrap_mean(self.right, self.media) if self.right else None,
            "chance": float(np.mean(self.chance)) if self.chance else None,
            **{kind: _accuracy(self.groups.get(kind, [])) for kind in ("image", "video")},
            "categories": {name: _accuracy(values) for name, values in sorted(self.categories.items())},
            "scored_by": "log-likelihood of the letters",
        }


def _accuracy(values: list[bool]) -> dict:
    return {"questions": len(values), "accuracy": float(np.mean(values)) if values else None}


def evaluate_choices(
    model: ChoiceModel, questions: list[ChoiceQuestion], limit: int | None = None, progress: Progress = silent
) -> ChoiceScores:
    """Ask every question; the first ``limit`` ones when given."""
    scores = ChoiceScores()
    for question in progress(questions[:limit], "questions"):
        kind, likely = model.letters(question)
        right = int(np.argmax(likely)) == question.answer
        scores.right.append(right)
        scores.chance.append(1 / len(question.choices))
        scores.media.append(str(question.media))
        scores.groups[kind].append(right)
        if question.category:
            scores.categories[question.category].append(right)
    return scores
