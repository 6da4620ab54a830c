"""Follows one object from frame to frame: where it should be by its motion, what it looks like, what the network says.

    scenery = scenes.look(picture, features)          once per frame, for all objects
    follower.learn(scenery, mask)                     where the mask is known
    prior = follower.expect(scenery)                  elsewhere: the mask before, moved here; a sketch for the network
    found = follower.decide(scenery, net)             all evidence together
    follower.settle(scenery, found)                   after objects have excluded one another

Everything is float32 on the working grid of :mod:`x2sam.inference.motion`. An object that leaves or is hidden has an
empty mask; from then on the whole frame is searched for what looks like it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from x2sam.inference.appearance import ColourMemory, LocalColours, TargetModel, colour_bins, target_evidence
from x2sam.inference.follow_terms import Evidence, fine_terms, rough_terms
from x2sam.inference.follow_weights import FollowWeights, embedded_weights
from x2sam.inference.motion import GRID_SIDE, Flow, FlowEstimator, push, warp, working_picture
from x2sam.inference.refine_evidence import sigmoid

_WAVES, _WAVELENGTH = 96, 8.0  # of colour descriptors: their number, and how fine they tell colours apart
_BLUR = 1.5  # cells of the descriptor map that a colour's surroundings reach
_MARGIN, _LEAST_MARGIN = 0.4, 24  # around the object, of its own size and in cells, that is looked at
_SMALL_PART = 0.03  # of the object as last seen; smaller parts by themselves are noise
_FOUND_AGAIN = 0.4  # of the object as last seen, that must come into sight at once
_LEAST = 4  # cells
_COARSE = 4  # cells along a side, where smooth weights are made
_SURE = 0.999


@dataclass(frozen=True, eq=False)
class Scenery:
    """One frame as all objects see it.

    lab, bins:   uint8 (h, w, 3) and int32 (h, w), colours and their bins
    flow:        to the frame before
    before:      colours of the frame before, uint8 (h, w, 3), or None at the first one
    descriptors: float32 (n, d), row by row of ``cells`` (rows, columns), spread over the frame
    """

    lab: np.ndarray
    bins: np.ndarray
    flow: Flow
    before: np.ndarray | None
    descriptors: np.ndarray
    cells: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.bins.shape

    def of_picture(self, mask: np.ndarray) -> np.ndarray:
        """float32 (h, w) 0..1: the share of each pixel here that a mask bool (H, W) of the picture covers."""
        return cv2.resize(mask.astype(np.float32), self.shape[::-1], interpolation=cv2.INTER_AREA)

    def on_cells(self, values: np.ndarray) -> np.ndarray:
        """float32 (n,): the mean of ``values`` (h, w) at each descriptor."""
        return cv2.resize(values, self.cells[::-1], interpolation=cv2.INTER_AREA).ravel()


class Scenes:
    """Makes the scenery of frames that come one after another, at most ``side`` cells along their long side."""

    def __init__(self, side: int = GRID_SIDE) -> None:
        self._side = side
        rng = np.random.default_rng(0)
        self._waves = rng.normal(0, _WAVELENGTH, (6, _WAVES)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32)
        self._flow = FlowEstimator()
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def look(self, picture: np.ndarray, features: np.ndarray) -> Scenery:
        """picture: uint8 (H, W, 3); features: float32 (rows, columns, C), what the network sees in the frame."""
        small = working_picture(picture, self._side)
        grey, lab = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
        before = self._before
        self._before = (grey, lab)
        if before is None or before[0].shape != grey.shape:
            # Pages of a task may differ in size; nothing is known of how they hang together.
            flow, past = Flow.unknown(grey.shape), None
        else:
            flow, past = self._flow(before[0], grey), before[1]
        descriptors = self._describe(lab, features)
        return Scenery(lab, colour_bins(lab), flow, past, descriptors, features.shape[:2])

    def _describe(self, lab: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Colours as random waves (Rahimi and Recht, 2007), the network's features, and a one."""
        rows, columns, channels = features.shape
        small = cv2.resize(lab, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        small *= np.array([1, 2, 2], np.float32) / 255
        colours = np.concatenate([small, cv2.GaussianBlur(small, (0, 0), _BLUR)], -1).reshape(-1, 6)
        waves = np.cos(colours @ self._waves + self._phases)
        seen = features.reshape(-1, channels).astype(np.float32)
        seen = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-6)
        # Both kinds with the same total power, whatever their number.
        seen *= np.float32(np.sqrt(_WAVES / 2))
        return np.concatenate([waves, seen, np.ones((len(seen), 1), np.float32)], 1)


class Follower:
    """One object on its way through the frames of a clip."""

    def __init__(self, weights: FollowWeights | None = None):
        self.weights = weights or embedded_weights()
        self.mask: np.ndarray | None = None  # float32 (h, w), probability on the last frame
        self.size = 0.0  # cells that it took when it was last seen well
        self.anchored, self.recent = ColourMemory(), ColourMemory(0.8)
        self.given, self.lately = TargetModel(), TargetModel(0.9)

    @property
    def lost(self) -> bool:
        return self.mask is None or np.count_nonzero(self.mask > 0.5) < _LEAST

    def learn(self, scenery: Scenery, mask: np.ndarray) -> None:
        """The true mask bool (H, W) of this frame, of the picture's size; an empty one says that it is not there."""
        inside = scenery.of_picture(mask)
        self.mask = np.clip(inside, 1 - _SURE, _SURE)
        if inside.max() <= 0.5:
            return
        self.size = float(inside.sum())
        self.anchored.add(scenery.bins, inside, _around(inside))
        self.given.add(scenery.descriptors, scenery.on_cells(inside), 1 - scenery.on_cells(inside))
        self.recent.add(scenery.bins, inside, _around(inside))

    def expect(self, scenery: Scenery) -> np.ndarray | None:
        """The mask before, moved to this frame, float32 (h, w) 0..1; None while the object is out of sight."""
        if self.lost:
            return None
        if self.mask.shape != scenery.shape:
            return cv2.resize(self.mask, scenery.shape[::-1], interpolation=cv2.INTER_LINEAR)
        carried = warp(self.mask, scenery.flow.back)
        return carried if (carried > 0.5).any() else None

    def measure(
        self, scenery: Scenery, carried: np.ndarray | None, net: np.ndarray
    ) -> tuple[tuple[slice, slice], Evidence]:
        """The window that is looked at, and everything measured in it; ``net`` float32 (any size) over the frame."""
        net = cv2.resize(net.astype(np.float32), scenery.shape[::-1], interpolation=cv2.INTER_LINEAR)
        target = target_evidence([self.given, self.lately], scenery.descriptors).reshape(scenery.cells)
        target = cv2.resize(target, scenery.shape[::-1], interpolation=cv2.INTER_LINEAR)
        window = np.s_[:, :]
        local = pushed = None
        if carried is not None:
            window = _window_around(carried > 0.3, scenery.shape)
            if scenery.before is not None:
                local = self._local(scenery, window)
                pushed = push(self.mask, scenery.flow.forth)[window]
        flow = Flow(scenery.flow.back[window], scenery.flow.doubt[window], scenery.flow.forth[window])
        return window, Evidence(
            lab=np.ascontiguousarray(scenery.lab[window]),
            bins=scenery.bins[window],
            flow=flow,
            carried=None if carried is None else carried[window],
            pushed=pushed,
            net=net[window],
            target=target[window],
            local=local,
            anchored=self.anchored,
            recent=self.recent,
        )

    def _local(self, scenery: Scenery, window: tuple[slice, slice]) -> np.ndarray:
        back = scenery.flow.back[window]
        x = back[..., 0] + np.arange(scenery.shape[1], dtype=np.float32)[window[1]]
        y = back[..., 1] + np.arange(scenery.shape[0], dtype=np.float32)[window[0], None]
        return LocalColours(scenery.before, self.mask, x, y).evidence(scenery.lab[window], x, y)

    def decide(self, scenery: Scenery, carried: np.ndarray | None, net: np.ndarray) -> np.ndarray:
        """float32 (h, w) 0..1: where the object is; all zeros where it is not in sight."""
        window, seen = self.measure(scenery, carried, net)
        terms = rough_terms(seen)
        rough = self.weights.score("rough", seen.regime, terms, seen.flow.doubt)
        score = self.weights.score("fine", seen.regime, fine_terms(seen, rough, terms), seen.flow.doubt)
        out = np.zeros(scenery.shape, np.float32)
        out[window] = sigmoid(np.clip(score, -8, 8))
        least = (_SMALL_PART if carried is not None else _FOUND_AGAIN) * self.size
        return _without_small_parts(out, max(least, _LEAST))

    def settle(self, scenery: Scenery, found: np.ndarray) -> None:
        """Takes ``found`` float32 (h, w) for the frame's mask and learns from where it is certain."""
        self.mask = found
        if self.lost:
            return
        inside, outside = np.maximum(2 * found - 1, 0), np.maximum(1 - 2 * found, 0)
        area = float((found > 0.5).sum())
        # A mask that shrinks at once is rather half hidden than smaller.
        self.size = max(area, 0.95 * self.size)
        self.recent.add(scenery.bins, inside, _around(found) * outside)
        self.lately.add(scenery.descriptors, scenery.on_cells(inside), scenery.on_cells(outside))


def exclude(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Probabilities (h, w) of several objects that hide one another: no cell is more than half two of them's.

    Odds are shared out, as if each cell were one of the objects or none (Oh et al., 2019).
    """
    if len(found) < 2:
        return found
    odds = {k: np.clip(p, 1 - _SURE, _SURE) / (1 - np.clip(p, 1 - _SURE, _SURE)) for k, p in found.items()}
    total = 1 + sum(odds.values())
    return {k: np.where(found[k] > 0, odds[k] / total, 0).astype(np.float32) for k in found}


def _around(inside: np.ndarray) -> np.ndarray:
    """float32 (h, w): weights of the outside; more near the object, with what it is mistaken for."""
    reach = max(6.0, 0.35 * float(np.sqrt(inside.sum())))
    size = tuple(max(1, side // _COARSE) for side in inside.shape[::-1])
    small = cv2.resize(inside, size, interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), max(reach / _COARSE, 0.5))
    near = cv2.resize(near, inside.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return ((1 - inside) * (0.15 + np.minimum(3 * near, 1))).astype(np.float32)


def _window_around(inside: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    margin = int(max(_LEAST_MARGIN, _MARGIN * max(rows[-1] - rows[0], cols[-1] - cols[0])))
    return (
        slice(max(0, rows[0] - margin), min(shape[0], rows[-1] + margin + 1)),
        slice(max(0, cols[0] - margin), min(shape[1], cols[-1] + margin + 1)),
    )


def _without_small_parts(probability: np.ndarray, least: float) -> np.ndarray:
    """Parts above one half of fewer than ``least`` cells are turned down."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((probability > 0.5).astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < least
    small[0] = False
    if not small[:count].any():
        return probability
    return np.where(small[labels], np.minimum(probability, 0.4), probability).astype(np.float32)
