"""Around the answer to one task: times of its parts, what was found, what went wrong; as numbers and in the log."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backend.errors import EXPECTED, BackendError
from backend.logs import answered, loggable, where
from backend.metrics import Metrics
from x2sam.stages import watching

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What the measured code tells: how many masks it found."""

    masks: int = 0


@contextmanager
def measured(metrics: Metrics, task_id: str, kind: str) -> Iterator[Outcome]:
    """Measures the answer to one task.

    :raises BackendError: in place of anything that nobody expected, with a reference to the log; the original text
        stays out of both, since it may quote the task.
    """
    outcome, start, failure = Outcome(), time.perf_counter(), ""
    with watching() as times:
        try:
            with metrics.timed(kind):
                yield outcome
        except EXPECTED as error:
            failure = type(error).__name__
            raise
        except Exception as error:
            failure, reference = "unexpected", uuid.uuid4().hex[:8]
            fields = {"error": type(error).__name__, "reference": reference, "at": where(error)}
            log.error("unexpected error", extra={"fields": fields})
            raise BackendError(
                f"Something went wrong in the ML backend; its log says more (reference {reference})."
            ) from error
        finally:
            spent = time.perf_counter() - start
            seconds = dict(times.seconds)
            metrics.answered(kind, seconds, outcome.masks, failure)
            stages = {name: round(1e3 * value, 1) for name, value in seconds.items()}
            said = {"task": loggable(task_id), "kind": kind, "masks": outcome.masks, "ms": round(1e3 * spent, 1)}
            answered(log, **said, stages=stages, **({"failure": failure} if failure else {}))
