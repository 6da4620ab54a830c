"""Drawn regions -> questions to the engine, in pixels of the picture as a person sees it.

Label Studio sends all prompts of one label together, on all pages, in the order in which they were made. One page of
one object becomes one :class:`Ask`. Names of objects are made from ids that the browser gave to the prompts, so the
same prompts give the same names and an answer replaces the one before it instead of lying beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING

from backend.geometry import Size, corners_to_box, corners_to_mask, percent_to_corners, percent_to_point
from backend.protocol import DrawnRegion, Task, TypedText
from x2sam.errors import PromptError
from x2sam.structures import Point, Prompt

if TYPE_CHECKING:
    from backend.history import Completed, History

ONLY_NEGATIVE = (
    "All clicks say what does not belong to the object: add a click on it, without Alt. To correct a mask that you "
    "accepted just now, wait until Label Studio has saved it (5 seconds), then click again."
)


@dataclass(frozen=True, eq=False)
class Ask:
    """One question about one page, and how to name the answer.

    ``page`` is None on a task with a single picture; ``shown`` is the picture's ``(H, W)`` in the browser, if known.
    ``prompt_ids`` are the ids of the prompts of the request, ``click_ids`` those of the prompt's points, of which the
    first ``kept`` are no longer on the screen. ``unlike`` are places of what "all like this" must not find, and
    ``worded`` says that the mask is all that can be corrected. ``typed`` is the text that the model was asked;
    ``here``: it is about its page only, however many there are.
    """

    object_id: str
    prompt: Prompt
    to_name: str
    from_name: str | None = None
    label: str | None = None
    page: int | None = None
    shown: Size | None = None
    prompt_ids: tuple[str, ...] = ()
    click_ids: tuple[str, ...] = ()
    kept: int = 0
    unlike: tuple[Point, ...] = ()
    worded: bool = False
    typed: str | None = None
    here: bool = False

    @property
    def frame(self) -> int:
        return self.page or 0


def region_asks(
    task: Task, regions: Iterable[DrawnRegion], size_of: Callable[[int], Size], history: History | None = None
) -> list[Ask]:
    """Questions for clicks and boxes. ``size_of(frame)`` is the ``(H, W)`` of a page.

    All clicks with one label are one object: the one that they continue according to ``history``, or a new one. Each
    box on a page is an object of its own, and the n-th boxes of several pages are the same one. A page whose mask was
    changed by hand since is left out where there is something else to answer.

    :raises PromptError: turned picture, box without area, or nothing that a negative click could take away from.
    """
    objects: dict[tuple, dict[int | None, list[DrawnRegion]]] = {}
    for region in regions:
        check_upright(region, size_of(region.page or 0))
        kind = (region.to_name, region.from_name, region.label, region.box)
        ordinal = _boxes_before(objects, kind, region.page) if region.box else 0
        objects.setdefault((*kind, ordinal), {}).setdefault(region.page, []).append(region)
    asks = [pair for pages in objects.values() for pair in _object_asks(task, pages, size_of, history)]
    if objects and not asks:
        raise PromptError(ONLY_NEGATIVE)
    return [ask for ask, changed in asks if not changed] or [ask for ask, _ in asks]


def all_asks(task: Task, regions: Iterable[DrawnRegion], size_of: Callable[[int], Size]) -> list[Ask]:
    """Questions for everything that is like what was clicked or boxed: one for each label and page.

    :raises PromptError: as :func:`region_asks`.
    """
    groups: dict[tuple, list[DrawnRegion]] = {}
    for region in regions:
        check_upright(region, size_of(region.page or 0))
        groups.setdefault((region.to_name, region.from_name, region.label, region.page), []).append(region)
    asks = []
    for (to_name, from_name, label, page), drawn in groups.items():
        name = all_name(task.id, label, drawn[0].id)
        whole = drawn_prompt(drawn, size_of(page or 0))
        points = tuple(point for point in whole.points if point.positive)
        prompt = Prompt(points=points, boxes=whole.boxes, masks=whole.masks, task="vgdseg", object_id=name)
        unlike = tuple(point for point in whole.points if not point.positive)
        ids = tuple(region.id for region in drawn)
        if prompt.has_region:
            shown = drawn[-1].size
            asks.append(Ask(name, prompt, to_name, from_name, label, page, shown, ids, unlike=unlike, worded=True))
    if groups and not asks:
        raise PromptError(ONLY_NEGATIVE)
    return asks


def object_name(*parts: str | None) -> str:
    """A short name that is the same for the same parts: they come from the browser, so only a digest is used."""
    digest = blake2s("\x1f".join(part or "" for part in parts).encode("utf-8", "replace"), digest_size=5)
    return f"obj{digest.hexdigest()}"


def text_name(task_id: str, text: TypedText) -> str:
    """The name of what a text finds."""
    return object_name(task_id, text.id, text.text, str(text.page))


def all_name(task_id: str, label: str | None, prompt_id: str) -> str:
    """The name of what is like a click or box."""
    return object_name(task_id, label, prompt_id, "all")


def drawn_prompt(regions: Sequence[DrawnRegion], size: Size, name: str | None = None) -> Prompt:
    """Points and boxes of one object on a page of ``size`` (H, W); turned boxes become masks.

    :raises PromptError: a box has no area inside the picture.
    """
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


def check_upright(region: DrawnRegion, size: Size) -> None:
    """:raises PromptError: the browser shows the picture turned."""
    if region.image_rotation % 360:
        raise PromptError("The picture is turned in the editor; turn it back upright before clicking.")
    height, width = size
    if height != width and region.size == (width, height):
        raise PromptError(
            f"The browser shows the picture turned: {height} x {width} pixels, in the file upright {width} x {height}. "
            "Save the picture without EXIF orientation, or use another browser."
        )


def _boxes_before(objects: dict, kind: tuple, page: int | None) -> int:
    """How many objects of this kind already have a box on this page: the number of the next one."""
    return sum(key[:-1] == kind and page in pages for key, pages in objects.items())


def _object_asks(
    task: Task, pages: dict[int | None, list[DrawnRegion]], size_of: Callable[[int], Size], history: History | None
) -> Iterator[tuple[Ask, bool]]:
    """The questions about one object, each with whether its answer was changed by hand since."""
    drawn = [region for regions in pages.values() for region in regions]
    first = drawn[0]
    name = None if history is None or first.box else history.object_for(drawn)
    name = name or object_name(task.id, first.label, first.id)
    for page, regions in pages.items():
        prompt = drawn_prompt(regions, size_of(page or 0), name)
        click_ids = tuple(region.id for region in regions if not region.box)
        kept, changed = 0, False
        if history is not None:
            done: Completed = history.complete(name, page or 0, regions, prompt)
            prompt, click_ids, kept, changed = done.prompt, done.click_ids, done.kept, done.changed
        if prompt.has_region or prompt.previous is not None:
            ids = tuple(region.id for region in regions)
            tags = first.to_name, first.from_name
            yield Ask(name, prompt, *tags, first.label, page, regions[-1].size, ids, click_ids, kept), changed
