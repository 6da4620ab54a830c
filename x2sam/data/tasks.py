"""The task table: what each task asks, how its answer is made, and which rule turns queries into masks.

Seven segmentation tasks on pictures, seven on videos, and chat on both (X2SAM, unified task formulation). The rows hold
data only; :mod:`x2sam.inference.conversation` renders them and :mod:`x2sam.inference.postprocess` reads ``select``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from ..errors import PromptError
from ..structures import Prompt

IMAGE, VIDEO = "image", "video"


class ItemKind(StrEnum):
    """What stands between ``<p>`` and ``</p>`` in the question."""

    CATEGORIES = "categories"
    PHRASE = "phrase"
    SENTENCE = "sentence"
    REGIONS = "regions"
    NONE = "none"


@dataclass(frozen=True)
class Templates:
    """The prompt templates the model was trained with. ``{items}`` is where the phrases or regions go.

    ``sentence_questions`` and ``explain_*`` belong to reasoning segmentation, ``caption_*`` to generic segmentation
    with a description; they are empty elsewhere.
    """

    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    sentence_questions: tuple[str, ...] = ()
    explain_questions: tuple[str, ...] = ()
    explain_answers: tuple[str, ...] = ()
    caption_questions: tuple[str, ...] = ()
    caption_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One row of the table.

    name, modality:      ``refseg`` ..., ``image`` or ``video``
    templates:           key of the prompt templates, None for chat
    items:               what the prompt consists of
    select:              rule of :mod:`x2sam.inference.postprocess`; None for chat
    lower:               phrases are lower-cased
    generates:           the answer is generated; elsewhere it is a fixed template that is read in the same pass
    shares_conditions:   in a batch every sample sees the phrases of all samples
    single:              exactly one item; the answer is one object
    suffix:              the published demo ends the answer with ``<|im_end|>`` (training always does)
    threshold:           score threshold of the published demo
    benchmark_threshold: score threshold of the published benchmarks
    served:              (question, answer) template used when nothing is drawn at random
    llm_frames, mask_frames: frames that the published demo shows to the language model and to the mask branch
    benchmark_resample:  in training and benchmarks the language model sees 2 frames per second (4 of 8 frames)
    metrics:             how the benchmarks score it
    """

    name: str
    modality: str
    items: ItemKind
    templates: str | None = None
    select: str | None = None
    lower: bool = False
    generates: bool = False
    shares_conditions: bool = False
    single: bool = False
    suffix: bool = True
    threshold: float = 0.5
    benchmark_threshold: float = 0.0
    served: tuple[int, int] = (0, 0)
    llm_frames: int = 16
    mask_frames: int = 16
    benchmark_resample: bool = False
    metrics: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``img_refseg``, ``vid_chat``: the name in published configurations."""
        return f"{'img' if self.modality == IMAGE else 'vid'}_{self.name}"

    @property
    def segments(self) -> bool:
        return self.select is not None


_KINDS = (IMAGE, VIDEO)
# Row: name, modalities, then the fields that differ from the defaults. Names in `templates` are shared by both
# modalities and get the prefix of the modality.
_ROWS: tuple[tuple[str, tuple[str, ...], dict], ...] = (
    ("genseg", _KINDS, dict(items=ItemKind.CATEGORIES, templates="genseg", select="categories", lower=True,
                            metrics=("pq", "miou", "map"))),
    ("ovseg", _KINDS, dict(items=ItemKind.CATEGORIES, templates="genseg", select="categories", lower=True,
                           metrics=("pq", "miou", "map"))),
    ("refseg", _KINDS, dict(items=ItemKind.PHRASE, templates="refseg", select="best", lower=True, single=True,
                            shares_conditions=True, served=(1, 0), metrics=("ciou", "giou"))),
    ("reaseg", _KINDS, dict(items=ItemKind.SENTENCE, templates="reaseg", select="best", single=True,
                            shares_conditions=True, metrics=("ciou", "giou"))),
    ("gcgseg", _KINDS, dict(items=ItemKind.NONE, templates="gcgseg", select="phrases", generates=True, suffix=False,
                            metrics=("miou", "ap50", "caption", "recall"))),
    ("vgdseg", _KINDS, dict(items=ItemKind.REGIONS, templates="vgdseg", select="instances", suffix=False,
                            metrics=("map",))),
    ("intseg", (IMAGE,), dict(items=ItemKind.REGIONS, templates="vgdseg", select="region", single=True,
                              benchmark_threshold=0.5, metrics=("ciou", "giou"))),
    ("objseg", (VIDEO,), dict(items=ItemKind.REGIONS, templates="objseg", select="object", single=True,
                              metrics=("j", "f"))),
    ("chat", _KINDS, dict(items=ItemKind.NONE, generates=True)),
)  # fmt: skip
_VIDEO_FRAMES = {"gcgseg": (64, 16), "chat": (64, 0)}
_VIDEO_METRICS = {"genseg": ("vpq", "stq", "mvc"), "refseg": ("j", "f"), "reaseg": ("j", "f")}


def _row(name: str, modality: str, values: dict) -> Task:
    fields = dict(values)
    if modality == IMAGE:
        fields |= {"llm_frames": 1, "mask_frames": 1}
    else:
        llm, mask = _VIDEO_FRAMES.get(name, (16, 16))
        fields |= {"llm_frames": llm, "mask_frames": mask, "benchmark_resample": name in ("vgdseg", "objseg")}
        fields["metrics"] = _VIDEO_METRICS.get(name, values.get("metrics", ()))
    if fields.get("templates"):
        fields["templates"] = f"{'img' if modality == IMAGE else 'vid'}_{fields['templates']}"
    return Task(name=name, modality=modality, **fields)


TASKS: tuple[Task, ...] = tuple(_row(name, kind, values) for name, kinds, values in _ROWS for kind in kinds)


@cache
def templates_of(key: str) -> Templates:
    """The templates of a row, ``key`` as in :attr:`Task.templates`."""
    table = _template_table()
    return Templates(**{name: tuple(texts) for name, texts in table[key].items()})


def template_texts() -> tuple[str, ...]:
    """Every template of every task, for building a tokenizer."""
    return tuple(text for row in _template_table().values() for texts in row.values() for text in texts)


@cache
def _template_table() -> dict[str, dict[str, list[str]]]:
    return json.loads(files(__package__).joinpath("templates.json").read_text(encoding="utf-8"))


_SAME_REQUEST = {("intseg", VIDEO): "objseg", ("objseg", IMAGE): "intseg"}


def find_task(name: str, modality: str) -> Task:
    """The row called ``name``. ``img_``/``vid_`` prefixes are accepted and must agree with ``modality``.

    One prompted object is ``intseg`` in a picture and ``objseg`` in a video; either name finds the right row.

    Raises PromptError for a name or a modality that does not exist.
    """
    plain, wanted = name.strip().lower(), modality
    for prefix, kind in (("img_", IMAGE), ("vid_", VIDEO)):
        if plain.startswith(prefix):
            plain, wanted = plain[len(prefix) :], kind
    if wanted != modality:
        raise PromptError(f"the task '{name}' is for a {wanted}, but this is a {modality}; leave the prefix out")
    plain = _SAME_REQUEST.get((plain, modality), plain)
    for task in TASKS:
        if task.name == plain and task.modality == modality:
            return task
    known = ", ".join(sorted({task.name for task in TASKS if task.modality == modality}))
    raise PromptError(f"there is no task '{name}' for a {modality}; choose one of: {known}" if known
                      else f"'{modality}' is neither 'image' nor 'video'")  # fmt: skip


_DESCRIBE = re.compile(
    r"(please\s+)?(describe|caption)(\s+((the|this|what)\s+)?(image|picture|photo|scene|frame|video|clip|everything|"
    r"it|you\s+see))?(\s+(in\s+detail|briefly))?\s*[.!]*",
    re.IGNORECASE,
)
# Questions that only words can answer; any other question points at something ("What can warm clothes?").
_WORDS_ONLY = re.compile(
    r"(how|why|when|is|are|was|were|am|do|does|did|has|have|had|should|would|will)\b", re.IGNORECASE
)
_ORDER = "find|segment|select|mark|show|highlight|locate|outline|identify|point|give|tell|look|imagine|think"
_NAMED = (
    "the|an?|all|every|each|any|this|that|these|those|my|something|someone|me|it|at|for|of|out|what|which|where|who"
)
_SENTENCE = re.compile(
    rf"please\b|(what|which|where|who|whose|whom)\b|(can|could|would|will)\s+(you|we|i)\b"
    rf"|(i|we|you)\s+(want|need|would|am|are|have|see|like|can|could|should|feel)\b|if\s"
    rf"|({_ORDER})\s+({_NAMED})\b|.*[.!?;]\s+\S",
    re.IGNORECASE | re.DOTALL,
)
_CATEGORY_LISTS = re.compile(r"\s*(ins|sem)\s*:", re.IGNORECASE)


def is_sentence(text: str) -> bool:
    """True for a question, an order or a whole sentence, False for a noun phrase such as ``the dog on the left``."""
    text = text.strip()
    return text.endswith(("?", ".", "!")) or bool(_SENTENCE.match(text))


def task_of(prompt: Prompt, modality: str) -> Task:
    """The row that a prompt asks for; ``prompt.task`` decides when it is given.

    Drawn regions win over words (words beside a region are only a label): one object, ``intseg`` or ``objseg``; "all
    like this" is ``vgdseg`` and has to be named. Names, or a text such as ``ins: dog, cat; sem: sky``, are ``genseg``.
    Of the texts, ``describe`` alone is ``gcgseg``; a question that only words can answer ("how many ...", "is there
    ...") is ``chat``; other questions and sentences are ``reaseg``; the rest are phrases, ``refseg``.

    Raises PromptError when there is nothing to go by.
    """
    if prompt.task:
        return find_task(prompt.task, modality)
    text = (prompt.text or "").strip()
    if prompt.has_region:
        name = "intseg"
    elif prompt.categories or _CATEGORY_LISTS.match(text):
        name = "genseg"
    elif not text:
        raise PromptError("the prompt is empty; click, draw, or type what to look for")
    elif _DESCRIBE.fullmatch(text):
        name = "gcgseg"
    elif text.endswith("?") and _WORDS_ONLY.match(text):
        name = "chat"
    else:
        name = "reaseg" if is_sentence(text) else "refseg"
    return find_task(name, modality)


@dataclass(frozen=True)
class CategoryList:
    """Names to look for. ``things`` are counted one by one, the others are stuff: one region per name.

    Things only give instances, stuff only a semantic map, both a panoptic one.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.things):
            raise PromptError("name at least one category, for example 'dog, person' or 'ins: dog; sem: grass'")

    @property
    def mode(self) -> str:
        """``instance``, ``semantic`` or ``panoptic``."""
        if all(self.things):
            return "instance"
        return "panoptic" if any(self.things) else "semantic"

    @classmethod
    def of(cls, prompt: Prompt) -> CategoryList:
        """The categories of a prompt: its list of names, else its text. Names without ``ins:``/``sem:`` are things.

        A list entry may carry its own ``ins:`` or ``sem:``.
        """
        parts = prompt.categories or re.split(r"[;\n]", prompt.text or "")
        found: dict[str, bool] = {}
        for part in parts:
            kind, colon, rest = part.partition(":")
            listed = bool(colon) and kind.strip().lower() in ("ins", "sem")
            names = (rest if listed else part).split(",")
            for name in names if listed or not prompt.categories else [part]:
                if name.strip():
                    found.setdefault(name.strip(), not (listed and kind.strip().lower() == "sem"))
        return cls(tuple(found), tuple(found.values()))
