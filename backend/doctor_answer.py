"""The doctor's checks of an answer: the task's picture fetched and read, a click asked, what comes back looked at."""

from __future__ import annotations

import base64
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.clients import NoAnswer, shown
from backend.doctor import Finding, Mark, NotNow, Problem, Visit
from backend.doctor_setup import prompt_tags
from backend.errors import EXPECTED, MediaError
from backend.file_cache import FileCache
from backend.label_config import OUTPUTS, ControlTag, ObjectTag
from backend.media import MediaFetcher
from backend.pictures import decode_picture
from backend.rle import decode_mask
from backend.settings import MEGABYTE
from backend.starting import code_folder
from x2sam.placement import find_compiler

LARGEST_ANSWER = 4 * MEGABYTE
"""Beyond this the browser needs seconds for each answer: it unpacks and packs every region again."""

_PREDICT_SECONDS = 130.0  # Label Studio itself gives up after 100
_SLOW = 5.0
_CREDENTIALS = {"login": None, "password": None}


def check_media(visit: Visit) -> str:
    """The ML backend may fetch the first picture of the task, and gets it. No file cache hides a failure."""
    settings = visit.settings
    with tempfile.TemporaryDirectory(prefix="x2sam-doctor-") as folder:
        fetcher = MediaFetcher(settings, FileCache(Path(folder), settings.media_cache_bytes, 3600.0))
        begun = time.perf_counter()
        try:
            visit.content = fetcher.read(visit.addresses[0])
        except MediaError as error:
            raise _media_problem(error) from error
        seconds = time.perf_counter() - begun
    return f"{_size(len(visit.content))} in {1e3 * seconds:.0f} ms"


def check_decode(visit: Visit) -> str:
    """The file is a picture that is read."""
    try:
        picture = decode_picture(visit.content, visit.settings.max_pixels)
    except MediaError as error:
        raise _media_problem(error) from error
    visit.picture_size = picture.size
    height, width = picture.size
    return f"{width} x {height} pixels"


def _media_problem(error: MediaError) -> Problem:
    """Errors of pictures are written for annotators: what is wrong, then the mend."""
    text = str(error).rstrip(".")
    for mark in ("; ", ": "):
        what, found, mend = text.partition(mark)
        if found:
            return Problem(what, mend[:1].upper() + mend[1:] + ".")
    return Problem(text, "Open the task in Label Studio and see whether the picture is shown there.")


def check_model(visit: Visit) -> Finding | str:
    """The model that answers is loaded: the one of this process, else that of the attached backend."""
    if visit.loaded is not None:
        begun = time.perf_counter()
        try:
            name = visit.loaded.load()
        except EXPECTED as error:
            raise Problem(str(error), "Name another with --model, or mend what it says.") from error
        return f"{name}, loaded in {time.perf_counter() - begun:.1f} s"
    if not visit.connected:
        raise NotNow("no backend is connected; --model nano loads one in this process")
    url = str(visit.row.get("url"))
    try:
        health = visit.backend(url).ask("GET", "/health")
    except NoAnswer as error:
        raise NotNow(f"{shown(url)} is not reached from this machine ({error})") from error
    name = f"{health.entry('version')} on {health.entry('device')}"
    if health.entry("state") == "ready":
        return name
    return Finding(Mark.NOTE, f"{health.entry('model')} is {health.entry('state')}", "Wait, or look into its log.")


def check_compiled(visit: Visit) -> Finding | str:
    """Where parts of the network are to be compiled, there is a compiler; what was compiled is told."""
    if not visit.settings.compiled:
        return "not asked for (X2SAM_COMPILE is 0)"
    compiler, folder = find_compiler(), code_folder(visit.settings)
    count = len(list(folder.glob("*.so")))
    if not compiler:
        text = f"there is no C++ compiler, so nothing more is compiled; {count} files are in {folder}"
        return Finding(Mark.NOTE, text, "Install g++ or name a compiler in CXX; or leave X2SAM_COMPILE out.")
    return f"by {compiler}; {count} files in {folder}. What each gains: x2sam_compiled_gain in /metrics, and the log"


def check_predict(visit: Visit) -> Finding | str:
    """A click, a box or a word on the picture is answered: by the model loaded here, else through Label Studio."""
    prompt = _prompt(visit)
    ask = _ask_loaded if visit.loaded else _ask_through_label_studio
    begun = time.perf_counter()
    visit.answer, visit.answer_bytes = ask(visit, prompt)
    seconds = time.perf_counter() - begun
    items = visit.answer.get("result")
    if not isinstance(items, list):
        raise Problem("the answer has no result", "Look into the log of the ML backend.")
    told = " ".join(_sentences(items))
    if not _regions(items) and prompt["type"] != "textarea":
        raise Problem(f"a click in the middle gave no mask: {told or 'the answer is empty'}", "See the sentence.")
    count = len(_regions(items))
    took = f"{count} mask{'s' if count != 1 else ''} in {1e3 * seconds:.0f} ms for a {_KINDS[prompt['type']]}"
    if seconds > _SLOW:
        mend = "Take a smaller model or a GPU; the first answer after a start takes longest."
        return Finding(Mark.NOTE, took, mend)
    return took


_KINDS = {"keypointlabels": "click", "rectanglelabels": "box", "textarea": "word"}


def _prompt(visit: Visit) -> dict[str, Any]:
    """What the editor would send for a click in the middle, or for a box or a word where clicks are not asked for."""
    config, tag = visit.config, visit.config.picture()
    drawn = sorted(prompt_tags(config, tag), key=lambda control: control.kind)  # points first
    height, width = visit.picture_size
    item = {"id": "doctor", "to_name": tag.name, "origin": "manual"}
    if drawn:
        label = [drawn[0].labels[0].value]
        kind = drawn[0].kind
        place = {"x": 50.0, "y": 50.0, "width": 0.3}
        if kind == "rectanglelabels":
            place = {"x": 25.0, "y": 25.0, "width": 50.0, "height": 50.0, "rotation": 0}
        item |= {"from_name": drawn[0].name, "type": kind, "value": {**place, "labels": label, kind: label}}
        item |= {"original_width": width, "original_height": height, "image_rotation": 0, "is_positive": True}
    else:
        typed = next((one for one in config.on(tag.name, "textarea") if config.is_text_prompt(one.name)), None)
        if typed is None:
            raise NotNow("no tag of the labeling configuration asks the backend")
        words = config.output(tag.name).labels[0].names[0]
        item |= {"from_name": typed.name, "type": "textarea", "value": {"text": [words]}}
    return item | ({"item_index": 0} if _paged(visit, tag) else {})


def _paged(visit: Visit, tag: ObjectTag) -> bool:
    return tag.pages or len(visit.addresses) > 1


def _ask_loaded(visit: Visit, prompt: dict[str, Any]) -> tuple[dict[str, Any], int]:
    status, body = visit.loaded.predict(_request(visit, prompt))
    return _first_result(status, body)


def _ask_through_label_studio(visit: Visit, prompt: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The way of a real click. Label Studio keeps a backend's reasons to itself, so those are asked for directly."""
    if not visit.connected or not visit.row.get("is_interactive"):
        raise NotNow("Label Studio asks no connected, interactive backend; --model nano tries a model in this process")
    body = {"task": visit.task.get("id"), "context": {"result": [prompt]}}
    path = f"/api/ml/{visit.row.get('id')}/interactive-annotating"
    try:
        reply = visit.label_studio.ask("POST", path, body, _PREDICT_SECONDS)
    except NoAnswer as error:
        raise Problem(f"Label Studio did not answer: {error}", "Try again when the backend is idle.") from error
    answer = reply.entry("data")
    if reply.status == 200 and isinstance(answer, dict):
        return answer, len(reply.body)
    url = str(visit.row.get("url"))
    try:
        direct = visit.backend(url).ask("POST", "/predict", _request(visit, prompt), _PREDICT_SECONDS)
    except NoAnswer as error:
        raise Problem(
            f"Label Studio got no answer from {shown(url)}",
            f"Look into the log of the ML backend; asked from this machine: {error}.",
        ) from error
    return _first_result(direct.status, direct.body)


def _request(visit: Visit, prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        "tasks": [visit.task],
        "project": str(visit.project_id),
        "label_config": visit.project.get("label_config"),
        "params": {**_CREDENTIALS, "context": {"result": [prompt]}},
    }


def _first_result(status: int, body: bytes) -> tuple[dict[str, Any], int]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    results = answer.get("results") if isinstance(answer, dict) else None
    if status == 200 and isinstance(results, list) and results and isinstance(results[0], dict):
        return results[0], len(body)
    told = answer.get("error") if isinstance(answer, dict) else None
    raise Problem(f"the backend answered {status}: {told or 'nothing that is readable'}", "Look into its log.")


def check_encode(visit: Visit) -> str:
    """Every mask of the answer goes to a tag of the configuration, has a label of it, and unpacks to the picture."""
    config, areas = visit.config, []
    for item in _regions(visit.answer["result"]):
        control = config.controls.get(str(item.get("from_name")))
        if control is None or control.kind != item.get("type"):
            raise Problem(
                f"an answer is for '{item.get('from_name')}', which the configuration does not have",
                "Reload the labeling page; if that does not help, this is a defect of the ML backend.",
            )
        areas.append(_area(item, control, visit.picture_size))
    if not areas:
        raise NotNow("nothing was found, so there is nothing to unpack")
    return f"unpacks to {visit.picture_size[1]} x {visit.picture_size[0]}, {max(areas):.1%} of the picture"


def _area(item: dict[str, Any], control: ControlTag, size: tuple[int, int]) -> float:
    """The share of the picture that a result item covers."""
    stated = item.get("original_height"), item.get("original_width")
    if stated != size:
        raise Problem(
            f"an answer is for a picture of {stated[1]} x {stated[0]}, the picture has {size[1]} x {size[0]}",
            "This is a defect of the ML backend; report the kind of picture.",
        )
    try:
        area = _UNPACK[control.kind.removesuffix("labels")](item["value"], size)
    except (*EXPECTED, OSError, KeyError, TypeError, ValueError) as error:
        raise Problem(f"an answer for '{control.name}' can't be unpacked ({error})", "Report it.") from error
    if not area > 0:
        raise Problem(f"an answer for '{control.name}' is empty", "This is a defect of the ML backend; report it.")
    return area


def _brush(value: dict[str, Any], size: tuple[int, int]) -> float:
    return float(decode_mask(value["rle"], *size).mean())


def _bitmask(value: dict[str, Any], size: tuple[int, int]) -> float:
    with Image.open(io.BytesIO(base64.b64decode(value["imageDataURL"].partition(",")[2])), formats=["PNG"]) as image:
        if image.size != size[::-1]:
            raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels")
        return float((np.asarray(image.convert("RGBA"))[..., 3] > 127).mean())


def _polygon(value: dict[str, Any], _: tuple[int, int]) -> float:
    x, y = np.asarray(value["points"], float).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2e4)


def _rectangle(value: dict[str, Any], _: tuple[int, int]) -> float:
    return float(value["width"]) * float(value["height"]) / 1e4


_UNPACK: dict[str, Callable[[dict[str, Any], tuple[int, int]], float]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _polygon,
    "rectangle": _rectangle,
}


def check_size(visit: Visit) -> Finding | str:
    """The answer is small enough for the browser, and what Label Studio sends with each click for the backend."""
    if visit.answer_bytes > LARGEST_ANSWER:
        kinds = {item["type"] for item in _regions(visit.answer["result"])}
        brush = any(kind.startswith("brush") for kind in kinds)
        other = "use BitmaskLabels in place of BrushLabels, whose masks are 3 to 5 times smaller, or " if brush else ""
        raise Problem(
            f"the answer to one prompt has {_size(visit.answer_bytes)}; beyond {_size(LARGEST_ANSWER)} every click "
            "takes the browser seconds",
            f"{other[:1].upper()}{other[1:]}import smaller pictures and shorter clips.",
        )
    sent = len(json.dumps(visit.task))
    if sent > visit.settings.max_request_bytes:
        raise Problem(
            f"Label Studio sends {_size(sent)} with each click, the backend takes "
            f"{_size(visit.settings.max_request_bytes)}",
            "Raise X2SAM_MAX_REQUEST_MB, or split the clip into shorter tasks.",
        )
    text = f"{_size(visit.answer_bytes)}; with each click come {_size(sent)}"
    if sent > LARGEST_ANSWER:
        return Finding(Mark.NOTE, text, "Delete old predictions and drafts of the task, or split it.")
    return text


def _regions(items: list[Any]) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict) and item.get("type") in OUTPUTS]


def _sentences(items: list[Any]) -> list[str]:
    texts = [item["value"].get("text") for item in items if isinstance(item, dict) and item.get("type") == "textarea"]
    return [str(line) for text in texts for line in (text if isinstance(text, list) else [text])]


def _size(count: int) -> str:
    return f"{count / MEGABYTE:.1f} MB" if count >= MEGABYTE else f"{count / 1024:.0f} kB"
