"""The few calls of Label Studio's API that importing videos needs, in memory, shaped as version 1.23.2 answers them."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

TOKEN = "a" * 40
ACCESS = "short-lived"


def personal_token() -> str:
    """A token of the newer kind: it has to be exchanged before use."""
    payload = base64.urlsafe_b64encode(b'{"token_type": "refresh"}').decode().rstrip("=")
    return f"head.{payload}.signature"


PAGES = '<View><Image name="image" valueList="$frames"/></View>'


class LabelStudioStandIn:
    """Projects, tasks and uploaded files.

    After ``break_after`` calls that change something it fails, with ``late`` after having done what it was told.
    """

    def __init__(self) -> None:
        self.configs: dict[int, str] = {1: PAGES}
        self.all_tasks: list[dict[str, Any]] = []
        self.files: list[tuple[int, str, bytes]] = []
        self.calls: list[str] = []
        self.break_after: int | None = None
        self.late = False
        self.failures = 0
        self.expired = 0
        self.app = app = Flask("label-studio-stand-in")
        app.before_request(self._check)
        app.after_request(self._fail_late)
        app.add_url_rule("/api/token/refresh/", view_func=self._exchange, methods=["POST"])
        app.add_url_rule("/api/projects/<int:project>/", view_func=self._project)
        app.add_url_rule("/api/tasks", view_func=self._tasks)
        app.add_url_rule("/api/tasks/<int:task>/", view_func=self._change, methods=["PATCH"])
        app.add_url_rule("/api/projects/<int:project>/import", view_func=self._import, methods=["POST"])
        app.add_url_rule("/api/projects/<int:project>/file-uploads", view_func=self._uploads)
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tasks(self, project: int = 1) -> list[dict[str, Any]]:
        return [task for task in self.all_tasks if task["project"] == project]

    def _check(self) -> Any:
        self.calls.append(f"{request.method} {request.path}")
        if request.path == "/api/token/refresh/":
            return None
        if request.headers.get("Authorization") not in (f"Token {TOKEN}", f"Bearer {ACCESS}{self.expired}"):
            return jsonify(detail="Invalid token."), 401
        if self.failures:
            self.failures -= 1
            return Response(status=502)
        if request.method != "GET" and self.break_after is not None:
            if not self.break_after and not self.late:
                return Response(status=500)
            self.break_after -= 1
        return None

    def _fail_late(self, answer: Response) -> Response:
        return Response(status=504) if self.late and self.break_after == -1 else answer

    def _exchange(self) -> Any:
        if request.get_json() != {"refresh": personal_token()}:
            return jsonify(detail="Token is invalid"), 401
        return jsonify(access=f"{ACCESS}{self.expired}")

    def _project(self, project: int) -> Any:
        if project not in self.configs:
            return jsonify(detail="No Project matches the given query."), 404
        return jsonify(id=project, label_config=self.configs[project])

    def _tasks(self) -> Any:
        assert request.args["review"] == "true", "a plain listing asks ML backends for predictions"
        assert request.args["resolve_uri"] == "false", "else addresses come changed, and would be written back so"
        query = json.loads(request.args["query"])
        found = self.tasks(int(request.args["project"]))
        for item in query.get("filters", {}).get("items", []):
            name = item["filter"].removeprefix("filter:tasks:data.")
            found = [task for task in found if task["data"].get(name) == item["value"]]
        page, size = int(request.args["page"]), int(request.args["page_size"])
        part = found[(page - 1) * size : page * size]
        if not part and page > 1:
            return jsonify(detail="Invalid page."), 404
        return jsonify(total=len(found), tasks=part)

    def _change(self, task: int) -> Any:
        self.all_tasks[task - 1]["data"] = request.get_json()["data"]
        return jsonify(self.all_tasks[task - 1])

    def _import(self, project: int) -> Any:
        if request.files:
            ids = []
            for file in request.files.values():
                self.files.append((project, f"upload/{project}/{len(self.files):08x}-{file.filename}", file.read()))
                ids.append(len(self.files))
            return jsonify(file_upload_ids=ids, task_count=len(ids)), 201
        ids = []
        for entry in request.get_json():
            ids.append(len(self.all_tasks) + 1)
            self.all_tasks.append({"id": ids[-1], "project": project, "data": entry["data"]})
        return jsonify(task_ids=ids), 201

    def _uploads(self, project: int) -> Any:
        wanted = json.loads(request.args["ids"]) if "ids" in request.args else range(1, len(self.files) + 1)
        kept = [(i, self.files[i - 1]) for i in wanted]
        return jsonify(
            [{"id": i, "file": name, "size": len(data)} for i, (owner, name, data) in kept if owner == project]
        )
