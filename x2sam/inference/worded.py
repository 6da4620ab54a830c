"""What words ask of frames: read once, answered on each frame by itself. Device work: call from its thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from x2sam.data.masks import mask_bbox
from x2sam.data.plain_words import bare_name, plain_names, plainly
from x2sam.data.prompts import prompt_region
from x2sam.data.tasks import CategoryList, ItemKind, Task
from x2sam.inference.conversation import Query, query_of
from x2sam.inference.looking import Looking
from x2sam.inference.pointing import Asked, embedded_pointing_weights, meant, signs_of
from x2sam.inference.postprocess import Prediction, Rule, Segments, postprocess
from x2sam.inference.preprocess import region_masks
from x2sam.inference.refine import Snap
from x2sam.inference.sketch import heat_on, paint_words
from x2sam.model.mask_decoder import Condition
from x2sam.structures import Mask, Prompt


@dataclass(frozen=True, eq=False)
class Worded:
    """A question that was read: its condition, the rule that its answers are read by, and its items in order.
    ``text`` is what the model says, where it generates its answer; ``bare`` the condition of the name alone, where what
    else the phrase says of the object is measured."""

    condition: Condition
    rule: Rule
    phrases: tuple[str, ...]
    text: str | None = None
    bare: Condition | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that the network answers."""
        return (self.condition,) if self.bare is None else (self.condition, self.bare)

    @property
    def things(self) -> tuple[bool, ...]:
        """Per category, whether it is counted one by one; empty where the question is not about categories."""
        return tuple(self.rule.things)


def read_words(
    looking: Looking, prompts: Sequence[Prompt], frame: int, task: Task, seed: int, limit: int
) -> list[Worded]:
    """Reads questions of one task about ``frame``, in one pass unless the answers are generated; of a clip the language
    model sees that frame first, then others evenly spread.

    seed: of the points that regions are sampled at; limit: longest generated answer in tokens
    """
    interpreter, looked = looking.interpreter, looking.looked(task, frame)
    if task.generates:
        readings = [interpreter.generate(looked, task, Query(), limit) for _ in prompts]
        return [Worded(one.condition, _rule(looking, task), one.phrases, one.text) for one in readings]
    rules, queries, questions, bare = [], [], [], []
    for prompt in prompts:
        tokens, count = None, 0
        if prompt.has_region:
            regions = region_masks(drawn_parts(prompt, looking, frame), looking.sizes(frame))
            generator = torch.Generator().manual_seed(seed)
            tokens, count = looking.model.tokens_on(looking.region_map(frame), regions, generator), len(regions)
        queries.append(query_of(task, prompt, count))
        plain = _plain(looking, task, queries[-1])
        questions.append((interpreter.render(task, plain), tokens))
        things = CategoryList.of(prompt).things if task.select == "categories" else ()
        rules.append(replace(_rule(looking, task, count), things=things))
        bare.append(_bare(plain) if _is_chosen(looking, rules[-1]) else None)
    besides = [(interpreter.render(task, query), None) for query in bare if query is not None]
    conditions = interpreter.read_all(looked, [*questions, *besides])
    conditions, names = conditions[: len(questions)], iter(conditions[len(questions) :])
    return [
        Worded(condition, rule, query.phrases, bare=None if name is None else next(names))
        for condition, rule, query, name in zip(conditions, rules, queries, bare, strict=True)
    ]


def _plain(looking: Looking, task: Task, query: Query) -> Query:
    """What a network is asked that was trained on few words; whole sentences stay as they are."""
    known = looking.model.config.words
    if task.items is ItemKind.CATEGORIES:
        return replace(query, phrases=plain_names(query.phrases, known))
    if task.items is ItemKind.PHRASE and not query.sentence:
        return replace(query, phrases=tuple(plainly(phrase, known) for phrase in query.phrases))
    return query


def _bare(query: Query) -> Query | None:
    """The same question by the name alone. On 497 phrases about pictures held back and scenes the choice among the
    answers to both has 0.008 more IoU: colour and place only lead a small network astray from what can be measured."""
    if query.sentence or len(query.phrases) != 1:
        return None
    name = bare_name(query.phrases[0])
    return None if name is None else replace(query, phrases=(name,))


def _rule(looking: Looking, task: Task, regions: int = 0) -> Rule:
    return Rule(task, regions=regions, layout=looking.model.config.family)


def answer_on(looking: Looking, worded: Worded, frame: int, snap: Snap | None = None) -> list[Mask]:
    """The masks on one frame by itself, in the order of the rule, empty ones left out; they have no object yet.

    snap: the last light step, by which what a small model points to is outlined too, as after a box
    """
    return masks_in(looking, worded, frame, predict_on(looking, [worded], frame)[0], snap)


def predict_on(looking: Looking, worded: Sequence[Worded], frame: int) -> list[Prediction]:
    """What the network says about one frame by itself, to each of several questions of one task; where a question is
    asked by its name alone besides, with the queries of both."""
    conditions = [condition for one in worded for condition in one.conditions]
    together, pointed = Condition.stacked(conditions), None
    if _is_pointed(looking, worded[0].rule):
        # a small model points better with words than it outlines; with the place marked it outlines as for a click
        pointed = paint_words(looking.features(frame), together)
    answers = iter(looking.decode(frame, together, pointed).answers(conditions))
    predictions = []
    for one in worded:
        own = [next(answers) for _ in one.conditions]
        masks, classes = ([getattr(answer, name)[0] for answer in own] for name in ("mask_logits", "class_logits"))
        predictions.append(Prediction(_joined(masks), _joined(classes), looking.sizes(frame)))
    return predictions


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of several tensors in one; of a single one without a copy, since the masks of a large model are many."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def masks_in(
    looking: Looking, worded: Worded, frame: int, prediction: Prediction, snap: Snap | None = None
) -> list[Mask]:
    """The masks of :func:`answer_on`, of what the network said."""
    one = _is_chosen(looking, worded.rule)
    if one:
        prediction = _meant(looking, worded, frame, prediction)
    segments = postprocess(worded.rule, prediction)
    if one and snap is not None and segments.masks.any():
        segments = _outlined(snap, looking.picture(frame), prediction, segments)
    return [mask for _, mask in masks_of(worded, segments)]


def _is_pointed(looking: Looking, rule: Rule) -> bool:
    return rule.task.select == "best" and looking.model.config.memory.sketch


def _is_chosen(looking: Looking, rule: Rule) -> bool:
    """Whether the answer is one query that is chosen by what can be measured."""
    return _is_pointed(looking, rule) and not rule.generalised


def pointing_signs(looking: Looking, worded: Worded, frame: int, prediction: Prediction) -> np.ndarray:
    """What speaks for each query to be what the phrase means, float64 (Q, n); see :mod:`x2sam.inference.pointing`."""
    logits = prediction.at_own_size(torch.arange(prediction.queries, device=prediction.mask_logits.device))
    height, width = logits.shape[1:]
    heat = heat_on(looking.features(frame), worded.condition)[0, :height, :width]
    scores = prediction.scores()[:, 0]
    logits, scores, heat = (values.cpu().numpy() for values in (logits, scores, heat))
    return signs_of(Asked.of(worded.phrases[0]), logits, scores, heat, looking.picture(frame))


def _meant(looking: Looking, worded: Worded, frame: int, prediction: Prediction) -> Prediction:
    """The one query that the phrase means: the class scores of a small model hardly tell two cups apart."""
    best = meant(pointing_signs(looking, worded, frame, prediction), embedded_pointing_weights())
    return Prediction(prediction.mask_logits[best, None], prediction.class_logits[best, None], prediction.sizes)


def _outlined(snap: Snap, picture: np.ndarray, prediction: Prediction, segments: Segments) -> Segments:
    """The one segment, of the only query, snapped to the picture within its own extent (on training photographs mean
    IoU 0.39 without, 0.43 with it; with its middle as a click 0.41; both 0.41)."""
    probability = prediction.at_own_size(torch.zeros(1, dtype=torch.long))[0].sigmoid().cpu().numpy()
    box = tuple(float(side) for side in mask_bbox(segments.masks[0]))
    return replace(segments, masks=snap(picture, probability, (), (box,))[None])


def masks_of(worded: Worded, segments: Segments) -> Iterator[tuple[int, Mask]]:
    """Segments as their ids and masks with phrases, empty ones left out."""
    rows = zip(segments.ids, segments.masks, segments.scores, segments.categories, strict=True)
    for number, mask, score, category in rows:
        if mask.any():
            phrase = worded.phrases[int(category)] if int(category) < len(worded.phrases) else None
            yield int(number), Mask(mask, float(score), "", phrase, int(category))


def drawn_parts(prompt: Prompt, looking: Looking, frame: int) -> list[np.ndarray]:
    """Every drawn thing of a prompt by itself, bool (H, W) at picture size."""
    size = tuple(looking.picture(frame).shape[:2])
    parts = [Prompt(points=(p,)) for p in prompt.points if p.positive]
    parts += [Prompt(boxes=(b,)) for b in prompt.boxes] + [Prompt(strokes=(s,)) for s in prompt.strokes]
    return [*(prompt_region(part, size) for part in parts), *prompt.masks]
