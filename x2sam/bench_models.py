"""Engines for the benchmark: of a size, with weights from the repository, from a directory, or random."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from x2sam.config import X2SAMConfig, mid, nano, tiny, x2sam_4b
from x2sam.data.tokenizer import build_tokenizer
from x2sam.errors import MeasurementError
from x2sam.inference.chat_text import STYLES
from x2sam.inference.engine import Engine
from x2sam.model.weights import NETWORKS, build_empty, save_pretrained
from x2sam.model.x2sam import X2SAM
from x2sam.placement import EMBEDDED, find_model
from x2sam.training.initialise import initialise, initialise_decoder
from x2sam.xsam_config import xsam, xsam_mid, xsam_tiny

WORDS = "the red circle on the left"
TOKENS = 1024
SIZES: dict[str, Callable[[], X2SAMConfig]] = {
    "tiny": lambda: tiny(TOKENS), "nano": nano, "mid": mid, "4b": x2sam_4b, "xsam-tiny": lambda: xsam_tiny(TOKENS),
    "xsam-mid": xsam_mid, "xsam": xsam,
}  # fmt: skip
# seconds that one request may take: on a busy CPU the large sizes take minutes, and are not stuck
PATIENCE = 3600.0
_PATIENT = {"timeout": PATIENCE, "hang": PATIENCE}
# random weights above this many bytes are not written to the disk for the sake of a start-up time
SAVED_AT_MOST = 2**30


def engine_for(size: str, model: str, device: str, dtype: str) -> tuple[Engine, str, Path | None]:
    """An engine, where its weights come from (``embedded``, ``random`` or ``given``), and its directory if it has one.

    size:  key of :data:`SIZES`, used where ``model`` is ``auto``
    model: a name or a directory as for every command

    Raises MeasurementError when the memory is too small, WeightsError when there is no such model.
    """
    if model != "auto":
        return Engine.load(model, device, dtype, **_PATIENT), "given", find_model(model)
    if size == "nano" and (EMBEDDED / "nano" / "model.safetensors").is_file():
        return Engine.load("nano", device, dtype, **_PATIENT), "embedded", EMBEDDED / "nano"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    config = SIZES[size]()
    check_memory(size, config, device)
    weights = random_model(config, device, getattr(torch, dtype))
    return Engine(weights, tokenizer_for(config), size, **_PATIENT), "random", None


def tokenizer_for(config: X2SAMConfig) -> PreTrainedTokenizerFast:
    """A small tokenizer with the marks of the model's family."""
    marks = STYLES[config.family.chat].tokens
    tokenizer = build_tokenizer([WORDS], TOKENS - len(marks))
    tokenizer.add_tokens([mark for mark in marks if mark not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


def check_memory(size: str, config: X2SAMConfig, device: str) -> None:
    """Weights are made in float32, and a picture's features come on top. Raises MeasurementError."""
    needed = 4 * 1.25 * sum(p.numel() for p in build_empty(config).parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()
    if needed > free:
        raise MeasurementError(
            f"size {size} needs about {needed / 2**30:.0f} GiB on {device}, {free / 2**30:.0f} are free; "
            "use a larger GPU, or --size mid"
        )


def free_memory() -> int:
    """Bytes that a process can still take; where the system does not say, all there are."""
    known = Path("/proc/meminfo")
    if known.is_file():
        lines = dict(line.split(":", 1) for line in known.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def random_model(config: X2SAMConfig, device: str, dtype: torch.dtype, seed: int = 0) -> X2SAM:
    """Weights of ``seed``; buffers stay in float32, as in a model that was loaded."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = NETWORKS[config.family.network](config)
    _INITIALISE[config.family.network](model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)


def _initialise_x2sam(model: X2SAM) -> None:
    initialise(model)
    for layer in model.mask_decoder.layers:
        # zero at the start of training: with it the words would have no say
        nn.init.normal_(layer.text_cross_attn.out_proj.weight, std=0.02)


@torch.no_grad()
def _initialise_xsam(model: X2SAM) -> None:
    nn.init.trunc_normal_(model.mask_encoder.encoder.pos_embed, std=0.02)
    nn.init.normal_(model.background.weight, std=0.5)
    initialise_decoder(model.pixel_decoder, model.mask_decoder)


_INITIALISE = {"x2sam": _initialise_x2sam, "xsam": _initialise_xsam}


def startup_ms(engine: Engine, directory: Path | None) -> float | None:
    """From nothing to a loaded engine in a fresh process, PyTorch's import included.

    Without a ``directory`` the model is written to a temporary one; None when it is too large for that.
    """
    if directory is not None:
        return _start(directory, engine.device)
    if sum(p.nbytes for p in engine.model.parameters()) > SAVED_AT_MOST:
        return None
    with tempfile.TemporaryDirectory() as place:
        save_pretrained(engine.model, Path(place))
        engine.interpreter.encoder.tokenizer.save_pretrained(Path(place) / "tokenizer")
        return _start(Path(place), engine.device)


def _start(directory: Path, device: str) -> float:
    program = "import sys; from x2sam.inference.engine import Engine; Engine.load(sys.argv[1], sys.argv[2]).close()"
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    began = time.perf_counter()
    command = [sys.executable, "-c", program, str(directory), device]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return round((time.perf_counter() - began) * 1e3, 1)
