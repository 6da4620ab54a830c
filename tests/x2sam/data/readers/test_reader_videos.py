"""What is particular to formats of videos: cutting into clips, frames without truth, label maps, lists of videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.x2sam.data.format_fixtures import (
    build_clips,
    build_panoptic_video,
    build_refer_video,
    build_vos,
    write_grey,
    write_json,
    write_labels,
    write_picture,
)
from x2sam.data.readers import DatasetSpec, open_dataset
from x2sam.data.readers.listed import cut_video
from x2sam.errors import FramesError

SIZE = (8, 10)


def _spec(**settings: object) -> DatasetSpec:
    return DatasetSpec("d", "ytvis", "genseg", **settings)


@pytest.mark.parametrize(
    ("frames", "settings", "expected"),
    [
        (range(7), {}, [(0, 1, 2, 3, 4, 5, 6)]),
        (range(7), {"frames_per_clip": 3}, [(0, 1, 2), (3, 4, 5)]),
        (range(8), {"frames_per_clip": 3}, [(0, 1, 2), (3, 4, 5), (6, 7)]),
        (range(1), {"frames_per_clip": 3}, [(0,)]),
        (range(3), {"frames_per_clip": 1}, [(0,), (1,), (2,)]),
        (range(8), {"frames_per_clip": 3, "stride": 2}, [(0, 2, 4), (1, 3, 5)]),
        (range(8), {"stride": 3}, [(0, 3, 6), (1, 4, 7), (2, 5)]),
        (range(7), {"frames_per_clip": 3, "sampling": "span"}, [(0, 3, 6), (1, 4), (2, 5)]),
        ([2, 5, 9, 11], {"frames_per_clip": 2, "sampling": "span"}, [(2, 9), (5, 11)]),
        ([], {"frames_per_clip": 2}, []),
    ],
)
def test_videos_are_cut(frames, settings, expected):
    assert cut_video(frames, _spec(**settings)) == expected


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5), st.sampled_from(["stride", "span"]))
def test_no_frame_is_in_two_clips_and_few_in_none(count, size, stride, sampling):
    clips = cut_video(range(count), _spec(frames_per_clip=size, stride=stride, sampling=sampling))
    used = [t for clip in clips for t in clip]
    assert len(used) == len(set(used))
    assert all(0 < len(clip) <= size and list(clip) == sorted(clip) for clip in clips)
    # Single frames that are left over, one a strand at most.
    assert count - len(used) <= (stride if sampling == "stride" and size > 1 else 0)


def _box(first: int, last: int) -> dict:
    return {"size": [8, 10], "counts": [8 * first, 8 * (last - first), 8 * (10 - last)]}


def _ytvis(root: Path, **changes: object) -> Path:
    for t in range(5):
        write_picture(root / f"v/{t}.png", np.full((*SIZE, 3), 40 * t, np.uint8))
    content = {
        "videos": [{"id": 1, "file_names": [f"v/{t}.png" for t in range(5)], "width": 10, "height": 8}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 2, "segmentations": [_box(0, 2), None, _box(1, 3), None, None]},
            {"id": 2, "video_id": 1, "category_id": 1, "segmentations": [None, None, _box(5, 6), None, _box(6, 7)]},
        ],
    }
    return write_json(root / "y.json", content | changes)


def test_frames_without_truth_are_taken_out_or_marked(tmp_path):
    spec = DatasetSpec("y", "ytvis", "genseg", _ytvis(tmp_path), tmp_path)
    sample = open_dataset(spec)[0]
    assert sample.frame_numbers == (0, 2, 4)
    assert sample.frames[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert sample.annotated.all()
    assert (sample.items, sample.labels.tolist(), sample.ids) == (("dog", "cat"), [0, 1], (2, 1))
    assert sample.masks.sum((2, 3)).tolist() == [[0, 16], [8, 16], [8, 0]]
    assert sample.first_seen().tolist() == [1, 0]
    kept = open_dataset(replace(spec, keep_unannotated=True))[0]
    assert kept.frame_numbers == (0, 1, 2, 3, 4)
    assert kept.annotated.tolist() == [True, False, True, False, True]
    np.testing.assert_array_equal(kept.masks[kept.annotated], sample.masks)


def test_a_clip_has_the_objects_that_it_shows(tmp_path):
    spec = DatasetSpec("y", "ytvis", "objseg", _ytvis(tmp_path), tmp_path, frames_per_clip=2)
    dataset = open_dataset(spec)
    assert len(dataset) == 1  # frame 4 alone is a rest
    assert dataset[0].ids == (1, 2)
    assert dataset[0].region_frame == 0
    single = open_dataset(replace(spec, frames_per_clip=1))
    assert [single[k].ids for k in range(3)] == [(1,), (1, 2), (2,)]


def test_a_track_has_a_shape_or_null_for_each_frame(tmp_path):
    track = {"id": 1, "video_id": 1, "category_id": 2, "segmentations": [_box(0, 2)]}
    with pytest.raises(FramesError, match=r"annotations\[0\] has 1 segmentations for 5 frames"):
        open_dataset(DatasetSpec("y", "ytvis", "genseg", _ytvis(tmp_path, annotations=[track]), tmp_path))


def _vos(root: Path) -> DatasetSpec:
    for t in range(3):
        write_picture(root / "JPEGImages/480p/bear" / f"{t:05d}.jpg", np.full((*SIZE, 3), 40 * t, np.uint8))
    for t in (0, 2):
        labels = np.zeros(SIZE, np.uint8)
        labels[:, :2], labels[:, 3:4] = t + 1, 255
        write_labels(root / "Annotations/480p/bear" / f"{t:05d}.png", labels)
    return DatasetSpec("v", "vos", "objseg", root / "Annotations/480p", root / "JPEGImages/480p")


def test_label_maps_of_videos(tmp_path):
    sample = open_dataset(_vos(tmp_path))[0]
    assert (sample.frame_numbers, sample.ids, sample.items) == ((0, 2), (1, 3), ("object", "object"))
    assert sample.first_seen().tolist() == [0, 1]
    assert sample.ignore.sum((1, 2)).tolist() == [8, 8]
    kept = open_dataset(replace(_vos(tmp_path), keep_unannotated=True))[0]
    assert kept.annotated.tolist() == [True, False, True]
    assert kept.ignore.sum((1, 2)).tolist() == [8, 0, 8]


def test_a_list_of_videos_is_a_split(tmp_path):
    spec = replace(_vos(tmp_path), split="2017/val")
    with pytest.raises(FramesError, match=r"ImageSets/2017/val\.txt; name a list"):
        open_dataset(spec)
    listing = tmp_path / "ImageSets/2017/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("bear\n")
    assert len(open_dataset(spec)) == 1
    listing.write_text("../../bear\n")
    with pytest.raises(FramesError, match="not inside"):
        open_dataset(spec)
    listing.write_text("lion\n")
    with pytest.raises(FramesError, match="lion has a label map"):
        open_dataset(spec)


def test_categories_of_objects_come_from_the_meta_file(tmp_path):
    videos = {"bear": {"objects": {"1": {"category": "bear"}, "3": {"category": "tree"}}}}
    source = write_json(tmp_path / "meta.json", {"videos": videos})
    assert open_dataset(replace(_vos(tmp_path), source=source))[0].items == ("bear", "tree")


def test_expressions_may_mean_several_objects_or_none(tmp_path):
    spec = build_refer_video(tmp_path)
    lines = {"0": {"exp": "both", "obj_id": ["1", "2"]}, "1": {"exp": "no one", "obj_id": []}}
    frames = [f"{5 * t:05d}" for t in range(6)]
    write_json(Path(spec.annotations), {"videos": {"clip0": {"frames": frames, "expressions": lines}}})
    both, none = (open_dataset(spec)[k] for k in range(2))
    objects = open_dataset(replace(build_vos(tmp_path), frames_per_clip=None))[0]
    np.testing.assert_array_equal(both.masks[:, 0], objects.masks[:, [objects.ids.index(k) for k in (1, 2)]].any(1))
    assert none.masks.shape[1] == 1
    assert not none.masks.any()


def test_expressions_by_type_and_from_one_place(tmp_path):
    spec = build_refer_video(tmp_path)
    with pytest.raises(FramesError, match="name one"):
        open_dataset(replace(spec, masks=""))
    line = {"exp": "it", "obj_id": 1, "type_id": 2}
    frames = {"frames": ["00000"], "expressions": {"0": line, "1": {**line, "type_id": 0, "exp": "that"}}}
    write_json(Path(spec.annotations), {"videos": {"clip0": frames}})
    assert [open_dataset(replace(spec, split=kind))[0].items for kind in ("0", "2")] == [("that",), ("it",)]


def test_masks_by_number_are_found_or_told(tmp_path):
    spec = build_refer_video(tmp_path)
    line = {"exp": "it", "obj_id": [1], "anno_id": [4]}
    write_json(Path(spec.annotations), {"videos": {"clip0": {"frames": ["00000"], "expressions": {"0": line}}}})
    source = write_json(tmp_path / "mask_dict.json", {"3": [None]})
    with pytest.raises(FramesError, match="means the mask 4, which"):
        open_dataset(replace(spec, masks="", source=source))
    write_json(source, {"4": [None, None]})
    with pytest.raises(FramesError, match="4 has 2 masks for 1 frames"):
        open_dataset(replace(spec, masks="", source=source))


def test_video_frames_of_two_sizes_are_told(tmp_path):
    spec = build_panoptic_video(tmp_path)
    write_picture(Path(spec.images) / "clip0/00000003.jpg", np.zeros((64, 65, 3), np.uint8))
    with pytest.raises(FramesError, match=r"00000003\.jpg is 65 x 64"):
        open_dataset(spec)[0]


def test_a_list_that_promises_more_frames_than_the_file_has(tmp_path):
    spec = build_clips(tmp_path)
    text = (tmp_path / "videos.json").read_text().replace('"frames": 6', '"frames": 9')
    (tmp_path / "videos.json").write_text(text.replace("[0, 1, 2, 3, 4, 5]", "[0, 8]"))
    with pytest.raises(FramesError, match=r"video\.mp4 has 6 frames, there is no frame 8"):
        open_dataset(spec)[0]


def test_films_among_labelled_pictures(tmp_path):
    pictures = []
    for frame in (7, 3, 5):
        write_picture(tmp_path / f"images/film/{frame}.png", np.full((*SIZE, 3), frame, np.uint8))
        labels = np.zeros(SIZE, np.uint8)
        labels[:, : frame - 2] = 1
        labels[0] = 255
        write_grey(tmp_path / f"masks/{frame}.png", labels)
        pictures.append({
            "file": f"images/film/{frame}.png", "mask": f"masks/{frame}.png", "width": 10, "height": 8,
            "sequence": "one", "frame": frame, "objects": [{"id": 1, "category": "car"}],
        })  # fmt: skip
    write_json(tmp_path / "train.json", {"pictures": pictures})
    spec = DatasetSpec("f", "labelmaps", "objseg", tmp_path, modality="video")
    sample = open_dataset(spec)[0]
    assert sample.frames[:, 0, 0, 0].tolist() == [3, 5, 7]
    assert sample.masks.sum((2, 3)).tolist() == [[7], [21], [35]]
    assert sample.ignore.sum() == 30
    assert (sample.group, sample.ids) == ("one", (1,))
    assert len(open_dataset(replace(spec, modality="image", task="genseg"))) == 3
