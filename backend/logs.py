"""The server's log: one line for each request, as ``key=value`` or JSON, and nothing in it that a task holds.

A request's line is collected while it is answered (:func:`note`) and written when its answer leaves
(:class:`RequestLog`). Errors are logged with the places in the code where they arose, never with their own words: those
may quote a task, an address or a token.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

TALKATIVE = ("urllib3", "PIL", "httpx", "httpcore")
"""Loggers that would write addresses of pictures below WARNING."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9._:/+-]+")


def configure(level: int = logging.INFO, form: str = "text") -> None:
    """Sends everything that is logged to standard error. ``form``: ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else KeyValueLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


@dataclass
class RequestLog:
    """What is known of one request; ``tasks`` has the fields of each answered task."""

    id: str
    started: float = field(default_factory=time.perf_counter)
    fields: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        """Fields in the order in which they are written; those of a single task among them."""
        found = {"request": self.id, **self.fields, "ms": round(1e3 * (time.perf_counter() - self.started), 1)}
        if len(self.tasks) == 1:
            return found | {key: value for key, value in self.tasks[0].items() if key != "ms"}
        return found | ({"tasks": len(self.tasks)} if self.tasks else {})


_CURRENT: ContextVar[RequestLog | None] = ContextVar("request", default=None)


def begin(offered: str | None) -> RequestLog:
    """Starts the record of a request, under the id that the client offers if it is harmless."""
    known = offered if offered and _SAFE_ID.fullmatch(offered) else uuid.uuid4().hex[:16]
    record = RequestLog(known)
    _CURRENT.set(record)
    return record


def end() -> None:
    """The request is over; its thread may take another one."""
    _CURRENT.set(None)


def note(**fields: Any) -> None:
    """Adds to the line of the present request; without one, nothing happens."""
    record = _CURRENT.get()
    if record is not None:
        record.fields.update(fields)


def answered(log: logging.Logger, **fields: Any) -> None:
    """One task was answered: part of its request's line if it is the only one, else a line of its own."""
    record = _CURRENT.get()
    if record is not None:
        record.tasks.append(fields)
    level = logging.INFO if record is None else logging.DEBUG
    log.log(level, "answer", extra={"fields": fields})


def loggable(value: object) -> str:
    """An id as it may be logged: numbers are, anything else is somebody's text."""
    text = str(value)
    return text if text.isascii() and text.isdigit() and len(text) < 20 else "?"


class _Lines(logging.Formatter):
    """Collects what a line says."""

    def said(self, record: logging.LogRecord) -> dict[str, Any]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        current = _CURRENT.get()
        if current is not None:
            found["request"] = current.id
        found |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            found["error"] = record.exc_info[0].__name__
            found["at"] = where(record.exc_info[1])
        return found


class JsonLines(_Lines):
    """A JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.said(record), default=str)


class KeyValueLines(_Lines):
    """``time LEVEL logger event key=value ...``; values with blanks or quotes are written as JSON texts."""

    def format(self, record: logging.LogRecord) -> str:
        said = self.said(record)
        head = f"{said.pop('time')} {said.pop('level')} {said.pop('logger')}: {_one_line(said.pop('event'))}"
        return " ".join([head, *(f"{key}={_written(value)}" for key, value in said.items())])


def where(error: BaseException | None) -> str:
    """The places in the code where an error arose, innermost last, without its words."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return " > ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}" for frame in frames[-12:])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_written(entry)}" for key, entry in value.items()) or "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
