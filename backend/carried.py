"""Which objects of a task are carried over its pages, and on which pages their masks are known.

Known is what a person drew or changed, what was submitted, what was answered to a prompt on the page itself, and the
pages that a person said it is gone from. Masks that were only carried to a page and accepted as they were are not: they
are made anew, unless the person locks them.
Without a journal nothing tells one from the other after a restart, and all that stands is taken for the person's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.errors import EXPECTED, MediaTimeoutError
from backend.evidence import StandingRegion, Work
from backend.geometry import Size
from backend.history import History
from backend.prompts import all_name, object_name, text_name
from backend.protocol import TypedText
from backend.remembered import PackedMask, Remembered, Step
from backend.standing import standing_mask


@dataclass(frozen=True)
class Known:
    """A mask on a page, how sure it is, and how doubtful, where a track made it."""

    mask: PackedMask
    score: float = 1.0
    doubt: float | None = None


@dataclass(frozen=True, eq=False)
class Carried:
    """An object to carry. ``known`` are its known masks by page; of these and others, ``kept`` are pages that stand as
    they should and get no answer; ``anew`` are masks that were carried to pages before and are made again. ``shape`` is
    that of its standing regions, if there are any."""

    object_id: str
    label: str
    known: Mapping[int, Known]
    kept: frozenset[int] = frozenset()
    shape: str | None = None
    anew: Mapping[int, Known] = field(default_factory=dict)

    @property
    def seen(self) -> list[int]:
        """The known pages on which it is seen."""
        return sorted(page for page, one in self.known.items() if one.mask.box is not None)

    def begun(self) -> Carried:
        """The same; where it is known on no page, the surest of the masks that would be made again counts as known."""
        in_sight = [page for page, one in self.anew.items() if one.mask.box is not None]
        if self.seen or not in_sight:
            return self
        surest = max(in_sight, key=lambda page: self.anew[page].score)
        return replace(self, known={**self.known, surest: self.anew[surest]})


@dataclass(frozen=True, eq=False)
class Screen:
    """What one person has on the screen of one task."""

    task_id: str
    work: Work
    history: History
    remembered: Remembered
    size_of: Callable[[int], Size]
    _prompted: dict[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, task_id: str, work: Work, remembered: Remembered, size_of: Callable[[int], Size]) -> Screen:
        """Where a person has no draft, what was submitted is taken for what they look at."""
        empty = not (work.regions or work.drawn or work.prompts)
        if empty and work.annotation is not None:
            work = work.annotation
        return cls(task_id, work, History(task_id, work, remembered, size_of), remembered, size_of)

    def object(self, object_id: str, label: str, new: Mapping[int, Known] | None = None) -> Carried:
        """One object; ``new`` are masks that the same request found."""
        new = new or {}
        known, kept, anew = dict(new), set(), {}
        regions = [region for region in self.work.regions if region.object_id == object_id]
        standing = {region.page for region in regions}
        for page in sorted(standing - new.keys()):
            try:
                mask, step = self.history.on_screen(object_id, page)
            except MediaTimeoutError:
                raise  # the next one would take as long
            except EXPECTED:  # its page can't be had: what stands there stays
                kept.add(page)
                continue
            if step is not None and step.tracked and (object_id, page) not in self.work.submitted:
                anew[page] = Known(step.mask, step.score)
                continue
            kept.add(page)
            if mask is not None:
                known[page] = Known(step.mask, step.score) if step is not None else Known(mask)
        for page in self._answered(object_id):
            step = self._newest(object_id, page)
            gone = not step.tracked and step.mask.box is None
            waits = not standing or page in self._prompted.get(object_id, ())
            if page in standing or page in new or not (waits or gone):
                continue
            if gone:
                kept.add(page)
            (anew if step.tracked else known)[page] = Known(step.mask, step.score)
        return Carried(object_id, label, known, frozenset(kept), regions[0].shape if regions else None, anew)

    def objects(
        self, texts: Iterable[TypedText] = (), new: Mapping[str, Mapping[int, Known]] | None = None
    ) -> list[Carried]:
        """All objects: those with names of ours that stand or wait to be accepted, and masks drawn by hand that belong
        to them; where there are none, all masks drawn by hand. Without those that are seen on no page. ``new`` are
        masks that the same request found."""
        labels = {region.object_id: region.label for region in reversed(self.work.regions)}
        labels = dict(reversed(labels.items()))
        for name, label in self._waiting(texts):
            labels.setdefault(name, label)
        found = {name: self.object(name, label, (new or {}).get(name)) for name, label in labels.items()}
        found |= self._with_drawn(found)
        begun = [one.begun() for one in found.values()]
        return [one for one in begun if one.seen]

    def _answered(self, object_id: str) -> list[int]:
        return self.remembered.pages(self.task_id, object_id)

    def _newest(self, object_id: str, page: int) -> Step:
        return self.remembered.steps(self.task_id, object_id, page)[-1]

    def _waiting(self, texts: Iterable[TypedText]) -> Iterable[tuple[str, str]]:
        """Names and labels of what prompts on the screen found and nobody has accepted."""
        standing = {region.object_id for region in self.work.regions}
        roots = [text_name(self.task_id, text) for text in (*texts, *self.work.texts)]
        for prompt in self.work.prompts:
            label = prompt.label or ""
            name = self.remembered.object_of(self.task_id, label, [prompt.id])
            roots.append(all_name(self.task_id, prompt.label, prompt.id))
            if name is not None:
                self._prompted.setdefault(name, set()).add(prompt.page or 0)
                yield name, label
        for root in dict.fromkeys(roots):
            family = [name for name in self.remembered.family(self.task_id, root) if self._answered(name)]
            if not standing & set(family):
                for name in family:
                    yield name, self._newest(name, self._answered(name)[0]).label

    def _with_drawn(self, found: Mapping[str, Carried]) -> dict[str, Carried]:
        """Objects with masks drawn by hand. The n-th masks with a label on several pages are one object."""
        groups: dict[tuple[str, int], dict[int, StandingRegion]] = {}
        for region in self.work.drawn:
            before = sum(label == region.label and region.page in pages for (label, _), pages in groups.items())
            groups.setdefault((region.label, before), {})[region.page] = region
        changed = {}
        for (label, ordinal), regions in groups.items():
            names = [object_name(self.task_id, label, "drawn", region.object_id) for region in regions.values()]
            same = [name for name, one in found.items() if one.label == label]
            mine = next((name for name in names if name in found), None)
            if mine is None and len(same) == 1 and ordinal == 0:
                mine = same[0]
            if mine is None and found:
                continue
            start = found[mine] if mine is not None else Carried(names[0], label, {}, frozenset())
            one = self._joined(start, regions.values())
            changed[one.object_id] = one
        return changed

    def _joined(self, one: Carried, regions: Iterable[StandingRegion]) -> Carried:
        standing = {region.page for region in self.work.regions if region.object_id == one.object_id}
        known, kept = dict(one.known), set(one.kept)
        for region in regions:
            mask = standing_mask([region], self.size_of(region.page), self.remembered)
            if region.page not in standing:
                kept.add(region.page)
                if mask is not None:
                    known[region.page] = Known(mask)
        return replace(one, known=known, kept=frozenset(kept))


def fingerprint(objects: Sequence[Carried]) -> tuple:
    """Equal where nothing that is known has changed."""
    return tuple(
        (one.object_id, tuple(sorted((page, known.mask.size, known.mask.data) for page, known in one.known.items())))
        for one in objects
    )
