"""What the journal keeps as bytes: a few words as JSON, then packed masks. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backend.remembered import PackedMask, Step
from x2sam.structures import Point

BROKEN = (ValueError, KeyError, IndexError, TypeError)
"""What the readers raise for bytes that are no entry."""


def pack(words: Mapping[str, Any], masks: Sequence[PackedMask] = ()) -> bytes:
    """Words and masks as bytes; any text may be in the words."""
    sizes = [[mask.size, mask.box, len(mask.data)] for mask in masks]
    head = json.dumps([words, sizes], separators=(",", ":")).encode("ascii")
    return b"".join([len(head).to_bytes(4, "big"), head, *(mask.data for mask in masks)])


def unpack(data: bytes) -> tuple[dict[str, Any], list[PackedMask]]:
    """What :func:`pack` was given."""
    begin = 4 + int.from_bytes(data[:4], "big")
    words, sizes = json.loads(data[4:begin])
    masks = []
    for size, box, length in sizes:
        end = begin + length
        if end > len(data):
            raise ValueError("the entry is cut off")
        masks.append(PackedMask(tuple(size), tuple(box) if box is not None else None, data[begin:end]))
        begin = end
    return words, masks


def name_of(*parts: Any) -> str:
    """Parts as one text, for columns that are compared."""
    return json.dumps(parts, separators=(",", ":"))


def parts_of(name: str) -> tuple[Any, ...]:
    """What :func:`name_of` was given."""
    return tuple(json.loads(name))


def pack_step(step: Step) -> bytes:
    """An answer with what led to it."""
    words = {
        "label": step.label,
        "page": step.page,
        "score": step.score,
        "clicks": [[name, point.x, point.y, point.positive] for name, point in step.clicks],
        "boxes": step.boxes,
        "kept": step.kept,
        "saved": step.saved,
        "tracked": step.tracked,
        "version": step.version,
        "corrects": step.previous is not None,
    }
    return pack(words, [step.mask, *([step.previous] if step.previous is not None else []), *step.masks])


def unpack_step(data: bytes) -> Step:
    """What :func:`pack_step` was given."""
    words, masks = unpack(data)
    first = 2 if words["corrects"] else 1
    return Step(
        words["label"],
        words["page"],
        masks[0],
        words["score"],
        tuple((name, Point(x, y, positive)) for name, x, y, positive in words["clicks"]),
        tuple(tuple(box) for box in words["boxes"]),
        tuple(masks[first:]),
        masks[1] if words["corrects"] else None,
        words["kept"],
        words["saved"],
        words["tracked"],
        words.get("version", ""),  # of older releases
    )
