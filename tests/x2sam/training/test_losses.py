"""Losses: values against the written-out definition, gradients, edge cases, and the order of random numbers."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from x2sam.errors import TrainingError
from x2sam.training.losses import (
    LossConfig,
    direct_losses,
    language_model_loss,
    mask_count,
    segmentation_losses,
    single_target_losses,
    total_loss,
    uncertain_points,
)
from x2sam.training.matching import IGNORE_LABEL, Target, match, random_points

SMALL = LossConfig.with_points(128)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def level(rows: int, queries: int = 6, categories: int = 2, seed: int = 0, size=(8, 8)):
    source = seeded(seed)
    return SimpleNamespace(
        mask_logits=torch.randn(rows, queries, *size, generator=source).requires_grad_(),
        class_logits=torch.randn(rows, queries, categories + 1, generator=source).requires_grad_(),
    )


def some_targets(seed: int = 0) -> list[Target]:
    source = seeded(seed)
    masks = torch.rand(3, 32, 32, generator=source) > 0.5
    return [
        Target(masks[:2], torch.tensor([1, 0])),
        Target(masks[:0], torch.zeros(0, dtype=torch.int64)),
        Target(masks[2:], torch.tensor([0])),
    ]


def test_names_and_number_of_levels():
    losses = segmentation_losses([level(3, seed=i) for i in range(3)], some_targets(), SMALL, seeded(0))
    parts = ("loss_mask", "loss_dice", "loss_cls")
    assert list(losses) == [f"{part}{suffix}" for suffix in ("", "_0", "_1") for part in parts]
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    assert torch.allclose(total_loss(losses), torch.stack(list(losses.values())).sum())


def test_values_follow_the_definition():
    """All points random (no uncertainty), so each term can be written out with the same points."""
    config = LossConfig(num_points=100, uncertain=0.0)
    final, targets = level(3), some_targets()
    five = torch.rand(5, 32, 32, generator=seeded(8)) > 0.5
    targets[0] = Target(five, torch.tensor([1, 0, 1, 1, 0]))
    got = segmentation_losses([final], targets, config, seeded(7))

    source = seeded(7)
    pairs = match(final.mask_logits, final.class_logits, targets, config.matching, source)
    torch.rand(6, 300, 2, generator=source)  # candidates for the uncertain points
    points = torch.rand(6, 100, 2, generator=source)
    order = pairs[0][1]
    assert not torch.equal(order[order], torch.arange(5))  # an order that is not its own inverse
    bce, dice, place = [], [], 0
    wanted = torch.full((3, 6), 2)
    for row, (queries, objects) in enumerate(pairs):
        for query, number in zip(queries, objects, strict=True):
            grid = 2 * points[place][None, :, None] - 1
            x = F.grid_sample(final.mask_logits[row : row + 1, query : query + 1], grid, align_corners=False).flatten()
            t = F.grid_sample(
                targets[row].masks[None, number : number + 1].float(), grid, align_corners=False
            ).flatten()
            bce.append(F.binary_cross_entropy_with_logits(x, t))
            dice.append(1 - (2 * (x.sigmoid() * t).sum() + 1) / (x.sigmoid().sum() + t.sum() + 1))
            wanted[row, query] = targets[row].labels[number]
            place += 1
    assert place == 6
    assert torch.allclose(got["loss_mask"], 5 * sum(bce) / 6)
    assert torch.allclose(got["loss_dice"], 5 * sum(dice) / 6)
    weight = torch.tensor([1.0, 1.0, 0.1])
    per_query = F.cross_entropy(final.class_logits.flatten(0, 1), wanted.flatten(), reduction="none")
    weights = weight[wanted.flatten()]
    assert torch.allclose(got["loss_cls"], 2 * (per_query * weights).sum() / weights.sum())


def test_random_numbers_are_drawn_final_level_first_then_in_order():
    levels, targets = [level(3, seed=i) for i in range(3)], some_targets()
    whole = segmentation_losses(levels, targets, SMALL, seeded(3))
    source = seeded(3)
    for suffix, one in (("", levels[2]), ("_0", levels[0]), ("_1", levels[1])):
        alone = segmentation_losses([one], targets, SMALL, source)
        assert all(torch.equal(alone[part], whole[part + suffix]) for part in alone)


def test_default_generator_is_the_global_one():
    levels, targets = [level(3)], some_targets()
    torch.manual_seed(11)
    by_default = segmentation_losses(levels, targets, SMALL)
    again = segmentation_losses(levels, targets, SMALL, seeded(11))
    assert all(torch.equal(by_default[name], again[name]) for name in again)


def test_uncertain_points_prefer_the_border():
    ramp = torch.linspace(-8, 8, 64).expand(1, 1, 64, 64)  # undecided in the middle column
    config = LossConfig(num_points=200, uncertain=0.75)
    points = uncertain_points(ramp, config, seeded(0))
    assert points.shape == (1, 200, 2)
    distance = (points[0, :, 0] - 0.5).abs()
    # 150 of 600 candidates: the nearest quarter, |x - 0.5| < 1/8, or twice that at the rim, where samples fade to 0
    assert distance[:150].max() < 0.25 and distance[:150].quantile(0.9) < 0.125
    assert distance[150:].max() > 0.35


def test_uncertain_points_keep_to_what_is_known():
    valid = torch.zeros(1, 1, 32, 32)
    valid[..., :16] = 1
    mask_logits = torch.randn(1, 1, 8, 8, generator=seeded(0))
    config = LossConfig(num_points=200, uncertain=1.0)
    assert (uncertain_points(mask_logits, config, seeded(1), valid)[..., 0] <= 0.5).all()
    assert (uncertain_points(mask_logits, config, seeded(1))[..., 0] > 0.5).any()


def test_gradients_reach_matched_masks_only_and_every_class_logit():
    final, targets = level(3), some_targets()
    losses = segmentation_losses([final], targets, SMALL, seeded(0))
    total_loss(losses).backward()
    touched = final.mask_logits.grad.flatten(2).abs().sum(-1) > 0
    assert touched.sum(1).tolist() == [2, 0, 1]
    assert (final.class_logits.grad.abs().sum(-1) > 0).all()


def test_no_targets_at_all():
    final = level(2)
    empty = Target(torch.zeros(0, 32, 32), torch.zeros(0, dtype=torch.int64))
    losses = segmentation_losses([final], [empty, empty], SMALL)
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0 and losses["loss_cls"] > 0
    total_loss(losses).backward()
    assert final.mask_logits.grad.abs().sum() == 0  # a gradient is there, so that processes stay in step


def test_ignored_labels_are_left_out():
    final, targets = level(3), some_targets()
    more = Target(
        torch.cat([targets[0].masks, torch.ones(1, 32, 32, dtype=torch.bool)]), torch.tensor([1, 0, IGNORE_LABEL])
    )
    plain = segmentation_losses([final], targets, SMALL, seeded(0))
    with_ignored = segmentation_losses([final], [more, *targets[1:]], SMALL, seeded(0))
    assert all(torch.equal(plain[name], with_ignored[name]) for name in plain)


def test_more_targets_than_queries_scores_the_matched_ones():
    final = level(1, queries=2)
    target = Target(torch.rand(5, 32, 32, generator=seeded(0)) > 0.5, torch.tensor([0, 1, 0, 1, 0]))
    assert total_loss(segmentation_losses([final], [target], SMALL)).isfinite()


def test_unknown_pixels_have_no_say():
    final = level(1)
    valid = torch.zeros(32, 32, dtype=torch.bool)
    valid[:, :16] = True
    mask = torch.rand(2, 32, 32, generator=seeded(0)) > 0.5
    changed = torch.where(valid, mask, ~mask)
    labels = torch.tensor([0, 1])
    # bilinear samples next to the border mix both sides: keep the masks equal there
    changed[:, :, 16] = mask[:, :, 16]
    first = segmentation_losses([final], [Target(mask, labels, valid)], SMALL, seeded(0))
    second = segmentation_losses([final], [Target(changed, labels, valid)], SMALL, seeded(0))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = segmentation_losses([final], [Target(changed, labels)], SMALL, seeded(0))
    plain = segmentation_losses([final], [Target(mask, labels)], SMALL, seeded(0))
    assert other["loss_mask"] != plain["loss_mask"]


def test_half_precision_is_computed_in_float32():
    final, targets = level(3), some_targets()
    half = SimpleNamespace(mask_logits=final.mask_logits.bfloat16(), class_logits=final.class_logits.bfloat16())
    losses = segmentation_losses([half], targets, SMALL, seeded(0))
    whole = SimpleNamespace(mask_logits=half.mask_logits.float(), class_logits=half.class_logits.float())
    expected = segmentation_losses([whole], targets, SMALL, seeded(0))
    assert all(value.dtype == torch.float32 and torch.equal(value, expected[name]) for name, value in losses.items())


def test_autocast_changes_nothing():
    final, targets = level(3), some_targets()
    masks, labels = torch.rand(3, 32, 32, generator=seeded(1)) > 0.4, torch.zeros(3, dtype=torch.int64)
    run = lambda: {  # noqa: E731
        **segmentation_losses([final], targets, SMALL, seeded(0)),
        **{f"single_{k}": v for k, v in single_target_losses([final], masks, labels, None, SMALL, seeded(0)).items()},
    }
    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(got[name].dtype == torch.float32 and torch.equal(got[name], expected[name]) for name in expected)


def test_single_target_path_is_the_general_one_where_both_are_dense():
    """On the full grid of points the general loss is dense too; compare with pixel centres as points."""
    final = level(4, categories=1, size=(16, 16))
    masks = torch.rand(4, 16, 16, generator=seeded(1)) > 0.4
    labels = torch.zeros(4, dtype=torch.int64)
    got = single_target_losses([final], masks, labels, None, SMALL, seeded(2))
    targets = [Target(masks[i : i + 1], labels[i : i + 1]) for i in range(4)]
    pairs = match(final.mask_logits, final.class_logits, targets, SMALL.matching, seeded(2))
    x = torch.stack([final.mask_logits[row, queries[0]] for row, (queries, _) in enumerate(pairs)]).flatten(1)
    t = masks.flatten(1).float()
    bce = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1)
    dice = 1 - (2 * (x.sigmoid() * t).sum(1) + 1) / (x.sigmoid().sum(1) + t.sum(1) + 1)
    assert torch.allclose(got["loss_mask"], 5 * bce.mean())
    assert torch.allclose(got["loss_dice"], 5 * dice.mean())
    general = segmentation_losses([final], targets, SMALL, seeded(2))
    assert torch.equal(got["loss_cls"], general["loss_cls"])


def test_single_target_path_with_absent_objects_and_unknown_pixels():
    levels = [level(3, categories=1, seed=i) for i in range(2)]
    masks = torch.rand(3, 32, 32, generator=seeded(1)) > 0.4
    labels = torch.tensor([0, IGNORE_LABEL, 0])
    valid = torch.ones(3, 32, 32, dtype=torch.bool)
    valid[:, 22:] = False  # cuts through the cells of row 5
    losses = single_target_losses(levels, masks, labels, valid, SMALL, seeded(0))
    assert list(losses)[3:] == ["loss_mask_0", "loss_dice_0", "loss_cls_0"]
    total_loss(losses).backward()
    for one in levels:
        gradient = one.mask_logits.grad.abs()
        assert (gradient.flatten(2).sum(-1) > 0).sum(1).tolist() == [1, 0, 1]
        assert gradient[:, :, 5:].sum() == 0


def test_direct_losses_ignore_and_normalise():
    logits = torch.randn(3, 4, 4, generator=seeded(0))
    truth = (torch.rand(3, 4, 4, generator=seeded(1)) > 0.5).float()
    valid = torch.ones(3, 4, 4, dtype=torch.bool)
    assert direct_losses(logits, truth, valid) == direct_losses(logits, truth)
    valid[2] = False
    assert torch.allclose(
        direct_losses(logits, truth, valid)["loss_mask"] * 3, direct_losses(logits[:2], truth[:2])["loss_mask"] * 2
    )
    halved = direct_losses(logits, truth, count=6.0)["loss_dice"]
    assert torch.allclose(halved * 2, direct_losses(logits, truth)["loss_dice"])
    with pytest.raises(TrainingError, match="one size"):
        direct_losses(logits, truth[:, :2])


def test_language_model_loss_shifts_and_ignores():
    logits = torch.randn(2, 5, 11, generator=seeded(0), requires_grad=True)
    labels = torch.tensor([[3, -100, 4, 5, -100], [-100, -100, -100, 1, 2]])
    terms = [
        -logits[b, i - 1].log_softmax(-1)[labels[b, i]] for b in range(2) for i in range(1, 5) if labels[b, i] >= 0
    ]
    assert len(terms) == 4
    assert torch.allclose(language_model_loss(logits, labels, torch.nn.Identity()), sum(terms) / 4)
    nothing = language_model_loss(logits, torch.full_like(labels, -100), torch.nn.Identity())
    nothing.backward()
    assert nothing == 0 and logits.grad.abs().sum() == 0


def test_total_names_what_is_not_finite():
    losses = {"loss_mask": torch.tensor(1.0), "loss_dice_2": torch.tensor(torch.nan)}
    with pytest.raises(TrainingError, match="loss_dice_2 not finite for samples a, b"):
        total_loss(losses, ["a", "b"])


def test_targets_of_a_batch_need_one_size():
    targets = [Target(torch.zeros(1, 8, 8), torch.tensor([0])), Target(torch.zeros(1, 9, 8), torch.tensor([0]))]
    with pytest.raises(TrainingError, match="one size"):
        segmentation_losses([level(2)], targets, SMALL)
    with pytest.raises(TrainingError):
        LossConfig(num_points=0)


def test_points_of_a_generator_do_not_depend_on_the_device():
    assert torch.equal(random_points(2, 3, torch.device("cpu"), seeded(1)), torch.rand(2, 3, 2, generator=seeded(1)))
    assert random_points(2, 3, torch.device("meta"), seeded(1)).device.type == "meta"


RANK = """
import sys, torch, torch.distributed as dist
from x2sam.training.losses import mask_count
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
first = mask_count((1, 6)[dist.get_rank()], torch.device("cpu"))
print(first.item(), mask_count(0, torch.device("cpu")).item())
dist.destroy_process_group()
"""


def test_mask_count_is_averaged_over_processes(tmp_path):
    assert mask_count(0, torch.device("cpu")) == 1 and mask_count(4, torch.device("cpu")) == 4
    command = [sys.executable, "-c", RANK, str(tmp_path / "meet")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    assert [rank.communicate(timeout=60)[0].split() for rank in ranks] == [["3.5", "1.0"]] * 2
