"""``python -m backend doctor``: walks the way from Label Studio to a mask and says at each step what to mend.

A check is a row of a table: what it is called, which earlier ones it needs, and a function that looks at a
:class:`Visit` and returns what it found. What a check learns for later ones it leaves on the visit. Nothing is changed
in Label Studio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from backend.clients import BackendClient, LabelStudioClient, NoAnswer, Reply
from backend.errors import BackendError
from backend.label_config import LabelConfig
from backend.settings import Settings


class Mark(StrEnum):
    """``note``: it works, but somebody will wonder about it."""

    OK = "ok"
    NOTE = "note"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it where something is to be done."""

    mark: Mark
    text: str
    mend: str = ""


class Problem(Exception):
    """A check failed: what is wrong, and the mend."""

    def __init__(self, text: str, mend: str):
        super().__init__(text)
        self.mend = mend


class NotNow(Exception):
    """A check can't be made; the text says why."""


class Loaded(Protocol):
    """A backend in this process."""

    def load(self) -> str:
        """Waits for the model and names it.

        :raises BackendError: it can't be loaded.
        """

    def predict(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the answer to a ``/predict`` request."""


@dataclass
class Visit:
    """One walk: what was asked for, and what the checks have learned so far."""

    settings: Settings
    label_studio: LabelStudioClient
    backend_url: str | None = None
    project_id: int | None = None
    task_id: int | None = None
    loaded: Loaded | None = None  # a model in this process, to be asked in place of the attached one
    user: str = ""
    project: dict[str, Any] = field(default_factory=dict)
    config: LabelConfig | None = None
    rows: list[dict[str, Any]] | None = None  # attached backends in the order in which Label Studio takes them
    row: dict[str, Any] | None = None
    connected: bool = False
    task: dict[str, Any] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    content: bytes = b""
    picture_size: tuple[int, int] = (0, 0)  # (H, W) in the browser
    answer: dict[str, Any] = field(default_factory=dict)
    answer_bytes: int = 0

    def call(self, path: str, method: str = "GET", body: Any = None, seconds: float = 60.0) -> Reply:
        """Asks Label Studio.

        :raises Problem: it does not answer.
        """
        try:
            return self.label_studio.ask(method, path, body, seconds)
        except NoAnswer as error:
            mend = "Look into Label Studio's log, and try again."
            raise Problem(f"Label Studio did not answer: {error}", mend) from error

    def backend(self, url: str) -> BackendClient:
        """The attached backend, with the credentials of our own settings."""
        return BackendClient(url, self.settings)


@dataclass(frozen=True)
class Check:
    """A row of the table; it is skipped unless the checks that it ``needs`` went well."""

    name: str
    title: str
    look: Callable[[Visit], Finding | str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """A check and what it found."""

    check: Check
    finding: Finding


def walk(checks: Sequence[Check], visit: Visit, begin: Callable[[Check], None] = lambda _: None) -> Iterator[Looked]:
    """Makes one check after the other; ``begin`` is told which one is on."""
    titles = {check.name: check.title for check in checks}
    marks: dict[str, Mark] = {}
    for check in checks:
        begin(check)
        missing = next((name for name in check.needs if marks[name] in (Mark.FAILED, Mark.SKIPPED)), None)
        finding = Finding(Mark.SKIPPED, f"needs '{titles[missing]}'") if missing else _looked(check, visit)
        marks[check.name] = finding.mark
        yield Looked(check, _without_secrets(finding, visit))


def healthy(looked: Sequence[Looked]) -> bool:
    """Whether nothing failed."""
    return all(entry.finding.mark != Mark.FAILED for entry in looked)


def as_json(visit: Visit, looked: Sequence[Looked]) -> dict[str, Any]:
    """The report for ``--json``."""
    checks = [
        {"name": one.check.name, "title": one.check.title, "mark": one.finding.mark.value}
        | {"text": one.finding.text, "mend": one.finding.mend}
        for one in looked
    ]
    return {"healthy": healthy(looked), "project": visit.project_id, "checks": checks}


def _looked(check: Check, visit: Visit) -> Finding:
    try:
        found = check.look(visit)
    except Problem as problem:
        return Finding(Mark.FAILED, str(problem), problem.mend)
    except NotNow as reason:
        return Finding(Mark.SKIPPED, str(reason))
    except BackendError as error:  # of a setting, or of a server that answers in no known way
        return Finding(Mark.FAILED, str(error), "Mend the environment of the ML backend.")
    return Finding(Mark.OK, found) if isinstance(found, str) else found


def _without_secrets(finding: Finding, visit: Visit) -> Finding:
    """Servers quote what they were sent; tokens and passwords leave this program in no way."""
    secrets = [*visit.label_studio.secrets(), visit.settings.basic_auth_pass, visit.settings.webhook_secret]
    text, mend = finding.text, finding.mend
    for secret in filter(None, secrets):
        text, mend = text.replace(secret, "***"), mend.replace(secret, "***")
    return Finding(finding.mark, text, mend)
