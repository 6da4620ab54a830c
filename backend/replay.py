"""Replays recorded prompts on a model and holds the answers against those that were recorded.

Requests go through the server's own app, one after the other in the order in which they came, into a state folder that
is empty. Names of regions come from the ids in the requests, so on the same weights, processor and number of threads
answers are equal in every byte. Two kinds of answers are told apart from those:

- On another processor, with another number of threads or another PyTorch, sums are rounded otherwise. Then answers
  count as equal that have the same regions and sentences (digits in these aside) and whose masks overlap by
  :data:`SAME_MASK` at least.
- What an answer was may depend on more than what was asked before: a track that was still running then, what was known
  of the task before recording began. Such answers, and later ones about the same task, are replayed and told, but hold
  nothing up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask

from backend.bodies import as_json_text, parse_json
from backend.errors import BadRequestError, LabelConfigError, RecordingError
from backend.label_config import LabelConfig, parse_label_config
from backend.protocol import read_prompts
from backend.recorded import FORMAT, answer_line, mask_of, restored
from backend.recorder import MEDIA_FOLDER
from backend.tracking import order_of

SAME_MASK = 0.99
"""Intersection over union from which on masks count as the same where rounding differs."""
ROUNDING = ("processor", "vectors", "cores", "blas", "torch", "numpy", "device", "threads")
"""What of the head must be the same for sums to be rounded the same way."""
_TRACK_SECONDS = 3600.0  # that a track over pages may take before the next request


@dataclass(frozen=True)
class Recording:
    """A file of recorded prompts. ``media`` are digest and size by number; ``cut``: its last line is not whole;
    ``ended`` says why recording ended, where it did not just stop."""

    head: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    kept: Mapping[str, Any]
    media: Mapping[int, tuple[str, int]]
    cut: bool = False


@dataclass(frozen=True)
class Compared:
    """One request: ``verdict`` is ``identical`` (in bytes), ``close`` (but for rounding), ``different``, or
    ``depends`` (on what the recording does not tell); ``difference`` is the first one, ``reasons`` why it depends on
    more. Seconds of then and now."""

    asked: int
    kind: str
    verdict: str
    difference: str = ""
    reasons: Sequence[str] = ()
    recorded: float = 0.0
    replayed: float = 0.0


@dataclass
class Replayed:
    """What came of it. ``rounding`` names what is another than then, ``replaced`` are requests that were never
    answered, since a newer one took their place."""

    model_version: str
    recorded_version: str
    rounding: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[Compared] = field(default_factory=list)
    replaced: int = 0

    @property
    def counts(self) -> dict[str, int]:
        verdicts = [one.verdict for one in self.requests]
        return {name: verdicts.count(name) for name in ("identical", "close", "different", "depends")}

    @property
    def holds(self) -> bool:
        """Whether nothing is different."""
        return not self.counts["different"] and self.model_version == self.recorded_version

    def times(self) -> dict[str, dict[str, Any]]:
        """Milliseconds by kind of request, then and now: how many, median and 95th percentile."""
        told = {}
        for kind in dict.fromkeys(one.kind for one in self.requests):
            own = [one for one in self.requests if one.kind == kind]
            told[kind] = {"n": len(own)} | {
                when: dict(zip(("p50", "p95"), _percentiles([getattr(one, when) for one in own]), strict=True))
                for when in ("recorded", "replayed")
            }
        return told


def read_recording(path: Path) -> Recording:
    """What a file of recorded prompts holds.

    :raises RecordingError: it can't be read, or is none.
    """
    rows, kept, media, head, cut = [], {}, {}, None, False
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):  # whoever wrote it was killed
                    cut = True
                    break
                told = parse_json(line)
                if number == 1:
                    head = told
                elif "asked" in told:
                    rows.append(told)
                elif "kept" in told:
                    kept[told["kept"]] = told["value"]
                elif "media" in told:
                    media[told["media"]] = told["sha256"], told["bytes"]
    except OSError as error:
        raise RecordingError(f"{path} can't be read ({error.strerror}).") from error
    except (BadRequestError, KeyError, TypeError) as error:
        raise RecordingError(f"{path} is no recording of prompts, or is damaged in line {number}.") from error
    if not isinstance(head, dict) or head.get("recording") != FORMAT:
        raise RecordingError(f"{path} is no recording of prompts that this version reads.")
    return Recording(head, sorted(rows, key=lambda row: row["at"]), kept, media, cut)


def find_media(recording: Recording, path: Path, folders: Iterable[Path], place: Path) -> dict[int, str]:
    """Puts the recording's pictures and videos into ``place``, each found by its content beside the recording or below
    ``folders``; the names there, by number.

    :raises RecordingError: some are missing.
    """
    wanted = {digest: size for digest, size in recording.media.values()}
    sizes, found = set(wanted.values()), {}
    for folder in (path.parent / MEDIA_FOLDER, *folders):
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            if len(found) < len(wanted) and file.stat().st_size in sizes:
                found.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), file)
    missing = sorted(number for number, (digest, _) in recording.media.items() if digest not in found)
    if missing:
        digests = ", ".join(recording.media[number][0][:12] for number in missing[:3])
        raise RecordingError(
            f"{len(missing)} of {len(recording.media)} pictures and videos of the recording are not there (sha256 "
            f"{digests} ...): name folders that have them with --media."
        )
    names = {}
    for number, (digest, _) in recording.media.items():
        names[number] = f"m{number}"
        try:
            os.link(found[digest], place / names[number])
        except OSError:  # another disk
            shutil.copyfile(found[digest], place / names[number])
    return names


class Replay:
    """One run of a recording on an ``app`` whose engine is loaded. ``here`` is the head that it would write itself."""

    def __init__(self, app: Flask, recording: Recording, names: Mapping[int, str], here: Mapping[str, Any]):
        self._services, self._client = app.extensions["x2sam"], app.test_client()
        self._recording, self._names = recording, names
        head = recording.head
        other = {name: [head.get(name), here.get(name)] for name in ROUNDING if head.get(name) != here.get(name)}
        self.done = Replayed(here["version"], head["version"], other)
        self._unsure: dict[str, set[str]] = {}
        self._seen: set[str] = set()

    def run(self, report: Callable[[str, int, int], None], as_recorded: bool = False) -> Replayed:
        """Asks everything; at the pace of the recording, or at once."""
        begun = time.monotonic()
        for number, row in enumerate(self._recording.rows):
            if row.get("replaced"):
                self.done.replaced += 1
            else:
                if as_recorded:
                    time.sleep(max(0.0, begun + row["at"] - time.monotonic()))
                self.done.requests.append(self._replayed(row))
            report("requests", number + 1, len(self._recording.rows))
        return self.done

    def _replayed(self, row: Mapping[str, Any]) -> Compared:
        body = restored(row, self._recording.kept, lambda number: self._names.get(number, f"unknown-{number}"))
        tasks = [str(task.get("id")) for task in body["tasks"]]
        for task in tasks:  # what a person waited for longer than we do is there
            for job in self._services.tracks.of_task(task):
                job.wait(_TRACK_SECONDS)
        kind, text = self._kind(body), as_json_text(body)
        begun = time.perf_counter()
        reply = self._client.post("/predict", data=text, content_type="application/json")
        seconds = time.perf_counter() - begun
        verdict, difference = self._compared(row, reply.status_code, reply.get_data())
        reasons = set(row["depends"]).union(*(self._unsure.get(task, ()) for task in tasks))
        if reasons:
            for task in tasks:
                self._unsure.setdefault(task, set()).update(reasons)
            verdict = "depends" if verdict == "different" else verdict
        return Compared(row["asked"], kind, verdict, difference, sorted(reasons), row["seconds"], round(seconds, 4))

    def _compared(self, row: Mapping[str, Any], status: int, body: bytes) -> tuple[str, str]:
        if "refused" in row or status != 200:
            then = row.get("refused", 200)
            return ("identical", "") if then == status else ("different", f"it was answered with {then}, now {status}")
        answer = row["answer"]
        if hashlib.sha256(body).hexdigest() == answer["sha256"]:
            return "identical", ""
        now = answer_line(body, parse_json(body)["results"])
        difference, close = first_difference(answer["items"], now["items"])
        return "close" if close and self.done.rounding else "different", difference

    def _kind(self, body: Mapping[str, Any]) -> str:
        """What is asked for, as times are told apart: ``first`` and ``next`` are clicks and boxes."""
        items = (body["params"].get("context") or {}).get("result")
        if not items:
            return "open"
        try:
            config = parse_label_config(body["label_config"])
        except LabelConfigError:
            config = LabelConfig({}, {})
        prompts = read_prompts(items, strict=False)
        if not prompts.regions:
            commands = [order_of(text.text, text.page) for text in prompts.texts]
            return "track" if any(commands) else "words"
        control = config.controls.get(prompts.regions[-1].from_name)
        if control is not None and control.tracks:
            return "track"
        pages = {str((task["data"], prompts.regions[-1].page)) for task in body["tasks"]}
        first = not pages <= self._seen
        self._seen |= pages
        return "first" if first else "next"


def first_difference(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """The first item that is another than it was, in words, and whether all could be rounding."""
    if [(one["id"], one["tag"]) for one in then] != [(one["id"], one["tag"]) for one in now]:
        names = [one["id"] for one in now]
        gone = [one["id"] for one in then if one["id"] not in names]
        was = f"{gone[0]} is not in it" if gone else "it has more, or in another order"
        return f"{len(now)} items instead of {len(then)}: {was}", False
    found, close = "", True
    for number, (one, other) in enumerate(zip(then, now, strict=True), 1):
        if one["sha256"] == other["sha256"]:
            continue
        what, near = _difference(one, other)
        close &= near
        if not found or not near:
            found = f"item {number} ({one['id']}, {one['tag']}): {what}"
        if not near:
            break
    return found or "only numbers beside the items differ", close


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, bool]:
    if "words" in one or "words" in other:
        same = one.get("words") == other.get("words")
        return "another number in the sentence" if same else "another sentence", same
    masks = mask_of(one), mask_of(other)
    if masks[0] is None or masks[1] is None:
        return "another value", False
    overlap = iou(*masks)
    if overlap == 1.0:
        return "the same mask, other numbers beside it", True
    return f"another mask, IoU {overlap:.4f}", overlap >= SAME_MASK


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 0 where they have different sizes."""
    if one.shape != other.shape:
        return 0.0
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else 1.0


def _percentiles(seconds: Sequence[float]) -> list[float]:
    return [round(float(value) * 1e3, 1) for value in np.percentile(seconds, (50, 95))]
