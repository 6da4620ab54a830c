"""Chat text, token ids and bookkeeping against the reference, all cases, both runs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from reference_replay import query_of_case, task_of_case

from x2sam.data.tasks import find_task
from x2sam.data.tokenizer import TURN_END
from x2sam.inference.conversation import (
    REGION,
    ChatEncoder,
    Query,
    expand,
    parse_generated,
    prefix_length,
    render,
)


@pytest.fixture(scope="module")
def encoder(parity) -> ChatEncoder:
    return ChatEncoder(parity.tokenizer, merge=parity.config["vlm"]["vision_config"]["spatial_merge_size"])


def region_rows(parity) -> int:
    sampler = parity.config["sampler"]
    return sampler["num_sample_point"] // sampler["pooling_kernel_size"]


def turn_of(run):
    """The turn as our own functions make it from the case's raw prompt and seed."""
    case, manifest = run.case, run.case.manifest
    task, rng = task_of_case(case), random.Random(manifest["py_seed"])
    return render(task, query_of_case(case), rng, answer=run.mode == "tensor", suffix=task.suffix)


def test_the_text_is_the_reference_text(parity_run):
    turn, expected = turn_of(parity_run), parity_run.manifest["conversation"][0]
    assert turn.input == expected["input"]
    assert turn.output == expected["output"]


def test_the_rendered_placeholders(parity_run, encoder):
    assert encoder.rendered(turn_of(parity_run), parity_run.case.grid) == parity_run.manifest["rendered_input"]


def test_token_ids_labels_and_indices(parity_run, encoder):
    tokens = encoder.encode(turn_of(parity_run), parity_run.case.grid)
    assert np.array_equal(tokens.token_ids, parity_run["pre.input_ids"][0])
    assert np.array_equal(tokens.labels, parity_run["pre.labels"][0])
    assert np.array_equal(tokens.seg_ids, parity_run["pre.seg_ids"][0])
    if "pre.cond_ids" in parity_run:
        assert np.array_equal(tokens.cond_ids, parity_run["pre.cond_ids"][0])
    else:
        assert (tokens.cond_ids == -1).all()
    if "pre.position_ids" in parity_run:
        assert np.array_equal(tokens.position_ids, parity_run["pre.position_ids"][0])
        assert np.array_equal(tokens.attention_mask, parity_run["pre.attention_mask"][0])


def projected(parity, hidden: torch.Tensor) -> torch.Tensor:
    weights = [
        parity.state_dict[f"mlm_projector.model.{layer}.{kind}"] for layer in (0, 2) for kind in ("weight", "bias")
    ]
    inner = torch.nn.functional.gelu(torch.nn.functional.linear(hidden, weights[0], weights[1]))
    return torch.nn.functional.linear(inner, weights[2], weights[3])


@pytest.mark.parametrize("mend", [False, True])
def test_expansion_to_visual_and_region_rows(parity_case, parity, encoder, mend):
    run = parity_case.runs["predict"]
    tokens = encoder.encode(turn_of(run), parity_case.grid)
    rows = [region_rows(parity)] * tokens.regions
    expanded = expand(tokens, tokens.visual_rows, rows, mend=mend)
    assert np.array_equal(expanded.visual_mask, run["vlm.lm.visual_pos_masks"][0])
    for axis in run["vlm.lm.position_ids"]:
        assert np.array_equal(expanded.position_ids, axis[0])
    table = parity.state_dict["vlm.base_model.model.model.language_model.embed_tokens.weight"]
    assert (expanded.token_ids[expanded.visual_mask | expanded.region_mask] == -1).all()
    if "vlm.lm.inputs_embeds" in run:
        words = expanded.token_ids >= 0
        embeds = run["vlm.lm.inputs_embeds"][0]
        assert torch.equal(embeds[torch.from_numpy(words)], table[torch.from_numpy(expanded.token_ids[words])])


def test_conditions_and_seg_of_a_generated_answer(parity_case, parity, encoder):
    """The positions that we name are those whose states became the condition: means, rows and ``<SEG>`` alike."""
    run = parity_case.runs["predict"]
    if "seg.in.cond_embeds" not in run:  # chat: nothing to segment
        tokens = encoder.encode(turn_of(run), parity_case.grid)
        answer = parse_generated(run["vlm.output_ids"][0], parity.tokenizer, expand(tokens, tokens.visual_rows))
        assert answer.fallback and answer.text == parity_case.manifest["forced_text"].removesuffix(TURN_END)
        return
    tokens = encoder.encode(turn_of(run), parity_case.grid)
    prompt = expand(tokens, tokens.visual_rows, [region_rows(parity)] * tokens.regions)
    answer = parse_generated(run["vlm.output_ids"][0], parity.tokenizer, prompt)
    assert not answer.fallback
    states = projected(parity, run["vlm.hidden_states_last"][0])
    assert len(answer.cond_ids) == len(answer.seg_ids) == len(states)
    conditions = [states[torch.from_numpy(answer.cond_ids == i)] for i in range(answer.cond_ids.max() + 1)]
    means = torch.stack([rows.mean(0) for rows in conditions])
    torch.testing.assert_close(means, run["seg.in.cond_embeds"][0, : len(means)], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(conditions), run["seg.in.token_embeds"][0], atol=1e-5, rtol=0)
    seg = states[torch.from_numpy(answer.seg_ids == 0)]
    torch.testing.assert_close(seg, run["seg.in.seg_embeds"][0], atol=1e-5, rtol=0)


def test_the_prefix_ends_with_the_picture(parity_case, parity, encoder):
    run = parity_case.runs["predict"]
    turn = turn_of(run)
    tokens = encoder.encode(turn, parity_case.grid)
    prompt = expand(tokens, tokens.visual_rows, [region_rows(parity)] * tokens.regions)
    length = prefix_length(prompt)
    assert prompt.visual_mask[length - 1] and not prompt.visual_mask[length:].any()
    other = render(find_task("chat", parity_case.modality), Query(question="Is it raining?"))
    again = encoder.encode(other, parity_case.grid)
    assert np.array_equal(tokens.token_ids[:length], again.token_ids[:length])
    assert REGION not in tokens.token_ids[:length]
