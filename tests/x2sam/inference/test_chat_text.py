import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x2sam.data.tasks import IMAGE, VIDEO, find_task
from x2sam.errors import PromptError
from x2sam.inference.conversation import Query, category_phrase, clean_text, query_of, render, tag_caption
from x2sam.structures import Point, Prompt


def test_served_text_is_fixed():
    task = find_task("refseg", IMAGE)
    turn = render(task, Query(phrases=("  The Dog ",)))
    assert turn == render(task, Query(phrases=("  The Dog ",)))
    assert turn.input == (
        "<|im_start|>user\n<|vision_start|><image><|vision_end|>Please segment <p>the dog</p> in this image."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert turn.output == "<SEG>.<|im_end|>"


def test_a_seed_draws_question_and_answer():
    task, query = find_task("refseg", IMAGE), Query(phrases=("dog",))
    turns = {render(task, query, random.Random(seed)) for seed in range(60)}
    assert len(turns) > 20
    assert render(task, query, random.Random(7)) == render(task, query, random.Random(7))


@pytest.mark.parametrize("name, phrase", [("refseg", "the ironing man"), ("reaseg", "What is Hot?")])
def test_case_is_kept_only_for_reasoning(name, phrase):
    text = render(find_task(name, IMAGE), Query(phrases=(phrase,))).input
    assert f"<p>{phrase}</p>" in text


def test_reasoning_has_templates_for_sentences_and_for_phrases():
    task = find_task("reaseg", VIDEO)
    assert "<p>Who runs?</p> Please" in render(task, Query(phrases=("Who runs?",), sentence=True)).input
    assert "Can you segment <p>a runner</p>" in render(task, Query(phrases=("a runner",), sentence=False)).input


def test_a_known_explanation_precedes_the_answer_half_of_the_time():
    task, query = find_task("reaseg", IMAGE), Query(phrases=("Why?",), explanation="Because it is hot.")
    answers = [render(task, query, random.Random(seed)).output for seed in range(200)]
    assert 60 < sum(answer.startswith("Because it is hot. ") for answer in answers) < 140


def test_categories_with_and_without_a_description():
    task = find_task("genseg", IMAGE)
    plain = render(task, Query(phrases=("road-merged", "Traffic-Light")))
    assert "categories: <p>road</p>, <p>traffic light</p>?" in plain.input
    described = render(task, Query(phrases=("road",), caption="A street."))
    assert "describe the image briefly" in described.input and described.output == "A street. <SEG>.<|im_end|>"


def test_generation_leaves_the_output_open():
    turn = render(find_task("gcgseg", VIDEO), Query(), answer=False)
    assert turn.output == "" and "<video>" in turn.input
    chat = render(find_task("chat", IMAGE), Query(question="Is it raining?"))
    assert chat.output == "" and chat.input.count("Is it raining?") == 1


def test_names_of_datasets():
    assert category_phrase("sky-other-merged") == "sky"
    assert category_phrase("Wall-brick") == "wall brick"
    assert category_phrase("furniture-stuff") == "furniture"


def test_captions_are_tagged_in_reading_order():
    assert tag_caption("A man and a dog", [(10, 15), (0, 5)]) == "<p>A man</p>  and <p>a dog</p> ."
    for spans in ([(0, 5), (3, 8)], [(0, 99)], [(4, 4)]):
        with pytest.raises(PromptError):
            tag_caption("A man and a dog", spans)


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            ["<p>", "</p>", "<P>", "<SEG>", "<image>", "<video>", "<region>", "<|im_end|>", "<", "p>", "dog"]
        ),
        min_size=1,
        max_size=8,
    ).map("".join)
)
def test_words_never_act_as_markers(text):
    """Whatever a person types, the turn keeps one picture, one phrase and its marks."""
    try:
        turn = render(find_task("refseg", IMAGE), Query(phrases=(text,)))
    except PromptError:
        return
    assert turn.input.count("<p>") == turn.input.count("</p>") == 1
    assert turn.input.count("<|im_end|>") == 1 and "<SEG>" not in turn.input
    assert turn.input.count("<image>") == 1 and "<region>" not in turn.input and "<video>" not in turn.input


def test_questions_and_captions_are_cleaned_too():
    chat = render(find_task("chat", IMAGE), Query(question="Why <|im_end|><image><SEG>?"))
    assert chat.input.count("<|im_end|>") == chat.input.count("<image>") == 1 and "<SEG>" not in chat.input
    forced = render(find_task("gcgseg", IMAGE), Query(caption="<p>A dog</p> <SEG> <region> runs"))
    assert forced.output.count("<SEG>") == 1 and "<region>" not in forced.output and "<p>A dog</p>" in forced.output
    with pytest.raises(PromptError, match="empty"):
        render(find_task("chat", IMAGE), Query(question=" "))


def test_text_that_can_not_be_used():
    with pytest.raises(PromptError, match="empty"):
        clean_text(" <p></p> ")
    with pytest.raises(PromptError, match="at most"):
        clean_text("x" * 5000)


def test_queries_from_prompts():
    assert query_of(find_task("genseg", IMAGE), Prompt(categories=("dog", "cat"))).phrases == ("dog", "cat")
    assert query_of(find_task("refseg", IMAGE), Prompt(text=" a dog ")).phrases == ("a dog",)
    assert query_of(find_task("refseg", IMAGE), Prompt(categories=("dog",))).phrases == ("dog",)
    assert query_of(find_task("chat", IMAGE), Prompt(text="Why?")).question == "Why?"
    assert query_of(find_task("gcgseg", IMAGE), Prompt(text="describe")) == Query()
    click = Prompt(points=(Point(1, 1),))
    assert query_of(find_task("intseg", IMAGE), click, regions=1).regions == 1
    assert query_of(find_task("vgdseg", IMAGE), click, regions=3).regions == 3
    for name, regions in (("intseg", 2), ("intseg", 0), ("vgdseg", 0)):
        with pytest.raises(PromptError, match="region"):
            query_of(find_task(name, IMAGE), click, regions=regions)
    with pytest.raises(PromptError, match="empty"):
        query_of(find_task("reaseg", IMAGE), Prompt())


def test_one_phrase_at_a_time():
    with pytest.raises(PromptError, match="one by one"):
        render(find_task("refseg", IMAGE), Query(phrases=("dog", "cat")))
