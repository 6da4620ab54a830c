"""Pre-annotation on a Ray cluster: Ray Data with an engine in each of its workers, one GPU or a part of one for each.

Tasks go to the workers as JSON and come back answered, in any order; what was sent to Label Studio is kept by whoever
asked (:mod:`backend.preannotate`), so a run that is stopped goes on. A worker that is lost is replaced and its task
asked again; a task counts once, whatever is computed twice.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import ray
from ray.data import ActorPoolStrategy

from backend.errors import EXPECTED, ModelUnavailableError
from backend.preannotate_engines import Asked, LocalPredictor, Place, Predictor, Prepared
from backend.protocol import Json
from backend.ray_engine import connected

_TASKS = 4096  # of one Ray Data set: workers, and their engines, last as long as one
_OTHER_VERSION = "Another version of the model was promoted meanwhile; run the command again."


class Worker:
    """An engine in a worker of Ray Data: a batch of one task in, what was found in it out."""

    def __init__(self, place: Place, asked: Asked, version: str):
        self._folder = Path(tempfile.mkdtemp(prefix="x2sam-preannotate-"))
        self._local = LocalPredictor(replace(place, folder=self._folder), asked)
        self._version = version

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        tasks = [orjson.loads(task) for task in batch["task"]]
        if self._local.version != self._version:
            prepared = [Prepared(task["id"], problem=_OTHER_VERSION) for task in tasks]
        else:
            prepared = list(self._local.predict(tasks))
        return {"prepared": np.array([_packed(one) for one in prepared], dtype=object)}

    def __del__(self) -> None:
        if hasattr(self, "_local"):
            self._local.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class RayPredictor:
    """See :class:`backend.preannotate_engines.Predictor`. ``version`` is found by loading the model in a worker."""

    def __init__(self, place: Place, asked: Asked):
        self._place, self._asked = place, asked
        settings = place.settings
        self._resources = {"num_cpus": settings.ray_cpus, "num_gpus": settings.ray_gpus}
        look = ray.remote(**self._resources)(_version)
        try:
            found = ray.get(look.remote(place, asked))
        except ray.exceptions.RayError as error:
            raise ModelUnavailableError(
                f"No worker of the Ray cluster could load the model ({type(error).__name__}); see the cluster's log."
            ) from error
        if isinstance(found, Exception):
            raise found
        self.version = found

    def predict(self, tasks: Iterable[Json]) -> Iterator[Prepared]:
        tasks = iter(tasks)
        while rows := [{"task": orjson.dumps(task)} for task in itertools.islice(tasks, _TASKS)]:
            yield from self._answered(rows)

    def _answered(self, rows: list[dict[str, bytes]]) -> Iterator[Prepared]:
        least, most = self._place.settings.ray_replicas
        # a block for each task, so that a lost worker costs one
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker, fn_constructor_args=(self._place, self._asked, self.version), batch_size=1,
            compute=ActorPoolStrategy(min_size=min(least, len(rows)), max_size=most, max_tasks_in_flight_per_actor=2),
            max_restarts=-1, max_task_retries=-1, **self._resources,
        )  # fmt: skip
        told: set[int] = set()
        for row in data.iter_rows():
            prepared = _unpacked(row["prepared"])
            if prepared.task not in told:
                told.add(prepared.task)
                yield prepared


@contextmanager
def on_ray(place: Place, asked: Asked) -> Iterator[Predictor]:
    """A predictor on the cluster of the settings, or on one on this machine that ends with it."""
    asked.config()
    with connected(place.settings):
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield RayPredictor(place, asked)


def _version(place: Place, asked: Asked) -> str | Exception:
    folder = Path(tempfile.mkdtemp(prefix="x2sam-preannotate-"))
    try:
        local = LocalPredictor(replace(place, folder=folder), asked)
        try:
            return local.version
        finally:
            local.close()
    except EXPECTED as error:
        return error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _packed(prepared: Prepared) -> bytes:
    vector = None if prepared.vector is None else [float(value) for value in prepared.vector]
    about = (prepared.task, prepared.items, prepared.masks, prepared.error, vector, prepared.problem)
    return orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY)


def _unpacked(packed: bytes) -> Prepared:
    task, items, masks, error, vector, problem = orjson.loads(packed)
    vector = None if vector is None else np.array(vector, np.float32)
    return Prepared(task, tuple(items), masks, error, vector, problem)
