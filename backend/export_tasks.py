"""One task -> its pages and the masks on them, after the policies for several annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backend.errors import LabelConfigError, SettingsError
from backend.export_layout import Layout, frames_shown, layout_of
from backend.export_masks import Drawn, Runs, union
from backend.export_rows import Region, named, page_sizes, read_regions, written
from backend.export_shapes import DAMAGED, fill_box, value_to_mask
from backend.export_votes import vote
from backend.geometry import Size
from backend.label_config import LabelConfig
from backend.protocol import Json, objects_in
from backend.video_boxes import sequence_to_boxes
from x2sam.data.readers.files import MOST_PIXELS

ANNOTATIONS = ("latest", "all", "majority")
PAGES = ("all", "marked")
PAGES_OF_A_TASK = 10_000
"""More than a task can have pages; a picture's number in COCO files is its task's times this, plus its page."""
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class Policy:
    """What of a task is taken.

    annotations: ``latest``; ``all``, each annotator's objects as objects of their own; ``majority``
    cancelled:   annotations that were skipped count as well
    pages:       ``all`` pages of a task that was submitted are known, or only those that are ``marked`` by a region
    shapes:      which shapes of regions are taken
    size:        (H, W) of videos whose results do not tell it
    """

    annotations: str = "latest"
    cancelled: bool = False
    pages: str = "all"
    shapes: frozenset[str] = frozenset()
    size: Size | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("annotations", ANNOTATIONS), ("pages", PAGES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"--{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Source:
    """An annotation that was taken. ``model_version`` is that of the prediction it was begun from."""

    annotation: int
    annotator: int | None
    updated: str
    model_version: str | None
    begun_from: int | None


@dataclass(frozen=True)
class Page:
    """A frame of an item that a task shows; ``size`` is (H, W), None where nothing tells it."""

    frame: int
    media: str
    size: Size | None
    known: bool


@dataclass(frozen=True, eq=False)
class Taken:
    """What an export takes from one task."""

    task: int
    layout: Layout
    pages: tuple[Page, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    sources: tuple[Source, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def updated(self) -> str:
        return max((source.updated for source in self.sources), default="")


def take(task: Mapping[str, Any], policy: Policy, config: LabelConfig | None = None) -> Taken:
    """What a task of the JSON export or of the API gives; nothing is known of one that nobody submitted."""
    skipped: Counter[str] = Counter()
    annotations = _chosen(list(objects_in(task.get("annotations"))), policy, skipped)
    wanted = {"shapes": policy.shapes} if policy.shapes else {}
    regions = []
    for annotation in annotations:
        found, left = read_regions(annotation.get("result"), config, **wanted)
        regions.append(found)
        skipped += left
    tags = sorted({region.tag for found in regions for region in found if region.tag})
    if len(tags) > 1:  # without a configuration
        raise LabelConfigError(
            f"Task {task['id']} has regions on several pictures ({', '.join(tags)}); give --label-config, which tells "
            "the first one."
        )
    film = any(region.shape == "videorectangle" for found in regions for region in found)
    layout = layout_of(task, config, film)
    if not layout.paged and any(region.page for found in regions for region in found):
        layout = replace(layout, paged=True, media=())  # where its pages are is not told in a way that is known here
    sizes, usual = page_sizes([region for found in regions for region in found])
    usual = usual or layout.size or _size_before(annotations, task, config) or policy.size
    decode = _Decoding(layout, sizes, usual, skipped)
    drawn = [list(decode.annotation(found, a)) for found, a in zip(regions, annotations, strict=True)]
    result, outvoted = _decided(drawn, policy)
    skipped["outvoted"] += outvoted
    sources = tuple(_source(annotation, task) for annotation in annotations)
    pages = _pages(layout, sizes, usual, result, bool(sources), policy, decode.frames)
    return Taken(int(task["id"]), layout, pages, tuple(result), sources, dict(+skipped))


def _size_before(annotations: Sequence[Json], task: Mapping[str, Any], config: LabelConfig | None) -> Size | None:
    """(H, W) by the predictions that annotations were begun from: where all that was proposed is deleted, nothing else
    tells it, and that nothing is there is worth knowing."""
    begun = [region for one in annotations for found in _begun_from(one, task)
             for region in read_regions(found.get("result"), config)[0]]  # fmt: skip
    return page_sizes(begun)[1]


def _begun_from(annotation: Json, task: Mapping[str, Any]) -> list[Json]:
    """The prediction that an annotation was begun from, as far as the task holds it.

    The JSON export has numbers of predictions only, and in the annotation the project's current prediction of that
    moment, which need not be the one.
    """
    begun = annotation.get("parent_prediction")
    known = objects_in([annotation.get("prediction"), *_listed(task)])
    return [one for one in known if one.get("id") == begun and begun is not None]


def _chosen(annotations: Sequence[Json], policy: Policy, skipped: Counter[str]) -> list[Json]:
    kept = [one for one in annotations if policy.cancelled or not one.get("was_cancelled")]
    skipped["cancelled"] += len(annotations) - len(kept)
    kept.sort(key=lambda one: (str(one.get("updated_at") or ""), _id(one)))
    if policy.annotations == "latest" and kept:
        skipped["older"] += len(kept) - 1
        return kept[-1:]
    return sorted(kept, key=_id)


def _decided(drawn: list[list[Drawn]], policy: Policy) -> tuple[list[Drawn], int]:
    if policy.annotations == "majority" and drawn:
        return vote(drawn)
    if policy.annotations != "all":
        return [one for own in drawn for one in own], 0
    everything: list[Drawn] = []
    seen: set[int | None] = set()
    for annotation in drawn:
        # the same name is not the same object, unless one person drew both, and not in the same task
        own = [replace(one, object=f"{one.object} by {_whose(one, seen)}") for one in annotation]
        seen |= {one.annotator for one in own}
        everything += own
    return everything, 0


def _whose(one: Drawn, seen: set[int | None]) -> str:
    again = one.annotator is None or one.annotator in seen
    return f"{one.annotator or 'somebody'}, {one.annotation}" if again else f"{one.annotator}"


def _source(annotation: Json, task: Mapping[str, Any]) -> Source:
    begun = annotation.get("parent_prediction")
    known = _begun_from(annotation, task)
    version = next((one.get("model_version") for one in known if one.get("model_version")), None)
    return Source(
        _id(annotation),
        person_of(annotation),
        str(annotation.get("updated_at") or ""),
        written(str(version)) if version is not None else None,
        begun if isinstance(begun, int) else None,
    )


def _listed(task: Mapping[str, Any]) -> list[Any]:
    predictions = task.get("predictions")
    return predictions if isinstance(predictions, list) else []


def person_of(annotation: Json) -> int | None:
    """The annotator's number; some answers of the API hold the whole person."""
    person = annotation.get("completed_by")
    person = person.get("id") if isinstance(person, dict) else person
    return person if isinstance(person, int) else None


def _id(entry: Json) -> int:
    number = entry.get("id")
    return number if isinstance(number, int) and not isinstance(number, bool) else -1


@dataclass
class _Decoding:
    """Regions of one task -> masks, counting what can't be had."""

    layout: Layout
    sizes: Mapping[int, Size]
    usual: Size | None
    skipped: Counter[str]
    frames: int = 0

    def annotation(self, regions: Sequence[Region], annotation: Json) -> Iterator[Drawn]:
        """The masks of one annotation, the parts of an object on a page joined."""
        parts: dict[tuple[int, str], list[tuple[Region, Runs]]] = {}
        for region, name in zip(regions, named(regions, self.layout.paged), strict=True):
            for page, runs in self._masks(region):
                parts.setdefault((page, name), []).append((region, runs))
        for (page, name), found in sorted(parts.items(), key=lambda entry: (entry[0][0], entry[1][0][0].place)):
            first = found[0][0]
            runs = union([runs for _, runs in found])
            point = _point(first, runs.size) if first.shape == "keypoint" else None
            yield Drawn(
                self.layout.start + page, name, first.place, first.label, runs, _worst(r.origin for r, _ in found),
                first.shape, first.score, _id(annotation), person_of(annotation), point=point,
            )  # fmt: skip

    def _masks(self, region: Region) -> Iterator[tuple[int, Runs]]:
        if region.shape == "videorectangle":
            yield from self._boxes(region)
            return
        # behind the end of a part of a video are the frames of the next task
        if region.page >= (len(self.layout.media) if self.layout.shared else PAGES_OF_A_TASK):
            self.skipped["beyond"] += 1
            return
        size = region.size or self.sizes.get(region.page) or self.usual
        if size is None or size[0] * size[1] > MOST_PIXELS:
            self.skipped["unsized"] += 1
            return
        try:
            mask = value_to_mask(region.shape, region.value, size)
        except DAMAGED:
            self.skipped["damaged"] += 1
            return
        runs = Runs.of(mask).resized(self.sizes.get(region.page, size))
        if runs.area:
            yield region.page, runs
        else:
            self.skipped["empty"] += 1

    def _boxes(self, region: Region) -> Iterator[tuple[int, Runs]]:
        size, frames, sequence = self.usual, region.value.get("framesCount"), region.value.get("sequence")
        if size is None:
            self.skipped["unsized"] += 1
            return
        keys = [key for key in objects_in(sequence) if isinstance(key.get("frame"), int)]
        if not keys or not isinstance(frames, int) or not 0 < frames <= _MOST_FRAMES:
            self.skipped["damaged"] += 1
            return
        self.frames = max(self.frames, frames)
        last, runs = None, None
        for page, box in enumerate(sequence_to_boxes(keys, size, frames)):
            if box != last and box is not None:  # most stand still for long
                last, runs = box, Runs.of(fill_box(box, size))
            if box is not None and runs.area:
                yield page, runs


def _point(region: Region, size: Size) -> tuple[float, float]:
    x, y = region.value["x"] / 100 * size[1], region.value["y"] / 100 * size[0]
    return round(float(x), 3), round(float(y), 3)


def _worst(origins: Iterable[str]) -> str:
    """Of several parts: untouched only where all are."""
    found = set(origins)
    return found.pop() if len(found) == 1 else "edited"


def _pages(
    layout: Layout,
    sizes: Mapping[int, Size],
    usual: Size | None,
    drawn: Sequence[Drawn],
    submitted: bool,
    policy: Policy,
    frames: int,
) -> tuple[Page, ...]:
    marked = {one.frame for one in drawn}
    count = max(frames_shown(layout, [frame - layout.start for frame in marked]), frames)
    pages = []
    for page in range(count):
        frame = layout.start + page
        media = layout.media[page] if page < len(layout.media) and not layout.film else ""
        known = submitted and (policy.pages == "all" or frame in marked)
        pages.append(Page(frame, media, sizes.get(page, usual), known))
    return tuple(pages)
