"""Looking closely: what is in a box is answered about the part of the picture around it, at the network's full size.

A small network sees little of a small object in a whole picture. Where the model's settings give such looks some room
(:attr:`x2sam.inference.preprocess.PreprocessConfig.close_room`) and the box leaves enough of the picture out, the
picture is cut to a window and the prompt moves into it; the answer says which window it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from x2sam.structures import Prompt

MOST = 0.8  # of the picture; a window that shows more is no closer look
LEAST_ROOM = 0.03  # around a box, of the longer side of the picture: a few pixels alone tell nothing


@dataclass(frozen=True)
class Window:
    """A part of a picture in whole pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the part."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Where it lies in arrays (H, W, ...)."""
        return np.s_[self.y0 : self.y1, self.x0 : self.x1]

    def moved(self, prompt: Prompt) -> Prompt:
        """Clicks and boxes as they lie in the part; clicks beside it are left out."""
        inside = [p for p in prompt.points if self.x0 <= p.x <= self.x1 and self.y0 <= p.y <= self.y1]
        points = tuple(replace(p, x=p.x - self.x0, y=p.y - self.y0) for p in inside)
        boxes = tuple((a - self.x0, b - self.y0, c - self.x0, d - self.y0) for a, b, c, d in prompt.boxes)
        return replace(prompt, points=points, boxes=boxes)

    def laid_out(self, part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """An array of :attr:`shape` where the part lies in a picture (H, W); zeros beside it."""
        whole = np.zeros(size, part.dtype)
        whole[self.pixels] = part
        return whole


def window_of(prompt: Prompt, size: tuple[int, int], room: float) -> Window | None:
    """The part of a picture (H, W) to look at for ``prompt``, None where that is the whole picture.

    ``room`` around the boxes, in their common longer side. Drawings other than boxes and clicks may reach anywhere, so
    they are answered about the whole picture.
    """
    if not room or not prompt.boxes or prompt.strokes or prompt.masks or prompt.previous is not None:
        return None
    height, width = size
    x0, y0 = (min(max(0.0, box[i]) for box in prompt.boxes) for i in (0, 1))
    x1, y1 = (max(min(side, box[i]) for box in prompt.boxes) for i, side in ((2, width), (3, height)))
    if x0 >= x1 or y0 >= y1:  # beside the picture, which is refused elsewhere
        return None
    margin = max(room * max(x1 - x0, y1 - y0), LEAST_ROOM * max(size))
    window = Window(
        max(0, int(x0 - margin)), max(0, int(y0 - margin)),
        min(width, int(np.ceil(x1 + margin))), min(height, int(np.ceil(y1 + margin))),
    )  # fmt: skip
    shown = window.shape[0] * window.shape[1]
    return window if shown <= MOST * height * width else None

