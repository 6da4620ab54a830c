"""Masks as picture files: indexed label maps out and in, and pictures with the masks laid over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from x2sam.commands.common import whole_file
from x2sam.errors import FramesError, PromptError

IGNORE = 255
_BRIGHT = 127


def palette() -> np.ndarray:
    """uint8 (256, 3): colours by number, neighbours far apart, 0 black; the colours of PASCAL VOC and DAVIS."""
    number = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((number >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def label_map(masks: Sequence[np.ndarray], numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(H, W), the number of the first mask bool (H, W) that covers a pixel, 0 where none does.

    uint8, or uint16 when a number needs it.
    """
    labels = np.zeros(size, np.uint8 if max(numbers, default=0) < IGNORE else np.uint16)
    for mask, number in zip(reversed(masks), reversed(numbers), strict=True):
        labels[mask] = number
    return labels


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """A PNG that keeps the numbers: indexed with :func:`palette` for uint8, 16-bit grey for uint16."""
    picture = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        picture.putpalette(palette().tobytes())
    with whole_file(path) as part:
        picture.save(part, format="PNG")


def write_overlay(path: Path, picture: np.ndarray, labels: np.ndarray) -> None:
    """The picture uint8 (H, W, 3) with every labelled pixel half in its colour."""
    number = labels.astype(np.int64)
    colours = palette()[np.where(number > 0, (number - 1) % 255 + 1, 0)]
    mixed = np.where(labels[..., None] > 0, picture // 2 + colours // 2, picture)
    with whole_file(path) as part:
        Image.fromarray(mixed).save(part, format="PNG")


def read_object_masks(path: Path) -> Mapping[int, np.ndarray]:
    """The objects of a mask file by number, each bool (H, W).

    An indexed PNG (as :func:`write_label_map` makes it) and a grey one with small numbers hold one object per number;
    255 in an indexed one means "ignore". Any other picture holds one object, number 1: its bright pixels.

    Raises FramesError for a file that can't be read, PromptError when nothing is marked in it.
    """
    try:
        with Image.open(path) as picture:
            indexed = picture.mode == "P"
            plane = np.asarray(picture if picture.mode in ("P", "L", "1", "I;16", "I") else picture.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FramesError(f"{path.name} can't be read as a mask ({error}); save it as PNG") from error
    numbers = [int(n) for n in np.unique(plane) if n and not (indexed and n == IGNORE)]
    if not numbers:
        raise PromptError(f"{path.name} marks nothing: all its pixels are 0")
    if indexed or (len(numbers) > 1 and numbers[-1] <= _BRIGHT):
        return {n: plane == n for n in numbers}
    if len(numbers) == 1:
        return {1: plane == numbers[0]}
    return {1: plane > _BRIGHT}
