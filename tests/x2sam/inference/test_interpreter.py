"""Questions to conditions: the kept prefix, generated answers, and what stands in when generation goes astray."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam.data.tasks import find_task
from x2sam.errors import PromptError
from x2sam.inference.conversation import Query, Turn, render
from x2sam.inference.interpreter import Interpreter, Looked

REFER = Query(phrases=("the red circle",))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def interpreter(tiny_model, tiny_tokenizer) -> Interpreter:
    return Interpreter(tiny_model, tiny_tokenizer)


def frames(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 56, 3), np.uint8)


def look(interpreter, task, **kwargs) -> Looked:
    return interpreter.look(frames(1 if task.modality == "image" else 4), task, **kwargs)


def ids(interpreter, text: str) -> list[int]:
    return interpreter.encoder.tokenizer.encode(text, add_special_tokens=False)


def kept(looked: Looked) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(layer.keys.clone(), layer.values.clone()) for layer in looked.prefix.layers]


def assert_untouched(looked: Looked, before) -> None:
    assert looked.prefix.get_seq_length() == looked.prefix_length
    for layer, (keys, values) in zip(looked.prefix.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)


def assert_same(found, expected) -> None:
    for part in ("classes", "tokens", "seg"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("name", ["refseg", "genseg", "vgdseg"])
def test_the_kept_prefix_gives_the_condition_of_the_whole(interpreter, tiny_model, name, modality):
    task = find_task(name, modality)
    width, rows = tiny_model.config.text["hidden_size"], tiny_model.config.region.tokens
    regions = torch.randn(2, rows, width) if name == "vgdseg" else None
    query = {"refseg": REFER, "genseg": Query(phrases=("cat", "dog")), "vgdseg": Query(regions=2)}[name]
    turn = render(task, query)
    whole = interpreter.read(look(interpreter, task, keep_prefix=False), turn, regions)
    looked = look(interpreter, task)
    before = kept(looked)
    assert_same(interpreter.read(looked, turn, regions), whole)
    assert_untouched(looked, before)
    assert_same(interpreter.read(looked, turn, regions), whole)


def test_one_prefix_serves_every_question(interpreter):
    """Looked at for one task, asked another of the same modality."""
    refer, chat = find_task("refseg", "image"), find_task("chat", "image")
    looked = look(interpreter, chat)
    other = look(interpreter, refer)
    assert looked.prefix_length == other.prefix_length
    turn = render(refer, REFER)
    assert_same(interpreter.read(looked, turn), interpreter.read(other, turn))


def test_the_question_is_heard(interpreter):
    task = find_task("refseg", "image")
    looked = look(interpreter, task)
    found = [interpreter.read(looked, render(task, Query(phrases=(p,)))) for p in ("the red circle", "grey squares")]
    assert not torch.allclose(found[0].classes[:, 0], found[1].classes[:, 0], atol=1e-3)
    assert not torch.allclose(found[0].seg, found[1].seg, atol=1e-3)


def test_the_picture_is_seen(interpreter):
    task = find_task("refseg", "image")
    found = [interpreter.read(interpreter.look(frames(seed=s), task), render(task, REFER)) for s in (0, 1)]
    assert not torch.allclose(found[0].seg, found[1].seg, atol=1e-4)


def test_what_looking_takes_is_counted(interpreter):
    task = find_task("refseg", "image")
    looked, bare = look(interpreter, task), look(interpreter, task, keep_prefix=False)
    config = interpreter.model.config.text
    width = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    assert looked.nbytes - bare.nbytes == 4 * width * looked.prefix_length
    size = looked.nbytes
    interpreter.read(looked, render(task, REFER))
    assert looked.nbytes == size


def test_a_reading_that_fails_leaves_the_prefix_alone(interpreter, tiny_model, monkeypatch):
    """Out of memory in the second layer: the first one has grown already."""
    task = find_task("refseg", "image")
    looked, turn = look(interpreter, task), render(task, REFER)
    before, expected = kept(looked), interpreter.read(looked, turn)

    def fail(*args, **kwargs):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.vision_language.language.layers[1], "forward", fail)
        with pytest.raises(MemoryError):
            interpreter.read(looked, turn)
        with pytest.raises(MemoryError):
            interpreter.generate(looked, find_task("chat", "image"), Query(question="why?"))
    assert_untouched(looked, before)
    assert_same(interpreter.read(looked, turn), expected)


def test_generating_leaves_the_prefix_alone_even_when_it_fails(interpreter, tiny_model, monkeypatch):
    task = find_task("chat", "image")
    looked = look(interpreter, task)
    before = kept(looked)
    answer = interpreter.generate(looked, task, Query(question="why?"), limit=6)
    assert_untouched(looked, before)
    calls, word_logits = [], tiny_model.vision_language.word_logits

    def fail_at_third(states):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room")
        return word_logits(states)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.vision_language, "word_logits", fail_at_third)
        with pytest.raises(MemoryError):
            interpreter.generate(looked, task, Query(question="why?"), limit=6)
    assert_untouched(looked, before)
    assert interpreter.generate(looked, task, Query(question="why?"), limit=6).text == answer.text


@pytest.mark.parametrize("prefix", [True, False])
def test_generation_is_greedy_bounded_and_repeatable(interpreter, tiny_model, monkeypatch, prefix):
    task = find_task("chat", "image")
    looked = look(interpreter, task, keep_prefix=prefix)
    taken, word_logits = [], tiny_model.vision_language.word_logits
    monkeypatch.setattr(tiny_model.vision_language, "word_logits", lambda s: taken.append(word_logits(s)) or taken[-1])
    first = interpreter.generate(looked, task, Query(question="how many?"), limit=5)
    assert 1 <= len(taken) <= 5 and first.condition is None and first.text is not None
    taken.clear()
    assert interpreter.generate(looked, task, Query(question="how many?"), limit=5).text == first.text


def test_generation_ends_with_the_turn(interpreter):
    task = find_task("chat", "image")
    forced = ids(interpreter, "two squares<|im_end|>")
    reading = interpreter.generate(look(interpreter, task), task, Query(question="how many?"), forced=forced)
    assert reading.text == "two squares" and reading.condition is None


def test_a_generated_caption_brings_its_phrases(interpreter):
    task = find_task("gcgseg", "image")
    forced = ids(interpreter, "<p>A circle</p> above <p>squares</p>. <SEG>.<|im_end|>")
    reading = interpreter.generate(look(interpreter, task), task, Query(), forced=forced)
    assert reading.phrases == ("A circle", "squares")
    assert reading.condition.classes.shape[1] == 3  # both phrases and the background
    assert reading.text == "A circle above squares."


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ("<p>A circle</p> above <p>squares</p>.", ("A circle", "squares")),
        ("<p>A circle</p> <SEG> and <p>squares</p> <SEG>.", ("A circle", "squares")),
        ("A circle above squares.", ("A circle above squares.",)),
        ("<SEG> <SEG>", ("the main object",)),
        ("", ("the main object",)),
    ],
)
@pytest.mark.parametrize("modality", ["image", "video"])
def test_without_its_one_seg_the_template_is_read(interpreter, answer, phrases, modality):
    """No ``<SEG>`` or several: the words are kept, the mask comes from the template, and there is always one."""
    task = find_task("gcgseg", modality)
    forced = ids(interpreter, answer + "<|im_end|>")
    looked = look(interpreter, task)
    before = kept(looked)
    reading = interpreter.generate(looked, task, Query(), forced=forced)
    assert reading.phrases == phrases
    assert reading.condition.classes.shape[:2] == (1, len(phrases) + 1)
    assert reading.condition.seg.shape[1] == 1 and bool(torch.isfinite(reading.condition.seg).all())
    assert_untouched(looked, before)


@pytest.mark.parametrize(("name", "query"), [("refseg", REFER), ("genseg", Query(phrases=("cat", "dog", "sky")))])
def test_a_phrase_keeps_its_place_when_its_answer_goes_astray(interpreter, name, query):
    task = find_task(name, "image")
    forced = ids(interpreter, "I see <p>nothing</p> of that.<|im_end|>")
    reading = interpreter.generate(look(interpreter, task), task, query, forced=forced)
    assert reading.phrases == query.phrases
    assert_same(reading.condition, interpreter.read(look(interpreter, task), render(task, query)))


def test_regions_can_be_asked_about_in_generated_answers(interpreter, tiny_model):
    task = find_task("intseg", "image")
    regions = torch.randn(1, tiny_model.config.region.tokens, tiny_model.config.text["hidden_size"])
    looked = look(interpreter, task)
    expected = interpreter.read(looked, render(task, Query(regions=1)), regions)
    for answer in ("<SEG>.<|im_end|>", "no idea<|im_end|>"):
        forced = ids(interpreter, answer)
        found = interpreter.generate(looked, task, Query(regions=1), forced=forced, regions=regions).condition
        assert_same(found, expected)


def test_an_answer_needs_its_one_seg(interpreter):
    task = find_task("refseg", "image")
    question = render(task, REFER).input
    for answer in ("", "Sure.<|im_end|>"):
        with pytest.raises(PromptError, match="exactly one <SEG>"):
            interpreter.read(look(interpreter, task), Turn(question, answer))


def test_regions_must_be_as_many_as_the_question_has(interpreter, tiny_model):
    task = find_task("vgdseg", "image")
    regions = torch.randn(1, tiny_model.config.region.tokens, tiny_model.config.text["hidden_size"])
    with pytest.raises(PromptError, match="2 regions, but 1"):
        interpreter.read(look(interpreter, task), render(task, Query(regions=2)), regions)
