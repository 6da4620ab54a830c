"""X-SAM from raw pixels to masks against every tensor that its reference stored.

Each case is repeated once with our code (:mod:`xsam_reference`), through what the engine calls. Deviations of each
stage are in the summary, as those of X2SAM.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from xsam_reference import Replayed, interpreter_of, replay

from x2sam.inference.conversation import REGION, VISUAL, expand
from x2sam.inference.preprocess import mask_frames, region_masks, square_image
from x2sam.inference.query_masks import Prediction

IMAGE_MARK, REGION_MARK = -200, -300
EXACT = 0.0


@dataclass(frozen=True)
class Stage:
    """``pattern`` of stored names; ``ours`` gets the replay and the pattern's groups."""

    name: str
    pattern: str
    ours: Callable[..., Tensor]
    exact: bool = False


def pixels(p: Replayed) -> Tensor:
    return square_image(p.looking.picture(0), p.model.config.preprocess).patches


def network_input(p: Replayed) -> Tensor:
    return mask_frames(p.looking.picture(0), p.model.config.preprocess).pixels


def sam_state(p: Replayed, index: int) -> Tensor:
    return p.model.mask_encoder.states(network_input(p))[index]


def upsampled(p: Replayed) -> Tensor:
    last = p.levels[-1]
    prediction = Prediction(last.mask_logits[0], last.class_logits[0], p.looking.sizes(0))
    return prediction.at_network_size(torch.arange(prediction.queries))[None, :, ::8, ::8]


def towers_rows(p: Replayed) -> int:
    return p.vision.shape[1]


STAGES = (
    Stage("SigLIP input", r"pre\.pixel_values", pixels),
    Stage("SAM input", r"pre\.extra_pixel_values\.stride2", lambda p: network_input(p)[..., ::2, ::2]),
    Stage("region masks", r"pre\.vprompt_masks", lambda p: region_masks(p.drawn, p.looking.sizes(0)), exact=True),
    Stage("SigLIP state", r"vision\.hidden_minus2", lambda p: p.vision),
    Stage("SigLIP tokens", r"visual_projector\.out", lambda p: p.rows[None, : towers_rows(p)]),
    Stage("SAM states", r"sam\.hidden\.(\d+)", sam_state),
    Stage("SAM region state", r"sam\.hidden_minus2", lambda p: p.looking.encoded(0).stage3),
    Stage("SAM tokens", r"seg_projector\.out", lambda p: p.rows[None, towers_rows(p) :]),
    Stage("connector", r"seg_connector\.(\d)", lambda p, i: p.looking.encoded(0).fpn[i]),
    Stage("region points", r"vision_sampler\.points_rowcol", lambda p: torch.stack(p.points)),
    Stage("region tokens", r"vision_sampler\.out", lambda p: p.regions[:, 0]),
    Stage("input embeddings", r"llm\.inputs_embeds", lambda p: p.embeds),
    Stage("states before the norm", r"llm\.last_layer_prenorm", lambda p: p.before_norm),
    Stage("states", r"llm\.last_layer_postnorm", lambda p: p.states),
    Stage("word logits", r"llm\.logits_last", lambda p: p.model.vision_language.word_logits(p.states[:, -1])),
    Stage("projected states", r"llm_projector\.out", lambda p: p.model.text_projector(p.states)),
    Stage("classes", r"seg\.in\.cond_embeddings", lambda p: p.condition.classes),
    Stage("class mask", r"seg\.in\.embed_masks", lambda p: p.condition.class_mask.float(), exact=True),
    Stage("seg state", r"seg\.in\.seg_embeddings", lambda p: p.condition.seg),
    Stage("multi-scale maps", r"pixel_decoder\.multi_scale\.(\d)", lambda p, i: p.looking.features(0).maps[i]),
    Stage("mask features", r"pixel_decoder\.mask_features", lambda p: p.looking.features(0).mask_features),
    Stage("first masks", r"decoder\.mask_logits_first", lambda p: p.levels[0].mask_logits),
    Stage("decoder masks", r"decoder\.mask_logits_last", lambda p: p.levels[-1].mask_logits),
    Stage("queries", r"decoder\.queries_last", lambda p: p.levels[-1].queries.transpose(0, 1)),
    Stage("mask logits", r"seg\.out\.masks_queries_logits\.stride8", upsampled),
    Stage("class logits", r"seg\.out\.class_queries_logits", lambda p: p.levels[-1].class_logits),
)
ELSEWHERE = ("pre.input_ids", "pre.cond_ids", "pre.seg_ids", "post.")


@torch.no_grad()
def test_every_stored_tensor(xsam_case, xsam_replays, xsam_parity, deviations):
    played, tolerance = xsam_replays(xsam_case), xsam_parity.manifest["tolerances"]["continuous"]
    compared = 0
    for name, stored in xsam_case.tensors.items():
        for stage in STAGES:
            if found := re.fullmatch(stage.pattern, name):
                ours = stage.ours(played, *(int(group) for group in found.groups()))
                assert ours.shape == stored.shape, name
                off = float((ours.double() - stored.double()).abs().max())
                assert off <= (EXACT if stage.exact else tolerance), f"{name} differs by {off}"
                if not stage.exact:
                    key = f"X-SAM {stage.name}"
                    deviations[key] = max(deviations.get(key, 0.0), off)
                compared += 1
                break
        else:
            assert name.startswith(ELSEWHERE), f"{name} is compared with nothing"
    assert compared >= 8


def test_question_answer_and_ids(xsam_case, xsam_model):
    """Texts from the raw prompt and the seed; ids, phrases and ``<SEG>`` exactly."""
    interpreter = interpreter_of(xsam_case, xsam_model)
    turn = xsam_case.turn(interpreter)
    (expected,) = xsam_case.manifest["conversation"]
    assert (turn.input, turn.output) == (expected["input"], expected["output"])
    rows = 25
    tokens = interpreter.encoder.encode(turn, (1, rows, 1))
    ids, at = tokens.token_ids.tolist(), tokens.token_ids.tolist().index(VISUAL)
    assert ids[at : at + rows] == [VISUAL] * rows
    keep = np.r_[: at + 1, at + rows : len(ids)]
    folded = np.where(tokens.token_ids == VISUAL, IMAGE_MARK, np.where(tokens.token_ids == REGION, REGION_MARK, ids))
    stored = {name: xsam_case.tensors[f"pre.{name}_ids"][0].numpy() for name in ("input", "cond", "seg")}
    assert np.array_equal(folded[keep], stored["input"])
    assert np.array_equal(tokens.cond_ids[keep], stored["cond"]) and np.array_equal(tokens.seg_ids[keep], stored["seg"])
    assert len(ids) - rows + 1 == len(stored["input"])
    assert expand(tokens, rows, [1] * tokens.regions).conditions == int(stored["cond"].max()) + 1


@torch.no_grad()
def test_masks_at_picture_size(xsam_case, xsam_replays, xsam_parity, deviations):
    found, stored = xsam_replays(xsam_case).segments, xsam_case.tensors["post.segmentation"].numpy()
    listed = xsam_case.manifest["post"]["segments_info"]
    listed = [listed] if isinstance(listed, dict) else listed
    semantic = listed is None
    if not semantic:
        scores = [entry["score"] for entry in listed]
        assert found.scores == pytest.approx(scores, abs=xsam_parity.manifest["tolerances"]["scores"])
        assert found.categories.tolist() == [e.get("label_id", e.get("category_id")) for e in listed]
    background = next(iter({-1, 255} & set(stored.ravel().tolist())), 255)
    drawn = found.label_map(background)
    if xsam_case.task.single:  # one object: the reference writes 1 and numbers it 0
        assert len(found) == 1 and set(np.unique(stored)) == {1, 255}
        drawn = np.where(found.masks[0], 1, 255)
    differing = float((drawn != stored).mean())
    deviations["X-SAM differing pixels"] = max(deviations.get("X-SAM differing pixels", 0.0), differing)
    assert differing <= 5e-4, differing


@torch.no_grad()
def test_the_kept_prefix_changes_nothing(xsam_case, xsam_replays, xsam_model):
    """What depends on the picture is read once; here everything is read anew."""
    kept, anew = xsam_replays(xsam_case), replay(xsam_case, xsam_model, keep_prefix=False)
    assert len(kept.calls) == len(anew.calls) + 1
    torch.testing.assert_close(kept.states, anew.states, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.levels[-1].mask_logits, anew.levels[-1].mask_logits, atol=5e-5, rtol=0)


@torch.no_grad()
def test_chat(xsam_parity, xsam_model):
    """The question's ids, and the words that the reference chose."""
    case = xsam_parity.cases["imgconv"]
    interpreter = interpreter_of(case, xsam_model)
    query = case.query(None)
    looked = interpreter.look(xsam_parity.picture[None], case.task)
    tokens = interpreter.encoder.encode(interpreter.render(case.task, query, answer=False), (1, 1, 1))
    ids = [IMAGE_MARK if i == VISUAL else i for i in tokens.token_ids.tolist()]
    assert ids == case.manifest["input_ids"]
    said = []
    choose = xsam_model.vision_language.word_logits
    try:
        xsam_model.vision_language.word_logits = lambda s: said.append(int(choose(s).argmax(-1))) or choose(s)
        interpreter.generate(looked, case.task, query, limit=len(case.manifest["greedy_ids"]))
    finally:
        del xsam_model.vision_language.word_logits
    assert said == case.manifest["greedy_ids"]


@torch.no_grad()
def test_words_that_were_generated_give_the_same_masks(xsam_parity, xsam_model, xsam_replays, deviations):
    """The answer word by word, as in the reference's second mode, for the cases that were run in both."""
    for case in xsam_parity.cases.values():
        if "generation_vs_teacher_forced_max_abs" not in case.manifest:
            continue
        interpreter, played = interpreter_of(case, xsam_model), xsam_replays(case)
        turn = case.turn(interpreter)
        forced = interpreter.encoder._ids(turn.output)
        looked = interpreter.look(xsam_parity.picture[None], case.task)
        rng = random.Random(case.manifest["py_seed"])
        reading = interpreter.generate(looked, case.task, case.query(rng), forced=forced, rng=rng)
        last = xsam_model.step(played.looking.features(0), reading.condition)[-1]
        off = float((last.mask_logits - played.levels[-1].mask_logits).abs().max())
        deviations["X-SAM generated masks"] = max(deviations.get("X-SAM generated masks", 0.0), off)
        assert off < 1e-4
