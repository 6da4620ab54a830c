"""Drawing generated scenes: painter's order, shadows, light, lens and sensor.

A scene is planned once (see :mod:`x2sam.data.scenes`) and drawn frame by frame; a picture is a clip of one frame.
Colours and light are kept in two layers, so that shading and cast shadows cost one multiplication at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from x2sam.data.scene_shapes import Silhouette
from x2sam.data.textures import octave_noise

_SHIFT = 4
UNIT_REACH = 1.3
"""Half the side, in unit-frame lengths, of the square that an actor's surface covers; beyond it is mirrored."""


@dataclass(frozen=True, eq=False)
class Actor:
    """One object of a scene and the way it moves. Lengths in pixels, angles in radians, ``t`` counts frames.

    surface:  uint8 over the unit square -UNIT_REACH..UNIT_REACH: a field (S, S), or colours (S, S, 3) RGB
    ramps:    per tone a table uint8 (256, 1, 3) that colours the field; empty where the surface has its own colours
    stretch:  x and y scale of the unit frame, before the turn
    """

    id: int
    silhouette: Silhouette
    surface: np.ndarray
    ramps: tuple[np.ndarray, ...]
    position: np.ndarray
    radius: float
    stretch: tuple[float, float] = (1.0, 1.0)
    angle: float = 0.0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    sway: np.ndarray = field(default_factory=lambda: np.zeros(2))
    sway_rate: float = 0.0
    spin: float = 0.0
    growth: float = 0.0
    wobble: float = 0.0
    phase: float = 0.0
    pace: float = 0.0
    shade: tuple[float, float] = (0.0, 0.0)
    shadow: float = 0.0
    softness: float = 0.0

    def affine(self, t: float) -> np.ndarray:
        """Unit frame -> scene pixels at time ``t``: float (2, 3)."""
        angle = self.angle + self.spin * t
        c, s = np.cos(angle), np.sin(angle)
        scale = self.radius * np.exp(self.growth * t) * np.asarray(self.stretch)
        swing = np.sin(self.sway_rate * t + self.phase) - np.sin(self.phase)
        centre = self.position + self.velocity * t + self.sway * swing
        return np.array([[c * scale[0], -s * scale[1], centre[0]], [s * scale[0], c * scale[1], centre[1]]])

    def outlines(self, t: float) -> list[list[np.ndarray]]:
        """Unit-frame outlines of every part at time ``t``, with limbs swung and the body wobbled."""
        beat = self.phase + self.pace * t
        parts = []
        for part in self.silhouette:
            moved = part.outlines
            if part.swing and self.pace:
                turn = part.swing * np.sin(beat)
                c, s = np.cos(turn), np.sin(turn)
                pivot, rotation = np.asarray(part.pivot), np.array([[c, s], [-s, c]])
                moved = [(o - pivot) @ rotation + pivot for o in moved]
            if self.wobble:
                moved = [o + self.wobble * np.sin(2.6 * o[:, ::-1] + beat) for o in moved]
            parts.append(list(moved))
        return parts


@dataclass(frozen=True, eq=False)
class Lens:
    """What the camera does to a clean frame. blur: sigma in pixels; noise: grey levels; quality: JPEG, 0 for none."""

    blur: float = 0.0
    noise: float = 0.0
    chroma: float = 0.0
    quality: int = 0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything needed to draw a clip.

    backdrop: uint8 (h, w, 3), larger than the frame where the camera moves; ground: uint8 (h, w) its labels
    light:    float32 (H, W) gain of the lighting
    camera:   per frame, scene pixels -> frame pixels, float (2, 3); the backdrop's pixels are scene pixels - ``origin``
    """

    size: tuple[int, int]
    backdrop: np.ndarray
    ground: np.ndarray
    origin: tuple[float, float]
    light: np.ndarray
    actors: tuple[Actor, ...]
    camera: tuple[np.ndarray, ...]
    sun: tuple[float, float]
    lens: Lens
    exposure: float = 0.0


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """``outer`` after ``inner``, both (2, 3)."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.concatenate([linear, outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], 1)


def _fixed(points: np.ndarray) -> np.ndarray:
    # OpenCV counts from pixel centres, we count from pixel corners: hence the half.
    return np.round(np.clip(points - 0.5, -8000.0, 8000.0) * (1 << _SHIFT)).astype(np.int32)


def _directional_kernel(step: np.ndarray) -> np.ndarray | None:
    """Kernel of a straight smear over ``step`` pixels (x, y), at most 15 long; None when it is shorter than two."""
    length = float(np.hypot(*step))
    if length < 2.0:
        return None
    half = step * (min(length, 15.0) / length / 2.0)
    reach = int(np.ceil(np.abs(half).max()))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    ends = np.round(np.array([reach - half, reach + half]) * 16).astype(int)
    cv2.line(kernel, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 255, 1, cv2.LINE_AA, 4)
    return kernel.astype(np.float32) / max(1, int(kernel.sum()))


def _soften(alpha: np.ndarray, actor: Actor, travel: np.ndarray) -> np.ndarray:
    if actor.softness > 0.3:
        alpha = cv2.GaussianBlur(alpha, (0, 0), actor.softness)
    kernel = _directional_kernel(travel)
    return alpha if kernel is None else cv2.filter2D(alpha, -1, kernel)


class _Layers:
    """The frame being drawn: colour uint8 (H, W, 3), gain float32 (H, W), labels uint8 (H, W)."""

    def __init__(self, colour: np.ndarray, gain: np.ndarray, labels: np.ndarray):
        self.colour, self.gain, self.labels = colour, gain, labels

    def draw(self, actor: Actor, t: float, view: np.ndarray, sun: tuple[float, float], exposure: float) -> None:
        to_frame = compose(view, actor.affine(t))
        parts = [[o @ to_frame[:, :2].T + to_frame[:, 2] for o in part] for part in actor.outlines(t)]
        solid = [o for part, own in zip(actor.silhouette, parts, strict=True) if not part.marking for o in own]
        corners = np.concatenate(solid)
        travel = exposure * (to_frame[:, 2] - compose(view, actor.affine(t - 1.0))[:, 2])
        margin = 2.0 + 3.0 * actor.softness + min(8.0, float(np.abs(travel).max()))
        h, w = self.labels.shape
        low = np.clip(np.floor(corners.min(0) - margin), 0, (w, h)).astype(int)
        high = np.clip(np.ceil(corners.max(0) + margin), 0, (w, h)).astype(int)
        if (high - low < 1).any():
            return
        region = (slice(low[1], high[1]), slice(low[0], high[0]))
        extent = (int(high[1] - low[1]), int(high[0] - low[0]))
        cover, tones = np.zeros(extent, np.uint8), np.zeros(extent, np.uint8)
        for part, outlines in zip(actor.silhouette, parts, strict=True):
            fixed = [_fixed(o - low) for o in outlines]
            if not part.marking:
                cv2.fillPoly(cover, fixed, 255, cv2.LINE_AA, _SHIFT)
            if len(actor.ramps) > 1:
                cv2.fillPoly(tones, fixed, min(part.tone, len(actor.ramps) - 1), cv2.LINE_8, _SHIFT)
        if actor.shadow:
            self._cast_shadow(actor, cover, low, sun)
        local = compose(np.array([[1.0, 0, -low[0]], [0, 1.0, -low[1]]]), to_frame)
        self._blend(actor, region, _soften(cover, actor, travel), _surface(actor, local, extent, tones))
        self.labels[region][cover >= 128] = actor.id

    def _blend(self, actor: Actor, region: tuple[slice, slice], alpha: np.ndarray, colour: np.ndarray) -> None:
        weight = alpha.astype(np.float32) * np.float32(1 / 255)
        rest = 1.0 - weight
        self.colour[region] = cv2.blendLinear(colour, self.colour[region], weight, rest)
        h, w = alpha.shape
        ramp_x = np.linspace(-actor.shade[0], actor.shade[0], w, dtype=np.float32)
        ramp_y = np.linspace(-actor.shade[1], actor.shade[1], h, dtype=np.float32)[:, None]
        gain = self.gain[region]
        gain += weight * (1.0 + ramp_x + ramp_y - gain)

    def _cast_shadow(self, actor: Actor, cover: np.ndarray, low: np.ndarray, sun: tuple[float, float]) -> None:
        """Darken the ground where the silhouette, moved away from the sun, would hide it; soft, at half resolution."""
        reach = 0.35 * actor.radius
        pad = int(2 + 0.25 * reach)
        small = cv2.resize(
            cover, (max(1, cover.shape[1] // 2), max(1, cover.shape[0] // 2)), interpolation=cv2.INTER_AREA
        )
        small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
        small = cv2.blur(small, (2 * (pad // 2) + 1,) * 2)
        soft = cv2.resize(small, (2 * small.shape[1], 2 * small.shape[0]))
        x = int(low[0] - 2 * pad + sun[0] * reach)
        y = int(low[1] - 2 * pad + sun[1] * reach)
        h, w = self.gain.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + soft.shape[1], w), min(y + soft.shape[0], h)
        if x1 > x0 and y1 > y0:
            part = soft[y0 - y : y1 - y, x0 - x : x1 - x].astype(np.float32)
            self.gain[y0:y1, x0:x1] *= 1.0 - part * np.float32(actor.shadow / 255.0)


def _surface(actor: Actor, to_region: np.ndarray, extent: tuple[int, int], tones: np.ndarray) -> np.ndarray:
    """The actor's colours over a region of ``extent`` (h, w): uint8 (h, w, 3)."""
    side = actor.surface.shape[0]
    unit = 2.0 * UNIT_REACH / side
    from_surface = compose(to_region, np.array([[unit, 0, -UNIT_REACH], [0, unit, -UNIT_REACH]]))
    field = cv2.warpAffine(
        actor.surface, from_surface, (extent[1], extent[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    if not actor.ramps:
        return field
    colour = cv2.applyColorMap(field, actor.ramps[0])
    for k, ramp in enumerate(actor.ramps[1:], 1):
        if (tones == k).any():
            cv2.copyTo(cv2.applyColorMap(field, ramp), (tones == k).astype(np.uint8), colour)
    return colour


def _view_of(scene: Scene, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Backdrop and its labels as the camera sees them."""
    h, w = scene.size
    if len(scene.camera) == 1:
        return scene.backdrop.copy(), scene.ground.copy()
    shift = np.array([[1.0, 0, scene.origin[0]], [0, 1.0, scene.origin[1]]])
    matrix = compose(view, shift)
    colour = cv2.warpAffine(scene.backdrop, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    labels = cv2.warpAffine(scene.ground, matrix, (w, h), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
    return colour, labels


def photograph(frame: np.ndarray, lens: Lens, rng: np.random.Generator) -> np.ndarray:
    """A clean frame uint8 (H, W, 3) as ``lens`` and sensor would give it."""
    if lens.blur > 0.3:
        frame = cv2.GaussianBlur(frame, (0, 0), lens.blur)
    if lens.gamma != 1.0 or lens.tint != (1.0, 1.0, 1.0):
        curve = np.arange(256, dtype=np.float32) / 255.0
        table = np.stack([np.clip(255.0 * curve**lens.gamma * t, 0, 255) for t in lens.tint], -1)
        frame = cv2.LUT(frame, np.ascontiguousarray(table.astype(np.uint8)[None]))
    if lens.noise > 0:
        frame = _grain(frame, lens, rng)
    if lens.quality:
        _, coded = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, lens.quality))
        frame = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return frame


def _grain(frame: np.ndarray, lens: Lens, rng: np.random.Generator) -> np.ndarray:
    h, w = frame.shape[:2]
    luma = rng.standard_normal((h, w), dtype=np.float32) * np.float32(lens.noise)
    planes = [luma] * 3
    if lens.chroma:
        # Colour noise of a demosaiced sensor is coarse: half resolution is closer to it and four times cheaper.
        grid = rng.standard_normal((h // 2 + 1, w // 2 + 1, 3), dtype=np.float32) * np.float32(lens.chroma)
        planes = [luma + plane for plane in cv2.split(cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR))]
    return cv2.add(frame, cv2.merge(planes), dtype=cv2.CV_8U)


def lighting(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Slowly varying light over the picture: gain float32 (H, W) between about 0.5 and 1.3."""
    strength = rng.uniform(0.0, 0.25)
    small = octave_noise(rng, (max(2, size[0] // 8), max(2, size[1] // 8)), 2, 2, 0.4)
    gain = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) * np.float32(strength * 0.5)
    return np.clip(gain + np.float32(rng.uniform(0.85, 1.05)), 0.5, 1.3)


def render(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 (T, H, W, 3) RGB and labels uint8 (T, H, W) of the visible parts, nearest actor last."""
    frames, maps = [], []
    for t, view in enumerate(scene.camera):
        colour, labels = _view_of(scene, view)
        layers = _Layers(colour, scene.light.copy(), labels)
        for actor in scene.actors:
            layers.draw(actor, float(t), view, scene.sun, scene.exposure)
        # Like types on both sides: OpenCV's mixed products are fifty times slower.
        lit = cv2.convertScaleAbs(cv2.multiply(layers.colour.astype(np.float32), cv2.merge([layers.gain] * 3)))
        frames.append(photograph(lit, scene.lens, rng))
        maps.append(layers.labels)
    return np.stack(frames), np.stack(maps)
