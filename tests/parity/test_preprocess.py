"""Pixel tensors, grids and region masks against the reference, at the fixture's size and at the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam.inference.preprocess import (
    PreprocessConfig,
    frame_sizes,
    mask_frames,
    rate_indices,
    region_masks,
    video_size_for,
    vlm_image,
    vlm_video,
)

EXACT = 1e-6  # float32 noise of the normalisation; one grey level would be 0.008


@pytest.fixture(scope="module")
def config(parity) -> PreprocessConfig:
    tiny = parity.config
    return PreprocessConfig.from_processors(tiny["img_proc"], tiny["vid_proc"], tiny["extra_proc"])


def frames_of(case) -> np.ndarray:
    return case.inputs["raw.image"].numpy()[None] if case.modality == "image" else case.inputs["raw.frames"].numpy()


def test_vision_tower_input(parity_case, config):
    run, frames = parity_case.runs["predict"], frames_of(parity_case)
    image = parity_case.modality == "image"
    visual = vlm_image(frames[0], config) if image else vlm_video(frames, config)
    assert visual.grid == parity_case.grid
    assert visual.rows(config.merge) == int(run["vlm.lm.visual_pos_masks"].sum())
    key = "pre.pixel_values" if image else "pre.pixel_values_videos"
    if key in run:
        torch.testing.assert_close(visual.patches, run[key], atol=EXACT, rtol=0)


def test_mask_encoder_input(parity_case, config):
    run, frames = parity_case.runs["predict"], frames_of(parity_case)
    inputs = mask_frames(frames, config)
    sizes = (
        parity_case.inputs["raw.extra_frames"].numpy() if "raw.extra_frames" in parity_case.inputs else frames
    ).shape
    assert str(sizes[1:3]) in run.manifest["image_sizes"] or str(list(sizes[1:3])) in run.manifest["image_sizes"]
    assert str(list(inputs.sizes.scaled)) in run.manifest["scaled_sizes"]
    if "pre.extra_pixel_values" in run:
        torch.testing.assert_close(inputs.pixels, run["pre.extra_pixel_values"], atol=EXACT, rtol=0)
    if "pre.extra_pixel_values_first2" in run:
        torch.testing.assert_close(inputs.pixels[:2], run["pre.extra_pixel_values_first2"][0], atol=EXACT, rtol=0)


@pytest.mark.parametrize("mend", [False, True])
def test_region_masks(parity_case, config, mend):
    run = parity_case.runs["predict"]
    if "pre.vprompt_masks.0" not in run:
        assert "raw.vprompt_masks" not in parity_case.inputs
        return
    masks = parity_case.inputs["raw.vprompt_masks"].numpy()
    resized = region_masks(masks, frame_sizes(*masks.shape[1:], config), mend=mend)
    assert torch.equal(resized, run["pre.vprompt_masks.0"])


def test_the_published_sizes(parity):
    expected, official = parity.load("preprocess_real_config.safetensors"), PreprocessConfig.official()
    picture = expected["raw.image"].numpy()
    visual = vlm_image(picture, official)
    assert list(visual.grid) == expected["qwen.image_grid_thw"][0].tolist()
    rows = visual.patches[expected["qwen.rows"]]
    torch.testing.assert_close(rows, expected["qwen.pixel_values_rows"], atol=EXACT, rtol=0)
    moments = torch.stack([visual.patches.mean(), visual.patches.std()])
    torch.testing.assert_close(moments, expected["qwen.mean_std"], atol=1e-5, rtol=0)
    inputs = mask_frames(picture, official)
    assert list(inputs.sizes.original) == expected["sam2.original_sizes"][0].tolist()
    assert list(inputs.sizes.scaled) == expected["sam2.scaled_sizes"][0].tolist()
    pixels = inputs.pixels[0, :, ::31, ::31]
    torch.testing.assert_close(pixels, expected["sam2.pixel_values_stride31"], atol=EXACT, rtol=0)
    region = region_masks(expected["raw.vprompt_mask"].numpy()[None], inputs.sizes)[0]
    assert torch.equal(region[::31, ::31], expected["sam2.vprompt_mask_stride31"].long())
    assert int(region.sum()) == int(expected["sam2.vprompt_mask_sum"])


def test_published_clip_sizes_and_sampling():
    """540p clips of 16 and 64 frames, and the 4 of 8 frames that benchmarks show to the language model."""
    official = PreprocessConfig.official()
    assert video_size_for(16, 540, 960, official) == (34 * 16, 60 * 16)
    assert video_size_for(64, 540, 960, official) == (28 * 16, 52 * 16)
    assert rate_indices(8, None, official) == [0, 2, 5, 7]
