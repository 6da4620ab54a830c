import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from x2sam.errors import FramesError, PromptError
from x2sam.inference.preprocess import (
    PreprocessConfig,
    chunk_indices,
    frame_sizes,
    image_size_for,
    interleaved_indices,
    linspace_indices,
    mask_frames,
    rate_indices,
    region_masks,
    span_indices,
    video_size_for,
    vlm_image,
    vlm_video,
)

SMALL = PreprocessConfig(image_pixels=(1024, 64 * 64), video_pixels=(1024, 4 * 64 * 64), mask_size=(64, 64))
PADDED = PreprocessConfig(mask_size=(64, 64), keep_aspect=True)


def picture(height: int, width: int, count: int | None = None) -> np.ndarray:
    shape = (height, width, 3) if count is None else (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 6000), width=st.integers(1, 6000), count=st.integers(1, 70))
def test_sizes_are_whole_blocks_within_the_limits(height, width, count):
    """Blocks and limits hold for every picture up to a shape of 1:100; beyond, one block is the least."""
    official = PreprocessConfig.official()
    h, w = image_size_for(height, width, official)
    assert h % 32 == w % 32 == 0 and min(h, w) >= 32
    if max(height, width) <= 100 * min(height, width):
        assert official.image_pixels[0] <= h * w <= official.image_pixels[1]
    h, w = video_size_for(count, height, width, official)
    assert h % 32 == w % 32 == 0 and min(h, w) >= 32
    if max(height, width) <= 100 * min(height, width):
        # the published rule counts whole temporal patches and rounds half to even: 5 frames count as 4
        whole = round(max(count, 2) / 2) * 2
        assert h * w * min(count, whole) <= official.video_pixels[1]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (31, 33), (64, 64)])
def test_odd_pictures_get_through(size):
    visual = vlm_image(picture(*size), SMALL)
    assert visual.patches.shape == (np.prod(visual.grid), 3 * 2 * 16 * 16) and visual.grid[0] == 1
    assert visual.rows() * 4 == np.prod(visual.grid)
    assert mask_frames(picture(*size), SMALL).pixels.shape == (1, 3, 64, 64)
    assert mask_frames(picture(*size), PADDED).pixels.shape == (1, 3, 64, 64)


def test_patch_order_is_block_by_block():
    """A picture whose grey level is the number of its 16-pixel tile shows the order of the patches."""
    tiles = np.kron(np.arange(16).reshape(4, 4), np.ones((16, 16))).astype(np.uint8)
    visual = vlm_image(np.repeat(tiles[..., None], 3, -1), SMALL)
    levels = ((visual.patches[:, 0] * 0.5 + 0.5) * 255).round().int().tolist()
    assert levels == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert torch.equal(visual.patches.view(16, 3, 2, 256)[:, :, 0], visual.patches.view(16, 3, 2, 256)[:, :, 1])


@pytest.mark.parametrize("count, steps", [(1, 1), (2, 1), (3, 2), (5, 3)])
def test_the_last_frame_fills_the_last_patch(count, steps):
    visual = vlm_video(picture(64, 64, count), SMALL)
    assert visual.grid[0] == steps
    last = visual.patches.view(steps, -1, 3, 2, 256)[-1]
    assert torch.equal(last[:, :, 0], last[:, :, 1]) == bool(count % 2)


def test_a_clips_frame_equals_the_picture():
    clip = picture(40, 60, 3)
    together = mask_frames(clip, SMALL).pixels
    assert all(torch.equal(together[i : i + 1], mask_frames(clip[i], SMALL).pixels) for i in range(3))


def test_padding_keeps_the_shape_and_is_zero():
    inputs = mask_frames(picture(30, 60), PADDED)
    assert inputs.sizes.scaled == (32, 64) and inputs.sizes.original == (30, 60)
    assert (inputs.pixels[..., 32:, :] == 0).all() and (inputs.pixels[..., :32, :] != 0).any()
    region = region_masks([np.ones((30, 60), bool)], inputs.sizes)
    assert region.shape == (1, 64, 64) and region[0, :32].all() and not region[0, 32:].any()


def test_region_values_are_kept():
    sizes = frame_sizes(128, 128, SMALL)
    mask = np.zeros((128, 128), np.uint8)
    mask[10:60, 10:60] = 255
    assert region_masks([mask], sizes).unique().tolist() == [0, 255]
    assert region_masks([mask > 0, mask.astype(np.float32)], sizes).unique().tolist() == [0, 1]


def test_a_tiny_region_does_not_vanish():
    sizes = frame_sizes(1000, 1000, SMALL)
    dot = np.zeros((1000, 1000), bool)
    dot[500, 500] = True
    assert region_masks([dot], sizes)[0, 32, 32] == 1
    assert region_masks([dot], sizes, mend=False).sum() == 0


def test_regions_that_can_not_be_used():
    sizes = frame_sizes(20, 30, SMALL)
    with pytest.raises(PromptError, match="empty"):
        region_masks([np.zeros((20, 30), bool)], sizes)
    with pytest.raises(PromptError, match="20, 30"):
        region_masks([np.ones((30, 20), bool)], sizes)
    with pytest.raises(PromptError, match="no region"):
        region_masks([], sizes)


@pytest.mark.parametrize("frames", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8)])
def test_frames_that_can_not_be_used(frames):
    with pytest.raises(FramesError, match="uint8"):
        mask_frames(frames, SMALL)


def test_the_config_survives_json():
    for config in (SMALL, PADDED, PreprocessConfig.official()):
        assert PreprocessConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="colour"):
        PreprocessConfig.from_dict({"colour": 1})


def test_published_settings():
    image = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    image["size"] = {"shortest_edge": 65536, "longest_edge": 16777216}
    video = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}
    stretched = PreprocessConfig.from_processors(image, video, {"size": {"height": 1024, "width": 1024}})
    assert stretched == PreprocessConfig.official()
    padded = PreprocessConfig.from_processors(image, video, {"size": {"longest_edge": 1024}})
    assert padded.keep_aspect and padded.mask_size == (1024, 1024)


def test_frame_choice():
    assert linspace_indices(10, 4) == [0, 3, 6, 9] and linspace_indices(100, 16)[-1] == 99
    assert span_indices(10, 4) == [0, 2, 4, 6] and span_indices(3, 16) == [0, 1, 2]
    assert interleaved_indices(7, 3) == [[0, 2, 4, 6], [1, 3, 5]]
    assert chunk_indices(17, 8) == [list(range(8)), list(range(8, 16))] and chunk_indices(10, 8)[1] == [8, 9]
    official = PreprocessConfig.official()
    assert rate_indices(48, 24.0, official) == [0, 16, 31, 47] and rate_indices(3, None, official) == [0, 1, 2]
    assert len(rate_indices(240, 24.0, official)) == 20
