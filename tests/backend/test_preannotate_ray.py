"""Pre-annotation with the embedded model in two workers of Ray Data, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from label_studio_standin import TOKEN
from project_standin import ProjectStandIn
from workplace import NANO, ROOT

pytest.importorskip("ray.data")
pytestmark = pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")

TASKS = 12


@pytest.fixture
def studio():
    server = ProjectStandIn()
    rng = np.random.default_rng(0)
    for _ in range(TASKS):
        server.add(rng.integers(0, 255, (96, 128, 3), np.uint8))
    yield server
    server.close()


def workers_below(process: int) -> list[int]:
    """Ids of the processes with engines that were started by this one."""
    told = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    below, found = {str(process)}, []
    for _ in range(6):  # generations
        below |= {pid for pid, parent, _ in rows if parent in below}
    for pid, _, words in rows:
        if pid in below and words.startswith("ray::") and "Worker" in words.split("(")[-1]:
            found.append(int(pid))
    return found


def test_a_killed_worker_loses_and_doubles_nothing(studio, tmp_path):
    environment = os.environ | {
        "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "X2SAM_CACHE_DIR": str(tmp_path / "media"),
        "X2SAM_STATE_DIR": str(tmp_path / "state"), "X2SAM_RAY_REPLICAS": "2", "X2SAM_RAY_CPUS": "0.5",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "backend", "preannotate", "--project", "1", "--engine", "ray", "--model", "nano"]
    log = (tmp_path / "log").open("w")
    run = subprocess.Popen(
        [*command, "--rate", "0", "--json", str(result)], cwd=ROOT, env=environment, stdout=log, stderr=log
    )
    try:
        end, killed = time.monotonic() + 240, []
        while run.poll() is None:
            assert time.monotonic() < end, Path(log.name).read_text()
            if len(studio.predictions) >= 2 and not killed and (workers := workers_below(run.pid)):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.05)
    finally:
        run.kill()
        log.close()
    assert run.returncode == 0 and killed, Path(log.name).read_text()
    done = json.loads(result.read_text())
    assert (done["sent"], done["failed"]) == (TASKS, 0)
    per_task = Counter(one["task"] for one in studio.predictions.values())
    assert per_task == dict.fromkeys(range(1, TASKS + 1), 1)
    versions = {one["model_version"] for one in studio.predictions.values()}
    assert versions == {done["model_version"]} and done["model_version"].startswith("nano-")
