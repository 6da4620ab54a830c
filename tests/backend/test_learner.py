"""The server's part of learning: which events begin a training, one at a time, also after a kill; people go first."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from backend.events import CREATED, TRAIN, UPDATED, EventLog
from backend.journal import Journal
from backend.learner import Learner
from backend.metrics import Metrics
from backend.people import PeopleLock
from backend.retrain import OUTCOME, PEOPLE, PROGRESS, Learning, RunningError, read_progress
from backend.retrain_command import RUNNING
from x2sam.training.yielding import PeopleFirst, ProgressFile


class Process:
    """A training that ends when the test says so."""

    def __init__(self, project):
        self.project, self.returncode, self.ended = project, None, False

    def poll(self):
        return self.returncode

    def terminate(self):
        self.returncode = 143

    def wait(self, seconds=None):
        return self.returncode


class Desk:
    def __init__(self, settings, folder):
        self.journal = Journal(folder, 1 << 25, 86_400)
        self.events, self.metrics, self.begun, self.now = EventLog(self.journal), Metrics(), [], 0.0
        self.learner = Learner(settings, self.journal, self.events, self.metrics, self.begin, lambda: self.now)
        self.folder = Learning.of(settings).folder
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, project):
        self.begun.append(Process(project))
        return self.begun[-1]

    def submit(self, annotation, masks, action=CREATED, project="7"):
        regions = [{"id": f"r{i}", "type": "brushlabels", "origin": "manual"} for i in range(masks)]
        self.events.note(project, action, {"annotation": {"id": annotation, "task": 1, "result": regions}})
        self.learner.look()

    def end(self, code=0, **outcome):
        if outcome:
            told = {"project": 7, "version": "nano-1", "promoted": True, "reason": "better", "begun": time.time()}
            (self.folder / OUTCOME).write_text(json.dumps(told | outcome))
        self.begun[-1].returncode = code
        self.learner.look()

    def close(self):
        self.learner.close()
        self.journal.close()


@pytest.fixture
def desk(settings, tmp_path):
    desks = []

    def open_desk(**changes):
        desks.append(Desk(replace(settings, **changes), tmp_path / "state"))
        return desks[-1]

    yield open_desk
    for one in desks:
        one.close()


def test_the_button_begins_a_training(desk):
    one = desk()
    one.events.note("7", TRAIN, {"project": {"id": 7}})
    one.events.note("8", TRAIN, {"project": {"id": 8}})
    one.events.note("7", TRAIN, {"project": {"id": 7}})  # pressed twice
    for _ in range(3):
        one.learner.look()
    assert [p.project for p in one.begun] == ["7"], "one at a time"
    (one.folder / PROGRESS).write_text('{"part": "training", "done": 40, "of": 200, "waited": 1.5}')
    assert one.learner.sentence("7") == "Learning from your masks: step 40 of 200."
    assert one.learner.sentence("8") == ""
    one.end(promoted=True)
    assert [p.project for p in one.begun] == ["7", "8"]
    assert one.learner.sentence("7") == "Learned from your masks: nano-1 answers from now on (better)."
    one.end(code=1)
    assert "did not work" in one.learner.sentence("8")
    assert one.events.waiting() == [] and len(one.begun) == 2
    one.now += 1e6
    assert one.learner.sentence("7") == one.learner.sentence("8") == ""
    text = one.metrics.text().decode()
    assert 'x2sam_trainings_total{outcome="ended"} 1.0' in text and "x2sam_promotions_total 1.0" in text


def test_so_many_corrected_masks_begin_a_training(desk):
    one = desk(retrain_masks=10)
    one.submit(1, 4)
    one.submit(2, 4)
    one.submit(2, 5, UPDATED)  # counts as it is now, 4 + 5
    one.submit(3, 9, project="8")
    assert not one.begun
    one.submit(4, 1)
    assert [p.project for p in one.begun] == ["7"]
    one.submit(5, 9)  # meanwhile: for the next one
    one.end()
    assert len(one.begun) == 1
    one.submit(6, 1)
    assert len(one.begun) == 2, "what came after the events of the first training counts"


def test_off_by_default(desk):
    one = desk()
    one.submit(1, 10_000)
    assert not one.begun and one.events.waiting() == []


def test_a_stop_leaves_the_training_to_the_next_start(desk):
    one = desk()
    one.events.note("7", TRAIN, {})
    one.learner.look()
    one.close()
    assert one.begun[0].returncode == 143
    again = desk()
    again.learner.look()
    assert [p.project for p in again.begun] == ["7"]


def test_a_training_that_outlived_a_killed_server(desk):
    one = desk()
    one.events.note("7", TRAIN, {})
    one.learner.look()
    one.end(code=RUNNING)
    assert len(one.begun) == 1 and len(one.events.waiting()) == 1
    one.now += 31
    one.learner.look()
    assert len(one.begun) == 2, "asked again after a while"
    one.journal.close()
    # it ended; what it did counts for the event that it was begun for
    (one.folder / OUTCOME).write_text(json.dumps({"project": 7, "begun": time.time()}))
    again = desk()
    again.learner.look()
    assert not again.begun and again.events.waiting() == []


def test_one_training_at_a_time(settings):
    learning = Learning.of(settings)
    with learning.alone(), pytest.raises(RunningError), learning.alone():
        pass
    with learning.alone():
        learning.tell("collecting", 1, 2)
        assert read_progress(learning.folder / PROGRESS)["of"] == 2


def test_people_go_first(tmp_path):
    path, now = tmp_path / PEOPLE, [0.0]
    lock = PeopleLock(path, after=2.0, clock=lambda: now[0])
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += 1.0

    first = PeopleFirst(path, most=5.0, clock=lambda: now[0], sleep=sleep)
    first()
    assert first.waited == 0, "nobody has asked anything yet"
    with lock.waits():
        first()
        assert first.waited == 5.0, "at most so long"
    lock.settle()
    first()
    assert first.waited == 10.0, "and a moment longer than a person waits"
    lock.settle()
    first()
    assert first.waited == 10.0
    with lock.waits(), lock.waits():
        pass
    lock.close()
    first()
    assert first.waited == 10.0


def test_a_killed_server_holds_no_training(tmp_path):
    code = (
        "import os; from pathlib import Path; from backend.people import PeopleLock;"
        f"lock = PeopleLock(Path({str(tmp_path / PEOPLE)!r})); lock.waits().__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    with (tmp_path / PEOPLE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_progress_is_told_now_and_then(tmp_path):
    now = [0.0]
    told = ProgressFile(tmp_path / PROGRESS, clock=lambda: now[0])
    told.tell("training", 1, 10, 0.0)
    told.tell("training", 2, 10, 0.0)
    assert read_progress(tmp_path / PROGRESS)["done"] == 1
    told.tell("training", 10, 10, 0.25)
    assert read_progress(tmp_path / PROGRESS) == {"part": "training", "done": 10, "of": 10, "waited": 0.2}
    (tmp_path / PROGRESS).write_text("{")
    assert read_progress(tmp_path / PROGRESS) is None


def test_a_real_process_that_fails_is_told(settings, tmp_path):
    """Nobody answers at the address of Label Studio."""
    settings = replace(settings, label_studio_url="http://127.0.0.1:9", model="nano", device="cpu")
    journal = Journal(tmp_path / "state", 1 << 25, 86_400)
    events = EventLog(journal)
    learner = Learner(settings, journal, events, Metrics())
    events.note("7", TRAIN, {})
    until = time.monotonic() + 120
    while events.waiting() and time.monotonic() < until:
        learner.look()
        time.sleep(0.05)
    assert events.waiting() == [] and "did not work" in learner.sentence("7")
    learner.close()
    journal.close()
