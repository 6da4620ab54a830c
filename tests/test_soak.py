"""The soak: what it calls growth and slowness, and a short one against a real server with ``nano``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import soak  # noqa: E402

WAVER = np.random.default_rng(0).normal(0, 6, 1200)


def samples(leak: float) -> list[tuple[float, float]]:
    """Twenty minutes around 800 MiB, with ``leak`` MiB a second on top."""
    return [(100.0 + t, 800 + leak * t + w) for t, w in enumerate(WAVER)]


def test_growth():
    still, leaking = soak.growth(samples(0)), soak.growth(samples(0.05))
    assert still["steady"] and abs(still["grown_mb"]) < 2 and 15 < still["noise_mb"] < 25
    assert not leaking["steady"] and leaking["grown_mb"] == pytest.approx(0.05 * 1200, abs=3)
    assert leaking["slope_mb_per_hour"] == pytest.approx(180, abs=10)


def rows(*seconds: float) -> list[tuple[float, str, float, int]]:
    """A click each second for a minute, as long as that tenth of a minute tells."""
    return [(float(t), "click", seconds[t * len(seconds) // 60], 200) for t in range(60)]


def test_slowness():
    assert soak.slowing(rows(0.1), 0, 60)["ratio"] == 1.0
    slower = soak.slowing(rows(0.1, 0.1, 0.1, 0.1, 0.1, 0.5), 0, 60)
    assert slower["p95_ms"] == [100.0] * 5 + [500.0] and slower["ratio"] == 3.0 and not slower["steady"]
    assert soak.slowing(rows(0.1)[:9], 0, 60)["ratio"] is None, "not a click in each window"


class Watched:
    samples = samples(0)


@pytest.mark.parametrize(
    "status, errors, log, holds",
    [
        (200, {}, "INFO all is well", True),
        (200, {"CancelledError": 3}, "", True),
        (200, {"BusyError": 1}, "", False),
        (503, {}, "", False),
        (0, {}, "", False),
        (200, {}, "2026-01-01 ERROR backend: unexpected error", False),
    ],
)
def test_what_does_not_hold(status, errors, log, holds):
    diary = soak.Diary()
    diary.note("click", 0.1, status, "" if status == 200 else "told why")
    told = soak.report(diary, Watched(), 100.0, 1300.0, Counter(errors), log)
    assert told["holds"] is holds and told["long_enough"]
    assert told["odd"] == ([] if status == 200 else ["click: told why"])


def test_a_leak_does_not_hold():
    leaking = Watched()
    leaking.samples = samples(0.1)
    assert not soak.report(soak.Diary(), leaking, 100.0, 1300.0, Counter(), "")["holds"]


def test_eight_people_for_a_moment(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "soak.py", "--seconds", "12", "--json", tmp_path / "soak.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    told = json.loads((tmp_path / "soak.json").read_text())
    assert done.returncode == 0 and told["holds"], done.stdout + done.stderr
    assert told["annotators"] == 8 and told["media"] == 6 and not told["long_enough"]
    assert {"click", "track"} <= told["kinds"].keys() and told["requests"] > 16
