"""What speaks for and against each cell belonging to an object that is followed from frame to frame.

Two sets of terms, as in the snap step: the rough ones come from motion, appearance and the network; the fine ones use
a first result and look at its colours and edges. A term is a map (h, w) of roughly -5..5; the weights decide what it
means.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from x2sam.inference.appearance import ColourMemory
from x2sam.inference.motion import Flow, moves_along
from x2sam.inference.refine_evidence import guided_filter, log_odds, sigmoid

ROUGH_TERMS = (
    "carried",  # log-odds of the mask of the frame before, moved by the flow
    "carried_around",  # the same, blurred
    "depth",  # distance to that mask's outline, inside positive, in sizes of the object
    "depth_cells",  # the same in cells, short range
    "outline",  # the same within a cell or two: what is carried along grows soft, its outline stays where it is
    "pushed",  # the mask before, every cell of it sent to where it went
    "colour",  # colours of the frames that a person or a prompt gave
    "colour_trusted",  # the same, times how well they told the object from the rest there
    "colour_around",  # that, blurred
    "recent",  # colours of the frames before
    "recent_trusted",
    "recent_around",
    "local",  # colours by place of the frame before
    "local_around",
    "target",  # the linear model on descriptors
    "target_around",
    "moves",  # moves with the object rather than with what is around it
    "moves_around",
    "net",  # log-odds of the network
    "net_around",
    "one",
)
FINE_TERMS = (
    "rough",  # the first result
    "rough_around",
    "rough_p",  # the same as a probability
    "edges",  # that, smoothed between edges
    "edges_wide",
    "colour_now",  # colours inside the first result against those outside
    "carried",
    "depth_cells",
    "outline",
    "local_around",
    "target",
    "net",
    "one",
)
_NEAR, _WIDE = 2.0, 6.0  # blurs, in cells
_EDGE_RADIUS, _EDGE_WIDE = 4, 10


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything measured about one object within a window of a frame; maps float32 (h, w).

    lab:     uint8 (h, w, 3)
    carried: probability of the mask before, moved here, or None when the object was out of sight
    pushed:  the same as ``carried`` by the flow the other way round, or None
    net:     probability of the network
    target:  of :func:`x2sam.inference.appearance.target_evidence`
    local:   colours by place of the frame before, or None
    """

    lab: np.ndarray
    bins: np.ndarray
    flow: Flow
    carried: np.ndarray | None
    pushed: np.ndarray | None
    net: np.ndarray
    target: np.ndarray
    local: np.ndarray | None
    anchored: ColourMemory
    recent: ColourMemory

    @property
    def regime(self) -> str:
        return "lost" if self.carried is None else "seen"


def outline_distance(inside: np.ndarray) -> np.ndarray:
    """float32 (h, w): distance to the outline of ``inside`` bool (h, w) in cells, positive inside it."""
    if inside.all() or not inside.any():
        return np.full(inside.shape, 1e3 if inside.any() else -1e3, np.float32)
    deep = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    return deep - cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)


def doubt_around(doubt: np.ndarray) -> np.ndarray:
    """float32 (h, w): how much doubt there is in a cell's surroundings, 0..1."""
    return np.minimum(2 * _blur(doubt, _WIDE), 1)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma)


def rough_terms(seen: Evidence) -> np.ndarray:
    """float32 (h, w, len(ROUGH_TERMS))."""
    zero = np.zeros(seen.bins.shape, np.float32)
    carried = depth = depth_cells = outline = moves = zero
    if seen.carried is not None:
        carried = log_odds(seen.carried)
        inside = seen.carried > 0.5
        apart = outline_distance(inside)
        depth = np.clip(apart / max(float(np.sqrt(inside.sum())), 4.0), -1, 1)
        depth_cells, outline = np.clip(apart / 8, -1, 1), np.clip(apart / 1.5, -1, 1)
        moves = moves_along(seen.flow, seen.carried)
    pushed = zero if seen.pushed is None else log_odds(seen.pushed)
    colour, recent = seen.anchored.evidence(seen.bins), seen.recent.evidence(seen.bins)
    local = zero if seen.local is None else seen.local
    trusted, trusted_now = colour * np.float32(seen.anchored.trust), recent * np.float32(seen.recent.trust)
    target = np.clip(seen.target, -2, 2)
    net = log_odds(seen.net)
    return _stack(
        carried, _blur(carried, _NEAR), depth, depth_cells, outline, pushed,
        colour, trusted, _blur(trusted, _NEAR),
        recent, trusted_now, _blur(trusted_now, _NEAR),
        local, _blur(local, _NEAR),
        target, _blur(target, _WIDE),
        moves, _blur(moves, _NEAR),
        net, _blur(net, _WIDE),
        np.ones_like(zero),
    )  # fmt: skip


def fine_terms(seen: Evidence, rough: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """float32 (h, w, len(FINE_TERMS)); ``rough`` float32 (h, w), the first result in log-odds, ``terms`` its terms."""
    rough = np.clip(rough, -6, 6)
    probability = sigmoid(rough)
    now = ColourMemory()
    now.add(seen.bins, probability**2, (1 - probability) ** 2)
    lab = seen.lab.astype(np.float32)
    names = ("carried", "depth_cells", "outline", "local_around", "target", "net")
    carried, depth_cells, outline, local, target, net = (terms[..., ROUGH_TERMS.index(name)] for name in names)
    return _stack(
        rough, _blur(rough, _NEAR), probability,
        guided_filter(lab, probability, _EDGE_RADIUS, 3e-3), guided_filter(lab, probability, _EDGE_WIDE, 2e-3),
        now.evidence(seen.bins), carried, depth_cells, outline, local, target, net,
        np.ones_like(rough),
    )  # fmt: skip


def _stack(*maps: np.ndarray) -> np.ndarray:
    """float32 (h, w, maps); in memory one map lies behind the other."""
    return np.stack(maps).astype(np.float32, copy=False).transpose(1, 2, 0)
