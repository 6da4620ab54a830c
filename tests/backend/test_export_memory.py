"""Ten thousand tasks are exported in the memory of a thousand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
from exporting import annotation, drawn, task
from workplace import ROOT

_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from backend.export_run import Wanted, export
from backend.export_sources import JsonFile
source, out, kind = sys.argv[1:]
def peak():  # of this program: getrusage tells that of whoever started it too
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
done = export(JsonFile(Path(source)), Wanted(kind, Path(out)), lambda *_: None)
use = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([done.masks, (peak() - before) / 1024, use.ru_utime + use.ru_stime]))
"""


def write_tasks(path, count):
    y, x = np.mgrid[:48, :64]
    masks = [np.hypot(x - 20 - k % 20, y - 20) < 6 + k % 9 for k in range(40)]
    with path.open("w") as file:
        for number in range(count):
            rows = [drawn(masks[(number + k) % 40], f"{number}{name}", name) for k, name in enumerate(("cat", "dog"))]
            file.write(("," if number else "[") + json.dumps(task(number + 1, annotation(rows, number))))
        file.write("]")
    return path


def measured(folder, count, kind):
    """Masks, megabytes of growth and seconds of the processor, of a process of its own."""
    source = write_tasks(folder / f"{count}.json", count)
    line = [sys.executable, "-c", _MEASURED, str(source), str(folder / f"{kind}{count}"), kind]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_number_of_tasks(tmp_path):
    few, grown, _ = measured(tmp_path, 1000, "coco")
    many, more, seconds = measured(tmp_path, 10_000, "coco")
    assert (few, many) == (2000, 20_000)
    assert more - grown < 16, (grown, more)
    assert seconds < 20
