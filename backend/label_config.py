"""Which tags a labeling configuration has, and what each accepts.

The XML comes from users, so it is read without DTD and entities and with limits on size and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from backend.errors import LabelConfigError

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 64
_OBJECTS = frozenset({"image", "video"})
_LABEL_PARENTS = frozenset(
    {"brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "keypointlabels", "labels", "timelinelabels"}
)
_CONTROLS = _LABEL_PARENTS | {"textarea", "videorectangle"}
OUTPUTS = ("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels")
"""Tags that can hold an answer, the preferred first."""


@dataclass(frozen=True)
class Label:
    """``value`` is what results carry (the alias where there is one), ``names`` what to call it before the model."""

    value: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class ObjectTag:
    """An ``<Image>`` or ``<Video>``: ``key`` is its value with the dollar sign, ``pages`` whether it takes a list."""

    name: str
    kind: str
    key: str
    pages: bool


@dataclass(frozen=True)
class ControlTag:
    """A control: ``kind`` is its tag in small letters."""

    name: str
    kind: str
    to_names: tuple[str, ...]
    labels: tuple[Label, ...]
    attributes: Mapping[str, str] = field(repr=False)

    def flag(self, name: str, default: bool) -> bool:
        """A true/false attribute."""
        return self.attributes.get(name, str(default)).strip().lower() == "true"

    @property
    def smart(self) -> bool:
        """TextAreas are prompts unless ``smart="false"``; region tags only with ``smart="true"``."""
        return self.flag("smart", default=self.kind == "textarea")

    def label_value(self, wanted: str | None) -> str:
        """The label of this tag for a prompt that carries ``wanted``.

        :raises LabelConfigError: the tag has other labels than the prompt tag.
        """
        values = [label.value for label in self.labels]
        if wanted in values:
            return wanted
        if len(values) == 1 or (wanted is None and values):
            return values[0]
        raise LabelConfigError(
            f"The tag '{self.name}' has no label '{wanted}': give the prompt tags and '{self.name}' the same labels."
        )


@dataclass(frozen=True)
class LabelConfig:
    """The tags of one labeling configuration, in document order."""

    objects: Mapping[str, ObjectTag]
    controls: Mapping[str, ControlTag]

    def on(self, to_name: str, *kinds: str) -> Iterator[ControlTag]:
        """The controls of the given kinds on an object tag; all kinds when none is named."""
        for control in self.controls.values():
            if to_name in control.to_names and (not kinds or control.kind in kinds):
                yield control

    def picture(self) -> ObjectTag | None:
        """The first object tag that can be answered, an Image before a Video."""
        return min(self.objects.values(), key=lambda tag: tag.kind != "image", default=None)

    def output(self, to_name: str, prompt_name: str | None = None) -> ControlTag:
        """The tag that answers go to: masks before outlines before boxes, never the prompt's own tag.

        :raises LabelConfigError: there is none.
        """
        found = [tag for tag in self.on(to_name, *OUTPUTS) if tag.labels and tag.name != prompt_name]
        if not found:
            raise LabelConfigError(
                f"The labeling configuration has no tag for masks on '{to_name}': add a BrushLabels, BitmaskLabels or "
                'PolygonLabels with smart="false".'
            )
        return min(found, key=lambda tag: (OUTPUTS.index(tag.kind), tag.smart))

    def reply(self, to_name: str | None = None) -> ControlTag | None:
        """The read-only TextArea where the annotator reads answers; the one called ``reply`` first."""
        areas = [
            tag
            for tag in self.controls.values()
            if tag.kind == "textarea" and (to_name is None or to_name in tag.to_names)
        ]
        quiet = [tag for tag in areas if not tag.smart and not tag.flag("editable", default=False)]
        return min(quiet, key=lambda tag: tag.name != "reply", default=None)

    def is_text_prompt(self, name: str) -> bool:
        """Whether what is typed into this TextArea is a prompt."""
        tag = self.controls.get(name)
        return tag is not None and tag.kind == "textarea" and tag.smart and tag != self.reply()


def parse_label_config(xml: str) -> LabelConfig:
    """Reads a labeling configuration.

    :raises LabelConfigError: not XML, with a DTD, or unreasonably large or deep.
    """
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.StartDoctypeDeclHandler = _refuse_doctype
    if len(xml) > _MAX_CHARACTERS:
        raise LabelConfigError(f"The labeling configuration is longer than {_MAX_CHARACTERS} characters.")
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise LabelConfigError(f"The labeling configuration is not well-formed XML: {error}.") from error
    return LabelConfig(builder.objects, builder.controls)


def task_value(tag: ObjectTag, data: Mapping[str, Any]) -> Any:
    """What a task holds for an object tag: ``$key``, ``$outer.inner`` or ``$list[0]``; other values are literal.

    :raises LabelConfigError: the task has no such entry.
    """
    if not tag.key.startswith("$"):
        return tag.key
    path = tag.key[1:]
    if path in data:
        return data[path]
    value: Any = data
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[int(index)] if index and isinstance(value, list) else value[name or index]
        except (KeyError, IndexError, TypeError) as error:
            raise LabelConfigError(f"The task has no '{path}', which the tag '{tag.name}' shows.") from error
    return value


class _Builder:
    """Collects tags while expat walks through the document."""

    def __init__(self) -> None:
        self.objects: dict[str, ObjectTag] = {}
        self.controls: dict[str, ControlTag] = {}
        self._open: list[tuple[str, dict[str, str], list[Label]]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        kind = tag.lower()
        if len(self._open) >= _MAX_DEPTH:
            raise LabelConfigError(f"The labeling configuration is nested deeper than {_MAX_DEPTH} tags.")
        if kind == "label" and attributes.get("value"):
            parent = next((entry for entry in reversed(self._open) if entry[0] in _LABEL_PARENTS), None)
            if parent is not None:
                parent[2].append(_label(attributes))
        self._open.append((kind, attributes, []))

    def end(self, _tag: str) -> None:
        kind, attributes, labels = self._open.pop()
        name = attributes.get("name", "")
        if kind in _OBJECTS:
            pages = attributes.get("valueList") or attributes.get("valuelist")
            self.objects[name] = ObjectTag(name, kind, pages or attributes.get("value", ""), bool(pages))
        elif kind in _CONTROLS:
            targets = tuple(part.strip() for part in attributes.get("toName", "").split(",") if part.strip())
            self.controls[name] = ControlTag(name, kind, targets, tuple(labels), attributes)


def _label(attributes: Mapping[str, str]) -> Label:
    value = attributes.get("alias") or attributes["value"]
    names = tuple(name.strip() for name in attributes.get("predicted_values", "").split(",") if name.strip())
    return Label(value, names or (attributes["value"],))


def _refuse_doctype(*_: object) -> None:
    raise LabelConfigError("The labeling configuration has a DOCTYPE; remove it, entities are not read.")
