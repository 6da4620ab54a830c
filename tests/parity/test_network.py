"""The network from raw pixels to masks against every tensor that the reference stored.

Each run of each case is repeated once with our code (:mod:`reference_replay`); then each stored tensor is compared
with ours within the tolerance that the manifest gives for its stage. Tensors that start with ``pre.`` are inputs,
compared in the tests of preprocessing and conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from reference_replay import Replay
from safetensors import safe_open
from torch import Tensor

from x2sam.inference.preprocess import FrameSizes
from x2sam.inference.query_masks import Prediction
from x2sam.model.layers import sine_position

EXACT = None


@dataclass(frozen=True)
class Stage:
    """``pattern`` of stored names; ``ours`` gets the replay and the pattern's groups; ``tolerance``: the manifest's."""

    name: str
    pattern: str
    tolerance: str | None
    ours: Callable[..., Tensor]


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(-1, grid)


def upsampled(played: Replay) -> Tensor:
    """The first frame's logits at the network's size, as the selection rules see them: padding and picture alike."""
    level = played.frames[0].last
    side = played.model.config.preprocess.mask_size
    prediction = Prediction(level.mask_logits[0], level.class_logits[0], FrameSizes(side, side, side))
    return prediction.at_picture_size(torch.arange(prediction.queries))[None]


def memory_positions(played: Replay, frame: int) -> Tensor:
    at = played.frames[frame]
    attention = played.model.memory_attention
    return attention.positions(at.seen, frame, at.maps[0].device, at.maps[0].dtype).transpose(0, 1)


def place_on_grid(played: Replay, frame: int) -> Tensor:
    return sine_position(*played.frames[frame].entry.grid, played.model.config.width)[None]


STAGES = (
    Stage("visual rows", r"vlm\.visual\.merged", "vlm_hidden", lambda p: p.looked.visual.rows),
    Stage("deepstack", r"vlm\.visual\.deepstack\.(\d+)", "vlm_hidden", lambda p, i: p.looked.visual.deepstack[i]),
    Stage("input embeddings", r"vlm\.lm\.inputs_embeds", "vlm_hidden", lambda p: p.told("inputs_embeds")),
    Stage("positions", r"vlm\.lm\.position_ids", EXACT, lambda p: p.told("position_ids")),
    Stage("visual positions", r"vlm\.lm\.visual_pos_masks", EXACT, lambda p: p.told("visual_pos_masks")),
    Stage("text layers", r"vlm\.lm\.layer(\d+)\.out_prefill_pre_deepstack", "vlm_hidden", lambda p, i: p.layer(i)),
    Stage("states", r"vlm\.(?:hidden_states_last|last_layer_prenorm)", "vlm_hidden", lambda p: p.states),
    Stage(
        "normed states", r"vlm\.last_layer_postnorm", "vlm_hidden",
        lambda p: p.model.vision_language.final_norm(p.states),
    ),
    Stage("word logits", r"vlm\.step_logits", "vlm_logits", lambda p: torch.cat(p.words)),
    Stage("projected states", r"mlm_projector\.call\d+\.out", "projector", lambda p: p.projected),
    Stage(
        "region map", r"extra_projector\.f0\.out", "projector",
        lambda p: p.model.mask_encoder.region_map(p.first.stage3).flatten(1, 2),
    ),
    Stage("region points", r"vision_sampler\.points_rowcol", "sampler", lambda p: torch.stack(p.points)),
    Stage("region tokens", r"vision_sampler\.out\.0", "sampler", lambda p: p.regions),
    Stage("classes", r"seg\.in\.cond_embeds", "projector", lambda p: p.condition.classes),
    Stage("class mask", r"seg\.in\.embed_masks", EXACT, lambda p: p.condition.class_mask),
    Stage("phrase tokens", r"seg\.in\.token_embeds", "projector", lambda p: p.condition.tokens),
    Stage("token mask", r"seg\.in\.token_masks", EXACT, lambda p: p.condition.token_mask),
    Stage("seg state", r"seg\.in\.seg_embeds", "projector", lambda p: p.condition.seg),
    Stage("fpn", r"seg\.encoder\.f(\d+)\.fpn\.(\d+)", "encoder_fpn", lambda p, t, i: p.frames[t].encoded.fpn[i]),
    Stage("stage 3", r"seg\.encoder\.f(\d+)\.stage3", "encoder_fpn", lambda p, t: p.frames[t].encoded.stage3),
    Stage(
        "multi-scale maps", r"seg\.pixel_decoder\.f(\d+)\.multi_scale\.(\d+)", "pixel_decoder",
        lambda p, t, i: p.frames[t].features.maps[i],
    ),
    Stage(
        "mask features", r"seg\.pixel_decoder\.f(\d+)\.mask_features", "pixel_decoder",
        lambda p, t: p.frames[t].features.mask_features,
    ),
    Stage(
        "memory attention", r"seg\.memory_attention\.f(\d+)\.s(\d+)", "memory_attention",
        lambda p, t, i: p.frames[t].maps[i].flatten(2).transpose(1, 2)[None],
    ),
    Stage("memory positions", r"seg\.memory_attention\.f(\d+)\.mem_pos_s0", "memory_attention", memory_positions),
    Stage(
        "decoder masks", r"seg\.decoder\.f(\d+)\.mask_logits\.(\d+)", "decoder_mask_logits",
        lambda p, t, i: p.frames[t].levels[i].mask_logits,
    ),
    Stage(
        "decoder queries", r"seg\.decoder\.f(\d+)\.queries\.(\d+)", "decoder_queries",
        lambda p, t, i: p.frames[t].levels[i].queries.transpose(0, 1),
    ),
    Stage(
        "final masks", r"seg\.decoder\.f(\d+)\.mask_logits_last", "decoder_mask_logits",
        lambda p, t: p.frames[t].last.mask_logits,
    ),
    Stage(
        "final queries", r"seg\.decoder\.f(\d+)\.queries_last", "decoder_queries",
        lambda p, t: p.frames[t].last.queries.transpose(0, 1),
    ),
    Stage(
        "memory entries", r"seg\.memory_encoder\.f(\d+)\.s(\d+)\.embeds", "memory_encoder",
        lambda p, t, i: tokens_to_map(p.frames[t].entry.levels[i], p.frames[t].entry.grid),
    ),
    Stage("memory places", r"seg\.memory_encoder\.f(\d+)\.s\d+\.pos", "memory_encoder", place_on_grid),
    Stage(
        "class logits", r"seg\.memory_encoder\.f(\d+)\.class_logits", "class_logits",
        lambda p, t: p.frames[t].last.class_logits,
    ),
    Stage(
        "class logits", r"seg\.out\.class_queries_logits", "class_logits",
        lambda p: torch.cat([frame.last.class_logits for frame in p.frames]),
    ),
    Stage("masks at network size", r"seg\.out\.masks_queries_logits", "decoder_mask_logits", upsampled),
)  # fmt: skip
# stored, but no result of the network: what was forced, which frames are padding (none), masks (see below)
NO_STAGE = re.compile(r"pre\..*|vlm\.output_ids|seg\.in\.padded_masks|post\..*")
# stored for the prompt only, while ours go on to the end of the answer
PREFILL = re.compile(r"vlm\.lm\..*|mlm_projector\.call0\.out")


def stage_of(key: str) -> tuple[Stage, list[int]] | None:
    for stage in STAGES:
        if match := re.fullmatch(stage.pattern, key):
            return stage, [int(group) for group in match.groups()]
    return None


def keys_of(run) -> list[str]:
    with safe_open(run.case.parity.directory / run.manifest["file"], "pt") as stored:
        return list(stored.keys())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stage_name" not in metafunc.fixturenames:
        return
    parity = metafunc.config.x2sam_parity
    if parity is None:
        skip = pytest.mark.skip(reason="no reference tensors; set X2SAM_PARITY_DIR")
        metafunc.parametrize("run, stage_name", [pytest.param(None, "", marks=skip)])
        return
    wanted = []
    for case in parity.cases.values():
        for run in case.runs.values():
            found = [stage_of(key) for key in keys_of(run)]
            names = dict.fromkeys(stage.name for stage, _ in filter(None, found))
            wanted += [pytest.param(run, name, id=f"{case.name}-{run.mode}-{name}") for name in names]
    metafunc.parametrize("run, stage_name", wanted)


def check_close(found: Tensor, expected: Tensor, tolerance, what: str) -> float:
    """The largest difference. ``tolerance``: None for equality, one bound for all, or one for 99 % and one for all."""
    if tolerance is None:
        assert torch.equal(found.to(expected.dtype), expected), what
        return 0.0
    difference = (found - expected).abs().flatten()
    largest = float(difference.max())
    assert np.isfinite(largest), what
    if isinstance(tolerance, float):
        assert largest <= tolerance, f"{what}: {largest:.2e} beyond {tolerance:.0e}"
        return largest
    most = float(difference.kthvalue(max(1, int(0.99 * difference.numel()))).values)
    assert most <= tolerance["atol_99pct"], f"{what}: 99 % within {most:.2e}, allowed {tolerance['atol_99pct']:.0e}"
    assert largest <= tolerance["atol_max"], f"{what}: {largest:.2e} beyond {tolerance['atol_max']:.0e}"
    return largest


@torch.no_grad()
def test_every_stage(run, stage_name, replays, parity, deviations):
    played = replays(run)
    for key in keys_of(run):
        stage, numbers = stage_of(key) or (None, [])
        if stage is None or stage.name != stage_name:
            continue
        found, expected = stage.ours(played, *numbers), run[key]
        if PREFILL.fullmatch(key):
            axis = 2 if stage.name == "positions" else 1
            found = found.narrow(axis, 0, expected.shape[axis])
        # the reference drops the batch from the mask that all prompts share
        found = found.view_as(expected) if stage.name == "class mask" else found
        assert found.shape == expected.shape, key
        tolerance = None if stage.tolerance is None else parity.tolerances[stage.tolerance]
        largest = check_close(found, expected, tolerance, key)
        deviations[stage.name] = max(largest, deviations.get(stage.name, 0.0))


def test_every_stored_tensor_belongs_to_a_stage(parity_run):
    missed = [key for key in keys_of(parity_run) if not stage_of(key) and not NO_STAGE.fullmatch(key)]
    assert not missed
