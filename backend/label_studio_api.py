"""Label Studio's API for commands: projects, tasks and uploads, one request at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import urlencode

import requests

from backend.clients import Form, LabelStudioClient, NoAnswer, Reply, shown
from backend.errors import BackendError
from backend.settings import Settings

_SECONDS = 300.0
_PAGE = 50
_LISTED = 500
_TRIES = 4
_PAUSE = 0.5
_LONGEST_PAUSE = 120.0  # however long a server asks for
_SAFE = frozenset({"GET", "PATCH"})
_TOO_MANY = 429  # nothing was done yet, so everything may be asked again


class LabelStudioError(BackendError):
    """Label Studio can't be reached or refuses; the text says which setting to mend."""


class NotThereError(LabelStudioError):
    """Label Studio has no such project or task, or does not show it to this user."""


class UnansweredError(LabelStudioError):
    """No usable answer came: what was asked for may have been done."""


class RefusedError(LabelStudioError):
    """Label Studio has something against this very request; others may go."""


class TooLongError(LabelStudioError):
    """An answer is longer than what is read at once."""


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """A filter of the Data Manager on a column of the tasks."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


class LabelStudioApi:
    """Calls as the user of ``LABEL_STUDIO_API_KEY``, a legacy or personal token.

    Calls that may be repeated are, a few times, when the connection fails or Label Studio is overloaded; all of them
    are when it counts requests and there were too many, after the time that it asks for. ``rate`` is how many requests
    it gets per second at most; 0 for as many as there are. Threads may share one.
    """

    def __init__(self, settings: Settings, pause: float = _PAUSE, rate: float = 0.0):
        self.url = settings.label_studio_url
        self._pause, self._between = pause, 1 / rate if rate else 0.0
        self._client = LabelStudioClient(settings)
        self._lock, self._free = threading.Lock(), 0.0

    def project(self, project: int) -> dict[str, Any]:
        """A project's settings.

        :raises LabelStudioError: there is none, or the user may not see it.
        """
        return self._call("GET", f"/api/projects/{project}/", f"project {project}")

    def tasks(self, project: int, key: str | None = None, value: str | None = None) -> Iterator[dict[str, Any]]:
        """Id and data, as it was imported, of the tasks of a project, page by page in order of their ids; with ``key``
        those whose data holds a value.

        ``review`` keeps Label Studio from asking ML backends for predictions of what it lists.
        """
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        if key is not None:
            query["filters"] = {"conjunction": "and", "items": [task_filter(f"data.{key}", "equal", "String", value)]}
        seen, page = 0, 1
        while True:
            given = {"project": project, "page": page, "page_size": _PAGE, "query": json.dumps(query)}
            params = urlencode({**given, "include": "id,data", "review": "true", "resolve_uri": "false"})
            answer = self._call("GET", f"/api/tasks?{params}", f"the tasks of project {project}")
            yield from answer["tasks"]
            seen, page = seen + len(answer["tasks"]), page + 1
            if not answer["tasks"] or seen >= answer["total"]:
                return

    def listing(self, project: int) -> Iterator[tuple[int, str]]:
        """Id and time of the last change of each task, in order of their ids.

        ``review`` keeps Label Studio from asking ML backends for predictions of what it lists.
        """
        return ((task["id"], str(task.get("updated_at") or "")) for task in self._listed(project, "id,updated_at"))

    def ids(self, project: int, filters: Sequence[Mapping[str, Any]] = ()) -> Iterator[int]:
        """Ids of the tasks that all of the Data Manager's ``filters`` let through, in order."""
        return (task["id"] for task in self._listed(project, "id", filters))

    def listed_data(self, project: int) -> Iterator[dict[str, Any]]:
        """The tasks with their data only, in order of their ids."""
        return self._listed(project, "id,data")

    def _listed(
        self, project: int, entries: str, filters: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        last = 0
        while tasks := self._tasks_from(project, last + 1, None, _LISTED, {"include": entries}, filters):
            yield from tasks
            last = tasks[-1]["id"]

    def whole_tasks(self, project: int, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Tasks with their annotations and predictions, data as it was imported; ``ids`` in order, and those of the
        project in between. One by one where several are too much for one answer."""
        try:
            yield from self._tasks_from(project, ids[0], ids[-1], len(ids), {"fields": "all"})
        except TooLongError:
            if len(ids) == 1:
                raise TooLongError(
                    f"Task {ids[0]} is too long for one answer of Label Studio; export the project there as JSON and "
                    "use --from-json."
                ) from None
            for task in ids:
                yield from self.whole_tasks(project, [task])

    def _tasks_from(
        self, project: int, first: int, last: int | None, most: int, fields: Mapping[str, str],
        filters: Sequence[Mapping[str, Any]] = (),
    ) -> list[dict[str, Any]]:  # fmt: skip
        if last is None:
            wanted = task_filter("id", "greater_or_equal", "Number", first)
        else:
            wanted = task_filter("id", "in", "Number", {"min": first, "max": last})
        query = {"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": [wanted, *filters]}}
        given = {"project": project, "page": 1, "page_size": most, "review": "true", "resolve_uri": "false"}
        params = urlencode({**given, **fields, "query": json.dumps(query)})
        return self._call("GET", f"/api/tasks?{params}", f"the tasks of project {project}")["tasks"]

    def predict(self, predictions: Sequence[Mapping[str, Any]]) -> list[int]:
        """Adds predictions, each with its ``task``; their ids."""
        return [
            self._call("POST", "/api/predictions/", f"a prediction of task {body['task']}", dict(body))["id"]
            for body in predictions
        ]

    def score_prediction(self, prediction: int, score: float) -> None:
        """Changes the score of a prediction.

        :raises NotThereError: it was deleted.
        """
        self._call("PATCH", f"/api/predictions/{prediction}/", f"prediction {prediction}", {"score": score})

    def change_project(self, project: int, changes: Mapping[str, Any]) -> None:
        """Changes settings of a project; the others stay."""
        self._call("PATCH", f"/api/projects/{project}/", f"project {project}", dict(changes))

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions of a task."""
        return self._call("GET", f"/api/predictions/?task={task}", f"the predictions of task {task}")

    def annotations(self, task: int) -> list[dict[str, Any]]:
        """The annotations of a task."""
        return self._call("GET", f"/api/tasks/{task}/annotations/", f"the annotations of task {task}")

    def annotate(self, task: int, result: Sequence[Mapping[str, Any]]) -> None:
        """Adds an annotation to a task, as the user of the token."""
        self._call("POST", f"/api/tasks/{task}/annotations/", f"an annotation of task {task}", {"result": list(result)})

    def add_tasks(self, project: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of new tasks, in the order of their data."""
        body = [{"data": dict(entry)} for entry in data]
        path = f"/api/projects/{project}/import?return_task_ids=1"
        return self._call("POST", path, f"the import into project {project}", body)["task_ids"]

    def change_task(self, task: int, data: Mapping[str, Any]) -> None:
        """Replaces the data of a task; its annotations stay."""
        self._call("PATCH", f"/api/tasks/{task}/", f"task {task}", {"data": dict(data)})

    def task_meta(self, project: int, task: int) -> dict[str, Any]:
        """What people and programs have noted about a task."""
        tasks = self._tasks_from(project, task, task, 1, {"include": "id,meta"})
        if not tasks:
            raise NotThereError(f"Project {project} has no task {task} any more.")
        meta = tasks[0].get("meta")
        return meta if isinstance(meta, dict) else {}

    def change_meta(self, task: int, meta: Mapping[str, Any]) -> None:
        """Replaces what is noted about a task; its data and annotations stay."""
        # The answer has all annotations of the task in it: one that is too long to be read says that it was done.
        with suppress(TooLongError):
            self._call("PATCH", f"/api/tasks/{task}/", f"task {task}", {"meta": dict(meta)})

    def webhooks(self, project: int) -> list[dict[str, Any]]:
        """The webhooks of a project."""
        return self._call("GET", f"/api/webhooks/?project={project}", f"the webhooks of project {project}")

    def change_webhook(self, webhook: int, changes: Mapping[str, Any]) -> None:
        """Changes fields of a webhook; the others stay."""
        self._call("PATCH", f"/api/webhooks/{webhook}/", f"webhook {webhook}", dict(changes))

    def uploads(self, project: int, ids: Sequence[int] | None = None) -> list[str]:
        """Addresses, as tasks hold them, of files that this user uploaded to a project; all of them without ``ids``."""
        params = {"all": "true"} if ids is None else {"ids": json.dumps(list(ids))}
        path = f"/api/projects/{project}/file-uploads?{urlencode(params)}"
        listed = self._call("GET", path, f"the files of project {project}")
        return [f"/data/{upload['file']}" for upload in listed]

    def upload(self, project: int, files: Mapping[str, bytes]) -> list[str]:
        """Stores JPEG files, by name, without making tasks of them; their addresses, in no particular order."""
        parts = [(f"file{i}", (name, content, "image/jpeg")) for i, (name, content) in enumerate(files.items())]
        packed = requests.Request("POST", self.url, files=parts).prepare()
        form = Form(packed.body, packed.headers["Content-Type"])
        path = f"/api/projects/{project}/import?commit_to_project=false"
        stored = self._call("POST", path, f"the upload to project {project}", form)
        return self.uploads(project, stored["file_upload_ids"])

    def _call(self, method: str, path: str, what: str, body: Any = None) -> Any:
        for attempt in count(1):
            last, pause = attempt == _TRIES, self._pause * 2**attempt
            self._wait_turn()
            try:
                reply = self._client.ask(method, path, body, _SECONDS)
            except NoAnswer as error:
                if "longer than" in str(error):
                    raise TooLongError(f"Label Studio's answer to {what} can't be read: {error}.") from error
                if last or method not in _SAFE:
                    raise UnansweredError(
                        f"Label Studio at {self.url} can't be reached ({error}); check LABEL_STUDIO_URL and run the "
                        "command again: it goes on where it stopped."
                    ) from error
            else:
                again = reply.status == _TOO_MANY or (reply.status >= 500 and method in _SAFE)
                if last or not again:
                    return self._good(reply, what)
                pause = max(pause, min(reply.retry_after or 0.0, _LONGEST_PAUSE))
            time.sleep(pause)

    def _wait_turn(self) -> None:
        """Returns when the next request may go."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free)
            self._free = begin + self._between
        if begin > now:
            time.sleep(begin - now)

    def _good(self, reply: Reply, what: str) -> Any:
        status = reply.status
        if status in (401, 403) and not self._client.has_token:
            raise LabelStudioError(f"Label Studio wants a token for {what}: set LABEL_STUDIO_API_KEY to a user's.")
        if status in (401, 403):
            raise LabelStudioError(
                f"Label Studio does not accept the {self._client.token_kind} token in LABEL_STUDIO_API_KEY for {what}: "
                "set it to a token of a user who may."
            )
        if status == 404:
            raise NotThereError(
                f"Label Studio at {self.url} does not know {what}; check the number, and LABEL_STUDIO_URL."
            )
        if status == _TOO_MANY:
            raise LabelStudioError(
                f"Label Studio takes no more requests for now ({what}); run the command again later."
            )
        if status < 400 and reply.location:
            raise LabelStudioError(
                f"Label Studio at {self.url} sends on to {shown(reply.location)}; set LABEL_STUDIO_URL to the address "
                "where it is."
            )
        if status >= 300:
            kind = UnansweredError if status >= 500 else RefusedError
            raise kind(f"Label Studio answered {status} to {what}; its log says more.")
        found = reply.json()
        if found is None and reply.body:
            raise LabelStudioError(f"{self.url} does not answer like Label Studio; check LABEL_STUDIO_URL.")
        return found
