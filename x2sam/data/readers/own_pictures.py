"""Corrected masks in this project's own layout as pictures with label maps, for what draws and changes pictures.

The same face as :class:`x2sam.data.readers.labelmaps.LabelMapDataset`: pictures, and each labelled frame of a video.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from x2sam.data.masks import IGNORE
from x2sam.data.readers.labelmaps import LabelMapDataset, plain_name
from x2sam.data.readers.own_reader import OwnDataset, OwnRecord, modalities_of
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError
from x2sam.structures import Sample, SampleObject

MOST_OBJECTS = IGNORE - 1


class OwnPictures:
    """Lazy random access; ``split`` is one of those that the export named, "" all of them. Pictures whose files are not
    there are left out; ``missing`` counts them."""

    def __init__(self, root: str | Path, split: str = ""):
        self.root = Path(root)
        about = dict(name=str(self.root), format="x2sam", task="vgdseg", annotations=self.root, split=split)
        kinds = modalities_of(self.root, split)
        opened = [OwnDataset(DatasetSpec(**about, modality=one, frames_per_clip=1)) for one in kinds]
        places = [(dataset, index) for dataset in opened for index in range(len(dataset))]
        self._places = [(dataset, index) for dataset, index in places if _is_there(dataset.records[index])]
        self.missing = len(places) - len(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def names(self, leave_out: object = ()) -> set[str]:
        """What its objects are called. It has no sources that could be left out."""
        return {
            plain_name(dataset.vocabulary.names[number])
            for dataset, place in self._places
            for _, number in dataset.records[place].item.objects
        }

    def bare(self, index: int) -> Sample:
        """The picture with its objects, without expressions. Where masks overlap the smaller one is on top."""
        dataset, place = self._places[index]
        return sample_of(dataset[place])

    def weights(self, boosts: object = None, hold_out: int = 0, leave_out: object = ()) -> np.ndarray:
        """Probability of drawing each picture, float64 (n,): all alike. Held-out ones are a split of their own."""
        if not len(self):
            raise FramesError(f"{self.root} has no picture with a mask; collect corrections first")
        return np.full(len(self), 1 / len(self))


def _is_there(record: OwnRecord) -> bool:
    item = record.item
    return (item.media[0] if item.single else item.media[record.numbers[0]]).is_file()


def sample_of(found: TaskSample) -> Sample:
    """One frame with the masks of its objects as a label map; at most 254, the largest ones."""
    masks = found.masks[0]
    areas = masks.sum((1, 2))
    order = [int(n) for n in np.argsort(-areas, kind="stable") if areas[n]]
    labels = np.zeros(masks.shape[1:], np.uint8)
    for number, place in enumerate(order, start=1):
        labels[masks[place]] = min(number, IGNORE)
    if found.ignore is not None:
        labels[found.ignore[0] & (labels == 0)] = IGNORE
    objects = tuple(
        SampleObject(number, plain_name(found.items[found.labels[place]]))
        for number, place in enumerate(order[:MOST_OBJECTS], start=1)
    )
    return Sample(found.frames[:1], labels[None], objects, complete=False, source=found.key)


def open_pictures(root: str | Path, split: str = "") -> LabelMapDataset | OwnPictures:
    """What lies in a directory: label maps with their list, or an export in this project's own layout."""
    own = (Path(root) / "manifest.json").is_file()
    return OwnPictures(root, split) if own else LabelMapDataset(root)
