"""The stand-in for Label Studio's files, with the two pages of its API that tell which tasks come next."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

from picture_server import PictureServer, picture_bytes


class ProjectServer(PictureServer):
    """One project with ``tasks`` by id; ``scores`` of their predictions; ``finished`` tasks; what was ``listed``."""

    def __init__(self, project: int = 7):
        super().__init__()
        self.project, self.sampling = project, "Sequential sampling"
        self.tasks: dict[int, dict] = {}
        self.scores: dict[int, float] = {}
        self.finished: set[int] = set()
        self.listed: list[dict] = []

    def add(self, task: int, name: str | None = None, content: bytes | None = None, **data) -> dict:
        """A task with a picture of its own, as it comes with requests."""
        name = name or f"picture{task}"
        if not data:
            data = {"image": f"/data/local-files/?d={name}"}
        self.files[name] = content or picture_bytes(100 + 2 * task, 80)
        self.tasks[task] = {"id": task, "data": data}
        return self.tasks[task]

    def fetched(self) -> list[str]:
        """Names of the pictures that were asked for, in order."""
        return [parse_qs(urlsplit(path).query)["d"][0] for path, _ in self.seen if path.startswith("/data/local")]

    def content(self, path: str) -> bytes | None:
        parts = urlsplit(path)
        if parts.path == f"/api/projects/{self.project}/":
            return json.dumps({"id": self.project, "sampling": self.sampling}).encode()
        if parts.path == "/api/tasks":
            return json.dumps(self._list({name: values[0] for name, values in parse_qs(parts.query).items()})).encode()
        return super().content(path)

    def _list(self, asked: dict[str, str]) -> dict:
        self.listed.append(asked)
        assert asked["project"] == str(self.project)
        query = json.loads(asked["query"])
        filters = {
            (f["filter"].removeprefix("filter:tasks:"), f["operator"]): f["value"] for f in query["filters"]["items"]
        }
        found = [task for task in self.tasks if task not in self.finished or not filters.get(("completed_at", "empty"))]
        found = [task for task in found if task > filters.get(("id", "greater"), -1)]
        found = [task for task in found if task != filters.get(("id", "not_equal"))]
        if query["ordering"] == ["tasks:predictions_score"]:
            found.sort(key=lambda task: self.scores.get(task, 2.0))
        else:
            found.sort()
        start = (int(asked["page"]) - 1) * int(asked["page_size"])
        page = found[start : start + int(asked["page_size"])]
        return {"tasks": [self.tasks[task] for task in page], "total": len(found)}
