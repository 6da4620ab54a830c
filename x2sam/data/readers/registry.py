"""The table of annotation formats, and :func:`open_dataset`, the one way to open any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from x2sam.data.readers.chat import ChatDataset
from x2sam.data.readers.coco import CocoDataset, CocoPanopticDataset
from x2sam.data.readers.grounded import GroundedDataset
from x2sam.data.readers.listed import INSTANCE_TASKS
from x2sam.data.readers.outlined import ClipsDataset, ExpressionsDataset, OutlinedDataset
from x2sam.data.readers.own_reader import OwnDataset
from x2sam.data.readers.reason import ReasonDataset
from x2sam.data.readers.refer import ReferDataset
from x2sam.data.readers.refer_video import ReferVideoDataset
from x2sam.data.readers.sa1b import Sa1bDataset
from x2sam.data.readers.semantic import SemanticDataset
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.readers.vgd_reader import VgdDataset
from x2sam.data.readers.video_masks import PanopticVideoDataset, YtvisDataset
from x2sam.data.readers.vos import VosDataset
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


_CUT = ("frames_per_clip", "stride", "sampling", "keep_unannotated", "limit")
_PICTURE_TASKS = tuple(task for task in INSTANCE_TASKS if task != "objseg")
_VIDEO_TASKS = tuple(task for task in INSTANCE_TASKS if task != "intseg")
_PHRASES = ("refseg", "reaseg")
_MAPS = ("annotations", "images", "masks")


def _open_prompts(spec: DatasetSpec) -> TaskDataset:
    return VgdDataset(spec, open_dataset)


READERS: Mapping[str, Reader] = MappingProxyType({
    "coco": Reader("COCO instances", CocoDataset, _PICTURE_TASKS),
    "coco-panoptic": Reader("COCO panoptic", CocoPanopticDataset, _PICTURE_TASKS, _MAPS, ("mode", "limit")),
    "semantic": Reader("maps of categories", SemanticDataset, ("genseg", "ovseg"), _MAPS, ("modality", *_CUT)),
    "refer": Reader("RefCOCO, gRefCOCO", ReferDataset, ("refseg",), ("annotations", "source", "images"),
                    ("split", "limit")),
    "reason": Reader("LISA reasoning", ReasonDataset, _PHRASES, ("annotations",), ("images", "source", "limit")),
    "grounded": Reader("captions with masks", GroundedDataset, ("gcgseg",), takes=("modality", "frames_per_clip",
                                                                                  "limit")),
    "chat": Reader("LLaVA conversations", ChatDataset, ("chat",), takes=("modality", "frames_per_clip", "limit")),
    "sa1b": Reader("SA-1B, outlines without names", Sa1bDataset, ("genseg", "intseg"), ("annotations",)),
    "ytvis": Reader("YouTube-VIS", YtvisDataset, _VIDEO_TASKS, takes=_CUT),
    "panoptic-video": Reader("VIPSeg", PanopticVideoDataset, _VIDEO_TASKS, _MAPS, ("mode", *_CUT)),
    "vos": Reader("DAVIS, YouTube-VOS", VosDataset, ("objseg",), takes=("source", "split", *_CUT)),
    "refer-video": Reader("Ref-YouTube-VOS, MeViS, ReVOS", ReferVideoDataset, _PHRASES,
                          takes=("source", "masks", "split", *_CUT)),
    "labelmaps": Reader("pictures with label maps", OutlinedDataset, INSTANCE_TASKS, ("annotations",),
                        ("mode", "modality", *_CUT)),
    "clips": Reader("video files with label maps", ClipsDataset, ("objseg", "refseg"), ("annotations",), _CUT),
    "expressions": Reader("expressions for labelled pictures and clips", ExpressionsDataset, _PHRASES,
                          ("annotations",), ("modality", *_CUT)),
    "vgd": Reader("V-VGD prompts for another data set", _open_prompts, ("vgdseg",), ("annotations", "source"),
                  ("images", "masks", "prompt", "limit")),
    "x2sam": Reader("this project's own export", OwnDataset, (*INSTANCE_TASKS, *_PHRASES, "gcgseg", "chat"),
                    ("annotations",), ("images", "split", "mode", "modality", *_CUT)),
})  # fmt: skip


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
