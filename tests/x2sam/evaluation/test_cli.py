"""``python -m x2sam evaluate`` end to end, with an engine that answers with discs."""

import json
import sys
import types

import pytest
from stand_ins import Oracle
from typer.testing import CliRunner

from tests.x2sam.data.format_fixtures import build_all
from x2sam.errors import WeightsError
from x2sam.evaluation.cli import app


@pytest.fixture
def loads(monkeypatch, engine):
    """Arguments of every ``Engine.load``, which answers with ``engine``."""
    calls = []

    class Engine:
        @staticmethod
        def load(model, device, **options):
            if model == "broken":
                raise WeightsError("the checkpoint lacks the key a.b; download it again")
            calls.append((model, device, options))
            return engine

    module = types.ModuleType("x2sam.inference.engine")
    module.Engine = Engine
    monkeypatch.setitem(sys.modules, "x2sam.inference.engine", module)
    return calls


VIDEO = {"clips", "J", "F", "JF", "fps", "peak_rss_mb"}
CLICKS = {"objects", "miou", "miou_ci", "things", "stuff", "noc", "noc_cap", "ms"}


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["clicks", "--clicks", "2", "--prompt", "box"], CLICKS),
        (["video", "--prompt", "click"], VIDEO),
        (["video", "--corrections", "1", "--restart"], VIDEO | {"corrections", "interactions", "restarts"}),
        (["drift"], {"model", "frames", "bad", "clips", "found", "calibration", "mean_doubt"}),
        (["referring"], {"images", "videos"}),
    ],
)
def test_commands_write_their_result(loads, data, tmp_path, command, keys):
    target = tmp_path / "new" / "result.json"
    options = ["--data", str(data), "--limit", "1", "--json", str(target), "--device", "cpu"]
    run = CliRunner().invoke(app, [*command, *options])
    assert run.exit_code == 0, run.output
    assert set(json.loads(target.read_text())) == keys
    assert [(model, device, options.get("snap", True)) for model, device, options in loads] == [("auto", "cpu", True)]
    assert [p.name for p in target.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("command", ["clicks", "video", "referring"])
def test_the_worst_answers_are_drawn(loads, data, tmp_path, command):
    out = tmp_path / "worst"
    run = CliRunner().invoke(app, [command, "--data", str(data), "--limit", "1", "--worst", str(out)])
    assert run.exit_code == 0, run.output
    index = json.loads((out / "index.json").read_text())
    assert index and [e["score"] for e in index] == sorted(e["score"] for e in index)
    assert {p.name for p in out.iterdir()} == {e["file"] for e in index} | {"index.json"}


def test_scenes(loads, tmp_path):
    options = ["--pictures", "2", "--size", "64", "--seed", "3", "--json", str(tmp_path / "r.json")]
    run = CliRunner().invoke(app, ["scenes", *options, "--worst", str(tmp_path / "worst")])
    assert run.exit_code == 0, run.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result) == {
        "model", "seed", "size", "pictures", "objects", "miou", "miou_ci", "ciou", "things", "stuff",
    }  # fmt: skip
    assert (tmp_path / "worst" / "index.json").is_file()


class Letters:
    def __init__(self, engine):
        self.engine = engine

    def letters(self, question):
        return "image", [-1.0, -2.0]


def test_multiple_choice(loads, tmp_path, monkeypatch):
    monkeypatch.setattr("x2sam.evaluation.cli.LikelyLetters", Letters)
    entry = {"media": "a.png", "question": "?", "choices": ["x", "y"], "answer": "A"}
    (tmp_path / "q.json").write_text(json.dumps([entry]))
    run = CliRunner().invoke(app, ["mcq", str(tmp_path / "q.json"), "--json", str(tmp_path / "r.json")])
    assert run.exit_code == 0, run.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["accuracy"] == 1.0 and result["scored_by"] == "log-likelihood of the letters"


@pytest.fixture
def oracle(monkeypatch):
    """``evaluate task`` asks a stand-in that knows the truth; what it was built with."""
    built = []

    class Built(Oracle):
        def __init__(self, engine, protocol):
            super().__init__()
            built.append(protocol)

    monkeypatch.setattr("x2sam.evaluation.benchmark.BenchmarkModel", Built)
    return built


def test_any_task_on_any_format(oracle, loads, tmp_path):
    spec = build_all(tmp_path)["coco"]
    where = ["--annotations", str(spec.annotations), "--images", str(spec.images)]
    for prompt in ("point", "click"):
        run = CliRunner().invoke(app, ["task", "--task", "intseg", "--format", "coco", *where, "--prompt", prompt])
        assert run.exit_code == 0 and oracle.pop().prompt == "click"
    rest = ["--prompt", "box", "--limit", "2", "--json", str(tmp_path / "r.json"), "--worst", str(tmp_path / "w")]
    run = CliRunner().invoke(app, ["task", "--task", "intseg", "--format", "coco", *where, *rest])
    assert run.exit_code == 0, run.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result) == {
        "model", "dataset", "format", "task", "modality", "samples", "answers", "protocol", "metrics", "seconds",
        "peak_rss_mb",
    }  # fmt: skip
    assert result["samples"] == 2 and result["metrics"]["overlap"]["giou"] == 1.0
    assert oracle[0].prompt == "box"
    assert result["protocol"] == {"threshold": 0.5, "several": False, "prompt": "box"}
    assert (tmp_path / "w" / "index.json").is_file()


def test_seen_categories(oracle, loads, tmp_path):
    spec = build_all(tmp_path)["vos"]
    (tmp_path / "seen.json").write_text('["cat"]')
    where = ["--annotations", str(spec.annotations), "--images", str(spec.images), "--source", str(spec.source)]
    command = ["task", "--task", "objseg", "--format", "vos", *where, "--limit", "1"]
    done = CliRunner().invoke(
        app, [*command, "--seen", str(tmp_path / "seen.json"), "--json", str(tmp_path / "r.json")]
    )
    assert done.exit_code == 0, done.output
    contour = json.loads((tmp_path / "r.json").read_text())["metrics"]["contour"]
    assert {"seen", "unseen", "overall", "J", "F", "JF"} <= set(contour)
    (tmp_path / "seen.json").write_text('{"a": 1}')
    wrong = CliRunner().invoke(app, [*command, "--seen", str(tmp_path / "seen.json")])
    assert wrong.exit_code == 1 and "list of names" in wrong.output.replace("\n", " ")


def test_what_is_wrong_with_a_task_is_said(oracle, loads, tmp_path):
    spec = build_all(tmp_path)["coco"]
    common = ["--annotations", str(spec.annotations), "--images", str(spec.images)]
    cases = (
        (["--task", "genseg", "--format", "lasso"], "coco-panoptic"),
        (["--task", "objseg", "--format", "coco"], "serves"),
    )
    for options, said in cases:
        run = CliRunner().invoke(app, ["task", *options, *common])
        assert run.exit_code == 1 and said in run.output


def test_no_snap_and_model_reach_the_engine(loads, data):
    run = CliRunner().invoke(app, ["clicks", "--data", str(data), "--no-snap", "--model", "nano", "--limit", "1"])
    assert run.exit_code == 0, run.output
    assert [(m, o) for m, _, o in loads] == [("nano", {"snap": False})]
    assert "miou" in run.output


def test_memory_mode_and_corrections(loads, data, engine):
    options = ["--data", str(data), "--limit", "1", "--memory", "fifo", "--corrections", "1"]
    run = CliRunner().invoke(app, ["video", *options])
    assert run.exit_code == 0, run.output
    assert [(m, o) for m, _, o in loads] == [("auto", {"snap": True, "memory": "fifo"})]
    assert len([e for e in engine.log if e[0] == "track"]) == 4


def test_problems_end_with_a_sentence(loads, data, tmp_path):
    run = CliRunner().invoke(app, ["clicks", "--data", str(data), "--model", "broken"])
    assert run.exit_code == 1 and "download it again" in run.output
    run = CliRunner().invoke(app, ["video", "--data", str(tmp_path / "nowhere")])
    assert run.exit_code == 1 and "videos.json" in run.output.replace("\n", "")
