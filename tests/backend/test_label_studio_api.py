"""Calls of Label Studio's API that do not go well: what is asked again, and what is told."""

from __future__ import annotations

import json

import pytest

from backend.clients import NoAnswer, Reply
from backend.label_studio_api import LabelStudioApi, LabelStudioError, TooLongError
from backend.settings import Settings


@pytest.fixture
def api(monkeypatch):
    """An API whose answers are given one after the other; ``asked`` holds the requests."""
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://label-studio")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a" * 40)
    made = LabelStudioApi(Settings.from_environment(), pause=0)
    made.answers, made.asked = [], []

    def ask(_client, method, path, body=None, seconds=60.0):
        made.asked.append((method, path))
        answer = made.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("backend.clients.LabelStudioClient.ask", ask)
    return made


def reply(content, status=200, location=""):
    return Reply(status, location, json.dumps(content).encode())


BUSY = reply({"detail": "Request was throttled."}, 429)
BODY = [{"task": 1, "result": []}]


def test_what_was_too_much_is_asked_again_whatever_it_is(api):
    api.answers = [BUSY, BUSY, reply({"id": 7}, 201)]
    assert api.predict(BODY) == [7]
    assert api.asked == [("POST", "/api/predictions/")] * 3
    api.answers = [BUSY] * 9
    with pytest.raises(LabelStudioError, match=r"takes no more requests for now .*later"):
        api.project(1)
    assert len(api.answers) == 5


@pytest.mark.parametrize("answer", [reply({}, 502), NoAnswer("the connection broke")])
def test_what_may_have_been_done_is_not_done_twice(api, answer):
    api.answers = [answer] * 4
    with pytest.raises(LabelStudioError):
        api.predict(BODY)
    assert len(api.asked) == 1
    api.answers = [answer, answer, reply({"id": 1})]
    assert api.project(1) == {"id": 1}


def test_another_address_is_told_without_its_query(api):
    api.answers = [reply(None, 301, "https://label-studio/api/projects/1/?token=secret")]
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL") as found:
        api.project(1)
    assert "https://label-studio/api/projects/1" in str(found.value) and "secret" not in str(found.value)


def test_tasks_too_long_for_one_answer_are_asked_one_by_one(api):
    long = NoAnswer("the answer is longer than 64 MB")
    api.answers = [long, reply({"tasks": [{"id": 4}]}), long]
    tasks = api.whole_tasks(1, [4, 5])
    assert next(tasks) == {"id": 4}
    with pytest.raises(TooLongError, match=r"Task 5 .*--from-json"):
        next(tasks)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "wants a token for project 1: set LABEL_STUDIO_API_KEY"),
        ("b" * 40, "does not accept the legacy token in LABEL_STUDIO_API_KEY"),
    ],
)
def test_no_token_is_told_otherwise_than_a_wrong_one(key, told, monkeypatch):
    monkeypatch.setattr("backend.clients.LimitedClient.ask", lambda *_given, **_more: reply({}, 401))
    with pytest.raises(LabelStudioError, match=told):
        LabelStudioApi(Settings(label_studio_api_key=key)).project(1)
