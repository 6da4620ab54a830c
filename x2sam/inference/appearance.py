"""What an object looks like, learned while it is followed: colours of all of it, colours by place, and descriptors.

Every model hears of frames as soft masks: ``inside`` float32 0..1. What it answers is evidence as log-odds, positive
where something looks like the object; cells or colours that it never met give 0.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

_BINS = (16, 16, 16)  # of the colours of the whole object: lightness, a, b
_LOCAL_BINS = (7, 6, 6)  # coarser, because each place sees few cells
_PLACE = 8  # cells along a side of a place
_REACH = 2.0  # places that a place's colours spread over, standard deviation
_REACHED = int(4 * _REACH)  # places that the blur reaches at all, to either side
_MOST = 4.0  # evidence is cut off here


def colour_bins(lab: np.ndarray, bins: tuple[int, int, int] = _BINS) -> np.ndarray:
    """int32 (h, w): the bin of each colour; ``lab`` uint8 (h, w, 3) as OpenCV scales it.

    Real pictures fill only the middle of the a and b axes, so that is where bins are narrow.
    """
    lightness, a, b = _bin_tables(bins)
    return lightness[lab[..., 0]] + a[lab[..., 1]] + b[lab[..., 2]]


@cache
def _bin_tables(bins: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32 (256,) each: what every value of a channel adds to the bin's number."""
    values = np.arange(256, dtype=np.int32)
    middle = np.tanh((values - 128) / 40) * 0.5 + 0.5
    a, b = (np.minimum((middle * count).astype(np.int32), count - 1) for count in bins[1:])
    return (values * bins[0] >> 8) * (bins[1] * bins[2]), a * bins[2], b


def _lend(count: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Each bin lends a quarter to either neighbour: a colour on the edge of a bin belongs to both."""
    for axis in axes:
        count = np.moveaxis(count, axis, 0)
        smooth = 2 * count
        smooth[1:] += count[:-1]
        smooth[:-1] += count[1:]
        count = np.moveaxis(smooth, 0, axis) * np.float32(0.25)
    return count


class ColourMemory:
    """Colours inside and outside of an object as histograms. ``keep``: what is left of the past with each frame."""

    def __init__(self, keep: float = 1.0):
        self.keep = keep
        size = int(np.prod(_BINS))
        self._inside, self._outside = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._told: np.ndarray | None = None  # the evidence of each bin, until the next frame is added
        self.trust = 0.0

    def copy(self) -> ColourMemory:
        """A second memory of the same colours, that goes its own way."""
        other = ColourMemory(self.keep)
        other._inside, other._outside, other.trust = self._inside.copy(), self._outside.copy(), self.trust
        return other

    def add(self, bins: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> None:
        """A frame: ``bins`` of :func:`colour_bins`, weights float32 (h, w) of its cells.

        ``trust`` is then how well colours tell inside from outside on this frame, 0 (not at all) to 1.
        """
        flat = bins.ravel()
        for total, weight in ((self._inside, inside), (self._outside, outside)):
            total *= self.keep
            total += np.bincount(flat, weight.ravel(), total.size).astype(np.float32)
        self._told = None
        told = np.tanh(self.evidence(bins) / 2)
        means = [float((told * w).sum() / max(float(w.sum()), 1e-6)) for w in (inside, outside)]
        self.trust = max(0.0, (means[0] - means[1]) / 2)

    def evidence(self, bins: np.ndarray) -> np.ndarray:
        """float32 (h, w): log of how much likelier a colour is inside than outside."""
        if self._told is None:
            self._told = self._table()
        return self._told[bins]

    def _table(self) -> np.ndarray:
        inside, outside = (_lend(c.reshape(_BINS), (0, 1, 2)).ravel() for c in (self._inside, self._outside))
        least = np.float32(2e-4)
        ratio = np.log(inside / max(float(inside.sum()), 1e-6) + least)
        ratio -= np.log(outside / max(float(outside.sum()), 1e-6) + least)
        return np.clip(ratio, -_MOST, _MOST).astype(np.float32)


def _bound(place: float, count: int) -> int:
    return int(np.clip(place, 0, count - 1))


class LocalColours:
    """Colours inside and outside by place, of one frame: a neighbour of the object that looks like one of its parts
    elsewhere is not mistaken for it.

    lab: uint8 (h, w, 3); inside: float32 (h, w); x, y: float32, the places that will be asked for: others are left out
    """

    def __init__(self, lab: np.ndarray, inside: np.ndarray, x: np.ndarray, y: np.ndarray):
        top, bottom = (_bound(edge(y), inside.shape[0]) for edge in (np.min, np.max))
        left, right = (_bound(edge(x), inside.shape[1]) for edge in (np.min, np.max))
        # A place hears of those within reach of the blur's window.
        reach = (_REACHED + 1) * _PLACE
        top, left = max(0, top - top % _PLACE - reach), max(0, left - left % _PLACE - reach)
        self._begin = (top, left)
        lab, inside = (a[top : bottom + reach, left : right + reach] for a in (lab, inside))
        height, width = inside.shape
        self.grid = (-(-height // _PLACE), -(-width // _PLACE))
        self.colours = int(np.prod(_LOCAL_BINS))
        rows, cols = (np.arange(n, dtype=np.int32) // _PLACE for n in (height, width))
        place = rows[:, None] * np.int32(self.grid[1]) + cols
        flat = (place * np.int32(self.colours) + colour_bins(lab, _LOCAL_BINS)).ravel()
        size = self.grid[0] * self.grid[1] * self.colours
        counts = [self._spread(np.bincount(flat, w.ravel(), size)) for w in (inside, 1 - inside)]
        # Half a cell of either: what was hardly seen says nothing.
        half = np.float32(0.5 / (2 * np.pi * _REACH**2))
        self._evidence = np.clip(np.log((counts[0] + half) / (counts[1] + half)), -_MOST, _MOST).ravel()

    def _spread(self, count: np.ndarray) -> np.ndarray:
        count = count.astype(np.float32).reshape(*self.grid, self.colours)
        side = 2 * _REACHED + 1
        count = cv2.GaussianBlur(count, (side, side), _REACH, borderType=cv2.BORDER_CONSTANT)
        count = count.reshape(*self.grid, *_LOCAL_BINS)
        return _lend(count, (2, 3, 4))

    def evidence(self, lab: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float32 (h, w) for colours ``lab`` uint8 (h, w, 3) that were at ``x``, ``y`` float32 (h, w) on the frame."""
        row = np.clip((y - self._begin[0]) / _PLACE, 0, self.grid[0] - 1).astype(np.int32)
        col = np.clip((x - self._begin[1]) / _PLACE, 0, self.grid[1] - 1).astype(np.int32)
        place = row * np.int32(self.grid[1]) + col
        return self._evidence[place * np.int32(self.colours) + colour_bins(lab, _LOCAL_BINS)]


class TargetModel:
    """A linear model that tells the object from everything else by descriptors; solved in closed form.

    Frames are summed up as moments, so that its cost does not grow with their number. ``keep`` is what is left of the
    past with each frame; both sides of a frame weigh the same, whatever the object's size.
    """

    def __init__(self, keep: float = 1.0, damping: float = 0.02):
        self.keep, self.damping = keep, damping
        self.squares: np.ndarray | None = None
        self.products: np.ndarray | None = None
        self.mass = 0.0

    def add(self, descriptors: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> None:
        """descriptors: float32 (n, d); inside, outside: float32 (n,), weights."""
        total_in, total_out = float(inside.sum()), float(outside.sum())
        if total_in <= 0 or total_out <= 0:
            return
        plus, minus = inside / (2 * total_in), outside / (2 * total_out)
        squares = (descriptors * (plus + minus)[:, None]).T @ descriptors
        products = descriptors.T @ (plus - minus)
        if self.squares is None:
            self.squares, self.products, self.mass = squares, products, 1.0
            return
        self.squares = self.keep * self.squares + squares
        self.products = self.keep * self.products + products
        self.mass = self.keep * self.mass + 1.0


def target_weights(models: list[TargetModel]) -> np.ndarray | None:
    """float32 (d,): what the models say together, each with the same mass, about a descriptor; None where no model has
    learned anything."""
    known = [m for m in models if m.squares is not None]
    if not known:
        return None
    squares = sum(m.squares / m.mass for m in known) / len(known)
    products = sum(m.products / m.mass for m in known) / len(known)
    ridge = known[0].damping * np.diag(np.maximum(np.diag(squares), 1e-6))
    return np.linalg.solve(squares + ridge, products).astype(np.float32)


def target_evidence(models: list[TargetModel], descriptors: np.ndarray) -> np.ndarray:
    """float32 (n,): what the models say of descriptors float32 (n, d); about -1 outside and 1 inside."""
    weights = target_weights(models)
    return np.zeros(len(descriptors), np.float32) if weights is None else descriptors @ weights
