"""Phrases in the words that a small network was trained on: what it never heard only leads it astray.

On 216 phrases about pictures held back, "young", "wooden" or the like before the name cost 0.054 of the IoU, and "with
the green cap", "next to the fence" or the like behind it 0.035, though the rest of the phrase was enough.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from x2sam.data.colours import COLOUR_NAMES
from x2sam.data.synonyms import SYNONYMS

# "the man with the red cap": what stands behind the head of a phrase says something of other things
APPENDED = re.compile(
    r"\b(?:with|in|that|who|whose|which|on|at|wearing|holding|carrying|behind|beside|before|near|next|by|from|under|over"
    r"|above|below|between|to)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
_PLACES = {
    **dict.fromkeys(("left", "right"), "on the {}"),
    **dict.fromkeys(("top", "bottom"), "at the {}"),
    **dict.fromkeys(("middle", "center", "centre"), "in the middle"),
}
_WHOLE = r"(?:\s+(?:side|part|half|corner|edge))?(?:\s+of\s+the\s+(?:picture|image|photo|frame|scene))?"
_PLACE = re.compile(
    rf"\b(?:on|at|in|to)\s+the\s+(?:far\s+|very\s+|(?:upper|lower|top|bottom)\s+(?=left|right))?({'|'.join(_PLACES)})"
    rf"{_WHOLE}\s*(?=$|[,.;]|{APPENDED.pattern}|and\b)",
    re.IGNORECASE,
)
_ANYTHING = dict.fromkeys(("one", "thing", "item", "something"), "object")
_LITTLE = {"a", "an", "the", "of", "and"}
_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "leaves": "leaf", "knives": "knife",
}  # fmt: skip
# words that name nothing by themselves
_LOOKS = {
    *_LITTLE, *COLOUR_NAMES, "grey", "big", "large", "largest", "small", "smallest", "leftmost", "rightmost", "topmost",
    "top", "bottom", "left", "right", "middle", "main", "striped", "dotted", "spotted", "checkered", "plain",
}  # fmt: skip


def words_in(texts: Iterable[str]) -> set[str]:
    """The words of ``texts`` in small letters, without the signs between them."""
    return {word for text in texts for word in _WORD.findall(text.lower())}


def trained_words(texts: Iterable[str]) -> tuple[str, ...]:
    """What a network hears that is trained on samples with these names and phrases: their words and those of synonyms,
    in order."""
    return tuple(sorted(words_in(texts) | words_in(word for words in SYNONYMS.values() for word in words)))


def plainly(phrase: str, known: Collection[str]) -> str:
    """The head of ``phrase`` and the place in the picture that it names, of words that are ``known`` (small letters).

    A head without any known name keeps its last word, which says what is meant. Plurals count as their singular. Where
    nothing is known, or the phrase has no head, it stays as it is.
    """
    place = _PLACE.search(phrase)
    head = _head(_WORD.findall(APPENDED.split(_PLACE.sub(" ", phrase))[0]), known) if known else []
    if not head:
        return phrase
    return " ".join([*head, *([_PLACES[place[1].lower()].format(place[1].lower())] if place else [])])


def understood(phrase: str, known: Collection[str]) -> str | None:
    """What :func:`plainly` makes of a phrase where that leaves something out that was said; None where it does not."""
    plain = plainly(phrase, known)
    heard, said = ({_stem(word) for word in words_in([text])} for text in (plain, phrase))
    return plain if said - heard - _LITTLE else None


def bare_name(phrase: str) -> str | None:
    """The name in a phrase without its colours, sizes and places: "the bus" of "the red bus on the left". None where
    the phrase says no more than its name, or no name at all."""
    words = [word.lower() for word in _WORD.findall(APPENDED.split(_PLACE.sub(" ", phrase))[0])]
    name = " ".join(word for word in words if word not in _LOOKS - {"of"}).removeprefix("of ").removesuffix(" of")
    said = " ".join(word for word in _WORD.findall(phrase.lower()) if word not in _LITTLE - {"of"})
    return f"the {name}" if name not in ("", "of", said) else None


def plain_names(names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Each of some names plainly, but as it is where others would then be called the same."""
    plain = [plainly(name, known) for name in names]
    return tuple(new if plain.count(new) == 1 else old for old, new in zip(names, plain, strict=True))


def _head(words: Sequence[str], known: Collection[str]) -> list[str]:
    kept, named = [], False
    words = [*words[:-1], *(_ANYTHING.get(word.lower(), word) for word in words[-1:])]
    for word in words:
        forms = word, _PLURALS.get(word.lower(), word), word.removesuffix("s"), word.removesuffix("es")
        form = next((form for form in forms if form.lower() in known), None)
        if form is None and named and word.endswith("ing"):
            break  # "the man standing there"
        if form is not None and (named or form != "of"):
            kept.append(form)
            named = named or form.lower() not in _LOOKS
    return kept if named or words[-1:] == kept[-1:] else [*kept, *words[-1:]]


def _stem(word: str) -> str:
    word = _PLURALS.get(word, word)
    return word.removesuffix("s").removesuffix("e")
