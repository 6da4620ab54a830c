"""What outlives the process: answers, prompts and tracks in SQLite, also when the file or the disk is not well."""

from __future__ import annotations

import logging
import sqlite3
import threading

import numpy as np
import pytest

from backend.carried import Carried, Known
from backend.journal import Journal
from backend.journal_codec import BROKEN, pack_step, unpack_step
from backend.journal_tracks import (
    FINISHED,
    RUNNING,
    TrackRecord,
    mask_rows,
    masks_of,
    record_rows,
    state_rows,
    tracks_of,
    unfinished,
)
from backend.remembered import STEPS, PackedMask, Remembered, Step
from backend.tracking import Reach
from x2sam.structures import Point

DAY = 86_400.0
LARGE = 64 << 20


def noise(seed=0, size=(60, 80)):
    return PackedMask.of(np.random.default_rng(seed).random(size) > 0.5)


def step(seed=0, page=0, tracked=False, **fields):
    return Step("Object", page, noise(seed), 0.5, tracked=tracked, **fields)


def record(name="a", task="7", state=RUNNING, **fields):
    one = Carried("obj1", "Object", {0: Known(noise(), 0.25), 4: Known(noise(1))}, frozenset({4, 5}), "brush")
    return TrackRecord(
        name, task, "ann", ("/p0", "/p1"), (one,), Reach("forward", 7, 2), ("/e",), "v1", state, **fields
    )


@pytest.fixture
def journals(tmp_path):
    opened = []

    def journal(max_bytes=LARGE, max_age=DAY, **fields):
        opened.append(Journal(tmp_path / "state", max_bytes, max_age, **fields))
        return opened[-1]

    yield journal
    for one in opened:
        one.close()


@pytest.fixture
def again(journals):
    """The journal after a restart."""

    def again(journal, **fields):
        journal.close()
        return journals(**fields)

    return again


def test_answers_come_back_after_a_restart(journals, again):
    journal = journals()
    remembered = Remembered(journal=journal)
    whole = step(
        clicks=(("c1", Point(1.5, 2.25)), ("\ud800", Point(0.1, 7, positive=False))), boxes=((0.0, 1.0, 2.0, 3.5),),
        masks=(noise(3), noise(4)), previous=noise(2), kept=1, saved="2026",
    )  # fmt: skip
    remembered.add("7", "obj1", ["c1", "\ud800"], step(9))
    remembered.add("7", "obj1", ["c1"], whole)
    remembered.add("8", "obj1", [], step(5, page=3, tracked=True))
    assert remembered.first_time(("text", "7", "id", None, "track"))
    assert journal.flush() and not journal.problem
    back = Remembered(journal=again(journal))
    back.restore()
    assert back.steps("7", "obj1", 0) == (step(9), whole)
    assert back.steps("8", "obj1", 3) == (step(5, page=3, tracked=True),)
    assert back.object_of("7", "Object", ["\ud800"]) == "obj1"
    assert back.was_asked(("text", "7", "id", None, "track")) and not back.was_asked(("text", "7", "id", 0, "track"))


def test_the_same_answer_again_is_one(journals, again):
    journal = journals()
    remembered = Remembered(journal=journal)
    for saved in ("1", "2"):
        remembered.add("7", "obj1", ["c1"], step(saved=saved))
    assert [one.saved for one in remembered.steps("7", "obj1", 0)] == ["2"]
    journal.flush()
    assert len(again(journal).steps(LARGE)) == 1


def test_as_many_answers_as_memory_holds(journals, again):
    journal = journals()
    remembered = Remembered(journal=journal)
    for number in range(3 * STEPS):
        remembered.add("7", "obj1", ["c1"], step(number))
    journal.flush()
    back = Remembered(journal=again(journal))
    back.restore()
    assert back.steps("7", "obj1", 0) == remembered.steps("7", "obj1", 0)
    small = Remembered(max_bytes=4000, journal=back._journal)
    small.restore()
    assert small.steps("7", "obj1", 0)[-1] == step(3 * STEPS - 1), "the newest ones"


@pytest.mark.parametrize("data", [b"", b"\0\0\0\5[1,2]", pack_step(step())[:-3], b"\xff" * 40, b"\0\0\0\2{}"])
def test_broken_entries(data):
    with pytest.raises(BROKEN):
        unpack_step(data)


def test_tracks_come_back_after_a_restart(journals, again):
    journal = journals()
    names = (("a", "7"), ("b", "\ud800"), ("c", "7"))
    for number, (name, task) in enumerate(names):
        journal.note(record_rows(record(name, task=task, made=1e9 + number)))
    found = {3: {"obj1": Known(noise(7), 0.5, 0.125)}, 1: {"obj1": Known(noise(8))}}
    for page, masks in found.items():
        journal.note(mask_rows("a", page, masks))
    journal.note(mask_rows("a", 3, {"obj1": Known(noise(99))}))
    journal.note(state_rows("c", FINISHED))
    journal.flush()
    journal = again(journal)
    assert [one.id for one in unfinished(journal)] == ["a", "b"]
    assert [one.id for one in tracks_of(journal, "7")] == ["c", "a"]
    (other,) = tracks_of(journal, "\ud800")
    back, begun = tracks_of(journal, "7")[1], record("a")
    assert (back.person, back.pages, back.earlier, back.version) == ("ann", ("/p0", "/p1"), ("/e",), "v1")
    assert back.reach == begun.reach
    (one,), (before,) = back.objects, begun.objects
    assert (one.object_id, one.label, one.known, one.kept, one.shape) == (
        before.object_id, before.label, before.known, before.kept, before.shape,
    )  # fmt: skip
    assert masks_of(journal, "a") == found, "the first mask of a page stays"
    assert masks_of(journal, other.id) == {}


def test_the_file_is_for_its_owner_alone(journals, tmp_path):
    journal = journals()
    journal.note(state_rows("x", FINISHED))
    journal.flush()
    for path in (tmp_path / "state").glob("journal*"):
        assert path.suffix == ".lock" or path.stat().st_mode & 0o77 == 0
    assert (tmp_path / "state").stat().st_mode & 0o77 == 0


def test_what_we_proposed_goes_before_what_a_person_made(journals):
    journal = journals(max_bytes=1 << 20)
    remembered = Remembered(journal=journal)
    made = [f"mine{number}" for number in range(50)]
    for number, name in enumerate(made):
        remembered.add("7", name, [name], step(number))
    journal.note(record_rows(record("running")) + mask_rows("running", 1, {"obj1": Known(noise(0, (300, 300)))}))
    for number in range(200):
        name = f"t{number}"
        rows = record_rows(record(name)) + mask_rows(name, 0, {"obj1": Known(noise(number, (300, 300)))})
        journal.note(rows + state_rows(name, FINISHED))
        remembered.add("7", f"ours{number}", [], step(number, tracked=True))
        assert journal.flush()
    assert journal.total_bytes < (1 << 20) + (10 << 20), "the file, and what waits to be written into it"
    kept = {name for _, name, _ in journal.steps(LARGE)}
    assert kept >= set(made)
    assert masks_of(journal, "running") and masks_of(journal, "t199") and not masks_of(journal, "t0")
    assert [one.id for one in unfinished(journal)] == ["running"]


def test_what_is_old_goes(journals):
    now = [1000.0]
    journal = journals(max_age=50, clock=lambda: now[0])
    remembered = Remembered(journal=journal)
    remembered.add("7", "old", ["a"], step())
    journal.flush()
    now[0] += 60
    remembered.add("7", "new", ["b"], step())
    journal._unchecked = LARGE
    journal.flush()
    assert [name for _, name, _ in journal.steps(LARGE)] == ["new"]
    assert [name for _, _, name in journal.prompts()] == ["new"]


def test_a_full_disk_is_told_and_what_is_owed_is_written_later(journals, again, caplog):
    journal = journals()
    remembered = Remembered(journal=journal)
    limit(journal, 20)
    with caplog.at_level(logging.WARNING):
        for number in range(100):
            remembered.add("7", f"obj{number}", [], step(number))
            journal.flush()
    assert "its disk is full" in journal.problem and "X2SAM_STATE_DIR" in journal.problem
    assert len([line for line in caplog.messages if "disk is full" in line]) == 1, "told once"
    assert journal.owed_bytes > 0 and len(remembered) == 100
    limit(journal, 1 << 30)
    assert journal.flush() and not journal.problem and not journal.owed_bytes
    assert "can be written again" in caplog.text
    assert len(again(journal).steps(LARGE)) == 100


def test_what_is_owed_is_bounded(journals, monkeypatch):
    monkeypatch.setattr("backend.journal._OWED_BYTES", 20_000)
    journal = journals()
    limit(journal, 30)
    journal.note([row for number in range(10) for row in journal.step_rows("7", "mine", (), step(number))])
    for number in range(200):
        journal.note(journal.step_rows("7", f"ours{number}", (), step(number, tracked=True)))
        journal.flush()
    assert journal.owed_bytes <= 20_000
    limit(journal, 1 << 30)
    assert journal.flush()
    assert sum(name == "mine" for _, name, _ in journal.steps(LARGE)) == 10, "what can be made again is given up first"


def limit(journal, pages):
    with journal._file.begin() as database:
        database.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_damaged_file_is_set_aside(journals, tmp_path, caplog):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "journal.sqlite3").write_bytes(b"this is no database" * 100)
    with caplog.at_level(logging.ERROR):
        journal = journals()
    assert not journal.problem
    (aside,) = folder.glob("journal-damaged-*.sqlite3")
    assert aside.read_bytes().startswith(b"this is no database") and aside.name in caplog.text
    journal.note(journal.step_rows("7", "obj", (), step()))
    assert journal.flush() and len(journal.steps(LARGE)) == 1


def test_a_file_with_broken_pages_is_set_aside(journals, again, tmp_path):
    journal = journals()
    remembered = Remembered(journal=journal)
    for number in range(200):
        remembered.add("7", f"obj{number}", [f"{number}"], step(number))
    journal.flush()
    journal.close()
    path = tmp_path / "state" / "journal.sqlite3"
    data = bytearray(path.read_bytes())
    data[8192:40_000] = bytes(40_000 - 8192)
    path.write_bytes(bytes(data))
    journal = journals()
    assert list((tmp_path / "state").glob("journal-damaged-*.sqlite3")) and journal.steps(LARGE) == []
    assert journal.flush()


def test_a_newer_file_is_left_alone(journals, tmp_path):
    journals().close()
    path = tmp_path / "state" / "journal.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    journal = journals(wait=0)
    assert "newer release" in journal.problem
    journal.note(state_rows("x", FINISHED))
    assert not journal.flush()
    journal.close()
    assert path.read_bytes() == before and not list((tmp_path / "state").glob("journal-damaged*"))


def test_two_servers_do_not_share_a_journal(journals, monkeypatch):
    first, second = journals(), journals(wait=0)
    assert not first.problem and "Another ML backend" in second.problem
    first.close()
    monkeypatch.setattr(second, "_next_try", 0.0)
    second.note(second.step_rows("7", "obj", (), step()))
    assert second.flush() and len(second.steps(LARGE)) == 1, "it takes over when the other has ended"


def test_without_a_journal():
    journal = Journal(None, 0, DAY)
    remembered = Remembered(journal=journal)
    remembered.add("7", "obj1", ["a"], step())
    remembered.restore()
    assert journal.flush() and not journal.problem and not journal.total_bytes and not journal.owed_bytes
    assert remembered.object_of("7", "Object", ["a"]) == "obj1"
    journal.close()


def test_many_threads(journals, again):
    journal = journals()
    remembered = Remembered(journal=journal)

    def work(thread):
        for number in range(30):
            remembered.add("7", f"obj{thread}", [f"{thread}-{number}"], step(thread * 100 + number, page=number))
            assert journal.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(again(journal).steps(LARGE)) == 180
