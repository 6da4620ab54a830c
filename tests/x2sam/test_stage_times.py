"""Times of stages: exclusive, added up, carried into threads by their context, free without a watcher."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest

from x2sam.stages import spent, stage, watching


def test_inner_stages_do_not_count_for_outer_ones():
    with watching() as times:
        with stage("outer"):
            time.sleep(0.01)
            with stage("inner"):
                time.sleep(0.03)
        with stage("inner"):
            time.sleep(0.01)
    assert times.seconds["inner"] >= 0.04
    assert 0.01 <= times.seconds["outer"] < times.seconds["inner"]


def test_a_stage_within_itself_counts_once():
    with watching() as times, stage("same"), stage("same"):
        time.sleep(0.02)
    assert times.seconds["same"] == pytest.approx(0.02, abs=0.015)


def test_time_measured_elsewhere():
    with watching() as times, stage("segment"):
        spent("wait", 5.0)
    assert times.seconds == {"wait": 5.0, "segment": 0.0}


def test_a_failing_stage_is_measured_and_closed():
    with watching() as times:
        with pytest.raises(ZeroDivisionError), stage("broken"):
            raise ZeroDivisionError
        with stage("next"):
            pass
    assert times.seconds.keys() == {"broken", "next"}


def test_threads_with_the_context_add_to_the_same_request():
    with watching() as times, stage("outer"):
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(spent, "there", 0.5))
        thread.start()
        thread.join()
    assert times.seconds["there"] == 0.5


def test_requests_are_apart_and_nothing_is_kept_without_a_watcher():
    with watching() as first:
        spent("a", 1.0)
        with watching() as second:
            spent("b", 1.0)
        spent("a", 1.0)
    with stage("c"):
        spent("d", 1.0)
    assert (first.seconds, second.seconds) == ({"a": 2.0}, {"b": 1.0})
