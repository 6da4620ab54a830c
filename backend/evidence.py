"""What the person who asks has on the screen, as far as the request tells: regions that we named, prompts, texts.

Label Studio sends each person's own drafts, everybody's annotations and all predictions of the task. A draft is the
person's; an annotation only when one of the prompts just made stands in it; a prediction only while nobody has
annotated the task. Everything else may be another person's work and is no evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import BadRequestError
from backend.geometry import Size
from backend.label_config import SHAPES
from backend.protocol import Context, DrawnRegion, Json, TypedText, objects_in, picture_size, read_prompts
from backend.video_regions import VideoRegion, video_regions

ISSUED = re.compile(r"(obj[0-9a-f]{10}(?:n\d{1,4})?)(?:\.\d{1,4})?-(\d{4,9})", re.ASCII)
"""Ids that :mod:`backend.results` makes: the object, perhaps a part of its outline, the page."""


@dataclass(frozen=True, eq=False)
class StandingRegion:
    """A region with an id of ours, or one drawn by hand with the editor's id as its ``object_id``. ``size`` is the
    picture's ``(H, W)`` in the browser; ``value`` is still coded; ``to_name`` is the picture's tag."""

    object_id: str
    page: int
    label: str
    shape: str
    size: Size
    value: Mapping[str, Any]
    to_name: str = ""


@dataclass(frozen=True)
class Work:
    """What a person has before them. ``proposed``: it is a prediction that was not touched yet.

    ``person`` names whose draft it is, where there is one, ``saved`` when it was saved; both are for comparing only.
    ``drawn`` are masks that were drawn by hand, with ids of the editor; ``submitted`` the objects and pages that stand
    in the annotation that is worked on. ``annotation`` is what was submitted, where nobody but one person did: it may
    be what the person looks at who has no draft. ``boxes`` are rectangles over time on a Video tag, ``filed`` those
    that stand in the annotation that is worked on.
    """

    regions: tuple[StandingRegion, ...] = ()
    prompts: tuple[DrawnRegion, ...] = ()
    texts: tuple[TypedText, ...] = ()
    person: str | None = None
    saved: str | None = None
    proposed: bool = False
    drawn: tuple[StandingRegion, ...] = ()
    submitted: frozenset[tuple[str, int]] = frozenset()
    annotation: Work | None = None
    boxes: tuple[VideoRegion, ...] = ()
    filed: tuple[VideoRegion, ...] = ()

    def on(self, to_name: str) -> Work:
        """What of it lies on one picture: a task may show several beside each other."""
        shown = {
            name: tuple(one for one in getattr(self, name) if one.to_name in ("", to_name))
            for name in ("regions", "prompts", "texts", "drawn")
        }
        return replace(self, **shown, annotation=self.annotation.on(to_name) if self.annotation is not None else None)

    def standing(self, object_id: str, page: int) -> list[StandingRegion]:
        """The parts of an object on a page."""
        return [region for region in self.regions if region.object_id == object_id and region.page == page]


def parse_work(raw_task: Json, context: Context | None) -> Work:
    """What the person who made the prompts of ``context`` has before them."""
    prompt_ids = {prompt.id for prompt in (*context.regions, *context.texts)} if context else set()
    drafts = list(objects_in(raw_task.get("drafts")))
    annotations = list(objects_in(raw_task.get("annotations")))
    people = {str(draft.get("user")) for draft in drafts if draft.get("user") is not None}
    if len(people) > 1:
        drafts = [draft for draft in drafts if _holds(draft, prompt_ids)]
    if drafts:
        draft = max(drafts, key=lambda draft: (_holds(draft, prompt_ids), str(draft.get("updated_at") or "")))
        user, saved = draft.get("user"), draft.get("updated_at")
        named = draft.get("annotation")
        before = [entry for entry in annotations if named is not None and entry.get("id") == named]
        return replace(
            _work_of(draft),
            person=str(user) if user is not None else None,
            saved=saved if isinstance(saved, str) else None,
            submitted=frozenset(key for entry in before for key in _submitted(entry).submitted),
            filed=tuple(region for entry in before for region in _work_of(entry).boxes),
        )
    own = next((annotation for annotation in annotations if _holds(annotation, prompt_ids)), None)
    if own is not None:
        return _submitted(own)
    if annotations:
        return Work(annotation=_only_persons(annotations))
    predictions = [] if people else list(objects_in(raw_task.get("predictions")))
    newest = max(predictions, key=lambda entry: _whole(entry.get("id")), default=None)
    return _work_of(newest, proposed=True) if newest is not None else Work()


def _holds(entry: Json, prompt_ids: set[str]) -> bool:
    return any(isinstance(item.get("id"), str) and item["id"] in prompt_ids for item in objects_in(entry.get("result")))


def _only_persons(annotations: list[Json]) -> Work | None:
    """The newest annotation, where all are one person's."""
    people = {str(entry.get("completed_by")) for entry in annotations}
    newest = max(annotations, key=lambda entry: (str(entry.get("updated_at") or ""), _whole(entry.get("id"))))
    return _submitted(newest) if len(people) == 1 else None


def _submitted(annotation: Json) -> Work:
    work = _work_of(annotation)
    submitted = frozenset((region.object_id, region.page) for region in work.regions)
    return replace(work, submitted=submitted, filed=work.boxes)


def _work_of(entry: Json, proposed: bool = False) -> Work:
    items = list(objects_in(entry.get("result")))
    drawn = [item for item in items if not (isinstance(item.get("id"), str) and ISSUED.fullmatch(item["id"]))]
    prompts = Context() if proposed else read_prompts(drawn, strict=False)
    hand_made = tuple(region for region in _standing(drawn, _ANY) if region.shape != "rectangle")
    shown = {"proposed": proposed, "drawn": hand_made, "boxes": video_regions(items)}
    return Work(tuple(_standing(items)), prompts.regions, prompts.texts, **shown)


def _standing(items: Iterable[Json], names: re.Pattern = ISSUED) -> list[StandingRegion]:
    found: dict[tuple[str, int], StandingRegion] = {}
    labels: dict[str, str] = {}
    for item in items:
        named = names.fullmatch(item["id"]) if isinstance(item.get("id"), str) else None
        kind, value = item.get("type"), item.get("value")
        if named is None or not isinstance(kind, str) or not isinstance(value, dict):
            continue
        shape, page = kind.removesuffix("labels"), _whole(item.get("item_index"))
        if kind == "labels":  # the second result of a region of plain tags, with the label
            labels.setdefault(item["id"], _first(value.get("labels")))  # ours comes first, further tags after it
        if shape not in SHAPES or not _NEEDED[shape] <= value.keys():
            continue  # accepting while a prompt label is selected copies a mask into a result of the prompt's type
        try:
            size = picture_size(item)
        except BadRequestError:
            continue
        if size is not None:
            place = max(page, 0)
            tag = item.get("to_name")
            shown_on = tag if isinstance(tag, str) else ""
            region = StandingRegion(named[1], place, _first(value.get(kind)), shape, size, value, shown_on)
            found.setdefault((item["id"], place), region)
    return [
        region if region.label else replace(region, label=labels.get(name, "")) for (name, _), region in found.items()
    ]


_ANY = re.compile(r"(.{1,200})", re.DOTALL)
_NEEDED = {"brush": {"rle"}, "bitmask": {"imageDataURL"}, "polygon": {"points"}, "rectangle": {"x", "width"}}


def _first(labels: Any) -> str:
    return labels[0] if isinstance(labels, list) and labels and isinstance(labels[0], str) else ""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
