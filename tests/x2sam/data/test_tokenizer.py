import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from x2sam.data.tokenizer import SPECIAL_TOKENS, build_tokenizer
from x2sam.inference.conversation import ChatEncoder

WORDS = ["a red circle left of the blue square", "person bicycle car dog zebra", "the largest green triangle"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS, 600)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_any_text_survives(tokenizer, text):
    import unicodedata

    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_special_tokens_are_single_and_behind_the_merges(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer.encode(f"a{token}b", add_special_tokens=False).count(number) == 1
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_words_of_the_corpus_get_short(tokenizer):
    assert len(tokenizer.encode("Please segment", add_special_tokens=False)) <= 3


def test_the_same_corpus_gives_the_same_tokenizer(tokenizer):
    assert build_tokenizer(iter(WORDS), 600).get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) <= 600


def test_it_can_be_stored_and_read_by_anyone(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\n<p>dog</p><SEG>.<|im_end|>"
    assert again.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert ChatEncoder(again).seg_id == ChatEncoder(tokenizer).seg_id


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="at least 267"):
        build_tokenizer(WORDS, 200)
