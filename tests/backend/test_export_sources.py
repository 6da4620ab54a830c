"""Tasks from Label Studio's API: what is asked, and what is not asked again."""

from __future__ import annotations

import numpy as np
import pytest
from exporting import CONFIG, annotation, content, drawn, read, task

from backend.export_run import Wanted, export
from backend.export_sources import JsonFile, Project
from backend.export_staging import ExportError, Staging, told
from backend.label_studio_api import LabelStudioError

MASK = np.eye(12, dtype=bool)


class FakeApi:
    """A project that counts what is asked, and fails after so many tasks."""

    url = "http://label-studio"

    def __init__(self, tasks, fail_after=None):
        self.tasks = {one["id"]: one for one in tasks}
        self.times = {number: "2026-01-01" for number in self.tasks}
        self.asked, self.fail_after = [], fail_after

    def project(self, number):
        return {"label_config": CONFIG}

    def listing(self, project):
        return iter(self.times.items())

    def whole_tasks(self, project, ids):
        for number in sorted(self.tasks):
            if ids[0] <= number <= ids[-1]:
                if self.fail_after is not None and len(self.asked) >= self.fail_after:
                    raise LabelStudioError("gone")
                self.asked.append(number)
                yield self.tasks[number]


def tasks(count=500):
    return [task(n, annotation([drawn(MASK, f"r{n}")], n)) for n in range(1, count + 1)]


def run(api, out, kind="coco"):
    return export(Project(api, 1), Wanted(kind, out), lambda *_: None)


def test_every_task_is_asked_once_in_small_parts(tmp_path):
    api = FakeApi(tasks(21))
    assert run(api, tmp_path / "out").masks == 21
    assert api.asked == list(range(1, 22))


def test_a_run_that_failed_asks_for_the_rest_and_for_what_changed(tmp_path):
    api = FakeApi(tasks(), fail_after=450)
    with pytest.raises(LabelStudioError):
        run(api, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    api.fail_after, api.asked = None, []
    api.tasks[3] = task(3, annotation([], 3))
    api.times[3] = "2026-01-02"
    del api.tasks[5], api.times[5]
    done = run(api, tmp_path / "out")
    assert done.reused >= 400 and 3 in api.asked and len(api.asked) == 499 - done.reused
    pictures = {image["task"] for image in read(tmp_path / "out" / "annotations.json")["images"]}
    assert pictures == set(range(1, 501)) - {3, 5}
    run(FakeApi(api.tasks.values()), tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_finished_export_is_asked_for_anew(tmp_path):
    api = FakeApi(tasks(3))
    for _ in range(2):
        assert run(api, tmp_path / "out").reused == 0
    assert len(api.asked) == 6


def test_the_order_of_a_file_does_not_matter_and_other_options_begin_anew(tmp_path):
    api = FakeApi(tasks(30), fail_after=25)
    with pytest.raises(LabelStudioError):
        run(api, tmp_path / "out")
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(Exception, match="no tasks to export"):
        export(JsonFile(tmp_path / "t.json"), Wanted("coco", tmp_path / "out"), lambda *_: None)
    api.fail_after = None
    assert run(api, tmp_path / "out").reused == 0


def test_a_full_disk_is_told_once(tmp_path):
    staging = Staging(tmp_path / "staging.sqlite3", "options")
    staging.save()
    staging.database.execute(f"PRAGMA max_page_count = {next(staging.rows('PRAGMA page_count'))[0]}")
    with pytest.raises(ExportError, match="free space"), told(tmp_path):
        while True:
            staging.database.execute("INSERT INTO file VALUES (hex(randomblob(9)), hex(randomblob(9000)), 1)")
    staging.close()
