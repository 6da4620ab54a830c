"""Saving a training run so that a killed process loses nothing and a damaged file is noticed.

One directory per state, written beside its place and renamed when all of it is on the disk:

    step-00001200/
      model.safetensors       weights, by their names in the model
      optimizer.safetensors   tensors of the optimizer, "<parameter>/<slot>"
      state.json              step, settings of the optimizer, random-number states, the caller's notes,
                              and size and SHA-256 of both files

Nothing is pickled. Directories whose digests do not hold are set aside as ``*.damaged`` and the state before is taken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from x2sam.errors import CheckpointError

log = logging.getLogger(__name__)

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_STEP = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Resumed:
    """Where a run continues: ``step`` as it was saved, ``notes`` the caller's own, ``path`` the directory read."""

    step: int
    notes: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


class CheckpointStore:
    """The states of one run in ``directory``, the newest ``keep`` of them.

    trainable_only: leave parameters with ``requires_grad`` False out (a frozen base comes from its own files)
    One process writes: with several, call :meth:`save` on the first only. Random-number states are those of the caller.
    """

    def __init__(self, directory: str | Path, keep: int = 3, trainable_only: bool = False):
        if keep < 1:
            raise CheckpointError(f"keep must be at least 1, not {keep}")
        self.directory = Path(directory)
        self.keep = keep
        self.trainable_only = trainable_only

    def steps(self) -> list[Path]:
        """Directories of complete states, oldest first."""
        found = [path for path in self.directory.glob("step-*") if _STEP.fullmatch(path.name)]
        return sorted(found, key=_step_of)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        notes: Mapping[str, Any] | None = None,
        generators: Mapping[str, torch.Generator] | None = None,
    ) -> Path:
        """Write the state after ``step`` steps and drop states that are too old.

        notes: anything JSON can hold (position in the data, best score); generators: torch generators in use, by name
        """
        final = self.directory / f"step-{step:08d}"
        work = self.directory / f".writing-{final.name}"
        existing = self.steps()
        if existing and _step_of(existing[-1]) > step:
            raise CheckpointError(
                f"{existing[-1]} is ahead of step {step}, so it is from another run; resume it, or use a new directory"
            )
        for leftover in self.directory.glob(".writing-*"):
            shutil.rmtree(leftover)
        try:
            self._write(work, step, model, optimizer, notes, generators)
            self._put(work, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(work, ignore_errors=True)
            last = f"the last state is {existing[-1]}" if existing else "no state was saved before"
            raise CheckpointError(
                f"the state of step {step} can't be written to {self.directory} ({error}); {last}. Make room on the "
                "disk and continue with --resume"
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def _write(self, work: Path, step: int, model, optimizer, notes, generators) -> None:
        """All files of a state, on the disk when this returns."""
        work.mkdir(parents=True)
        weights, aliases = _model_tensors(model, self.trainable_only)
        tensors, settings = flatten_optimizer(optimizer)
        save_file(weights, work / MODEL)
        save_file(tensors, work / OPTIMIZER)
        state = {
            "format": FORMAT,
            "step": step,
            "files": {name: _fingerprint(work / name) for name in (MODEL, OPTIMIZER)},
            "aliases": aliases,
            "optimizer": settings,
            "random": random_state(generators or {}),
            "notes": dict(notes or {}),
        }
        (work / STATE).write_text(json.dumps({"sha256": _digest(state), "state": state}))
        for path in (work / MODEL, work / OPTIMIZER, work / STATE, work):
            _sync(path)

    def resume(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        generators: Mapping[str, torch.Generator] | None = None,
    ) -> Resumed | None:
        """Load the newest sound state into the objects given; None when nothing was ever saved.

        A damaged state is renamed to ``*.damaged`` with a warning and the one before is tried. Raises CheckpointError
        when all are damaged, or when a sound one belongs to another model or optimizer (that is never skipped).
        """
        candidates = self.steps()[::-1]
        reasons = []
        for path in candidates:
            try:
                state, weights, slots = read_state(path)
            except CheckpointError as error:
                log.warning("%s; trying the state before it", error)
                reasons.append(str(error))
                shutil.rmtree(path.with_name(path.name + ".damaged"), ignore_errors=True)
                path.rename(path.with_name(path.name + ".damaged"))
                continue
            _load_model(model, weights, state["aliases"], self.trainable_only, path)
            if optimizer is not None:
                restore_optimizer(optimizer, slots, state["optimizer"])
            restore_random_state(state["random"], generators or {})
            return Resumed(state["step"], state["notes"], path)
        if reasons:
            raise CheckpointError(
                f"no sound state is left in {self.directory}: {'; '.join(reasons)}. Start again in a new directory"
            )
        return None

    def _put(self, work: Path, final: Path) -> None:
        """Rename ``work`` to ``final``, replacing a state of the same step."""
        replaced = self.directory / f".replaced-{final.name}"
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            final.rename(replaced)
        work.rename(final)
        _sync(self.directory)
        shutil.rmtree(replaced, ignore_errors=True)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file, complete or not there at all: written aside, flushed to the disk, renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(plain, aside, {"format": "pt", **(metadata or {})})
        _sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)
    return path


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What ``state.json`` says, weights and optimizer tensors of one state, checked.

    Raises CheckpointError that says which file is missing, truncated or damaged.
    """
    try:
        envelope = json.loads((path / STATE).read_text())
        state, digest = envelope["state"], envelope["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE} is missing or truncated ({error})") from error
    if _digest(state) != digest:
        raise CheckpointError(f"{path / STATE} is damaged: its SHA-256 is not the one it was saved with")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}, this version reads {FORMAT}")
    tensors = []
    for name in (MODEL, OPTIMIZER):
        file, expected = path / name, state["files"][name]
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{file} is truncated or changed: {size} bytes instead of {expected['bytes']}")
        if _fingerprint(file) != expected:
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one it was saved with")
        try:
            tensors.append(load_file(file))
        except SafetensorError as error:
            raise CheckpointError(f"{file} is not a safetensors file ({error})") from error
    return state, *tensors


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by "<parameter>/<slot>" and everything else as JSON values.

    The optimizer must know its parameters' names: build it from (name, parameter) pairs.
    """
    whole = optimizer.state_dict()
    names = _parameter_names(whole["param_groups"])
    tensors, scalars = {}, {}
    for index, slots in whole["state"].items():
        for slot, value in slots.items():
            if torch.is_tensor(value):
                tensors[f"{names[index]}/{slot}"] = value.detach().contiguous()
            else:
                scalars.setdefault(names[index], {})[slot] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in whole["param_groups"]]
    return tensors, {"groups": groups, "scalars": scalars}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], settings: dict[str, Any]
) -> None:
    """Gives ``optimizer`` what it knew about each parameter; its own settings (rates, decay, groups) stay.

    So a run that is resumed with other settings obeys them. Raises CheckpointError when the saved optimizer moved other
    parameters.
    """
    current = optimizer.state_dict()["param_groups"]
    index = {name: number for number, name in _parameter_names(current).items()}
    saved = {name for group in settings["groups"] for name in group["param_names"]}
    if saved != index.keys():
        raise CheckpointError(
            "the optimizer of the saved run moved other parameters "
            f"(only saved: {sorted(saved - index.keys())[:5]}, only now: {sorted(index.keys() - saved)[:5]}); "
            "resume with the stage and the model of that run"
        )
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, slot = key.rsplit("/", 1)
        state.setdefault(index[name], {})[slot] = value
    for name, slots in settings["scalars"].items():
        state.setdefault(index[name], {}).update(slots)
    optimizer.load_state_dict({"state": state, "param_groups": current})


def random_state(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """States of Python's, numpy's and torch's global generators and of ``generators``, as JSON values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "torch": _to_text(torch.get_rng_state()),
        "cuda": [_to_text(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "generators": {name: _to_text(generator.get_state()) for name, generator in generators.items()},
    }


def restore_random_state(state: dict[str, Any], generators: Mapping[str, torch.Generator]) -> None:
    """Inverse of :func:`random_state`. GPU states are restored when there are as many GPUs as there were."""
    missing = sorted(set(generators) - set(state["generators"]))
    if missing:
        raise CheckpointError(f"the saved run has no generator called {', '.join(missing)}; it has other names")
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_from_text(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_from_text(one) for one in state["cuda"]])
    for name, generator in generators.items():
        generator.set_state(_from_text(state["generators"][name]))


def _model_tensors(model: nn.Module, trainable_only: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State to save, and for tied weights ``{other name: name it is saved under}``."""
    frozen = _frozen(model) if trainable_only else set()
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in model.state_dict().items():
        if name in frozen:
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        tensors[name] = tensor.detach().contiguous()
    return tensors, aliases


def _load_model(
    model: nn.Module, weights: dict[str, Tensor], aliases: dict[str, str], trainable_only: bool, path: Path
) -> None:
    full = weights | {name: weights[source] for name, source in aliases.items()}
    own = model.state_dict()
    optional = _frozen(model) if trainable_only else set()
    missing = sorted(set(own) - set(full) - optional)
    unexpected = sorted(set(full) - set(own))
    reshaped = [
        f"{name} {tuple(full[name].shape)} -> {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(full))
        if full[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        raise CheckpointError(
            f"{path} was saved from another model (missing: {missing}, unexpected: {unexpected}, "
            f"other shapes: {reshaped}); resume with the configuration of that run"
        )
    model.load_state_dict(full, strict=False)


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def _parameter_names(groups: list[dict]) -> dict[int, str]:
    if any("param_names" not in group for group in groups):
        raise CheckpointError("the optimizer does not know its parameters' names; give it (name, parameter) pairs")
    return {index: name for group in groups for index, name in zip(group["params"], group["param_names"], strict=True)}


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _from_text(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
