"""A Label Studio server as a child process, and its API: for the demo and the integration tests.

Label Studio lives in an environment of its own, since it pins versions of packages that we use too. The server listens
on this machine only, keeps everything in one folder (SQLite), and may call ML backends on this machine.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

_START = "import sys; from label_studio.server import main; sys.exit(main())"
_OWN_VARIABLES = ("LABEL_STUDIO_", "HEARTEX_", "DJANGO_")
_BARE_VARIABLES = frozenset({"USERNAME", "PASSWORD", "USER_TOKEN", "HOST", "PORT", "DEBUG", "PYTHONPATH"})


class ServerError(RuntimeError):
    """A server did not start, or refused a call; the text has the end of its log or its answer."""


def free_port(preferred: int = 0) -> int:
    """The preferred port of this machine if nobody uses it, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServerError("this machine has no free port")


class ChildServer:
    """A server process with a log file and an address that tells when it is ready."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, ready_url: str, environment: dict[str, str], cwd: Path
    ):
        self.name, self.log, self._ready_url = name, log, ready_url
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            # A session of its own: Ctrl-C reaches us first, and stopping takes the server's children along.
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def running(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, seconds: float = 180.0) -> None:
        """Returns when the server answers 200.

        :raises ServerError: it ended, can't load its model, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not self._answers():
            if not self.running():
                raise ServerError(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not ready after {seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends the server and its children."""
        for signal_number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            if not self.running():
                return
            os.killpg(self._process.pid, signal_number)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        try:
            answer = requests.get(self._ready_url, timeout=5)
        except requests.RequestException:
            return False
        if '"failed"' in answer.text:
            raise ServerError(f"{self.name} could not load its model:\n{self.log_tail()}")
        return answer.status_code == 200


class LabelStudioServer:
    """Label Studio on this machine. ``/data/local-files/?d=...`` looks into ``files_root``; None serves no files.

    ``environment`` changes single variables of the server's environment; None unsets one.
    """

    def __init__(
        self,
        python: Path,
        folder: Path,
        files_root: Path | None = None,
        port: int = 0,
        username: str = "demo@example.com",
        password: str = "x2sam-demo",
        token: str | None = None,
        environment: Mapping[str, str | None] | None = None,
    ):
        self._changes = dict(environment or {})
        self.python, self.folder, self.files_root = python, folder, files_root
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.username, self.password, self.token = username, password, token or secrets.token_hex(20)
        self.process: ChildServer | None = None

    def start(self) -> None:
        """Begins to start; the first start of a folder takes about 20 seconds. See :meth:`wait_ready`."""
        if not self.python.exists():
            raise ServerError(f"there is no {self.python}: run 'make setup', or set LABEL_STUDIO_PYTHON")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self.python), "-c", _START, "start", "--no-browser"]
        command += ["--internal-host", "127.0.0.1", "--port", str(self.port), "--log-level", "WARNING"]
        command += ["--username", self.username, "--password", self.password, "--user-token", self.token]
        command += ["--enable-legacy-api-token"]
        self.process = ChildServer(
            "Label Studio",
            command,
            self.folder / "label-studio.log",
            f"{self.url}/health",
            self._environment(),
            self.folder,
        )

    def wait_ready(self, seconds: float = 180.0) -> None:
        self.process.wait_ready(seconds)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def api(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        """The JSON answer of a call.

        :raises ServerError: the answer is an error.
        """
        headers = {"Authorization": f"Token {self.token}"}
        answer = requests.request(method, self.url + path, json=json, headers=headers, timeout=120, **options)
        if answer.status_code >= 400:
            raise ServerError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def projects(self) -> dict[str, int]:
        """Title -> id of the projects there are."""
        listed = self.api("GET", "/api/projects/?page_size=1000")["results"]
        return {project["title"]: project["id"] for project in listed}

    def create_project(self, title: str, label_config: str, **fields: Any) -> int:
        return self.api("POST", "/api/projects/", {"title": title, "label_config": label_config, **fields})["id"]

    def serve_folder(self, project: int, folder: Path) -> None:
        """Lets tasks of a project name files in a folder below ``files_root``."""
        storage = {"project": project, "path": str(folder), "use_blob_urls": True, "regex_filter": ".*"}
        self.api("POST", "/api/storages/localfiles/", storage)

    def import_tasks(self, project: int, tasks: Sequence[dict[str, Any]]) -> list[int]:
        """Ids of the new tasks, each given by its data."""
        path = f"/api/projects/{project}/import?return_task_ids=1"
        return self.api("POST", path, [{"data": data} for data in tasks])["task_ids"]

    def attach_backend(self, project: int, url: str, **fields: Any) -> int:
        """Makes a backend the interactive one of a project, in place of others; Label Studio asks it for its health."""
        for old in self.api("GET", f"/api/ml?project={project}"):
            self.api("DELETE", f"/api/ml/{old['id']}")
        body = {"project": project, "url": url, "title": "x2sam", "is_interactive": True, **fields}
        return self.api("POST", "/api/ml", body)["id"]

    def ask(self, backend: int, task: int, *prompts: dict[str, Any]) -> dict[str, Any]:
        """What the editor does when somebody clicks: the prompts go to the backend, its answer comes back.

        :raises ServerError: the backend gave an error, which the editor would not show.
        """
        body = {"task": task, "context": {"result": list(prompts)}}
        answer = self.api("POST", f"/api/ml/{backend}/interactive-annotating", body)
        if answer.get("errors"):
            raise ServerError(f"the ML backend did not answer: {answer['errors']}")
        return answer["data"]

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OWN_VARIABLES) and name not in _BARE_VARIABLES
        }
        kept |= {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_DATABASE_NAME": str(self.folder / "label_studio.sqlite3"),
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",  # else no backend on this machine can be attached
            "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
            "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
            "LABEL_STUDIO_SENTRY_DSN": "",
            "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        }
        if self.files_root is not None:
            kept["LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED"] = "true"
            kept["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] = str(self.files_root)
        return {name: value for name, value in (kept | self._changes).items() if value is not None}


def click(x: float, y: float, size: tuple[int, int], name: str, label: str = "Object", **fields: Any) -> dict[str, Any]:
    """A smart click as the editor sends it: percent of the picture, whose size is (H, W)."""
    height, width = size
    return {
        "id": name,
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
        "is_positive": True,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.23, "labels": [label], "keypointlabels": [label]},
        **fields,
    }
