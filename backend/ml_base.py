"""The base class that label-studio-ml 2.x wants its models to have, or a small one with the same surface without it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from backend.errors import LabelStudioMLVersionError


class PlainModelBase:
    """What the model needs of label-studio-ml's base class: a project, its labeling configuration, named values."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None):
        self.project_id = project_id or ""
        self.label_config = label_config
        self._values: dict[str, Any] = {}
        self.setup()

    def setup(self) -> None:
        """Called once the object exists; for subclasses."""

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value


def model_base() -> type:
    """``LabelStudioMLBase`` where label-studio-ml 2.x is installed, else :class:`PlainModelBase`.

    :raises LabelStudioMLVersionError: the release of 2022 is installed, whose models have another interface.
    """
    try:
        version = metadata.version("label-studio-ml")
    except metadata.PackageNotFoundError:
        return PlainModelBase
    if int(version.split(".", 1)[0]) < 2:
        raise LabelStudioMLVersionError(
            f"label-studio-ml {version} can't be used: its models have another interface and it needs Flask 1. Remove "
            "it (pip uninstall label-studio-ml), or install 2.x with pip install -r requirements-label-studio-ml.txt."
        )
    from label_studio_ml.model import LabelStudioMLBase

    return LabelStudioMLBase
