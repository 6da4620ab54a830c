"""Compiled code: which calls take it, what is done about code that is wrong, slow, damaged or other people's, and one
part of the tiny network compiled for real."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from x2sam.bench import rows_of, run
from x2sam.bench_models import random_model
from x2sam.bench_plan import Plan
from x2sam.errors import CancelledError, MeasurementError, StoreError
from x2sam.inference import compiling
from x2sam.inference.code_files import WORK, CodeFiles, subject_of
from x2sam.inference.compiling import NotCompiledError, compile_beside, differs
from x2sam.inference.network import MOST_LAYOUTS, PARTS, CodeTable, layout_of, numbers_for, weights_of
from x2sam.inference.walk import at_picture_size
from x2sam.model.x2sam import X2SAM
from x2sam.placement import find_compiler
from x2sam.structures import Point, Prompt

ROOT = Path(__file__).parents[3]
SIZE = (60, 80)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
CLICKS = [Prompt(points=(Point(20, 20), Point(60, 40, False))[:count]) for count in (1, 2)]
ASKED = [*CLICKS, Prompt(text="the red circle")]
LAYOUT = layout_of([torch.zeros(2, 3)])


def answers_of(engine, asked=ASKED) -> list[np.ndarray]:
    """Probabilities of clicks, one after the other, and the masks of words."""
    session, found, before, mask = engine.open(PICTURE), [], None, None
    for prompt in asked:
        if prompt.text:
            found += [mask.mask.astype(np.float32) for mask in session.segment(prompt)]
        else:
            task = session._task_of(prompt)
            given = (prompt, before, mask, 0, task)
            before = engine.run(lambda given=given: session.rounds.answer(*given))
            mask = at_picture_size(before.probability, SIZE)
            found.append(before.probability)
    return found


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# which calls take it


@pytest.mark.parametrize("kind", ["tiny_model", "sketching_model"])
def test_parts_as_compiled_code_takes_them_answer_like_the_network(kind, request, build_engine):
    """Eager modules stand for compiled ones: what is handed over, filled up with padding, gives the same answers."""
    model = request.getfixturevalue(kind)
    plain, engine = build_engine(model), build_engine(model)
    engine.network.table = CodeTable()
    expected = answers_of(plain)
    assert_same(answers_of(engine), expected)  # nothing is there yet
    asked, calls = engine.network.table.asked, []
    wanted = {"encoder", "decoder with sketch" if model.config.memory.sketch else "decoder"}
    assert {part for part, _ in asked} == wanted
    for part, layout in asked:
        module = PARTS[part].module(model)
        engine.network.table.put(
            part, layout, lambda tensors, m=module, p=part: (calls.append(p), list(m(*tensors)))[1]
        )
    assert_same(answers_of(engine), expected)
    assert set(calls) == wanted
    assert engine.network.table.asked == asked


def test_only_exactly_what_it_was_compiled_for():
    table = CodeTable()
    table.put("encoder", LAYOUT, lambda tensors: [tensors[0] + 1])
    assert table("encoder", [torch.zeros(2, 3)])[0].sum() == 6
    others = [torch.zeros(3, 2), torch.zeros(3, 2).T, torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, 1)]
    assert all(table("encoder", [other]) is None for other in others)
    assert table("decoder", [torch.zeros(2, 3)]) is None
    assert len(table.asked) == MOST_LAYOUTS + 1 and table.news.is_set()


def test_code_that_fails_is_not_used_again(build_engine, tiny_model, caplog):
    plain, engine = build_engine(), build_engine()
    engine.network.table = CodeTable()
    answers_of(engine)

    def broken(tensors):
        raise RuntimeError("of native code")

    for part, layout in engine.network.table.asked:
        engine.network.table.put(part, layout, broken)
    assert_same(answers_of(engine), answers_of(plain))
    told = [record.message for record in caplog.records if "is not used any more" in record.message]
    assert len(told) == 2
    answers_of(engine)
    assert len([record for record in caplog.records if "is not used any more" in record.message]) == 2


# files


def kept(files: CodeFiles, part: str = "encoder", size: int = 1000, subject: str = "subject") -> Path:
    made = files.directory / "made.so"
    made.write_bytes(os.urandom(size))
    return files.keep(subject, part, LAYOUT, made, 1.5)


def test_code_is_found_again_by_what_it_is_for(tmp_path):
    path = kept(CodeFiles(tmp_path / "code"))
    files = CodeFiles(tmp_path / "code")
    (one,) = files.known("subject")
    assert (one.part, one.layout, one.seconds) == ("encoder", LAYOUT, 1.5)
    assert files.take("subject", "encoder", LAYOUT) == path
    other = layout_of([torch.zeros(3, 2)])
    assert files.take("subject", "encoder", other) is files.take("another", "encoder", LAYOUT) is None
    assert files.known("another") == []
    assert path.stat().st_mode & 0o777 == 0o600 and files.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["cut", "changed", "note", "gone"])
def test_damaged_code_counts_as_missing(tmp_path, damage):
    files = CodeFiles(tmp_path)
    path = kept(files)
    note = path.with_suffix(".json")
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "changed":
            path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        case "note":
            note.write_text(note.read_text()[:-9])
        case "gone":
            path.unlink()
    assert files.take("subject", "encoder", LAYOUT) is None
    assert files.take("subject", "encoder", LAYOUT) is None
    kept(files)
    assert files.take("subject", "encoder", LAYOUT) is not None


def test_native_code_is_not_read_from_where_others_can_write(tmp_path):
    files = CodeFiles(tmp_path / "code")
    path = kept(files)
    path.chmod(0o666)
    assert files.take("subject", "encoder", LAYOUT) is None
    files.directory.chmod(0o777)
    with pytest.raises(StoreError, match="others can write to"):
        CodeFiles(files.directory)
    (tmp_path / "link").symlink_to(tmp_path / "code")
    with pytest.raises(StoreError, match="is a link"):
        CodeFiles(tmp_path / "link")


def test_what_was_used_longest_ago_makes_room(tmp_path):
    files = CodeFiles(tmp_path, budget=2500)
    for age, part in ((30, "encoder"), (20, "features"), (10, "decoder")):
        path = kept(files, part)
        os.utime(path.with_suffix(".json"), (time.time() - age,) * 2)
    assert files.used == 2000
    files.take("subject", "features", LAYOUT)
    kept(files, "later features")
    assert sorted(one.part for one in files.known("subject")) == ["features", "later features"]


def test_one_compiles_at_a_time_and_what_a_kill_left_is_removed(tmp_path):
    files, stop = CodeFiles(tmp_path), threading.Event()
    (tmp_path / f"{WORK}left").mkdir()
    with files.workplace(stop) as place:
        assert place.is_dir() and not (tmp_path / f"{WORK}left").exists()
        stop.set()
        with CodeFiles(tmp_path).workplace(stop) as second:
            assert second is None
    assert not place.exists()


def test_code_is_for_one_version_of_pytorch_and_one_kind_of_processor(tiny_model, sketching_model, monkeypatch):
    subjects = {subject_of(tiny_model, 1), subject_of(tiny_model, 2), subject_of(sketching_model, 1)}
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    subjects.add(subject_of(tiny_model, 1))
    assert len(subjects) == 4


# into service


@pytest.fixture
def stand_in(tiny_model, monkeypatch):
    """(code by module, seconds of the eager way and of the code): from then on a stand-in compiles for the tiny model,
    and its code is what a function makes of the eager module."""

    def begin(code=lambda module: lambda tensors: list(module(*tensors)), times=(2.0, 1.0)):
        def beside(request, place, stop):
            Path(request["out"]).write_text(request["part"])
            return 1.0

        def load(path, weights):
            part = path.read_text()
            assert all(a is b for a, b in zip(weights, weights_of(part, tiny_model).values(), strict=True))
            return code(PARTS[part].module(tiny_model))

        both = compiling.both_ways
        monkeypatch.setattr(compiling, "find_compiler", lambda: "/usr/bin/c++")
        monkeypatch.setattr(compiling, "compile_beside", beside)
        monkeypatch.setattr(compiling, "NativeCode", load)
        monkeypatch.setattr(compiling, "both_ways", lambda *given: (both(*given), times)[1])

    return begin


def test_what_is_faster_and_equal_is_put_into_service(stand_in, build_engine, tmp_path):
    stand_in()
    engine = build_engine(compiled=tmp_path / "code")
    expected = answers_of(build_engine())
    assert_same(answers_of(engine), expected)
    assert engine.compiling.settle(20)
    assert engine.vitals.compiled == {"encoder": 2.0, "decoder": 2.0}
    assert_same(answers_of(engine), expected)


@pytest.mark.parametrize(
    "told, settings",
    [
        ("compiled it takes 2000.0 ms, eagerly 2000.0", {"times": (2.0, 2.0)}),
        ("apart from the eager one", {"code": lambda m: lambda t: [out * 1.01 for out in m(*t)]}),
        ("apart from the eager one", {"code": lambda m: lambda t: [out * torch.nan for out in m(*t)]}),
        ("have other shapes", {"code": lambda m: lambda t: list(m(*t))[:-1]}),
    ],
)
def test_what_is_not_faster_or_not_equal_stays_eager_and_is_told(
    stand_in, build_engine, tmp_path, caplog, told, settings
):
    stand_in(**settings)
    engine = build_engine(compiled=tmp_path / "code")
    answers_of(engine)
    assert engine.compiling.settle(20)
    assert set(engine.vitals.compiled.values()) == {0.0}
    assert sum("stays eager" in record.message and told in record.message for record in caplog.records) == 2


def test_the_benchmark_asks_both_ways_in_turn(stand_in, tiny_engine):
    stand_in()
    plan = Plan(repeats=4, straight=1, picture=(48, 64), clip=(32, 48), frames=9, parts=("compiled",))
    result = run(tiny_engine, plan)
    compiled = result["compiled"]
    assert compiled["gains"] == {"encoder": 2.0, "decoder": 2.0} == dict.fromkeys(compiled["compile_seconds"], 2.0)
    assert all(compiled[kind]["eager_ms"] > 0 < compiled[kind]["ratio"] for kind in ("first_click", "next_click"))
    assert result["differences"]["compiled"] < 1e-4
    assert any("next click, compiled" in row[0] for row in rows_of(result))


def test_a_part_that_can_not_be_compiled_is_no_measurement(stand_in, tiny_engine):
    stand_in(times=(1.0, 1.0))
    with pytest.raises(MeasurementError, match="nothing could be compiled"):
        run(tiny_engine, Plan(repeats=4, straight=1, picture=(48, 64), parts=("compiled",)))


def test_without_a_compiler_everything_stays_eager_and_is_told(tmp_path, build_engine, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert find_compiler() == ""
    caplog.set_level(logging.INFO)
    engine = build_engine(compiled=tmp_path)
    assert_same(answers_of(engine), answers_of(build_engine()))
    assert engine.compiling.settle(20)
    assert engine.vitals.compiled == {"encoder": 0.0, "decoder": 0.0}
    assert "there is no C++ compiler here" in caplog.text


def test_a_directory_that_can_not_be_used_is_told_and_nothing_else(tmp_path, build_engine, caplog):
    (tmp_path / "file").write_text("")
    engine = build_engine(compiled=tmp_path / "file")
    assert len(answers_of(engine)) == len(ASKED)
    assert engine.compiling.settle(20) and engine.vitals.compiled == {}
    assert "nothing is compiled: compiled code can't be kept in" in caplog.text


def test_a_process_that_can_not_compile_says_why(tmp_path):
    request = {"part": "decoder", "layout": LAYOUT, "config": {}, "dtype": "float32", "device": "cpu", "threads": 1}
    with pytest.raises(NotCompiledError, match=r"exit code 1\): .*config.json does not describe"):
        compile_beside(request | {"out": str(tmp_path / "code.so")}, tmp_path, threading.Event(), modest=False)


def test_a_process_that_compiles_ends_with_the_engine(tmp_path):
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    with pytest.raises(CancelledError, match="closed"):
        compile_beside({}, tmp_path, stop)
    assert time.monotonic() - began < 20


def test_a_process_that_compiles_does_not_outlive_the_server():
    program = (
        "import threading, time; from x2sam.inference.compile_child import end_with_whoever_asked as end;"
        "threading.Thread(target=end).start(); time.sleep(100)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=b"", timeout=90, cwd=ROOT, start_new_session=True)
    assert done.returncode == -signal.SIGKILL


def test_rounding_is_no_difference():
    one = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert differs([one + 1e-5], [one], steady=True) == ""
    flipped = one.clone()
    flipped[0, 0, 0] += 0.05  # a cell more was looked at
    assert differs([flipped], [one], steady=False) == "" and "apart" in differs([flipped], [one], steady=True)
    assert all("apart" in differs([other], [one], steady=False) for other in (one + 0.01, one.flip(0)))


# for real

needs_compiler = pytest.mark.skipif(not find_compiler(), reason="there is no C++ compiler; install g++")
PART = "decoder"
SERVES = """
import sys
import numpy as np
from x2sam.inference import compiling
from x2sam.inference.engine import Engine
from x2sam.structures import Point, Prompt
compiling.LEAST_GAIN = 0.0
with Engine.load(sys.argv[1], "cpu", compiled=sys.argv[2]) as engine:
    assert engine.compiling.settle(60)
    assert engine.vitals.compiled["decoder"] > 0, engine.vitals.compiled
    engine.open(np.zeros((60, 80, 3), np.uint8)).segment(Prompt(points=(Point(20, 20),)))
print(sorted({"torch._inductor", "torch._dynamo"} & set(sys.modules)))
"""
"""Answers a click with compiled code from the disk, and tells which parts of PyTorch's compiler were imported."""


@pytest.fixture
def one_layer(tiny_model):
    """(seed) to a network of tiny's sizes whose mask decoder has one layer only, as compiling takes its time."""

    def build(seed: int) -> X2SAM:
        config = replace(tiny_model.config, mask_decoder=replace(tiny_model.config.mask_decoder, layers=1))
        return random_model(config, "cpu", torch.float32, seed)

    return build


@needs_compiler
def test_compiled_for_real_and_lent_the_weights_of_each_version(
    tmp_path, one_layer, build_engine, tiny_tokenizer, monkeypatch
):
    """One part of the tiny network. A second model of the same sizes takes the file of the first and gives its own
    answers; a process that answers with it knows no compiler that could be in anybody's way."""
    monkeypatch.setattr(compiling, "LEAST_GAIN", 0.0)  # whether it is faster is another matter
    monkeypatch.setattr(compiling, "compile_beside", partial(compile_beside, modest=False))  # other tests want it all
    first, second = one_layer(0), one_layer(1)
    engine = build_engine(first, compiled=tmp_path / "code")
    monkeypatch.setattr(engine.network, "encode", first.encode)  # which is not what is compiled here
    answers_of(engine, CLICKS)
    ((_, layout),) = engine.network.table.asked
    assert engine.compiling.settle(500)

    monkeypatch.setattr(compiling, "find_compiler", lambda: "")  # from here on only what is on the disk
    inputs = numbers_for(layout, "cpu", seed=7)
    for model in (first, second):
        again = build_engine(model, compiled=tmp_path / "code")
        assert again.compiling.settle(60) and again.vitals.compiled[PART] > 0
        found = again.run(lambda e=again: e.network.table(PART, inputs))
        expected = again.run(lambda m=model: PARTS[PART].module(m)(*inputs))
        for ours, plain in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)

    first.save_pretrained(tmp_path / "model", tiny_tokenizer)
    command = [sys.executable, "-c", SERVES, str(tmp_path / "model"), str(tmp_path / "code")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
