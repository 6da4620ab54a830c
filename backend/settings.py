"""Everything that can be configured, read from the environment once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from urllib.parse import urlsplit

from backend.errors import SettingsError

MEGABYTE = 2**20


def _text(value: str) -> str:
    return value.strip()


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in value.replace(",", " ").split())


def _directories(value: str) -> tuple[str, ...]:
    return tuple(os.path.expanduser(path.strip()) for path in value.split(os.pathsep) if path.strip())


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError("must be greater than 0")
    return number


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _megabytes(value: str) -> int:
    return int(_positive(value) * MEGABYTE)


def _megapixels(value: str) -> int:
    return int(_positive(value) * 1e6)


def _web_address(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http://host:port")
    return value.strip().rstrip("/")


def _setting(default, *variables: str, read: Callable = _text):
    return field(default=default, metadata={"variables": variables, "read": read})


@dataclass(frozen=True)
class Settings:
    """Configuration of one server. Sizes are in bytes or pixels, times in seconds.

    The environment variables give sizes in megabytes and megapixels; each field names its variable.
    """

    model: str = _setting("auto", "X2SAM_MODEL")
    device: str = _setting("auto", "X2SAM_DEVICE")
    dtype: str = _setting("auto", "X2SAM_DTYPE")
    label_studio_url: str = _setting(
        "http://localhost:8080", "LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", read=_web_address
    )
    label_studio_public_url: str = _setting("", "LABEL_STUDIO_PUBLIC_URL", read=_web_address)
    label_studio_api_key: str = _setting("", "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN")
    basic_auth_user: str = _setting("", "BASIC_AUTH_USER")
    basic_auth_pass: str = _setting("", "BASIC_AUTH_PASS")
    ca_bundle: str = _setting("", "REQUESTS_CA_BUNDLE")
    media_hosts: tuple[str, ...] = _setting((), "X2SAM_MEDIA_HOSTS", read=_words)
    media_dirs: tuple[str, ...] = _setting((), "X2SAM_MEDIA_DIRS", read=_directories)
    media_max_bytes: int = _setting(200 * MEGABYTE, "X2SAM_MEDIA_MAX_MB", read=_megabytes)
    media_timeout: float = _setting(30.0, "X2SAM_MEDIA_TIMEOUT", read=_positive)
    media_cache_dir: str = _setting("~/.cache/x2sam/media", "X2SAM_CACHE_DIR")
    media_cache_bytes: int = _setting(2048 * MEGABYTE, "X2SAM_CACHE_MB", read=_megabytes)
    media_cache_seconds: float = _setting(3600.0, "X2SAM_CACHE_SECONDS", read=_positive)
    public_url: str = _setting("http://localhost:9090", "BACKEND_PUBLIC_URL", read=_web_address)
    state_dir: str = _setting("~/.local/state/x2sam", "X2SAM_STATE_DIR")
    frames_bytes: int = _setting(2048 * MEGABYTE, "X2SAM_FRAMES_MB", read=_megabytes)
    max_pixels: int = _setting(100_000_000, "X2SAM_MAX_MEGAPIXELS", read=_megapixels)
    decoded_bytes: int = _setting(512 * MEGABYTE, "X2SAM_DECODED_MB", read=_megabytes)
    max_request_bytes: int = _setting(256 * MEGABYTE, "X2SAM_MAX_REQUEST_MB", read=_megabytes)
    max_sessions: int = _setting(16, "X2SAM_MAX_SESSIONS", read=_count)
    session_seconds: float = _setting(900.0, "X2SAM_SESSION_SECONDS", read=_positive)
    load_wait: float = _setting(60.0, "X2SAM_LOAD_WAIT", read=_positive)
    batch_seconds: float = _setting(80.0, "X2SAM_BATCH_SECONDS", read=_positive)
    threads: int = _setting(16, "X2SAM_THREADS", read=_count)

    def __post_init__(self) -> None:
        if bool(self.basic_auth_user) != bool(self.basic_auth_pass):
            raise SettingsError("BASIC_AUTH_USER and BASIC_AUTH_PASS belong together: set both or neither.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from environment variables; an unset or empty variable keeps its default."""
        changes = {}
        for entry in fields(cls):
            name = next((v for v in entry.metadata["variables"] if environment.get(v, "").strip()), None)
            if name is None:
                continue
            try:
                changes[entry.name] = entry.metadata["read"](environment[name])
            except ValueError as error:
                raise SettingsError(f"The environment variable {name} can't be used: {error}.") from error
        return replace(cls(), **changes)
