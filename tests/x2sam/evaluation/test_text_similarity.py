"""Phrases compared by a text encoder from a directory: a tiny one with random weights."""

import numpy as np
import pytest

from x2sam.errors import WeightsError
from x2sam.evaluation.text_similarity import EncoderSimilarity


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "red", "cat", "dog"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(path)
    return path


def test_equal_phrases_are_one_whatever_stands_beside_them(directory):
    compare = EncoderSimilarity(directory)
    out = compare(["cat", "red red dog"], ["red red dog", "cat", "dog"])
    assert out.shape == (2, 3)
    # Padding must not change what a phrase means.
    assert [out[0, 1], out[1, 0]] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (np.abs(out) <= 1 + 1e-5).all() and out[0, 2] < 0.999


def test_no_encoder(tmp_path):
    with pytest.raises(WeightsError, match="no directory"):
        EncoderSimilarity(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no text encoder"):
        EncoderSimilarity(tmp_path)
