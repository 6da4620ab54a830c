"""Which object new clicks belong to, and what was said about it before.

Clicks belong to an object that we named when one of them was about it before, or when the person who clicks has it on
the screen (:mod:`backend.evidence`), with the same label, and clicks on it or close to it. What was said before comes
from :mod:`backend.remembered`; the mask in the draft tells which of the remembered answers it is, or that a person has
changed it, or that we forgot: then the mask itself is what the clicks correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.evidence import StandingRegion, Work
from backend.geometry import Box, Size, percent_to_point
from backend.prompts import Ask, all_name, drawn_prompt, object_name, text_name
from backend.protocol import DrawnRegion
from backend.remembered import PackedMask, Remembered, Step
from backend.standing import is_answer, standing_mask
from x2sam.structures import Mask, Point, Prompt

_RADIUS = 10 / 640  # of a click, in terms of the longer side


@dataclass(frozen=True)
class Completed:
    """A prompt with what belongs before it. ``click_ids`` has the id of each of its points, the first ``kept`` are not
    on the screen; ``changed``: a person changed the mask by hand, and none of these prompts is new."""

    prompt: Prompt
    click_ids: tuple[str, ...]
    kept: int = 0
    changed: bool = False


class History:
    """What is known to the person who made one request."""

    def __init__(self, task_id: str, work: Work, remembered: Remembered, size_of: Callable[[int], Size]):
        self._task_id, self._work, self._remembered, self._size_of = task_id, work, remembered, size_of

    def object_for(self, clicks: Sequence[DrawnRegion]) -> str | None:
        """The object that these clicks with one label continue; None for a new one."""
        first = clicks[0]
        known = self._remembered.object_of(self._task_id, first.label or "", (click.id for click in clicks))
        name = known or object_name(self._task_id, first.label, first.id)
        if known or any(region.object_id == name for region in self._work.regions):
            return name
        return self._nearest(first)

    def complete(self, object_id: str, page: int, regions: Sequence[DrawnRegion], prompt: Prompt) -> Completed:
        """The prompt that the regions give on a page, with what was said about the object there before."""
        clicks = [(r.id, p) for r, p in zip((r for r in regions if not r.box), prompt.points, strict=True)]
        steps = self._steps(object_id, page)
        mask, parts = self._standing(object_id, page)
        newest = steps[-1] if steps and steps[-1].mask.box is not None else None  # where it was out of sight all is new
        base = self._current(steps, mask, parts) if mask is not None else newest
        if mask is not None and base is None:
            return self._on_mask(mask.unpack(), steps, clicks, prompt)
        if prompt.boxes or prompt.masks:
            return self._box_again(base, prompt)
        if base is None:
            box = self._open_box(object_id, page, regions[0].label)
            return Completed(replace(box or Prompt(), points=prompt.points, object_id=object_id), _ids(clicks))
        on_screen = {name for name, _ in clicks}
        kept = base.clicks if mask is not None else base.clicks[: base.kept]
        kept = [click for click in kept if click[0] not in on_screen]
        return Completed(_joined(base, [*kept, *clicks], object_id), _ids([*kept, *clicks]), len(kept))

    def remember(self, ask: Ask, object_id: str, label: str, mask: Mask) -> None:
        """Takes note of an answer."""
        prompt = ask.prompt if object_id == ask.object_id and not ask.worded else Prompt()
        step = Step(
            label,
            ask.frame,
            PackedMask.of(mask.mask),
            mask.score,
            tuple(zip(ask.click_ids, prompt.points, strict=True)) if prompt.points else (),
            prompt.boxes,
            tuple(PackedMask.of(drawn) for drawn in prompt.masks),
            PackedMask.of(prompt.previous) if prompt.previous is not None else None,
            ask.kept,
            self._work.saved,
        )
        prompt_ids = ask.prompt_ids if object_id == ask.object_id else ()
        self._remembered.add(self._task_id, object_id, prompt_ids, step)

    def remember_track(self, object_id: str, label: str, page: int, mask: PackedMask, score: float) -> None:
        """Takes note of a mask that was carried to a page."""
        step = Step(label, page, mask, score, saved=self._work.saved, tracked=True)
        self._remembered.add(self._task_id, object_id, (), step)

    def lock(self, object_id: str, page: int) -> bool:
        """Makes a mask that was carried to a page, and stands there or waits to be accepted, the person's own; False
        where there is none, or it is already."""
        step = self.on_screen(object_id, page)[1]
        if step is None and not self._work.standing(object_id, page):
            step = next(reversed(self._remembered.steps(self._task_id, object_id, page)), None)
        if step is None or not step.tracked:
            return False
        locked = replace(step, tracked=False, saved=self._work.saved)
        self._remembered.add(self._task_id, object_id, (), locked)
        return True

    def note_gone(self, object_id: str, label: str, page: int) -> None:
        """A person says that an object is not in sight on a page: an empty mask is known there."""
        empty = PackedMask.of(np.zeros(self._size_of(page), bool))
        self._remembered.add(self._task_id, object_id, (), Step(label, page, empty, 1.0, saved=self._work.saved))

    def on_screen(self, object_id: str, page: int) -> tuple[PackedMask | None, Step | None]:
        """The mask that stands on a page, None when it can't be read, and the answer of ours that it is; None for what
        a person drew or changed, and for what we forgot."""
        parts = self._work.standing(object_id, page)
        mask = standing_mask(parts, self._size_of(page), self._remembered)
        known = mask is not None and mask.box is not None
        return mask, self._current(self._steps(object_id, page), mask, parts) if known else None

    def waiting_elsewhere(self, object_id: str, label: str, prompt_ids: Sequence[str], but: set[int]) -> list[Step]:
        """Where an object was carried to and nothing was accepted yet: a new answer takes it off the screen there."""
        known = self._remembered.object_of(self._task_id, label, prompt_ids) == object_id
        if not known or any(region.object_id == object_id for region in self._work.regions):
            return []
        pages = self._remembered.pages(self._task_id, object_id)
        newest = (self._steps(object_id, page) for page in pages)
        return [steps[-1] for steps in newest if steps and steps[-1].tracked and steps[-1].page not in but]

    def siblings(self, ask: Ask) -> list[tuple[str, Step]]:
        """The other objects of an answer that still waits to be accepted: a new answer takes them off the screen."""
        root = ask.object_id.split("n", 1)[0]
        if root not in self._open_families():
            return []
        steps = ((name, self._steps(name, ask.frame)) for name in self._family(root))
        standing = {region.object_id for region in self._work.regions}
        return [(name, own[-1]) for name, own in steps if own and name not in standing and name != ask.object_id]

    def standing_masks(self, label: str, page: int) -> list[np.ndarray]:
        """The masks with a label that the person has accepted on a page, bool (H, W)."""
        names = dict.fromkeys(r.object_id for r in self._work.regions if (r.label, r.page) == (label, page))
        masks = (self._standing(name, page)[0] for name in names)
        return [mask.unpack() for mask in masks if mask is not None]

    def example(self, page: int | None) -> Ask | None:
        """The newest thing on the screen that was drawn or accepted, as an example; None when there is nothing."""
        drawn = [r for r in self._work.prompts if r.positive and page in (None, r.page or 0)]
        if drawn:
            return self._drawn_example(drawn[-1])
        for region in reversed(self._work.regions):
            mask = self._standing(region.object_id, region.page)[0]
            if mask is not None and page in (None, region.page):
                return Ask(region.object_id, Prompt(masks=(mask.unpack(),)), "", label=region.label, page=region.page)
        return None

    def _drawn_example(self, region: DrawnRegion) -> Ask:
        number, label = region.page or 0, region.label
        name = self._remembered.object_of(self._task_id, label or "", [region.id]) or object_name(
            self._task_id, label, region.id
        )
        steps = self._steps(name, number)
        prompt = Prompt(masks=(steps[-1].mask.unpack(),)) if steps else drawn_prompt([region], self._size_of(number))
        return Ask(name, prompt, region.to_name, region.from_name, label, region.page, region.size)

    def _steps(self, object_id: str, page: int) -> tuple[Step, ...]:
        return self._remembered.steps(self._task_id, object_id, page)

    def _family(self, object_id: str) -> list[str]:
        return self._remembered.family(self._task_id, object_id)

    def _standing(self, object_id: str, page: int) -> tuple[PackedMask | None, list[StandingRegion]]:
        parts = self._work.standing(object_id, page)
        mask = standing_mask(parts, self._size_of(page), self._remembered) if parts else None
        return (mask if mask is not None and mask.box is not None else None), parts

    def _current(self, steps: Sequence[Step], mask: PackedMask, parts: Sequence[StandingRegion]) -> Step | None:
        """The remembered answer that stands in the draft. None: a person changed it, or we forgot.

        Label Studio saves drafts up to five seconds late: one that was not saved since the newest answer can't show it.
        """
        same = (step for step in reversed(steps) if step.mask == mask)  # most are: this needs no pixels
        found = next(same, None) or next((step for step in reversed(steps) if is_answer(parts, mask, step.mask)), None)
        late = found is not None and self._work.saved is not None and steps[-1].saved == self._work.saved
        return steps[-1] if late else found

    def _on_mask(
        self, mask: np.ndarray, steps: Sequence[Step], clicks: list[tuple[str, Point]], prompt: Prompt
    ) -> Completed:
        """Prompts about a mask that no remembered answer explains."""
        answered = {click for step in steps for click in step.clicks}
        new = [click for click in clicks if click not in answered]
        if prompt.boxes or prompt.masks:
            moved = bool(steps) and not any(set(prompt.boxes) <= set(step.boxes) for step in steps)
            return Completed(prompt, (), changed=not moved)
        points = tuple(point for _, point in new or clicks)
        return Completed(replace(prompt, points=points, previous=mask), _ids(new or clicks), changed=not new)

    def _box_again(self, base: Step | None, prompt: Prompt) -> Completed:
        """A box that was corrected by clicks keeps them as long as it is not moved."""
        if base is None or not base.clicks or base.boxes != prompt.boxes or prompt.masks:
            return Completed(prompt, ())
        return Completed(_joined(base, base.clicks, prompt.object_id), _ids(base.clicks), base.kept)

    def _open_box(self, object_id: str, page: int, label: str | None) -> Prompt | None:
        """The box in the draft that gave the object its name."""
        for region in self._work.prompts:
            here = region.box and (region.page or 0, region.label) == (page, label)
            if here and object_name(self._task_id, label, region.id) == object_id:
                return drawn_prompt([region], self._size_of(page))
        return None

    def _nearest(self, click: DrawnRegion) -> str | None:
        """The object on the screen, of the same label, that a click is on or close to; the smallest of several."""
        page = click.page or 0
        size = self._size_of(page)
        x, y = percent_to_point(click.x, click.y, size)
        found = []
        for name, mask, box, reach in (*self._accepted(click, size), *self._pending(click, size)):
            inside = box is not None and box[0] <= x <= box[2] and box[1] <= y <= box[3]
            away = 0.0 if inside else _distance(mask, x, y, reach) if mask is not None else math.inf
            if away <= reach:
                found.append((away, _area(mask.box if mask is not None else box), name))
        return min(found)[2] if found else None

    def _accepted(self, click: DrawnRegion, size: Size) -> Iterator[tuple[str, PackedMask, None, float]]:
        """Regions that stand in the draft or the prediction: close to them is at most where a click would touch."""
        radius = max(10.0, _RADIUS * max(size))
        reach = radius * (2 if not click.positive else 0 if self._work.proposed else 1)
        own = [r for r in self._work.regions if (r.label, r.page) == (click.label or "", click.page or 0)]
        for name in dict.fromkeys(region.object_id for region in own):
            mask = self._standing(name, click.page or 0)[0]
            if mask is not None:
                yield name, mask, None, reach

    def _pending(self, click: DrawnRegion, size: Size) -> Iterator[tuple[str, PackedMask | None, Box | None, float]]:
        """Answers to boxes and texts in the draft. Nobody accepted them yet, and the next answer replaces them, so a
        click need not be as close."""
        page, label, standing = click.page or 0, click.label or "", {r.object_id for r in self._work.regions}
        places: list[tuple[str, Box | None]] = []
        for region in self._work.prompts:
            if region.box and (region.page or 0, region.label or "") == (page, label):
                name = self._remembered.object_of(self._task_id, label, [region.id])
                prompt = drawn_prompt([region], size)
                box = prompt.boxes[0] if prompt.boxes else None
                places.append((name or object_name(self._task_id, region.label, region.id), box))
        for root in self._open_families():
            places += [(name, None) for name in self._family(root)]
        for name, box in places:
            steps = [step for step in self._steps(name, page) if step.label == label]
            mask = steps[-1].mask if steps else None
            around = mask.box if mask is not None and mask.box is not None else box
            if name not in standing and around is not None:
                diagonal = math.hypot(around[2] - around[0], around[3] - around[1])
                yield name, mask, box, max(20.0, 2 * _RADIUS * max(size), diagonal / (2 if len(places) == 1 else 4))

    def _open_families(self) -> list[str]:
        """The first names of answers with several objects, for what is on the screen: texts, and "all like this"."""
        names = [text_name(self._task_id, text) for text in self._work.texts]
        return names + [all_name(self._task_id, region.label, region.id) for region in self._work.prompts]


def _joined(base: Step, clicks: Sequence[tuple[str, Point]], object_id: str | None) -> Prompt:
    """The clicks, and the rest of what led to an answer; to words nothing can be added, so their mask is corrected."""
    previous = base.mask if base.worded else base.previous
    return Prompt(
        points=tuple(point for _, point in clicks),
        boxes=base.boxes,
        masks=tuple(mask.unpack() for mask in base.masks),
        previous=previous.unpack() if previous is not None else None,
        object_id=object_id,
    )


def _ids(clicks: Sequence[tuple[str, Point]]) -> tuple[str, ...]:
    return tuple(name for name, _ in clicks)


def _distance(mask: PackedMask, x: float, y: float, reach: float) -> float:
    """From a point to the closest pixel of a mask: 0 on it, infinite beyond ``reach``."""
    box = mask.box
    if box is None or max(box[0] - x, x - box[2], box[1] - y, y - box[3]) > reach:
        return math.inf
    height, width = mask.size
    pixels = mask.unpack()
    if pixels[min(int(y), height - 1), min(int(x), width - 1)]:
        return 0.0
    x0, y0 = max(int(x - reach) - 1, 0), max(int(y - reach) - 1, 0)
    rows, cols = np.nonzero(pixels[y0 : int(y + reach) + 2, x0 : int(x + reach) + 2])
    if not len(rows):
        return math.inf
    away = float(np.hypot(cols + x0 + 0.5 - x, rows + y0 + 0.5 - y).min())
    return away if away <= reach else math.inf


def _area(box: Box | None) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) if box else math.inf
