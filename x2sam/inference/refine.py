"""The last light step that makes a mask obey its clicks, called "snap".

A network's mask is soft at its borders, coarse (a quarter of the network's input) and may leave out the very pixel
that was clicked. This step looks at the picture itself: colours under the clicks, paths from the clicks that do not
cross edges, and what the mask was before the last click. All of that is evidence on a small grid around the object
(:mod:`x2sam.inference.refine_terms`), weighed twice: once for a rough result, once more with the colours and edges
of that result; where the network is sure of itself the other evidence counts for less
(:mod:`x2sam.inference.refine_weights`). For small networks a few convolutions look at all of it once more
(:mod:`x2sam.inference.refine_net`). The clicks have the last word; the same input gives the same mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from x2sam.errors import PromptError
from x2sam.inference.close_look import Window
from x2sam.inference.refine_evidence import Grid, log_odds
from x2sam.inference.refine_net import RefineNet, correct, embedded_net, net_of
from x2sam.inference.refine_terms import Box, Scene, fine_terms, rough_terms
from x2sam.inference.refine_weights import SnapWeights, embedded_weights
from x2sam.structures import Point

Snap = Callable[..., np.ndarray]
"""As :func:`snap`, with weights and network chosen."""
GRID_SIDE = 104  # cells along the long side of the part that is looked at
_PIXELS_PER_CELL = 6  # along a side, that are read at most
_COARSE_SIDE = 1500  # finding the extent of a larger mask, rows and columns are skipped
_MARGIN = 0.25  # around that part, of its own size
_LEAST_MARGIN = 0.08  # the same, of the long side of the picture
_SURE_PART = 1.0  # log-odds from which a part without a click stays
_SMALL_PART = 0.05  # of the largest part; smaller ones without a click go
_BOX_SLACK = 0.03  # people draw boxes a little too tight


def snap(
    image: np.ndarray,
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[Box] = (),
    previous: np.ndarray | None = None,
    weights: SnapWeights | None = None,
    net: RefineNet | None = None,
    window: Window | None = None,
) -> np.ndarray:
    """A mask that contains every positive click, no negative one, and follows the edges of the picture.

    image:       uint8 (H, W, 3) RGB
    probability: float (h, w) or (H, W) in 0..1, the network's mask; any size, it is stretched over the picture, or
                 over the ``window`` that the network looked at
    points:      all clicks in the order they were made; of two on the same pixel the later one holds
    boxes:       the object lies within one of them, ``(x0, y0, x1, y1)`` in pixels
    previous:    bool (H, W), the mask that the last click corrects, or None
    weights:     of the evidence; by default those for weak networks, see :func:`embedded_weights` for others
    net:         corrects what was weighed, where one was fitted

    Returns bool (H, W). Raises :class:`PromptError` for arrays that do not fit, for clicks outside the picture and
    for empty boxes.
    """
    _check(image, probability, points, boxes, previous)
    scene = prepare(image, probability, points, boxes, previous, window)
    score = scene.net
    if points or boxes:
        score = weigh(scene, weights or embedded_weights(), net)
        score = _keep_parts(scene, score)
    grid = scene.grid
    mask = np.zeros(image.shape[:2], bool)
    part = cv2.resize(score, (grid.x1 - grid.x0, grid.y1 - grid.y0), interpolation=cv2.INTER_LINEAR)
    mask[grid.y0 : grid.y1, grid.x0 : grid.x1] = part > 0
    if boxes:
        mask &= _inside(boxes, mask.shape)
    return _obey(mask, points)


def prepare(
    image: np.ndarray,
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[Box],
    previous: np.ndarray | None,
    window: Window | None = None,
) -> Scene:
    """The request on its grid; arguments as for :func:`snap`."""
    seen = window or Window(0, 0, image.shape[1], image.shape[0])
    grid = choose_grid(image.shape[:2], probability, points, boxes, previous, seen)
    size = (grid.width, grid.height)
    # Of very large pictures some pixels of each cell are enough, and much faster to read than all.
    step = max(1, int((grid.x1 - grid.x0) / grid.width / _PIXELS_PER_CELL))
    here = np.s_[grid.y0 : grid.y1 : step, grid.x0 : grid.x1 : step]
    small = cv2.resize(np.ascontiguousarray(image[here]), size, interpolation=cv2.INTER_AREA)
    before = None
    if previous is not None:
        part = previous[here].astype(np.uint8) * np.uint8(255)
        before = cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(127.5) - 1
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    return Scene(grid, lab, log_odds(_sample(probability, grid, seen)), tuple(points), tuple(boxes), before)


def snap_for(small: bool, net: RefineNet | None = None) -> Snap:
    """:func:`snap` with what was fitted for a model: the published one is right when it is sure, a ``small`` one that
    was trained here is not always. ``net``: of the small model itself, by default that of the package."""
    if small:
        return partial(snap, weights=embedded_weights("weak"), net=net or embedded_net())
    return partial(snap, weights=embedded_weights("strong"))


def snap_of(directory: Path, small: bool) -> Snap:
    """:func:`snap_for` the model in a directory. Raises :class:`WeightsError` for a damaged file."""
    return snap_for(small, net_of(directory) if small else None)


def weigh(scene: Scene, weights: SnapWeights, net: RefineNet | None = None) -> np.ndarray:
    """float32 (h, w): log-odds of all evidence together."""
    terms, score = weighed(scene, weights)
    return score if net is None else correct(net, scene, terms, score)


def weighed(scene: Scene, weights: SnapWeights) -> tuple[np.ndarray, np.ndarray]:
    """The fine terms float32 (h, w, terms) and what the weights make of them, float32 (h, w)."""
    indecision, sharpness = scene.indecision, scene.sharpness
    rough = weights.score("rough", scene.regime, rough_terms(scene), indecision, sharpness)
    terms = fine_terms(scene, rough)
    return terms, weights.score("fine", scene.regime, terms, indecision, sharpness)


def choose_grid(
    size: tuple[int, int],
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[Box],
    previous: np.ndarray | None,
    seen: Window,
) -> Grid:
    """A grid over the clicks, the boxes, the object that is probable in what was ``seen``, and the previous mask, with
    some room around them."""
    height, width = size
    extents = [(p.x, p.y, p.x, p.y) for p in points] + list(boxes)
    for mask, over in ((probability > 0.5, seen), (previous, Window(0, 0, width, height))):
        if mask is None:
            continue
        step = 1 + max(mask.shape) // _COARSE_SIDE
        coarse = mask[::step, ::step]
        rows, cols = np.flatnonzero(coarse.any(1)), np.flatnonzero(coarse.any(0))
        if len(rows):
            sy, sx = (step * side / n for side, n in zip(over.shape, mask.shape, strict=True))
            x, y = over.x0, over.y0
            extents.append((x + cols[0] * sx, y + rows[0] * sy, x + (cols[-1] + 1) * sx, y + (rows[-1] + 1) * sy))
    if not extents:
        extents.append((0, 0, width, height))
    x0, y0 = (min(e[i] for e in extents) for i in (0, 1))
    x1, y1 = (max(e[i] for e in extents) for i in (2, 3))
    margin = max(_MARGIN * max(x1 - x0, y1 - y0), _LEAST_MARGIN * max(size), 2)
    x0, y0 = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    x1, y1 = min(width, int(np.ceil(x1 + margin))), min(height, int(np.ceil(y1 + margin)))
    shrink = min(1.0, GRID_SIDE / max(x1 - x0, y1 - y0))
    return Grid(x0, y0, x1, y1, max(1, round((y1 - y0) * shrink)), max(1, round((x1 - x0) * shrink)), size)


def _sample(probability: np.ndarray, grid: Grid, seen: Window) -> np.ndarray:
    """float32 (h, w): the network's mask of what was ``seen`` on the grid, interpolated."""
    sy, sx = (n / side for n, side in zip(probability.shape, seen.shape, strict=True))
    step_y, step_x = (grid.y1 - grid.y0) * sy / grid.height, (grid.x1 - grid.x0) * sx / grid.width
    # Both grids have their values at the centres of cells, hence the halves.
    x, y = (grid.x0 - seen.x0) * sx, (grid.y0 - seen.y0) * sy
    move = np.array([[step_x, 0, x + step_x / 2 - 0.5], [0, step_y, y + step_y / 2 - 0.5]])
    return cv2.warpAffine(
        np.nan_to_num(probability.astype(np.float32), nan=0.5, posinf=1.0, neginf=0.0),
        move,
        (grid.width, grid.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _keep_parts(scene: Scene, score: np.ndarray) -> np.ndarray:
    """The score with parts turned down that no positive click and no sure network speaks for."""
    count, labels = cv2.connectedComponents((score > 0).astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    for point in scene.points:
        if point.positive:
            keep[labels[scene.grid.cell_of(point)]] = True
    area = np.bincount(labels.ravel(), minlength=count)
    mean = np.bincount(labels.ravel(), scene.net.ravel(), count) / np.maximum(area, 1)
    largest = area[1:].max(initial=0)
    keep |= (mean > _SURE_PART) & (area > _SMALL_PART * largest)
    if not keep[1:].any():
        keep |= area == largest
    keep[0] = True
    return np.where(keep[labels], score, -np.abs(score) - np.float32(0.1))


def _inside(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): in one of the boxes or close to it."""
    allowed = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        slack = _BOX_SLACK * max(x1 - x0, y1 - y0) + 1
        allowed[max(0, int(y0 - slack)) : int(y1 + slack) + 1, max(0, int(x0 - slack)) : int(x1 + slack) + 1] = True
    return allowed


def _obey(mask: np.ndarray, points: Sequence[Point]) -> np.ndarray:
    """The mask with every click's pixel right; a click that the evidence did not reach gets a small disc."""
    height, width = mask.shape
    radius = max(1, round(0.01 * max(height, width)))
    final = {(min(int(p.x), width - 1), min(int(p.y), height - 1)): p.positive for p in points}
    out = mask.view(np.uint8)
    for (x, y), positive in final.items():
        if mask[y, x] != positive:
            cv2.circle(out, (x, y), radius, int(positive), -1)
    for (x, y), positive in final.items():
        out[y, x] = positive
    return mask


def _check(
    image: np.ndarray,
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[Box],
    previous: np.ndarray | None,
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise PromptError(f"the picture must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if probability.ndim != 2 or not probability.size:
        raise PromptError(f"the probabilities must be (h, w), not {probability.shape}")
    height, width = image.shape[:2]
    if previous is not None and (previous.shape != (height, width) or previous.dtype != bool):
        raise PromptError(f"the previous mask must be bool {(height, width)}, not {previous.dtype} {previous.shape}")
    for point in points:
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise PromptError(f"the click ({point.x}, {point.y}) is outside the picture of {width} x {height} pixels")
    for x0, y0, x1, y1 in boxes:
        if not (x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < width and y0 < height):
            raise PromptError(f"the box ({x0}, {y0}, {x1}, {y1}) is empty or outside the picture of {width} x {height}")
