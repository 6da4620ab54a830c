"""Region prompts as bool rasters (H, W): what people draw, rasterised, and what they would draw, simulated.

X2SAM reads every click, stroke, box and mask as one raster (the input of its region sampler). The simulations follow
the paper's interactive prompts: a disc near the middle of each part, a bent diagonal, a filled box, a softened mask.
Points are ``(x, y)`` in pixels with the origin at the top left corner of the top left pixel, so the centre of pixel
(row, column) is (column + 0.5, row + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from x2sam.data.masks import components, inner_distance, mask_bbox
from x2sam.errors import PromptError
from x2sam.structures import Prompt

Size = tuple[int, int]
Box = tuple[float, float, float, float]

CLICK_RADIUS = 10.0
STROKE_RADIUS = 5.0
_SHIFT = 6


def click_radius(size: Size) -> float:
    """Radius in pixels of a click's disc in a picture (H, W): 10, growing with pictures longer than 640 pixels."""
    return max(CLICK_RADIUS, CLICK_RADIUS * max(size) / 640.0)


def _finite(values: Sequence[float], what: str) -> None:
    if not np.isfinite(values).all():
        raise PromptError(f"{what} has a coordinate that is not a number: {tuple(values)}; draw it again")


def disc(size: Size, x: float, y: float, radius: float) -> np.ndarray:
    """Pixels of a picture (H, W) whose centre is within ``radius`` of (x, y), and the pixel under (x, y) itself."""
    _finite((x, y, radius), "the click")
    h, w = size
    out = np.zeros(size, bool)
    reach = max(radius, 0.0) + 1.0
    x0, x1 = (min(max(math.floor(v), 0), w) for v in (x - reach, x + reach + 1))
    y0, y1 = (min(max(math.floor(v), 0), h) for v in (y - reach, y + reach + 1))
    dx = np.arange(x0, x1) + 0.5 - x
    dy = np.arange(y0, y1)[:, None] + 0.5 - y
    out[y0:y1, x0:x1] = dx * dx + dy * dy <= radius * radius
    if 0 <= x <= w and 0 <= y <= h:
        out[min(int(y), h - 1), min(int(x), w - 1)] = True
    return out


def _span(a: float, b: float, extent: int) -> tuple[int, int]:
    """Half-open range of pixels whose centres lie between ``a`` and ``b``; at least one where the span is inside."""
    a, b = min(a, b), max(a, b)
    if b < 0 or a > extent:
        return (0, 0)
    first, last = math.ceil(max(a, 0.0) - 0.5), math.ceil(min(b, float(extent)) - 0.5)
    if last <= first:
        first = min(int((max(a, 0.0) + min(b, float(extent))) / 2), extent - 1)
        last = first + 1
    return (first, last)


def rasterize_box(size: Size, box: Box) -> np.ndarray:
    """Filled rectangle ``(x0, y0, x1, y1)``, corners in any order, clipped to the picture (H, W)."""
    _finite(box, "the box")
    (x0, x1), (y0, y1) = _span(box[0], box[2], size[1]), _span(box[1], box[3], size[0])
    out = np.zeros(size, bool)
    out[y0:y1, x0:x1] = True
    return out


def rasterize_stroke(size: Size, polyline: np.ndarray, radius: float = STROKE_RADIUS) -> np.ndarray:
    """A stroke along ``polyline`` (n, 2) of x, y with round ends; a single point gives a disc."""
    points = np.asarray(polyline, float).reshape(-1, 2)
    _finite(points.ravel(), "the stroke")
    if len(points) < 2:
        return disc(size, *points[0], radius) if len(points) else np.zeros(size, bool)
    canvas = np.zeros(size, np.uint8)
    # OpenCV overflows far outside the canvas; a stroke that far out cannot reach it.
    reach = 4.0 * max(size) + 4.0 * radius
    fixed = np.round((np.clip(points, -reach, reach) - 0.5) * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 1, max(1, round(2 * radius)), cv2.LINE_8, _SHIFT)
    return canvas.astype(bool)


def prompt_region(prompt: Prompt, size: Size, radius: float | None = None) -> np.ndarray:
    """Union of the positive region parts of ``prompt`` within a picture of ``size``: bool (H, W).

    radius: of a click's disc in pixels (default :func:`click_radius`); strokes get half of it. Negative points leave
    no trace here. Raises :class:`PromptError` when nothing of the prompt is inside the picture or a mask has another
    size.
    """
    radius = click_radius(size) if radius is None else radius
    region = np.zeros(size, bool)
    for point in prompt.points:
        if point.positive:
            region |= disc(size, point.x, point.y, radius)
    for box in prompt.boxes:
        region |= rasterize_box(size, box)
    for stroke in prompt.strokes:
        region |= rasterize_stroke(size, stroke, radius * STROKE_RADIUS / CLICK_RADIUS)
    for mask in prompt.masks:
        if mask.shape != tuple(size):
            raise PromptError(
                f"the mask prompt is {mask.shape[1]}x{mask.shape[0]} but the picture is {size[1]}x{size[0]}; "
                "draw it on this picture"
            )
        region |= np.asarray(mask, bool)
    if not region.any():
        raise PromptError("no positive click, stroke, box or mask lies inside the picture; mark a part of the object")
    return region


def _training_radius(size: Size, rng: np.random.Generator) -> float:
    # A 10-pixel disc as it arrives at the network's size from pictures of 384 to 2000 pixels.
    return max(size) / 64.0 * rng.uniform(0.95, 1.7)


def _parts(mask: np.ndarray, every: bool) -> list[tuple[np.ndarray, tuple[int, int], np.ndarray]]:
    """Parts of a mask worth a prompt: (cropped bool part, (x, y) of the crop, centre in crop pixels)."""
    floor = max(1, int(0.02 * np.count_nonzero(mask)))
    numbered, ids, stats, centres = components(mask, floor)
    found = []
    for k, (x, y, w, h, _), centre in zip(ids[: 8 if every else 1], stats, centres, strict=False):
        found.append((numbered[y : y + h, x : x + w] == k, (int(x), int(y)), centre - (x, y)))
    return found


def _require(mask: np.ndarray) -> None:
    if not mask.any():
        raise PromptError("a prompt can't be simulated for an empty mask; leave the object out")


def point_prompt(
    mask: np.ndarray, rng: np.random.Generator, radius: float | None = None, every_part: bool = False
) -> np.ndarray:
    """A click on ``mask`` bool (H, W): a disc at a random pixel of the inner half of its largest part.

    radius: of the disc in pixels; by default drawn as clicks arrive at the network's size
    every_part: one disc in each part of at least 2 % of the mask, as in the paper's training
    """
    _require(mask)
    radius = _training_radius(mask.shape, rng) if radius is None else radius
    region = np.zeros(mask.shape, bool)
    for part, (x, y), centre in _parts(mask, every_part):
        near = np.hypot(*(np.indices(part.shape) + 0.0 - centre[::-1, None, None]))
        chosen = part & (near <= 0.5 * np.sqrt(part.sum() / np.pi))
        # People click well inside: rings and bent shapes have no pixel near their centre at all.
        if rng.random() < 0.6 or not chosen.any():
            depth = inner_distance(part)
            chosen = depth >= rng.uniform(0.4, 0.95) * depth.max()
        rows, cols = np.nonzero(chosen)
        k = int(rng.integers(len(rows)))
        region |= disc(mask.shape, x + cols[k] + 0.5, y + rows[k] + 0.5, radius)
    return region


def _bent_diagonal(box: np.ndarray, rng: np.random.Generator, bend: float) -> np.ndarray:
    """Diagonal of ``box`` (x0, y0, x1, y1), one of the two, bent by a sine of amplitude ``bend`` pixels: (n, 2)."""
    start, end = np.array([box[0], box[1]]), np.array([box[2], box[3]])
    if rng.random() < 0.5:
        start[1], end[1] = end[1], start[1]
    t = np.linspace(0.0, 1.0, 24)[:, None]
    along = end - start
    across = np.array([-along[1], along[0]]) / max(1e-6, float(np.hypot(*along)))
    periods, phase = rng.uniform(0.2, 1.0), rng.uniform(0, 2 * np.pi)
    return start + t * along + np.sin(2 * np.pi * periods * t + phase) * bend * across


def scribble_prompt(mask: np.ndarray, rng: np.random.Generator, radius: float | None = None) -> np.ndarray:
    """A stroke over ``mask`` bool (H, W): a bent diagonal of a box like the object's, kept where it meets the object.

    radius: half width of the stroke in pixels; by default half of a click's, as it arrives at the network's size
    """
    _require(mask)
    radius = 0.5 * _training_radius(mask.shape, rng) if radius is None else radius
    part, (x, y), _ = _parts(mask, False)[0]
    h, w = part.shape
    centre = np.array([x + w / 2, y + h / 2]) + rng.normal(0, 0.05, 2) * (w, h)
    half = 0.5 * rng.uniform(0.7, 1.05, 2) * (w, h)
    box = np.concatenate([centre - half, centre + half])
    line = _bent_diagonal(box, rng, min(rng.uniform(0.016, 0.032) * max(mask.shape), 0.25 * min(h, w) + 1))
    region = rasterize_stroke(mask.shape, line, radius)
    if rng.random() < 0.7:
        # A careful hand stays on the object, with a small overshoot.
        reach = 2 * int(rng.integers(0, 3)) + 1
        region &= cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool)
    if np.count_nonzero(region & mask) < 4:
        return point_prompt(mask, rng, radius)
    return region


def box_prompt(mask: np.ndarray, rng: np.random.Generator, jitter: float = 0.1) -> np.ndarray:
    """A filled box around ``mask`` bool (H, W), each side of it scaled by 1 -/+ ``jitter`` about its centre."""
    _require(mask)
    x0, y0, x1, y1 = mask_bbox(mask)
    w, h = x1 - x0, y1 - y0
    near, far = rng.uniform(-jitter / 2, jitter / 2, 2), rng.uniform(-jitter / 2, jitter / 2, 2)
    return rasterize_box(mask.shape, (x0 + near[0] * w, y0 + near[1] * h, x1 + far[0] * w, y1 + far[1] * h))


def mask_prompt(mask: np.ndarray, rng: np.random.Generator, sigma: float = 2.0) -> np.ndarray:
    """A coarse outline of ``mask`` bool (H, W): blurred by ``sigma`` pixels, cut at the mean of what is left."""
    _require(mask)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    region = soft > soft[soft > 0.01].mean() * rng.uniform(0.8, 1.2)
    return region if region.any() else mask.copy()


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "point": point_prompt,
    "scribble": scribble_prompt,
    "box": box_prompt,
    "mask": mask_prompt,
}


def simulated_prompt(mask: np.ndarray, rng: np.random.Generator, kind: str) -> np.ndarray:
    """A region prompt of ``kind`` (a key of :data:`KINDS`) for ``mask`` bool (H, W): bool (H, W), never empty."""
    if kind not in KINDS:
        raise PromptError(f"there is no prompt kind {kind!r}; use one of {', '.join(KINDS)}")
    return KINDS[kind](mask, rng)
