"""The loop and the meters: perfect answers on every format, and imperfect ones worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from stand_ins import Listed, Oracle, row, sample, view

from tests.x2sam.data.format_fixtures import build_all
from x2sam.data.readers import open_dataset
from x2sam.data.tasks import TASKS
from x2sam.errors import FramesError
from x2sam.evaluation.contract import FrameAnswer
from x2sam.evaluation.loop import evaluate_task
from x2sam.evaluation.meters import METERS, MeterOptions
from x2sam.evaluation.protocol import Protocol
from x2sam.evaluation.worst import WorstCases


class Answers(Oracle):
    """Answers by a function of (sample, question, frame)."""

    def __init__(self, rule):
        super().__init__()
        self.answer = rule


def run(given, rule=None, **settings):
    samples = given if isinstance(given, tuple) else (given,)
    model = Oracle() if rule is None else Answers(rule)
    return evaluate_task(model, Listed(*samples), **settings).metrics()


def test_every_task_with_masks_has_meters():
    assert set(METERS) == {(t.name, t.modality) for t in TASKS if t.segments}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return build_all(tmp_path_factory.mktemp("formats"))


PERFECT = {
    "coco": {"instances": ("ap", "ap50")},
    "panoptic": {"panoptic": ("pq", "sq", "rq"), "semantic": ("miou",), "instances": ("ap",)},
    "semantic": {"semantic": ("miou", "pixel_accuracy")},
    "refer": {"overlap": ("ciou", "giou")},
    "reason": {"overlap": ("ciou", "giou")},
    "grounded": {"grounded": ("miou", "ap50", "recall")},
    "grounded-video": {"grounded": ("miou", "ap50", "recall")},
    "ytvis": {"instances": ("ap",)},
    "panoptic-video": {"panoptic": ("vpq", "stq", "aq", "sq"), "semantic": ("miou",), "instances": ("ap",)},
    "semantic-video": {"semantic": ("miou",)},
    "vos": {"contour": ("J", "F", "JF")},
    "refer-video": {"contour": ("J", "F", "JF")},
    "reason-video": {"contour": ("J", "F", "JF")},
    "labelmaps": {"panoptic": ("pq",), "semantic": ("miou",), "instances": ("ap",)},
    "clips": {"contour": ("J", "F", "JF")},
    "expressions": {"overlap": ("ciou", "giou")},
}


@pytest.mark.parametrize("name", PERFECT)
def test_the_truth_is_perfect_in_every_format(specs, name):
    metrics = evaluate_task(Oracle(), open_dataset(specs[name]), limit=2).metrics()
    assert set(metrics) == set(PERFECT[name])
    for meter, keys in PERFECT[name].items():
        assert [metrics[meter][k] for k in keys] == pytest.approx([1.0] * len(keys)), (meter, metrics[meter])


@pytest.mark.parametrize(
    ("name", "task"), [("coco", "vgdseg"), ("coco", "intseg"), ("ytvis", "vgdseg"), ("ytvis", "objseg")]
)
def test_region_tasks_of_category_formats(specs, name, task):
    model = Oracle()
    metrics = evaluate_task(model, open_dataset(replace(specs[name], task=task)), limit=1).metrics()
    (figures,) = metrics.values()
    assert next(v for v in (figures.get(k) for k in ("ap", "giou", "J")) if v is not None) == pytest.approx(1.0)
    assert all(q.regions is not None for q in model.asked)


def test_overlap_by_hand():
    def left_half(given, question, frame):
        return FrameAnswer(frame, {"masks": view([row("xx..")])})

    def nothing(given, question, frame):
        return FrameAnswer(frame, {"masks": view([], size=(1, 4))})

    pictures = sample("refseg", ["aaa."], [0], ("a",), key="1"), sample("refseg", ["a..."], [0], ("b",), key="2")
    # 2 of 3 and 1 of 2.
    out = run(pictures, left_half)["overlap"]
    assert out == {"n": 2, "ciou": pytest.approx(3 / 5), "giou": pytest.approx((2 / 3 + 1 / 2) / 2),
                   "giou_ci": [pytest.approx(1 / 2), pytest.approx(2 / 3)]}  # fmt: skip
    empty = sample("refseg", ["...."], [0], ("none",))
    assert run(empty, nothing)["overlap"]["giou"] == 1.0
    assert run(empty, left_half)["overlap"]["giou"] == 0.0
    # Ignored pixels count neither way: 2 of 2.
    masked = sample("reaseg", ["aaa."], [0], ("a?",), ignore=np.array([row("..x.")]))
    assert run(masked, left_half)["overlap"]["ciou"] == 1.0


def test_contours_by_hand_and_seen_apart():
    def still(given, question, frame):
        return FrameAnswer(frame, {"masks": view([given.masks[question.frames[0], question.targets[0]]])})

    given = sample("objseg", ["aab.", "aabb", ".abb"], [0, 1], ("Cat", "dog"))
    options = MeterOptions(seen=("cat",))
    out = run(given, still, options=options, protocol=Protocol(chunk=3))["contour"]
    # The cat counts on frames 1 and 2 (the first is where it was shown): J 2/2 and 1/2. The dog: 1/2 and 1/2.
    assert out["seen"]["J"] == pytest.approx(3 / 4) and out["unseen"]["J"] == pytest.approx(1 / 2)
    assert out["J"] == pytest.approx((3 / 4 + 1 / 2) / 2) and out["n"] == 2
    four = [out[part][k] for part in ("seen", "unseen") for k in ("J", "F")]
    assert out["overall"] == pytest.approx(np.mean(four))
    assert "seen" not in run(given, still)["contour"]
    assert run(given, still, options=MeterOptions(seen=("Cat", "dog")))["contour"]["overall"] is None


def test_expressions_count_on_every_frame():
    def left(given, question, frame):
        return FrameAnswer(frame, {"masks": view([row("x...")])})

    given = sample("refseg", ["a...", "aa.."], [0], ("it",))
    assert run(given, left)["contour"]["J"] == pytest.approx((1 + 1 / 2) / 2)


def test_ids_of_chunks_are_told_apart():
    # Two chunks of two frames; every frame is right, ids are 1 in both chunks. The true tube has 8 pixels, each chunk's
    # 4: AQ = 1/8 x 2 x 4 x 4 / 8 = 1/2. Windows of 1: 1. Of 2: three windows, of which the middle one has a tube of
    # 4 pixels in halves: 2 of 3 windows are right, 1 missed, 2 extra: 2 / (2 + 1/2 + 1).
    def one(given, question, frame):
        masks = view([given.masks[frame, 0], given.masks[frame, 1]], [0, 1], ids=[1, 2])
        every = {"panoptic": masks, "semantic": masks, "instances": view([given.masks[frame, 0]])}
        return FrameAnswer(frame, every)

    given = sample("genseg", ["aab."] * 4, [0, 1], ("cat", "sky"), (True, False))
    out = run(given, one, protocol=Protocol(chunk=2))["panoptic"]
    assert out["aq"] == pytest.approx(1 / 2) and out["sq"] == 1.0
    # Stuff is one segment through all chunks: it is always right.
    assert out["k"]["1"] == 1.0 and out["k"]["2"] == pytest.approx((2 / 3.5 + 1) / 2)


def test_a_video_in_two_samples_is_one_clip():
    facts = dict(items=("cat", "sky"), things=(True, False), group="film")
    whole = sample("genseg", ["aab.", "aab.", "ab..", "ab.."], [0, 1], **facts)
    parts = tuple(
        sample("genseg", ["aab.", "aab."] if k == 0 else ["ab..", "ab.."], [0, 1], frame_numbers=(k, k + 1),
               key=f"film {k}", **facts)
        for k in (0, 2)
    )  # fmt: skip
    settings = dict(protocol=Protocol(chunk=2))
    assert run(parts, **settings)["panoptic"] == run(whole, **settings)["panoptic"]
    apart = tuple(replace(p, group=p.key) for p in parts)
    assert run(apart, **settings)["panoptic"]["k"]["6"] == 1.0


def test_instances_are_scored_by_frame_and_stuff_is_not():
    def half(given, question, frame):
        found = view([given.masks[frame, 0]] if frame == 0 else [], [0] if frame == 0 else [], size=(1, 4))
        return FrameAnswer(frame, {"panoptic": found, "semantic": found, "instances": found})

    given = sample("genseg", ["aab.", "aab."], [0, 1], ("cat", "sky"), (True, False))
    out = run(given, half)["instances"]
    # Two true cats, one for each frame, one found: precision 1 up to a recall of 1/2 (51 of 101 points).
    assert out["objects"] == 2 and out["ap50"] == pytest.approx(51 / 101)


def test_steady_maps():
    given = sample("genseg", ["aabb"] * 10, [0, 1], ("sky", "sea"), (False, False))
    out = run(given, protocol=Protocol(chunk=5))["semantic"]
    assert out["miou"] == 1.0 and out["mvc8"] == 1.0 and out["mvc8_right"] == 1.0 and out["mvc16"] is None


def test_captions_of_chunks_are_compared_by_themselves():
    model = Oracle()
    given = sample("gcgseg", ["a.b."] * 4, [0, 1], ("a cat", "a dog"), caption="a cat and a dog")
    scores = evaluate_task(model, Listed(given), Protocol(sampling="chunks", chunk=2))
    grounded = scores.metrics()["grounded"]
    assert grounded["captions"] == 2 and grounded["recall"] == 1.0 and grounded["pairs"] == 4


def test_limit_counts_and_progress():
    pictures = tuple(sample("refseg", ["ab.."], [0, 1], ("a", "b"), key=str(k)) for k in range(3))
    seen = []

    def progress(items, title):
        seen.append((len(items), title))
        return items

    scores = evaluate_task(Oracle(), Listed(*pictures), limit=2, progress=progress)
    assert (scores.samples, scores.frames) == (2, 4) and seen == [(2, "by hand")]
    assert scores.seconds > 0


def test_nothing_to_ask_about_is_an_error():
    with pytest.raises(FramesError, match="nothing to ask"):
        evaluate_task(Oracle(), Listed(sample("objseg", ["..", ".."], [0], ("cat",))))


def test_a_broken_sample_stops_the_run():
    class Broken(Listed):
        def __getitem__(self, index):
            raise FramesError("picture 3 is damaged; restore it")

    with pytest.raises(FramesError, match="damaged"):
        evaluate_task(Oracle(), Broken(sample("refseg", ["a"], [0], ("a",))))


def test_the_worst_are_kept(tmp_path):
    def growing(given, question, frame):
        return FrameAnswer(frame, {"masks": view([row("x" * int(given.key) + "." * (4 - int(given.key)))])})

    pictures = tuple(sample("refseg", ["aaaa"], [0], ("the thing",), key=str(k)) for k in (3, 1, 4, 2))
    worst = WorstCases(2)
    evaluate_task(Answers(growing), Listed(*pictures), worst=worst)
    index = worst.write(tmp_path)
    assert [(e["score"], e["key"]) for e in index] == [(0.25, "1_00000_the thing"), (0.5, "2_00000_the thing")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "001_0.250_1_00000_the-thing.png", "002_0.500_2_00000_the-thing.png", "index.json",
    ]  # fmt: skip
