"""Frames are fetched ahead: beside the work on the one before, at most one, and never in anybody's way."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from x2sam.errors import FramesError
from x2sam.inference.ahead import one_ahead
from x2sam.inference.feature_cache import FeatureCache
from x2sam.inference.interpreter import Interpreter
from x2sam.inference.looking import Looking

SIZE = (24, 32, 3)


class Reel:
    """Frames that tell who fetched them; some can't be had, some take until ``gate`` is open."""

    def __init__(self, count: int, broken: tuple[int, ...] = (), slow: tuple[int, ...] = ()):
        self.count, self.broken, self.slow = count, broken, slow
        self.gate = threading.Event()
        self.fetched: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frame: int) -> np.ndarray:
        self.fetched.append((frame, threading.current_thread().name.split("_")[0]))
        if frame in self.slow:
            self.gate.wait(20)
        if frame in self.broken:
            raise FramesError(f"frame {frame} is gone")
        return np.full(SIZE, frame, np.uint8)


def looking_at(reel: Reel, model, tokenizer) -> Looking:
    return Looking(Interpreter(model, tokenizer), FeatureCache(2**24), reel, "reel")


def settled(looking: Looking) -> bool:
    """Whether nothing is held any more, soon."""
    until = time.monotonic() + 10
    while looking._held and time.monotonic() < until:
        time.sleep(0.01)
    return not looking._held


def test_each_frame_but_the_first_is_fetched_once_and_by_the_thread(tiny_model, tiny_tokenizer):
    reel = Reel(4)
    looking = looking_at(reel, tiny_model, tiny_tokenizer)
    for frame in one_ahead(looking, [0, 1, 2, 3]):
        with looking.hold([frame]):
            assert looking.picture(frame)[0, 0, 0] == frame
        assert len(looking._held) <= 2
    assert sorted(reel.fetched) == [(0, "MainThread"), *((n, "x2sam-ahead") for n in (1, 2, 3))]
    assert settled(looking)


def test_the_pixels_made_ahead_are_those_made_at_once(tiny_model, tiny_tokenizer):
    looking = looking_at(Reel(2), tiny_model, tiny_tokenizer)
    with torch.inference_mode():
        at_once = looking.encode(1)
        with looking.hold([1]):
            looking.make_ready(1)
            assert looking._held[1].pixels is not None
            ahead = looking.encode(1)
    assert all(torch.equal(a, b) for a, b in zip(at_once.fpn, ahead.fpn, strict=True))


def test_a_frame_that_is_gone_is_told_when_it_is_reached(tiny_model, tiny_tokenizer):
    looking = looking_at(Reel(3, broken=(1,)), tiny_model, tiny_tokenizer)
    reached = []
    with pytest.raises(FramesError, match="frame 1 is gone"):
        for frame in one_ahead(looking, [0, 1, 2]):
            with looking.hold([frame]):
                reached.append(frame)
    assert reached == [0]
    assert settled(looking)


def test_nobody_who_stops_waits_for_a_frame_on_its_way(tiny_model, tiny_tokenizer):
    reel = Reel(3, slow=(1,))
    looking = looking_at(reel, tiny_model, tiny_tokenizer)
    walk = one_ahead(looking, [0, 1, 2])
    assert next(walk) == 0
    began = time.monotonic()
    walk.close()
    assert time.monotonic() - began < 5
    reel.gate.set()
    assert settled(looking)
