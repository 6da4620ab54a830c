"""Expressions on generated pictures, with an engine that answers every phrase with the left half."""

import numpy as np
import pytest

from x2sam.errors import PromptError
from x2sam.evaluation.scenes import evaluate_scenes, scene_picture
from x2sam.evaluation.worst import WorstCases


def test_every_object_with_a_phrase_is_asked_for(engine):
    scores = evaluate_scenes(engine, pictures=2, seed=5, size=96)
    prompts = [e[1] for e in engine.log if e[0] == "segment"]
    pictures = [scene_picture(5, k, 96)[0] for k in range(2)]
    named = [o for p in pictures for o in p.objects if o.phrases]
    assert len(prompts) == len(named) == len(scores.iou) > 2
    assert all(p.text in o.phrases and p.task == "refseg" for p, o in zip(prompts, named, strict=True))
    assert engine.log.count(("close",)) == 2


def test_scores_by_hand(engine):
    summary = evaluate_scenes(engine, pictures=3, seed=1, size=64).summary()
    values, things = [], []
    for k in range(3):
        sample, _ = scene_picture(1, k, 64)
        labels = sample.labels[0]
        counted = labels != 255
        left = (np.arange(64) < 32)[None] & counted
        for o in sample.objects:
            if o.phrases:
                truth = labels == o.id
                values.append((truth & left).sum() / (truth | left).sum())
                things.append(o.thing)
    assert summary["objects"] == len(values) and summary["pictures"] == 3
    assert summary["miou"] == pytest.approx(np.mean(values))
    assert summary["things"]["miou"] == pytest.approx(np.mean(np.array(values)[things]))
    assert summary["things"]["objects"] + summary["stuff"]["objects"] == len(values)
    low, high = summary["miou_ci"]
    assert low <= summary["miou"] <= high


def test_seeds_differ_and_repeat():
    first, again, other = (scene_picture(seed, 0, 64)[0] for seed in (0, 0, 1))
    assert np.array_equal(first.frames, again.frames) and not np.array_equal(first.frames, other.frames)


def test_worst_and_limits(engine):
    worst = WorstCases(3)
    scores = evaluate_scenes(engine, pictures=5, size=64, limit=1, worst=worst)
    assert set(scores.picture) == {0} and 0 < len(worst._kept) <= 3
    with pytest.raises(PromptError):
        evaluate_scenes(engine, pictures=0)
