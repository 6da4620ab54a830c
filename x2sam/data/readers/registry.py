"""The table of annotation formats, and :func:`open_dataset`, the one way to open any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskDataset
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Reader:
    """One row: what ``open`` understands.

    tasks: served tasks; needs: settings of :class:`DatasetSpec` that must be given; takes: further ones with a meaning
    """

    summary: str
    open: Callable[[DatasetSpec], TaskDataset]
    tasks: tuple[str, ...]
    needs: tuple[str, ...] = ("annotations", "images")
    takes: tuple[str, ...] = ("limit",)


READERS: Mapping[str, Reader] = MappingProxyType({})


def open_dataset(spec: DatasetSpec) -> TaskDataset:
    """The dataset that ``spec`` describes. Annotation files are read now, pictures and videos when they are asked for.

    Raises :class:`FramesError` for an unknown format, a task that the format does not serve, missing settings and
    broken files.
    """
    reader = READERS.get(spec.format)
    if reader is None:
        raise FramesError(f"dataset {spec.name!r}: there is no format {spec.format!r}; use one of {', '.join(READERS)}")
    if spec.task not in reader.tasks:
        raise FramesError(
            f"dataset {spec.name!r}: the format {spec.format!r} serves {', '.join(reader.tasks)}, not {spec.task!r}"
        )
    for key in reader.needs:
        spec.path(key)
    return reader.open(spec)
