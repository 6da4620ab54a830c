"""What is asked: chunks, questions and regions."""

import numpy as np
import pytest
from stand_ins import sample

from x2sam.data.tasks import find_task
from x2sam.errors import PromptError
from x2sam.evaluation.protocol import Protocol, ignored, name_of, plan, views_of


def chunks(given, **protocol):
    return [chunk.frames for chunk in plan(given, Protocol(**protocol))]


def clip(length, task="refseg", **facts):
    return sample(task, ["a."] * length, [0], ("it",), video=True, **facts)


def test_chunks_of_eight_without_a_last_single_frame():
    assert chunks(clip(17)) == [tuple(range(8)), tuple(range(8, 16))]
    assert chunks(clip(18))[-1] == (16, 17)
    assert chunks(clip(5), chunk=2) == [(0, 1), (2, 3)]
    assert chunks(clip(1)) == [(0,)]


def test_frames_without_truth_are_left_out_beforehand():
    annotated = np.array([True, False] * 5)
    assert chunks(clip(10, annotated=annotated), chunk=3) == [(0, 2, 4), (6, 8)]


def test_reasoning_about_clips_interleaves_and_captions_spread():
    # 17 frames: step 17 // 8 = 2.
    assert chunks(clip(17, "reaseg")) == [tuple(range(0, 17, 2)), tuple(range(1, 17, 2))]
    spread = chunks(clip(33, "gcgseg"))
    assert spread == [tuple(int(k) for k in np.linspace(0, 32, 16).astype(int))]
    assert chunks(clip(3, "gcgseg")) == [(0, 1, 2)]
    assert chunks(clip(4), sampling="interleaved", chunk=2) == [(0, 2), (1, 3)]


def questions(given, **protocol):
    return [q for chunk in plan(given, Protocol(**protocol)) for q in chunk.questions]


def test_all_categories_in_one_question():
    (asked,) = questions(sample("genseg", ["aab."], [1, 0], ("sky", "cat", "dog"), (False, True, True)))
    assert asked.items == ("sky", "cat", "dog") and asked.things == (False, True, True)
    assert asked.labels == (0, 1, 2) and asked.targets == (0, 1) and asked.regions is None
    assert views_of(asked.things) == ("panoptic", "semantic", "instances")
    assert views_of((True, True)) == ("instances",) and views_of((False,)) == ("semantic",)


def test_one_expression_each():
    first, second = questions(sample("refseg", ["aab."], [0, 1], ("the cat", "the dog")))
    assert (first.items, first.targets) == (("the cat",), (0,))
    assert (second.items, second.targets) == (("the dog",), (1,))
    assert second.truth(sample("refseg", ["aab."], [0, 1]), 0).tolist() == [[False, False, True, False]]


def test_an_expression_that_means_nothing_is_asked_too():
    (asked,) = questions(sample("refseg", ["...."], [0], ("the cat",)))
    assert not asked.truth(sample("refseg", ["...."], [0]), 0).any()


def test_interactive_objects_one_by_one():
    given = sample("intseg", ["aaa.bb"], [0, 1], ("cat", "dog"))
    first, second = questions(given, prompt="box")
    assert first.regions.tolist() == [[[True, True, True, False, False, False]]] and first.targets == (0,)
    assert second.regions.tolist() == [[[False, False, False, False, True, True]]] and second.labels == (1,)
    (mask,) = questions(sample("intseg", ["a.a"], [0], ("cat",)), prompt="mask")
    assert mask.regions[0].tolist() == [[True, False, True]]


def test_regions_of_the_annotation_come_first():
    regions = np.array([[[False, True, False]]])
    (asked,) = questions(sample("intseg", ["aaa"], [0], ("cat",), regions=regions), prompt="box")
    assert asked.regions.tolist() == regions.tolist()


def test_followed_objects_are_prompted_again_in_each_chunk_and_where_they_appear():
    given = sample("objseg", ["a.", "a.", "ab", ".b", "ab"], [0, 1], ("cat", "dog"))
    asked = questions(given, chunk=2)
    # Chunks (0, 1) and (2, 3); the single last frame is dropped. The dog appears on frame 2.
    assert [(q.items, q.frames, q.chunk) for q in asked] == [
        (("cat",), (0, 1), 0),
        (("cat",), (2, 3), 1),
        (("dog",), (2, 3), 1),
    ]
    assert asked[2].regions.tolist() == [[[False, True]]]
    late = questions(sample("objseg", ["..", "..", "a."], [0], ("cat",)), chunk=3)
    assert [q.frames for q in late] == [(2,)]


def test_all_like_this_has_one_region_for_each_category_in_sight():
    given = sample("vgdseg", ["aabb.", "aac.."], [0, 0, 1], ("cat", "dog"))
    first = next(plan(given, Protocol(prompt="mask"))).questions[0]
    # The dog is not in sight on the first frame: it can't be shown and is not scored.
    assert first.items == ("cat",) and first.targets == (0, 1)
    assert first.regions.tolist() in ([[[True, True, False, False, False]]], [[[False, False, True, True, False]]])
    again = next(plan(given, Protocol(prompt="mask"))).questions[0]
    assert np.array_equal(first.regions, again.regions)


def test_brought_regions_of_all_like_this():
    regions = np.array([[[True, False, False]], [[False, False, False]]])
    given = sample("vgdseg", ["ab."], [0, 1], ("cat", "dog"), regions=regions)
    (asked,) = questions(given, prompt="mask")
    assert asked.items == ("cat", "dog")
    # The second region is empty, so it is drawn.
    assert asked.regions[:, 0].tolist() == [[True, False, False], [False, True, False]]


def test_nothing_to_ask_and_words_only():
    assert chunks(sample("objseg", ["..", ".."], [0], ("cat",))) == []
    assert chunks(sample("vgdseg", [".."], [0], ("cat",))) == []
    with pytest.raises(PromptError, match="mcq"):
        chunks(sample("chat", [".."], []))


def test_names_and_ignored_pixels():
    given = sample("vgdseg", ["a."], [0], ("cat",), ignore=np.array([[[False, True]]]))
    assert name_of(given, 0) == "cat" and name_of(given, 3) == "region 3"
    assert ignored(given, 0).tolist() == [[False, True]]
    assert ignored(sample("vgdseg", ["a."], [0]), 0) is None


@pytest.mark.parametrize("wrong", [{"chunk": 0}, {"prompt": "lasso"}, {"sampling": "random"}])
def test_wrong_settings(wrong):
    with pytest.raises(PromptError, match="use"):
        Protocol(**wrong)


def test_what_was_in_force_is_told():
    assert Protocol().described(find_task("reaseg", "video")) == {
        "threshold": 0.0, "several": False, "sampling": "interleaved", "chunk": 8,
    }  # fmt: skip
    given = Protocol(sampling="chunks", threshold=0.3, several=True)
    assert given.described(find_task("refseg", "video"))["sampling"] == "chunks"
    assert given.described(find_task("refseg", "image")) == {"threshold": 0.3, "several": True}
    assert given.described(find_task("objseg", "video"))["prompt"] == "mask"
    assert Protocol(prompt="box").described(find_task("vgdseg", "image"))["prompt"] == "box"
