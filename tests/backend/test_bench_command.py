"""``python -m backend bench`` at a small size: that it reports what it says, and proves what it compares."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from backend import bench
from backend.bench import BODY_BYTES, Codec, blob, click_body, measure_codecs, measure_overhead, serving
from backend.cli import app
from x2sam.errors import MeasurementError

SMALL = {"1080p": (108, 192), "4K": (216, 384)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "SIZES", SMALL)


def test_everything_is_written(tmp_path):
    target = tmp_path / "bench.json"
    outcome = CliRunner().invoke(app, ["bench", "--repeats", "2", "--seconds", "0.5", "--json", str(target)])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(target.read_text())
    assert {(row["codec"], row["size"]) for row in found["codecs"]} == {
        (codec, size)
        for codec in ("brush, write", "brush, read", "bitmask PNG, write", "COCO, write")
        for size in SMALL
    }
    assert all(row["ratio"] > 0 for row in found["codecs"])
    assert found["overhead"]["repeats"] == 2 and found["overhead"]["cpu_ms"] > 0
    assert found["large_bodies"]["body_mb"] == pytest.approx(17, abs=0.1) and found["large_bodies"]["bodies"] >= 1


def test_a_codec_that_loses_a_pixel_is_not_measured(monkeypatch):
    def careless(mask):
        return np.logical_and(mask, mask.cumsum(1) > 1)

    lossy = Codec("lossy", "none", careless, lambda mask: mask, lambda made, _: made)
    monkeypatch.setattr(bench, "codecs", lambda: [lossy])
    with pytest.raises(MeasurementError, match="lossy at 1080p does not give the mask back"):
        measure_codecs(1)


def test_an_answer_without_a_mask_is_no_measurement(monkeypatch):
    monkeypatch.setattr(bench, "blob", lambda size: np.zeros(size, bool))
    with pytest.raises(MeasurementError, match="gave no mask"):
        measure_overhead(1)


def test_the_measured_object_is_an_object():
    """One that has an inside, an outside and a rough outline: more runs than rows."""
    mask = blob((216, 384))
    assert 0.1 < mask.mean() < 0.7
    assert (mask[:, 1:] != mask[:, :-1]).sum() > 2 * 216


def test_others_are_answered_while_large_bodies_are_read():
    """One after another they come, 17 MB each, and for each of them somebody else is answered at least once."""
    with serving(SMALL["1080p"]) as (server, address):
        body, answered, ended = click_body(address, 1, SMALL["1080p"], BODY_BYTES), [], threading.Event()

        def large() -> None:
            client = server.test_client()
            for _ in range(3):
                answered.append(client.post("/predict", data=body, content_type="application/json").status_code)
            ended.set()

        thread, others, client = threading.Thread(target=large), 0, server.test_client()
        thread.start()
        while not ended.is_set():
            others += client.get("/health").status_code == 200
        thread.join()
    assert len(body) > 16_900_000 and answered == [200] * 3
    assert others >= 3
