"""What the segments of a JPEG file tell before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

_START = b"\xff\xd8\xff"
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class JpegLayout:
    """``streamed``: the picture comes once from top to bottom, so a decoder that shrinks it holds a few rows only.

    Otherwise (progressive, or one scan for each colour) it holds every coefficient, two bytes for each sample.
    """

    streamed: bool


def jpeg_layout(content: bytes) -> JpegLayout | None:
    """The layout of a JPEG file; None for other files and for those whose segments are damaged."""
    if not content.startswith(_START):
        return None
    colours, position = 0, 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return None
        kind = content[position + 1]
        if kind == 0xFF or kind in _BARE:
            position += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        if kind in _PROGRESSIVE:
            return JpegLayout(streamed=False)
        if kind in _FRAMES and len(segment) > 5:
            colours = segment[5]
        if kind == _SCAN and segment:
            return JpegLayout(streamed=segment[0] == colours)
        position += 2 + max(length, 2)
    return None
