"""What can go wrong in the model, each with a sentence that says what to do."""

from __future__ import annotations


class X2SAMError(Exception):
    """Base of everything this package raises on purpose. The text is meant for a person."""


class PromptError(X2SAMError):
    """The prompt can't be answered as given: empty, outside the picture, wrong size."""


class PicturesOnlyError(PromptError):
    """What was asked needs a memory of other frames, and the model has none."""

    @classmethod
    def of(cls, name: str) -> PicturesOnlyError:
        return cls(
            f"the model {name} looks at pictures one by one: it can't follow objects or look through videos; choose "
            "x2sam-4b or nano for that (--model, X2SAM_MODEL), or prompt each picture by itself"
        )


class FramesError(X2SAMError):
    """The picture or video can't be read or has no frames."""


class WeightsError(X2SAMError):
    """A checkpoint and the configuration do not fit; the text names every key concerned."""


class StoreError(X2SAMError):
    """The directory for stored features can't be used."""


class CancelledError(X2SAMError):
    """The work was replaced by a newer request or stopped by its owner."""


class BusyError(X2SAMError):
    """The queue is full or the device did not answer in time; try again."""


class DeviceError(X2SAMError):
    """The device is not there, or the thread that owns it broke during the work or does not come back from it."""


class DeviceMemoryError(DeviceError):
    """The device's memory is too small for the work, also with its caches emptied."""


class TrainingError(X2SAMError):
    """A training step can't be taken: wrong targets, values that are not finite, or settings that name nothing."""


class CheckpointError(X2SAMError):
    """The saved state of a training run is damaged, missing or belongs to another run."""


class DownloadError(X2SAMError):
    """A model could not be fetched; the text says from where and what to check."""


class MeasurementError(X2SAMError):
    """A measurement can't be trusted or taken: outputs differ that must be equal, or memory is too small."""
