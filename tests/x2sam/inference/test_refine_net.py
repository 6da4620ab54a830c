"""The small network of the snap step: without fitting it changes nothing, fitted it learns what weights can't say."""

import cv2
import numpy as np
import pytest
import torch

from x2sam.errors import WeightsError
from x2sam.inference.refine import prepare, snap, snap_for, weigh
from x2sam.inference.refine_fit import Met, plain_weights
from x2sam.inference.refine_net import INPUTS, RefineNet, correct, embedded_net, evidence_of, read_net, save_net
from x2sam.inference.refine_net_fit import example, fit, main, measure, new_net, stack
from x2sam.inference.refine_terms import fine_terms, rough_terms
from x2sam.inference.refine_weights import embedded_weights
from x2sam.structures import Point


def request(seed: int):
    """A bright disc; the network's answer is a square around its middle. Picture, probability, truth, click."""
    rng = np.random.default_rng(seed)
    x, y, r = rng.uniform(50, 110), rng.uniform(40, 80), rng.uniform(14, 24)
    rows, cols = np.mgrid[:120, :160]
    truth = (cols - x) ** 2 + (rows - y) ** 2 < r * r
    picture = np.where(truth[..., None], 190, 60) + rng.normal(0, 6, (120, 160, 3))
    square = (abs(cols - x) < 0.7 * r) & (abs(rows - y) < 0.7 * r)
    soft = cv2.GaussianBlur(square.astype(np.float32), (0, 0), 4)
    return picture.clip(0, 255).astype(np.uint8), soft, truth, Point(x, y)


def met(seed: int) -> Met:
    picture, soft, truth, click = request(seed)
    scene = prepare(picture, soft, [click], [], None)
    grid = scene.grid
    part = truth[grid.y0 : grid.y1, grid.x0 : grid.x1].astype(np.float32)
    inside = cv2.resize(part, (grid.width, grid.height), interpolation=cv2.INTER_AREA)
    share = part.size / inside.size / truth.sum()
    return Met(scene, inside, np.ones_like(inside), float(share), 0.0)


def test_an_unfitted_network_changes_nothing():
    scene = met(0).scene
    weights = embedded_weights("weak")
    assert np.array_equal(weigh(scene, weights, RefineNet().eval()), weigh(scene, weights))


def test_the_evidence_has_its_places():
    scene = met(0).scene
    rough = rough_terms(scene)[..., 0]
    terms = fine_terms(scene, rough)
    evidence = evidence_of(scene, terms, rough)
    assert evidence.shape == (INPUTS, *scene.grid.shape) and evidence.dtype == np.float32
    assert np.allclose(evidence[3], np.clip(terms[..., 3], -8, 8), atol=1e-5)
    assert np.allclose(evidence[-6], np.clip(rough, -8, 8))
    assert np.allclose(evidence[-3:] * 64 + 128, np.moveaxis(scene.lab, 2, 0), atol=1e-3)


def test_it_learns_what_the_weights_do_not_say():
    weights = plain_weights()
    examples = [example(met(seed), weights) for seed in range(24)]
    net = fit(new_net(examples[:16], np.random.default_rng(0)), examples[:16], 60, np.random.default_rng(0))
    before, after = measure(None, examples[16:])["first"], measure(net, examples[16:])["first"]
    assert before < 0.75 and after > before + 0.1
    picture, soft, truth, click = request(99)
    mask = snap(picture, soft, [click], weights=weights, net=net)
    assert (mask & truth).sum() / (mask | truth).sum() > before


def test_examples_of_different_sizes_are_stacked():
    weights = plain_weights()
    one = example(met(1), weights)
    evidence, _, truth, valid, share, outside = stack([one, one], [False, True])
    h, w = one.truth.shape
    assert torch.equal(truth[0, :h, :w], truth[1, :h, :w].flip(1))
    assert valid[0].sum() == h * w and not valid[0, h:].any() and evidence.shape[1] == INPUTS
    assert share[0] == pytest.approx(one.share) and outside[0] == 0


def test_saved_networks_come_back(tmp_path):
    net = RefineNet().eval()
    torch.nn.init.normal_(net.leave.weight)
    save_net(net, tmp_path / "net.safetensors")
    scene = met(2).scene
    score = scene.net
    terms = fine_terms(scene, score)
    again = read_net(tmp_path / "net.safetensors")
    assert np.array_equal(correct(net, scene, terms, score), correct(again, scene, terms, score))


def test_pictures_held_out_need_a_number(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--held-amount", "2"])
    assert "say with --hold-out which" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_files_that_do_not_fit_are_told(tmp_path, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="install the package or get the model again"):
        read_net(path)


def test_each_kind_of_model_gets_what_was_fitted_for_it():
    picture, soft, _, click = request(4)
    small = snap(picture, soft, [click], weights=embedded_weights("weak"), net=embedded_net())
    large = snap(picture, soft, [click], weights=embedded_weights("strong"))
    assert np.array_equal(snap_for(True)(picture, soft, [click]), small)
    assert np.array_equal(snap_for(False)(picture, soft, [click]), large)
    assert not np.array_equal(small, large)


def test_the_clicks_have_the_last_word():
    picture, soft, truth, click = request(3)
    rows, cols = np.nonzero(~truth)
    far = Point(cols[0] + 0.5, rows[0] + 0.5)
    mask = snap(picture, soft, [click, far], weights=embedded_weights("weak"), net=embedded_net())
    assert mask[int(click.y), int(click.x)] and mask[int(far.y), int(far.x)]
    no = Point(click.x + 4, click.y, positive=False)
    mask = snap(picture, soft, [click, no], weights=embedded_weights("weak"), net=embedded_net())
    assert mask[int(click.y), int(click.x)] and not mask[int(no.y), int(no.x)]
