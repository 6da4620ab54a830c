"""The project's own format: whatever is written comes back, and what contradicts itself is not written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.x2sam.data.format_fixtures import own_items, write_picture, write_video
from x2sam.data.readers import DatasetSpec, open_dataset
from x2sam.data.readers.own_format import OwnExpression, OwnItem, OwnObject, OwnPhrase, write_dataset
from x2sam.data.task_sample import TaskSample, Turn
from x2sam.errors import FramesError

SIZE = (4, 5)
THINGS = {"dog": True, "cat": True, "sky": False}
MASK = arrays(bool, SIZE)


@st.composite
def items(draw: st.DrawFn, number: int) -> OwnItem:
    video = draw(st.booleans())
    length = draw(st.integers(1, 4)) if video else 1
    ids = draw(st.lists(st.integers(1, 400), unique=True, max_size=3))
    objects = tuple(OwnObject(k, name := draw(st.sampled_from(sorted(THINGS))), THINGS[name]) for k in ids)
    labelled = draw(st.lists(st.integers(0, length - 1), unique=True, min_size=1))
    masks = {t: {k: draw(MASK) for k in ids if draw(st.booleans())} for t in labelled}
    meant = st.lists(st.sampled_from(ids), unique=True).map(tuple) if ids else st.just(())
    caption = draw(st.text(min_size=1, max_size=12).filter(str.strip)) if draw(st.booleans()) else None
    words = st.text(min_size=1, max_size=9).filter(str.strip)
    return OwnItem(
        f"item {number}", SIZE, objects, masks,
        frames=tuple(f"{number}/{t}.png" for t in range(length)) if video else (),
        media="" if video else f"{number}.png", length=length, video=video,
        ignore={t: draw(MASK) for t in labelled if draw(st.booleans())},
        expressions=tuple(
            OwnExpression(draw(words), draw(meant), draw(st.booleans()), draw(st.none() | words)) for _ in range(2)
        ),
        caption=caption, phrases=(OwnPhrase(0, len(caption), draw(meant)),) if caption else (),
        turns=tuple(Turn(draw(words), draw(words)) for _ in range(draw(st.integers(0, 2)))),
        split=draw(st.sampled_from(["", "train"])), complete=draw(st.booleans()),
    )  # fmt: skip


def _expected(item: OwnItem, frame: int, number: int) -> np.ndarray:
    return item.masks[frame].get(number, np.zeros(SIZE, bool))


def _read(root: Path, task: str, video: bool, **settings: object) -> dict[str, list[TaskSample]]:
    spec = DatasetSpec("own", "x2sam", task, root, modality="video" if video else "image", **settings)
    try:
        dataset = open_dataset(spec)
    except FramesError as problem:
        assert "has no entry" in str(problem)
        return {}
    samples: dict[str, list[TaskSample]] = {}
    for k in range(len(dataset)):
        samples.setdefault(dataset[k].key.split(",")[0], []).append(dataset[k])
    return samples


def _check(item: OwnItem, read: dict[str, dict[str, list[TaskSample]]]) -> None:
    labelled = sorted(item.masks)
    (sample,) = read["genseg"].get(item.id)
    ignore = np.stack([item.ignore.get(t, np.zeros(SIZE, bool)) for t in labelled])
    np.testing.assert_array_equal(ignore, np.zeros_like(ignore) if sample.ignore is None else sample.ignore)
    for o in item.objects:
        masks = np.stack([_expected(item, t, o.id) for t in labelled])
        if o.thing and masks.any():
            n = sample.ids.index(o.id)
            np.testing.assert_array_equal(sample.masks[:, n], masks)
            assert sample.items[sample.labels[n]] == o.category
    for task in ("refseg", "reaseg"):
        asked = [e for e in item.expressions if e.sentence == (task == "reaseg")]
        for expression, found in zip(asked, read[task].get(item.id, []), strict=True):
            assert (found.items, found.caption) == ((expression.text,), expression.answer)
            for t, mask in zip(labelled, found.masks[:, 0], strict=True):
                meant = [_expected(item, t, k) for k in expression.objects]
                np.testing.assert_array_equal(mask, np.any([*meant, np.zeros(SIZE, bool)], 0))
    captions = read["gcgseg"].get(item.id, [])
    assert [s.caption for s in captions] == ([item.caption] if item.caption else [])
    assert [s.turns for s in read["chat"].get(item.id, [])] == ([item.turns] if item.turns else [])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_written_comes_back(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("own")
    written = [data.draw(items(number)) for number in range(2)]
    for item in written:
        for name in item.frames or (item.media,):
            write_picture(root / name, np.zeros((*SIZE, 3), np.uint8))
    write_dataset(root, written, {"made_by": "a test"})
    for video in (False, True):
        read = {task: _read(root, task, video) for task in ("genseg", "refseg", "reaseg", "gcgseg", "chat")}
        for item in written:
            if item.video == video:
                _check(item, read)
    shutil.rmtree(root)


def test_the_manifest_tells_everything(tmp_path):
    path = write_dataset(tmp_path, own_items(tmp_path), {"made_by": "a test"})
    content = json.loads(path.read_text())
    assert (content["format"], content["version"], content["provenance"]) == ("x2sam", 1, {"made_by": "a test"})
    assert [item["modality"] for item in content["items"]] == ["image", "image", "video"]
    assert content["items"][2]["labelled"] == [0, 1, 2, 3, 4, 5]
    assert not list(tmp_path.rglob("*.part"))


def test_a_dataset_that_was_not_finished_has_no_manifest(tmp_path):
    def broken():
        yield from own_items(tmp_path)[:1]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, broken(), {})
    assert (tmp_path / "masks/000000.json").is_file()
    with pytest.raises(FramesError, match=r"manifest\.json can't be read"):
        open_dataset(DatasetSpec("own", "x2sam", "genseg", tmp_path))


def _item(**changes: object) -> OwnItem:
    objects = (OwnObject(1, "dog"),)
    return replace(OwnItem("a", SIZE, objects, {0: {1: np.ones(SIZE, bool)}}, media="a.png"), **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"media": "../a.png"}, "not inside"),
        ({"media": ""}, "either media or one file"),
        ({"length": 2}, "a picture has one frame"),
        ({"video": True, "media": "", "frames": ("a.png", "b.png")}, "one file for each of the 1 frames"),
        ({"objects": (OwnObject(1, "dog"), OwnObject(1, "cat"))}, "each once"),
        ({"objects": (OwnObject(0, "dog"),)}, "from 1"),
        ({"objects": ()}, r"objects \[1\] are not listed"),
        ({"expressions": (OwnExpression("it", (7,)),)}, r"objects \[7\]"),
        ({"masks": {3: {}}}, "frames 0 to 0"),
        ({"ignore": {1: np.ones(SIZE, bool)}}, "ignore for frames that have masks"),
        ({"masks": {0: {1: np.ones((5, 4), bool)}}}, "not bool"),
        ({"masks": {0: {1: np.ones(SIZE, np.uint8)}}}, "not bool"),
        ({"caption": "abc", "phrases": (OwnPhrase(1, 9, (1,)),)}, "no part of the caption"),
        ({"size": (0, 5)}, "can't be"),
        ({"objects": (OwnObject(1, " "),)}, "empty"),
        ({"expressions": (OwnExpression("", (1,)),)}, "empty"),
        ({"caption": ""}, "empty"),
    ],
)
def test_items_that_contradict_themselves_are_not_written(tmp_path, changes, told):
    with pytest.raises(FramesError, match=rf"item 'a'.*{told}"):
        write_dataset(tmp_path, [_item(**changes)], {})
    assert not (tmp_path / "manifest.json").exists()


def test_items_that_contradict_each_other_are_not_written(tmp_path):
    with pytest.raises(FramesError, match="two items are called 'a'"):
        write_dataset(tmp_path, [_item(), _item()], {})
    with pytest.raises(FramesError, match="'dog' is countable here"):
        write_dataset(tmp_path, [_item(objects=(OwnObject(1, "dog", False),)), _item(id="b")], {})


def test_modality_and_place_of_the_media(tmp_path):
    write_dataset(tmp_path, own_items(tmp_path / "elsewhere"), {})
    spec = DatasetSpec("own", "x2sam", "genseg", tmp_path, tmp_path / "elsewhere")
    with pytest.raises(FramesError, match="set modality to 'image' or 'video'"):
        open_dataset(spec)
    assert len(open_dataset(replace(spec, task="intseg"))) == 2
    assert open_dataset(replace(spec, task="objseg", frames_per_clip=2))[1].frame_numbers == (2, 3)
    with pytest.raises(FramesError, match=r"00000\.jpg can't be read"):
        open_dataset(replace(spec, images="", modality="image"))[0]


def test_video_files_with_few_labelled_frames(tmp_path):
    write_video(tmp_path / "v.mp4", np.repeat(np.arange(8, dtype=np.uint8) * 30, 64 * 64 * 3).reshape(8, 64, 64, 3))
    masks = {t: {3: np.ones((64, 64), bool)} for t in (2, 6)}
    item = OwnItem("v", (64, 64), (OwnObject(3, "dog"),), masks, media="v.mp4", length=8, video=True)
    write_dataset(tmp_path, [item], {})
    spec = DatasetSpec("own", "x2sam", "objseg", tmp_path)
    sample = open_dataset(spec)[0]
    assert (sample.frame_numbers, sample.ids) == ((2, 6), (3,))
    assert np.abs(sample.frames.mean((1, 2, 3)) - [60, 180]).max() < 8
    kept = open_dataset(replace(spec, keep_unannotated=True))[0]
    assert np.flatnonzero(kept.annotated).tolist() == [2, 6]
    assert kept.masks.any((1, 2, 3)).tolist() == kept.annotated.tolist()


def test_another_version_is_told(tmp_path):
    path = write_dataset(tmp_path, own_items(tmp_path), {})
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FramesError, match="not version 1 of the x2sam format; export it again"):
        open_dataset(DatasetSpec("own", "x2sam", "genseg", tmp_path))
