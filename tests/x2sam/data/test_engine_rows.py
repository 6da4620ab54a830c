"""Samples of every task to questions, answers and targets; counts are worked out by hand."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from x2sam.data.engine import DataEngine, neighbours
from x2sam.data.engine_rows import ABSENT, NothingToAskError, RowBuilder, RowConfig
from x2sam.data.prompts import KINDS
from x2sam.data.task_sample import TaskSample, Turn
from x2sam.errors import FramesError, PromptError, TrainingError

SIDE = 48


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(task: str, times: int = 1, count: int = 3, **changes) -> TaskSample:
    """``count`` squares of 10 x 10 pixels side by side, each its own label; frames are told apart by their colour."""
    masks = np.zeros((times, count, SIDE, SIDE), bool)
    for n in range(count):
        row, column = divmod(n, 4)
        masks[:, n, 12 * row : 12 * row + 10, 12 * column : 12 * column + 10] = True
    frames = np.broadcast_to(np.arange(times, dtype=np.uint8)[:, None, None, None], (times, SIDE, SIDE, 3)).copy()
    names = tuple(f"thing {n}" for n in range(count))
    fields = dict(items=names, labels=np.arange(count), video=times > 1, key="file.json:7")
    return TaskSample(task, frames, masks, **{**fields, **changes})


def phrases(row) -> list[str]:
    return re.findall(r"<p>(.*?)</p>", row.turns[0].input + row.turns[0].output)


def test_generic_segmentation_has_random_absent_names_in_random_order():
    """Two of six names are there: between 0 and 4 others are added, each number as likely, and all are shuffled."""
    two = sample("genseg", count=2, items=tuple(f"name {n}" for n in range(6)))
    builder, numbers, first = RowBuilder(), Counter(), Counter()
    for seed in range(300):
        row = builder.build(two, rng(seed))
        names = phrases(row)
        assert {"name 0", "name 1"} <= set(names) and len(set(names)) == len(names)
        # the label of each mask is where its name stands in the question
        assert row.labels[0].tolist() == [names.index("name 0"), names.index("name 1")]
        numbers[len(names)] += 1
        first[names[0]] += 1
    assert set(numbers) == {2, 3, 4, 5, 6} and min(numbers.values()) > 35  # 60 each, deviation 7
    assert len(first) == 6


def test_generic_segmentation_takes_128_names_at_most():
    """130 objects of 130 categories: 128 are asked for, two masks are not mentioned at all."""
    labels = np.arange(130)
    many = sample("genseg", count=2, items=tuple(f"n{k}" for k in range(400)))
    many = replace(many, masks=np.repeat(many.masks[:, :1], 130, 1), labels=labels)
    row = RowBuilder().build(many, rng())
    assert len(phrases(row)) == 128 and row.masks.shape[1] == 128
    assert sorted(row.labels[0].tolist()) == list(range(128))
    # nothing is there: one name at least
    bare = replace(many, masks=many.masks[:, :0], labels=labels[:0])
    assert {len(phrases(RowBuilder(RowConfig(categories=2)).build(bare, rng(k)))) for k in range(20)} == {1, 2}


def test_referring_asks_for_the_phrase_in_small_letters_and_reasoning_may_explain():
    row = RowBuilder().build(sample("refseg", count=1, items=("The RED dog",)), rng())
    assert phrases(row) == ["the red dog"] and row.labels.tolist() == [[0]]
    assert row.turns[0].output.count("<SEG>") == 1 and row.turns[0].output.endswith("<|im_end|>")
    explained = sample("reaseg", count=1, items=("What barks?",), caption="Dogs bark.")
    outputs = [RowBuilder().build(explained, rng(k)).turns[0].output for k in range(60)]
    said = [text.startswith("Dogs bark. ") for text in outputs]
    assert 15 < sum(said) < 45  # half of the time


def test_grounded_captions_are_numbered_as_they_are_read():
    """'a dog near two trees': the items are stored the other way round, and a third one overlaps the second."""
    caption = "a dog near two trees"
    spans = ((11, 20), (0, 5), (15, 20))  # two trees; a dog; trees
    row = RowBuilder().build(sample("gcgseg", caption=caption, spans=spans), rng())
    assert phrases(row) == ["a dog", "two trees"]
    # masks of item 1 (first phrase) and item 0 (second phrase); that of item 2 is left out
    assert row.masks.shape[1] == 2 and row.labels[0].tolist() == [1, 0]
    words = "".join(f"w{k} " for k in range(12))
    many = sample("gcgseg", count=12, caption=words, spans=tuple(m.span() for m in re.finditer(r"w\d+", words)))
    assert len(phrases(RowBuilder().build(many, rng()))) == 8
    with pytest.raises(PromptError, match=r"file\.json:7: a grounded caption needs"):
        RowBuilder().build(sample("gcgseg", caption=None), rng())


def test_examples_stand_for_their_category_and_their_kind_is_random():
    """Category 0 has two objects, category 1 one: two regions, both objects answer to the first."""
    three = sample("vgdseg", labels=np.array([0, 0, 1]), items=("a", "b"))
    row = RowBuilder().build(three, rng())
    assert row.turns[0].input.count("<region>") == 2 and row.regions.shape == (2, SIDE, SIDE)
    assert row.labels[0].tolist() == [0, 0, 1] and row.regions.any((1, 2)).all()
    # the example of category 0 is drawn on either object
    sides = {bool((RowBuilder().build(three, rng(k)).regions[0] & three.masks[0, 0]).any()) for k in range(20)}
    assert sides == {True, False}
    # a point covers little, a box the whole square: with one kind only the areas differ as they should
    one = sample("intseg", count=1)
    areas = {kind: RowBuilder(RowConfig(kinds=(kind,))).build(one, rng()).regions.sum() for kind in KINDS}
    assert areas["point"] < 40 <= 64 <= areas["box"] and areas["mask"] > 40
    with pytest.raises(PromptError, match="circle"):
        RowConfig(kinds=("circle",))


def test_at_most_eight_regions_and_one_for_a_single_object():
    """Twelve objects: eight are prompted as examples, one as the object of interactive segmentation."""
    row = RowBuilder().build(sample("vgdseg", count=12), rng())
    assert row.regions.shape[0] == 8 and row.masks.shape[1] == 8 and sorted(row.labels[0]) == list(range(8))
    chosen = set()
    for seed in range(40):
        row = RowBuilder().build(sample("intseg"), rng(seed))
        assert row.regions.shape[0] == row.masks.shape[1] == 1 and row.labels.tolist() == [[0]]
        assert (row.regions[0] & row.masks[0, 0]).any()
        chosen.add(int(np.flatnonzero(row.masks[0, 0].any(0))[0]))
    assert len(chosen) == 3
    given = np.zeros((3, SIDE, SIDE), bool)
    given[1, :4, :4] = True  # only the second object has a prompt
    row = RowBuilder().build(sample("vgdseg", regions=given), rng())
    assert np.array_equal(row.regions, given[1:2]) and row.masks.shape[1] == 1


def test_an_object_that_comes_later_is_prompted_where_it_is_seen():
    """Six frames; the object is there from the third on, so frame 2 of the clip is prompted and 0, 1 lack it."""
    late = sample("objseg", times=6, count=1)
    late.masks[:2] = False
    row = RowBuilder().build(late, rng())
    assert row.region_frame == 2 and row.labels[:, 0].tolist() == [ABSENT, ABSENT, 0, 0, 0, 0]
    with pytest.raises(NothingToAskError):
        RowBuilder().build(replace(late, masks=np.zeros_like(late.masks)), rng())


def test_frames_of_clips():
    """Twenty frames, each fifth annotated but the first: the mask branch sees 5, 10, 15; captions are told of 16."""
    annotated = np.zeros(20, bool)
    annotated[5::5] = True
    clip = sample("refseg", times=20, count=1, annotated=annotated)
    row = RowBuilder().build(clip, rng())
    assert row.frames[:, 0, 0, 0].tolist() == row.seen[:, 0, 0, 0].tolist() == [5, 10, 15]
    # all annotated: eight, spread as linspace(0, 19, 8) cut down: 0 2.7 5.4 8.1 10.9 13.6 16.3 19
    row = RowBuilder().build(sample("refseg", times=20, count=1), rng())
    assert row.frames[:, 0, 0, 0].tolist() == [0, 2, 5, 8, 10, 13, 16, 19]
    caption = sample("gcgseg", times=20, count=1, caption="a dog", spans=((0, 5),))
    row = RowBuilder().build(caption, rng())
    assert len(row.frames) == 8 and len(row.seen) == 16
    # prompted clips of eight frames: the language model sees 0, 2, 5, 7 as published, or all
    eight = sample("objseg", times=8, count=1)
    assert RowBuilder().build(eight, rng()).seen[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
    assert len(RowBuilder(RowConfig(thin=False)).build(eight, rng()).seen) == 8


def test_a_chat_has_all_its_turns_and_shows_the_picture_once():
    turns = (Turn("What is it?", "A <SEG> dog."), Turn("Sure?", "Yes."))
    row = RowBuilder().build(sample("chat", count=0, turns=turns, items=()), rng())
    first, second = row.turns
    assert first.input.count("<image>") == 1 and second.input.count("<image>") == 0
    assert first.output == "A   dog.<|im_end|>" and second.output == "Yes.<|im_end|>"
    assert len(row.frames) == 0 and len(row.seen) == 1


def test_without_words_every_mask_is_an_object():
    """150 outlines of which a hundred are kept; nothing is asked."""
    many = sample("genseg")
    many = replace(many, masks=np.repeat(many.masks[:, :1], 150, 1), labels=np.arange(150) % 3)
    row = RowBuilder().without_words(many, rng())
    assert row.masks.shape[1] == 100 and set(row.labels.ravel()) == {0} and row.turns == ()


def test_samples_that_contradict_themselves_are_refused():
    with pytest.raises(FramesError, match=r"file\.json:7: a mask has a label that none of the 2 items has"):
        RowBuilder().build(sample("genseg", items=("a", "b")), rng())
    with pytest.raises(FramesError, match=r"file\.json:7: .*do not fit"):
        RowBuilder().build(sample("genseg", labels=np.zeros(5, np.int64)), rng())
    with pytest.raises(FramesError, match="no frame is annotated"):
        RowBuilder().build(sample("refseg", annotated=np.zeros(1, bool)), rng())


class Listed:
    """A dataset of eight pictures of which some can't be read and some show nothing."""

    name, task, modality = "listed", "intseg", "image"

    def __init__(self, broken=(), bare=(), count=8):
        self.lengths, self.broken, self.bare = np.ones(count, np.int64), broken, bare

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TaskSample:
        if index in self.broken:
            raise FramesError(f"picture {index} is torn")
        return sample("intseg", count=0 if index in self.bare else 1, key=str(index))


def test_broken_samples_are_replaced_by_their_neighbours_and_named():
    engine = DataEngine([Listed(broken=(2, 3), bare=(5,))], RowBuilder().build)
    keys, broken, empty = [], [], 0
    for number in range(engine.schedule.steps_per_pass):
        for found in engine.step(number):
            keys += [row.key for row in found.rows]
            broken += found.broken
            empty += found.empty
    # 8 samples in 2 steps. 2 is replaced by 3, which is broken too, so by 4; 3 by 4; 5 by 6
    assert Counter(keys) == {"0": 1, "1": 1, "4": 3, "6": 2, "7": 1}
    assert Counter(broken) == {
        "listed number 2: picture 2 is torn": 1, "listed number 3: picture 3 is torn": 2,
    } and empty == 1  # fmt: skip
    with pytest.raises(TrainingError, match=r"listed: 8 samples one after the other can't be used.*torn"):
        DataEngine([Listed(broken=range(8))], RowBuilder().build).step(0)


def test_neighbours_have_the_same_length():
    assert neighbours(np.array([3, 8, 3, 8, 3]), 2) == [2, 4, 0]


def test_a_step_is_the_same_whenever_it_is_asked_for():
    first, second = (DataEngine([Listed()], RowBuilder().build, seed=4) for _ in range(2))
    first.step(0)
    one, two = first.step(1)[0].rows, second.step(1)[0].rows
    assert [r.turns for r in one] == [r.turns for r in two]
    assert all(np.array_equal(a.regions, b.regions) for a, b in zip(one, two, strict=True))
