"""Selection rules against the reference: its logits in, its label maps, instances, ids and scores out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_replay import rule_of_case

from x2sam.data.tasks import find_task
from x2sam.inference.postprocess import Prediction, Quirks, Rule, new_state, postprocess
from x2sam.inference.preprocess import PreprocessConfig, frame_sizes

SCORE = 2e-6  # the manifest's scores are rounded to six places
SELECTED = 1  # value of the chosen object in maps of ref, rea, int and obj


@pytest.fixture(scope="module")
def config(parity) -> PreprocessConfig:
    tiny = parity.config
    return PreprocessConfig.from_processors(tiny["img_proc"], tiny["vid_proc"], tiny["extra_proc"])


def rule_of(run, quirks: Quirks) -> Rule:
    return rule_of_case(run.case, run.case.runs["predict"].tensors.get("pre.vprompt_masks.0"), quirks)


def answers(run, config, quirks: Quirks):
    """(frame, segments) of every frame whose logits are stored, in order."""
    rule = rule_of(run, quirks)
    state = new_state(rule)
    picture = run.case.inputs.get("raw.image", run.case.inputs.get("raw.frames"))
    sizes = frame_sizes(*picture.shape[-3:-1], config)
    for frame, classes in enumerate(run["seg.out.class_queries_logits"]):
        key = f"seg.decoder.f{frame}.mask_logits_last"
        if key not in run:
            assert run.mode == "tensor" and frame > 0
            return
        yield frame, postprocess(rule, Prediction(run[key][0], classes, sizes), state)


def background_of(case) -> int:
    return {"pan": 0, "ins": -1}.get(case.manifest["seg_mode"], 255)


def infos_of(run, frame: int) -> list[dict]:
    info = run.manifest["post"][frame]["segments_info"]
    return info if type(info) is list else [info] if info else []


def test_label_maps_instances_ids_and_scores(parity_run, config):
    if not parity_run.manifest["post"]:
        assert parity_run.manifest["task"].endswith("chat")
        return
    seen = 0
    for frame, segments in answers(parity_run, config, Quirks.reference()):
        seen += 1
        expected = f"post.{frame}.segmentation"
        if parity_run.mode == "predict":
            assert np.array_equal(segments.label_map(background_of(parity_run.case)), parity_run[expected])
        if f"post.{frame}.instances.pred_masks" in parity_run:
            assert np.array_equal(segments.masks, parity_run[f"post.{frame}.instances.pred_masks"].bool())
            assert np.array_equal(segments.categories, parity_run[f"post.{frame}.instances.pred_classes"])
            scores = torch.from_numpy(segments.scores)
            torch.testing.assert_close(scores, parity_run[f"post.{frame}.instances.scores"], atol=1e-6, rtol=0)
        if parity_run.case.manifest["seg_mode"] == "sem":
            assert infos_of(parity_run, frame) == []
            continue
        check_infos(parity_run.case, segments.info(), infos_of(parity_run, frame))
    assert seen == (len(parity_run.manifest["post"]) if parity_run.mode == "predict" else 1)


def check_infos(case, found: list[dict], expected: list[dict]) -> None:
    """Same segments in the same order: id, category, score, and where stated thing and area."""
    assert len(found) == len(expected)
    single = find_task(case.manifest["task"], case.modality).single
    for ours, theirs in zip(found, expected, strict=True):
        # The reference lists its one object as 0 and paints it as 1; ours has one id for both.
        assert ours["id"] == (SELECTED if single else theirs["id"])
        assert ours["category_id"] == theirs.get("category_id", theirs.get("label_id"))
        assert ours["score"] == pytest.approx(theirs["score"], abs=SCORE)
        assert ours["area"] == theirs.get("area", ours["area"])
        assert ours["isthing"] == theirs.get("isthing", ours["isthing"])


def test_the_scores_of_the_second_run_agree(parity_case, config):
    """Answer given or generated: the same objects."""
    if "tensor" not in parity_case.runs:
        return
    runs = [dict(answers(parity_case.runs[mode], config, Quirks.reference())) for mode in ("tensor", "predict")]
    assert np.allclose(runs[0][0].scores, runs[1][0].scores, atol=1e-5)
    assert (runs[0][0].label_map(255) != runs[1][0].label_map(255)).mean() <= 0.001


def test_mended_rules_keep_the_chosen_object(parity_case, config):
    """Mends change numbering and empty answers, not what a clear prompt selects: same best mask, ids unique."""
    run = parity_case.runs["predict"]
    if not run.manifest["post"]:
        return
    reference = dict(answers(run, config, Quirks.reference()))
    for frame, segments in answers(run, config, Quirks.mended()):
        assert len(set(segments.ids.tolist())) == len(segments)
        assert segments.masks.any((1, 2)).all() or not find_task(run.manifest["task"], parity_case.modality).single
        if parity_case.manifest["task"].endswith(("refseg", "reaseg", "gcgseg")):
            assert np.array_equal(segments.masks, reference[frame].masks)
