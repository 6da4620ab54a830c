"""Everything that can be configured, read from the environment once."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from urllib.parse import urlsplit

from backend.errors import SettingsError

MEGABYTE = 2**20
LONGEST_TRACK = 80.0  # shaping the answer and sending it take time, too


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


def _share(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError("must be at least 0 and less than 1")
    return number


def _below_a_request(value: str) -> float:
    number = _positive(value)
    if number > LONGEST_TRACK:
        raise ValueError(f"must be at most {LONGEST_TRACK:g}, Label Studio gives up after 100 s")
    return number


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _whole(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number


def _amount(value: str) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError("must not be negative")
    return number


def _span(value: str) -> tuple[int, int]:
    least, _, most = value.partition(":")
    span = _count(least), _count(most or least)
    if span[0] > span[1]:
        raise ValueError("must be a number, or the least and the most with a colon between them")
    return span


def _megabytes(value: str) -> int:
    return int(_positive(value) * MEGABYTE)


def _megabytes_or_none(value: str) -> int:
    return 0 if float(value) == 0 else _megabytes(value)


def _megapixels(value: str) -> int:
    return int(_positive(value) * 1e6)


def _web_address(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must look like http://host:port")
    return value.strip().rstrip("/")


def _choice(*known: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.strip().lower() not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value.strip().lower()

    return read


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value.strip().lower()):
        raise ValueError("must be auto, cpu, cuda, or one GPU like cuda:1")
    return value.strip().lower()


def _port(value: str) -> int:
    number = int(value)
    if not 0 < number < 1 << 16:
        raise ValueError("must be between 1 and 65535")
    return number


def _flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.strip().lower() not in known:
        raise ValueError("must be 1 or 0")
    return known[value.strip().lower()]


def _log_level(value: str) -> str:
    if value.strip().upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.strip().upper()


def _single(value: str) -> int:
    if int(value) != 1:
        raise ValueError("one process owns the model; leave it out, and set X2SAM_THREADS for more requests at once")
    return 1


def _setting(default, *variables: str, read: Callable = _text, text: str = "", shown: str = "", secret: bool = False):
    """``text`` and ``shown`` (the default as a person writes it) are for the help; a secret is never printed."""
    metadata = {"variables": variables, "read": read, "text": text, "shown": shown}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """Configuration of one server. Sizes are in bytes or pixels, times in seconds.

    The environment variables give sizes in megabytes and megapixels; each field names its variable.
    """

    host: str = _setting("127.0.0.1", "X2SAM_HOST", text="address to listen on; 0.0.0.0 for all")
    port: int = _setting(9090, "PORT", "X2SAM_PORT", read=_port, text="port to listen on")
    model: str = _setting("auto", "X2SAM_MODEL", text="nano, x2sam-4b, a directory, or auto")
    model_dir: str = _setting(
        "", "X2SAM_HOME", "MODEL_DIR", text="where downloaded models are, or one model itself", shown="~/.cache/x2sam"
    )
    device: str = _setting("auto", "X2SAM_DEVICE", "DEVICE", read=_device, text="cpu, cuda, cuda:1, or auto")
    dtype: str = _setting(
        "auto", "X2SAM_DTYPE", read=_choice("auto", "float32", "bfloat16", "float16"), text="number type"
    )
    memory: str = _setting(
        "pinned", "X2SAM_MEMORY", read=_choice("pinned", "fast", "per-object", "fifo"),
        text="how tracks remember: pinned, fast, per-object or fifo",
    )  # fmt: skip
    label_studio_url: str = _setting(
        "http://localhost:8080", "LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", read=_web_address,
        text="Label Studio as seen from here",
    )  # fmt: skip
    label_studio_public_url: str = _setting(
        "", "LABEL_STUDIO_PUBLIC_URL", read=_web_address, text="Label Studio's address in the browser, where it differs"
    )
    label_studio_api_key: str = _setting(
        "", "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN", secret=True, text="legacy or personal access token"
    )
    basic_auth_user: str = _setting("", "BASIC_AUTH_USER", text="user of basic authentication")
    basic_auth_pass: str = _setting("", "BASIC_AUTH_PASS", secret=True, text="its password; set both or neither")
    allow_open: bool = _setting(
        False, "X2SAM_ALLOW_OPEN", read=_flag, text="1: listen for other machines without credentials", shown="0"
    )
    webhook_secret: str = _setting(
        "", "X2SAM_WEBHOOK_SECRET", secret=True, text="what event webhooks bring as X-Webhook-Secret",
        shown="made once, kept in X2SAM_STATE_DIR",
    )  # fmt: skip
    ca_bundle: str = _setting("", "REQUESTS_CA_BUNDLE", text="a certificate authority of your own")
    media_hosts: tuple[str, ...] = _setting(
        (), "X2SAM_MEDIA_HOSTS", read=_words, text="further hosts that pictures may come from"
    )
    media_dirs: tuple[str, ...] = _setting(
        (),
        "X2SAM_MEDIA_DIRS",
        read=_directories,
        text="directories where local files are read without asking Label Studio",
    )
    media_max_bytes: int = _setting(200 * MEGABYTE, "X2SAM_MEDIA_MAX_MB", read=_megabytes, text="limit of one file, MB")
    media_timeout: float = _setting(30.0, "X2SAM_MEDIA_TIMEOUT", read=_positive, text="time for one file, s")
    media_cache_dir: str = _setting("~/.cache/x2sam/media", "X2SAM_CACHE_DIR", text="fetched files on disk")
    media_cache_bytes: int = _setting(2048 * MEGABYTE, "X2SAM_CACHE_MB", read=_megabytes, text="their size, MB")
    media_cache_seconds: float = _setting(3600.0, "X2SAM_CACHE_SECONDS", read=_positive, text="their age, s")
    public_url: str = _setting(
        "http://localhost:9090",
        "BACKEND_PUBLIC_URL",
        read=_web_address,
        text="this backend as browsers and Label Studio see it",
    )
    state_dir: str = _setting("~/.local/state/x2sam", "X2SAM_STATE_DIR", text="what must outlive a restart")
    frames_bytes: int = _setting(
        2048 * MEGABYTE, "X2SAM_FRAMES_MB", read=_megabytes, text="pages of videos kept on disk, MB"
    )
    max_pixels: int = _setting(
        100_000_000, "X2SAM_MAX_MEGAPIXELS", read=_megapixels, text="largest picture, megapixels"
    )
    decoded_bytes: int = _setting(512 * MEGABYTE, "X2SAM_DECODED_MB", read=_megabytes, text="decoded pictures kept, MB")
    features_bytes: int = _setting(
        2048 * MEGABYTE, "X2SAM_FEATURES_MB", read=_megabytes, text="encoded pictures kept in memory, MB"
    )
    features_dir: str = _setting("", "X2SAM_FEATURES_DIR", text="encoded pictures on disk, for after a restart")
    features_disk_bytes: int = _setting(
        0, "X2SAM_FEATURES_DISK_MB", read=_megabytes_or_none, text="their size, MB; set both or neither"
    )
    warm_tasks: int = _setting(
        3, "X2SAM_WARM_TASKS", read=_whole, text="tasks that are encoded ahead of the one that is open; 0: none",
        shown="3",
    )  # fmt: skip
    warm_bytes: int = _setting(
        1024 * MEGABYTE, "X2SAM_WARM_MB", read=_megabytes, text="encoded pictures of these, MB"
    )
    max_request_bytes: int = _setting(
        256 * MEGABYTE,
        "X2SAM_MAX_REQUEST_MB",
        read=_megabytes,
        text="largest request, and all that are worked on together, MB",
    )
    max_sessions: int = _setting(16, "X2SAM_MAX_SESSIONS", read=_count, text="open pictures and clips")
    session_seconds: float = _setting(
        900.0, "X2SAM_SESSION_SECONDS", read=_positive, text="how long an unused one stays open, s"
    )
    load_wait: float = _setting(
        60.0, "X2SAM_LOAD_WAIT", read=_positive, text="how long a request waits for the model, s"
    )
    batch_seconds: float = _setting(80.0, "X2SAM_BATCH_SECONDS", read=_positive, text="time for one batch of tasks, s")
    track_seconds: float = _setting(
        60.0, "X2SAM_TRACK_SECONDS", read=_below_a_request, text="time to track over pages, s"
    )
    tracks: int = _setting(4, "X2SAM_TRACKS", read=_count, text="tracks that run at once; others wait")
    journal_bytes: int = _setting(
        256 * MEGABYTE, "X2SAM_JOURNAL_MB", read=_megabytes_or_none,
        text="prompts, masks and tracks kept in X2SAM_STATE_DIR over a restart, MB; 0: none",
    )  # fmt: skip
    journal_days: float = _setting(30.0, "X2SAM_JOURNAL_DAYS", read=_positive, text="their age, days")
    record_dir: str = _setting(
        "", "X2SAM_RECORD_DIR", text="folder where prompts are recorded, typed texts included, to be replayed"
    )
    record_bytes: int = _setting(
        256 * MEGABYTE, "X2SAM_RECORD_MB", read=_megabytes, text="what it may hold; then recording ends, MB"
    )
    record_media: bool = _setting(
        False, "X2SAM_RECORD_MEDIA", read=_flag, shown="0", text="1: keep the pictures and videos beside the prompts"
    )
    versions: int = _setting(
        5, "X2SAM_VERSIONS", read=_count, text="versions of the model learned from corrections that are kept"
    )
    report_annotators: bool = _setting(
        False, "X2SAM_REPORT_ANNOTATORS", read=_flag, shown="0",
        text="1: numbers of effort by annotator too, each under a pseudonym",
    )  # fmt: skip
    retrain_masks: int = _setting(
        0, "X2SAM_RETRAIN_MASKS", read=_whole, text="corrected masks after which a training begins by itself; 0: never",
        shown="0",
    )  # fmt: skip
    retrain_steps: int = _setting(
        0, "X2SAM_RETRAIN_STEPS", read=_whole, text="steps of a training; 0: by the number of pictures", shown="0"
    )
    retrain_patience: float = _setting(
        30.0, "X2SAM_RETRAIN_PATIENCE", read=_positive, text="longest wait of a training's step for people, s"
    )
    general_dir: str = _setting(
        "", "X2SAM_GENERAL_DIR", text="labelled pictures on which a new version must not be worse",
        shown="generated scenes",
    )  # fmt: skip
    promote_gain: float = _setting(
        0.0, "X2SAM_PROMOTE_GAIN", read=_share, text="least gain in IoU on held-out masks, sure to 95 %"
    )
    promote_loss: float = _setting(
        0.02, "X2SAM_PROMOTE_LOSS", read=_share, text="largest loss in IoU elsewhere, sure to 95 %"
    )
    promote_objects: int = _setting(
        5, "X2SAM_PROMOTE_OBJECTS", read=_count, text="held-out masks without which nothing is decided"
    )
    polygon_tolerance: float = _setting(
        0.5, "X2SAM_POLYGON_TOLERANCE", read=_positive, text="pixels by which outlines may leave a mask"
    )
    remembered_bytes: int = _setting(
        64 * MEGABYTE, "X2SAM_REMEMBERED_MB", read=_megabytes, text="prompts and masks kept for corrections"
    )
    threads: int = _setting(32, "X2SAM_THREADS", "THREADS", read=_count, text="requests answered at once")
    workers: int = _setting(1, "WORKERS", read=_single, text="processes; always 1")
    queue: int = _setting(64, "X2SAM_QUEUE", read=_count, text="steps that may wait for the device")
    together: int = _setting(
        0, "X2SAM_TOGETHER", read=_whole, text="prompts about one picture answered at once", shown="as measured"
    )
    hang_seconds: float = _setting(
        120.0, "X2SAM_HANG_SECONDS", read=_positive, text="a step that takes longer is taken for stuck, s"
    )
    drain_seconds: float = _setting(
        20.0, "X2SAM_DRAIN_SECONDS", read=_positive, text="time to finish what runs when told to stop, s"
    )
    body_seconds: float = _setting(
        20.0, "X2SAM_BODY_SECONDS", read=_positive, text="longest silence of a client that sends a request, s"
    )
    cpu_threads: int = _setting(
        0, "X2SAM_CPU_THREADS", read=_whole, text="threads of PyTorch on a CPU", shown="all cores but one"
    )
    engine: str = _setting(
        "local", "X2SAM_ENGINE", read=_choice("local", "ray"), text="local: a model in this process; ray: on Ray Serve"
    )
    ray_address: str = _setting(
        "", "X2SAM_RAY_ADDRESS", "RAY_ADDRESS", text="the Ray cluster", shown="one on this machine alone"
    )
    ray_replicas: tuple[int, int] = _setting(
        (1, 1), "X2SAM_RAY_REPLICAS", read=_span, text="engines on Ray: 4, or 1:8 for as many as it takes", shown="1"
    )
    ray_gpus: float = _setting(0.0, "X2SAM_RAY_GPUS", read=_amount, text="GPUs of each, fractions too")
    ray_cpus: float = _setting(1.0, "X2SAM_RAY_CPUS", read=_amount, text="CPU cores of each")
    ray_load: float = _setting(
        4.0, "X2SAM_RAY_LOAD", read=_positive, text="requests at once per engine above which one is added"
    )
    log_level: str = _setting(
        "INFO", "LOG_LEVEL", "X2SAM_LOG_LEVEL", read=_log_level, text="DEBUG, INFO, WARNING, ERROR"
    )
    log_format: str = _setting(
        "text", "LOG_FORMAT", "X2SAM_LOG_FORMAT", read=_choice("text", "json"), text="text (key=value) or json"
    )

    def __post_init__(self) -> None:
        if bool(self.basic_auth_user) != bool(self.basic_auth_pass):
            raise SettingsError("BASIC_AUTH_USER and BASIC_AUTH_PASS belong together: set both or neither.")
        if ":" in self.basic_auth_user:
            raise SettingsError("BASIC_AUTH_USER: a colon ends the name in basic authentication; take another name.")
        if bool(self.features_dir) != bool(self.features_disk_bytes):
            raise SettingsError("X2SAM_FEATURES_DIR and X2SAM_FEATURES_DISK_MB belong together: set both or neither.")
        if self.features_dir and self.engine == "ray":
            raise SettingsError("X2SAM_FEATURES_DIR belongs to one process; leave it out with X2SAM_ENGINE=ray.")
        if self.record_dir and self.engine == "ray":
            raise SettingsError("X2SAM_RECORD_DIR belongs to one process; leave it out with X2SAM_ENGINE=ray.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from environment variables; an unset or empty variable keeps its default.

        :raises SettingsError: a value can't be used; the text names its variable.
        """
        changes = {}
        for entry in fields(cls):
            name = next((v for v in entry.metadata["variables"] if environment.get(v, "").strip()), None)
            if name is not None:
                changes[entry.name] = _read(entry, environment[name], f"The environment variable {name}")
        return replace(cls(), **changes)

    def with_options(self, **given: str | int | None) -> Settings:
        """These settings with those that a command line names; None leaves one as it is.

        :raises SettingsError: a value can't be used; the text names its option.
        """
        known = {entry.name: entry for entry in fields(self)}
        changes = {
            name: _read(known[name], str(value), f"The option --{name.replace('_', '-')}")
            for name, value in given.items()
            if value is not None
        }
        return replace(self, **changes)

    @property
    def asks_for_credentials(self) -> bool:
        return bool(self.basic_auth_user)

    def check_exposure(self, host: str | None) -> None:
        """``host``: the address to listen on, None when a web server of somebody else decides.

        :raises SettingsError: other machines could come in without credentials, and nobody said that they may.
        """
        if self.asks_for_credentials or self.allow_open or (host is not None and is_loopback(host)):
            return
        where = f"Listening on {host}" if host else "This way of starting"
        raise SettingsError(
            f"{where} lets other machines in without credentials: set BASIC_AUTH_USER and BASIC_AUTH_PASS and give the "
            "same to Label Studio when the backend is attached, or set X2SAM_ALLOW_OPEN=1 if the network is private."
        )

    @property
    def logging_level(self) -> int:
        return logging.getLevelNamesMapping()[self.log_level]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def settings_help() -> Iterator[tuple[str, str, str]]:
    """Variables, default and meaning of every setting, in order."""
    for entry in fields(Settings):
        default = entry.metadata["shown"] or _shown(entry)
        yield ", ".join(entry.metadata["variables"]), default, entry.metadata["text"]


def unknown_settings(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A sentence for each variable that looks like a mistyped setting."""
    known = [name for entry in fields(Settings) for name in entry.metadata["variables"]]
    for name in sorted(environment):
        if name.startswith("X2SAM_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                yield f"{name} is no setting; {near[0]} is."


def _read(entry: Field, value: str, what: str) -> object:
    try:
        return entry.metadata["read"](value)
    except ValueError as error:
        raise SettingsError(f"{what} can't be used: {error}.") from error


def _shown(entry: Field) -> str:
    value, read = entry.default, entry.metadata["read"]
    if read is _megabytes:
        return f"{value / MEGABYTE:g}"
    if read is _megapixels:
        return f"{value / 1e6:g}"
    return f"{value:g}" if isinstance(value, float) else str(value or "none")
