"""Which item of a data set a task belongs to: a picture, or a part of a video; and what its pictures are called.

Tasks of one video, as ``python -m backend video import`` makes them, are one item: their pages follow each other from
the frame on which each task begins. All other tasks are items of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from backend.errors import LabelConfigError
from backend.label_config import LabelConfig, task_value
from x2sam.data.readers.files import MOST_PIXELS

_LONGEST_NAME = 80
_MOST_FRAMES = 10**6  # lists of a video have an entry for each
_MEDIA = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mp4", ".mov", ".avi", ".webm", ".mkv")


@dataclass(frozen=True)
class Layout:
    """Where a task's pages are.

    item:   the key of the item, ``task:12`` or ``video:<id>:<pages per second>``
    name:   the same as the name of a file or folder
    paged:  it is a video: its pages are frames, ``start`` is the number of the first one
    media:  what the pages are called: relative paths, without host and query; empty where the task does not tell
    film:   it is a video file on a Video tag, and ``media`` is that one file
    """

    item: str
    name: str
    paged: bool = False
    start: int = 0
    media: tuple[str, ...] = ()
    film: bool = False
    size: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """Whether other tasks show the rest of the video."""
        return self.item.startswith("video:")

    @property
    def split_key(self) -> str:
        """What decides the split: the video, or the picture wherever it was imported; else the task."""
        return self.item if self.shared or not self.media else "\n".join(self.media[:1])


def layout_of(task: Mapping[str, Any], config: LabelConfig | None = None, film: bool = False) -> Layout:
    """The layout of a task of the JSON export or of the API; ``film``: its results are boxes on a Video tag."""
    number, data = task["id"], task.get("data")
    data = data if isinstance(data, dict) else {}
    value = _shown(data, config)
    name = f"task-{number}"
    film = film or _has_video_tag(config)
    pages = [_address(entry) for entry in value] if isinstance(value, list) else []
    addresses = pages or ([value] if isinstance(value, str) else [])
    places = range(len(addresses))
    media = tuple(media_path(a, f"{name}-{k:05d}" if pages else name) for k, a in zip(places, addresses, strict=True))
    size = _size(data)
    if film:
        return Layout(f"task:{number}", name, True, 0, media[:1], True, size)
    if not isinstance(value, list):
        return Layout(f"task:{number}", name, media=media, size=size)
    video, start = data.get("video_id"), data.get("start_frame")
    if not isinstance(video, str | int) or not _whole(start):
        return Layout(f"task:{number}", name, True, 0, media, size=size)
    video = str(video).encode("utf-8", "replace").decode("utf-8")
    rate = data.get("video_fps")
    rate = rate if isinstance(rate, int | float) and not isinstance(rate, bool) and math.isfinite(rate) else 0
    return Layout(f"video:{video}:{rate:g}", safe_name(str(video)), True, start, media, size=size)


def safe_name(text: str) -> str:
    """A text from a task as the name of a file or folder; different texts keep different names."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:_LONGEST_NAME].lstrip(".")
    if plain and plain == text and not re.match(r"task-\d", plain):
        return plain
    digest = blake2s(text.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{plain or 'video'}-{digest}"


def name_at_rate(layout_name: str, item: str) -> str:
    """The name of a video that was imported once more, with other pages per second."""
    return f"{layout_name}-{item.rsplit(':', 1)[1]}fps"


def media_path(address: str, otherwise: str) -> str:
    """The path of a picture that a task names, relative and without host, query and signature; ``otherwise`` where
    there is none: pictures within the address itself."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d", [""])[0] if parts.path.endswith("/data/local-files/") else ""
    except ValueError:
        return otherwise
    path = local or unquote(parts.path)
    if parts.scheme == "data" or "\0" in path:
        return otherwise
    kept = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    if kept[:1] == ["data"] and path.startswith("/data/upload/"):
        kept = kept[1:]
    return "/".join(kept).encode("utf-8", "replace").decode("utf-8") or otherwise


def _shown(data: Mapping[str, Any], config: LabelConfig | None) -> Any:
    """What the task shows: by the labeling configuration, else the first list of addresses, else the first address."""
    tag = config.picture() if config is not None else None
    if tag is not None:
        try:
            return task_value(tag, data)
        except LabelConfigError:
            return None
    values = list(data.values())
    lists = [value for value in values if isinstance(value, list) and value and all(map(_address, value))]
    texts = [value for value in values if isinstance(value, str) and _is_media(value)]
    return lists[0] if lists else texts[0] if texts else None


def _has_video_tag(config: LabelConfig | None) -> bool:
    tag = config.picture() if config is not None else None
    return tag is not None and tag.kind == "video"


def _address(value: Any) -> str:
    if isinstance(value, Mapping):  # Label Studio takes {"url": ...} too
        value = value.get("url")
    return value if isinstance(value, str) else ""


def _is_media(text: str) -> bool:
    if text.startswith("data:image/"):
        return True
    path = PurePosixPath(urlsplit(text).path if "://" in text else text.partition("?")[0])
    return path.name.lower().endswith(_MEDIA) or text.startswith(("/data/", "http://", "https://", "s3://", "gs://"))


def _size(data: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) where the task's data tells it."""
    for height, width in (("height", "width"), ("video_height", "video_width")):
        sides = data.get(height), data.get(width)
        if all(_whole(side) and side for side in sides) and math.prod(sides) <= MOST_PIXELS:
            return sides
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_FRAMES


def frames_shown(layout: Layout, pages: Sequence[int]) -> int:
    """How many pages a task has; of those where the task does not tell, as many as have regions."""
    return max(1 if not layout.paged else len(layout.media) if not layout.film else 0, max(pages, default=-1) + 1)
