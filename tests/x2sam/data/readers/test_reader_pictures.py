"""What is particular to formats of pictures: crowds, unlabelled pixels, expressions for nothing, ignored shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.x2sam.data.format_fixtures import write_json, write_labels, write_picture, write_segments
from x2sam.data.readers import DatasetSpec, open_dataset
from x2sam.errors import FramesError

SIZE = (8, 10)
LEFT = [[0, 0, 4, 0, 4, 8, 0, 8]]
RIGHT = [[6, 0, 10, 0, 10, 8, 6, 8]]
MIDDLE = {"size": [8, 10], "counts": [32, 16, 32]}


def _columns(first: int, last: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, first:last] = True
    return mask


@pytest.fixture
def root(tmp_path) -> Path:
    write_picture(tmp_path / "a.png", np.full((*SIZE, 3), 100, np.uint8))
    return tmp_path


def _instances(**changes: object) -> dict:
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": 10, "height": 8}],
        "categories": [{"id": 2, "name": "Traffic_Light"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 11, "image_id": 5, "category_id": 2, "segmentation": LEFT, "iscrowd": 0},
            {"id": 12, "image_id": 5, "category_id": 1, "segmentation": RIGHT},
            {"id": 13, "image_id": 5, "category_id": 1, "segmentation": MIDDLE, "iscrowd": 1},
        ],
    } | changes


def _coco(root: Path, task: str = "genseg", **changes: object) -> object:
    path = write_json(root / "instances.json", _instances(**changes))
    return open_dataset(DatasetSpec("d", "coco", task, path, root))


def test_crowds_are_ignored_and_the_others_found(root):
    sample = _coco(root)[0]
    assert sample.items == ("traffic light", "dog")
    assert sample.labels.tolist() == [0, 1]
    assert sample.ids == (11, 12)
    np.testing.assert_array_equal(sample.masks[0], [_columns(0, 4), _columns(6, 10)])
    np.testing.assert_array_equal(sample.ignore[0], _columns(4, 6))
    assert sample.key == "instances.json:a.png"


def test_crowds_belong_to_their_category_in_a_semantic_map(root):
    path = write_json(root / "instances.json", _instances())
    sample = open_dataset(DatasetSpec("d", "coco", "genseg", path, root, mode="semantic"))[0]
    np.testing.assert_array_equal(sample.masks[0], [_columns(0, 4), _columns(4, 10)])
    assert sample.ignore is None or not sample.ignore.any()


def test_pictures_without_objects_serve_only_category_tasks(root):
    assert _coco(root, annotations=[])[0].masks.shape == (1, 0, *SIZE)
    for task in ("intseg", "vgdseg"):
        with pytest.raises(FramesError, match="no entry"):
            _coco(root, task, annotations=[])


def test_categories_of_one_name_are_one(root):
    table = [{"id": 2, "name": "dog"}, {"id": 1, "name": "dog"}]
    sample = _coco(root, categories=table)[0]
    assert (sample.items, sample.labels.tolist()) == (("dog",), [0, 0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"annotations": [{"id": 1, "image_id": 6, "category_id": 1, "segmentation": LEFT}]}, "picture 6, which"),
        ({"annotations": [{"id": 1, "image_id": 5, "category_id": 9, "segmentation": LEFT}]}, "none of the categories"),
        ({"images": [{"id": 5, "file_name": "../a.png", "width": 10, "height": 8}]}, "not inside"),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 10, "height": 10**8}]}, "make it smaller"),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 10, "height": 8}] * 2}, "twice"),
        ({"categories": "dog"}, "should be a list"),
    ],
)
def test_what_is_wrong_in_a_list_is_told_when_it_is_opened(root, changes, told):
    with pytest.raises(FramesError, match=rf"instances\.json.*{told}"):
        _coco(root, **changes)


def test_a_picture_of_another_size_is_told_when_it_is_read(root):
    images = [{"id": 5, "file_name": "a.png", "width": 9, "height": 8}]
    with pytest.raises(FramesError, match=r"annotations\[2\]\.segmentation.*for \(8, 10\) but the picture is \(8, 9\)"):
        _coco(root, images=images)[0]
    outline = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": LEFT}
    with pytest.raises(FramesError, match=r"a\.png is 10 x 8 pixels but its annotations are for 9 x 8"):
        _coco(root, images=images, annotations=[outline])[0]


def _panoptic(root: Path, numbers: np.ndarray, **changes: object) -> DatasetSpec:
    write_segments(root / "maps" / "a.png", numbers)
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 10, "height": 8}],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1},
            {"id": 7, "name": "wall-other-merged", "isthing": 0},
        ],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": [
            {"id": 70000, "category_id": 1, "iscrowd": 0},
            {"id": 300, "category_id": 7, "iscrowd": 0},
            {"id": 301, "category_id": 7, "iscrowd": 0},
            {"id": 5, "category_id": 1, "iscrowd": 1},
        ]}],
    }  # fmt: skip
    path = write_json(root / "p.json", content)
    return DatasetSpec("p", "coco-panoptic", "genseg", path, root, root / "maps", **changes)


def _numbers() -> np.ndarray:
    numbers = np.zeros(SIZE, np.int64)
    numbers[:, :3], numbers[:, 3:5], numbers[:, 5:7], numbers[:, 7:8] = 70000, 300, 301, 5
    return numbers


def test_panoptic_maps_unite_regions_and_ignore_what_is_unlabelled(root):
    sample = open_dataset(_panoptic(root, _numbers()))[0]
    assert (sample.items, sample.things) == (("person", "wall-other"), (True, False))
    assert sample.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(sample.masks[0], [_columns(0, 3), _columns(3, 7)])
    np.testing.assert_array_equal(sample.ignore[0], _columns(7, 10))


def test_panoptic_maps_by_instance_and_by_category(root):
    things = open_dataset(_panoptic(root, _numbers(), mode="instance"))[0]
    assert things.items == ("person",)
    np.testing.assert_array_equal(things.ignore[0], _columns(7, 8))
    semantic = open_dataset(_panoptic(root, _numbers(), mode="semantic"))[0]
    np.testing.assert_array_equal(semantic.masks[0], [_columns(0, 3) | _columns(7, 8), _columns(3, 7)])
    np.testing.assert_array_equal(semantic.ignore[0], _columns(8, 10))


def test_segments_that_the_list_does_not_name_are_told(root):
    numbers = _numbers()
    numbers[0, 9] = 77
    with pytest.raises(FramesError, match=r"a\.png has the ids \[77\]"):
        open_dataset(_panoptic(root, numbers))[0]


def test_values_that_are_no_category_are_told(root):
    write_picture(root / "images" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    write_labels(root / "maps" / "a.png", np.full(SIZE, 9))
    path = write_json(root / "c.json", {"categories": [{"id": 1, "name": "sky"}]})
    spec = DatasetSpec("s", "semantic", "genseg", path, root / "images", root / "maps")
    with pytest.raises(FramesError, match=r"values \[9\] are no category"):
        open_dataset(spec)[0]
    write_labels(root / "maps" / "a.png", np.ones(SIZE))
    sample = open_dataset(spec)[0]
    assert (sample.items, sample.things, sample.masks.all()) == (("sky",), (False,), True)


def _refs(root: Path, refs: list) -> DatasetSpec:
    source = write_json(root / "instances.json", _instances())
    return DatasetSpec("r", "refer", "refseg", write_json(root / "refs.json", refs), root, source=source)


def _ref(ann: object, **more: object) -> dict:
    return {"ref_id": 1, "ann_id": ann, "image_id": 5, "split": "val", "sentences": [{"sent": "that"}], **more}


@pytest.mark.parametrize(
    ("ann", "expected"),
    [
        (11, _columns(0, 4)), ([11, 12], _columns(0, 4) | _columns(6, 10)),
        ([-1], _columns(0, 0)), ([], _columns(0, 0)), (None, _columns(0, 0)), (-1, _columns(0, 0)),
    ],
)  # fmt: skip
def test_expressions_mean_one_several_or_no_object(root, ann, expected):
    sample = open_dataset(_refs(root, [_ref(ann)]))[0]
    assert (sample.items, sample.labels.tolist()) == (("that",), [0])
    np.testing.assert_array_equal(sample.masks[0, 0], expected)


def test_expressions_for_what_is_not_there_are_told(root):
    for ref, told in ((_ref(99), "annotation 99"), (_ref(11, image_id=6), "does not list")):
        with pytest.raises(FramesError, match=told):
            open_dataset(_refs(root, [ref]))
    with pytest.raises(FramesError, match="no entry of the split 'testB'"):
        open_dataset(DatasetSpec(**{**_refs(root, [_ref(11)]).__dict__, "split": "testB"}))


def test_pickles_are_not_read(root):
    path = root / "refs(unc).p"
    path.write_bytes(b"\x80\x04.")
    source = write_json(root / "instances.json", _instances())
    with pytest.raises(FramesError, match="which can run anything when it is read; store its list as JSON"):
        open_dataset(DatasetSpec("r", "refer", "refseg", path, root, source=source))


def _box(x0: int, y0: int, x1: int, y1: int, label: str) -> dict:
    return {"label": label, "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}


def test_smaller_shapes_lie_on_larger_ones(root):
    shapes = [_box(4, 0, 5, 7, "ignore"), _box(0, 0, 7, 7, "target"), _box(0, 0, 9, 7, "flag")]
    write_json(root / "a.json", {"text": ["one?", "two?"], "is_sentence": True, "shapes": shapes})
    dataset = open_dataset(DatasetSpec("q", "reason", "reaseg", root))
    assert [dataset[k].items for k in range(2)] == [("one?",), ("two?",)]
    np.testing.assert_array_equal(dataset[0].masks[0, 0], _columns(0, 4) | _columns(6, 8))
    np.testing.assert_array_equal(dataset[0].ignore[0], _columns(4, 6))


def test_questions_in_the_encoding_of_windows(root):
    text = '{"text": "the person\x92s hat", "shapes": []}'
    (root / "a.json").write_bytes(text.encode("latin-1"))
    assert open_dataset(DatasetSpec("q", "reason", "reaseg", root))[0].items == ("the person’s hat",)


def _captions(root: Path, content: object) -> object:
    return open_dataset(DatasetSpec("g", "grounded", "gcgseg", write_json(root / "g.json", content), root))[0]


def test_phrases_come_in_the_order_of_the_caption(root):
    rle = MIDDLE
    sample = _captions(root, [{
        "file_name": "a.png", "caption": '"A man rides a brown horse."', "groundings": {
            "a brown horse": {"token_positives": [12, 25], "rle_masks": [rle]},
            "A man": {"token_positives": [0, 5], "rle_masks": [{"size": [8, 10], "counts": [0, 32, 48]}, rle]},
            "horse": {"token_positives": [20, 25], "rle_masks": [rle]},
            "rides": {"token_positives": [6, 11], "rle_masks": []},
        },
    }])  # fmt: skip
    assert sample.caption == "A man rides a brown horse."
    assert sample.items == ("A man", "a brown horse")
    assert sample.spans == ((0, 5), (12, 25))
    np.testing.assert_array_equal(sample.masks[0], [_columns(0, 6), _columns(4, 6)])


def test_captions_of_the_other_layouts(root):
    refs = [{"sentence": "Brown Horse", "segmentation": RIGHT}, {"sentence": "a cow", "segmentation": LEFT}]
    sample = _captions(root, [{"img_file_name": "a.png", "caption": "A brown horse.", "refs": refs}])
    assert sample.items == ("brown horse",)
    np.testing.assert_array_equal(sample.masks[0, 0], _columns(6, 10))
    sample = _captions(root, {
        "images": [{"id": 1, "file_name": "a.png", "caption": "Two dogs run."}],
        "annotations": [
            {"image_id": 1, "tokens_positive": [[0, 8]], "sam_mask": MIDDLE},
            {"image_id": 1, "tokens_positive": [[0, 8]], "sam_mask": {"size": [8, 10], "counts": [0, 8, 72]}},
        ],
    })  # fmt: skip
    assert sample.items == ("Two dogs",)
    np.testing.assert_array_equal(sample.masks[0, 0], _columns(4, 6) | _columns(0, 1))


def test_a_place_outside_of_the_caption_is_told(root):
    with pytest.raises(FramesError, match=r"token_positives should be a place in a caption of 5 letters"):
        _captions(root, [{"file_name": "a.png", "caption": "A man", "groundings": {
            "x": {"token_positives": [0, 6], "rle_masks": [MIDDLE]}}}])  # fmt: skip


def _talk(*lines: tuple[str, str], **media: str) -> dict:
    turns = [{"from": who, "value": words} for who, words in lines]
    return {"id": 3, "conversations": turns, **(media or {"image": "a.png"})}


def test_conversations_lose_their_marks_and_unanswered_questions(root):
    talk = _talk(("system", "Be kind."), ("human", "Look: <image>\nwhat?"), ("gpt", "A wall."), ("human", "Why?"))
    about_nothing = {"id": 4, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi"}]}
    path = write_json(root / "c.json", [about_nothing, talk])
    dataset = open_dataset(DatasetSpec("c", "chat", "chat", path, root))
    assert len(dataset) == 1
    assert [(t.question, t.answer) for t in dataset[0].turns] == [("Look:\nwhat?", "A wall.")]
    assert dataset[0].masks.shape == (1, 0, *SIZE)


@pytest.mark.parametrize("lines", [["gpt"], ["human", "human"], ["human"], ["cat"]])
def test_conversations_go_in_turns(root, lines):
    path = write_json(root / "c.json", [_talk(*((who, "words") for who in lines))])
    with pytest.raises(FramesError, match=r"c\.json: \[0\]\.conversations"):
        open_dataset(DatasetSpec("c", "chat", "chat", path, root))
