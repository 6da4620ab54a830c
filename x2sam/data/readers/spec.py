"""What to open: a dataset by name, format, task and where its files are, as a configuration file states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from x2sam.errors import FramesError

PATHS = ("annotations", "images", "masks", "source")


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset for one task. Which paths a format needs is told by its row of :data:`x2sam.data.readers.READERS`.

    name:        for messages and results
    format:      a key of :data:`~x2sam.data.readers.READERS`
    task:        ``genseg``, ``refseg`` ...: one of those that the format serves
    annotations: the annotation file, or the directory of formats that are directories
    images:      directory that the file names of pictures, frames and videos start from
    masks:       directory of the label maps, where they are not in the annotation file
    source:      the annotation file that ``annotations`` refers to (outlines of expressions, source of V-VGD prompts)
    split:       only entries of this split (``val``, ``testA`` ...), where the format has splits; all of them when ""
    mode:        categories of panoptic sources: ``instance`` (things), ``semantic`` (one mask a category) or
                 ``panoptic``; "" is the most that the format has
    modality:    ``image`` or ``video``, where a file holds both
    prompt:      V-VGD: the kind of prompt, ``point``, ``scribble``, ``box`` or ``mask``; each in its own sample when ""
    limit:       the first so many entries only
    frames_per_clip: videos are cut into clips of at most so many frames, without overlap; whole clips when None
    stride:      of the frames of a video every so many-th is taken, before it is cut
    sampling:    ``stride`` cuts consecutive frames, ``span`` spreads each clip over the whole video, interleaved
    keep_unannotated: frames without ground truth stay in the clips as context; by default they are taken out first
    largest_json_mb: larger annotation files are refused, since they are held in memory
    """

    name: str
    format: str
    task: str
    annotations: str | Path = ""
    images: str | Path = ""
    masks: str | Path = ""
    source: str | Path = ""
    split: str = ""
    mode: str = ""
    modality: str = ""
    prompt: str = ""
    limit: int | None = None
    frames_per_clip: int | None = None
    stride: int = 1
    sampling: str = "stride"
    keep_unannotated: bool = False
    largest_json_mb: int = 2048

    def __post_init__(self) -> None:
        for key, allowed in (
            ("mode", ("", "instance", "semantic", "panoptic")),
            ("modality", ("", "image", "video")),
            ("sampling", ("stride", "span")),
        ):
            if getattr(self, key) not in allowed:
                known = ", ".join(repr(a) for a in allowed if a)
                raise FramesError(f"dataset {self.name!r}: {key} is {getattr(self, key)!r}; choose one of {known}")
        for key, least in (("limit", 0), ("frames_per_clip", 1), ("stride", 1), ("largest_json_mb", 1)):
            value = getattr(self, key)
            if value is not None and (type(value) is not int or value < least):
                raise FramesError(f"dataset {self.name!r}: {key} is {value!r}; give a whole number from {least}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], base: str | Path = ".") -> DatasetSpec:
        """A table of a configuration file; relative paths start at ``base``. Unknown keys are named and refused."""
        known = {field.name: field for field in fields(cls)}
        strange = sorted(set(values) - set(known))
        if strange:
            raise FramesError(f"a dataset has no setting {', '.join(strange)}; there are {', '.join(known)}")
        lacking = [key for key in ("name", "format", "task") if not values.get(key)]
        if lacking:
            raise FramesError(f"the dataset {dict(values)!r:.120} lacks {' and '.join(lacking)}; state it")
        for key, value in values.items():
            if known[key].type.startswith("str") and not isinstance(value, (str, Path)):
                raise FramesError(f"dataset {values['name']!r}: {key} is {value!r}; write it as text in quotes")
        spec = cls(**values)
        return replace(spec, **{key: Path(base) / values[key] for key in PATHS if values.get(key)})

    def path(self, key: str) -> Path:
        """One of the paths; :class:`FramesError` when the format needs it and it was not given."""
        value = getattr(self, key)
        if not str(value):
            raise FramesError(f"dataset {self.name!r}: the format {self.format!r} needs the setting {key!r}; give it")
        return Path(value)
