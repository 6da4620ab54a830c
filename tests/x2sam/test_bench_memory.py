"""Memory of a track does not grow with its clip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from x2sam import bench_memory
from x2sam.bench_memory import EndlessClip, run
from x2sam.cli import app
from x2sam.errors import MeasurementError


def test_frames_are_made_when_they_are_read():
    clip = EndlessClip(10**9)
    assert len(clip) == 10**9 and clip[10**9 - 1].shape == (*bench_memory.CLIP, 3)
    assert np.array_equal(clip[7], EndlessClip(10)[7]) and not np.array_equal(clip[7], clip[8])
    assert (clip[7][clip.mask(7)] == (220, 80, 60)).all() and clip.mask(7).any()


def test_memory_is_flat(tmp_path):
    """Each in a process of its own: eight times as many frames take the same memory."""
    target = tmp_path / "memory.json"
    options = ["bench", "--size", "tiny", "--frames", "50", "--frames", "400", "--json", str(target)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    result = json.loads(target.read_text())
    assert [row["frames"] for row in result["rows"]] == [50, 400]
    assert 0 <= result["growth"] < 0.1 and "400" in done.output


def test_what_fails_is_told(monkeypatch):
    with pytest.raises(MeasurementError, match="longer"):
        run("tiny", [10])
    with pytest.raises(MeasurementError, match="50 frames failed: KeyError"):
        run("huge", [50])
