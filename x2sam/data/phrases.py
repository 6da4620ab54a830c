"""Expressions that single out one object of a picture, from what is known about all of them.

An expression is only made when nothing else in the picture can be meant: unknown attributes of other objects count
as "could be", order needs a clear margin, and pictures with unlabelled things get no order at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam.structures import SampleObject

_SIZE_RATIO = 1.5
_MAIN_SHARE = 0.08
_ORDER_MARGIN = 0.05


@dataclass(frozen=True)
class Described:
    """What is known about one object of a picture.

    also:     other categories a person might use for it
    colours:  names that fit; None when not known (it could be any)
    colour:   the name to use, if one fits nearly all of it
    pattern:  "striped", "dotted", ...; None when it has no name
    area:     visible pixels; centre: x, y in pixels
    """

    id: int
    category: str
    area: float
    centre: tuple[float, float]
    also: frozenset[str] = frozenset()
    colours: frozenset[str] | None = None
    colour: str | None = None
    pattern: str | None = None
    thing: bool = True


def _same_kind(item: Described, other: Described) -> bool:
    return other.category == item.category or item.category in other.also or other.category in item.also


def _could_be(other: Described, colour: str) -> bool:
    return other.colours is None or colour in other.colours


def _sizes(item: Described, rivals: Sequence[Described]) -> str | None:
    if rivals and all(item.area >= _SIZE_RATIO * r.area for r in rivals):
        return "large"
    if rivals and all(item.area * _SIZE_RATIO <= r.area for r in rivals):
        return "small"
    return None


def _sides(item: Described, rivals: Sequence[Described], size: tuple[int, int]) -> list[tuple[str, str]]:
    """(superlative, place) pairs that hold for ``item`` against every rival, with a margin."""
    h, w = size
    words = []
    for axis, extent, low, high in ((0, w, ("leftmost", "on the left"), ("rightmost", "on the right")),
                                    (1, h, ("topmost", "at the top"), ("bottom", "at the bottom"))):  # fmt: skip
        own, others = item.centre[axis] / extent, [r.centre[axis] / extent for r in rivals]
        if others and own < min(others) - _ORDER_MARGIN:
            words.append((low[0], low[1] if own < 0.42 and min(others) > 0.5 else ""))
        if others and own > max(others) + _ORDER_MARGIN:
            words.append((high[0], high[1] if own > 0.58 and max(others) < 0.5 else ""))
    return words


def _whereabouts(item: Described, size: tuple[int, int]) -> list[str]:
    """Thirds of the picture (H, W) that ``item`` is plainly in."""
    x, y = item.centre[0] / size[1], item.centre[1] / size[0]
    across = "on the left" if x < 0.35 else "on the right" if x > 0.65 else "in the middle"
    up = "at the top" if y < 0.3 else "at the bottom" if y > 0.7 else ""
    return [across, *([up] if up else [])]


def _main(item: Described, others: Sequence[Described], size: tuple[int, int]) -> list[str]:
    """What a person calls the one large thing of a photograph, whatever else is in it."""
    large = item.thing and item.area >= _MAIN_SHARE * size[0] * size[1]
    if not large or any(other.area * _SIZE_RATIO > item.area for other in others):
        return []
    return ["main object", "largest object", "object " + _whereabouts(item, size)[0]]


def _kind_phrases(item: Described, rivals: list[Described], size: tuple[int, int], whole: bool) -> list[str]:
    """Expressions with the category's own name."""
    name, found = item.category, []
    sized = _sizes(item, rivals) if whole else None
    sides = _sides(item, rivals, size) if whole else []
    by_colour = item.colour is not None and not any(_could_be(r, item.colour) for r in rivals)
    by_pattern = item.pattern is not None and all(r.pattern not in (None, item.pattern) for r in rivals)
    looks = " ".join(word for word in (item.pattern, item.colour) if word)
    if not rivals:
        found.append(name)
        # One of its kind: where it is adds nothing to the meaning, but that is how people speak.
        found += [f"{name} {where}" for where in _whereabouts(item, size)]
    if by_colour:
        found.append(f"{item.colour} {name}")
    if by_pattern:
        found.append(f"{item.pattern} {name}")
    if looks and (not rivals or by_colour or by_pattern):
        found.append(f"{looks} {name}")
    if sized:
        found += [f"{'largest' if sized == 'large' else 'smallest'} {name}", f"{sized} {name}"]
    for superlative, place in sides:
        found.append(f"{superlative} {name}")
        if place:
            found.append(f"{name} {place}")
            found.append(" ".join(word for word in (sized, item.pattern, item.colour, name, place) if word))
    return found


def _general_phrases(item: Described, others: list[Described], size: tuple[int, int], whole: bool) -> list[str]:
    """Expressions that name no category; only among countable objects and only where all of them are known."""
    main = _main(item, others, size)
    if not whole or not item.thing or not others:
        return main
    found = main[:1]
    if item.colour is not None and not any(_could_be(o, item.colour) for o in others):
        found.append(f"{item.colour} object")
    sized = _sizes(item, others)
    if sized:
        found.append("largest object" if sized == "large" else "smallest object")
    return found + [f"{superlative} object" for superlative, _ in _sides(item, others, size)]


def _all_expressions(
    item: Described, items: Sequence[Described], size: tuple[int, int], whole: bool
) -> tuple[list[str], list[str]]:
    """Expressions with the category's name and expressions without."""
    others = [o for o in items if o.id != item.id]
    if not whole and any(_same_kind(item, o) for o in others):
        return [], []
    rivals = [o for o in others if _same_kind(item, o)]
    countable = [o for o in others if o.thing]
    return (
        list(dict.fromkeys(_kind_phrases(item, rivals, size, whole))),
        _general_phrases(item, countable, size, whole),
    )


def expressions(item: Described, items: Sequence[Described], size: tuple[int, int], whole: bool) -> list[str]:
    """All expressions (without article) that mean ``item`` and nothing else of ``items``, in a picture (H, W).

    whole: every object of these kinds is among ``items``; else only kinds that occur once are named, and neither
        order, size nor colour tells two of a kind apart
    """
    kind, general = _all_expressions(item, items, size, whole)
    return kind + general


def describe_objects(
    items: Sequence[Described], size: tuple[int, int], rng: np.random.Generator, whole: bool = True, most: int = 6
) -> tuple[SampleObject, ...]:
    """Objects with up to ``most`` expressions each, drawn without repetition, half of them with an article.

    At most one of them does without the category's name: there are many of these and they teach little.
    """
    described = []
    for item in items:
        kind, general = _all_expressions(item, items, size, whole)
        found = kind + ([general[int(rng.integers(len(general)))]] if general else [])
        order = rng.permutation(len(found))[:most]
        articles = rng.random(len(order)) < 0.5
        phrases = tuple(("the " if a else "") + found[k] for k, a in zip(order, articles, strict=True))
        described.append(SampleObject(item.id, item.category, item.thing, phrases))
    return tuple(described)
