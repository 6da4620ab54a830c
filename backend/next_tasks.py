"""Which tasks of a project a person is likely to open after one, as far as Label Studio's API tells.

``/api/projects/{id}/next`` would tell exactly, but it locks the task that it names for the user of our token and writes
it into that user's history. So the tasks are listed, in the order in which the project hands them out. A plain listing
has an effect too: where predictions are retrieved automatically Label Studio would ask this very backend for those that
have none. ``review=true`` keeps it from that.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from backend.errors import MediaError
from backend.protocol import Task, parse_task
from backend.settings import MEGABYTE

_LIMIT = 8 * MEGABYTE
_PROJECTS = 64
_SAMPLING_SECONDS = 300.0
_UNCERTAIN, _RANDOM = "Uncertainty sampling", "Uniform sampling"

AskLabelStudio = Callable[[str, int], bytes]


class NextTasks:
    """``ask(path, limit)`` gets a page of the API. Threads may share one."""

    def __init__(self, ask: AskLabelStudio, clock: Callable[[], float] = time.monotonic):
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._samplings: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def after(self, project_id: str, task_id: str, count: int) -> list[Task]:
        """At most ``count`` tasks that nobody has finished, the likeliest first.

        Where the project draws at random, the few that are left, if they are no more than that; else none.

        :raises MediaError: Label Studio refuses or can't be asked.
        """
        if not (project_id.isdigit() and task_id.isdigit()):
            return []
        sampling = self._sampling(project_id)
        ordered = sampling not in (_UNCERTAIN, _RANDOM)
        filters = [
            _filter("completed_at", "empty", "Datetime", True),
            _filter("id", "greater" if ordered else "not_equal", "Number", int(task_id)),
        ]
        query: dict[str, Any] = {"filters": {"conjunction": "and", "items": filters}}
        query["ordering"] = ["tasks:predictions_score" if sampling == _UNCERTAIN else "tasks:id"]
        parameters = {
            "project": project_id,
            "page": 1,
            "page_size": count,
            "review": "true",
            "resolve_uri": "false",  # as in requests for predictions, so that addresses are the same
            "query": json.dumps(query),
        }
        answer = self._json(f"/api/tasks?{urlencode(parameters)}")
        tasks, total = answer.get("tasks"), answer.get("total")
        if not isinstance(tasks, list) or not isinstance(total, int):
            raise MediaError("Label Studio does not list the tasks of the project; check LABEL_STUDIO_URL.")
        if sampling == _RANDOM and total > count:
            return []
        return [parse_task(task) for task in tasks[:count]]

    def _sampling(self, project_id: str) -> str:
        with self._lock:
            sampling, until = self._samplings.get(project_id, ("", 0.0))
        if self._clock() < until:
            return sampling
        sampling = str(self._json(f"/api/projects/{project_id}/").get("sampling"))
        with self._lock:
            self._samplings[project_id] = sampling, self._clock() + _SAMPLING_SECONDS
            self._samplings.move_to_end(project_id)
            if len(self._samplings) > _PROJECTS:
                self._samplings.popitem(last=False)
        return sampling

    def _json(self, path: str) -> Mapping[str, Any]:
        try:
            answer = json.loads(self._ask(path, _LIMIT))
        except (ValueError, RecursionError) as error:
            raise MediaError("Label Studio's API does not answer in JSON; check LABEL_STUDIO_URL.") from error
        if not isinstance(answer, dict):
            raise MediaError("Label Studio's API answers something else than was asked; check LABEL_STUDIO_URL.")
        return answer


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
