"""The published model from the hub, converted for use (``python -m x2sam download``).

No revision is fixed here: the newest one is taken, and the commits that the hub names are noted in ``source.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, HTTPError

from x2sam.config import x2sam_4b
from x2sam.convert import check_place, convert, silent
from x2sam.errors import DownloadError

CHECKPOINTS = "hao9610/X2SAM"
BASE = "Qwen/Qwen3-VL-4B-Instruct"
# the base's weights, tokenizer and sizes; not its pictures and code
BASE_FILES = ("*.json", "*.safetensors", "*.txt")
LAST_STAGE = "s3_train/"
WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors")
STEPS = 3
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where the weights came from; commits as the hub's cache names them."""

    checkpoint: str
    file: str
    checkpoint_commit: str
    base: str
    base_commit: str


def download(out: Path, file: str | None = None, force: bool = False, progress: Progress = silent) -> Source:
    """Fetches checkpoint and base model into the hub's cache and writes the model directory ``out``.

    file: path of the checkpoint inside its repository, by default that of the last training stage

    Raises DownloadError when the hub can't be reached or has no such file, WeightsError when the files do not fit.
    """
    check_place(out, force)
    progress(f"asking the hub for {CHECKPOINTS}")
    with hub_errors(CHECKPOINTS):
        file = pick_checkpoint(huggingface_hub.HfApi().list_repo_files(CHECKPOINTS), file)
        checkpoints = Path(huggingface_hub.snapshot_download(CHECKPOINTS, allow_patterns=[file]))
    progress(f"fetching {BASE}")
    with hub_errors(BASE):
        base = Path(huggingface_hub.snapshot_download(BASE, allow_patterns=list(BASE_FILES)))
    progress("converting")
    convert(checkpoints / file, base, out, x2sam_4b(), force)
    source = Source(CHECKPOINTS, file, checkpoints.name, BASE, base.name)
    (out / "source.json").write_text(json.dumps(asdict(source), indent=1) + "\n", encoding="utf-8")
    return source


def pick_checkpoint(files: Sequence[str], wanted: str | None = None) -> str:
    """The weights of the last training stage among the files of a repository, or ``wanted`` if it is there.

    Raises DownloadError that lists the choices when it is not clear which one is meant.
    """
    weights = [f for f in files if f.rsplit("/", 1)[-1] in WEIGHT_FILES]
    if wanted is not None:
        found = [f for f in files if f == wanted]
    else:
        found = [f for f in weights if LAST_STAGE in f] or (weights if len(weights) == 1 else [])
    if len(found) != 1:
        asked = f"no file {wanted}" if wanted else "no single checkpoint of the last stage"
        listed = ", ".join(weights) or "no weights at all"
        raise DownloadError(f"{CHECKPOINTS} has {asked}; choose one with --file: {listed}")
    return found[0]


@contextmanager
def hub_errors(repository: str):
    """What the hub's client raises, in a sentence."""
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"{repository} could not be fetched ({reason}); check the network, or fetch both models elsewhere and run "
            "'python -m x2sam convert'"
        ) from error
