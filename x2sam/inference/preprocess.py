"""Frames and drawn regions -> what the vision tower, the mask encoder and the region sampler read.

Pictures are uint8 (H, W, 3) RGB, clips uint8 (T, H, W, 3); sizes are (H, W). Resizing follows the published processors
to the grey level: Pillow bicubic for pictures, PyTorch's antialiased bicubic on uint8 for clips, Pillow bilinear for
the mask encoder, Pillow nearest for regions (X2SAM, implementation details).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..errors import FramesError, PromptError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PreprocessConfig:
    """Numbers of the three processors.

    patch, temporal_patch, merge: the vision tower's patch side, frames per patch, and patches joined per side
    image_pixels:  fewest and most pixels of a picture
    video_pixels:  fewest and most pixels of a clip, all frames together
    vlm_mean, vlm_std, mask_mean, mask_std: per channel, for pixels scaled to 0..1
    mask_size:     (H, W) of the mask encoder's input
    keep_aspect:   scale the longer side to ``max(mask_size)`` and pad right and below, instead of stretching
    square, square_pad, scene: of X-SAM: the side that the vision tower's pictures are stretched to, 0 where their size
                   follows the picture; whether they are padded to a square before; the mask encoder's pixels per side
                   of one further row that the language model sees
    close_room:    around a box that is looked at closely (:mod:`x2sam.inference.close_look`), in its longer side; 0
                   where the model was not trained for such looks
    sample_fps, min_frames, max_frames, assumed_fps: how a clip is thinned for the language model where that is wanted
    """

    patch: int = 16
    temporal_patch: int = 2
    merge: int = 2
    image_pixels: tuple[int, int] = (65_536, 16_777_216)
    video_pixels: tuple[int, int] = (4_096, 25_165_824)
    vlm_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    vlm_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    mask_size: tuple[int, int] = (1024, 1024)
    keep_aspect: bool = False
    square: int = 0
    square_pad: bool = False
    scene: int = 0
    close_room: float = 0.0
    mask_mean: tuple[float, ...] = IMAGENET_MEAN
    mask_std: tuple[float, ...] = IMAGENET_STD
    sample_fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    assumed_fps: float = 24.0

    @classmethod
    def official(cls) -> PreprocessConfig:
        """The numbers of the published 4B model."""
        return cls()

    @classmethod
    def from_processors(cls, image: dict, video: dict, mask: dict) -> PreprocessConfig:
        """From the published JSON of the picture, the clip and the mask processor (``preprocessor_config.json``)."""
        size, pad = mask["size"], mask.get("pad_size") or {}
        edge = size.get("longest_edge")
        target = (pad.get("height", edge), pad.get("width", edge)) if edge else (size["height"], size["width"])
        return cls(
            patch=image["patch_size"],
            temporal_patch=image["temporal_patch_size"],
            merge=image["merge_size"],
            image_pixels=(image["size"]["shortest_edge"], image["size"]["longest_edge"]),
            video_pixels=(video["size"]["shortest_edge"], video["size"]["longest_edge"]),
            vlm_mean=tuple(image["image_mean"]),
            vlm_std=tuple(image["image_std"]),
            mask_size=target,
            keep_aspect=bool(edge),
            mask_mean=tuple(mask.get("image_mean") or IMAGENET_MEAN),
            mask_std=tuple(mask.get("image_std") or IMAGENET_STD),
            sample_fps=video.get("fps") or cls.sample_fps,
            min_frames=video.get("min_frames") or cls.min_frames,
            max_frames=video.get("max_frames") or cls.max_frames,
        )

    def to_dict(self) -> dict:
        """Plain JSON values; :meth:`from_dict` gives back an equal config."""
        return {name: list(value) if type(value) is tuple else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> PreprocessConfig:
        """Raises ValueError for a name that is not a field."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown preprocessing settings: {', '.join(sorted(unknown))}")
        return cls(**{name: tuple(value) if type(value) is list else value for name, value in values.items()})

    @property
    def factor(self) -> int:
        """Pixels per side of one visual row."""
        return self.patch * self.merge


@dataclass(frozen=True)
class FrameSizes:
    """(H, W) of the mask encoder's input, of the picture inside it (the rest is padding), and of the picture itself."""

    network: tuple[int, int]
    scaled: tuple[int, int]
    original: tuple[int, int]


@dataclass(frozen=True, eq=False)
class VisualInput:
    """For the vision tower: ``patches`` float32 (t * h * w, 3 * temporal_patch * patch ** 2), ``grid`` (t, h, w).

    Patches are ordered by time, then by ``merge`` x ``merge`` blocks, row by row.
    """

    patches: torch.Tensor
    grid: tuple[int, int, int]

    def rows(self, merge: int = 2) -> int:
        return math.prod(self.grid) // merge**2


@dataclass(frozen=True, eq=False)
class MaskInput:
    """For the mask encoder: ``pixels`` float32 (T, 3, H, W) and the sizes that all its frames share."""

    pixels: torch.Tensor
    sizes: FrameSizes


def check_frames(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) from one picture or a clip. Raises FramesError for anything else."""
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise FramesError(
            f"frames must be uint8 RGB of shape (T, H, W, 3) with at least one pixel, not {frames.dtype} {frames.shape}"
        )
    return frames


def image_size_for(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """(H, W) in whole blocks, near the picture's shape, within ``config.image_pixels``."""
    return _fit(1, 1, height, width, config.image_pixels, config.factor)


def video_size_for(count: int, height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """(H, W) in whole blocks for every frame of a clip of ``count`` frames, within ``config.video_pixels``."""
    factor = config.factor
    if min(height, width) < factor:
        scale = factor / min(height, width)
        height, width = int(height * scale), int(width * scale)
    count = max(count, config.temporal_patch)
    whole = round(count / config.temporal_patch) * config.temporal_patch
    return _fit(count, whole, height, width, config.video_pixels, factor)


def _fit(count: int, whole: int, height: int, width: int, limits: tuple[int, int], factor: int) -> tuple[int, int]:
    """``count`` frames as they are, ``whole`` frames in complete temporal patches: the published rule uses both."""
    fewest, most = limits
    pixels = count * height * width
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if whole * h * w > most:
        shrink = math.sqrt(pixels / most)
        h, w = (math.floor(side / shrink / factor) * factor for side in (height, width))
    elif whole * h * w < fewest:
        grow = math.sqrt(fewest / pixels)
        h, w = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return max(factor, h), max(factor, w)


def vlm_image(frame: np.ndarray, config: PreprocessConfig) -> VisualInput:
    """One picture for the vision tower; it stands in for all frames of one temporal patch."""
    frame = check_frames(frame)[0]
    height, width = image_size_for(*frame.shape[:2], config)
    resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None]
    return _patchify(pixels.expand(config.temporal_patch, -1, -1, -1), config)


def square_image(frame: np.ndarray, config: PreprocessConfig) -> VisualInput:
    """One picture for SigLIP: ``patches`` are pixels (1, 3, side, side), ``grid`` counts the rows that the language
    model sees, those of the mask encoder included (X-SAM, implementation details)."""
    picture = Image.fromarray(check_frames(frame)[0])
    if config.square_pad and picture.width != picture.height:
        side = max(picture.size)
        canvas = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in config.vlm_mean))
        canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = canvas
    resized = np.asarray(picture.resize((config.square, config.square), Image.Resampling.BILINEAR))
    pixels = _normalise(torch.from_numpy(resized.copy()).permute(2, 0, 1)[None], config.vlm_mean, config.vlm_std)
    rows = (config.square // config.patch) ** 2 + math.prod(side // config.scene for side in config.mask_size)
    return VisualInput(pixels, (1, rows, 1))


def vlm_video(frames: np.ndarray, config: PreprocessConfig) -> VisualInput:
    """A clip for the vision tower; the last frame is repeated to fill the last temporal patch."""
    frames = check_frames(frames)
    size = video_size_for(len(frames), *frames.shape[1:3], config)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)
    missing = -len(pixels) % config.temporal_patch
    pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    return _patchify(pixels, config)


def vlm_view(frames: np.ndarray, modality: str, config: PreprocessConfig) -> VisualInput:
    """What the vision tower reads of a picture or clip."""
    if config.square:
        return square_image(frames, config)
    return (vlm_video if modality == "video" else vlm_image)(frames, config)


def _patchify(pixels: torch.Tensor, config: PreprocessConfig) -> VisualInput:
    """uint8 (T, 3, H, W), T in whole temporal patches -> normalised patches."""
    count, channels, height, width = pixels.shape
    patch, merge = config.patch, config.merge
    grid = (count // config.temporal_patch, height // patch, width // patch)
    values = _normalise(pixels, config.vlm_mean, config.vlm_std)
    values = values.view(
        grid[0], config.temporal_patch, channels,
        grid[1] // merge, merge, patch, grid[2] // merge, merge, patch,
    ).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # fmt: skip
    return VisualInput(values.reshape(math.prod(grid), -1), grid)


def _normalise(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    values = pixels.to(torch.float32).div_(255)
    shape = (1, len(mean), 1, 1)
    return values.sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))


def frame_sizes(height: int, width: int, config: PreprocessConfig) -> FrameSizes:
    """Where a picture of this size lies in the mask encoder's input."""
    if not config.keep_aspect:
        return FrameSizes(config.mask_size, config.mask_size, (height, width))
    scale = max(config.mask_size) / max(height, width)
    scaled = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    return FrameSizes(config.mask_size, scaled, (height, width))


def mask_frames(frames: np.ndarray, config: PreprocessConfig) -> MaskInput:
    """Frames for the mask encoder, each by itself, so that one frame of a clip equals a picture."""
    frames = check_frames(frames)
    sizes = frame_sizes(*frames.shape[1:3], config)
    height, width = sizes.scaled
    resized = [
        np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)) for frame in frames
    ]
    pixels = _normalise(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2), config.mask_mean, config.mask_std)
    return MaskInput(_pad(pixels.contiguous(), sizes), sizes)


def region_masks(masks: Sequence[np.ndarray], sizes: FrameSizes, mend: bool = True) -> torch.Tensor:
    """Drawn regions (N, H, W) at picture size -> int64 (N, H, W) at the mask encoder's size, values kept.

    mend: a region too small to hit any pixel of the smaller grid keeps the pixels it touches instead of vanishing.

    Raises PromptError for a region that is empty or has another size than the picture.
    """
    resized = []
    for mask in masks:
        mask = np.asarray(mask)
        mask = mask if mask.dtype == np.uint8 else (mask != 0).astype(np.uint8)
        if mask.shape != sizes.original:
            raise PromptError(f"the region is {mask.shape} (height, width), the picture {sizes.original}; draw it anew")
        if not mask.any():
            raise PromptError("the region is empty; draw at least one pixel inside the picture")
        height, width = sizes.scaled
        small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        if mend and not small.any():
            small = F.adaptive_max_pool2d(torch.from_numpy(mask.astype(np.float32))[None], sizes.scaled)[0].numpy()
        resized.append(torch.from_numpy(small.astype(np.int64)))
    if not resized:
        raise PromptError("there is no region; draw one first")
    return _pad(torch.stack(resized), sizes)


def _pad(values: torch.Tensor, sizes: FrameSizes) -> torch.Tensor:
    below, right = (n - s for n, s in zip(sizes.network, sizes.scaled, strict=True))
    return F.pad(values, (0, right, 0, below)) if below or right else values


def linspace_indices(total: int, count: int) -> list[int]:
    """``count`` frames spread over the clip, first and last included, cut down to whole numbers; repeats if short."""
    return np.linspace(0, total - 1, count).astype(int).tolist()


def span_indices(total: int, count: int) -> list[int]:
    """Every ``total // count``-th frame from the first on, at most ``count`` of them (a directory of frames)."""
    return list(range(0, total, max(1, total // count)))[:count]


def interleaved_indices(total: int, count: int) -> list[list[int]]:
    """The clip as interleaved parts of ``count`` frames or a few more, each spread over all of it (span sampling)."""
    step = max(1, total // count)
    return [list(range(start, total, step)) for start in range(step)]


def chunk_indices(total: int, length: int = 8) -> list[list[int]]:
    """The clip in consecutive chunks; a last chunk of one frame is dropped (stride sampling)."""
    chunks = [list(range(start, min(start + length, total))) for start in range(0, total, length)]
    return [chunk for chunk in chunks if len(chunk) > 1]


def rate_indices(total: int, fps: float | None, config: PreprocessConfig) -> list[int]:
    """``config.sample_fps`` frames per second, between ``min_frames`` and ``max_frames``; 24 fps where unknown.

    What the language model sees of vgdseg and objseg clips in training and benchmarks: of 8 frames 0, 2, 5 and 7.
    """
    count = int(total / (fps or config.assumed_fps) * config.sample_fps)
    count = min(max(count, config.min_frames), config.max_frames, total)
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
