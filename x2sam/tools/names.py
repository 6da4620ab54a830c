"""What a mask is called outside."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam.structures import Mask


def name_of(mask: Mask, names: Sequence[str] = ()) -> str:
    """The name of its category, else its phrase, else ``object``."""
    return names[mask.category] if mask.category < len(names) else mask.phrase or "object"
