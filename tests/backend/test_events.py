"""Webhook events: written down before they are answered, read in order, bounded, and alive after a kill."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from backend import journal as journal_module
from backend.events import CREATED, TRAIN, EventLog, changed_masks, read_events
from backend.journal import Journal
from backend.journal_file import _MIGRATIONS, JournalError, reading

LARGE, DAY = 64 << 20, 86_400.0


@pytest.fixture
def journals(tmp_path):
    opened = []

    def journal(max_bytes=LARGE, max_age=DAY, **fields):
        opened.append(Journal(tmp_path / "state", max_bytes, max_age, **fields))
        return opened[-1]

    yield journal
    for one in opened:
        one.close()


def annotation(number, regions=1, **fields):
    result = [{"id": f"r{i}", "type": "brushlabels", "origin": "manual", "value": {"rle": [1]}} for i in range(regions)]
    return {"annotation": {"id": number, "task": 3, "result": result, **fields}}


def test_a_webhook_is_in_the_journal_when_it_is_answered(client, captured, settings, tmp_path):
    body = captured("webhook_annotation_created")
    body["project"]["token"] = "invitation"
    body["annotation"]["completed_by"] = {"id": 5, "email": "person@example.com"}
    assert client.post("/webhook", json=body).status_code == 201
    assert client.post("/webhook", json=captured("webhook_start_training")).status_code == 201
    with reading(tmp_path / "state") as database:
        (event,) = read_events(database.exec_driver_sql)
        (start,) = read_events(database.exec_driver_sql, actions=(TRAIN,))
    assert (event.action, event.project, event.task, event.annotation) == (CREATED, "1", "3", "1")
    # of the two regions one is an untouched prediction; whether the learner has looked at it by now is its business
    assert event.masks == 1
    assert event.annotation_data["result"] == body["annotation"]["result"]
    assert event.annotation_data["completed_by"] == 5
    assert (start.project, start.annotation_data) == ("6", {})
    files = b"".join(path.read_bytes() for path in (tmp_path / "state").glob("journal.sqlite3*"))
    assert b"invitation" not in files and b"person@example.com" not in files


@pytest.mark.parametrize(
    "changes",
    [
        {"project": {"id": "\ud83d"}},
        {"annotation": {"id": "\ud83d", "task": "\udc00", "result": [{"id": "\ud83d", "value": {"text": ["\ud83d"]}}]}},
        {"annotation": {"id": 1, "task": 3, "result": [{"id": 1, "type": [1], "origin": {}}, {"id": 2, "type": {}}]}},
        {"annotation": {"id": 1, "task": 3, "result": "DEEP"}},
        {"annotation": {"id": 1, "task": 3, "lead_time": "DEEP", "result": []}},
    ],
)
def test_an_event_that_no_label_studio_sends_keeps_nothing_back(client, captured, settings, tmp_path, changes):
    """What can't be written would be tried again with everything that comes after it."""
    body = json.dumps(captured("webhook_annotation_created") | changes).encode()
    body = body.replace(b'"DEEP"', b"[" * 1000 + b"]" * 1000)
    assert client.post("/webhook", data=body, content_type="application/json").status_code == 201
    assert client.post("/webhook", json=captured("webhook_start_training")).status_code == 201
    with reading(tmp_path / "state") as database:
        assert len(read_events(database.exec_driver_sql, actions=(CREATED, TRAIN))) == 2


def test_events_come_in_order_until_they_are_done(journals):
    now = time.time()
    log = EventLog(journals(), clock=lambda: now)
    for number in (1, 2, 3):
        assert log.note("7", CREATED, annotation(number, regions=number))
    first, second, third = log.waiting()
    assert [one.masks for one in (first, second, third)] == [1, 2, 3] and first.made == now
    log.done([first, third])
    assert log.waiting() == [second]
    again = EventLog(journals_of(log))
    assert again.waiting() == [second]
    assert [one.annotation for one in read_events(journals_of(log).read, after=first.id)] == ["2", "3"]
    assert read_events(journals_of(log).read, project="8") == []


def journals_of(log):
    return log._journal


def test_a_kill_loses_no_event_that_was_answered(tmp_path):
    code = (
        "from pathlib import Path; from backend.journal import Journal; from backend.events import EventLog;"
        f"log = EventLog(Journal(Path({str(tmp_path)!r}), {LARGE}, {DAY}));"
        "[print(n, log.note('7', 'START_TRAINING', {'project': {'id': 7}}), flush=True) for n in range(10**6)]"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    answered = [child.stdout.readline() for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    answered += child.stdout.readlines()
    child.wait()
    whole = [line for line in answered if line.endswith("True\n")]
    journal = Journal(tmp_path, LARGE, DAY)
    found = read_events(journal.read, actions=(TRAIN,), most=10**6)
    journal.close()
    assert len(whole) >= 20
    assert len(found) in (len(whole), len(whole) + 1), "one may be written and not answered yet"


def test_the_queue_is_bounded(journals, monkeypatch):
    monkeypatch.setattr(journal_module, "_EVENTS", 10)
    monkeypatch.setattr(journal_module, "_LOOKS", 1 << 40)  # looked at with each transaction
    log = EventLog(journals())
    for number in range(30):
        log.note("7", CREATED, annotation(number))
    assert [one.annotation for one in log.waiting()] == [str(n) for n in range(20, 30)]


def test_an_event_that_is_too_large_is_kept_without_its_regions(journals, monkeypatch):
    monkeypatch.setattr("backend.events.MOST_BYTES", 1000)
    log = EventLog(journals())
    huge = annotation(1, regions=3, lead_time=4.5)
    huge["annotation"]["result"][0]["value"]["rle"] = [os.urandom(4000).hex()]
    assert log.note("7", CREATED, huge)
    (event,) = read_events(journals_of(log).read)
    assert event.cut and event.masks == 3 and event.annotation_data == {"id": 1, "task": 3, "lead_time": 4.5}


def test_without_a_journal_the_last_events_are_in_memory():
    log = EventLog(Journal(None, 0, DAY))
    assert not log.note("7", TRAIN, {})
    (event,) = log.waiting()
    assert event.action == TRAIN
    log.done([event])
    assert log.waiting() == []


def test_threads_note_events_at_once(journals):
    log = EventLog(journals())
    threads = [threading.Thread(target=log.note, args=("7", CREATED, annotation(n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(one.annotation) for one in log.waiting()) == list(range(16))


def test_a_journal_of_the_release_before_is_brought_up_to_date(journals, tmp_path):
    (tmp_path / "state").mkdir()
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite3") as old:
        for statement in _MIGRATIONS[0]:
            old.execute(statement)
        old.execute("INSERT INTO asked (name) VALUES ('[1]')")
        old.execute("PRAGMA user_version = 1")
    with pytest.raises(JournalError, match="another release"), reading(tmp_path / "state"):
        pass
    journal = journals()
    assert journal.asked() == [(1,)]
    assert EventLog(journal).note("7", TRAIN, {})


def test_what_counts_as_changed():
    regions = [
        {"id": "a", "type": "brushlabels", "origin": "manual"},
        {"id": "a", "type": "labels", "origin": "manual"},
        {"id": "b", "type": "polygonlabels", "origin": "prediction-changed"},
        {"id": "c", "type": "bitmasklabels", "origin": "prediction"},
        {"id": "d", "type": "keypointlabels", "origin": "manual"},
        "no region",
    ]
    assert changed_masks({"result": regions}) == 2
    assert changed_masks({"result": regions, "was_cancelled": True}) == 0
    assert changed_masks({"result": json.loads("null")}) == 0
