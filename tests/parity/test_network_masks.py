"""From raw pixels to the masks, scores and words that a person gets, against the reference's own answers.

Unlike the tests of post-processing, which start from stored logits, nothing here comes from the reference but the
picture and the question.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from reference_replay import frames_of, query_of_case, replay, rule_of_case, task_of_case
from test_postprocess import background_of, infos_of

from x2sam.data.tokenizer import TURN_END
from x2sam.inference.clip_stream import ClipStream
from x2sam.inference.conversation import render
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking
from x2sam.inference.postprocess import Quirks
from x2sam.inference.preprocess import frame_sizes


def match_instances(run, segments, frame: int, tolerances: dict) -> None:
    """Every stored instance is one of ours: same category, score and mask. Their order is left to the sort."""
    categories = run[f"post.{frame}.instances.pred_classes"].numpy()
    scores = run[f"post.{frame}.instances.scores"].numpy()
    masks = run[f"post.{frame}.instances.pred_masks"].numpy().astype(bool)
    assert len(segments) == len(scores)
    left = set(range(len(segments)))
    for category, score, mask in zip(categories, scores, masks, strict=True):
        same = [i for i in left if segments.categories[i] == category]
        best = min(same, key=lambda i: (segments.masks[i] != mask).mean() + abs(segments.scores[i] - score))
        assert (segments.masks[best] != mask).mean() <= tolerances["segmentation_pixel_mismatch_fraction"]
        assert segments.scores[best] == pytest.approx(score, abs=tolerances["scores"])
        left.remove(best)


def test_masks_scores_and_ids(parity_run, replays, parity, deviations):
    stored = parity_run.manifest["post"]
    played = replays(parity_run)
    if not stored:
        assert not played.frames and parity_run.manifest["task"].endswith("chat")
        return
    assert len(played.frames) == len(stored)
    tolerances = parity.tolerances
    for frame, step in enumerate(played.frames):
        key, segments = f"post.{frame}.segmentation", step.segments
        if key in parity_run:
            wrong = float((segments.label_map(background_of(parity_run.case)) != parity_run[key].numpy()).mean())
            assert wrong <= tolerances["segmentation_pixel_mismatch_fraction"]
            deviations["wrong pixels"] = max(wrong, deviations.get("wrong pixels", 0.0))
        if f"post.{frame}.instances.scores" in parity_run:
            match_instances(parity_run, segments, frame, tolerances)
        infos = infos_of(parity_run, frame)
        if parity_run.case.manifest["seg_mode"] != "sem":
            scores = [info["score"] for info in infos]
            assert segments.scores == pytest.approx(scores, abs=tolerances["scores"])
            difference = np.abs(segments.scores - np.array(scores)).max(initial=0.0)
            deviations["scores"] = max(float(difference), deviations.get("scores", 0.0))


def test_the_memory_fills_and_rolls_over(parity_run, replays):
    seen = [sum(e.levels[0].shape[1] for e in frame.seen) for frame in replays(parity_run).frames]
    assert seen[1:] == parity_run.manifest["memory_lengths_s0"]


def test_the_words_of_a_generated_answer(parity_case, replays):
    run, manifest = parity_case.runs["predict"], parity_case.manifest
    played = replays(run)
    chosen = [int(logits.argmax()) for logits in played.words]
    assert chosen == run.manifest["greedy_argmax"]
    if not task_of_case(parity_case).segments:
        assert played.reading.text == manifest["forced_text"].removesuffix(TURN_END)
        assert played.reading.condition is None


def test_words_that_nobody_forces(unforced_case, parity, reference_model):
    """Left alone, the next words are the reference's; an answer without ``<SEG>`` still gets a condition."""
    expected, run = unforced_case.manifest["free_greedy_ids_max12"], unforced_case.runs["predict"]
    free = replay(run, reference_model, parity.tokenizer, forced=False, limit=len(expected), walked=False)
    assert [int(logits.argmax()) for logits in free.words] == expected
    assert (free.reading.condition is not None) == task_of_case(unforced_case).segments


def assert_same_condition(found, expected) -> None:
    for part in ("classes", "tokens", "seg"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), atol=1e-5, rtol=0)


def test_generated_and_given_answers_give_the_same_condition(segmenting_case, replays):
    assert_same_condition(*(replays(segmenting_case.runs[mode]).condition for mode in ("tensor", "predict")))


def test_the_kept_prefix_changes_nothing(parity_run, replays, parity, reference_model):
    """Keys and values of the picture's part kept from an earlier pass, or everything read at once."""
    kept = replays(parity_run)
    whole = replay(parity_run, reference_model, parity.tokenizer, keep_prefix=False, walked=False)
    assert whole.looked.prefix is None and kept.looked.prefix_length > 0
    assert kept.looked.prefix.get_seq_length() == kept.looked.prefix_length
    torch.testing.assert_close(kept.states, whole.states, atol=1e-5, rtol=0)
    if task_of_case(parity_run.case).segments:
        assert_same_condition(kept.condition, whole.condition)


@torch.no_grad()
def test_nothing_behind_seg_needs_to_be_read(segmenting_case, replays, parity, reference_model):
    """What serving leaves out (the words behind ``<SEG>``) does not change the condition."""
    played, task = replays(segmenting_case.runs["tensor"]), task_of_case(segmenting_case)
    turn = render(task, query_of_case(segmenting_case), random.Random(segmenting_case.manifest["py_seed"]))
    interpreter = Interpreter(reference_model, parity.tokenizer)
    found = interpreter.read(played.looked, turn, played.regions, share=task.shares_conditions)
    assert_same_condition(found, played.condition)


@torch.no_grad()
def test_a_picture_is_a_clip_of_one_frame(clip_case, parity, reference_model, replays):
    """For one condition the first frame of a clip and the same frame as a picture get equal logits."""
    played = replays(clip_case.runs["predict"])
    picture = frames_of(clip_case, "raw.extra_frames")[0]
    looking = Looking(Interpreter(reference_model, parity.tokenizer), FeatureCache(0), picture[None], "picture")
    level = reference_model.step(looking.features(0), played.condition)[-1]
    assert torch.equal(level.mask_logits, played.frames[0].last.mask_logits)
    assert torch.equal(level.class_logits, played.frames[0].last.class_logits)


@torch.no_grad()
def test_words_over_a_clip_are_streamed_like_that(clip_case, reference_model, replays):
    """What is served with ``fifo``, and evaluated, gives the same segments with the same ids."""
    played = replays(clip_case.runs["predict"])
    regions = clip_case.runs["predict"].tensors.get("pre.vprompt_masks.0")
    rule = rule_of_case(clip_case, regions, Quirks.reference())
    height, width = frames_of(clip_case, "raw.extra_frames").shape[1:3]
    sizes = frame_sizes(height, width, reference_model.config.preprocess)
    stream = ClipStream(reference_model, played.condition, {"": rule})
    for frame in played.frames:
        found = stream.advance(frame.features, sizes)[""]
        assert np.array_equal(found.masks, frame.segments.masks)
        assert np.array_equal(found.ids, frame.segments.ids)
        assert np.array_equal(found.scores, frame.segments.scores)


@torch.no_grad()
def test_regions_follow_the_generator(region_case, reference_model, replays):
    """Equal seeds, equal tokens; another seed, other points."""
    played, seed = replays(region_case.runs["predict"]), region_case.manifest["torch_seed"]
    masks = region_case.runs["predict"]["pre.vprompt_masks.0"]
    again, other = (
        reference_model.region_tokens(played.first.stage3, masks, torch.Generator().manual_seed(s))
        for s in (seed, seed + 1)
    )
    assert torch.equal(again, played.regions)
    assert not torch.equal(other, played.regions)
