"""What a person writes for a setting -> its value; a ``ValueError`` says how it must be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit

MEGABYTE = 2**20
LONGEST_TRACK = 80.0  # shaping the answer and sending it take time, too


def text(value: str) -> str:
    return value.strip()


def words(value: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in value.replace(",", " ").split())


def directories(value: str) -> tuple[str, ...]:
    return tuple(os.path.expanduser(path.strip()) for path in value.split(os.pathsep) if path.strip())


def positive(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("must be greater than 0")
    return number


def share(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError("must be at least 0 and less than 1")
    return number


def below_a_request(value: str) -> float:
    number = positive(value)
    if number > LONGEST_TRACK:
        raise ValueError(f"must be at most {LONGEST_TRACK:g}, Label Studio gives up after 100 s")
    return number


def count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def whole(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def amount(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError("must not be negative")
    return number


def span(value: str) -> tuple[int, int]:
    least, _, most = value.partition(":")
    span = count(least), count(most or least)
    if span[0] > span[1]:
        raise ValueError("must be a number, or the least and the most with a colon between them")
    return span


def megabytes(value: str) -> int:
    return int(positive(value) * MEGABYTE)


def megabytes_or_none(value: str) -> int:
    return 0 if float(value) == 0 else megabytes(value)


def megapixels(value: str) -> int:
    return int(positive(value) * 1e6)


def web_address(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http://host:port")
    return value.strip().rstrip("/")


def choice(*known: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.strip().lower() not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value.strip().lower()

    return read


def device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value.strip().lower()):
        raise ValueError("must be auto, cpu, cuda, or one GPU like cuda:1")
    return value.strip().lower()


def port(value: str) -> int:
    number = int(value)
    if not 0 < number < 1 << 16:
        raise ValueError("must be between 1 and 65535")
    return number


def flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in known:
        raise ValueError("must be 1 or 0")
    return known[value.strip().lower()]


def log_level(value: str) -> str:
    if value.strip().upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.strip().upper()


def only_one(value: str) -> int:
    if int(value) != 1:
        raise ValueError("one process owns the model; leave it out, and set X2SAM_THREADS for more requests at once")
    return 1
