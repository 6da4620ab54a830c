"""Appearance models on colours that are known to tell, and on such that are not."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.inference.appearance import ColourMemory, LocalColours, TargetModel, colour_bins, target_evidence

SIZE = (48, 64)


def flat(*colours: tuple[int, int, int]) -> np.ndarray:
    """Lab columns of equal width."""
    picture = np.zeros((*SIZE, 3), np.uint8)
    for k, colour in enumerate(colours):
        picture[:, k * SIZE[1] // len(colours) : (k + 1) * SIZE[1] // len(colours)] = colour
    return picture


def left_half() -> np.ndarray:
    inside = np.zeros(SIZE, np.float32)
    inside[:, : SIZE[1] // 2] = 1
    return inside


def test_bins_are_narrow_where_colours_are():
    """Lightness 100 of 256 in 16 bins: 6. A channel in its middle: bin 8; 160 is tanh(32 / 40) = 0.664 off it: 13."""
    numbers = {(100, 128, 128): (6, 8, 8), (100, 160, 128): (6, 13, 8), (255, 0, 255): (15, 0, 15)}
    for colour, (lightness, a, b) in numbers.items():
        assert (colour_bins(flat(colour)) == (lightness * 16 + a) * 16 + b).all()
    assert (colour_bins(flat((100, 160, 128)), (7, 6, 6)) == (2 * 6 + 4) * 6 + 3).all()


def test_colours_tell_inside_from_outside():
    bins = colour_bins(flat((100, 160, 128), (100, 100, 128)))
    memory = ColourMemory()
    memory.add(bins, left_half(), 1 - left_half())
    found = memory.evidence(bins)
    assert found[:, :30].min() > 2 and found[:, 34:].max() < -2
    assert memory.trust > 0.8


def test_colours_that_are_everywhere_are_not_trusted():
    bins = colour_bins(flat((100, 128, 128)))
    memory = ColourMemory()
    memory.add(bins, left_half(), 1 - left_half())
    assert np.abs(memory.evidence(bins)).max() < 0.1 and memory.trust < 0.1


def test_old_frames_fade_and_copies_go_their_own_way():
    red, green = (colour_bins(flat(c)) for c in ((100, 180, 128), (100, 80, 128)))
    memory = ColourMemory(keep=0.5)
    memory.add(red, left_half(), np.zeros(SIZE, np.float32))
    other = memory.copy()
    for _ in range(8):
        memory.add(green, left_half(), np.zeros(SIZE, np.float32))
        memory.add(red, np.zeros(SIZE, np.float32), left_half())
    assert memory.evidence(red)[0, 0] < 0 < memory.evidence(green)[0, 0]
    assert other.evidence(red)[0, 0] > 2


def test_the_same_colour_counts_by_its_place():
    """Both ends of the frame have one colour; only the left one is the object."""
    lab = flat((100, 170, 128), (100, 90, 128), (100, 170, 128))
    inside = np.zeros(SIZE, np.float32)
    inside[:, :21] = 1
    x, y = np.meshgrid(np.arange(SIZE[1], dtype=np.float32), np.arange(SIZE[0], dtype=np.float32))
    found = LocalColours(lab, inside, x, y).evidence(lab, x, y)
    assert found[:, :18].mean() > 1 and found[:, 46:].mean() < -1
    # The frame has moved: cells are asked for where they were before.
    assert LocalColours(lab, inside, x * 0, y).evidence(lab, x * 0, y).mean() > -4
    unseen = LocalColours(lab, inside, x, y).evidence(flat((250, 128, 250)), x, y)
    assert np.abs(unseen).max() < 0.1


def test_a_target_is_found_again():
    rng = np.random.default_rng(0)
    inside = (np.arange(400) < 40).astype(np.float32)
    direction = rng.normal(size=12)
    frame = lambda: (rng.normal(size=(400, 12)) + 2 * inside[:, None] * direction).astype(np.float32)  # noqa: E731
    model = TargetModel()
    assert not target_evidence([model], frame()).any()
    model.add(frame(), inside, 1 - inside)
    model.add(frame(), inside, 1 - inside)
    found = target_evidence([model, TargetModel()], frame())
    assert found[:40].mean() > 0.5 and found[40:].mean() < 0


def test_a_frame_without_the_object_teaches_nothing():
    model = TargetModel()
    model.add(np.ones((4, 3), np.float32), np.zeros(4, np.float32), np.ones(4, np.float32))
    assert model.squares is None


@pytest.mark.parametrize("shape", [(5, 7), (8, 8), (61, 3)])
def test_any_size_has_places(shape):
    lab = np.full((*shape, 3), 90, np.uint8)
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    assert LocalColours(lab, np.ones(shape, np.float32), x, y).evidence(lab, x, y).shape == shape


def test_places_that_nobody_asks_for_change_nothing():
    """What is asked about a part of the frame is the same as when all of it is asked for."""
    rng = np.random.default_rng(0)
    lab = rng.integers(100, 156, (200, 280, 3)).astype(np.uint8)
    inside = rng.random((200, 280)).astype(np.float32)
    y, x = (grid.astype(np.float32) for grid in np.mgrid[:200, :280])
    whole = LocalColours(lab, inside, x, y).evidence(lab, x, y)
    for part in (np.s_[5:30, 100:140], np.s_[150:200, 240:280], np.s_[0:8, 0:8]):
        places = x[part] + 3.4, y[part] - 2.7
        found = LocalColours(lab, inside, *places).evidence(lab[part], *places)
        expected = LocalColours(lab, inside, x, y).evidence(lab[part], *places)
        assert np.array_equal(found, expected) and found.shape == whole[part].shape
