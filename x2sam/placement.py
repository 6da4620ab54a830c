"""Where models are, and on which device one can be put; names are looked up without PyTorch, devices with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from hashlib import sha256
from pathlib import Path

from x2sam.errors import DeviceError, WeightsError

EMBEDDED = Path(__file__).parent / "checkpoints"
PUBLISHED = "x2sam-4b"
PUBLISHED_XSAM = "x-sam"
HUB_NAMES = {"hao9610/X2SAM": PUBLISHED, "hao9610/X-SAM": PUBLISHED_XSAM}
DIGESTED_BYTES = 256 * 2**20
SNAP_NET = "snap_net.safetensors"
"""In a model directory, where there is one: the network of the last light step fitted to this model's own answers."""


def model_home() -> Path:
    """Where ``download`` and ``convert`` put models: ``X2SAM_HOME``, by default ``~/.cache/x2sam``."""
    return Path(os.environ.get("X2SAM_HOME") or Path.home() / ".cache" / "x2sam")


def find_model(name: str, home: Path | None = None) -> Path:
    """The directory of a model by name or path; ``home`` in place of :func:`model_home`.

    ``auto`` is the published one where it is and a GPU is, else ``nano``. Raises WeightsError when there is none.
    """
    home = home or model_home()
    published = home / PUBLISHED
    if name == "auto":
        there = (published / "model.safetensors").is_file() and find_device("auto") != "cpu"
        return published if there else EMBEDDED / "nano"
    anywhere = [EMBEDDED / name, Path(name), home / name]
    at_home = [home / HUB_NAMES.get(name, name)]
    for candidate in at_home if name in (*HUB_NAMES, *HUB_NAMES.values()) else anywhere:
        if (candidate / "model.safetensors").is_file():
            return candidate
    raise WeightsError(
        f"there is no model {name!r}; use 'nano', a directory with model.safetensors, or run "
        f"'python -m x2sam download' for {PUBLISHED}, 'python -m x2sam download {PUBLISHED_XSAM}' for {PUBLISHED_XSAM}"
    )


def find_device(name: str) -> str:
    """The device of a name, ``auto`` being the first GPU where there is one, else the CPU.

    Raises DeviceError for one that is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"there is no kind of device called {name!r}; use cpu, or cuda where a GPU is") from error
    gone = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if gone or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise DeviceError(f"{name} is not there; use cpu")
    return name


def find_compiler() -> str:
    """The C++ compiler that PyTorch would use: ``CXX``, by default ``g++``; empty where it is not there."""
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return shutil.which(words[0]) or ""


def version_of(directory: Path) -> str:
    """The version that an engine has when it is loaded from there: the kind of model and a digest of its weights,
    those of its own last light step too.

    Raises WeightsError where there is no model.
    """
    try:
        name = json.loads((directory / "config.json").read_text(encoding="utf-8"))["name"]
        digest, own = digest_of(directory / "model.safetensors"), directory / SNAP_NET
        if own.is_file():
            digest = sha256(f"{digest} {digest_of(own)}".encode()).hexdigest()[:8]
        return f"{name}-{digest}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{directory} is no whole model ({type(error).__name__}); convert or download it again"
        ) from error


def digest_of(path: Path) -> str:
    """Eight hex digits of the weights: of the whole file, for very large ones of its first part and its size."""
    digest = sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        left = min(size, DIGESTED_BYTES)
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if size > DIGESTED_BYTES:
        digest.update(str(size).encode())
    return digest.hexdigest()[:8]
