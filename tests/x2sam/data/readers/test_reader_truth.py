"""Every format gives back what was written: pictures, masks, categories, ids, words. Generated scenes are the truth.

``format_fixtures`` writes them with PIL and pycocotools.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.x2sam.data.format_fixtures import BUILDERS, SIZE, build_all, clips, scenes
from x2sam.data.readers import READERS, DatasetSpec, open_dataset
from x2sam.data.task_sample import TaskSample, Turn
from x2sam.data.tasks import find_task
from x2sam.structures import Sample


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, DatasetSpec]:
    return build_all(tmp_path_factory.mktemp("all"))


def _opened(specs: dict[str, DatasetSpec], name: str, **changes: object) -> list[TaskSample]:
    dataset = open_dataset(replace(specs[name], **changes))
    return [dataset[k] for k in range(len(dataset))]


def _truth(sample: Sample) -> dict[tuple[str, bytes], int]:
    """(category, mask of the whole clip) of every object, with its id."""
    return {(o.category, (sample.labels == o.id).tobytes()): o.id for o in sample.objects}


def _found(sample: TaskSample) -> set[tuple[str, bytes]]:
    labels = sample.labels.tolist()
    return {(sample.items[label], sample.masks[:, n].tobytes()) for n, label in enumerate(labels)}


def _things(sample: Sample) -> set[tuple[str, bytes]]:
    things = {o.id for o in sample.objects if o.thing}
    return {key for key, number in _truth(sample).items() if number in things}


@pytest.mark.parametrize("name", BUILDERS)
def test_samples_keep_the_contract(specs, name):
    for task in READERS[specs[name].format].tasks:
        if task == "reaseg" and name == "expressions":
            continue
        dataset = open_dataset(replace(specs[name], task=task))
        assert len(dataset.lengths) == len(dataset) > 0
        for k in range(len(dataset)):
            sample = dataset[k]
            frames, count = sample.masks.shape[:2]
            assert sample.task == task == dataset.task
            assert sample.modality == dataset.modality
            if (task, sample.modality) != ("objseg", "image"):
                assert find_task(task, sample.modality).name == task
            assert sample.frames.shape == (frames, *SIZE, 3)
            assert sample.frames.dtype == np.uint8
            assert sample.masks.shape == (frames, count, *SIZE)
            assert sample.masks.dtype == bool
            assert len(sample.frames) == dataset.lengths[k]
            assert sample.labels.shape == (count,)
            assert sample.labels.dtype == np.int64
            assert not count or 0 <= sample.labels.min() <= sample.labels.max() < len(sample.items)
            assert not sample.ids or len(sample.ids) == count == len(set(sample.ids))
            assert sample.ignore is None or (sample.ignore.shape, sample.ignore.dtype) == ((frames, *SIZE), bool)
            assert sample.annotated is None or sample.annotated.shape == (frames,)
            assert [sample.caption[a:b] for a, b in sample.spans] == list(sample.items)[: len(sample.spans)]
            assert not sample.frame_numbers or len(sample.frame_numbers) == frames
            assert sample.key
        with pytest.raises(IndexError):
            dataset[len(dataset)]
        np.testing.assert_array_equal(dataset[-1].masks, dataset[len(dataset) - 1].masks)


@pytest.mark.parametrize("name", ["coco", "panoptic", "ytvis", "panoptic-video"])
def test_instances(specs, name):
    originals = clips() if "vis" in name or "video" in name else scenes()
    for original, sample in zip(originals, _opened(specs, name, mode="instance"), strict=True):
        assert _found(sample) == _things(original)
        assert all(sample.things)
        assert {o.category for o in original.objects if o.thing} <= set(sample.items)
        assert not {o.category for o in original.objects if not o.thing} & set(sample.items)
        assert sample.ignore is None


@pytest.mark.parametrize("name", ["panoptic", "panoptic-video", "labelmaps", "x2sam", "x2sam-video"])
def test_panoptic(specs, name):
    originals = {"x2sam": scenes(2), "x2sam-video": clips(1), "panoptic-video": clips()}.get(name, scenes())
    for original, sample in zip(originals, _opened(specs, name), strict=True):
        assert _found(sample) == set(_truth(original))
        things = {o.category: o.thing for o in original.objects}
        told = dict(zip(sample.items, sample.things, strict=True))
        assert {name: told[name] for name in things} == things
        unlabelled = original.labels == (255 if name in ("labelmaps", "x2sam", "x2sam-video") else 0)
        # Label maps write 255 as a segment without a line: those pixels are not labelled.
        if name.startswith("panoptic"):
            unlabelled |= original.labels == 255
        ignore = np.zeros_like(unlabelled) if sample.ignore is None else sample.ignore
        np.testing.assert_array_equal(ignore[:1], unlabelled[:1])


@pytest.mark.parametrize("name", ["panoptic", "semantic", "semantic-video", "panoptic-video"])
def test_semantic_maps_have_one_mask_a_category(specs, name):
    originals = clips() if "video" in name else scenes()
    for original, sample in zip(originals, _opened(specs, name, mode="semantic"), strict=True):
        assert not any(sample.things)
        expected = {}
        for o in original.objects:
            expected[o.category] = expected.get(o.category, False) | (original.labels == o.id)
        assert _found(sample) == {(name, mask.tobytes()) for name, mask in expected.items()}


@pytest.mark.parametrize("name", ["coco", "panoptic", "ytvis", "panoptic-video", "labelmaps"])
def test_examples_of_categories(specs, name):
    originals = clips() if "vi" in name else scenes()
    for original, sample in zip(originals, _opened(specs, name, task="vgdseg"), strict=True):
        assert _found(sample) == _things(original)
        assert sample.items == tuple(sorted({o.category for o in original.objects if o.thing}))
        assert sample.regions is None


@pytest.mark.parametrize("name", ["coco", "panoptic", "ytvis", "vos", "clips"])
def test_one_by_one(specs, name):
    video = name in ("ytvis", "vos", "clips")
    task = "objseg" if video else "intseg"
    for original, sample in zip(clips() if video else scenes(), _opened(specs, name, task=task), strict=True):
        assert _found(sample) == (set(_truth(original)) if name == "clips" else _things(original))
        assert sample.labels.tolist() == list(range(sample.masks.shape[1]))


def test_pictures_are_those_of_the_files(specs):
    (sample, *_) = _opened(specs, "coco")
    stored = np.asarray(Image.open(specs["coco"].images / "000000.jpg"))
    np.testing.assert_array_equal(sample.frames[0], stored)
    (clip, *_) = _opened(specs, "ytvis")
    stored = np.asarray(Image.open(specs["ytvis"].images / "clip0" / "00015.jpg"))
    np.testing.assert_array_equal(clip.frames[3], stored)


@pytest.mark.parametrize("name", ["refer", "refer-video", "expressions", "x2sam", "clips"])
def test_expressions(specs, name):
    originals = clips() if name in ("refer-video", "clips") else scenes()
    said = {}
    for original in originals:
        for o in original.objects:
            for phrase in (*o.phrases, o.category):
                said.setdefault(phrase, []).append((original.labels == o.id).tobytes())
    samples = _opened(specs, name, task="refseg")
    for sample in samples:
        assert sample.masks.shape[1] == len(sample.items) == 1
        assert sample.masks[:, 0].tobytes() in said[sample.items[0]]
    assert len({sample.key for sample in samples}) == len(samples)


def test_expressions_of_one_split(specs):
    every, train = _opened(specs, "refer"), _opened(specs, "refer", split="train")
    assert 0 < len(train) < len(every)
    assert {s.items for s in train} < {s.items for s in every}


def test_questions_and_their_answers(specs):
    for k, (original, sample) in enumerate(zip(scenes(), _opened(specs, "reason"), strict=True)):
        o = next(o for o in original.objects if o.thing)
        rows, cols = np.nonzero(original.labels[0] == o.id)
        expected = np.zeros(SIZE, bool)
        expected[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = True
        np.testing.assert_array_equal(sample.masks[0, 0], expected)
        assert sample.items == (f"What here has the shape of a {o.category}?",)
        assert sample.caption == ("It is the one with that outline." if k == 0 else None)


def test_questions_about_videos(specs):
    for original, sample in zip(clips(), _opened(specs, "reason-video"), strict=True):
        o = next(o for o in original.objects if o.thing)
        np.testing.assert_array_equal(sample.masks[:, 0], original.labels == o.id)


def test_captions(specs):
    for original, sample in zip(scenes(), _opened(specs, "grounded"), strict=True):
        assert len(sample.items) == min(3, len(original.objects))
        for n, (item, o) in enumerate(zip(sample.items, original.objects, strict=False)):
            assert item.endswith(o.category)
            np.testing.assert_array_equal(sample.masks[0, n], original.labels[0] == o.id)
    (clip, *_) = _opened(specs, "grounded-video")
    assert clip.modality == "video"
    assert clip.caption.startswith(clip.items[0])


def test_conversations(specs):
    (sample, *_) = _opened(specs, "chat")
    assert sample.turns == (
        Turn("What is in the picture?", f"A {scenes()[0].objects[0].category}."),
        Turn("Is it moving?", "It is a picture, nothing moves."),
    )
    (clip, *_) = _opened(specs, "chat-video")
    assert clip.turns[0].question == "What moves?"
    # Four of six frames, the first and the last among them; the file is compressed with loss.
    for t, frame in enumerate((0, 1, 3, 5)):
        assert np.abs(clip.frames[t].astype(int) - clips()[0].frames[frame]).mean() < 12


def test_video_files_are_read_frame_by_frame(specs):
    clip = _opened(specs, "clips", frames_per_clip=3)[1]
    assert clip.frame_numbers == (3, 4, 5)
    for t, frame in enumerate((3, 4, 5)):
        assert np.abs(clip.frames[t].astype(int) - clips()[0].frames[frame]).mean() < 12
        labels = clips()[0].labels[frame]
        np.testing.assert_array_equal(clip.masks[t].any(0), (labels > 0) & (labels < 255))


def test_clips_of_a_video_belong_together(specs):
    samples = _opened(specs, "ytvis", frames_per_clip=4, stride=1)
    assert [(s.group, s.frame_numbers) for s in samples] == [
        ("1", (0, 1, 2, 3)), ("1", (4, 5)), ("2", (0, 1, 2, 3)), ("2", (4, 5)),
    ]  # fmt: skip
    whole = _opened(specs, "ytvis")
    np.testing.assert_array_equal(np.concatenate([s.frames for s in samples[:2]]), whole[0].frames)


def test_the_limit_takes_the_first(specs):
    assert len(_opened(specs, "refer", limit=3)) == 3
    assert len(open_dataset(replace(specs["coco"], limit=0))) == 0
