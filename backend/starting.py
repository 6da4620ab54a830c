"""What is looked at before the server starts, so that a setting that can't be used stops it and is named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.errors import SettingsError
from backend.hosts import HostRules
from backend.http_client import trusted
from backend.media_folders import MediaFolders
from backend.settings import Settings
from x2sam.errors import DeviceError, WeightsError
from x2sam.placement import find_device, find_model


def check_start(settings: Settings) -> None:
    """Everything that can be seen without loading a model, but the device.

    :raises SettingsError: a setting can't be used; the text names it.
    """
    check_folders(settings)
    HostRules(settings.label_studio_url, settings.media_hosts)
    MediaFolders(settings.media_dirs)
    trusted(settings.ca_bundle)
    if settings.model == "auto":
        return  # where nothing was downloaded that is the embedded one
    try:
        find_model(settings.model, Path(settings.model_dir).expanduser() if settings.model_dir else None)
    except WeightsError as error:
        raise SettingsError(f"X2SAM_MODEL: {error}.") from error


def check_folders(settings: Settings) -> None:
    """Makes the folders that the server writes to, and writes to them.

    :raises SettingsError: one can't be used; the text names its setting.
    """
    for variable, name in _folders(settings):
        try:
            folder = Path(name).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".start-"):
                pass
        except OSError as error:
            raise SettingsError(f"{variable}: {name} can't be used ({error.strerror}); name another folder.") from error


def check_device(settings: Settings) -> None:
    """Whether a device that is named is there; PyTorch is asked, in the process that will use it.

    :raises SettingsError: it is not.
    """
    if settings.device in ("auto", "cpu"):
        return
    try:
        find_device(settings.device)
    except DeviceError as error:
        raise SettingsError(f"DEVICE: {error}, or leave it out.") from error


def _folders(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "X2SAM_CACHE_DIR", settings.media_cache_dir
    yield "X2SAM_STATE_DIR", settings.state_dir
    if settings.features_dir:
        yield "X2SAM_FEATURES_DIR", settings.features_dir
    if settings.record_dir:
        yield "X2SAM_RECORD_DIR", settings.record_dir


def code_folder(settings: Settings) -> Path:
    """Where compiled code is kept, for the owner of the process alone."""
    return Path(settings.state_dir).expanduser() / "compiled"


def base_model(settings: Settings) -> str:
    """The model's name; a directory that is one model by itself goes before what ``auto`` would choose."""
    if settings.model == "auto" and settings.model_dir:
        directory = Path(settings.model_dir).expanduser()
        if (directory / "model.safetensors").is_file():
            return str(directory)
    return settings.model


def base_directory(settings: Settings) -> Path:
    """Where the model of the settings is.

    :raises WeightsError: there is none.
    """
    home = Path(settings.model_dir).expanduser() if settings.model_dir else None
    return find_model(base_model(settings), home)
