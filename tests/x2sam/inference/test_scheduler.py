"""The device's thread: who goes first, who gives way, who is told what."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from x2sam.errors import BusyError, CancelledError, DeviceError
from x2sam.inference import scheduler as scheduler_module
from x2sam.inference.scheduler import Priority, Scheduler, Turn
from x2sam.stages import stage, watching

SOON = 10.0  # seconds after which a test gives up


class Gate:
    """A scheduler whose thread is held by a job until :meth:`open`; others can be queued behind it meanwhile."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.done: list[str] = []
        self._open, self._callers = threading.Event(), ThreadPoolExecutor(16)
        held = threading.Event()
        self.first = self._callers.submit(scheduler.run, lambda: (held.set(), self._open.wait(SOON)))
        assert held.wait(SOON)

    def submit(self, name: str, *args, **kwargs):
        """A caller's future."""
        return self._callers.submit(self.scheduler.run, lambda: self.done.append(name) or name, *args, **kwargs)

    def queue(self, name: str, *args, **kwargs):
        """The same; returns once the job waits."""
        before = self.scheduler.waiting
        call = self.submit(name, *args, **kwargs)
        wait_for(lambda: self.scheduler.waiting > before)
        return call

    def open(self) -> None:
        self._open.set()
        self.first.result(SOON)


def wait_for(condition) -> None:
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def scheduler():
    made = Scheduler(limit=8, timeout=SOON)
    yield made
    made.close()


@pytest.fixture
def gate(scheduler):
    made = Gate(scheduler)
    yield made
    made.open()


def test_one_thread_runs_everything(scheduler):
    threads = {scheduler.run(threading.get_ident) for _ in range(3)}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_urgent_work_first_then_in_order_of_arrival(gate):
    order = (("batch", 3), ("track 1", 2), ("text", 1), ("click 1", 0), ("track 2", 2), ("click 2", 0))
    calls = [gate.queue(name, Priority(priority)) for name, priority in order]
    gate.open()
    assert [call.result(SOON) for call in calls] == [name for name, _ in order]
    assert gate.done == ["click 1", "click 2", "text", "track 1", "track 2", "batch"]


def test_what_was_asked_in_bulk_is_not_left_out_by_tracks(gate, monkeypatch):
    order = (("batch 1", 3), ("batch 2", 3), ("track 1", 2), ("click", 0), ("track 2", 2), ("track 3", 2))
    calls = [gate.queue(name, Priority(priority)) for name, priority in order]
    monkeypatch.setattr("x2sam.inference.scheduler._OVERDUE", 0.0)  # all of it has waited for too long
    gate.open()
    assert [call.result(SOON) for call in calls]
    assert gate.done == ["click", "batch 1", "track 1", "batch 2", "track 2", "track 3"]


def test_a_newer_job_takes_the_place_of_a_waiting_one(gate):
    older = gate.queue("older", replaces="clicks of ann")
    other = gate.queue("other", replaces="clicks of bob")
    newer = gate.submit("newer", replaces="clicks of ann")
    with pytest.raises(CancelledError, match="newer request"):
        older.result(SOON)
    gate.open()
    assert (newer.result(SOON), other.result(SOON)) == ("newer", "other")
    assert sorted(gate.done) == ["newer", "other"]


def test_the_turn_decides_who_is_newer_and_not_who_comes_first(gate):
    """An older request may reach the queue late (its picture took long), or come back with its next job."""
    first, second = (gate.scheduler.turn("clicks of ann") for _ in range(2))
    newer = gate.queue("newer", replaces=second)
    for _ in range(2):
        with pytest.raises(CancelledError, match="newer request"):
            gate.scheduler.run(lambda: gate.done.append("older"), replaces=first)
    gate.open()
    assert newer.result(SOON) == "newer"
    with pytest.raises(CancelledError):
        gate.scheduler.run(lambda: gate.done.append("older"), replaces=first)
    assert gate.done == ["newer"]


def test_the_jobs_of_one_request_do_not_replace_each_other(gate):
    turn = gate.scheduler.turn("k")
    calls = [gate.queue(str(i), replaces=turn) for i in range(3)]
    gate.open()
    assert [call.result(SOON) for call in calls] == ["0", "1", "2"]


def test_turns_are_remembered_up_to_a_number(scheduler, monkeypatch):
    monkeypatch.setattr(scheduler_module, "REMEMBERED_TURNS", 4)
    for number in range(20):
        scheduler.run(lambda: None, replaces=Turn(f"request {number}", 1))
    assert list(scheduler._newest) == [f"request {number}" for number in range(16, 20)]


def test_a_running_job_is_not_replaced(scheduler):
    started, go = threading.Event(), threading.Event()
    callers = ThreadPoolExecutor(2)
    running = callers.submit(scheduler.run, lambda: (started.set(), go.wait(SOON), "ran")[2], replaces="k")
    assert started.wait(SOON)
    newer = callers.submit(scheduler.run, lambda: "newer", replaces="k")
    wait_for(lambda: scheduler.waiting == 1)
    go.set()
    assert (running.result(SOON), newer.result(SOON)) == ("ran", "newer")


def test_too_much_waiting_work_is_refused(gate):
    calls = [gate.queue(str(i)) for i in range(8)]
    with pytest.raises(BusyError, match="8 requests wait"):
        gate.scheduler.run(lambda: None)
    assert gate.scheduler.waiting == 8
    gate.open()
    assert [call.result(SOON) for call in calls] == [str(i) for i in range(8)]


def test_a_full_queue_still_takes_a_replacement(gate):
    calls = [gate.queue(str(i), replaces=f"session {i}") for i in range(8)]
    newer = gate.submit("newer", replaces="session 3")
    with pytest.raises(CancelledError):
        calls[3].result(SOON)
    gate.open()
    assert newer.result(SOON) == "newer" and "3" not in gate.done


def test_waiting_ends_with_the_timeout(gate):
    with pytest.raises(BusyError, match=r"no answer within 0\.01 s"):
        gate.scheduler.run(lambda: gate.done.append("late"), timeout=0.01)
    assert gate.scheduler.waiting == 0
    gate.open()
    assert gate.scheduler.run(lambda: "next") == "next" and gate.done == []


def test_a_job_that_was_given_up_can_be_replaced_and_closed(gate):
    """What timed out is gone from the queue: nothing later stumbles over it."""
    with pytest.raises(BusyError):
        gate.scheduler.run(lambda: gate.done.append("late"), replaces="k", timeout=0.01)
    newer = gate.queue("newer", replaces="k")
    gate.open()
    assert newer.result(SOON) == "newer" and gate.done == ["newer"]


def test_a_running_job_may_outlive_its_caller(scheduler):
    go = threading.Event()
    with pytest.raises(BusyError):
        scheduler.run(lambda: go.wait(SOON), timeout=0.05)
    go.set()
    assert scheduler.run(lambda: "alive") == "alive"


def test_exceptions_reach_the_caller_and_the_thread_lives_on(scheduler):
    def fail():
        raise ZeroDivisionError("by nobody")

    with pytest.raises(ZeroDivisionError, match="by nobody"):
        scheduler.run(fail)
    assert scheduler.run(lambda: 3) == 3


def test_a_jobs_own_timeout_is_no_busy_device(scheduler):
    def fail():
        raise TimeoutError("the disk")

    with pytest.raises(TimeoutError, match="the disk"):
        scheduler.run(fail)


def test_a_job_may_ask_the_scheduler_itself(scheduler):
    assert scheduler.run(lambda: scheduler.run(lambda: scheduler.run(lambda: 7))) == 7


def test_closing_finishes_what_runs_and_cancels_what_waits(gate):
    waiting = [gate.queue("a"), gate.queue("b")]
    closing = ThreadPoolExecutor(1).submit(gate.scheduler.close)
    for call in waiting:
        with pytest.raises(CancelledError, match="closed"):
            call.result(SOON)
    gate.open()
    closing.result(SOON)
    assert gate.done == []
    with pytest.raises(CancelledError, match="closed"):
        gate.scheduler.run(lambda: None)
    gate.scheduler.close()  # twice is fine


def test_finished_jobs_are_not_kept_alive(scheduler):
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    scheduler.run(lambda held=large: held is None)
    del large
    wait_for(lambda: gone() is None)


# a thread that breaks or hangs


def kill(thread: threading.Thread) -> None:
    """Lets SystemExit arise wherever the thread is."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def device_thread(scheduler) -> threading.Thread:
    return scheduler._thread


def test_a_job_that_ends_its_thread_is_told_and_others_go_on(gate):
    def leave():
        raise SystemExit(3)

    broken = ThreadPoolExecutor(1).submit(gate.scheduler.run, leave)
    wait_for(lambda: gate.scheduler.waiting == 1)
    behind = gate.queue("behind")
    gate.open()
    with pytest.raises(DeviceError, match="broke"):
        broken.result(SOON)
    assert behind.result(SOON) == "behind"
    assert gate.scheduler.vitals().restarts == 1


def test_a_thread_killed_while_it_works_is_replaced(scheduler):
    started = threading.Event()

    def work():
        started.set()
        while True:
            time.sleep(0.001)

    call = ThreadPoolExecutor(1).submit(scheduler.run, work)
    assert started.wait(SOON)
    kill(device_thread(scheduler))
    with pytest.raises(DeviceError, match="try again"):
        call.result(SOON)
    assert scheduler.run(lambda: "alive") == "alive"
    assert scheduler.vitals().responsive


def test_a_thread_killed_while_it_idles_is_replaced(scheduler):
    before = device_thread(scheduler)
    kill(before)
    assert scheduler.run(lambda: "alive", timeout=SOON) == "alive"  # wakes the old one, which breaks
    assert scheduler.vitals().restarts == 1 and device_thread(scheduler) is not before


def test_a_hanging_job_is_noticed_told_and_forgotten_when_it_ends():
    scheduler, go, started = Scheduler(timeout=SOON, hang=0.05), threading.Event(), threading.Event()
    callers = ThreadPoolExecutor(2)
    hanging = callers.submit(scheduler.run, lambda: (started.set(), go.wait(SOON)))
    assert started.wait(SOON)
    behind = callers.submit(scheduler.run, lambda: "never")
    with pytest.raises(DeviceError, match=r"0\.05 s"):
        behind.result(SOON)
    with pytest.raises(DeviceError):
        hanging.result(SOON)
    with pytest.raises(DeviceError):
        scheduler.run(lambda: "not queued")
    vitals = scheduler.vitals()
    assert not vitals.responsive and vitals.running > 0.05 and scheduler.waiting == 0
    go.set()
    wait_for(lambda: scheduler.vitals().responsive)
    assert scheduler.run(lambda: "again") == "again"
    scheduler.close()


def test_closing_does_not_wait_for_ever():
    scheduler, go, started = Scheduler(timeout=SOON), threading.Event(), threading.Event()
    call = ThreadPoolExecutor(1).submit(scheduler.run, lambda: (started.set(), go.wait(SOON)))
    assert started.wait(SOON)
    begun = time.monotonic()
    scheduler.close(timeout=0.05)
    assert time.monotonic() - begun < SOON / 2
    go.set()
    call.result(SOON)


# what is told about the queue


def test_vitals_tell_what_waits_by_class(gate):
    gate.queue("batch", Priority.BATCH)
    gate.queue("click")
    gate.queue("click too")
    time.sleep(0.02)
    vitals = gate.scheduler.vitals()
    assert {name: queue.waiting for name, queue in vitals.queues.items()} == {
        "click": 2,
        "text": 0,
        "track": 0,
        "batch": 1,
    }
    assert vitals.queues["batch"].oldest >= vitals.queues["click"].oldest >= 0.02
    assert vitals.queues["text"].oldest == 0.0
    assert vitals.running > 0 and vitals.responsive
    gate.open()
    wait_for(lambda: gate.scheduler.vitals().running is None and not gate.scheduler.waiting)


def test_batches_leave_places_for_people(gate):
    for number in range(6):
        gate.queue(f"batch {number}", Priority.BATCH)
    with pytest.raises(BusyError):
        gate.scheduler.run(lambda: None, Priority.BATCH)
    click = gate.queue("click")
    gate.open()
    assert click.result(SOON) == "click"


def test_a_job_runs_in_its_callers_context_and_its_wait_is_measured(gate):
    def call():
        with watching() as times, stage("segment"):
            gate.scheduler.run(lambda: stage_for("encode", 0.02))
        return times.seconds

    def stage_for(name, seconds):
        with stage(name):
            time.sleep(seconds)

    called = ThreadPoolExecutor(1).submit(call)
    wait_for(lambda: gate.scheduler.waiting == 1)
    time.sleep(0.03)
    gate.open()
    seconds = called.result(SOON)
    assert seconds.keys() == {"segment", "encode", "wait"}
    assert seconds["wait"] >= 0.03 and seconds["encode"] >= 0.02
    assert seconds["segment"] < 0.02 + seconds["encode"] + seconds["wait"]
