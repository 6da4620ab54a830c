"""Results of one annotation -> regions, without the rows that are no regions; what was left out is counted by kind.

What Label Studio stores besides regions: open prompts, when they stand there at submitting; copies of a mask under the
control of a prompt, when it is accepted while a prompt's label is selected; a sentence of ours under the control of a
mask, without pixels; a second row with the label for tags without labels of their own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import BadRequestError, LabelConfigError
from backend.evidence import ISSUED
from backend.export_shapes import NEEDED
from backend.geometry import Size
from backend.label_config import LabelConfig
from backend.protocol import Json, objects_in, picture_size
from x2sam.data.readers.files import MOST_PIXELS

UNLABELLED = "unlabelled"
"""The category of regions that were drawn without a label."""
SKIPPED: Mapping[str, str] = {
    "cancelled": "annotations that were skipped by their annotator",
    "older": "annotations that a newer one of the same task replaces",
    "outvoted": "objects that most annotators did not draw",
    "copy": "rows that copy another one, or hold no pixels",
    "prompt": "prompts that were open when the task was submitted",
    "elsewhere": "regions on another picture of their task than its first one",
    "turned": "regions on a picture that was turned in the editor",
    "unsized": "regions whose picture has an unknown size (--video-size tells that of videos)",
    "beyond": "regions on pages that their task does not have",
    "damaged": "regions that can't be read",
    "empty": "regions without a single pixel",
    "sizeless": "pages without a region, of an unknown size",
    "shadowed": "pages that a newer annotation of another task shows too",
}
"""Why something is not in an export."""
_SHAPES = ("brush", "bitmask", "polygon", "ellipse", "rectangle", "keypoint", "videorectangle")
_PIXELS = frozenset({"brush", "bitmask", "polygon", "ellipse"})
_PROMPTS = frozenset({"rectangle", "keypoint"})
_TRACK = re.compile(r"(.{1,190}?)(?:\.\d{1,4})?-(\d{4,9})", re.DOTALL | re.ASCII)
_ORIGINS = {"prediction": "untouched", "prediction-changed": "edited"}
ORIGINS = ("untouched", "edited", "accepted", "drawn")
"""Whence a region is: a prediction as it was, one that a person changed, an accepted suggestion, or a person's own."""


@dataclass(frozen=True, eq=False)
class Region:
    """A region of an annotation. ``object`` is its name on all pages, empty where it was drawn by hand; ``place`` its
    position among the results; ``size`` the picture's (H, W) in the browser, None where the row does not tell; ``tag``
    the name of the picture's tag, empty where the row does not tell."""

    id: str
    object: str
    page: int
    label: str
    shape: str
    size: Size | None
    value: Mapping[str, Any]
    origin: str
    score: float | None
    place: int
    tag: str = ""


@dataclass(frozen=True)
class _Row:
    place: int
    id: str
    page: int
    shape: str
    item: Json
    value: Mapping[str, Any]

    @property
    def tag(self) -> str:
        name = self.item.get("to_name")
        return name if isinstance(name, str) else ""

    @property
    def issued(self) -> bool:
        return ISSUED.fullmatch(self.id) is not None


def read_regions(
    items: Any, config: LabelConfig | None = None, shapes: frozenset[str] = frozenset(_SHAPES)
) -> tuple[list[Region], Counter[str]]:
    """The regions of a result, in its order, and how many rows were left out, by keys of :data:`SKIPPED`.

    ``config`` tells prompts by their tags; without it boxes and points beside drawn masks are taken for prompts. It
    also tells which picture is the first one, where a task shows several; regions on others are left out.
    ``shapes`` are those that are wanted; rows of others are passed over.
    """
    skipped: Counter[str] = Counter()
    labels: dict[str, str] = {}
    groups: dict[tuple[str, int], list[_Row]] = {}
    for place, item in enumerate(objects_in(items)):
        row = _row(place, item)
        if row is None:
            continue
        if row.shape == "labels":
            labels.setdefault(row.id, _first(row.value.get("labels")))
        elif row.shape in NEEDED:
            if NEEDED[row.shape] <= row.value.keys():
                groups.setdefault((row.id, row.page), []).append(row)
            else:
                skipped["copy"] += 1
    kept = []
    for rows in groups.values():
        skipped["copy"] += len(rows) - 1
        kept.append(min(rows, key=lambda row: (_SHAPES.index(row.shape), row.place)))
    drawn = any(row.shape in _PIXELS for row in kept)
    picture = config.picture() if config is not None else None
    regions = []
    for row in sorted(kept, key=lambda row: row.place):
        if picture is not None and row.tag not in ("", picture.name):
            skipped["elsewhere"] += 1
        elif _is_prompt(row, config, drawn):
            skipped["prompt"] += 1
        elif row.shape in shapes:
            _keep(row, labels, regions, skipped)
    return regions, +skipped


def page_sizes(regions: Sequence[Region]) -> tuple[dict[int, Size], Size | None]:
    """The (H, W) that most regions of a page tell, by page; and that of most regions at all. Sizes that no picture has
    do not count."""
    by_page: dict[int, Counter[Size]] = {}
    for region in regions:
        if region.size is not None and math.prod(region.size) <= MOST_PIXELS:
            by_page.setdefault(region.page, Counter())[region.size] += 1
    whole = sum(by_page.values(), Counter())
    return {page: _most(sizes) for page, sizes in by_page.items()}, _most(whole) if whole else None


def named(regions: Sequence[Region], paged: bool) -> list[str]:
    """The object of each region. On pages, what was drawn by hand is told apart by label: the n-th ones of a label are
    one object, and the first ones belong to the only object of that label that has a name of ours."""
    if not paged:
        return [region.object or region.id for region in regions]
    ours: dict[str, set[str]] = {}
    for region in regions:
        if region.object:
            ours.setdefault(region.label, set()).add(region.object)
    standing = {(region.object, region.page) for region in regions if region.object}
    seen: Counter[tuple[str, int]] = Counter()
    names = []
    for region in regions:
        if region.object:
            names.append(region.object)
            continue
        ordinal = seen[region.label, region.page]
        seen[region.label, region.page] += 1
        same = ours.get(region.label, set())
        only = next(iter(same)) if len(same) == 1 and ordinal == 0 else ""
        free = only and (only, region.page) not in standing
        names.append(only if free else f"{region.label} {ordinal + 1}")
    return names


def _row(place: int, item: Json) -> _Row | None:
    kind, value, page = item.get("type"), item.get("value"), item.get("item_index")
    if not isinstance(kind, str) or not isinstance(value, dict):
        return None
    shape = kind if kind == "labels" else kind.removesuffix("labels")
    name = item.get("id")
    whole = isinstance(page, int) and not isinstance(page, bool) and page >= 0
    return _Row(
        place,
        written(name) if isinstance(name, str) and name else f"row {place}",
        page if whole else 0,
        shape,
        item,
        value,
    )


def _is_prompt(row: _Row, config: LabelConfig | None, drawn: bool) -> bool:
    if row.shape not in _PROMPTS or row.issued:
        return False
    tag = config.controls.get(str(row.item.get("from_name"))) if config is not None else None
    if tag is None or config is None:
        return drawn
    try:
        return tag.smart and any(config.outputs(to_name, tag.name) for to_name in tag.to_names)
    except LabelConfigError:
        return False


def _keep(row: _Row, labels: Mapping[str, str], regions: list[Region], skipped: Counter[str]) -> None:
    turn = row.item.get("image_rotation") or 0
    if not isinstance(turn, int | float) or turn % 360:
        skipped["turned"] += 1
        return
    try:
        size = picture_size(row.item)
    except BadRequestError:
        size = None
    track = _TRACK.fullmatch(row.id)
    name = track[1] if track is not None and int(track[2]) == row.page else ""
    if row.shape == "videorectangle":
        name = row.id
    own = row.value.get(str(row.item["type"])) or row.value.get("labels")
    origin = _ORIGINS.get(str(row.item.get("origin")), "accepted" if row.issued else "drawn")
    score = row.item.get("score")
    finite = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    label = _first(own) or labels.get(row.id) or UNLABELLED
    regions.append(
        Region(
            row.id,
            name,
            row.page,
            label,
            row.shape,
            size,
            row.value,
            origin,
            float(score) if finite else None,
            row.place,
            row.tag,
        )
    )


def _first(labels: Any) -> str:
    return written(labels[0]) if isinstance(labels, list) and labels and isinstance(labels[0], str) else ""


def written(text: str) -> str:
    """The text without halves of characters, which JSON can hold and files can't."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _most(sizes: Counter[Size]) -> Size:
    return max(sorted(sizes), key=lambda size: sizes[size])


def shapes_of(wanted: Iterable[str]) -> frozenset[str]:
    """Names of shapes, checked."""
    found = frozenset(wanted)
    if found - set(_SHAPES):
        raise BadRequestError(f"There is no shape {sorted(found - set(_SHAPES))[0]!r}: choose of {', '.join(_SHAPES)}.")
    return found
