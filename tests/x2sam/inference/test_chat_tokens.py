import time

import numpy as np
import pytest

from x2sam.data.tasks import IMAGE, VIDEO, find_task
from x2sam.data.tokenizer import build_tokenizer
from x2sam.errors import PromptError, WeightsError
from x2sam.inference.conversation import (
    IGNORE,
    REGION,
    VISUAL,
    ChatEncoder,
    Query,
    Turn,
    expand,
    fake_timestamps,
    parse_generated,
    patch_timestamps,
    phrase_spans,
    prefix_length,
    render,
)

PICTURE = "<|vision_start|><image><|vision_end|>"
MIXED = Turn(f"<|im_start|>user\n{PICTURE}Find <p>dog</p>, <p><region></p>, <p>cat</p><|im_end|>\n", "<SEG>.<|im_end|>")


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(build_tokenizer(["dog cat person"], 500))


def ids(encoder, text: str) -> list[int]:
    return encoder.tokenizer.encode(text, add_special_tokens=False)


def test_picture_rows_and_labels(encoder):
    turn = render(find_task("refseg", IMAGE), Query(phrases=("dog",)))
    tokens = encoder.encode(turn, (1, 4, 6))
    assert tokens.visual_rows == 6 and tokens.regions == 0
    learned = tokens.labels != IGNORE
    assert tokens.labels[learned].tolist() == ids(encoder, "<SEG>.<|im_end|>")
    assert np.array_equal(tokens.labels[learned], tokens.token_ids[learned])
    assert not learned[-1], "the line end behind the answer is not learned"
    assert tokens.token_ids[tokens.seg_ids == 0].tolist() == [encoder.seg_id]
    phrase = tokens.token_ids[tokens.cond_ids == 0].tolist()
    assert phrase == ids(encoder, "<p>dog</p>")


def test_merge_decides_the_rows():
    encoder = ChatEncoder(build_tokenizer([], 400), merge=1)
    assert encoder.encode(render(find_task("gcgseg", IMAGE), Query()), (1, 4, 6)).visual_rows == 24


def test_video_pieces_carry_their_time(encoder):
    turn = render(find_task("chat", VIDEO), Query(question="Why?"))
    tokens = encoder.encode(turn, (3, 4, 4))
    assert tokens.visual_rows == 12
    text = encoder.rendered(turn, (3, 4, 4))
    assert text.count("<|placeholder|>") == 12 and "<3.0 seconds>" in text
    timed = encoder.rendered(turn, (3, 4, 4), timestamps=[0.0, 0.25, 10.0])
    assert "<0.2 seconds>" in timed and "<10.0 seconds>" in timed
    with pytest.raises(PromptError, match="time stamps"):
        encoder.encode(turn, (3, 4, 4), timestamps=[1.0])


def test_timestamps():
    assert fake_timestamps(3) == (1.0, 2.0, 3.0)
    assert patch_timestamps([0, 12, 24], fps=24) == (0.25, 1.0)
    assert patch_timestamps([0, 12, 24, 36], fps=24) == (0.25, 1.25)


def test_an_answer_can_end_at_seg(encoder):
    turn = render(find_task("refseg", IMAGE), Query(phrases=("dog",)))
    whole, short = encoder.encode(turn, (1, 2, 2)), encoder.encode(turn, (1, 2, 2), until_seg=True)
    assert short.token_ids[-1] == encoder.seg_id
    assert np.array_equal(whole.token_ids[: len(short)], short.token_ids)


def test_text_without_a_picture_and_a_picture_without_size(encoder):
    assert encoder.encode(Turn("hello")).token_ids.tolist() == ids(encoder, "hello")
    with pytest.raises(PromptError, match="size of the picture"):
        encoder.encode(render(find_task("chat", IMAGE), Query(question="Why?")))


def test_mixed_phrases_and_regions_keep_their_numbers(encoder):
    tokens = encoder.encode(MIXED, (1, 2, 2))
    mended = expand(tokens, 1, [3])
    published = expand(tokens, 1, [3], mend=False)
    assert mended.cond_ids[mended.region_mask].tolist() == [1, 1, 1]
    assert published.cond_ids[published.region_mask].tolist() == [0, 0, 0], "counts regions only"
    assert mended.conditions == 3
    others = ~mended.region_mask
    assert np.array_equal(mended.cond_ids[others], published.cond_ids[others])


def test_expansion(encoder):
    tokens = encoder.encode(MIXED, (1, 4, 4))
    expanded = expand(tokens, 4, [5])
    assert len(expanded) == len(tokens) + 4
    assert expanded.visual_rows == 4 and expanded.region_mask.sum() == 5
    rows = expanded.visual_mask | expanded.region_mask
    assert (expanded.token_ids[rows] == -1).all() and (expanded.token_ids[~rows] >= 0).all()
    assert (expanded.labels[rows] == IGNORE).all() and (expanded.seg_ids[rows] == -1).all()
    assert expanded.token_ids[~rows].tolist() == [i for i in tokens.token_ids if i not in (VISUAL, REGION)]
    assert expanded.position_ids.tolist() == list(range(len(expanded))) and expanded.attention_mask.all()
    assert tokens.token_ids[np.flatnonzero(tokens.cond_ids == 1)].tolist()[1] == REGION
    with pytest.raises(PromptError, match="visual rows"):
        expand(tokens, 3, [5])
    with pytest.raises(PromptError, match="regions"):
        expand(tokens, 4, [5, 5])


@pytest.mark.parametrize("modality", [IMAGE, VIDEO])
def test_the_prefix_is_the_same_for_every_prompt(encoder, modality):
    """What a cache keeps per picture: the same ids whatever is asked, and a question that tokenises by itself."""
    region = "intseg" if modality == IMAGE else "objseg"
    queries = {
        "refseg": Query(phrases=("dog",)),
        region: Query(regions=1),
        "chat": Query(question="\n\n.x"),
        "gcgseg": Query(),
    }
    heads, tails = set(), []
    for name, query in queries.items():
        tokens = encoder.encode(render(find_task(name, modality), query), (2, 4, 4))
        expanded = expand(tokens, tokens.visual_rows, [4] * tokens.regions)
        length = prefix_length(expanded)
        assert expanded.visual_mask[length - 1] and not expanded.visual_mask[length:].any()
        heads.add(tuple(tokens.token_ids[:length]))
        tails.append(tokens.token_ids[length:])
    assert len(heads) == 1
    assert all(tail[0] == ids(encoder, "<|vision_end|>")[0] for tail in tails)
    assert prefix_length(expand(encoder.encode(Turn("hello")), 0)) == 0


def test_unpaired_markers_are_skipped():
    tokens = np.array([9, 1, 5, 1, 6, 9, 7, 9, 1])
    assert phrase_spans(tokens, open_id=1, close_id=9) == [(3, 5)]


def generated(encoder, text: str, prompt: str = "<p>dog</p>"):
    tokens = encoder.encode(Turn(f"<|im_start|>user\n{PICTURE}{prompt}<|im_end|>\n"), (1, 2, 2))
    expanded = expand(tokens, 1)
    return expanded, parse_generated(ids(encoder, text), encoder.tokenizer, expanded)


def test_phrases_of_the_answer_replace_those_of_the_prompt(encoder):
    prompt, answer = generated(encoder, "<p>A man</p>  with <p>a dog</p> . And <SEG>.<|im_end|>")
    assert answer.phrases == ("A man", "a dog") and answer.text == "A man with a dog." and not answer.fallback
    assert (answer.cond_ids[: len(prompt)] == -1).all() and answer.cond_ids.max() == 1
    assert (answer.seg_ids >= 0).sum() == 1 and answer.seg_ids[: len(prompt)].max() == -1
    assert answer.caption == "<p>A man</p>  with <p>a dog</p> ."


def test_without_phrases_the_prompt_stays_in_force(encoder):
    prompt, answer = generated(encoder, "It is <SEG>.<|im_end|>")
    assert answer.phrases == () and answer.text == ""
    assert np.array_equal(answer.cond_ids[: len(prompt)], prompt.cond_ids)


@pytest.mark.parametrize(
    "text, count", [("A dog.<|im_end|>", 0), ("<SEG> and <SEG>.<|im_end|>", 2), ("A dog <SEG>", 0), ("", 0)]
)
def test_no_or_several_segs_ask_for_a_forced_answer(encoder, text, count):
    """The last id has no state: a ``<SEG>`` there can't be used either."""
    _, answer = generated(encoder, text)
    assert answer.fallback and f"{count} <SEG>" in answer.problem


def test_a_seg_with_a_state_can_be_the_last_id(encoder):
    tokens = expand(encoder.encode(Turn("hello")), 0)
    output = ids(encoder, "A dog <SEG>")
    assert not parse_generated(output, encoder.tokenizer, tokens, states=len(output)).fallback


def test_a_failed_caption_can_be_forced(encoder):
    """The caption of an answer without ``<SEG>`` goes back into the task's own answer."""
    _, answer = generated(encoder, "<p>A dog</p> sleeps.<|im_end|>")
    forced = render(find_task("gcgseg", IMAGE), Query(caption=answer.caption))
    assert forced.output == "<p>A dog</p> sleeps. <SEG>.<|im_end|>"
    tokens = encoder.encode(forced, (1, 2, 2))
    assert tokens.cond_ids.max() == 0 and tokens.seg_ids.max() == 0


def test_a_tokenizer_without_our_marks():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(WeightsError, match="<SEG>"):
        ChatEncoder(bare)


def test_a_prompt_costs_less_than_two_milliseconds(encoder):
    """Median over repeats, new picture sizes included; the longest clip the language model gets has 32 patches."""
    task, times = find_task("refseg", VIDEO), []
    for step in range(30):
        start = time.process_time()
        tokens = encoder.encode(render(task, Query(phrases=(f"the dog number {step}",))), (32, 8 + 2 * step, 8))
        expand(tokens, tokens.visual_rows)
        times.append(time.process_time() - start)
    assert np.median(times) < 2e-3
