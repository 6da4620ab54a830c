"""Which tags a labeling configuration has, and what each accepts.

The XML comes from users, so it is read without DTD and entities and with limits on size and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from xml.parsers import expat

from backend.errors import LabelConfigError

_MAX_CHARACTERS = 1_000_000
_MAX_DEPTH = 64
_MAX_LABELS = 1000  # in one task
_OBJECTS = frozenset({"image", "video"})
_LABEL_PARENTS = frozenset(
    {"brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "keypointlabels", "labels", "timelinelabels"}
)
SHAPES = ("brush", "bitmask", "polygon", "rectangle")
"""Forms that an answer can have, the preferred first: each is a tag with labels of its own (``BrushLabels``), and a
plain one (``Brush``) whose labels are in a ``Labels`` tag."""
OUTPUTS = tuple(f"{shape}labels" for shape in SHAPES) + SHAPES
_PLAIN = frozenset(SHAPES) | {"keypoint"}
_CONTROLS = _LABEL_PARENTS | _PLAIN | {"textarea", "videorectangle"}
MODES = ("instance", "semantic", "panoptic", "off")
"""What ``preannotate`` on a tag for masks asks for when a task is opened or predictions are retrieved."""
_GENERIC = re.compile(r"(object|region|segment|thing|item|instance|mask|foreground|target)s?[\s_#-]*\d*", re.IGNORECASE)
_FINDS_ALL = re.compile(r"(?<![^\W_])all(?![^\W_])", re.IGNORECASE)
_TRACKS = re.compile(r"(?<![^\W_])track(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True)
class Label:
    """``value`` is what results carry (the alias where there is one), ``names`` what to call it before the model.

    ``stuff`` (``kind="stuff"``) is outlined as one region, not one by one; ``selected`` is chosen when nothing else is.
    """

    value: str
    names: tuple[str, ...]
    stuff: bool = False
    selected: bool = False

    @property
    def generic(self) -> bool:
        """Whether it fits anything, as ``Object`` and ``Object 2`` do."""
        return any(_GENERIC.fullmatch(name.strip()) for name in (self.value, *self.names))


@dataclass(frozen=True)
class ObjectTag:
    """An ``<Image>`` or ``<Video>``: ``key`` is its value with the dollar sign, ``pages`` whether it takes a list,
    ``framerate`` what a Video says about its frames."""

    name: str
    kind: str
    key: str
    pages: bool
    framerate: str = ""


@dataclass(frozen=True)
class ControlTag:
    """A control: ``kind`` is its tag in small letters, ``labels_name`` the ``Labels`` tag of a plain one."""

    name: str
    kind: str
    to_names: tuple[str, ...]
    labels: tuple[Label, ...]
    attributes: Mapping[str, str] = field(repr=False)
    labels_name: str = ""

    def flag(self, name: str, default: bool) -> bool:
        """A true/false attribute."""
        return self.attributes.get(name, str(default)).strip().lower() == "true"

    @property
    def smart(self) -> bool:
        """TextAreas are prompts unless ``smart="false"``; region tags only with ``smart="true"``."""
        return self.flag("smart", default=self.kind == "textarea")

    @property
    def labels_key(self) -> str:
        """What tasks hold further labels under, with the dollar sign: ``value`` of a tag with labels; else empty."""
        key = self.attributes.get("value", "") if self.kind in _LABEL_PARENTS else ""
        return key if key.startswith("$") else ""

    @property
    def shape(self) -> str:
        """``brush`` of both ``BrushLabels`` and ``Brush``."""
        return self.kind.removesuffix("labels")

    @property
    def finds_all(self) -> bool:
        """Prompts of this tag ask for everything of their kind: ``find="all"``, or ``all`` as a word in its name."""
        find = self.attributes.get("find", "").strip().lower()
        return find == "all" if find else bool(_FINDS_ALL.search(self.name))

    @property
    def tracks(self) -> bool:
        """What is found for prompts of this tag is carried over all pages: ``track="true"``, or ``track`` as a word in
        its name. A tag that finds all does not track."""
        named = bool(_TRACKS.search(self.name))
        return not self.finds_all and self.flag("track", default=named)

    @property
    def mode(self) -> str | None:
        """The hint ``preannotate``, one of :data:`MODES`; None without one.

        :raises LabelConfigError: it is something else.
        """
        mode = self.attributes.get("preannotate", "").strip().lower()
        if mode and mode not in MODES:
            raise LabelConfigError(f"preannotate on '{self.name}' is not known: write one of {', '.join(MODES)}.")
        return mode or None

    def pixels(self, name: str, default: float) -> float:
        """An attribute that is a number of pixels.

        :raises LabelConfigError: it is none.
        """
        try:
            number = float(self.attributes.get(name, default))
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1000:
            raise LabelConfigError(f"{name} on '{self.name}' is no number of pixels: write one from 0 to 1000.")
        return number

    def check_hints(self) -> None:
        """:raises LabelConfigError: an attribute that is for us holds something else than it may."""
        _ = self.mode, self.pixels("tolerance", 0.0)

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

    @property
    def labels_in_tasks(self) -> bool:
        """Whether tasks may name labels that are not in the configuration."""
        return any(control.labels_key for control in self.controls.values())

    def for_task(self, data: Mapping[str, Any]) -> LabelConfig:
        """The configuration with the labels that a task names: ``value="$labels"`` on a tag, and in the task's data
        ``"labels": [{"value": "Car"}, ...]`` with the attributes of a ``Label``."""
        if not self.labels_in_tasks:
            return self
        named = {name: _labels_of_task(tag, data) for name, tag in self.controls.items() if tag.labels_key}
        controls = {
            name: replace(tag, labels=(*tag.labels, *named.get(tag.labels_name or name, ())))
            for name, tag in self.controls.items()
        }
        return replace(self, controls=controls)

    @property
    def label_tags(self) -> frozenset[str]:
        """The ``Labels`` tags that plain ones have their labels from."""
        return frozenset(control.labels_name for control in self.controls.values() if control.labels_name)

    def picture(self) -> ObjectTag | None:
        """The first object tag that can be answered, an Image before a Video."""
        return min(self.objects.values(), key=lambda tag: tag.kind != "image", default=None)

    def answers_on(self, to_name: str) -> bool:
        """Whether a tag can hold answers on an object tag."""
        return any(tag.labels for tag in self.on(to_name, *OUTPUTS))

    def outputs(self, to_name: str, prompt_name: str | None = None) -> list[ControlTag]:
        """The tags that can hold answers, best first: masks before outlines before boxes, never the prompt's own tag.

        :raises LabelConfigError: there is none.
        """
        found = [tag for tag in self.on(to_name, *OUTPUTS) if tag.labels and tag.name != prompt_name]
        if not found:
            raise LabelConfigError(
                f"The labeling configuration has no tag for masks on '{to_name}': add a BrushLabels, BitmaskLabels or "
                'PolygonLabels with smart="false".'
            )
        return sorted(found, key=lambda tag: (OUTPUTS.index(tag.kind), tag.smart))

    def output(self, to_name: str, prompt_name: str | None = None, label: str | None = None) -> ControlTag:
        """The tag that the answer to a prompt goes to: the best one that has the prompt's label, else the best one.

        :raises LabelConfigError: there is none.
        """
        found = self.outputs(to_name, prompt_name)
        return next((tag for tag in found if any(label == own.value for own in tag.labels)), found[0])

    def labels_on(self, to_name: str) -> list[tuple[Label, ControlTag]]:
        """Every label that an answer can have, once, each with the best tag that has it.

        :raises LabelConfigError: there is no tag for masks.
        """
        return labels_of(self.outputs(to_name))

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


def labels_of(tags: Iterable[ControlTag]) -> list[tuple[Label, ControlTag]]:
    """Every label of these tags, once, with the first tag that has it; tags that also prompt come last."""
    best: dict[str, tuple[Label, ControlTag]] = {}
    for tag in sorted(tags, key=lambda tag: tag.smart):
        for label in tag.labels:
            best.setdefault(label.value, (label, tag))
    return list(best.values())


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
    return LabelConfig(builder.objects, builder.joined())


def task_value(tag: ObjectTag, data: Mapping[str, Any]) -> Any:
    """What a task holds for an object tag: ``$key``, ``$outer.inner`` or ``$list[0]``; other values are literal.

    :raises LabelConfigError: the task has no such entry.
    """
    try:
        return _value_at(tag.key, data)
    except (KeyError, IndexError, TypeError) as error:
        raise LabelConfigError(
            f"The task has no '{tag.key[1:]}', which the tag '{tag.name}' shows: import tasks that have it, or change "
            "the value of the tag."
        ) from error


def _value_at(key: str, data: Mapping[str, Any]) -> Any:
    """What a task holds under ``$key``; other values are literal.

    :raises KeyError, IndexError, TypeError: the task has no such entry.
    """
    if not key.startswith("$"):
        return key
    path = key[1:]
    if path in data:
        return data[path]
    value: Any = data
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        value = value[int(index)] if index and isinstance(value, list) else value[name or index]
    return value


def _labels_of_task(tag: ControlTag, data: Mapping[str, Any]) -> tuple[Label, ...]:
    try:
        return _labels_in(_value_at(tag.labels_key, data))
    except (KeyError, IndexError, TypeError):  # the editor shows none either
        return ()


def _labels_in(listed: Any, depth: int = 0) -> tuple[Label, ...]:
    """The labels that a task lists, those inside of others after them; what is none is left out."""
    found: list[Label] = []
    for entry in listed if isinstance(listed, list) and depth < _MAX_DEPTH else ():
        if isinstance(entry, Mapping) and len(found) < _MAX_LABELS:
            said = {name: str(value) for name, value in entry.items() if isinstance(value, str | bool)}
            if isinstance(entry.get("value"), str) and said["value"]:
                found.append(_label(said))
            found += _labels_in(entry.get("children"), depth + 1)
    return tuple(found[:_MAX_LABELS])


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
            rate = attributes.get("framerate", attributes.get("frameRate", ""))
            self.objects[name] = ObjectTag(name, kind, pages or attributes.get("value", ""), bool(pages), rate)
        elif kind in _CONTROLS:
            targets = tuple(part.strip() for part in attributes.get("toName", "").split(",") if part.strip())
            self.controls[name] = ControlTag(name, kind, targets, tuple(labels), attributes)

    def joined(self) -> dict[str, ControlTag]:
        """The controls; plain ones have the labels of the first ``Labels`` tag on the same picture."""
        shared = [tag for tag in self.controls.values() if tag.kind == "labels"]
        joined = {}
        for name, tag in self.controls.items():
            labels = next((one for one in shared if set(one.to_names) & set(tag.to_names)), None)
            if tag.kind in _PLAIN and labels is not None:
                tag = replace(tag, labels=labels.labels, labels_name=labels.name)
            joined[name] = tag
        return joined


def _label(attributes: Mapping[str, str]) -> Label:
    value = attributes.get("alias") or attributes["value"]
    names = tuple(name.strip() for name in attributes.get("predicted_values", "").split(",") if name.strip())
    kind, selected = (attributes.get(name, "").strip().lower() for name in ("kind", "selected"))
    return Label(value, names or (attributes["value"],), kind == "stuff", selected == "true")


def _refuse_doctype(*_: object) -> None:
    raise LabelConfigError("The labeling configuration has a DOCTYPE; remove it, entities are not read.")
