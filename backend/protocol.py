"""Request bodies of Label Studio as small dataclasses. Nothing past this file reads raw request dictionaries.

Whatever arrives is taken for hostile: a wrong type or a number that is none ends in :class:`BadRequestError`. Unknown
keys and result items of kinds that are no prompt are ignored, since Label Studio adds both from time to time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.errors import BadRequestError

Json = Mapping[str, Any]

_LARGEST_NUMBER = 1e9


@dataclass(frozen=True)
class PredictRequest:
    """Body of ``/predict``. ``tasks`` and ``context`` stay raw: the model class of label-studio-ml takes them so."""

    tasks: list[Json]
    project_id: str
    label_config: str
    context: Any
    params: Json


@dataclass(frozen=True)
class SetupRequest:
    """Body of ``/setup``; its token and host name are left alone on purpose, they come from whoever can reach us."""

    project_id: str
    label_config: str


@dataclass(frozen=True)
class WebhookEvent:
    """Body of ``/webhook``: what happened, where, and the rest as it came."""

    action: str
    project_id: str
    label_config: str
    data: Json


@dataclass(frozen=True)
class Task:
    """A task: ``data`` as imported, ``region_ids`` of what already stands in its drafts and annotations, the id of its
    ``project`` where it says so."""

    id: str
    data: Json
    region_ids: frozenset[str]
    project: str = ""


@dataclass(frozen=True)
class DrawnRegion:
    """A smart point or box on one page. Numbers are percent of the picture, degrees clockwise.

    A point has no ``width`` and ``height``. ``size`` is ``(H, W)`` of the picture as the browser shows it, or None.
    """

    id: str
    from_name: str
    to_name: str
    label: str | None
    page: int | None
    size: tuple[int, int] | None
    image_rotation: float
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    rotation: float = 0.0
    positive: bool = True
    box: bool = False


@dataclass(frozen=True)
class TypedText:
    """The text of one TextArea, the newest entry. ``page`` only where the tag has ``perItem``."""

    id: str
    from_name: str
    to_name: str
    page: int | None
    text: str
    label: None = None  # the editor never tells which label is selected while somebody types


@dataclass(frozen=True)
class Context:
    """The prompts of an interactive request, in the order in which they were made."""

    regions: tuple[DrawnRegion, ...] = ()
    texts: tuple[TypedText, ...] = ()


def parse_predict(body: Any) -> PredictRequest:
    """Body of ``/predict``: ``{tasks, project, label_config, params: {context, ...}}``."""
    body = _object(body, "The request body")
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise BadRequestError("'tasks' must be a list with at least one task.")
    given = _object(_given(body, "params"), "'params'")
    params = {name: given.get(name) for name in ("login", "password")}
    config = _config(body.get("label_config"))
    return PredictRequest(tasks, project_id(body.get("project")), config, given.get("context"), params)


def parse_setup(body: Any) -> SetupRequest:
    """Body of ``/setup``: ``{project, schema, hostname, access_token, extra_params}``."""
    body = _object(body, "The request body")
    return SetupRequest(project_id(body.get("project")), _config(body.get("schema")))


def parse_webhook(body: Any) -> WebhookEvent:
    """Body of ``/webhook``: ``{action, project: {id, label_config, ...}, ...}``."""
    body = _object(body, "The request body")
    action = body.get("action")
    if not isinstance(action, str) or not action:
        raise BadRequestError("'action' must name the event.")
    project = _object(_given(body, "project"), "'project'")
    data = {key: value for key, value in body.items() if key != "action"}
    return WebhookEvent(action, project_id(project.get("id")), _config(project.get("label_config")), data)


def project_id(value: Any) -> str:
    """Label Studio writes ``"<id>.<unix time of creation>"``; the id is the part before the dot."""
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return whole_text(str(value).split(".", 1)[0])


def whole_text(text: str) -> str:
    """A text that can be stored and sent: JSON can hold halves of characters, which no file and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def parse_task(raw: Any) -> Task:
    """One task of ``/predict``."""
    raw = _object(raw, "A task")
    data = _object(_given(raw, "data"), "The 'data' of a task")
    return Task(_name(raw.get("id")), data, frozenset(_region_ids(raw)), project_id(raw.get("project")))


def parse_context(raw: Any, label_tags: Collection[str] = ()) -> Context | None:
    """The context of a request: None when there is none, empty when its shape is unknown or nothing is a prompt.
    ``label_tags`` as in :func:`read_prompts`."""
    if raw is None:
        return None
    items = raw.get("result") if isinstance(raw, dict) else None
    return read_prompts(items, label_tags=label_tags) if isinstance(items, list) else Context()


def read_prompts(items: Iterable[Any], strict: bool = True, label_tags: Collection[str] = ()) -> Context:
    """The points, boxes and texts among result items. What is damaged is left out unless ``strict``.

    ``label_tags`` are the ``Labels`` tags that say what a region of a plain tag is; any where none are named. Others on
    the same picture may say something else about it, as how well it is seen.

    :raises BadRequestError: an item is damaged, and ``strict``.
    """
    regions: list[DrawnRegion] = []
    texts: list[TypedText] = []
    shared: dict[str, str] = {}
    for item in items:
        try:
            item = _object(item, "An entry of the context")
            value = _object(_given(item, "value"), "The 'value' of a context entry")
            kind = _name(item.get("type"))
            if kind == "textarea":
                texts += _typed_text(item, value)
            elif kind == "labels":  # a region of plain tags comes twice, once with its label
                if not label_tags or _name(item.get("from_name")) in label_tags:
                    shared.setdefault(_name(item.get("id")), _first_label(value.get("labels")))
            elif kind in _REGION_TYPES and not COPIED_MASK & value.keys():
                regions.append(_drawn_region(item, value, **_REGION_TYPES[kind]))
        except BadRequestError:
            if strict:
                raise
    regions = [replace(r, label=shared.get(r.id)) if r.label is None else r for r in _once(regions)]
    return Context(tuple(regions), tuple(texts))


def _once(regions: Iterable[DrawnRegion]) -> Iterator[DrawnRegion]:
    """Each region once. Where labels of two tags are chosen, a click becomes a result of each under one id; that of the
    tag whose tool was in hand comes first."""
    seen: set[str] = set()
    for region in regions:
        if not region.id or region.id not in seen:
            seen.add(region.id)
            yield region


_REGION_TYPES: dict[str, dict[str, bool]] = {
    "keypointlabels": {"box": False},
    "keypoint": {"box": False},
    "rectanglelabels": {"box": True},
    "rectangle": {"box": True},
}
# Accepting a suggestion while a prompt label is selected leaves a result of the prompt's type that holds the mask.
COPIED_MASK = frozenset({"rle", "imageDataURL", "points"})


def _drawn_region(item: Json, value: Json, box: bool) -> DrawnRegion:
    geometry = {"x": _number(value, "x"), "y": _number(value, "y")}
    if box:
        geometry |= {name: _number(value, name) for name in ("width", "height")}
        geometry["rotation"] = _number(value, "rotation", 0.0)
    label = value.get(item["type"]) or value.get("labels")
    positive = item.get("is_positive", True)
    if not isinstance(positive, bool):
        raise BadRequestError("'is_positive' must be true or false.")
    return DrawnRegion(
        **_place(item),
        label=_first_label(label),
        size=picture_size(item),
        image_rotation=_number(item, "image_rotation", 0.0),
        **geometry,
        positive=positive,
        box=box,
    )


def _typed_text(item: Json, value: Json) -> Iterator[TypedText]:
    entries = value.get("text")
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadRequestError("The 'text' of a TextArea must be a list of texts.")
    written = [entry.strip() for entry in entries if entry.strip()]
    if written:
        yield TypedText(**_place(item), text=whole_text(written[-1]))


def _place(item: Json) -> dict[str, Any]:
    page = item.get("item_index")
    if page is not None and (isinstance(page, bool) or not isinstance(page, int) or page < 0):
        raise BadRequestError("'item_index' must be the number of a page, counted from 0.")
    return {
        "id": _name(item.get("id")),
        "from_name": _name(item.get("from_name")),
        "to_name": _name(item.get("to_name")),
        "page": page,
    }


def _first_label(labels: Any) -> str | None:
    return _name(labels[0]) if isinstance(labels, list) and labels else None


def picture_size(item: Json) -> tuple[int, int] | None:
    """``(H, W)`` of the picture that a result item belongs to, if it says so.

    :raises BadRequestError: these are no numbers of pixels.
    """
    sides = item.get("original_height"), item.get("original_width")
    if sides == (None, None):
        return None
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or not 0 < side < 1 << 20:
            raise BadRequestError("'original_width' and 'original_height' must be whole numbers of pixels.")
    return sides


def _region_ids(raw: Json) -> Iterator[str]:
    for key in ("drafts", "annotations"):
        for entry in objects_in(raw.get(key)):
            for region in objects_in(entry.get("result")):
                yield _name(region.get("id"))


def objects_in(value: Any) -> Iterable[Json]:
    """The JSON objects of a list; nothing when it is none."""
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()


def _given(source: Json, name: str) -> Any:
    value = source.get(name)
    return {} if value is None else value


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise BadRequestError(f"{what} must be a JSON object.")
    return value


def _config(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequestError("The labeling configuration must be a text.")
    return value


def _name(value: Any) -> str:
    return whole_text(str(value)) if isinstance(value, str | int) else ""


def _number(source: Json, name: str, default: float | None = None) -> float:
    value = source.get(name)
    if value is None and default is not None:
        return default
    # JSON's whole numbers have no limit, floats have
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_NUMBER:
        raise BadRequestError(f"'{name}' must be a number.")
    return float(value)
