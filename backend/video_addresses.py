"""Addresses of frames that this backend serves: ``<base>/frames/<video id>/<frame>.jpg?s=<signature>``.

A signature says that we made the address. It covers the video and the frame, not the base: the same frame may be
reached under several names of the server. Signatures do not expire, since tasks keep them for years; they end when
their key does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

_PATH = re.compile(r"/frames/([0-9a-f]{16})/(0|[1-9][0-9]{0,8})\.jpg")
_LENGTH = 32  # hexadecimal digits: 128 bits


def signature(key: bytes, video_id: str, frame: int) -> str:
    """What stands behind ``s=``."""
    return hmac.new(key, f"frame {video_id} {frame}".encode(), hashlib.sha256).hexdigest()[:_LENGTH]


def frame_address(base: str, key: bytes, video_id: str, frame: int) -> str:
    """The address of a frame, counted from 0, under the server's public address."""
    return f"{base.rstrip('/')}/frames/{video_id}/{frame}.jpg?s={signature(key, video_id, frame)}"


def is_signed(keys: Iterable[bytes], video_id: str, frame: int, given: str) -> bool:
    """Whether a signature was made with one of the keys."""
    given_bytes = given.encode("utf-8", "replace")
    return any([hmac.compare_digest(signature(key, video_id, frame).encode(), given_bytes) for key in keys])


def split_address(address: str) -> tuple[str, int, str] | None:
    """Video id, frame and signature of an address that looks like ours; None for others."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    path = _PATH.search(parts.path)
    if path is None or path.end() != len(parts.path) or not parts.query.startswith("s="):
        return None
    return path[1], int(path[2]), parts.query[2:]


def same_pages(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of addresses are of the same pages: ours may have been signed anew, or be under a new name of
    the server."""
    if len(one) != len(other):
        return False
    return all(a == b or _frame_of(a) == _frame_of(b) for a, b in zip(one, other, strict=True))


def _frame_of(address: str) -> tuple[str, int] | str:
    parts = split_address(address)
    return address if parts is None else parts[:2]
