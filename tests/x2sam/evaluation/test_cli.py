"""``python -m x2sam evaluate`` end to end, with an engine that answers with discs."""

import json
import sys
import types

import pytest
from typer.testing import CliRunner

from x2sam.errors import WeightsError
from x2sam.evaluation.cli import app


@pytest.fixture
def loads(monkeypatch, engine):
    """Arguments of every ``Engine.load``, which answers with ``engine``."""
    calls = []

    class Engine:
        @staticmethod
        def load(model, **options):
            if model == "broken":
                raise WeightsError("the checkpoint lacks the key a.b; download it again")
            calls.append((model, options))
            return engine

    module = types.ModuleType("x2sam.inference.engine")
    module.Engine = Engine
    monkeypatch.setitem(sys.modules, "x2sam.inference.engine", module)
    return calls


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["clicks", "--clicks", "2", "--prompt", "box"], {"objects", "miou", "things", "stuff", "noc", "ms"}),
        (["video", "--prompt", "click"], {"clips", "J", "F", "JF", "fps", "peak_rss_mb"}),
        (["referring"], {"images", "videos"}),
    ],
)
def test_commands_write_their_result(loads, data, tmp_path, command, keys):
    target = tmp_path / "new" / "result.json"
    run = CliRunner().invoke(app, [*command, "--data", str(data), "--limit", "1", "--json", str(target)])
    assert run.exit_code == 0, run.output
    assert set(json.loads(target.read_text())) == keys
    assert loads == [("auto", {"snap": True})]


def test_no_snap_and_model_reach_the_engine(loads, data):
    run = CliRunner().invoke(app, ["clicks", "--data", str(data), "--no-snap", "--model", "nano", "--limit", "1"])
    assert run.exit_code == 0, run.output
    assert loads == [("nano", {"snap": False})]
    assert "miou" in run.output


def test_memory_mode_and_corrections(loads, data, engine):
    options = ["--data", str(data), "--limit", "1", "--memory", "fifo", "--corrections", "1"]
    run = CliRunner().invoke(app, ["video", *options])
    assert run.exit_code == 0, run.output
    assert loads == [("auto", {"snap": True, "memory": "fifo"})]
    assert len([e for e in engine.log if e[0] == "track"]) == 4


def test_problems_end_with_a_sentence(loads, data, tmp_path):
    run = CliRunner().invoke(app, ["clicks", "--data", str(data), "--model", "broken"])
    assert run.exit_code == 1 and "download it again" in run.output
    run = CliRunner().invoke(app, ["video", "--data", str(tmp_path / "nowhere")])
    assert run.exit_code == 1 and "videos.json" in run.output.replace("\n", "")
