"""The engine asked as the benchmarks ask, on the tiny network with random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from x2sam.data.task_sample import TaskSample
from x2sam.data.tasks import find_task
from x2sam.errors import PicturesOnlyError
from x2sam.evaluation.benchmark import QUIRKS, BenchmarkModel, rules_of
from x2sam.evaluation.protocol import Chunk, Protocol, Question, plan
from x2sam.inference.conversation import Query, render
from x2sam.inference.postprocess import Rule
from x2sam.inference.walk import Walker
from x2sam.model.mask_memory import MaskMemory
from x2sam.structures import Prompt

HEIGHT, WIDTH = 40, 56


def made(task, frames=1, labels=(0,), **facts):
    rng = np.random.default_rng(1)
    masks = np.zeros((frames, len(labels), HEIGHT, WIDTH), bool)
    for n in range(len(labels)):
        masks[:, n, 4 : 20 + n, 10 * n : 10 * n + 14] = True
    pictures = rng.integers(0, 255, (frames, HEIGHT, WIDTH, 3), np.uint8)
    return TaskSample(task, pictures, masks, np.array(labels), key="made", video=frames > 1, **facts)


def ask(engine, sample, **protocol):
    """(question, answers) of every question."""
    model, out = BenchmarkModel(engine, Protocol(**protocol)), []
    for chunk in plan(sample, model.protocol):
        with model.open(sample, chunk) as looked:
            out += [(question, list(looked.ask(question))) for question in chunk.questions]
    return out


def test_an_expression_as_the_service_answers_it(tiny_engine):
    """The rule for expressions has no threshold, so that both ways must give the same bytes."""
    sample = made("refseg", items=("the red circle",))
    ((_, (answer,)),) = ask(tiny_engine, sample)
    session = tiny_engine.open(sample.frames[0])
    (expected,) = session.segment(Prompt(text="the red circle", task="refseg"))
    assert np.array_equal(answer.views["masks"].masks[0], expected.mask)
    assert answer.frame == 0 and answer.phrases == ("the red circle",)


def test_views_of_categories(tiny_engine):
    facts = dict(items=("circle", "sky", "square"), things=(True, False, True))
    sample = made("genseg", labels=(0, 1), **facts)
    ((_, (answer,)),) = ask(tiny_engine, sample)
    assert set(answer.views) == {"panoptic", "semantic", "instances"}
    semantic = answer.views["semantic"].masks
    # As published: every pixel gets a category, exactly one.
    assert (semantic.sum(0) == 1).all()
    instances = answer.views["instances"]
    assert len(instances.masks) and 1 not in instances.categories
    assert (answer.views["panoptic"].masks.sum(0) <= 1).all()
    ((_, (fewer,)),) = ask(tiny_engine, sample, threshold=float(np.sort(instances.scores)[-1]) - 1e-4)
    assert 1 <= len(fewer.views["instances"].masks) < len(instances.masks)


def test_a_clip_is_walked_with_the_memory_of_all_queries(tiny_engine):
    sample = made("refseg", 4, items=("the red circle",))
    ((question, answers),) = ask(tiny_engine, sample)
    assert [a.frame for a in answers] == [0, 1, 2, 3]

    model, interpreter = tiny_engine.model, tiny_engine.interpreter
    looking = tiny_engine.open(sample.frames).looking
    task = question.task
    with torch.inference_mode():
        looked = interpreter.look(sample.frames, task)
        condition = interpreter.read(looked, render(task, Query(phrases=("the red circle",), sentence=False)),
                                     share=task.shares_conditions)  # fmt: skip
        walker = Walker(model, condition, Rule(task, 0.0, quirks=QUIRKS), MaskMemory(model.config.memory.slots))
        for t, answer in enumerate(answers):
            features = looking.features(t) if t == 0 else looking.later_features(t)
            segments, level = walker.look(features, looking.sizes(t), t)
            walker.remember(features, level, t)
            assert np.array_equal(answer.views["masks"].masks, segments.masks)


def test_chunks_know_nothing_of_each_other(tiny_engine):
    sample = made("refseg", 4, items=("the red circle",))
    whole = ask(tiny_engine, sample, chunk=2)
    later = replace(sample, frames=sample.frames[2:], masks=sample.masks[2:])
    alone = ask(tiny_engine, later, chunk=2)
    for (_, two), (_, one) in zip(whole[1:], alone, strict=True):
        for a, b in zip(two, one, strict=True):
            assert a.frame == b.frame + 2
            assert np.array_equal(a.views["masks"].masks, b.views["masks"].masks)


@pytest.mark.parametrize("task", ["intseg", "vgdseg"])
def test_regions_of_pictures(tiny_engine, task):
    labels = (0, 1) if task == "intseg" else (0, 0)
    asked = ask(tiny_engine, made(task, labels=labels, items=("a", "b")[: len(set(labels))]), prompt="box")
    assert len(asked) == len(set(labels))
    for question, (answer,) in asked:
        (name,) = answer.views
        assert name == ("masks" if task == "intseg" else "instances")
        assert len(answer.views[name].masks) >= 1 and question.regions.shape == (1, HEIGHT, WIDTH)


def test_followed_objects_start_where_they_are_prompted(tiny_engine):
    sample = made("objseg", 3, labels=(0, 1), items=("a", "b"))
    sample.masks[0, 1] = False
    (first, second) = ask(tiny_engine, sample)
    assert [a.frame for a in first[1]] == [0, 1, 2] and [a.frame for a in second[1]] == [1, 2]
    assert all(len(a.views["masks"].masks) == 1 for a in first[1])


def test_frames_are_looked_at_once_for_all_objects(tiny_engine, monkeypatch):
    calls, real = [], tiny_engine.model.decode_pixels
    monkeypatch.setattr(tiny_engine.model, "decode_pixels", lambda e, first: calls.append(first) or real(e, first))
    ask(tiny_engine, made("objseg", 3, labels=(0, 1), items=("a", "b")))
    assert calls == [True, False, False]


@pytest.mark.parametrize(
    ("task", "most", "shown"),
    [("vgdseg", 16, (0, 2, 5, 7)), ("refseg", 16, tuple(range(8))), ("refseg", 4, (0, 2, 4, 7))],
)
def test_what_the_language_model_sees(tiny_engine, monkeypatch, task, most, shown):
    """Of eight frames of a region task the benchmarks show 0, 2, 5 and 7; else all, or as many as the model takes."""
    model = tiny_engine.model
    monkeypatch.setattr(model, "config", replace(model.config, language_frames=most))
    seen = []
    real = tiny_engine.interpreter.look
    monkeypatch.setattr(tiny_engine.interpreter, "look", lambda f, t, **more: seen.append(f) or real(f, t, **more))
    sample = made(task, 8, items=("the circle",))
    ask(tiny_engine, sample, prompt="mask")
    (frames,) = seen
    assert np.array_equal(frames, sample.frames[list(shown)])


def test_grounded_captions_are_generated(build_engine):
    engine = build_engine(generate_limit=6)
    ((_, (answer,)),) = ask(engine, made("gcgseg", items=("a circle",), caption="a circle."))
    assert answer.text is not None and len(answer.phrases) >= 1
    view = answer.views["masks"]
    assert view.categories.max(initial=0) < len(answer.phrases)


def test_rules_follow_the_benchmarks():
    question = Question(find_task("refseg", "image"), (0,), (0,), (0,), ("it",))
    assert rules_of(question, Protocol(), None)["masks"].least == 0.0
    several = rules_of(question, Protocol(several=True), None)["masks"]
    assert several.generalised and several.allow_none
    interactive = replace(question, task=find_task("intseg", "image"))
    assert rules_of(interactive, Protocol(), torch.zeros(1, 4, 4))["masks"].least == 0.5
    assert rules_of(interactive, Protocol(threshold=0.2), torch.zeros(1, 4, 4))["masks"].least == 0.2


def test_the_engine_forgets_a_chunk(tiny_engine):
    sample = made("refseg", items=("it",))
    with BenchmarkModel(tiny_engine).open(sample, Chunk((0,), ())) as looked:
        looked.looking.features(0)
        assert len(tiny_engine.cache)
    assert not len(tiny_engine.cache)


@pytest.mark.parametrize("task", ["refseg", "reaseg", "genseg", "vgdseg", "intseg", "gcgseg"])
def test_a_model_for_pictures_is_scored_on_pictures(xsam_engine, task):
    labels, items = ((0, 1), ("a dog", "a cat")) if task in ("genseg", "vgdseg") else ((0,), ("a dog",))
    for question, (answer,) in ask(xsam_engine, made(task, labels=labels, items=items), prompt="box"):
        assert question.task.modality == "image"
        assert all(view.masks.shape[1:] == (HEIGHT, WIDTH) for view in answer.views.values())


def test_a_model_for_pictures_refuses_clips(xsam_engine):
    with pytest.raises(PicturesOnlyError, match="x2sam-4b or nano"):
        ask(xsam_engine, made("refseg", 2, items=("a dog",)))
