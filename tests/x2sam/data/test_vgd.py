"""V-VGD: an example of every category, prompted where it is first seen, the same for a seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.x2sam.data.format_fixtures import (
    build_panoptic,
    build_vgd,
    build_ytvis,
    clips,
    rle,
    write_json,
    write_picture,
)
from x2sam.data.prompts import KINDS, disc
from x2sam.data.readers import DatasetSpec, open_dataset
from x2sam.data.vgd import SOURCES, build_prompts
from x2sam.errors import FramesError, PromptError

ALL = tuple(KINDS)


def _late(root: Path) -> DatasetSpec:
    """Four frames of 60 x 60: a cat from the start, two dogs that come into sight on frames 1 and 2."""
    boxes = {1: (2, 5, 20), 2: (1, 25, 40), 3: (1, 42, 58)}
    begins = {1: 0, 2: 2, 3: 1}
    tracks = []
    for number, (category, left, right) in boxes.items():
        mask = np.zeros((60, 60), bool)
        mask[10:50, left:right] = True
        shapes = [rle(mask) if t >= begins[number] else None for t in range(4)]
        tracks.append({"id": number, "video_id": 1, "category_id": category, "segmentations": shapes})
    names = [write_picture(root / f"v/{t}.png", np.zeros((60, 60, 3), np.uint8)).name for t in range(4)]
    path = write_json(root / "y.json", {
        "videos": [{"id": 1, "file_names": [f"v/{name}" for name in names], "width": 60, "height": 60}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}], "annotations": tracks,
    })  # fmt: skip
    return DatasetSpec("y", "ytvis", "genseg", path, root, mode="instance")


def _built(spec: DatasetSpec, seed: int = 0, kinds: tuple[str, ...] = ALL) -> dict:
    return build_prompts(spec, open_dataset(spec), kinds, seed)


def test_one_example_a_category_on_the_frame_that_shows_it_first(tmp_path):
    spec = _late(tmp_path)
    chosen = set()
    for seed in range(8):
        dog, cat = _built(spec, seed)["samples"][0]["prompts"]
        assert (dog["category"], cat["category"]) == ("dog", "cat")
        assert (dog["targets"], cat["targets"], cat["frame"]) == ([2, 3], [1], 0)
        assert (dog["object"], dog["frame"]) in ((2, 2), (3, 1))
        chosen.add(dog["object"])
    assert chosen == {2, 3}


def test_the_prompts_are_where_the_object_is(tmp_path):
    spec = _late(tmp_path)
    path = write_json(tmp_path / "p.json", _built(spec))
    for kind in ALL:
        reading = DatasetSpec("p", "vgd", "vgdseg", path, tmp_path, source=spec.annotations, prompt=kind)
        for sample in open_dataset(reading):
            for k, region in enumerate(sample.regions):
                shown = sample.masks[sample.region_frame][sample.labels == k].any(0)
                reach = {"point": 11, "scribble": 12, "box": 3, "mask": 3}[kind]
                rows, cols = np.nonzero(region)
                near = [shown[max(r - reach, 0) : r + reach + 1, max(c - reach, 0) : c + reach + 1].any()
                        for r, c in zip(rows, cols, strict=True)]  # fmt: skip
                assert (region & shown).any()
                assert all(near)


def test_a_click_is_a_disc_of_ten_pixels(tmp_path):
    spec = _late(tmp_path)
    path = write_json(tmp_path / "p.json", _built(spec, kinds=("point",)))
    sample = open_dataset(DatasetSpec("p", "vgd", "vgdseg", path, tmp_path, source=spec.annotations))[0]
    full = int(disc((60, 60), 30.5, 30.5, 10).sum())
    assert sample.regions[0].sum() <= full
    assert np.ptp(np.nonzero(sample.regions[0])[0]) == 20


def test_the_reader_gives_the_objects_of_each_prompted_category(tmp_path):
    spec = _late(tmp_path)
    content = _built(spec)
    path = write_json(tmp_path / "p.json", content)
    dataset = open_dataset(DatasetSpec("p", "vgd", "vgdseg", path, tmp_path, source=spec.annotations, prompt="box"))
    by_frame = {s.region_frame: s for s in dataset}
    dog_frame = content["samples"][0]["prompts"][0]["frame"]
    assert set(by_frame) == {0, dog_frame}
    assert (by_frame[0].items, by_frame[0].ids, by_frame[0].labels.tolist()) == (("cat",), (1,), [0])
    dogs = by_frame[dog_frame]
    assert (dogs.items, dogs.ids, dogs.labels.tolist()) == (("dog",), (2, 3), [0, 0])
    assert dogs.masks.any((2, 3)).tolist() == [[False, False], [False, True], [True, True], [True, True]]
    assert dogs.task == dataset.task == "vgdseg"
    assert dogs.frames.shape == (4, 60, 60, 3)
    assert dogs.regions.shape == (1, 60, 60)
    assert len({s.key for s in dataset}) == 2


def test_the_same_seed_gives_the_same_prompts(tmp_path):
    spec = replace(build_ytvis(tmp_path), mode="instance", frames_per_clip=3)
    first = _built(spec)
    assert first == _built(spec)
    assert first["samples"] != _built(spec, seed=1)["samples"]
    # What else is built does not matter: neither the other kinds nor the other samples.
    boxes = _built(replace(spec, limit=1), kinds=("box",))["samples"]
    assert [p["box"] for p in boxes[0]["prompts"]] == [p["box"] for p in first["samples"][0]["prompts"]]


def test_things_only(tmp_path):
    content = _built(replace(build_panoptic(tmp_path), mode="instance"))
    stuff = {o.category for sample in clips() for o in sample.objects if not o.thing}
    named = {p["category"] for sample in content["samples"] for p in sample["prompts"]}
    assert named
    assert not named & stuff
    assert all(set(ALL) < set(p) for sample in content["samples"] for p in sample["prompts"])


def test_all_kinds_are_read_in_turn_without_a_choice(tmp_path):
    spec = build_vgd(tmp_path)
    assert len(open_dataset(spec)) == sum(len(open_dataset(replace(spec, prompt=kind))) for kind in ALL)
    with pytest.raises(FramesError, match="no prompts star; use point, scribble, box, mask"):
        open_dataset(replace(spec, prompt="star"))


def test_another_source_is_told(tmp_path):
    spec = build_vgd(tmp_path)
    source = json.loads(Path(spec.source).read_text())
    source["videos"][0]["id"], source["annotations"] = 7, [
        line | {"video_id": 7 if line["video_id"] == 1 else line["video_id"]} for line in source["annotations"]
    ]  # fmt: skip
    write_json(Path(spec.source), source)
    with pytest.raises(FramesError, match="give that source or build the prompts again"):
        open_dataset(spec)[0]


def test_kinds_and_formats_that_are_not_there(tmp_path):
    spec = _late(tmp_path)
    for kinds in ((), ("star",)):
        with pytest.raises(PromptError, match="use some of point, scribble, box, mask"):
            _built(spec, kinds=kinds)
    assert set(SOURCES) == {"coco", "coco-panoptic", "ytvis", "panoptic-video", "labelmaps", "x2sam"}
