"""What people submitted in a project, as a data set to learn from: masks in our own layout, and the pictures beside.

Run again it asks only for what changed. Which part of it is held out is decided by a digest of each picture's address,
so a picture never changes sides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.errors import MediaError
from backend.export_dataset import Choices, Splits
from backend.export_layout import layout_of
from backend.export_run import Report, Wanted, export
from backend.export_sources import Project
from backend.export_staging import ExportError
from backend.export_tasks import Policy
from backend.frames import addresses_of
from backend.label_config import LabelConfig, task_value
from backend.label_studio_api import LabelStudioApi
from backend.media import MediaFetcher
from x2sam.data.readers.files import read_json

log = logging.getLogger(__name__)

SPLITS = "train=0.75,held=0.25"
_SHAPES = frozenset({"brush", "bitmask", "polygon", "ellipse"})  # boxes say too little about an outline


@dataclass(frozen=True)
class Collected:
    """Masks and pictures in the data set, and how many pictures could not be fetched."""

    masks: int
    items: int
    unfetched: int


def collect(
    api: LabelStudioApi, fetcher: MediaFetcher, project: int, out: Path, report: Report = lambda *_: None
) -> Collected:  # fmt: skip
    """Writes the submitted masks of a project and their pictures to ``out``.

    :raises ExportError: there are none, or a file is damaged.
    :raises LabelStudioError: Label Studio can't be reached or refuses.
    """
    source = Project(api, project)
    policy = Policy(pages="marked", shapes=_SHAPES)
    done = export(source, Wanted("x2sam", out, policy, Choices(), Splits(SPLITS)), report)
    needed = _needed(out)
    unfetched = 0
    addresses = _addresses(api, source.config, project)
    for number, name in enumerate(sorted(needed)):
        report("pictures", number, len(needed))
        place = out / name
        if place.is_file():
            continue
        try:
            if name not in addresses:
                raise MediaError("no task names it any more")
            content = fetcher.read(addresses[name])
        except MediaError as error:
            log.warning("a picture of the corrections can't be fetched, it is left out: %s", type(error).__name__)
            unfetched += 1
            continue
        _write(place, content)
    return Collected(done.masks, done.items, unfetched)


def _needed(out: Path) -> set[str]:
    """Names of the pictures that have a mask."""
    names: set[str] = set()
    for entry in read_json(out / "manifest.json", 2048).get("items").items():
        labelled = [frame.whole(0) for frame in entry.get("labelled").items()]
        if not entry.get("objects").items():
            continue
        if entry.has("frames"):
            frames = entry.get("frames").items()
            names |= {frames[number].text() for number in labelled}
        elif entry.get("modality").text() == "image":
            names.add(entry.get("media").text())
    return names


def _addresses(api: LabelStudioApi, config: LabelConfig, project: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for task in api.listed_data(project):
        for name, address in _named(task, config):
            found.setdefault(name, address)
    return found


def _named(task: dict, config: LabelConfig) -> Iterator[tuple[str, str]]:
    layout = layout_of(task, config)
    tag = config.picture()
    if tag is None or layout.film:
        return
    try:
        addresses = addresses_of(task_value(tag, task.get("data") or {}), str(task["id"]))
    except MediaError:
        return
    yield from zip(layout.media, addresses, strict=False)


def _write(place: Path, content: bytes) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name[:100]}.part")
        part.write_bytes(content)
        part.replace(place)
    except OSError as error:
        raise ExportError(f"{place.parent} can't be written ({error.strerror}); free some space.") from error


