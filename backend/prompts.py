"""Drawn regions and typed text -> questions to the engine, in pixels of the picture as a person sees it.

Label Studio sends all prompts of one label together, on all pages, in the order in which they were made. One page of
one object becomes one :class:`Ask`. Names of objects are made from ids that the browser gave to the prompts, so the
same prompts give the same names and an answer replaces the one before it instead of lying beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2s

from backend.errors import LabelConfigError
from backend.geometry import Size, corners_to_box, corners_to_mask, percent_to_corners, percent_to_point
from backend.label_config import ControlTag, LabelConfig
from backend.protocol import DrawnRegion, Task, TypedText
from x2sam.errors import PromptError
from x2sam.structures import Point, Prompt

LONGEST_TEXT = 2000


@dataclass(frozen=True, eq=False)
class Ask:
    """One question about one page, and how to name the answer.

    ``page`` is None on a task with a single picture; ``shown`` is the picture's ``(H, W)`` in the browser, if known.
    """

    object_id: str
    prompt: Prompt
    to_name: str
    from_name: str | None = None
    label: str | None = None
    page: int | None = None
    shown: Size | None = None

    @property
    def frame(self) -> int:
        return self.page or 0


def region_asks(task: Task, regions: Iterable[DrawnRegion], size_of: Callable[[int], Size]) -> list[Ask]:
    """Questions for clicks and boxes. ``size_of(frame)`` is the ``(H, W)`` of a page.

    All clicks with one label are one object. Each box on a page is an object of its own, and the n-th boxes of several
    pages are the same one.

    :raises PromptError: turned picture, box without area, or no positive click at all.
    """
    objects: dict[tuple, dict[int | None, list[DrawnRegion]]] = {}
    for region in regions:
        _check_upright(region, size_of(region.page or 0))
        kind = (region.to_name, region.from_name, region.label, region.box)
        ordinal = _boxes_before(objects, kind, region.page) if region.box else 0
        objects.setdefault((*kind, ordinal), {}).setdefault(region.page, []).append(region)
    asks = [ask for pages in objects.values() for ask in _object_asks(task, pages, size_of)]
    if objects and not asks:
        raise PromptError("All clicks say what does not belong to the object: add a click on it, without Alt.")
    return asks


def text_asks(task: Task, texts: Iterable[TypedText], config: LabelConfig) -> list[Ask]:
    """Questions for the texts in prompt TextAreas: the newest of each page.

    Where several pages have a text, Label Studio sends them all again; a page whose answer already stands in the
    annotation is left out then, so that what was corrected there by hand is not replaced.

    :raises PromptError: a text is too long.
    """
    newest = {text.page: text for text in texts if config.is_text_prompt(text.from_name)}
    asks = []
    for page, text in newest.items():
        if len(text.text) > LONGEST_TEXT:
            raise PromptError(f"The text is longer than {LONGEST_TEXT} characters; shorten it.")
        name = object_name(task.id, text.id, text.text, str(page))
        asks.append(Ask(name, Prompt(text=text.text), text.to_name, text.from_name, page=page))
    if len(asks) > 1:
        asks = [ask for ask in asks if not any(known.startswith(ask.object_id) for known in task.region_ids)]
    return asks


def category_ask(task: Task, control: ControlTag, to_name: str) -> tuple[Ask, list[str]]:
    """The question for everything that the labels of a control name, and the label of each category."""
    names = [(name, label.value) for label in control.labels for name in label.names]
    prompt = Prompt(categories=tuple(name for name, _ in names))
    return Ask(object_name(task.id, "all"), prompt, to_name), [value for _, value in names]


def label_in_text(control: ControlTag, *texts: str | None) -> str:
    """The label of a control that the first text names, the longest one; else the next text's; else its first label.

    :raises LabelConfigError: the control has no labels.
    """
    if not control.labels:
        raise LabelConfigError(f"The tag '{control.name}' has no labels; add at least one.")
    for text in filter(None, texts):
        named = [
            (len(name), label.value)
            for label in control.labels
            for name in (label.value, *label.names)
            if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
        ]
        if named:
            return max(named, key=lambda pair: pair[0])[1]
    return control.labels[0].value


def object_name(*parts: str | None) -> str:
    """A short name that is the same for the same parts: they come from the browser, so only a digest is used."""
    digest = blake2s("\x1f".join(part or "" for part in parts).encode("utf-8", "replace"), digest_size=5)
    return f"obj{digest.hexdigest()}"


def _boxes_before(objects: dict, kind: tuple, page: int | None) -> int:
    """How many objects of this kind already have a box on this page: the number of the next one."""
    return sum(key[:-1] == kind and page in pages for key, pages in objects.items())


def _check_upright(region: DrawnRegion, size: Size) -> None:
    if region.image_rotation % 360:
        raise PromptError("The picture is turned in the editor; turn it back upright before clicking.")
    height, width = size
    if height != width and region.size == (width, height):
        raise PromptError(
            f"The browser shows the picture turned: {height} x {width} pixels, in the file upright {width} x {height}. "
            "Save the picture without EXIF orientation, or use another browser."
        )


def _object_asks(
    task: Task, pages: dict[int | None, list[DrawnRegion]], size_of: Callable[[int], Size]
) -> Iterator[Ask]:
    first = next(iter(pages.values()))[0]
    name = object_name(task.id, first.label, first.id)
    for page, regions in pages.items():
        prompt = _region_prompt(name, regions, size_of(page or 0))
        if prompt.has_region:
            yield Ask(name, prompt, first.to_name, first.from_name, first.label, page, regions[-1].size)


def _region_prompt(name: str, regions: list[DrawnRegion], size: Size) -> Prompt:
    points, boxes, masks = [], [], []
    for region in regions:
        if not region.box:
            points.append(Point(*percent_to_point(region.x, region.y, size), positive=region.positive))
            continue
        corners = percent_to_corners(region.x, region.y, region.width, region.height, region.rotation, size)
        x0, y0, x1, y1 = box = corners_to_box(corners, size)
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise PromptError("The box has no area inside the picture; draw a larger one.")
        if region.rotation % 360:
            masks.append(corners_to_mask(corners, size))
        else:
            boxes.append(box)
    return Prompt(points=tuple(points), boxes=tuple(boxes), masks=tuple(masks), object_id=name)
