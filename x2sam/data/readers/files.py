"""Reading what others wrote: JSON whose every field is checked, paths that stay inside their directory, pictures.

Whatever is wrong raises :class:`~x2sam.errors.FramesError`, which names the file and the place in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from x2sam.errors import FramesError

MOST_PIXELS = 100_000_000
"""Of one picture or label map. Nothing larger is decoded."""
LONGEST_TEXT = 100_000
_LONGEST_PATH = 2000
_ORIENTATION = 0x0112


def read_json(path: Path, largest_mb: int = 2048, encoding: str = "utf-8-sig") -> Node:
    """The content of a file of at most ``largest_mb`` megabytes. Numbers that are not finite are refused."""
    try:
        size = path.stat().st_size
        if size > largest_mb * 10**6:
            raise FramesError(
                f"{path} has {size / 1e6:.0f} MB, more than {largest_mb}; split it, or raise largest_json_mb"
            )
        value = json.loads(path.read_bytes().decode(encoding), parse_constant=_no_constant)
    except OSError as problem:
        raise FramesError(f"{path} can't be read ({problem.strerror}); check the path") from problem
    except (ValueError, RecursionError) as problem:
        raise FramesError(f"{path} is not JSON ({problem}); copy it again") from problem
    return Node(value, str(path))


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


class Node:
    """A value of a JSON file that knows where it stands. Each reading method checks the kind of what it returns."""

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: Any, key: object, parent: Node | None = None):
        self.value = value
        self._key = key
        self._parent = parent

    @property
    def where(self) -> str:
        """File and place, as ``instances.json: annotations[3].bbox``."""
        keys: list[object] = []
        node = self
        while node._parent is not None:
            keys.append(node._key)
            node = node._parent
        path = "".join(f"[{k}]" if type(k) is int else f".{str(k)[:60]}" for k in reversed(keys)).lstrip(".")
        return f"{node._key}: {path}" if path else str(node._key)

    def wrong(self, what: str) -> FramesError:
        return FramesError(f"{self.where} {what}, not {repr(self.value)[:60]}; correct that entry")

    def has(self, key: str) -> bool:
        """Whether this is an object with something other than null under ``key``."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def get(self, key: str) -> Node:
        if not isinstance(self.value, dict):
            raise self.wrong("should be an object")
        if key not in self.value:
            raise FramesError(f"{self.where} has no {key!r}; complete that entry, or check that the format fits")
        return Node(self.value[key], key, self)

    def items(self) -> list[Node]:
        """Of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("should be a list")
        return [Node(value, number, self) for number, value in enumerate(self.value)]

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Of an object, in the order of the file."""
        if not isinstance(self.value, dict):
            raise self.wrong("should be an object")
        return ((key, Node(value, key, self)) for key, value in self.value.items())

    def whole(self, least: int = -(2**63), most: int = 2**63 - 1) -> int:
        value = self.value
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong("should be a whole number" + (f" from {least}" if least > -(2**63) else ""))
        return value

    def identity(self) -> str:
        """An id, a number or a text: files do not agree which, even among their own parts."""
        if type(self.value) is float and self.value.is_integer():
            return str(int(self.value))
        if type(self.value) not in (int, str):
            raise self.wrong("should be an id")
        return str(self.value)

    def flag(self, default: bool = False) -> bool:
        if self.value is None:
            return default
        if self.value not in (0, 1):
            raise self.wrong("should be true or false")
        return bool(self.value)

    def text(self, empty: bool = False) -> str:
        if not isinstance(self.value, str) or len(self.value) > LONGEST_TEXT or not (empty or self.value.strip()):
            raise self.wrong("should be a text")
        return self.value

    def numbers(self, count: int | None = None) -> np.ndarray:
        """float64 (n,) of a flat list of finite numbers."""
        try:
            values = np.asarray(self.value, np.float64) if isinstance(self.value, list) else None
        except (TypeError, ValueError, OverflowError):
            values = None
        if values is None or values.ndim != 1 or not np.isfinite(values).all() or (count and len(values) != count):
            raise self.wrong(f"should be a list of {count or ''} numbers".replace("  ", " "))
        return values

    def optional(self, key: str) -> Node:
        """Like :meth:`get`; null where the key is missing."""
        return self.get(key) if self.has(key) else Node(None, key, self)


def one_or_many(node: Node) -> list[Node]:
    """The entries of a list; of anything else a list of itself; none of null."""
    if node.value is None:
        return []
    return node.items() if isinstance(node.value, list) else [node]


def size_of(entry: Node) -> tuple[int, int]:
    """(H, W) of an entry with ``height`` and ``width``."""
    return _bounded((entry.get("height").whole(1), entry.get("width").whole(1)), entry)


def size_of_pair(node: Node) -> tuple[int, int]:
    """(H, W) of a list of the two."""
    sides = [side.whole(1) for side in node.items()]
    if len(sides) != 2:
        raise node.wrong("should be [height, width]")
    return _bounded((sides[0], sides[1]), node)


def _bounded(size: tuple[int, int], node: Node) -> tuple[int, int]:
    if size[0] * size[1] > MOST_PIXELS:
        raise FramesError(f"{node.where} has {size[1]} x {size[0]} pixels, more than {MOST_PIXELS}; make it smaller")
    return size


def inside(root: Path, name: str, where: str) -> Path:
    """``root / name``; :class:`FramesError` when that leaves ``root``."""
    path = PurePosixPath(name.replace("\\", "/"))
    if len(name) > _LONGEST_PATH or any(len(part.encode("utf-8", "replace")) > 255 for part in path.parts):
        raise FramesError(f"{where} names a file with {len(name)} letters, {name[:40]!r}...; no system has such names")
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or path.parts[0][1:2] == ":":
        raise FramesError(f"{where} names the file {name[:120]!r}, which is not inside {root}; use a path within it")
    return root.joinpath(*path.parts)


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_picture(stem: Path) -> Path:
    """The file that is called ``stem`` with the suffix of a picture; :class:`FramesError` when there is none."""
    for suffix in PICTURES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    raise FramesError(f"there is no picture {stem} ({', '.join(PICTURES)}); check the directory of images")


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a directory by name; empty where there is no directory."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    except OSError:
        return []


def folders_in(folder: Path) -> list[Path]:
    """The directories within a directory by name. Raises :class:`FramesError` where it can't be listed."""
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir())
    except OSError as problem:
        raise FramesError(f"{folder} can't be listed ({problem.strerror}); check the path") from problem


def read_picture(path: Path, size: tuple[int, int] | None = None, upright: bool = False) -> np.ndarray:
    """uint8 (H, W, 3) RGB in the pixel grid that the annotations use: as stored, transparency ignored.

    size:    (H, W) that the annotations state. A picture that only fits when it is turned as its EXIF data says is
             turned; any other size is an error
    upright: always turned as its EXIF data says
    """
    try:
        with Image.open(path) as picture:
            _check_pixels(path, picture.size)
            turned = picture.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            if upright or (turned and size is not None and picture.size == size and size[0] != size[1]):
                picture = ImageOps.exif_transpose(picture)
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise FramesError(f"{path} can't be read as a picture ({_cause(problem)}); restore the file") from problem
    if size is not None and pixels.shape[:2] != size:
        raise FramesError(_sizes(path, pixels.shape[:2], size))
    return pixels


def read_map(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The numbers of a label map, int32 (H, W): of a palette or grey PNG its values, of RGB ``R + 256 G + 65536 B``.

    Raises :class:`FramesError` for other kinds of pictures and for another size than (H, W).
    """
    try:
        with Image.open(path) as picture:
            _check_pixels(path, picture.size)
            mode, values = picture.mode, np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise FramesError(f"{path} can't be read as a label map ({_cause(problem)}); restore the file") from problem
    if mode in ("RGB", "RGBA"):
        values = values[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    elif mode not in ("P", "L", "1", "I", "I;16"):
        raise FramesError(f"{path} is a picture of kind {mode}, no label map; save it as a PNG with a palette or RGB")
    if size is not None and values.shape != size:
        raise FramesError(_sizes(path, values.shape, size))
    return values.astype(np.int32, copy=False)


def _check_pixels(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise FramesError(f"{path} has {size[0]} x {size[1]} pixels, more than {MOST_PIXELS}; make it smaller")


def _cause(problem: Exception) -> str:
    # The text of an OSError repeats the path; its cause is shorter.
    return getattr(problem, "strerror", None) or type(problem).__name__


def _sizes(path: Path, found: tuple[int, int], stated: tuple[int, int]) -> str:
    return (
        f"{path} is {found[1]} x {found[0]} pixels but its annotations are for {stated[1]} x {stated[0]}; "
        "take the files that belong together"
    )


def resize_to(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) at another size, nearest by pixel centres."""
    if mask.shape == size:
        return mask
    small = cv2.resize(mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return small.astype(bool)
