"""Training from a TOML file; reads top to bottom. ``python -m x2sam train CONFIG [--resume]``.

One loop for everything that is trained: the embedded model on episodes, and the stages of the 4B model. What is in the
file is told by :mod:`x2sam.training.settings`, what is trained by :mod:`x2sam.training.recipes`.

On one or several GPUs: ``accelerate launch -m x2sam train CONFIG``. With several processes on a CPU: ``torchrun
--nproc-per-node 2 -m x2sam train CONFIG`` (which works on GPUs too). A step depends on the seed, its number and the
number of processes only, so a resumed run sees the data that the dead one would have seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from x2sam.errors import CheckpointError, TrainingError
from x2sam.training.batches import AnyBatch, Place, Skipped, steps_ahead
from x2sam.training.checkpoint import CheckpointStore
from x2sam.training.history import History
from x2sam.training.losses import total_loss
from x2sam.training.optim import OptimConfig, build_optimizer, clip_gradients, set_learning_rate
from x2sam.training.overlays import overlay
from x2sam.training.recipes import Recipe, build_recipe
from x2sam.training.settings import TrainConfig, load_train_config
from x2sam.training.stages import parameter_table

__all__ = ["TrainConfig", "load_train_config", "train", "train_step"]

log = logging.getLogger(__name__)

FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


BeforeStep = Callable[[int, int], None]
"""Called before each step with its number and that of all; it may wait, so that others have the device first."""


def train(
    config: TrainConfig, resume: bool = False, device: str = "cpu", before_step: BeforeStep | None = None
) -> Path:
    """Runs to the end of the schedule and returns the directory of the finished model.

    Raises TrainingError for values that are not finite (naming step and samples) and for too many broken samples,
    CheckpointError when a state can't be written; what was saved last stays, and ``resume`` goes on from there.
    """
    accelerator = make_accelerator(config.loop.autocast, device)
    place = Place(accelerator.process_index, accelerator.num_processes)
    recipe = build_recipe(config, place)
    recipe.model.to(accelerator.device).train()
    optimizer = build_optimizer(recipe.model, config.optim)
    directory = Path(config.loop.directory)
    store = CheckpointStore(directory / "states", config.loop.keep, trainable_only=config.stage.number > 0)
    step, skipped = 0, Skipped(config.data.broken)
    if resume:
        step, skipped = resume_run(accelerator, store, recipe.model, optimizer, config)
    if place.index == 0:
        log.info("%d steps on %d processes\n%s", recipe.length, place.count, parameter_table(recipe.model))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "train.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str))
    objective = accelerator.prepare(recipe.objective)
    with history_of(config, recipe, directory, step, place) as history:
        saved = time.monotonic()
        for number, batches in steps_ahead(recipe.steps, step, recipe.length, config.data.workers):
            if before_step is not None:
                before_step(number, recipe.length)
            factor = set_learning_rate(optimizer, number, recipe.length, config.optim)
            numbers = train_step(accelerator, objective, optimizer, batches, number, config.optim, config.data.seed)
            skipped.add(batches)
            step = number + 1
            if history is None:
                continue
            history.add(step, numbers | {"lr": factor * config.optim.lr, "broken": skipped.broken})
            if step % config.loop.overlay_every == 0 and config.loop.tensorboard:
                show(accelerator, recipe, batches[0], step, history)
            if time.monotonic() - saved > 60 * config.loop.save_minutes or step == recipe.length:
                store.save(step, recipe.model, optimizer, {"processes": place.count, **skipped.notes})
                saved = time.monotonic()
    return finish(accelerator, recipe, skipped, directory / "model")


def make_accelerator(autocast: bool, device: str) -> Accelerator:
    """This process's device, its place among others, and the number format of the arithmetic.

    Steps do not use every weight (a chat has no masks, a picture no memory), so unused ones are looked for.
    """
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    together = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if autocast else "no", kwargs_handlers=[together])


def resume_run(
    accelerator: Accelerator,
    store: CheckpointStore,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> tuple[int, Skipped]:
    """Loads the newest sound state, if there is one; the step that comes next, and what was skipped so far."""
    # the first process alone sets damaged states aside
    with accelerator.main_process_first():
        state = store.resume(model, optimizer)
    if state is None:
        return 0, Skipped(config.data.broken)
    log.info("resumed at step %d", state.step)
    processes = state.notes.get("processes", accelerator.num_processes)
    if processes != accelerator.num_processes:
        log.warning(
            "the run had %s processes and goes on with %d: from here on it sees other samples",
            processes,
            accelerator.num_processes,
        )
    return state.step, Skipped(config.data.broken, state.notes)


def history_of(
    config: TrainConfig, recipe: Recipe, directory: Path, start: int, place: Place
) -> contextlib.AbstractContextManager[History | None]:
    """Where the first process tells what happens; None for the others."""
    if place.index:
        return contextlib.nullcontext()
    return History(directory, start, recipe.length, config.loop.log_every, config.loop.tensorboard)


def train_step(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[AnyBatch],
    number: int,
    optim: OptimConfig,
    seed: int,
) -> dict[str, float]:
    """Forward and backward through each of the batches, then clip and move. Random choices follow from the number."""
    torch.manual_seed(seed * 1_000_003 + number)
    optimizer.zero_grad(set_to_none=True)
    numbers: dict[str, float] = {}
    names = [name for batch in batches for name in batch.names]
    try:
        for index, batch in enumerate(batches):
            # gradients are exchanged between processes with the last batch of the step only
            last = index == len(batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(objective):
                found = pass_through(accelerator, objective, batch, number, 1 / len(batches))
            for key, value in found.items():
                numbers[key] = numbers.get(key, 0.0) + value / len(batches)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbers["gradient"] = float(clip_gradients(parameters, optim))
    except TrainingError as error:
        raise TrainingError(f"step {number + 1}, samples {', '.join(names)}: {error}") from error
    optimizer.step()
    return numbers


def pass_through(
    accelerator: Accelerator, objective: nn.Module, batch: AnyBatch, number: int, weight: float
) -> dict[str, float]:
    """One batch forward and, with ``weight``, backward; its losses as plain numbers."""
    # on a CPU the plain kernel's backward pass is faster than the fused one's for the small maps of nano
    kernels = [SDPBackend.MATH] if accelerator.device.type == "cpu" else list(FUSED)
    with sdpa_kernel(kernels):
        losses, numbers = objective(batch.to(accelerator.device), number)
        loss = total_loss(losses, batch.names)
        accelerator.backward(loss * weight)
    logged = accelerator.unwrap_model(objective).logged
    told = {key: float(losses[key].detach()) for key in logged if key in losses}
    return numbers | told | {"loss": float(loss.detach())}


def show(accelerator: Accelerator, recipe: Recipe, batch: AnyBatch, step: int, history: History) -> None:
    """A sample of the batch with what is found in it, for TensorBoard."""
    recipe.model.eval()
    with torch.no_grad(), accelerator.autocast():
        seen = recipe.objective.look(batch.to(accelerator.device))
    recipe.model.train()
    if seen is not None:
        history.show(step, "found (red) and true (green)", overlay(*seen, recipe.views))


def finish(accelerator: Accelerator, recipe: Recipe, skipped: Skipped, directory: Path) -> Path:
    """Writes the finished model and tells what was left out."""
    mine = torch.tensor([skipped.broken, skipped.empty, skipped.seen], device=accelerator.device)
    broken, empty, seen = accelerator.reduce(mine).tolist()
    if accelerator.is_main_process:
        log.info("%d samples seen; skipped: %d broken, %d with nothing to ask about", seen, broken, empty)
        try:
            recipe.finish(directory)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the finished model can't be written to {directory} ({error}); its last state is saved: make room and "
                "run again with --resume"
            ) from error
    # Until the first process has written the model the others wait with the interpreter's lock released. So the threads
    # of the process group can let go of their last tensors; it could not be closed while they wait for that lock.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return directory
