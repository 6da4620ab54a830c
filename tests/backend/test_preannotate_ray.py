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
from PIL import Image
from project_standin import ProjectStandIn
from typer.testing import CliRunner
from workplace import NANO, ROOT

from backend.cli import app

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


def run_and_kill_a_worker(command, tmp_path, environment, far_enough) -> None:
    """Runs a command to its end; when it is ``far_enough()``, one of its workers is killed."""
    own = {
        "X2SAM_CACHE_DIR": str(tmp_path / "media"), "X2SAM_STATE_DIR": str(tmp_path / "state"), "OMP_NUM_THREADS": "1",
        "X2SAM_RAY_REPLICAS": "2", "X2SAM_RAY_CPUS": "0.5", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    log = (tmp_path / "log").open("w")
    whole = [sys.executable, "-m", "backend", "preannotate", "--engine", "ray", "--model", "nano", *map(str, command)]
    run = subprocess.Popen(whole, cwd=ROOT, env=os.environ | own | environment, stdout=log, stderr=log)
    try:
        end, killed = time.monotonic() + 420, []  # most of it for starting Ray where much else runs
        while run.poll() is None:
            assert time.monotonic() < end, Path(log.name).read_text()
            if not killed and far_enough() and (workers := workers_below(run.pid)):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.05)
    finally:
        run.kill()
        log.close()
    assert run.returncode == 0 and killed, Path(log.name).read_text()


def test_a_killed_worker_loses_and_doubles_nothing(studio, tmp_path):
    result = tmp_path / "result.json"
    run_and_kill_a_worker(
        ["--project", "1", "--rate", "0", "--json", result], tmp_path,
        {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN}, lambda: len(studio.predictions) >= 2,
    )  # fmt: skip
    done = json.loads(result.read_text())
    assert (done["sent"], done["failed"]) == (TASKS, 0)
    per_task = Counter(one["task"] for one in studio.predictions.values())
    assert per_task == dict.fromkeys(range(1, TASKS + 1), 1)
    versions = {one["model_version"] for one in studio.predictions.values()}
    assert versions == {done["model_version"]} and done["model_version"].startswith("nano-")


def test_of_a_folder_neither(tmp_path):
    """And what two workers found is what one process finds."""
    pictures, out, result = tmp_path / "pictures", tmp_path / "out", tmp_path / "result.json"
    pictures.mkdir()
    rng = np.random.default_rng(1)
    for number in range(TASKS):
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(pictures / f"{number:02}.png")
    state = out / ".preannotate.jsonl"
    words = ["--folder", pictures, "--labels", "thing", "--json", result]
    run_and_kill_a_worker(
        [*words, "--out", out], tmp_path, {}, lambda: state.exists() and state.read_bytes().count(b"\n") > 2
    )
    assert json.loads(result.read_text())["sent"] == TASKS
    names = [json.loads(line)["path"] for line in state.read_text().splitlines()[1:]]
    assert sorted(names) == sorted(path.name for path in pictures.iterdir())
    alone = tmp_path / "alone"
    command = ["preannotate", *map(str, words), "--out", str(alone), "--model", "nano"]
    environment = {"X2SAM_CACHE_DIR": str(tmp_path / "media2"), "X2SAM_STATE_DIR": str(tmp_path / "state2")}
    done = CliRunner().invoke(app, command, env=environment)
    assert done.exit_code == 0, done.output
    found, expected = (json.loads((folder / "tasks.json").read_text()) for folder in (out, alone))
    assert [task["data"] for task in found] == [task["data"] for task in expected] and len(found) == TASKS
    results = [[p["result"] for task in tasks for p in task["predictions"]] for tasks in (found, expected)]
    assert results[0] == results[1]
