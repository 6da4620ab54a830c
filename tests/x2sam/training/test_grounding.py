"""Losses that tie words to places, against values worked by hand; no row is lost or taken twice by accident."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from x2sam.data.masks import IGNORE
from x2sam.model.mask_decoder import Condition, LevelPrediction
from x2sam.model.x2sam import heat_of
from x2sam.structures import Sample, SampleObject
from x2sam.training.episodes import KINDS, kinds_of
from x2sam.training.grounding import alignment_loss, expressions_of, found_by_words, mean_iou, naming_loss
from x2sam.training.matching import IGNORE_LABEL, Target


def words(embedding: list[float]) -> Condition:
    """One phrase whose class and <SEG> embeddings are both ``embedding``, and a background."""
    one = torch.tensor(embedding)
    return Condition(
        classes=torch.stack([one, torch.zeros_like(one)])[None],
        class_mask=torch.tensor([[True, True]]),
        tokens=one[None, None],
        token_mask=torch.tensor([[True]]),
        seg=one[None, None],
    )


def picture(channel: list[list[float]]) -> SimpleNamespace:
    """Features whose map at stride 8 has ``channel`` first and nothing in three other channels."""
    plane = torch.tensor(channel)
    return SimpleNamespace(maps=[None, torch.stack([plane, *[torch.zeros_like(plane)] * 3])[None]])


def test_heat_is_the_scaled_dot_product():
    # four channels: divided by 2. The place with 3 and the embedding 4 give 3 * 4 / 2 = 6.
    heat = heat_of(picture([[3.0, -1.0]]).maps[1], torch.tensor([[4.0, 0, 0, 0]]))
    assert heat.tolist() == [[[6.0, -2.0]]]


def test_alignment_by_hand():
    # Heat ln 3 at the object, 0 beside it. Where: -ln(3 / 4). Here: -ln(3 / 4) inside, -ln(1 / 2) outside.
    features = picture([[2 * math.log(3.0), 0.0]])
    target = Target(torch.tensor([[[True, False]]]), torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    loss, hits = alignment_loss(features, words([1.0, 0, 0, 0]), [target], [0])
    assert loss.item() == pytest.approx(2 * math.log(4 / 3) + math.log(2), abs=1e-6)
    assert hits == 1.0
    # the other way round the hottest place is wrong
    assert alignment_loss(features, words([-1.0, 0, 0, 0]), [target], [0])[1] == 0.0


def test_what_is_unknown_does_not_count():
    # the hottest place is ignored: of the other two the object's is the hotter one, and only they share the softmax
    features = picture([[20.0, 2 * math.log(3.0), 0.0]])
    valid = torch.tensor([[False, True, True]])
    target = Target(torch.tensor([[[False, True, False]]]), torch.tensor([0]), valid)
    loss, hits = alignment_loss(features, words([1.0, 0, 0, 0]), [target], [0])
    assert loss.item() == pytest.approx(2 * math.log(4 / 3) + math.log(2), abs=1e-5) and hits == 1.0


def test_alignment_of_nothing_is_zero_and_has_a_gradient():
    features = picture([[1.0, 2.0]])
    features.maps[1].requires_grad_(True)
    target = Target(torch.zeros(1, 1, 2, dtype=torch.bool), torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    loss, _ = alignment_loss(features, words([1.0, 0, 0, 0]), [target], [0])
    loss.backward()
    assert loss.item() == 0.0 and features.maps[1].grad.abs().sum() == 0


def test_each_kind_counts_alike_when_named():
    # kind 1 fills three places, kind 2 one; scores are even (ln 2 each) but for one place of kind 1, which is certain:
    # kind 1 has (0 + 2 ln 2) / 3, kind 2 ln 2, their mean is 5 / 6 ln 2. The unnamed place would be wrong, and is not
    # asked.
    kinds = torch.tensor([[[1, 1, 1, 2, -1]]])
    logits = torch.zeros(1, 3, 1, 5)
    logits[:, 0] = -50
    logits[0, 1, 0, 0] = 50
    logits[0, 2, 0, 4] = 50
    exact = 5 / 6 * math.log(2)
    assert naming_loss(logits, kinds, same(3)).item() == pytest.approx(exact, abs=1e-5)
    # 40,000 draws of values between 0 and ln 2: the mean is off by 0.0013 at one standard error
    drawn = naming_loss(logits, kinds, same(3), 40_000, np.random.default_rng(0))
    assert drawn.item() == pytest.approx(exact, abs=0.006)


def test_naming_nothing_is_zero_and_has_a_gradient():
    head = same(2)
    loss = naming_loss(torch.zeros(1, 2, 1, 3), torch.full((1, 1, 3), -1), head, 4, np.random.default_rng(0))
    loss.backward()
    assert loss.item() == 0 and head.weight.grad.abs().sum() == 0


def same(kinds: int) -> nn.Conv2d:
    """A head that hands scores through."""
    head = nn.Conv2d(kinds, kinds, 1)
    with torch.no_grad():
        head.weight.copy_(torch.eye(kinds)[..., None, None])
        head.bias.zero_()
    return head


def test_kinds_of_a_picture():
    labels = np.zeros((1, 16, 24), np.uint8)
    labels[:, :8, :8] = 7
    labels[:, :8, 16:] = IGNORE
    objects = (SampleObject(7, "cup"),)
    frames = np.zeros((1, 16, 24, 3), np.uint8)
    kinds = kinds_of(Sample(frames, labels, objects, complete=True))
    assert kinds.shape == (2, 3)
    assert 0 < kinds[0, 0] < KINDS and kinds[0, 1] == 0 and kinds[0, 2] == -1 and (kinds[1] == 0).all()
    assert kinds_of(Sample(frames, labels, objects, complete=False))[1].tolist() == [-1, -1, -1]
    other = Sample(frames, labels, (SampleObject(7, "star"),), complete=True)
    assert kinds_of(other)[0, 0] != kinds[0, 0]


def row(regions: int = 0, labels: int = 1) -> SimpleNamespace:
    return SimpleNamespace(regions=[None] * regions, labels=np.zeros(labels, np.int64))


def test_expressions_are_found_in_each_picture():
    rows = [row(1), row(), row(0, 3), row(1), row(1), row(1)]
    picked, labels = expressions_of(rows, 2, 2, np.random.default_rng(0))
    # the first picture has one expression, taken twice; the second has none
    assert picked == [1, 1, 3, 3] and labels == [0, 0, IGNORE_LABEL, IGNORE_LABEL]


def test_iou_of_what_the_words_found():
    # the best-scoring query covers the left half; the truth is the left quarter of what is known: IoU 1 / 2
    masks = torch.full((1, 2, 4, 4), -5.0)
    masks[0, 1, :, :2] = 5.0
    level = LevelPrediction(masks, torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]), torch.zeros(1, 2, 4))
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :, 0] = True
    target = Target(truth, torch.tensor([0]), torch.ones(4, 4, dtype=torch.bool))
    assert found_by_words(level, [target], [row()]) == pytest.approx(0.5)
    assert found_by_words(level, [target], [row(1)]) is None
    assert mean_iou(masks[:, 1], truth.float(), torch.ones(1, 4, 4, dtype=torch.bool)) == pytest.approx(0.5)
