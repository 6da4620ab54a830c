"""What the writer of a format can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import SettingsError
from backend.export_settle import OVERLAPS

VALUES = ("category", "object")


@dataclass(frozen=True)
class Choices:
    """``overlap``: who gets pixels of several objects, as :data:`~backend.export_settle.OVERLAPS`; ``values`` of PNG
    label maps are those of the ``category`` or of the ``object``; ``complete``: everything of the categories is
    outlined."""

    overlap: str = "keep"
    values: str = "category"
    complete: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("overlap", OVERLAPS), ("values", VALUES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"--{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
