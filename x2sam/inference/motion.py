"""How pixels move from frame to frame: dense optical flow, where it can't be trusted, and who moves with whom.

Everything happens on a working grid ``h w``, the frame made smaller to a bounded size; displacements are in its cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

GRID_SIDE = 384  # cells along a frame's long side at most
_RELATIVE, _ABSOLUTE = 0.02, 0.5  # squared disagreement of the two flows that makes a cell half doubtful
_SPARSE = 5  # every n-th cell is enough to fit a motion to
_ROUNDS = 4
_LEAST_NOISE = 0.35  # cells that flow errs by where everything is fine


def working_picture(picture: np.ndarray, side: int = GRID_SIDE) -> np.ndarray:
    """uint8 (h, w, 3): ``picture`` uint8 (H, W, 3), made smaller to at most ``side`` along its long side."""
    height, width = picture.shape[:2]
    shrink = side / max(height, width)
    if shrink >= 1:
        return np.ascontiguousarray(picture)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True, eq=False)
class Flow:
    """From one frame back to the one before.

    back:  float32 (h, w, 2), x and y: cell ``(x, y)`` was at ``(x, y) + back`` on the frame before
    doubt: float32 (h, w) 0..1, how much the flow there and the flow back disagree: 1 where something is newly seen
    forth: float32 (h, w, 2): cell ``(x, y)`` of the frame before is at ``(x, y) + forth`` on this one
    """

    back: np.ndarray
    doubt: np.ndarray
    forth: np.ndarray

    @classmethod
    def unknown(cls, shape: tuple[int, int]) -> Flow:
        """For frames that nothing came before: nobody moves, and nothing of that is certain."""
        still = np.zeros((*shape, 2), np.float32)
        return cls(still, np.ones(shape, np.float32), still)


class FlowEstimator:
    """Dense inverse search (Kroeger et al., 2016) in both directions. Keeps buffers: one per thread."""

    def __init__(self) -> None:
        self._back, self._forth = (cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) for _ in range(2))
        # The preset stops at half the resolution and then falls short of the true motion by a third of a cell, which
        # adds up over a clip. The flow that masks are carried along is searched to the end, on fewer patches.
        self._back.setFinestScale(0)
        self._back.setPatchStride(4)

    def __call__(self, before: np.ndarray, now: np.ndarray) -> Flow:
        """Grey frames uint8 (h, w) of one size. Frames too small to search on give :meth:`Flow.unknown`."""
        if min(now.shape) < 16:
            return Flow.unknown(now.shape)
        back = self._back.calc(now, before, None)
        forth = self._forth.calc(before, now, None)
        there = warp(forth, back)
        apart = _squared(back + there)
        allowed = _RELATIVE * (_squared(back) + _squared(there)) + _ABSOLUTE
        doubt = apart / (apart + allowed)
        return Flow(back, np.maximum(doubt, ~_inside(back)).astype(np.float32), forth)


def _squared(flow: np.ndarray) -> np.ndarray:
    """(h, w): squared lengths of (h, w, 2). Sums over an axis of two are slow."""
    x, y = flow[..., 0], flow[..., 1]
    return x * x + y * y


def _places(back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = back.shape[:2]
    return (
        back[..., 0] + np.arange(width, dtype=np.float32),
        back[..., 1] + np.arange(height, dtype=np.float32)[:, None],
    )


def _inside(back: np.ndarray) -> np.ndarray:
    x, y = _places(back)
    return (x > -1) & (y > -1) & (x < back.shape[1]) & (y < back.shape[0])


def warp(values: np.ndarray, back: np.ndarray) -> np.ndarray:
    """``values`` (h, w) or (h, w, C) of the frame before, moved to where they are now; the border is continued."""
    x, y = _places(back)
    return cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def push(values: np.ndarray, forth: np.ndarray) -> np.ndarray:
    """``values`` float32 (h, w) of the frame before, each cell sent to where it has gone; 0 where none arrives.

    Where an object has left, a flow back often finds nothing better than the object; nothing is sent there, though.
    """
    height, width = values.shape
    x, y = _places(forth)
    cols, rows = np.rint(x).astype(np.int32).ravel(), np.rint(y).astype(np.int32).ravel()
    keep = (cols >= 0) & (rows >= 0) & (cols < width) & (rows < height) & (values.ravel() > 0.01)
    index = rows[keep] * np.int32(width) + cols[keep]
    sent = np.bincount(index, values.ravel()[keep], height * width).reshape(height, width).astype(np.float32)
    # Rounding leaves gaps and heaps.
    return cv2.GaussianBlur(np.minimum(sent, 1.5), (0, 0), 1.0).clip(0, 1)


def moves_along(flow: Flow, inside: np.ndarray) -> np.ndarray:
    """float32 (h, w), -3..3: whether cells rather move with the object (positive) or with what is around it.

    Two affine motions are fitted, to the object and to the rest; ``inside`` float32 (h, w) 0..1 is where the object
    probably is. About 0 everywhere when the two move alike.
    """
    sure = 1 - flow.doubt
    own = _affine_motion(flow.back, sure * np.maximum(2 * inside - 1, 0))
    rest = _affine_motion(flow.back, sure * np.maximum(1 - 4 * inside, 0))
    if own is None or rest is None:
        return np.zeros(inside.shape, np.float32)
    off_own, off_rest = (_squared(flow.back - _motion_field(m, inside.shape)) for m in (own, rest))
    weight = sure * (inside > 0.5)
    # Things that bend are not affine: how far off the object itself is tells how much a distance means.
    noise = _LEAST_NOISE**2 + float((np.minimum(off_own, 100) * weight).sum() / max(float(weight.sum()), 1e-6))
    return np.clip((off_rest - off_own) / (4 * noise), -3, 3) * sure


def _affine_motion(back: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
    """float64 (3, 2): 1, x, y to displacement; None where there is too little to fit it to. Outliers lose weight."""
    rows, cols = np.mgrid[0 : back.shape[0] : _SPARSE, 0 : back.shape[1] : _SPARSE]
    w = weight[::_SPARSE, ::_SPARSE].ravel().astype(np.float64)
    keep = w > 0.05
    if keep.sum() < 8:
        return None
    design = np.stack([np.ones(keep.sum()), cols.ravel()[keep] / 100, rows.ravel()[keep] / 100], 1)
    moved, base = back[::_SPARSE, ::_SPARSE].reshape(-1, 2)[keep].astype(np.float64), w[keep]
    w = base
    for _ in range(_ROUNDS):
        squares = (design * w[:, None]).T @ design + 1e-3 * np.diag([1e-3, 1, 1])
        motion = np.linalg.solve(squares, (design * w[:, None]).T @ moved)
        off = ((moved - design @ motion) ** 2).sum(1)
        scale = max(float(np.median(off)), _LEAST_NOISE**2)
        w = base / (1 + off / (4 * scale))
    return motion


def _motion_field(motion: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x, y = np.arange(shape[1]) / 100, np.arange(shape[0])[:, None] / 100
    return np.stack([motion[0, k] + motion[1, k] * x + motion[2, k] * y for k in (0, 1)], -1).astype(np.float32)
