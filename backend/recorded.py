"""What a recording of prompts is made of: lines of JSON, and how a request becomes one, and a request again.

A line says what it is by its first key:

- ``recording``: the head. The model and its version, what computed, and the settings that answers depend on.
- ``kept``: values that later lines name by their digest, each written once: configurations, masks that stand in drafts.
- ``media``: number of a picture or video, digest and size of its file. Its address is not written.
- ``asked``: a request, what was answered to it, and when.
- ``ended``: why nothing comes after it.

Of a request only what an answer can depend on is written: the tags' media and labels of a task's data, prompts, and
regions on the screen. People are numbers, in the order in which they come. What annotators typed as prompts is there,
and so are the labeling configuration and its labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco

from backend.bodies import as_json_text
from backend.errors import LabelConfigError, RecordingError
from backend.export_shapes import DAMAGED, NEEDED, value_to_mask
from backend.label_config import LabelConfig, parse_label_config, task_value
from backend.protocol import Json, objects_in
from backend.tracking import command_of

FORMAT = 1
_SPAN = ("video_id", "video_fps", "start_frame")  # which part of which video a task shows
_ITEM = ("id", "type", "from_name", "to_name", "original_width", "original_height", "image_rotation", "item_index",
         "is_positive")  # fmt: skip
_VALUE = ("x", "y", "width", "height", "rotation", "radiusX", "radiusY", "points", "closed", "format", "rle",
          "imageDataURL", "sequence", "labels", "text")  # fmt: skip
_LARGE = frozenset({"rle", "imageDataURL"})
_REGIONS = frozenset({"labels", "videorectangle", *NEEDED, *(f"{shape}labels" for shape in NEEDED)})
_MASKS = frozenset({"brush", "bitmask", "polygon", "rectangle"})
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Asked:
    """A request for predictions, as :class:`backend.model.X2SAMModel` gets it."""

    project: str
    config: str
    tasks: Sequence[Json]
    context: Any


@dataclass
class Naming:
    """Who and what has which number in a recording; ``new`` are the lines that must come before the next one."""

    new: list[dict[str, Any]] = field(default_factory=list)
    _kept: set[str] = field(default_factory=set)
    _media: dict[bytes, int] = field(default_factory=dict)
    _people: dict[str, int] = field(default_factory=dict)

    def keep(self, value: Any) -> dict[str, str]:
        """What stands for a value that is written once."""
        name = _digest(as_json_text(value))
        if name not in self._kept:
            self._kept.add(name)
            self.new.append({"kept": name, "value": value})
        return {"kept": name}

    def media(self, address: str) -> dict[str, int]:
        """What stands for an address."""
        digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).digest()
        return {"media": self._media.setdefault(digest, len(self._media) + 1)}

    def person(self, said: Any) -> int | None:
        """A number for whatever names somebody."""
        return None if said is None else self._people.setdefault(str(said), len(self._people) + 1)


def reduced(asked: Asked, naming: Naming) -> dict[str, Any]:
    """A request as it is written, without what no answer depends on."""
    try:
        config = parse_label_config(asked.config or "<View/>")
    except LabelConfigError:
        config = LabelConfig({}, {})
    context = asked.context
    if context is not None:
        items = context.get("result") if isinstance(context, dict) else None
        context = {"result": list(_items(items, config, naming))} if isinstance(items, list) else {}
    return {
        "project": asked.project,
        "config": naming.keep(asked.config),
        "tasks": [_task(task, config, naming) for task in asked.tasks],
        "context": context,
    }


def media_of(asked: Asked) -> Iterator[tuple[str, str]]:
    """The addresses of the media of a request, each with the id of its task."""
    try:
        config = parse_label_config(asked.config or "<View/>")
    except LabelConfigError:
        return
    for task in asked.tasks:
        for _, value in _shown(task, config):
            yield from ((address, str(task.get("id"))) for address in _texts(value))


def asks_elsewhere(asked: Asked) -> bool:
    """Whether the answer depends on the task before in the same video, of which the request tells nothing."""
    items = asked.context.get("result") if isinstance(asked.context, dict) else None
    values = [item.get("value") for item in objects_in(items) if item.get("type") == "textarea"]
    texts = [text for value in values if isinstance(value, dict) for text in _texts(value.get("text"))]
    goes_on = asked.context is None or any((reach := command_of(text)) and reach.earlier for text in texts)
    starts = [task["data"].get("start_frame") for task in asked.tasks if isinstance(task.get("data"), dict)]
    return goes_on and any(starts)


def restored(row: Mapping[str, Any], kept: Mapping[str, Any], address_of: Callable[[int], str]) -> dict[str, Any]:
    """The body of ``/predict`` that a line tells of. ``address_of`` gives an address to a number of ``media``.

    :raises RecordingError: the line is damaged, or names what is not there.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"kept"}:
            return kept[value["kept"]]
        if value.keys() == {"media"}:
            return address_of(value["media"])
        return {name: whole(one) for name, one in value.items()}

    try:
        tasks = [whole(task) for task in row["tasks"]]
        params = {} if row["context"] is None else {"context": whole(row["context"])}
        return {"tasks": tasks, "project": row["project"], "label_config": whole(row["config"]), "params": params}
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordingError(f"Request {row.get('asked')} of the recording is damaged or not whole.") from error


def answer_line(body: bytes, entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is written of an answer: the digest of its exact bytes, and of each item a digest and its mask."""
    items = [_item_line(item) for entry in entries for item in entry.get("result", ())]
    return {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "items": items}


def mask_of(line: Mapping[str, Any]) -> np.ndarray | None:
    """The mask of an item that was answered, bool (H, W); None for sentences and the like."""
    counts = line.get("counts")
    return None if counts is None else coco.decode({"size": line["size"], "counts": counts}).astype(bool)


def _task(task: Json, config: LabelConfig, naming: Naming) -> dict[str, Any]:
    given = task.get("data")
    data = {name: given[name] for name in _SPAN if name in given} if isinstance(given, dict) else {}
    for path, value in _shown(task, config):
        numbers = [naming.media(address) for address in _texts(value)]
        data[path] = numbers if isinstance(value, list) else numbers[0] if numbers else None
    for path, value in _told(task, config):
        data[path] = value
    made = {"id": task.get("id"), "project": task.get("project"), "data": data}
    for kind, person in (("drafts", "user"), ("annotations", "completed_by"), ("predictions", None)):
        made[kind] = [_entry(entry, person, config, naming) for entry in objects_in(task.get(kind))]
    return made


def _entry(entry: Json, person: str | None, config: LabelConfig, naming: Naming) -> dict[str, Any]:
    """A draft, an annotation or a prediction."""
    made = {name: entry[name] for name in ("id", "updated_at", "annotation") if name in entry}
    if person is not None and person in entry:
        made[person] = naming.person(entry[person])
    return made | {"result": list(_items(entry.get("result"), config, naming))}


def _items(items: Any, config: LabelConfig, naming: Naming) -> Iterator[dict[str, Any]]:
    """The regions and prompts among result items: what people write elsewhere is nobody's prompt."""
    for item in objects_in(items):
        kind, value = item.get("type"), item.get("value")
        typed = kind == "textarea" and config.is_text_prompt(str(item.get("from_name")))
        if not isinstance(kind, str) or not isinstance(value, dict) or not (typed or kind in _REGIONS):
            continue
        made = {name: item[name] for name in _ITEM if name in item}
        names = [name for name in (*_VALUE, kind) if name in value]
        kept = {name: naming.keep(value[name]) if name in _LARGE else value[name] for name in names}
        yield made | {"value": kept}


def _shown(task: Json, config: LabelConfig) -> Iterator[tuple[str, Any]]:
    """What a task holds for each picture or video that is shown, by its name in the data."""
    data = task.get("data")
    for tag in config.objects.values():
        if tag.key.startswith("$") and isinstance(data, dict):
            try:
                yield tag.key[1:], task_value(tag, data)
            except LabelConfigError:
                continue


def _told(task: Json, config: LabelConfig) -> Iterator[tuple[str, Any]]:
    """Labels and frame rates that a task has of its own."""
    data = task.get("data")
    keys = [tag.framerate for tag in config.objects.values()]
    keys += [tag.labels_key for tag in config.controls.values()]
    for path in (key[1:] for key in keys if key.startswith("$")):
        if isinstance(data, dict) and path in data:
            yield path, data[path]


def _texts(value: Any) -> list[str]:
    """The texts in a text or a list of them."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]


def _item_line(item: Mapping[str, Any]) -> dict[str, Any]:
    kind, value = str(item.get("type")), item.get("value", {})
    line = {"id": item.get("id"), "tag": item.get("from_name"), "sha256": _digest(as_json_text(item))}
    if kind == "textarea":
        # digits aside, so that a score that is rounded the other way is no other sentence
        return line | {"words": _digest(_DIGITS.sub("#", json.dumps(value.get("text"))).encode())}
    shape = kind.removesuffix("labels")
    if shape not in _MASKS or not NEEDED[shape] <= value.keys():
        return line
    size = (item["original_height"], item["original_width"])
    try:
        mask = value_to_mask(shape, value, size)
    except DAMAGED:  # nothing that we answer; told by its digest
        return line
    packed = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return line | {"size": list(size), "counts": packed["counts"].decode("ascii")}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
