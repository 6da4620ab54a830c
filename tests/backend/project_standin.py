"""The stand-in for Label Studio with what pre-annotation needs besides: filters, predictions, pictures, and limits.

``python project_standin.py ...`` runs ``python -m backend ...`` with the stand-in engine, which takes ``SLOW`` seconds
(of the environment) for each answer.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any

from flask import Response, jsonify, request
from label_studio_standin import LabelStudioStandIn

LABELS = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
</View>"""


class ProjectStandIn(LabelStudioStandIn):
    """Project 1, with ``predictions`` by id, ``annotated`` tasks, ``pictures`` by name.

    ``busy`` requests are answered with 429 and ``retry_after``; ``slow_posts`` seconds pass after a prediction was
    stored and before that is told; the answers to ``lost`` of them are errors.
    """

    def __init__(self, config: str = LABELS) -> None:
        self.predictions: dict[int, dict[str, Any]] = {}
        self.annotated: set[int] = set()
        self.pictures: dict[str, bytes] = {}
        self.busy, self.retry_after, self.slow_posts, self.lost = 0, "", 0.0, 0
        self.refused: set[int] = set()
        self.changes: dict[str, Any] = {}
        self.times: list[float] = []
        super().__init__()
        self.configs[1] = config
        rules = self.app.add_url_rule
        rules("/api/projects/<int:project>/", "change", self._change_project, methods=["PATCH"])
        rules("/api/predictions/", view_func=self._predictions)
        rules("/api/predictions/", "predict", self._predict, methods=["POST"])
        rules("/api/predictions/<int:prediction>/", "rescore", self._rescore, methods=["PATCH"])
        rules("/data/local-files/", view_func=self._picture)

    def add(self, pixels, name: str | None = None, **data: Any) -> int:
        """A task with a picture, uint8 (H, W, 3); its id."""
        from PIL import Image

        name = name or f"{len(self.all_tasks)}.png"
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        self.pictures[name] = file.getvalue()
        return self.add_task(image=f"/data/local-files/?d={name}", **data)

    def add_task(self, **data: Any) -> int:
        number = len(self.all_tasks) + 1
        self.all_tasks.append({"id": number, "project": 1, "data": data})
        return number

    def of(self, task: int) -> list[dict[str, Any]]:
        return [one for one in self.predictions.values() if one["task"] == task]

    def order(self, version: str) -> list[int]:
        """The tasks as uncertainty sampling hands them out."""
        ours = [one for one in self.predictions.values() if one["model_version"] == version]
        return [one["task"] for one in sorted(ours, key=lambda one: one["score"])]

    def _check(self) -> Any:
        if request.path.startswith("/data/"):
            return None
        self.times.append(time.monotonic())
        if self.busy:
            self.busy -= 1
            return Response(status=429, headers={"Retry-After": self.retry_after} if self.retry_after else {})
        return super()._check()

    def _project(self, project: int) -> Any:
        if project != 1:
            return super()._project(project)
        settings = {"model_version": "", "sampling": "Sequential sampling", **self.changes}
        return jsonify(id=1, label_config=self.configs[1], **settings)

    def _change_project(self, project: int) -> Any:
        self.changes |= request.get_json()
        return jsonify(id=project)

    def _tasks(self) -> Any:
        query = json.loads(request.args["query"])
        found = self.tasks(int(request.args["project"]))
        for item in query["filters"]["items"]:
            name, operator, value = item["filter"].removeprefix("filter:tasks:"), item["operator"], item["value"]
            found = [task for task in found if self._passes(task, name, operator, value)]
        found = found[: int(request.args["page_size"])]
        if request.args.get("fields") == "all":
            found = [task | {"annotations": [], "predictions": self.of(task["id"])} for task in found]
        return jsonify(total=len(found), tasks=found)

    def _passes(self, task: dict[str, Any], name: str, operator: str, value: Any) -> bool:
        columns = {"id": task["id"], "total_annotations": int(task["id"] in self.annotated)}
        own = columns.get(name, task["data"].get(name.removeprefix("data.")))
        return {
            "equal": lambda: own == value,
            "greater": lambda: own > value,
            "greater_or_equal": lambda: own >= value,
            "in": lambda: value["min"] <= own <= value["max"],
        }[operator]()

    def _predictions(self) -> Any:
        return jsonify(self.of(int(request.args["task"])))

    def _predict(self) -> Any:
        body = request.get_json()
        if body["task"] in self.refused:
            return jsonify(detail="no"), 400
        number = len(self.predictions) + 1
        self.predictions[number] = body | {"id": number}
        time.sleep(self.slow_posts)
        if self.lost:
            self.lost -= 1
            return Response(status=504)
        return jsonify(id=number), 201

    def _rescore(self, prediction: int) -> Any:
        self.predictions[prediction] |= request.get_json()
        return jsonify(self.predictions[prediction])

    def _picture(self) -> Any:
        content = self.pictures.get(request.args["d"])
        return Response(status=404) if content is None else Response(content, mimetype="image/png")


def main() -> None:
    from pathlib import Path

    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]
    from fake_engine import FakeEngine

    import backend.wsgi
    from backend.cli import app

    class SlowEngine(FakeEngine):
        def prepare(self, frames, frame: int) -> None:
            time.sleep(float(os.environ.get("SLOW", "0")))
            super().prepare(frames, frame)

    backend.wsgi.load_engine = lambda settings, directory=None: SlowEngine()
    app()


if __name__ == "__main__":
    main()
