"""A small tokenizer for models trained here, with the special tokens and the splitting rule of the published one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .tasks import template_texts

SEG, PHRASE_OPEN, PHRASE_CLOSE = "<SEG>", "<p>", "</p>"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    SEG, PHRASE_OPEN, PHRASE_CLOSE,
)  # fmt: skip

# How Qwen cuts text into words before pairs are merged: contractions, letters with one leading mark, single digits,
# runs of punctuation, line ends, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = 256


def conversation_corpus() -> list[str]:
    """Everything that the conversation wraps around a person's words: templates, turn marks and time stamps."""
    texts = [text.replace("{items}", "").replace("{caption}", "") for text in template_texts()]
    return [*texts, "user\n", "assistant\n", *(f"<{second}.0 seconds>" for second in range(1, 33))]


def build_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level pair merges on ``corpus`` and add the special tokens behind them.

    The conversation's own text is always part of the corpus. Any text can be encoded, because all 256 bytes are in
    the vocabulary; the same corpus and size always give the same tokenizer. ``len()`` of the result is at most
    ``vocab_size`` (fewer when the corpus has too few different pairs).

    Raises ValueError when ``vocab_size`` leaves no room for the bytes and the special tokens.
    """
    pairs = vocab_size - len(SPECIAL_TOKENS)
    if pairs < _BYTES:
        raise ValueError(f"vocab_size must be at least {_BYTES + len(SPECIAL_TOKENS)}, not {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [_plain(text) for text in (*conversation_corpus(), *corpus)]
    trainer = trainers.BpeTrainer(
        vocab_size=pairs,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that a model's directory holds; nothing is fetched."""
    if _is_general(directory):
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    from transformers import AutoTokenizer  # knows all models, which takes a third of a second

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _is_general(directory: Path) -> bool:
    """Whether ``tokenizer.json`` is all there is to it, as of one that was built here."""
    try:
        told = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("tokenizer_class") == PreTrainedTokenizerFast.__name__


def _plain(text: str) -> str:
    for token in SPECIAL_TOKENS:
        text = text.replace(token, " ")
    return text
