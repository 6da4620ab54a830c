"""What can go wrong between Label Studio and the model, with the HTTP status each problem is answered with.

Every text is written for the annotator or the operator: it says what to do and quotes no token.
"""

from __future__ import annotations

from x2sam.errors import BusyError, CancelledError, DeviceError, FramesError, PromptError, WeightsError, X2SAMError


class BackendError(Exception):
    """Base of everything this package raises on purpose."""

    status = 500


class SettingsError(BackendError):
    """An environment variable or option can't be used; the text names it."""


class LabelStudioMLVersionError(BackendError):
    """An unusable release of label-studio-ml is installed."""


class BadRequestError(BackendError):
    """The request is not what Label Studio sends."""

    status = 400


class SlowRequestError(BackendError):
    """The client did not send its request in time."""

    status = 408


class OverloadedError(BackendError):
    """More requests at once than the server has room for."""

    status = 503


class StoppingError(BackendError):
    """The server was told to stop and takes no new work."""

    status = 503


class LabelConfigError(BackendError):
    """The labeling configuration can't be read or lacks a tag that the answer needs."""

    status = 422


class RunLengthError(BackendError):
    """A brush run-length list is damaged or belongs to a picture of another size."""

    status = 422


class RecordingError(BackendError):
    """A recording of prompts can't be read or written."""


class MediaError(BackendError):
    """A picture could not be fetched or read."""

    status = 422


class MediaRefusedError(MediaError):
    """The picture lives where this server may not fetch from."""

    status = 403


class MediaTooLargeError(MediaError):
    """The picture exceeds a configured limit."""

    status = 413


class MediaTimeoutError(MediaError):
    """The host of the picture is too slow."""

    status = 504


class MediaDiskError(MediaError):
    """Fetched files and pages of videos can't be stored."""

    status = 507


class ModelUnavailableError(BackendError):
    """The model is still loading, or could not be loaded."""

    status = 503


class EngineLostError(ModelUnavailableError):
    """The process that had the model ended in the middle of the work; another one takes its place."""


_MODEL_STATUS: dict[type[Exception], int] = {
    PromptError: 422,
    FramesError: 422,
    CancelledError: 409,
    BusyError: 503,
    DeviceError: 503,
    WeightsError: 503,
    X2SAMError: 500,
}

EXPECTED = (BackendError, X2SAMError)
"""Errors whose text is meant for a person."""


def status_of(error: Exception) -> int:
    """HTTP status of an expected error; 500 for anything else."""
    if isinstance(error, BackendError):
        return error.status
    return next((_MODEL_STATUS[kind] for kind in type(error).__mro__ if kind in _MODEL_STATUS), 500)
