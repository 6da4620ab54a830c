"""Clips and expressions with an engine that copies the mask it was given."""

import json

import numpy as np
import pytest

from x2sam.data.video import VideoReader
from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.correcting import follow, restart, uncorrected_iou
from x2sam.evaluation.dataset import read_clips
from x2sam.evaluation.referring import evaluate_referring
from x2sam.evaluation.video import appearances, evaluate_video, interactions, peak_rss_mb
from x2sam.structures import FrameMasks, Mask


def still(shift):
    """J of a square of 20 pixels against itself, moved: overlap 20 - s of 20 + s columns."""
    return (20 - shift) / (20 + shift)


def test_clips_without_ground_truth_are_left_out(data):
    clips = read_clips(data)
    assert [c.name for c in clips] == ["davis_square", "square"]
    assert clips[0].scored_frames == tuple(range(1, 9))
    assert clips[1].scored_frames == tuple(range(10))
    assert appearances(clips[1]) == {0: [1], 3: [2]}


def test_j_by_hand(engine, data):
    scores = evaluate_video(engine, data)
    # Object 1 stays where it was while the truth moves by 2 pixels a frame; object 2 does not move: J is 1.
    moving = np.mean([still(2 * k) for k in range(1, 10)])
    moving_davis = np.mean([still(2 * k) for k in range(1, 9)])
    assert scores.clips["square"]["J"] == pytest.approx((moving + 1) / 2)
    assert scores.clips["davis_square"]["J"] == pytest.approx((moving_davis + 1) / 2)
    summary = scores.summary()
    assert set(summary) == {"clips", "J", "F", "JF", "fps", "peak_rss_mb"}
    assert summary["J"] == pytest.approx(np.mean([c["J"] for c in scores.clips.values()]))
    for clip in scores.clips.values():
        assert clip["JF"] == pytest.approx((clip["J"] + clip["F"]) / 2)
    # Two clips; object 1 is followed over 10 frames, object 2 from frame 3 over 7.
    assert scores.frames == 2 * (10 + 7) and summary["fps"] > 0


def test_prompts_go_to_the_first_annotated_frame(engine, data):
    evaluate_video(engine, data, limit=1)
    assert [e for e in engine.log if e[0] == "correct"] == [("correct", "1", 0), ("correct", "2", 3)]
    tracks = [e for e in engine.log if e[0] == "track"]
    assert tracks == [("track", ("1",), 0, 10, "forward"), ("track", ("2",), 3, 10, "forward")]


def test_click_prompt(engine, data):
    evaluate_video(engine, data, prompt="click", limit=1)
    prompt, frame = next(e[1:] for e in engine.log if e[0] == "segment")
    assert frame == 0 and len(prompt.points) == 1 and prompt.object_id == "1" and not prompt.masks


def test_a_frame_without_answer_counts_as_empty(engine, data):
    class Lazy(engine.session_type):
        def track(self, object_ids, start, stop, direction):
            return iter(list(super().track(object_ids, start, stop, direction))[:1])

    engine.session_type = Lazy
    scores = evaluate_video(engine, data, limit=1)
    assert scores.clips["davis_square"] == {"J": 0.0, "F": 0.0, "JF": 0.0}


def test_corrections_go_to_the_worst_frame(engine, data):
    engine.session_type = Nearest
    plain = evaluate_video(engine, data).clips["square"]["J"]
    engine.log.clear()
    scores = evaluate_video(engine, data, corrections=2)
    # Object 1 drifts off: frame 9 is worst; then frame 8, which still has the mask of frame 0. Object 2 is right
    # everywhere, so that its first scored frame is the one that is given again.
    square = [e[1:] for e in engine.log if e[0] == "correct"][6:]
    assert square == [("1", 0), ("1", 9), ("1", 8), ("2", 3), ("2", 4), ("2", 4)]
    assert np.mean([still(2 * k) for k in range(1, 10)]) / 2 + 0.5 == pytest.approx(plain)
    assert scores.clips["square"]["J"] == pytest.approx((np.sum([still(2 * k) for k in range(1, 8)]) + 2) / 9 / 2 + 0.5)
    with pytest.raises(PromptError, match="0 or more"):
        evaluate_video(engine, data, corrections=-1)


class Nearest:
    """Answers with the mask of the last frame at or before this one that was corrected."""

    def __init__(self, frames, log):
        self.log, self.locked = log, {}

    def correct(self, frame, object_id, mask):
        self.log.append(("correct", object_id, frame))
        self.locked[object_id, frame] = mask

    def track(self, object_ids, start, stop, direction):
        for k in range(start, stop):
            nearest = {i: max(f for (name, f) in self.locked if name == i and f <= k) for i in object_ids}
            yield FrameMasks(k, [Mask(self.locked[i, f], 1.0, i) for i, f in nearest.items()])

    def close(self):
        self.log.append(("close",))


def test_what_corrections_and_restarts_are_worth(engine, data):
    engine.session_type = Nearest
    summary = evaluate_video(engine, data, corrections=2, restarts=True, reach=0.75).summary()
    assert [row["corrections"] for row in summary["corrections"]] == [0, 1, 2]
    assert [row["restarts"] for row in summary["restarts"]] == [1, 2]
    assert summary["corrections"][2]["JF"] == pytest.approx(summary["JF"])
    # Frames 9 and 8 of the moving square are set right, the others keep what they had; but who restarts at frame 8 no
    # longer knows of frame 9.
    for made in (1, 2):
        assert summary["corrections"][made]["JF"] > summary["corrections"][made - 1]["JF"]
        held = summary["corrections"][made]["uncorrected_iou"]
        assert held["before"] == pytest.approx(held["after"])
    assert summary["restarts"][0]["J"] == pytest.approx(summary["corrections"][1]["J"])
    assert summary["restarts"][1]["J"] < summary["corrections"][2]["J"]
    # Object 2 stays where it is: its prompt is enough. Object 1 never gets there, and counts with all it was given.
    assert summary["interactions"] == {"reach": 0.75, "mean": 2.0, "cap": 3, "objects": 4, "reached": 2}
    assert "corrections" not in evaluate_video(engine, data).summary()


def test_frames_after_a_correction_count_as_uncorrected(engine, data):
    """Where a correction helps the frames behind it, their mean rises; the corrected frame itself is left out."""

    class Early(Nearest):
        def track(self, object_ids, start, stop, direction):
            for found in super().track(object_ids, start, stop, direction):
                yield found if found.frame != 4 else FrameMasks(4, [])

    engine.session_type = Early
    clip = read_clips(data)[1]
    with VideoReader(clip.video) as video:
        passes = follow(engine, video, clip, 0, [1], "mask", 1)
        again = restart(engine, video, clip, [1], passes[0], 1)
    assert passes[1].corrected == [frozenset({4})]
    ((before, after),) = uncorrected_iou(*passes)
    others = [k for k in range(1, 10) if k != 4]
    assert before == pytest.approx(np.mean([still(2 * k) for k in others]))
    assert after == pytest.approx(np.mean([still(2 * (k if k < 4 else k - 4)) for k in others]))
    # A restart knows of frame 4 only; what came before keeps its old answers.
    assert again[0].scores[0].j[:3] == passes[0].scores[0].j[:3] and again[0].frames == 6
    assert interactions({"a": [0.5, 0.9], "b": [0.2, 0.3]}, 0.8)["mean"] == 2.0


def test_a_phrase_that_finds_nothing(engine, data):
    class Blind(engine.session_type):
        def segment(self, prompt, frame=0):
            return []

    engine.session_type = Blind
    summary = evaluate_referring(engine, data).summary()
    assert summary["images"]["miou"] == 0.0 and summary["videos"]["JF"] == 0.0


def test_referring(engine, data):
    summary = evaluate_referring(engine, data).summary()
    # The engine answers every phrase with the left half: 64 x 48 pixels, less nothing (ignored columns are right).
    # "the cup": 400 of 3072. "both": 400 + 8 * 24 inside; 1200 - 192 of the second object outside.
    cup, both = 400 / 3072, (400 + 192) / (3072 + 1200 - 192)
    assert summary["images"] == {
        "n": 2,
        "miou": pytest.approx((cup + both) / 2),
        "ciou": pytest.approx((400 + 592) / (3072 + 4080)),
        # Two pictures: of all draws with replacement a quarter has one of them twice.
        "miou_ci": [pytest.approx(cup), pytest.approx(both)],
    }
    assert summary["videos"]["n"] == 1 and 0 < summary["videos"]["JF"] < 0.5


def test_limits_and_nothing_to_score(engine, data):
    summary = evaluate_referring(engine, data, limit=1).summary()
    assert summary["images"]["n"] == 1 and summary["videos"]["n"] == 1
    listing = json.loads((data / "referring.json").read_text())
    (data / "referring.json").write_text(json.dumps({"samples": listing["samples"][:1]}))
    assert evaluate_referring(engine, data).summary()["videos"] == {"n": 0, "JF": None}


def test_broken_data_is_named(engine, data):
    (data / "videos" / "square" / "masks" / "00004.png").unlink()
    with pytest.raises(FramesError, match=r"00004\.png"):
        evaluate_video(engine, data)
    with pytest.raises(PromptError, match="mask, click"):
        evaluate_video(engine, data, prompt="box")
    (data / "videos.json").write_text("{")
    with pytest.raises(FramesError, match=r"videos\.json"):
        evaluate_video(engine, data)
    (data / "videos.json").unlink()
    with pytest.raises(FramesError, match=r"videos\.json"):
        evaluate_video(engine, data)


def test_peak_memory_is_in_mebibytes():
    assert 20 < peak_rss_mb() < 200_000
