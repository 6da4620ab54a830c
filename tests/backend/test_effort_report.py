"""A project's effort from tasks as Label Studio's API gives them, beside a journal that a server writes."""

from __future__ import annotations

import sqlite3

import pytest
from exporting import annotation, items, task
from test_effort import APART, CONFIG, TEN, TWENTY, A, B, C, click, step

from backend.effort_report import collect, steps_in
from backend.export_sources import Fetched
from backend.journal import Journal
from backend.pseudonyms import Pseudonyms
from backend.remembered import Remembered


class Source:
    """Tasks that are there."""

    config, name = CONFIG, "a list"

    def __init__(self, *tasks):
        self._tasks = tasks

    def tasks(self, known, progress):
        for number, one in enumerate(self._tasks, 1):
            yield Fetched(one["id"], "", one)
            progress(number, len(self._tasks))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path, 1 << 20, 86400)
    remembered = Remembered(journal=journal, version=lambda: "v7")
    for task_id, name, one in (
        ("1", A, step(TEN, click("a"), version="")),
        ("1", A, step(TWENTY, click("a"), click("b"), version="")),
        ("1", B, step(APART, click("c"), version="")),  # nobody keeps it
        ("1", C, step(APART, version="")),  # found by words, and not kept: no drawn prompt
        ("11", A, step(APART, click("d"), version="")),
        ("2", A, step(APART, click("e"), version="")),  # nothing is submitted there
    ):
        remembered.add(task_id, name, [], one)
    assert journal.flush()
    yield tmp_path
    journal.close()


TASKS = (
    task(1, annotation(items(TWENTY, name=A), lead_time=6.0, created_at="2026-11-20T16:37:59Z"),
         annotation(items(TEN, name=A), 2, person=2, lead_time=2.0),
         annotation(items(TEN, name=A), 3, was_cancelled=True)),
    task(2),
    task(11, annotation(items(TEN, name=A))),
)  # fmt: skip


def test_prompts_come_from_the_journal_while_a_server_has_it(journal):
    seen = []
    with steps_in(journal) as (steps_of, problem):
        found = collect(Source(*TASKS), steps_of, None, 0.5, lambda *far: seen.append(far)).as_json()
    assert problem == "" and seen == [(1, 3), (2, 3), (3, 3)]
    assert (found["tasks"], found["annotations"]["with_masks"], found["annotations"]["cancelled"]) == (3, 3, 1)
    total = found["total"]
    # TWENTY and TEN are the two answers about A; in task 11 APART was proposed and TEN submitted
    assert total["untouched"] == {"known": 3, "share": 0.6667}
    assert total["prompts_per_mask"]["mean"] == 1.6667  # 2, 2, 1
    assert total["iou"]["mean"] == 0.6667  # 1, 1, 0
    assert total["seconds_per_mask"] == {"known": 2, "mean": 4.0, "median": 4.0}
    assert [row["name"] for row in found["by_version"]] == ["v7"]
    assert found["prompted_and_dropped"] == {"objects": 1, "prompts": 1}


def test_without_a_journal_prompts_are_unknown(tmp_path):
    with steps_in(tmp_path) as (steps_of, problem):
        found = collect(Source(*TASKS), steps_of).as_json()
    assert "X2SAM_STATE_DIR" in problem and found["journal"] is False
    assert found["total"]["kinds"]["unknown"] == 3 and found["total"]["prompts_per_mask"]["known"] == 0


def test_damaged_entries_count_as_forgotten(journal):
    with sqlite3.connect(journal / "journal.sqlite3") as database:
        database.execute("UPDATE step SET about = x'0102' WHERE owner LIKE '[\"11\"%'")
    with steps_in(journal) as (steps_of, _):
        assert steps_of("11") == {} and steps_of("1").keys() == {(A, 0), (B, 0), (C, 0)}


def test_annotators_are_told_apart_by_pseudonym():
    people = Pseudonyms("a key")
    found = collect(Source(*TASKS), None, people).as_json()
    assert [(row["name"], row["masks"]) for row in found["by_annotator"]] == [(people.of(1), 2), (people.of(2), 1)]
