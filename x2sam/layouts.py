"""The families of published checkpoints, as rows: which network they are for, and what is read differently.

Sizes are in :mod:`x2sam.config`; how keys of a checkpoint tell its family is in :mod:`x2sam.model.key_layouts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One row.

    name:      as ``config.json`` has it
    title:     for people
    network:   ``x2sam``, or ``xsam``: pictures only, with a plain SAM encoder and a second picture encoder for the
               language model
    chat:      row of :data:`x2sam.inference.chat_text.STYLES`
    overlap:   how the query of interactive segmentation is compared with the prompt: ``mask`` or ``box``
    semantic:  where the maps of categories are added up: at the size of the ``picture`` or of the ``network``
    """

    name: str
    title: str
    network: str = "x2sam"
    chat: str = "qwen3"
    overlap: str = "mask"
    semantic: str = "picture"


_ROWS = (
    Layout("x2sam", "X2SAM"),
    Layout("xsam-2025", "X-SAM of 2025", "xsam", "phi3", "box", "network"),
    Layout("xsam-2026", "X-SAM in the layout of 2026", "xsam", "phi3-2026"),
)
LAYOUTS = {row.name: row for row in _ROWS}
X2SAM_LAYOUT = LAYOUTS["x2sam"]


@dataclass(frozen=True)
class SamEncoderConfig:
    """SAM's plain image encoder (Segment Anything, appendix A) and the connector that makes a pyramid of it (X-SAM).

    image_size:    side of the square that pictures are scaled and padded to
    taps:          after how many blocks the states are taken that become the maps, high to low resolution
    scales:        by how much the side of each of them grows
    region_tap:    after how many blocks the state is taken that the language model and the region sampler read
    """

    image_size: int = 1024
    patch: int = 16
    width: int = 1024
    blocks: int = 24
    heads: int = 16
    ffn: int = 4096
    window: int = 14
    global_blocks: tuple[int, ...] = (5, 11, 17, 23)
    taps: tuple[int, ...] = (12, 18, 24)
    scales: tuple[float, ...] = (2, 1, 0.5)
    region_tap: int = 23
    connector_width: int = 512
