"""The last light step that makes a mask obey its clicks, called "snap".

A network's mask is soft at its borders, coarse (a quarter of the network's input) and may leave out the very pixel
that was clicked. This step looks at the picture itself: colours under the clicks, paths from the clicks that do not
cross edges, and what the mask was before the last click. All of it is turned into evidence on a small grid around the
object (:mod:`x2sam.inference.refine_evidence`) and added up; where the network is sure of itself the other evidence
counts for little. The sum is brought to full size along the edges of the picture, and the clicks have the last word.

Only NumPy, OpenCV and SciPy; the same input gives the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from x2sam.errors import PromptError
from x2sam.inference.refine_evidence import TERMS, Grid, evidence, log_odds
from x2sam.structures import Point

GRID_SIDE = 104  # cells along the long side of the part that is looked at
_MARGIN = 0.25  # of the part's own size, added on each side
_LEAST_MARGIN = 0.08  # of the long side
_SURE_PART = 1.0  # log-odds from which a part without a click stays

# Weights of the terms for each regime: as they are, and times the network's indecision. Fitted by logistic regression
# on pictures of the training data and simulated network answers of several qualities.
WEIGHTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "first": (
        (
            0.73, 0.39, 0.45, 0.76, -0.68, -0.13, -0.42, -0.91, -0.37, 4.28, -0.88, 0.00, -0.14, 0.00, 0.00, 0.00,
            0.00, 0.75,
        ),
        (
            1.38, -1.31, 1.11, 1.35, 2.23, 0.24, -2.24, -1.54, -3.32, 4.95, -0.79, 0.00, -0.19, 0.00, 0.00, 0.00,
            0.00, -0.34,
        ),
    ),
    "later": (
        (
            0.56, 0.24, 0.49, 0.70, 1.68, -4.57, -0.22, -0.16, -1.97, 3.44, -1.21, -0.48, -2.28, 1.92, 3.80, -1.04,
            4.68, 1.10,
        ),
        (
            2.57, -2.74, 1.08, 1.41, 1.51, -6.50, -3.35, 0.16, -2.33, 2.96, -1.20, -3.36, -1.92, 1.32, 4.31, -3.60,
            3.99, 0.80,
        ),
    ),
    "later_unknown": (
        (
            0.80, 0.32, 0.75, 0.88, 2.76, -4.07, 0.17, -0.50, -0.51, 4.55, -1.57, 1.60, -3.04, 0.00, 0.00, -3.37,
            1.32, -0.75,
        ),
        (
            3.31, -3.93, 1.51, 1.59, 2.44, -6.13, -3.63, -1.66, -0.44, 3.98, -2.65, -4.29, -1.87, 0.00, 0.00,
            -4.57, -0.97, -0.23,
        ),
    ),
}


def snap(
    image: np.ndarray,
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[tuple[float, float, float, float]] = (),
    previous: np.ndarray | None = None,
) -> np.ndarray:
    """A mask that contains every positive click, no negative one, and follows the edges of the picture.

    image:       uint8 (H, W, 3) RGB
    probability: float (h, w) or (H, W) in 0..1, the network's mask; any size, it is stretched over the picture
    points:      all clicks in the order they were made; of two on the same pixel the later one holds
    boxes:       the object lies within one of them
    previous:    bool (H, W), the mask that the last click corrects, or None

    Returns bool (H, W). Raises :class:`PromptError` for arrays that do not fit and for clicks outside the picture.
    """
    _check(image, probability, points, boxes, previous)
    height, width = image.shape[:2]
    grid, terms, indecision = prepare(image, probability, points, boxes, previous)
    net = terms[..., TERMS.index("net")]
    if any(p.positive for p in points):
        score = _weigh(terms, indecision, regime(points, previous))
        score = _keep_parts(score, net, grid, points)
    else:
        score = net  # nothing says which colours or which place is meant
    mask = np.zeros((height, width), bool)
    part = cv2.resize(score, (grid.x1 - grid.x0, grid.y1 - grid.y0), interpolation=cv2.INTER_LINEAR)
    mask[grid.y0 : grid.y1, grid.x0 : grid.x1] = part > 0
    if boxes:
        mask &= _inside(boxes, mask.shape)
    return _obey(mask, points)


def regime(points: Sequence[Point], previous: np.ndarray | None) -> str:
    """Key of :data:`WEIGHTS`."""
    if len(points) <= 1:
        return "first"
    return "later_unknown" if previous is None else "later"


def _weigh(terms: np.ndarray, indecision: np.ndarray, key: str) -> np.ndarray:
    """float32 (h, w): log-odds of all evidence together."""
    plain, unsure = np.asarray(WEIGHTS[key], np.float32)
    return terms @ plain + indecision * (terms @ unsure)


def prepare(
    image: np.ndarray,
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[tuple[float, float, float, float]],
    previous: np.ndarray | None,
) -> tuple[Grid, np.ndarray, np.ndarray]:
    """The grid, the evidence (h, w, terms) and the network's indecision (h, w) from 0, sure, to 1."""
    grid = choose_grid(image.shape[:2], probability, points, boxes, previous)
    size = (grid.width, grid.height)
    small = cv2.resize(image[grid.y0 : grid.y1, grid.x0 : grid.x1], size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    net = log_odds(_sample(probability, grid, image.shape[:2]))
    before = None
    if previous is not None:
        part = previous[grid.y0 : grid.y1, grid.x0 : grid.x1].view(np.uint8)
        before = cv2.resize(part * np.uint8(255), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 127.5 - 1
    p = 1 / (1 + np.exp(-net))
    return grid, evidence(grid, lab, net, points, before), 4 * p * (1 - p)


def choose_grid(
    size: tuple[int, int],
    probability: np.ndarray,
    points: Sequence[Point],
    boxes: Sequence[tuple[float, float, float, float]],
    previous: np.ndarray | None,
) -> Grid:
    """A grid over the clicks, the probable object and the previous mask, with some room around them."""
    height, width = size
    extents = [(p.x, p.y, p.x, p.y) for p in points]
    for mask in (probability > 0.5, previous):
        if mask is None:
            continue
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            sy, sx = height / mask.shape[0], width / mask.shape[1]
            extents.append((cols[0] * sx, rows[0] * sy, (cols[-1] + 1) * sx, (rows[-1] + 1) * sy))
    extents.extend(boxes)
    if not extents:
        extents.append((0, 0, width, height))
    x0, y0 = (min(e[i] for e in extents) for i in (0, 1))
    x1, y1 = (max(e[i] for e in extents) for i in (2, 3))
    long_side = max(height, width)
    margin = max(_MARGIN * max(x1 - x0, y1 - y0), _LEAST_MARGIN * long_side, 2)
    x0, y0 = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    x1, y1 = min(width, int(np.ceil(x1 + margin))), min(height, int(np.ceil(y1 + margin)))
    shrink = min(1.0, GRID_SIDE / max(x1 - x0, y1 - y0))
    return Grid(x0, y0, x1, y1, max(1, round((y1 - y0) * shrink)), max(1, round((x1 - x0) * shrink)), long_side)


def _sample(probability: np.ndarray, grid: Grid, size: tuple[int, int]) -> np.ndarray:
    """float32 (h, w): the network's mask on the grid, interpolated."""
    h, w = probability.shape
    sy, sx = h / size[0], w / size[1]
    step_y, step_x = (grid.y1 - grid.y0) * sy / grid.height, (grid.x1 - grid.x0) * sx / grid.width
    move = np.array([[step_x, 0, grid.x0 * sx + step_x / 2 - 0.5], [0, step_y, grid.y0 * sy + step_y / 2 - 0.5]])
    return cv2.warpAffine(
        np.nan_to_num(probability.astype(np.float32), nan=0.5),
        move,
        (grid.width, grid.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _keep_parts(score: np.ndarray, net: np.ndarray, grid: Grid, points: Sequence[Point]) -> np.ndarray:
    """The score with parts turned down that no positive click and no sure network speaks for."""
    count, labels = cv2.connectedComponents((score > 0).astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    for point in points:
        if point.positive:
            x, y = grid.to_cells(point)
            keep[labels[min(int(y), grid.height - 1), min(int(x), grid.width - 1)]] = True
    area = np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    mean = np.bincount(labels.ravel(), net.ravel(), count) / area
    keep |= (mean > _SURE_PART) & (area > 0.05 * area[1:].max(initial=0))
    keep[0] = True
    return np.where(keep[labels], score, -np.abs(score) - 0.1)


def _inside(boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): in one of the boxes, which people draw a little too tight."""
    allowed = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        slack = 0.03 * max(x1 - x0, y1 - y0) + 1
        allowed[max(0, int(y0 - slack)) : int(y1 + slack) + 1, max(0, int(x0 - slack)) : int(x1 + slack) + 1] = True
    return allowed


def _obey(mask: np.ndarray, points: Sequence[Point]) -> np.ndarray:
    """The mask with every click's pixel right; a click that the evidence did not reach gets a small disc."""
    height, width = mask.shape
    radius = max(1, round(0.01 * max(height, width)))
    pixels = [(min(int(p.x), width - 1), min(int(p.y), height - 1), p.positive) for p in points]
    final = {(x, y): positive for x, y, positive in pixels}
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
    boxes: Sequence[tuple[float, float, float, float]],
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
