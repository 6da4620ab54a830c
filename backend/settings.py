"""Everything that can be configured, read from the environment once."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace

from backend import setting_values as values
from backend.errors import SettingsError
from backend.setting_values import MEGABYTE


def _setting(
    default, *variables: str, read: Callable = values.text, text: str = "", shown: str = "", secret: bool = False
):
    """``text`` and ``shown`` (the default as a person writes it) are for the help; a secret is never printed."""
    metadata = {"variables": variables, "read": read, "text": text, "shown": shown}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """Configuration of one server. Sizes are in bytes or pixels, times in seconds.

    The environment variables give sizes in megabytes and megapixels; each field names its variable.
    """

    host: str = _setting("127.0.0.1", "X2SAM_HOST", text="address to listen on; 0.0.0.0 for all")
    port: int = _setting(9090, "PORT", "X2SAM_PORT", read=values.port, text="port to listen on")
    model: str = _setting("auto", "X2SAM_MODEL", text="nano, x2sam-4b, a directory, or auto")
    model_dir: str = _setting(
        "", "X2SAM_HOME", "MODEL_DIR", text="where downloaded models are, or one model itself", shown="~/.cache/x2sam"
    )
    device: str = _setting("auto", "X2SAM_DEVICE", "DEVICE", read=values.device, text="cpu, cuda, cuda:1, or auto")
    dtype: str = _setting(
        "auto", "X2SAM_DTYPE", read=values.choice("auto", "float32", "bfloat16", "float16"), text="number type"
    )
    memory: str = _setting(
        "pinned", "X2SAM_MEMORY", read=values.choice("pinned", "fast", "per-object", "fifo"),
        text="how tracks remember: pinned, fast, per-object or fifo",
    )  # fmt: skip
    label_studio_url: str = _setting(
        "http://localhost:8080", "LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", read=values.web_address,
        text="Label Studio as seen from here",
    )  # fmt: skip
    label_studio_public_url: str = _setting(
        "",
        "LABEL_STUDIO_PUBLIC_URL",
        read=values.web_address,
        text="Label Studio's address in the browser, where it differs",
    )
    label_studio_api_key: str = _setting(
        "", "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN", secret=True, text="legacy or personal access token"
    )
    basic_auth_user: str = _setting("", "BASIC_AUTH_USER", text="user of basic authentication")
    basic_auth_pass: str = _setting("", "BASIC_AUTH_PASS", secret=True, text="its password; set both or neither")
    allow_open: bool = _setting(
        False, "X2SAM_ALLOW_OPEN", read=values.flag, text="1: listen for other machines without credentials", shown="0"
    )
    webhook_secret: str = _setting(
        "", "X2SAM_WEBHOOK_SECRET", secret=True, text="what event webhooks bring as X-Webhook-Secret",
        shown="made once, kept in X2SAM_STATE_DIR",
    )  # fmt: skip
    ca_bundle: str = _setting("", "REQUESTS_CA_BUNDLE", text="a certificate authority of your own")
    media_hosts: tuple[str, ...] = _setting(
        (), "X2SAM_MEDIA_HOSTS", read=values.words, text="further hosts that pictures may come from"
    )
    media_dirs: tuple[str, ...] = _setting(
        (),
        "X2SAM_MEDIA_DIRS",
        read=values.directories,
        text="directories where local files are read without asking Label Studio",
    )
    media_max_bytes: int = _setting(
        200 * MEGABYTE, "X2SAM_MEDIA_MAX_MB", read=values.megabytes, text="limit of one file, MB"
    )
    media_timeout: float = _setting(30.0, "X2SAM_MEDIA_TIMEOUT", read=values.positive, text="time for one file, s")
    media_cache_dir: str = _setting("~/.cache/x2sam/media", "X2SAM_CACHE_DIR", text="fetched files on disk")
    media_cache_bytes: int = _setting(2048 * MEGABYTE, "X2SAM_CACHE_MB", read=values.megabytes, text="their size, MB")
    media_cache_seconds: float = _setting(3600.0, "X2SAM_CACHE_SECONDS", read=values.positive, text="their age, s")
    public_url: str = _setting(
        "http://localhost:9090",
        "BACKEND_PUBLIC_URL",
        read=values.web_address,
        text="this backend as browsers and Label Studio see it",
    )
    state_dir: str = _setting("~/.local/state/x2sam", "X2SAM_STATE_DIR", text="what must outlive a restart")
    frames_bytes: int = _setting(
        2048 * MEGABYTE, "X2SAM_FRAMES_MB", read=values.megabytes, text="pages of videos kept on disk, MB"
    )
    max_pixels: int = _setting(
        100_000_000, "X2SAM_MAX_MEGAPIXELS", read=values.megapixels, text="largest picture, megapixels"
    )
    decoded_bytes: int = _setting(
        512 * MEGABYTE, "X2SAM_DECODED_MB", read=values.megabytes, text="decoded pictures kept, MB"
    )
    features_bytes: int = _setting(
        2048 * MEGABYTE, "X2SAM_FEATURES_MB", read=values.megabytes, text="encoded pictures kept in memory, MB"
    )
    features_dir: str = _setting("", "X2SAM_FEATURES_DIR", text="encoded pictures on disk, for after a restart")
    features_disk_bytes: int = _setting(
        0, "X2SAM_FEATURES_DISK_MB", read=values.megabytes_or_none, text="their size, MB; set both or neither"
    )
    warm_tasks: int = _setting(
        3, "X2SAM_WARM_TASKS", read=values.whole, text="tasks that are encoded ahead of the one that is open; 0: none",
        shown="3",
    )  # fmt: skip
    warm_bytes: int = _setting(
        1024 * MEGABYTE, "X2SAM_WARM_MB", read=values.megabytes, text="encoded pictures of these, MB"
    )
    max_request_bytes: int = _setting(
        256 * MEGABYTE,
        "X2SAM_MAX_REQUEST_MB",
        read=values.megabytes,
        text="largest request, and all that are worked on together, MB",
    )
    max_sessions: int = _setting(16, "X2SAM_MAX_SESSIONS", read=values.count, text="open pictures and clips")
    session_seconds: float = _setting(
        900.0, "X2SAM_SESSION_SECONDS", read=values.positive, text="how long an unused one stays open, s"
    )
    load_wait: float = _setting(
        60.0, "X2SAM_LOAD_WAIT", read=values.positive, text="how long a request waits for the model, s"
    )
    batch_seconds: float = _setting(
        80.0, "X2SAM_BATCH_SECONDS", read=values.positive, text="time for one batch of tasks, s"
    )
    track_seconds: float = _setting(
        60.0, "X2SAM_TRACK_SECONDS", read=values.below_a_request, text="time to track over pages, s"
    )
    tracks: int = _setting(4, "X2SAM_TRACKS", read=values.count, text="tracks that run at once; others wait")
    journal_bytes: int = _setting(
        256 * MEGABYTE, "X2SAM_JOURNAL_MB", read=values.megabytes_or_none,
        text="prompts, masks and tracks kept in X2SAM_STATE_DIR over a restart, MB; 0: none",
    )  # fmt: skip
    journal_days: float = _setting(30.0, "X2SAM_JOURNAL_DAYS", read=values.positive, text="their age, days")
    record_dir: str = _setting(
        "", "X2SAM_RECORD_DIR", text="folder where prompts are recorded, typed texts included, to be replayed"
    )
    record_bytes: int = _setting(
        256 * MEGABYTE, "X2SAM_RECORD_MB", read=values.megabytes, text="what it may hold; then recording ends, MB"
    )
    record_media: bool = _setting(
        False,
        "X2SAM_RECORD_MEDIA",
        read=values.flag,
        shown="0",
        text="1: keep the pictures and videos beside the prompts",
    )
    versions: int = _setting(
        5, "X2SAM_VERSIONS", read=values.count, text="versions of the model learned from corrections that are kept"
    )
    report_annotators: bool = _setting(
        False, "X2SAM_REPORT_ANNOTATORS", read=values.flag, shown="0",
        text="1: numbers of effort by annotator too, each under a pseudonym",
    )  # fmt: skip
    retrain_masks: int = _setting(
        0, "X2SAM_RETRAIN_MASKS", read=values.whole, shown="0",
        text="corrected masks after which a training begins by itself; 0: never",
    )  # fmt: skip
    retrain_steps: int = _setting(
        0, "X2SAM_RETRAIN_STEPS", read=values.whole, text="steps of a training; 0: by the number of pictures", shown="0"
    )
    retrain_patience: float = _setting(
        30.0, "X2SAM_RETRAIN_PATIENCE", read=values.positive, text="longest wait of a training's step for people, s"
    )
    general_dir: str = _setting(
        "", "X2SAM_GENERAL_DIR", text="labelled pictures on which a new version must not be worse",
        shown="generated scenes",
    )  # fmt: skip
    promote_gain: float = _setting(
        0.0, "X2SAM_PROMOTE_GAIN", read=values.share, text="least gain in IoU on held-out masks, sure to 95 %"
    )
    promote_loss: float = _setting(
        0.02, "X2SAM_PROMOTE_LOSS", read=values.share, text="largest loss in IoU elsewhere, sure to 95 %"
    )
    promote_objects: int = _setting(
        5, "X2SAM_PROMOTE_OBJECTS", read=values.count, text="held-out masks without which nothing is decided"
    )
    polygon_tolerance: float = _setting(
        0.5, "X2SAM_POLYGON_TOLERANCE", read=values.positive, text="pixels by which outlines may leave a mask"
    )
    remembered_bytes: int = _setting(
        64 * MEGABYTE, "X2SAM_REMEMBERED_MB", read=values.megabytes, text="prompts and masks kept for corrections"
    )
    threads: int = _setting(32, "X2SAM_THREADS", "THREADS", read=values.count, text="requests answered at once")
    workers: int = _setting(1, "WORKERS", read=values.only_one, text="processes; always 1")
    queue: int = _setting(64, "X2SAM_QUEUE", read=values.count, text="steps that may wait for the device")
    together: int = _setting(
        0, "X2SAM_TOGETHER", read=values.whole, text="prompts about one picture answered at once", shown="as measured"
    )
    hang_seconds: float = _setting(
        120.0, "X2SAM_HANG_SECONDS", read=values.positive, text="a step that takes longer is taken for stuck, s"
    )
    drain_seconds: float = _setting(
        20.0, "X2SAM_DRAIN_SECONDS", read=values.positive, text="time to finish what runs when told to stop, s"
    )
    body_seconds: float = _setting(
        20.0, "X2SAM_BODY_SECONDS", read=values.positive, text="longest silence of a client that sends a request, s"
    )
    cpu_threads: int = _setting(
        0, "X2SAM_CPU_THREADS", read=values.whole, text="threads of PyTorch on a CPU", shown="all cores but one"
    )
    compiled: bool = _setting(
        False, "X2SAM_COMPILE", read=values.flag, shown="0",
        text="1: compile parts of the network in idle time, needs a C++ compiler",
    )  # fmt: skip
    engine: str = _setting(
        "local",
        "X2SAM_ENGINE",
        read=values.choice("local", "ray"),
        text="local: a model in this process; ray: on Ray Serve",
    )
    ray_address: str = _setting(
        "", "X2SAM_RAY_ADDRESS", "RAY_ADDRESS", text="the Ray cluster", shown="one on this machine alone"
    )
    ray_replicas: tuple[int, int] = _setting(
        (1, 1),
        "X2SAM_RAY_REPLICAS",
        read=values.span,
        text="engines on Ray: 4, or 1:8 for as many as it takes",
        shown="1",
    )
    ray_gpus: float = _setting(0.0, "X2SAM_RAY_GPUS", read=values.amount, text="GPUs of each, fractions too")
    ray_cpus: float = _setting(1.0, "X2SAM_RAY_CPUS", read=values.amount, text="CPU cores of each")
    ray_load: float = _setting(
        4.0, "X2SAM_RAY_LOAD", read=values.positive, text="requests at once per engine above which one is added"
    )
    log_level: str = _setting(
        "INFO", "LOG_LEVEL", "X2SAM_LOG_LEVEL", read=values.log_level, text="DEBUG, INFO, WARNING, ERROR"
    )
    log_format: str = _setting(
        "text", "LOG_FORMAT", "X2SAM_LOG_FORMAT", read=values.choice("text", "json"), text="text (key=value) or json"
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
    if read is values.megabytes:
        return f"{value / MEGABYTE:g}"
    if read is values.megapixels:
        return f"{value / 1e6:g}"
    return f"{value:g}" if isinstance(value, float) else str(value or "none")
