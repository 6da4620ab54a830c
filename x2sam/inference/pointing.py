"""Which of the queries a phrase means, for small networks: what it says of colour, place and size is measured.

A small network tells stuff and the main thing of a picture by words, but hardly "the red cup on the left" from the
other cup, or a star from a ring. Colours, sides, sizes and outlines can be measured on each query's mask, so they are,
and weighed together with the class score, the heat of the words and how sharp a mask is. The query with the largest sum
is the answer. Weights are fitted by :mod:`x2sam.inference.pointing_fit`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from x2sam.data.colours import COLOUR_NAMES, colour_matches
from x2sam.data.plain_words import APPENDED
from x2sam.errors import WeightsError
from x2sam.inference.mask_signs import LEAST, border, distinct, odds, overlaps, sharpness, sigmoid, whole
from x2sam.inference.outlines import LEAST_PIXELS, NAMES, SHAPES, embedded_outline_names, measures

FILE = Path(__file__).parent.parent / "data" / "pointing.json"
SIGNS = (
    "score",  # the class score, as log-odds
    "heat",  # mean probability inside the mask that the words mean a place
    "colour",  # share of the mask that has a colour that the words name
    "contrast",  # the same, less the share outside the mask
    "across",  # middle of the mask towards the side that the words name, in widths of the picture
    "upright",  # the same in heights, of top and bottom
    "amid",  # minus its distance from the middle line, where the words name the middle
    "aside",  # "across", and no more than puts it into the third that the words name
    "aloft",  # "upright", in the same way
    "midway",  # "amid", 0 in the middle third
    "large",  # log of the mask's share of the picture, where the words ask for a large thing
    "small",  # minus the same, where they ask for a small one
    "size",  # log of the share, whatever the words are
    "size squared",
    "inside",  # mean probability inside the mask
    "stable",  # area above a higher threshold against the area above a lower one
    "blurred",  # entropy of the mask against the root of its area
    "edge",  # share of the picture's border that it touches
    "centred",  # minus the distance of its middle from that of the picture
    "agreed",  # mean IoU with all queries, by their scores
    "whole",  # share of its largest part
    "distinct",  # how far its colours are from those around it
    "outline",  # log of how much more probable the shape that the words name is by its outline
    "figure",  # the same where the words name a thing that has no one shape, such as a bird
)
_COLOURS = {**{name: k for k, name in enumerate(COLOUR_NAMES)}, "grey": COLOUR_NAMES.index("gray")}
_SIDES = {
    "across": {"left": -1, "leftmost": -1, "right": 1, "rightmost": 1},
    "upright": {"top": -1, "topmost": -1, "upper": -1, "bottom": 1, "lower": 1},
    "amid": dict.fromkeys(("middle", "center", "centre"), 1),
    "size": {**dict.fromkeys(("large", "largest", "big", "biggest", "main"), 1),
             **dict.fromkeys(("small", "smallest", "tiny", "little"), -1)},
}  # fmt: skip
# "left of the tree" and "his right hand" say nothing about the picture's sides
_WHOLE = r"\s+the\s+(?:picture|image|photo|frame)\b"
_RELATIVE = re.compile(rf"\b(?:left|right|top|middle|bottom)\s+(?:of(?!{_WHOLE})|hand|foot)\b")
_FINE = 3  # pixels along the side of a cell that are looked at for its colour
_DRAWN = 4  # the same, that outlines are drawn on
_ASIDE, _ALOFT = 0.15, 0.2  # from the middle of the picture to its outer thirds
_UNLIKE, _LIKE = -6.0, 4.0  # log-odds of a shape that count at most


@dataclass(frozen=True)
class Asked:
    """What a phrase says that can be measured: indices of colours; -1, 0 or 1 for left to right (``across``), top to
    bottom (``upright``) and small to large (``size``); whether it names the middle (``amid``); the shape that its head
    names, of :data:`x2sam.inference.outlines.NAMES`."""

    colours: tuple[int, ...] = ()
    across: int = 0
    upright: int = 0
    amid: int = 0
    size: int = 0
    shape: str | None = None

    @classmethod
    def of(cls, phrase: str) -> Asked:
        """What contradicts itself says nothing: "left and right"."""
        words = re.findall(r"[a-z]+", _RELATIVE.sub(" ", phrase.lower()))
        # "the man with the red cap" is not red himself: colours and sizes are said of the head of the phrase
        own = re.findall(r"[a-z]+", re.sub(rf"\bof{_WHOLE}", " ", APPENDED.split(phrase.lower())[0]))
        sides = {
            sign: int(np.sign(sum({table[w] for w in (own if sign == "size" else words) if w in table})))
            for sign, table in _SIDES.items()
        }
        shapes = [word for word in (w if w in NAMES else w.removesuffix("s") for w in own) if word in NAMES]
        colours = tuple(sorted({_COLOURS[w] for w in own if w in _COLOURS}))
        return cls(colours, **sides, shape=shapes[-1] if shapes else None)


def signs_of(asked: Asked, logits: np.ndarray, scores: np.ndarray, heat: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """float64 (Q, SIGNS) of queries.

    logits: float32 (Q, h, w) of the masks; scores: (Q,) 0..1; heat: float32 (h, w), log-odds; picture: uint8 (H, W, 3)
    RGB. Masks, heat and picture show the same part of the world.
    """
    count, height, width = logits.shape
    sharp = logits > 0
    masks = sharp.reshape(count, -1).astype(np.float32)
    area, cells = masks.sum(1), height * width
    filled = np.maximum(area, 1)
    mean = lambda values: masks @ values.ravel().astype(np.float32) / filled  # noqa: E731
    colour = _share_of_colours(picture, (height, width), asked.colours)
    x, y = (((np.arange(side) + 0.5) / side - 0.5) for side in (width, height))
    across, upright = mean(np.broadcast_to(x, (height, width))), mean(np.broadcast_to(y[:, None], (height, width)))
    size, shape = np.log(area / cells + 1e-3), _likeness(logits, asked.shape)
    columns = {
        "score": odds(scores),
        "heat": mean(sigmoid(heat)),
        "colour": mean(colour),
        "contrast": mean(colour) - (colour.sum() - masks @ colour.ravel()) / np.maximum(cells - area, 1),
        "across": asked.across * across,
        "upright": asked.upright * upright,
        "amid": -asked.amid * np.abs(across),
        "aside": np.minimum(asked.across * across, _ASIDE),
        "aloft": np.minimum(asked.upright * upright, _ALOFT),
        "midway": -asked.amid * np.maximum(np.abs(across) - _ASIDE, 0),
        "large": size * (asked.size > 0),
        "small": -size * (asked.size < 0),
        "size": size,
        "size squared": size**2,
        **sharpness(logits),
        "edge": border(sharp),
        "centred": -np.hypot(across, upright),
        "agreed": overlaps(masks, masks) @ scores / max(scores.sum(), LEAST),
        "whole": whole(sharp),
        "distinct": distinct(sharp, picture),
        "outline": shape * (asked.shape in SHAPES),
        "figure": shape * (asked.shape not in SHAPES),
    }
    return np.stack([np.asarray(columns[sign], np.float64) for sign in SIGNS], 1)


def meant(signs: np.ndarray, weights: np.ndarray) -> int:
    """The query, of signs (Q, SIGNS), with the largest sum; one with an empty mask only where all are empty."""
    value = signs @ weights
    empty = signs[:, SIGNS.index("inside")] == 0
    return int(np.where(empty, value.min() - 1, value).argmax())


def read_pointing_weights(path: Path) -> np.ndarray:
    """float64 (SIGNS,). Raises WeightsError where the file is missing or does not know the signs."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return np.array([float(table[sign]) for sign in SIGNS])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        message = f"{path} holds no weights of what words point to ({problem}); install the package again"
        raise WeightsError(message) from problem


@cache
def embedded_pointing_weights() -> np.ndarray:
    return read_pointing_weights(FILE)


def _likeness(logits: np.ndarray, name: str | None) -> np.ndarray:
    """float (Q,): log of how much more probable a shape's name is of the outline of each mask than of any; 0 without a
    name, and of masks that are too small to have a shape."""
    found = np.zeros(len(logits))
    if name is None:
        return found
    size = tuple(side * _DRAWN for side in logits.shape[:0:-1])
    drawn = [cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) > 0 for one in logits]
    large = [number for number, mask in enumerate(drawn) if mask.sum() >= LEAST_PIXELS]
    if large:
        measured = np.stack([measures(drawn[number]) for number in large])
        found[large] = embedded_outline_names().log_odds(measured)[:, NAMES.index(name)]
    return found.clip(_UNLIKE, _LIKE)


def _share_of_colours(picture: np.ndarray, grid: tuple[int, int], colours: tuple[int, ...]) -> np.ndarray:
    """float32 (h, w): the share of each cell that one of the colours fits; zeros where none is named."""
    if not colours:
        return np.zeros(grid, np.float32)
    height, width = grid
    small = cv2.resize(picture, (width * _FINE, height * _FINE), interpolation=cv2.INTER_AREA)
    fits = colour_matches(small.reshape(-1, 3))[:, list(colours)].reshape(height, _FINE, width, _FINE, -1)
    return fits.mean((1, 3)).max(-1).astype(np.float32)
