"""Objects that are hidden and come back, with engines that answer by simple rules."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam.errors import FramesError, PromptError
from x2sam.evaluation.occlusion import evaluate_occlusion
from x2sam.structures import FrameMasks, Mask


class Session:
    """``fifo`` finds nothing after frame 2; other modes go on with the first mask wherever it was."""

    def __init__(self, frames, log):
        self.frames, self.log = frames, log

    def correct(self, frame, object_id, mask):
        self.known = mask

    def track(self, object_ids, start, stop, direction, memory=None):
        self.log.append(memory)
        for k in range(start, stop):
            lost = memory == "fifo" and k > 2
            yield FrameMasks(k, [] if lost else [Mask(self.known, 1.0, object_ids[0])])

    def close(self):
        pass


def test_modes_are_told_apart(engine, data):
    engine.session_type = Session
    result = evaluate_occlusion(engine, data, hidden=1, modes=("fifo", "pinned"), limit=None)
    # Only object 1 is there from the first frame on; on two clips of ten frames each.
    assert result["clips"]["fifo"]["JF"] == 0.0 and result["clips"]["fifo"]["imagined"] == 0.0


@pytest.fixture
def data(data, monkeypatch):
    monkeypatch.setattr("x2sam.data.occluders.SLIDE", 1)
    return data


def test_what_is_reported(engine, data):
    engine.session_type = Session
    result = evaluate_occlusion(engine, data, hidden=2, seed=5)
    assert set(result) == {"hidden", "seed", "clips"}
    assert set(result["clips"]) == {"fifo", "per-object", "pinned", "fast"}
    row = result["clips"]["pinned"]
    assert row["objects"] == 2 and row["imagined"] == 1.0
    # The square has moved on by 2 pixels a frame: where the copied mask is wrong is known.
    shifts = [2 * k for k in range(6, 10)]
    assert row["J"] == pytest.approx(np.mean([(20 - s) / (20 + s) for s in shifts]))
    assert engine.log.count("fifo") == 2


def test_what_can_not_be_measured_is_told(engine, data, tmp_path):
    with pytest.raises(PromptError, match="no memory mode 'all'"):
        evaluate_occlusion(engine, data, modes=("all",))
    with pytest.raises(FramesError, match="hide it shorter"):
        evaluate_occlusion(engine, data, hidden=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FramesError, match=r"train\.json"):
        evaluate_occlusion(engine, tmp_path / "empty")
