"""The body of a request as a JSON value, or a sentence why it is none; and answers as JSON.

Parsing holds Python's lock from begin to end, so the parser must be fast: a click on a task with many masks brings
megabytes, and everybody would wait for it. orjson takes a tenth of the time of the standard library's, and refuses
what JSON does not have (NaN, infinite numbers, other encodings, endless nesting). Nearly all of such a body are the
run lengths of brush masks, a number for each byte; long ones become texts (``"12,7,255"``) before it is parsed, which
takes a tenth of the time again. :mod:`backend.rle` reads either form.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson
from flask import Request
from werkzeug.exceptions import ClientDisconnected

from backend.errors import BadRequestError, SlowRequestError

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_RUNS_KEY = b'"rle"'
_RUNS_BEGIN = re.compile(rb'"rle"[ \t\r\n]*:[ \t\r\n]*\[')
_LONG_RUNS = 4096  # bytes of JSON; shorter ones stay lists
_MOST_RUNS = 100_000  # further ones stay lists
_BLOCK = 1 << 16
_OF_RUNS = b"0123456789, "
_QUOTE, _BACKSLASH = b'"\\'


def read_json(request: Request, max_bytes: int) -> Any:
    """The value in a request's body of at most ``max_bytes``.

    :raises BadRequestError: it is not JSON, or is sent as something else.
    :raises SlowRequestError: the client falls silent in the middle.
    :raises werkzeug.exceptions.RequestEntityTooLarge: it is longer.
    """
    kind = request.mimetype
    if kind != "application/json" and not kind.endswith("+json"):
        raise BadRequestError("The request must be JSON, sent with 'Content-Type: application/json'.")
    if request.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise BadRequestError("The request body must not be compressed.")
    request.max_content_length = max_bytes
    try:
        body = request.get_data(cache=False)
    except (OSError, ClientDisconnected) as error:  # the socket's time ran out, or it was closed
        raise SlowRequestError("The request did not arrive completely, or not in time.") from error
    return parse_json(body)


def as_json_text(value: Any) -> bytes:
    """JSON in UTF-8. Run-lengths of many masks are a million numbers; they are written as fast as they are read."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # a text with half a character in it
        return json.dumps(value).encode()


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    :raises BadRequestError: it is none.
    """
    try:
        return orjson.loads(runs_as_text(body))
    except orjson.JSONDecodeError as error:
        if _HALF_CHARACTER.search(body):
            return _with_half_characters(body)
        raise BadRequestError(f"The request body is not JSON: {_reason(error)}.") from error


def runs_as_text(body: bytes) -> bytes | bytearray:
    """The same JSON with quotes instead of brackets around long lists of numbers that are called ``rle``.

    Inside a text no quote stands without a backslash before it, so such a key is one wherever it is found. What stands
    between the numbers is looked at by who reads them.
    """
    at, end, quoted = body.find(_RUNS_KEY), -1, None
    for _ in range(_MOST_RUNS):
        if at < 0:
            break
        following = at + len(_RUNS_KEY)
        begin = _RUNS_BEGIN.match(body, at)
        if begin is not None and body[at - 1] != _BACKSLASH:
            following = begin.end()
            end = body.find(b"]", following) if end < following else end
            if end < 0:
                break
            if _long_runs(body, following, end):
                quoted = quoted or bytearray(body)
                quoted[following - 1] = quoted[end] = _QUOTE
                following = end
        at = body.find(_RUNS_KEY, following)
    return body if quoted is None else quoted


def _long_runs(body: bytes, start: int, end: int) -> bool:
    """Whether there are many characters from ``start`` to ``end``, all of numbers, commas and spaces; others get their
    turn between blocks."""
    if end - start < _LONG_RUNS or body.find(b'"', start, start + _LONG_RUNS) >= 0:
        return False
    blocks = (body[first : min(first + _BLOCK, end)] for first in range(start, end, _BLOCK))
    return not any(block.translate(None, _OF_RUNS) for block in blocks)


def _with_half_characters(body: bytes) -> Any:
    """Texts may hold halves of characters, which browsers send and orjson refuses."""
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise BadRequestError("The request body is nested too deeply.") from error
    except ValueError as error:
        raise BadRequestError("The request body is not JSON.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _reason(error: orjson.JSONDecodeError) -> str:
    """The parser's words, which quote nothing of the body."""
    if "depth" in error.msg or "recursion" in error.msg:
        return "it is nested too deeply"
    return f"{error.msg}, at byte {error.pos}"
