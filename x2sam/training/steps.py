"""One training step: the functions that serve also train (encode, decode pixels, condition, step, remember)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam.data.clicks import next_click
from x2sam.data.prompts import disc
from x2sam.inference.sketch import paint_clicks, paint_mask, paint_words
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.x2sam import X2SAM, FrameFeatures
from x2sam.training.episodes import Episode, Row
from x2sam.training.grounding import (
    alignment_loss,
    chosen_logits,
    expressions_of,
    found_by_words,
    mean_iou,
    naming_loss,
)
from x2sam.training.losses import LossConfig, language_model_loss, segmentation_losses, single_target_losses
from x2sam.training.matching import IGNORE_LABEL, Target
from x2sam.training.words import Words, collate_words, read_words


@dataclass(eq=False)
class Batch:
    """F episodes of equal T. Rows are picture-major: all sketch rows first, then all word rows.

    pixels (F, T, 3, S, S); words: what is said in each of the rows; guidance (sketches, 1, h, w); valid bool
    (F, T, S, S); names of the episodes; kinds as in :class:`Episode`, stacked; broken: a sentence for every sample that
    could not be read; empty: how many others showed no object to prompt.
    """

    pixels: Tensor
    words: Words
    rows: list[Row]
    sketches: int
    guidance: Tensor
    valid: Tensor
    names: list[str]
    kinds: Tensor
    broken: list[str]
    empty: int = 0

    @property
    def owner(self) -> list[int]:
        """Picture of each row."""
        return self.words.owner

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: getattr(self, name).to(device) for name in ("pixels", "words", "guidance", "valid", "kinds")}
        return replace(self, **moved)


def collate(episodes: Sequence[Episode], broken: Sequence[str] = (), empty: int = 0) -> Batch:
    owned = [(i, row) for i, e in enumerate(episodes) for row in e.sketch_rows]
    sketches = len(owned)
    owned += [(i, row) for i, e in enumerate(episodes) for row in e.word_rows]
    rows = [row for _, row in owned]
    words = collate_words(
        [row.tokens for row in rows],
        [row.regions for row in rows],
        [i for i, _ in owned],
        [e.patches for e in episodes],
        [e.grid for e in episodes],
    )
    return Batch(
        pixels=torch.stack([e.pixels for e in episodes]),
        words=words,
        rows=rows,
        sketches=sketches,
        guidance=torch.from_numpy(np.stack([r.guidance for r in rows[:sketches]]))[:, None],
        valid=torch.from_numpy(np.stack([e.valid for e in episodes])),
        names=[e.name for e in episodes],
        kinds=torch.from_numpy(np.stack([e.kinds for e in episodes])),
        broken=list(broken),
        empty=empty,
    )


@dataclass(frozen=True)
class StepConfig:
    """refine: corrections by simulated clicks after the first answer of a picture; language: weight of the language
    loss; true_memory: chance that a clip's memory is written from the truth instead of the prediction;
    carry: chance that the frame before is also sketched, as a rough mask, onto the frame that is decoded;
    thorough: chance that losses are taken at every decoder layer instead of the last only;
    align, naming: weights of the losses of :mod:`x2sam.training.grounding`, for models whose words start from nothing;
    named: places of all pictures together at which kinds are named;
    worded: expressions per picture whose heat is sketched and answered once more, as it is done in service."""

    refine: int = 1
    refine_chance: float = 0.7
    language: float = 0.2
    true_memory: float = 0.5
    carry: float = 0.7
    thorough: float = 1.0
    align: float = 0.0
    naming: float = 0.0
    named: int = 512
    worded: int = 0
    points: int = 1024
    click_radius: float = 4.5


class EpisodeObjective(nn.Module):
    """The losses of a batch of episodes; what is distributed and run in mixed precision."""

    logged = (
        "first/loss_mask", "first/loss_dice", "first/loss_cls", "words/loss_mask", "words/loss_cls", "align", "naming",
        "language",
    )  # fmt: skip

    def __init__(self, model: X2SAM, config: StepConfig, seed: int):
        super().__init__()
        self.model, self.config, self.seed = model, config, seed

    def forward(self, batch: Batch, number: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses by name (weighted) and plain numbers; random choices follow from the step's number."""
        return training_losses(self.model, batch, self.config, np.random.default_rng((self.seed, 7, number)))

    def look(self, batch: Batch) -> tuple[Tensor, LevelPrediction, np.ndarray] | None:
        """The first picture (3, S, S), what is answered to its first drawn prompt, and the truth (N, S, S)."""
        if not batch.sketches:
            return None
        model = self.model
        encoded = model.encode(batch.pixels[:, 0])
        condition, _ = read_conversation(model, batch, encoded.stage3, replace(self.config, language=0.0))
        first = model.decode_pixels(encoded, first=True)[:1]
        level = model.step(first, _rows(condition, slice(0, 1)), [model.sketch(first, batch.guidance[:1])])[-1]
        return batch.pixels[0, 0], level, batch.rows[0].masks[0]


def training_losses(
    model: X2SAM, batch: Batch, config: StepConfig, rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All losses of a batch by name (already weighted), and plain numbers worth logging."""
    pictures, frames = batch.pixels.shape[:2]
    losses_config = LossConfig.with_points(config.points)
    encoded = model.encode(batch.pixels.flatten(0, 1))
    first, later = _features(model, encoded, pictures, frames)
    condition, losses = read_conversation(model, batch, encoded.stage3[::frames], config)
    every = rng.random() < config.thorough
    # What is drawn is in the sketch; from rows that have one the language model would learn noise, and more of it
    # than words.
    sketch = _detached(_rows(condition, slice(0, batch.sketches)))
    names = [batch.names[i] for i in batch.owner]
    numbers: dict[str, float] = {}
    if len(batch.rows) > batch.sketches:
        words = _rows(condition, slice(batch.sketches, None))
        losses |= _word_losses(model, batch, first, words, config, every, rng.spawn(1)[0], numbers)
        if config.worded and frames == 1:
            losses |= _worded_losses(model, batch, first, words, config, every, rng.spawn(1)[0], numbers)
    masks = torch.from_numpy(np.stack([r.masks[:, 0] for r in batch.rows[: batch.sketches]])).to(batch.pixels.device)
    owner = torch.tensor(batch.owner[: batch.sketches], device=masks.device)
    valid = batch.valid[owner]

    def judge(levels: list[LevelPrediction], time: int, name: str) -> Tensor:
        truth = masks[:, time].float()
        labels = torch.where(truth.flatten(1).any(1), 0, IGNORE_LABEL)
        part = single_target_losses(levels, truth, labels, valid[:, time], losses_config, names=names[: batch.sketches])
        _add(losses, part, name)
        best = chosen_logits(levels[-1])
        numbers[f"iou_{name}"] = mean_iou(best, truth, valid[:, time])
        return best

    guidance = batch.guidance
    best = judge(model.step(first, sketch, [model.sketch(first, guidance)], 0, every), 0, "first")
    if frames == 1:
        for _ in range(config.refine if rng.random() < config.refine_chance else 0):
            guidance = corrected_guidance(best, masks[:, 0], valid[:, 0], guidance, config.click_radius, rng)
            best = judge(model.step(first, sketch, [model.sketch(first, guidance)], 0, every), 0, "next")
    entries = []
    for time in range(1, frames):
        now = later[time - 1]
        before = first if time == 1 else later[time - 2]
        seen = best.detach().sigmoid()[:, None]
        if rng.random() < config.true_memory:
            seen = F.adaptive_avg_pool2d(masks[:, time - 1 : time].float(), seen.shape[-2:])
        entries = [*entries, model.remember(before, seen, time - 1)][-model.config.memory.slots :]
        drawn = [model.sketch(now, paint_mask(seen), time)] if rng.random() < config.carry else []
        best = judge(model.step(now, sketch, [*entries, *drawn], time, every), time, f"frame{time}")
    return losses, numbers


def _word_losses(
    model: X2SAM, batch: Batch, first: FrameFeatures, words: Condition, config: StepConfig, every: bool,
    rng: np.random.Generator, numbers: dict,
) -> dict[str, Tensor]:  # fmt: skip
    """Of the rows that are answered from the conversation alone."""
    rows, owner = batch.rows[batch.sketches :], batch.owner[batch.sketches :]
    levels = model.step(first, words, every_level=every)
    targets = _targets(batch)
    names = [batch.names[i] for i in owner]
    losses: dict[str, Tensor] = {}
    _add(losses, segmentation_losses(levels, targets, LossConfig.with_points(config.points), names=names), "words")
    found = found_by_words(levels[-1], targets, rows)
    if found is not None:
        numbers["iou_words"] = found
    if config.align:
        aligned, numbers["hits"] = alignment_loss(first, words, targets, owner)
        losses["align"] = config.align * aligned
    if config.naming:
        losses["naming"] = config.naming * naming_loss(first.maps[1], batch.kinds, model.naming, config.named, rng)
    return losses


def _worded_losses(
    model: X2SAM, batch: Batch, first: FrameFeatures, words: Condition, config: StepConfig, every: bool,
    rng: np.random.Generator, numbers: dict,
) -> dict[str, Tensor]:  # fmt: skip
    """Of expressions that are answered a second time, with the heat of the words sketched on the picture."""
    rows, device = batch.rows[batch.sketches :], batch.pixels.device
    picked, labels = expressions_of(rows, batch.pixels.shape[0], config.worded, rng)
    condition = _rows(words, torch.tensor(picked, device=device))
    levels = model.step(first, condition, [model.sketch(first, paint_words(first, condition))], 0, every)
    truth = torch.from_numpy(np.stack([rows[i].masks[0, 0] for i in picked])).float().to(device)
    owner = [batch.owner[batch.sketches + i] for i in picked]
    known, kept = batch.valid[owner, 0], torch.tensor(labels, device=device)
    names = [batch.names[i] for i in owner]
    losses: dict[str, Tensor] = {}
    found = single_target_losses(levels, truth, kept, known, LossConfig.with_points(config.points), names=names)
    _add(losses, found, "worded")
    numbers["iou_worded"] = mean_iou(chosen_logits(levels[-1]), truth, known)
    return losses


def read_conversation(model: X2SAM, batch: Batch, stage3: Tensor, config: StepConfig):
    """The condition of every row, and the language loss. ``stage3`` (F, H, W, width) of the first frames."""
    words = batch.words
    # where nothing is answered in words, nothing is learned from them
    with torch.set_grad_enabled(torch.is_grad_enabled() and (config.language > 0 or len(batch.rows) > batch.sketches)):
        states = read_words(model, words, stage3)
    losses = {}
    if config.language:
        head = model.vision_language.word_logits
        losses["language"] = config.language * language_model_loss(states, words.labels, head)
    return model.condition(states, words.cond_ids, words.seg_ids), losses


def corrected_guidance(best, truth, valid, guidance, radius: float, rng: np.random.Generator) -> Tensor:
    """What the next round reads: the answer so far, the first sketch, and one more click where it is most wrong."""
    size = truth.shape[-2:]
    probability = best.detach().sigmoid()
    answers = F.interpolate(probability[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0.5
    out = []
    rows = zip(answers.cpu().numpy(), truth.cpu().numpy(), valid.cpu().numpy(), strict=True)
    for index, (answer, wanted, known) in enumerate(rows):
        base = paint_mask(probability[index].cpu().numpy())
        before = guidance[index, 0].cpu().numpy()
        base = np.where(before >= 0.95, before, np.where(before <= 0.05, np.minimum(base, before + 0.25), base))
        click = next_click(wanted, answer, ~known)
        raster, none = np.zeros(size, bool), np.zeros(size, bool)
        if click is not None:
            raster = disc(size, click.x, click.y, radius * rng.uniform(0.8, 1.25))
        positive = click is None or click.positive
        out.append(paint_clicks(base, raster if positive else none, none if positive else raster))
    return torch.from_numpy(np.stack(out))[:, None].to(truth.device)


def _features(model: X2SAM, encoded, pictures: int, frames: int) -> tuple[FrameFeatures, list[FrameFeatures]]:
    """Features of the first frames, and of each later frame, all with F rows."""
    pick = lambda start, step: type(encoded)([m[start::step] for m in encoded.fpn], encoded.stage3[start::step])  # noqa: E731
    first = model.decode_pixels(pick(0, frames), first=True)
    return first, [model.decode_pixels(pick(t, frames), first=False) for t in range(1, frames)]


def _rows(condition: Condition, rows: slice | Tensor) -> Condition:
    return Condition(*(p[rows] for p in _parts(condition)))


def _detached(condition: Condition) -> Condition:
    return Condition(*(p.detach() for p in _parts(condition)))


def _parts(condition: Condition) -> tuple[Tensor, ...]:
    return (condition.classes, condition.class_mask, condition.tokens, condition.token_mask, condition.seg)


def _targets(batch: Batch) -> list[Target]:
    device = batch.pixels.device
    return [
        Target(torch.from_numpy(row.masks[0]).to(device), torch.from_numpy(row.labels).to(device), batch.valid[i, 0])
        for i, row in zip(batch.owner[batch.sketches :], batch.rows[batch.sketches :], strict=True)
    ]


def _add(losses: dict[str, Tensor], part: dict[str, Tensor], name: str) -> None:
    losses.update({f"{name}/{key}": value for key, value in part.items()})
