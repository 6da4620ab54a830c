"""The simulation of waiting against what can be worked out by hand and what queueing theory says."""

from __future__ import annotations

import numpy as np
import pytest

from backend.capacity import Simulation, Steps, Work, carried, p95, steps_of
from backend.errors import BadRequestError

STEPS = Steps(first=[0.4], following=[0.1], frame=[0.05], encode=[0.3])


def test_one_person_waits_for_nobody():
    alone = Simulation(STEPS, Work(clicks=4, ahead=False), 1, 1, 400).run().latencies
    # one click of four is the first on its picture: 0.4 s, the others 0.1 s
    assert set(np.round(alone, 9)) == {0.4, 0.1}
    assert np.mean(np.isclose(alone, 0.4)) == pytest.approx(0.25, abs=0.02)


def test_a_picture_that_was_encoded_ahead_costs_no_first_click():
    ahead = Simulation(STEPS, Work(clicks=4, ahead=True, look=0.35), 1, 1, 400).run().latencies
    assert np.allclose(ahead, 0.1)
    # clicked 0.1 s after it was opened: 0.2 s of the encoding are left, and then it is as any other click
    early = Simulation(STEPS, Work(clicks=1, ahead=True, look=0.1), 1, 1, 400).run().latencies
    assert np.allclose(early, 0.3)


def test_a_click_waits_for_one_frame_of_a_track_at_most():
    tracked = Simulation(STEPS, Work(ahead=False, clicks=10**6, tracks=3), 1, 1, 2000).run().latencies[1:]
    # the rest of a frame of 0.05 s, which is evenly spread, and the click itself
    assert max(tracked) <= 0.15 + 1e-9
    assert np.mean(tracked) == pytest.approx(0.125, abs=0.002)


def test_many_people_wait_as_in_a_queue_with_fixed_service():
    # 200 people think 20 s each: 9.9 clicks a second or a little less at an engine that takes 0.08 s, M/D/1 with a load
    # of 0.79: mean wait = load * service / (2 * (1 - load)) = 0.15 s (Pollaczek-Khinchine); a closed queue waits less
    steps = Steps(first=[0.08], following=[0.08], frame=[0.0], encode=[0.0])
    busy = Simulation(steps, Work(think=20, ahead=False, clicks=10**6), 200, 1, 4000).run().latencies
    assert np.mean(busy) - 0.08 == pytest.approx(0.15, rel=0.2)


def test_more_engines_carry_more_people_and_tracks_carry_fewer():
    work = Work(think=3, clicks=5)
    one, four = (carried(STEPS, work, engines, 0.3, seconds=200) for engines in (1, 4))
    assert 3 * one <= four <= 5 * one  # pictures are spread over engines by chance: none shares another's load
    assert carried(STEPS, Work(think=3, clicks=5, tracks=1), 1, 0.3, seconds=200) <= one
    assert p95(STEPS, work, one, 1, seconds=200) <= 0.3 < p95(STEPS, work, 3 * one, 1, seconds=200)
    assert carried(STEPS, work, 1, 0.05, seconds=200) == 0


def test_steps_of_a_benchmark():
    bench = {"first_click_ms": 90, "next_click_ms": {"p50": 40, "p95": 60}, "track_fps": {"1": 5.0, "4": 3.0}}
    steps = steps_of(bench)
    assert (steps.first, steps.frame) == ([0.09], [0.2]) and steps.encode == [pytest.approx(0.05)]
    assert sorted(steps.following) == [0.04] * 19 + [0.06]
    with pytest.raises(BadRequestError, match="x2sam bench"):
        steps_of({"first_click_ms": "fast"})
