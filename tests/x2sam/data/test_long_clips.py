"""Long clips made of a few drawn pictures: repeatable, labelled, in motion."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from x2sam.data.long_clips import LongClips
from x2sam.errors import FramesError

FRAMES, SIZE = 8, (90, 160)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures of a disc on a coloured ground, in the layout of training sets."""
    root = tmp_path_factory.mktemp("pictures")
    entries = []
    for k in range(2):
        rng = np.random.default_rng(k)
        picture = cv2.GaussianBlur(rng.integers(0, 256, (160, 200, 3)).astype(np.uint8), (0, 0), 3)
        labels = np.zeros((160, 200), np.uint8)
        cv2.circle(labels, (90 + 20 * k, 80), 40, 1, -1)
        picture[labels == 1] = (200, 40 + 100 * k, 60)
        cv2.imwrite(str(root / f"{k}.png"), picture)
        cv2.imwrite(str(root / f"{k}_mask.png"), labels)
        objects = [{"id": 1, "category": "disc", "thing": True}]
        files = {"file": f"{k}.png", "mask": f"{k}_mask.png", "width": 200, "height": 160}
        entries.append({**files, "source": "coco", "objects": objects})
    (root / "train.json").write_text(json.dumps({"sources": {}, "pictures": entries}))
    return root


def test_the_same_number_is_the_same_clip(pictures):
    first, again = (LongClips(pictures, 5, FRAMES, SIZE)[3] for _ in range(2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.labels, again.labels)
    other = LongClips(pictures, 6, FRAMES, SIZE)[3]
    assert not np.array_equal(first.frames, other.frames)


def test_clips_are_labelled_and_move(pictures):
    clips = LongClips(pictures, 0, FRAMES, SIZE)
    travelled = []
    for k in range(4):
        clip = clips[k]
        assert clip.frames.shape == (FRAMES, *SIZE, 3) and clip.frames.dtype == np.uint8
        assert clip.labels.shape == (FRAMES, *SIZE)
        known = {o.id for o in clip.objects}
        assert 1 in known and set(np.unique(clip.labels).tolist()) <= known | {0, 255}
        assert (clip.labels[0] == 1).mean() >= clips.least_visible
        seen = [np.argwhere(m == 1).mean(0) for m in clip.labels if (m == 1).any()]
        travelled.append(float(np.linalg.norm(seen[-1] - seen[0])))
    assert max(travelled) > 3


def test_the_label_is_where_the_object_is_drawn(pictures):
    """The disc has one colour that its ground has nowhere."""
    clip = LongClips(pictures, 1, 2, SIZE)[0]
    inside = cv2.erode((clip.labels[0] == 1).astype(np.uint8), np.ones((7, 7))) > 0
    around = (cv2.dilate((clip.labels[0] > 0).astype(np.uint8), np.ones((7, 7))) == 0) & (clip.labels[0] == 0)
    assert clip.frames[0][inside].std(0).mean() < clip.frames[0][around].std(0).mean()


def test_pictures_without_objects_are_refused(pictures, tmp_path):
    content = json.loads((pictures / "train.json").read_text())
    for entry in content["pictures"]:
        entry["objects"][0]["thing"] = False
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(FramesError, match="large enough"):
        LongClips(tmp_path, 0, FRAMES, SIZE)[0]
