"""Frames fetched and decoded ahead: while the device works on one frame of a walk, a thread gets the next one ready."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from x2sam.inference.looking import Looking


def one_ahead(looking: Looking, frames: Sequence[int]) -> Iterator[int]:
    """The ``frames``, each held in memory (see :meth:`Looking.hold`) until the next one is asked for, which is got
    ready meanwhile. Never more than two are held.

    A frame that can't be had is no concern of the thread: whoever reaches it asks for it again and is told why.
    """
    if len(frames) < 2:
        yield from frames
        return
    pool = ThreadPoolExecutor(1, "x2sam-ahead")
    coming: Future[ExitStack] | None = None
    try:
        for place, frame in enumerate(frames):
            here, coming = coming, None
            if here is not None:
                here.exception()  # waits; what went wrong comes again where the frame is used
            if place + 1 < len(frames):
                # the context has the deadline of whoever asked, where there is one
                coming = pool.submit(contextvars.copy_context().run, _take, looking, frames[place + 1])
            try:
                yield frame
            finally:
                _let_go(here)
    finally:
        _let_go(coming)
        pool.shutdown(wait=False, cancel_futures=True)


def _take(looking: Looking, frame: int) -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(looking.hold([frame]))
        looking.make_ready(frame)
        return stack.pop_all()


def _let_go(taken: Future[ExitStack] | None) -> None:
    """Lets a frame go as soon as it is there. Nobody waits for one that is still on its way: whoever stops a walk has
    little time."""
    if taken is not None and not taken.cancel():
        taken.add_done_callback(lambda done: None if done.exception() else done.result().close())
