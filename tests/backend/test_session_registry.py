from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.sessions import SessionRegistry


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Session:
    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return Clock()


def test_one_session_for_a_key(clock):
    registry = SessionRegistry(4, 60, clock)
    with registry.use("a", Session) as first, registry.use("a", Session) as second:
        assert first is second
    with registry.use("a", Session) as third:
        assert third is first
    assert len(registry) == 1
    assert not first.closed


def test_the_least_used_is_closed_when_there_are_too_many(clock):
    registry = SessionRegistry(2, 60, clock)
    opened = {}
    for key in ("a", "b", "a", "c"):
        with registry.use(key, Session) as opened[key]:
            pass
    assert [key for key in "abc" if not opened[key].closed] == ["a", "c"]


def test_a_session_in_use_is_never_closed(clock):
    registry = SessionRegistry(1, 60, clock)
    with registry.use("a", Session) as first:
        clock.now += 1000
        with registry.use("b", Session):
            pass
        with registry.use("c", Session):
            pass
        assert not first.closed
    with registry.use("d", Session):
        pass
    assert first.closed


def test_old_sessions_are_closed(clock):
    registry = SessionRegistry(4, 60, clock)
    with registry.use("a", Session) as first:
        pass
    clock.now += 61
    with registry.use("b", Session):
        pass
    assert first.closed
    assert len(registry) == 1


def test_a_failed_opening_is_tried_again(clock):
    registry = SessionRegistry(4, 60, clock)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), registry.use("a", fail):
        pass
    assert len(registry) == 0
    with registry.use("a", Session) as session:
        assert session is not None


def test_opening_happens_once_and_does_not_hold_up_others():
    registry = SessionRegistry(4, 60)
    opened = []

    def slow():
        time.sleep(0.5)
        opened.append(Session())
        return opened[-1]

    def work(_):
        with registry.use("slow", slow) as session:
            return session

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(work, n) for n in range(5)]
        time.sleep(0.05)
        start = time.monotonic()
        with registry.use("quick", Session):
            pass
        assert time.monotonic() - start < 0.4
        assert len({id(future.result()) for future in futures}) == len(opened) == 1


def test_closing_everything(clock):
    registry = SessionRegistry(4, 60, clock)
    with registry.use("a", Session) as session:
        pass
    registry.close()
    assert session.closed
    assert len(registry) == 0


def test_many_threads_and_few_places():
    registry = SessionRegistry(2, 60)
    wrong = []

    def work(number):
        for step in range(40):
            with registry.use(str((number * 7 + step) % 5), Session) as session:
                if session.closed:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(registry) <= 2
