"""What a session keeps: answers, so that the next click costs one round only, and the objects that it knows of. All of
it is bounded, and may be used from several threads."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from x2sam.inference.clip_objects import Finding
from x2sam.inference.object_rounds import Round
from x2sam.inference.postprocess import Rule
from x2sam.inference.survey import Survey
from x2sam.inference.walk import Anchor, Tracked
from x2sam.model.mask_decoder import Condition
from x2sam.structures import Prompt

REMEMBERED_BYTES = 64 * 2**20  # of answers, by session; a large picture's are megabytes each
REMEMBERED_OBJECTS = 32  # that were prompted and neither corrected nor followed
REMEMBERED_FINDINGS = 256
REMEMBERED_SURVEYS = 16


class KeptAnswers:
    """Rounds with their final masks (H, W), and what is to be thought of answers to words, by what was asked."""

    def __init__(self) -> None:
        self._rounds: OrderedDict[Hashable, tuple[Round, np.ndarray]] = OrderedDict()
        self._surveys: OrderedDict[Hashable, Survey] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many rounds are kept."""
        return len(self._rounds)

    @property
    def nbytes(self) -> int:
        """Of the rounds that are kept."""
        return self._bytes

    def get(self, key: Hashable) -> tuple[Round, np.ndarray] | None:
        with self._lock:
            if key in self._rounds:
                self._rounds.move_to_end(key)
            return self._rounds.get(key)

    def keep(self, key: Hashable, found: tuple[Round, np.ndarray]) -> None:
        with self._lock:
            before = self._rounds.pop(key, None)
            self._rounds[key] = found
            self._bytes += _bytes_of(found) - (_bytes_of(before) if before else 0)
            while self._bytes > REMEMBERED_BYTES and len(self._rounds) > 1:
                self._bytes -= _bytes_of(self._rounds.popitem(last=False)[1])

    def survey(self, asked: Hashable) -> Survey | None:
        with self._lock:
            return self._surveys.get(asked)

    def keep_survey(self, asked: Hashable, survey: Survey) -> None:
        with self._lock:
            self._surveys[asked] = survey
            self._surveys.move_to_end(asked)
            while len(self._surveys) > REMEMBERED_SURVEYS:
                self._surveys.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._rounds.clear()
            self._surveys.clear()
            self._bytes = 0


class KnownObjects:
    """Objects by id: those that were prompted or corrected, and what words found, which is no object until it is
    followed. The oldest that were only prompted or found are forgotten, what a person corrected never is."""

    def __init__(self) -> None:
        self._objects: dict[str, Tracked] = {}
        self._prompted: OrderedDict[str, None] = OrderedDict()  # those that may be forgotten, the latest last
        self._findings: OrderedDict[str, dict[int, Finding]] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def new_id(self) -> str:
        """A name that no object has."""
        return f"obj{next(self._numbers)}"

    def prompted(self, prompt: Prompt, condition: Condition, rule: Rule, anchor: Anchor) -> str:
        """Notes the answer to a prompt, unless a person's mask is known on that frame; the object's id."""
        with self._lock:
            object_id = prompt.object_id or self.new_id()
            if object_id not in self._objects or object_id in self._prompted:
                self._prompted[object_id] = None
                self._prompted.move_to_end(object_id)
            known = self._objects.setdefault(object_id, Tracked(object_id, condition, rule))
            known.condition, known.rule = condition, rule
            locked = anchor.frame in known.anchors and known.anchors[anchor.frame].locked
            if not locked:
                known.anchors[anchor.frame] = anchor
            while len(self._prompted) > REMEMBERED_OBJECTS:
                oldest, _ = self._prompted.popitem(last=False)
                self._objects.pop(oldest, None)
            return object_id

    def corrected(self, object_id: str) -> Tracked | None:
        """The object, which is not forgotten any more; None where it is unknown."""
        with self._lock:
            self._prompted.pop(object_id, None)
            return self._objects.get(object_id)

    def add(self, made: Tracked) -> Tracked:
        """The object of this id: the one that is known, else this one."""
        with self._lock:
            return self._objects.setdefault(made.object_id, made)

    def followed(self, object_ids: Sequence[str]) -> tuple[list[Tracked], list[str]]:
        """The objects, none of which is forgotten from here on, and the ids that nobody knows."""
        with self._lock:
            missing = [i for i in object_ids if i not in self._objects]
            objects = [self._objects[i] for i in object_ids if i in self._objects]
            for object_id in object_ids:
                self._prompted.pop(object_id, None)
        return objects, missing

    def found(self, found: Mapping[str, Mapping[int, Finding]]) -> None:
        """Keeps what words found, by object and frame. Most of it is never tracked: only bits are kept."""
        with self._lock:
            for object_id, findings in found.items():
                self._findings[object_id] = dict(findings)
                self._findings.move_to_end(object_id)
            while len(self._findings) > REMEMBERED_FINDINGS:
                self._findings.popitem(last=False)

    def only_found(self, object_id: str) -> dict[int, Finding]:
        """What words found of it, by frame, where that is all that is known; else nothing."""
        with self._lock:
            if object_id in self._objects:
                return {}
            return dict(self._findings.get(object_id, {}))

    def clear(self) -> None:
        with self._lock:
            self._objects.clear()
            self._prompted.clear()
            self._findings.clear()


def asked_of(prompt: Prompt, frame: int) -> Hashable:
    """Equal for equal questions about a frame, words included; arrays count by their bytes."""
    return (*drawn_of(prompt, frame), prompt.text, prompt.categories)


def drawn_of(prompt: Prompt, frame: int) -> tuple:
    """The same of what is drawn, whatever the words."""
    arrays = [*prompt.strokes, *prompt.masks, *([] if prompt.previous is None else [prompt.previous])]
    drawn = tuple((a.shape, hash(np.ascontiguousarray(a).tobytes())) for a in arrays)
    return (frame, prompt.points, prompt.boxes, drawn, prompt.previous is not None, prompt.task)


def _bytes_of(found: tuple[Round, np.ndarray]) -> int:
    answer, mask = found
    wide = 0 if answer.wide is None else answer.wide[1].nbytes
    return mask.nbytes + answer.probability.nbytes + answer.region.nbytes + wide
