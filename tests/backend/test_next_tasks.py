"""Which tasks come next, from Label Studio's API and without leaving a trace in it."""

from __future__ import annotations

import json

import pytest
from project_server import ProjectServer

from backend.errors import MediaError
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.next_tasks import NextTasks
from backend.settings import Settings


@pytest.fixture
def project():
    server = ProjectServer()
    for task in range(1, 10):
        server.add(task)
    yield server
    server.close()


@pytest.fixture
def fetcher(project, tmp_path):
    settings = Settings(label_studio_url=project.url, label_studio_api_key="secret", media_timeout=5)
    return MediaFetcher(settings, FileCache(tmp_path, 10**8, 3600))


@pytest.fixture
def next_tasks(fetcher):
    return NextTasks(fetcher.ask_label_studio)


def ids(tasks):
    return [int(task.id) for task in tasks]


def test_those_after_the_current_one_that_nobody_finished(next_tasks, project):
    project.finished = {5}
    found = next_tasks.after("7", "3", 3)
    assert ids(found) == [4, 6, 7]
    assert found[0].data == project.tasks[4]["data"]
    assert ids(next_tasks.after("7", "8", 3)) == [9]
    assert ids(next_tasks.after("7", "9", 3)) == []


def test_the_listing_has_no_effect_in_label_studio(next_tasks, project):
    next_tasks.after("7", "3", 2)
    assert not any("/next" in path for path, _ in project.seen), "that would lock the task"
    (asked,) = project.listed
    assert asked["review"] == "true", "else Label Studio would ask us for predictions of what it lists"
    assert (asked["page_size"], asked["resolve_uri"]) == ("2", "false")


def test_uncertain_tasks_first_where_the_project_hands_them_out_so(next_tasks, project):
    project.sampling = "Uncertainty sampling"
    project.scores = {9: 0.1, 2: 0.2, 5: 0.05, 3: 0.01}
    assert ids(next_tasks.after("7", "3", 3)) == [5, 9, 2]


def test_what_is_drawn_at_random_is_not_guessed(next_tasks, project):
    project.sampling = "Uniform sampling"
    assert next_tasks.after("7", "3", 3) == []
    project.finished = {1, 2, 4, 5, 6, 7}
    assert ids(next_tasks.after("7", "3", 3)) == [8, 9], "the last ones come in any case"


def test_the_project_is_asked_once_in_a_while(fetcher, project):
    clock = [0.0]
    next_tasks = NextTasks(fetcher.ask_label_studio, lambda: clock[0])
    pages = lambda: [path.split("?")[0] for path, _ in project.seen].count("/api/projects/7/")  # noqa: E731
    for _ in range(3):
        next_tasks.after("7", "3", 3)
    assert pages() == 1
    clock[0] = 301.0
    next_tasks.after("7", "3", 3)
    assert pages() == 2


@pytest.mark.parametrize("project_id, task_id", [("", "3"), ("7", ""), ("../7", "3"), ("7", "3&page_size=1000")])
def test_ids_that_are_no_numbers_ask_nothing(next_tasks, project, project_id, task_id):
    assert next_tasks.after(project_id, task_id, 3) == []
    assert project.seen == []


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b'{"tasks": {}, "total": 1}', b'{"tasks": []}', b"[" * 9999]
)
def test_answers_that_are_none(answer):
    pages = {"/api/projects/7/": b'{"sampling": "Sequential sampling"}'}
    next_tasks = NextTasks(lambda path, limit: pages.get(path, answer))
    with pytest.raises(MediaError):
        next_tasks.after("7", "3", 3)


def test_a_very_long_answer_is_not_read(fetcher, project):
    project.files["/api/long"] = b"x" * 2000
    with pytest.raises(MediaError, match="larger"):
        fetcher.ask_label_studio("/api/long", 1000)
    assert len(fetcher.ask_label_studio("/api/long", 2000)) == 2000


def test_the_token_goes_to_label_studio_only(fetcher, project):
    other = ProjectServer()
    project.redirects["/api/projects/7/"] = f"{other.url}/api/projects/7/"
    try:
        with pytest.raises(MediaError):
            fetcher.ask_label_studio("/api/projects/7/", 1000)
        assert project.seen[0][1]["Authorization"] == "Token secret"
        assert other.seen == []
    finally:
        other.close()


def test_more_than_was_asked_for_is_cut(project):
    tasks = json.dumps({"tasks": [{"id": n, "data": {}} for n in range(9)], "total": 9}).encode()
    next_tasks = NextTasks(lambda path, limit: tasks)
    assert len(next_tasks.after("7", "3", 3)) == 3
