"""Datasets by annotation format: ``open_dataset(DatasetSpec(...))`` gives a dataset of task samples."""

from x2sam.data.readers.registry import READERS, Reader, open_dataset
from x2sam.data.readers.spec import DatasetSpec

__all__ = ["READERS", "DatasetSpec", "Reader", "open_dataset"]
