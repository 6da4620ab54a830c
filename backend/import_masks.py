"""Masks of other people's files into a project: whose pictures they are, under which labels, as what.

A picture of a file belongs to the page whose path it has, or ends with; a frame of a video that we exported belongs to
its number. Region ids are made from what the file calls an object, so that an object is one track over all pages and
tasks. What stands there just so is not sent again, and a run that was stopped is completed by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.errors import LabelConfigError
from backend.export_layout import layout_of, name_at_rate
from backend.export_staging import ExportError
from backend.import_files import READERS, Found, Shown, stem_of
from backend.label_config import ControlTag, LabelConfig, labels_of, parse_label_config
from backend.label_studio_api import LabelStudioApi
from backend.prompts import object_name
from backend.results import Item, Place, region_items, task_score
from backend.video_pages import PAGES, batches
from x2sam.structures import Mask

KINDS = ("predictions", "annotations")
LISTED = "annotations.json"
Report = Callable[[str, int, int], None]
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
_TASKS_PER_REQUEST = 50


@dataclass(frozen=True)
class Page:
    """A page of a task; ``number`` is None on a single picture."""

    task: int
    number: int | None


@dataclass(frozen=True)
class Wanted:
    """What to import. ``kind`` is one of :data:`KINDS`; ``prefix``: pictures that no task shows get tasks, with this
    before their names; ``label`` is that of masks whose file has no categories."""

    source: Path
    format: str
    project: int
    kind: str = "predictions"
    prefix: str = ""
    version: str = "imported"
    label: str = ""


@dataclass
class Brought:
    """What was sent: tasks and masks, tasks that had them already, new tasks; and what could not be: pictures that no
    task shows (the first ones by name), categories without a label."""

    tasks: int = 0
    masks: int = 0
    there: int = 0
    created: int = 0
    unknown: int = 0
    first_unknown: list[str] = field(default_factory=list)
    unlabelled: dict[str, int] = field(default_factory=dict)


def bring(api: LabelStudioApi, wanted: Wanted, report: Report) -> Brought:
    """Sends the masks of a file to a project.

    :raises ExportError: the format or kind is unknown, or nothing in the file belongs to the project.
    :raises FramesError: the file is damaged.
    :raises LabelStudioError: Label Studio can't be reached or refuses.
    """
    for name, value, known in (("format", wanted.format, READERS), ("as", wanted.kind, KINDS)):
        if value not in known:
            raise ExportError(f"--{name} is {value!r}; choose one of {', '.join(known)}.")
    if not wanted.source.exists():
        raise ExportError(f"There is no {wanted.source}; check the path.")
    listed = wanted.source / LISTED
    if wanted.format != "davis" and listed.is_file():  # the directory of an export
        wanted = replace(wanted, source=listed)
    config = parse_label_config(api.project(wanted.project).get("label_config") or "<View/>")
    tag = config.picture()
    if tag is None or tag.kind == "video":
        raise LabelConfigError(f"Project {wanted.project} shows no pictures; masks need an Image tag.")
    labels = Labels(config, tag.name, wanted.label)
    pages = PagesOf(config, api.listed_data(wanted.project))
    result = Brought()
    if wanted.prefix:
        result.created = _create(api, wanted, config, pages, READERS[wanted.format](wanted.source))
    parts: dict[int, list[tuple[int | None, Shown]]] = {}
    for shown in READERS[wanted.format](wanted.source):
        page = pages.find(shown)
        if page is not None:
            parts.setdefault(page.task, []).append((page.number, shown))
        elif shown.found:
            result.unknown += 1
            result.first_unknown = [*result.first_unknown, shown.name][:5]
    if not parts:
        raise ExportError(
            f"No task of project {wanted.project} shows a picture of {wanted.source}; import the pictures first, or "
            "give --media-prefix."
        )
    for done, (task, shown) in enumerate(sorted(parts.items()), 1):
        _send(api, wanted, labels, task, shown, result)
        report("items", done, len(parts))
    return result


class Labels:
    """Which label of a project a category is, and which tag holds it."""

    def __init__(self, config: LabelConfig, to_name: str, label: str = ""):
        self._found = labels_of(config.outputs(to_name))
        self.to_name, self._label = to_name, label
        if label and not any(label == own.value for own, _ in self._found):
            raise ExportError(f"The project has no label {label!r} for masks.")

    def of(self, category: str | int) -> tuple[str, ControlTag] | None:
        """The label that is the category's name, else one that is called so, whatever the case; of a number the label
        at that place, or the one that was given. None where there is none."""
        if isinstance(category, int):
            at = [(own, tag) for own, tag in self._found if own.value == self._label] if self._label else []
            at = at or self._found[category - 1 : category]
            return (at[0][0].value, at[0][1]) if at else None
        wanted = category.casefold()
        same = [(own.value, tag) for own, tag in self._found if category == own.value]
        alike = [
            (own.value, tag)
            for own, tag in self._found
            if wanted in {name.casefold() for name in (own.value, *own.names)}
        ]
        return next(iter(same or alike), None)


class PagesOf:
    """Where the pictures of a project are, by their paths without suffix and by the number of a frame."""

    def __init__(self, config: LabelConfig, tasks: Iterable[Mapping[str, Any]]):
        self._config = config
        self._places: dict[str, Page | None] = {}
        self._frames: dict[tuple[str, int], Page] = {}
        self._items: dict[str, str] = {}
        for task in tasks:
            self.add(task)

    def add(self, task: Mapping[str, Any]) -> None:
        """A task with its data."""
        layout = layout_of(task, self._config)
        first = self._items.setdefault(layout.name, layout.item) == layout.item
        video = layout.name if first else name_at_rate(layout.name, layout.item)
        for number, media in enumerate(layout.media):
            page = Page(task["id"], number if layout.paged else None)
            if layout.paged:
                self._frames[video, layout.start + number] = page
            for name in _names(media):
                # one name for two pictures is no name
                self._places[name] = page if name not in self._places else None

    def find(self, shown: Shown) -> Page | None:
        """The page that shows a picture of a file; None where none, or several may."""
        framed = self._frames.get((shown.video, shown.frame)) if shown.video else None
        if framed is not None:
            return framed
        names = list(_names(shown.name))
        # frames of different videos have the same numbers for names
        usable = [name for name in names if not (shown.video and name.isdecimal())]
        return next((page for name in usable if (page := self._places.get(name)) is not None), None)


def _names(media: str) -> Iterator[str]:
    """What a picture may be called, the longest first: its path, the end of it, without what an upload put before."""
    stem = stem_of(media)
    parts = stem.parts
    own = _UPLOADED.fullmatch(parts[-1]) if parts else None
    names = (stem.as_posix(), "/".join(parts[-2:]), "".join(parts[-1:]), own[1] if own else "")
    yield from dict.fromkeys(filter(None, names))


def _create(api: LabelStudioApi, wanted: Wanted, config: LabelConfig, pages: PagesOf, shown: Iterator[Shown]) -> int:
    """Makes tasks for pictures that no task shows: of a video tasks of pages, where the project has pages."""
    tag = config.picture()
    key = tag.key.removeprefix("$")
    missing: dict[str, list[Shown]] = {}
    for one in shown:
        if pages.find(one) is None:
            missing.setdefault(one.video if tag.pages else one.name, []).append(one)
    entries = []
    for video, frames in missing.items():
        addresses = [wanted.prefix + frame.name for frame in frames]
        if not tag.pages:
            entries.append({key: addresses[0]})
            continue
        for start in range(0, len(addresses), PAGES):
            linked = {"video_id": video, "start_frame": frames[start].frame} if video else {}
            entries.append({key: addresses[start : start + PAGES], **linked})
    for batch in batches(entries, _TASKS_PER_REQUEST):
        for task, data in zip(api.add_tasks(wanted.project, batch), batch, strict=True):
            pages.add({"id": task, "data": data})
    return len(entries)


def _send(
    api: LabelStudioApi,
    wanted: Wanted,
    labels: Labels,
    task: int,
    parts: Sequence[tuple[int | None, Shown]],
    result: Brought,
) -> None:
    items: list[Item] = []
    masks: list[Mask] = []
    for page, shown in parts:
        for found in shown.found:
            label = labels.of(found.category)
            if label is None:
                name = str(found.category)
                result.unlabelled[name] = result.unlabelled.get(name, 0) + 1
                continue
            mask = Mask(found.mask(), found.score)
            place = Place(_object_id(wanted, shown, found), labels.to_name, label[0], shown.size, page)
            made = region_items(label[1], place, mask)
            items += made
            masks += [mask] if made else []
    if not items:
        return
    if _is_there(api, wanted, task, items):
        result.there += 1
        return
    if wanted.kind == "annotations":
        api.annotate(task, items)
    else:
        score = task_score(masks)
        scored = {} if score is None else {"score": score}
        api.predict([{"task": task, "result": items, "model_version": wanted.version, **scored}])
    result.tasks += 1
    result.masks += len(masks)


def _object_id(wanted: Wanted, shown: Shown, found: Found) -> str:
    return object_name("import", wanted.format, shown.video or shown.name, found.track)


def _is_there(api: LabelStudioApi, wanted: Wanted, task: int, items: Sequence[Item]) -> bool:
    """Whether a run before sent just this. Label Studio adds entries of its own to the rows of annotations."""
    if wanted.kind == "predictions":
        standing = [one for one in api.predictions(task) if one.get("model_version") == wanted.version]
    else:
        standing = api.annotations(task)
    return any(_same(one.get("result"), items) for one in standing)


def _same(standing: Any, items: Sequence[Item]) -> bool:
    if not isinstance(standing, list):
        return False
    rows = {(row.get("id"), row.get("item_index")): row.get("value") for row in standing if isinstance(row, dict)}
    return all(rows.get((item["id"], item.get("item_index"))) == item["value"] for item in items)
