"""Label Studio's API for commands: projects, tasks and uploads, one request at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from backend.errors import BackendError
from backend.settings import Settings
from backend.tokens import LabelStudioToken, read_access_token

_CONNECT_SECONDS = 10.0
_SECONDS = 300.0
_PAGE = 50
_TRIES = 4
_PAUSE = 0.5
_SAFE = frozenset({"GET", "PATCH"})


class LabelStudioError(BackendError):
    """Label Studio can't be reached or refuses; the text says which setting to mend."""


class NotThereError(LabelStudioError):
    """Label Studio has no such project or task, or does not show it to this user."""


class LabelStudioApi:
    """Calls as the user of ``LABEL_STUDIO_API_KEY``, a legacy or personal token.

    Calls that may be repeated are, a few times, when the connection fails or Label Studio is overloaded.
    """

    def __init__(self, settings: Settings, pause: float = _PAUSE):
        self.url = settings.label_studio_url
        self._pause = pause
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = settings.ca_bundle or True
        self._token = LabelStudioToken(settings.label_studio_api_key, self._exchange)

    def project(self, project: int) -> dict[str, Any]:
        """A project's settings.

        :raises LabelStudioError: there is none, or the user may not see it.
        """
        return self._call("GET", f"/api/projects/{project}/", f"project {project}")

    def tasks(self, project: int, key: str | None = None, value: str | None = None) -> Iterator[dict[str, Any]]:
        """The tasks of a project, page by page in order of their ids; with ``key`` those whose data holds a value."""
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        if key is not None:
            wanted = {"filter": f"filter:tasks:data.{key}", "operator": "equal", "type": "String", "value": value}
            query["filters"] = {"conjunction": "and", "items": [wanted]}
        seen, page = 0, 1
        while True:
            params = {"project": project, "page": page, "page_size": _PAGE, "query": json.dumps(query)}
            answer = self._call("GET", "/api/tasks", f"the tasks of project {project}", params=params)
            yield from answer["tasks"]
            seen, page = seen + len(answer["tasks"]), page + 1
            if not answer["tasks"] or seen >= answer["total"]:
                return

    def add_tasks(self, project: int, data: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of new tasks, in the order of their data."""
        body = [{"data": dict(entry)} for entry in data]
        path = f"/api/projects/{project}/import?return_task_ids=1"
        return self._call("POST", path, f"the import into project {project}", json=body)["task_ids"]

    def change_task(self, task: int, data: Mapping[str, Any]) -> None:
        """Replaces the data of a task; its annotations stay."""
        self._call("PATCH", f"/api/tasks/{task}/", f"task {task}", json={"data": dict(data)})

    def webhooks(self, project: int) -> list[dict[str, Any]]:
        """The webhooks of a project."""
        return self._call("GET", f"/api/webhooks/?project={project}", f"the webhooks of project {project}")

    def change_webhook(self, webhook: int, changes: Mapping[str, Any]) -> None:
        """Changes fields of a webhook; the others stay."""
        self._call("PATCH", f"/api/webhooks/{webhook}/", f"webhook {webhook}", json=dict(changes))

    def uploads(self, project: int, ids: Sequence[int] | None = None) -> list[str]:
        """Addresses, as tasks hold them, of files that this user uploaded to a project; all of them without ``ids``."""
        params = {"all": "true"} if ids is None else {"ids": json.dumps(list(ids))}
        path = f"/api/projects/{project}/file-uploads"
        listed = self._call("GET", path, f"the files of project {project}", params=params)
        return [f"/data/{upload['file']}" for upload in listed]

    def upload(self, project: int, files: Mapping[str, bytes]) -> list[str]:
        """Stores JPEG files, by name, without making tasks of them; their addresses, in no particular order."""
        parts = [(f"file{i}", (name, content, "image/jpeg")) for i, (name, content) in enumerate(files.items())]
        path = f"/api/projects/{project}/import?commit_to_project=false"
        stored = self._call("POST", path, f"the upload to project {project}", files=parts)
        return self.uploads(project, stored["file_upload_ids"])

    def _call(self, method: str, path: str, what: str, **options: Any) -> Any:
        tries = _TRIES if method in _SAFE else 1
        attempt = 1
        while True:
            try:
                answer = self._asked(method, path, **options)
            except requests.RequestException as error:
                if attempt == tries:
                    raise LabelStudioError(
                        f"Label Studio at {self.url} can't be reached ({type(error).__name__}); check LABEL_STUDIO_URL "
                        "and run the command again: it goes on where it stopped."
                    ) from error
            else:
                if answer.status_code < 500 or attempt == tries:
                    return self._good(answer, what)
            time.sleep(self._pause * 2**attempt)
            attempt += 1

    def _asked(self, method: str, path: str, **options: Any) -> requests.Response:
        """One answer, asked for again with a new access token when the old one ran out."""
        timeout = (_CONNECT_SECONDS, _SECONDS)
        answer = self._session.request(
            method, self.url + path, headers=self._token.header(), timeout=timeout, allow_redirects=False, **options
        )
        if answer.status_code == 401 and self._token.refuse():
            answer = self._session.request(
                method, self.url + path, headers=self._token.header(), timeout=timeout, allow_redirects=False, **options
            )
        return answer

    def _good(self, answer: requests.Response, what: str) -> Any:
        status = answer.status_code
        if status in (401, 403):
            raise LabelStudioError(
                f"Label Studio does not accept LABEL_STUDIO_API_KEY for {what}: set it to a token of a user who may."
            )
        if status == 404:
            raise NotThereError(f"Label Studio at {self.url} does not know {what}; check the number.")
        if status >= 300:
            raise LabelStudioError(f"Label Studio answered {status} to {what}; its log says more.")
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise LabelStudioError(f"{self.url} does not answer like Label Studio; check LABEL_STUDIO_URL.") from error

    def _exchange(self, personal_token: str) -> str:
        answer = self._session.post(
            f"{self.url}/api/token/refresh/", json={"refresh": personal_token}, timeout=_CONNECT_SECONDS
        )
        if answer.status_code != 200:
            raise LabelStudioError("Label Studio does not accept the personal access token in LABEL_STUDIO_API_KEY.")
        return read_access_token(answer.content)
