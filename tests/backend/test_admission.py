"""How much is let in at once, and how it ends."""

from __future__ import annotations

import threading
import time

import pytest

from backend.admission import ASIDE_BYTES, Admission
from backend.errors import OverloadedError, StoppingError


def test_places():
    admission = Admission(2, 1000)
    with admission.work(1), admission.work(1):
        with pytest.raises(OverloadedError):
            admission.work(1).__enter__()
        assert admission.running == 2
    with admission.work(1):
        assert admission.running == 1


def test_bytes_together():
    admission = Admission(10, 1000)
    with admission.work(600):
        with pytest.raises(OverloadedError):
            admission.work(500).__enter__()
        with admission.work(400):
            pass
    with admission.work(10**9):  # alone, the largest is let in; how long it may be is checked elsewhere
        pass
    assert admission.running == 0


def test_an_unannounced_body_counts_as_the_largest():
    admission = Admission(10, 1000)
    with admission.work(1), pytest.raises(OverloadedError):
        admission.work(None).__enter__()
    with admission.work(None), pytest.raises(OverloadedError):
        admission.work(1).__enter__()


def test_a_failure_gives_its_place_back():
    admission = Admission(1, 1000)
    with pytest.raises(ZeroDivisionError), admission.work(5):
        raise ZeroDivisionError
    assert admission.running == 0 and admission.wait_idle(0)


def test_stopping():
    admission, go = Admission(4, 1000), threading.Event()
    inside = threading.Event()

    def work():
        with admission.work(1):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    admission.stop()
    assert admission.stopping
    with pytest.raises(StoppingError, match="stopped"):
        admission.work(1).__enter__()
    begun = time.monotonic()
    assert not admission.wait_idle(0.05)
    assert time.monotonic() - begun < 5
    go.set()
    assert admission.wait_idle(10)
    thread.join()


def test_few_short_ones_are_read_aside():
    admission = Admission(1, 1000, aside=1)
    with admission.aside(ASIDE_BYTES) as first, admission.aside(1) as second:
        assert (first, second) == (True, False)
    for size, readable in ((None, False), (ASIDE_BYTES + 1, False), (0, True)):
        with admission.aside(size) as found:
            assert found is readable
    with Admission(1, 1000).aside(1) as found:
        assert not found


def test_what_is_only_read_counts_by_its_bytes():
    admission = Admission(1, 1000)
    with admission.work(1), admission.reading(600), pytest.raises(OverloadedError):
        admission.reading(600).__enter__()
    admission.stop()
    with admission.reading(10**9):
        assert admission.running == 0
        with pytest.raises(OverloadedError):
            admission.reading(1).__enter__()
