"""Another version takes over while annotators click: nothing is dropped, and what can't serve never does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine, FakeSession

from backend.app import close_app, create_app
from backend.engines import EngineLoader
from backend.hot_swap import VersionLoader, try_out
from backend.model_versions import BROKEN, ModelVersions, Version
from x2sam.errors import WeightsError
from x2sam.structures import Mask

SOON = 10.0


class SlowEngine(FakeEngine):
    """Of a version; keeps no session alive, and answers when the gate is open."""

    def __init__(self, version: str):
        super().__init__()
        self.version, self.gate, self.begun = version, threading.Event(), threading.Event()
        self.gate.set()

    def prepare(self, frames, frame):
        if isinstance(frames, np.ndarray):  # the trial
            return
        assert not self.closed, "an engine that was closed is asked"
        self.begun.set()
        assert self.gate.wait(SOON)
        assert not self.closed

    def open(self, frames, key=None):
        assert not self.closed
        return FakeSession(self, frames, key)


class Broken(SlowEngine):
    def open(self, frames, key=None):
        session = super().open(frames, key)
        session.segment = lambda prompt, frame=0: [Mask(np.zeros((96, 96), bool), float("nan"))]
        return session


@pytest.fixture
def versions(settings):
    return ModelVersions(Path(settings.state_dir) / "models", keep=5)


@pytest.fixture
def add(versions, tmp_path):
    def add(name: str, root: str = "base-0") -> None:
        place = tmp_path / name
        (place / "tokenizer").mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
            (place / file).write_text(name)
        versions.add(place, Version(name, root, root))

    return add


@pytest.fixture
def serve(settings):
    apps = []

    def serve(made=None):
        made = {} if made is None else made

        def load(directory: Path):
            if made.get(directory.name) is None:
                made[directory.name] = SlowEngine(directory.name)
            elif isinstance(made[directory.name], Exception):
                raise made[directory.name]
            return made[directory.name]

        base = made.setdefault("base-0", SlowEngine("base-0"))
        app = create_app(settings, lambda: base, VersionLoader(lambda: base, load, lambda: "base-0"))
        services = app.extensions["x2sam"]
        services.swap._seconds = 0.02
        services.engines.wait(SOON)
        apps.append(app)
        return app, services, made

    yield serve
    for app in apps:
        close_app(app)


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def asked(app, captured):
    body = captured("predict_interactive_keypoint_positive")
    answer = app.test_client().post("/predict", json=body)
    assert answer.status_code == 200, answer.json
    (entry,) = answer.json["results"]
    assert [one for one in entry["result"] if one["type"] == "brushlabels"], entry
    return entry["model_version"]


def test_a_request_that_runs_is_finished_by_the_version_that_began_it(serve, versions, add, captured):
    app, services, made = serve()
    assert asked(app, captured) == "base-0"
    old = made["base-0"]
    old.gate.clear()
    old.begun.clear()
    add("new-1")
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(asked, app, captured)
        assert old.begun.wait(SOON)
        versions.promote("new-1")
        until(lambda: services.engines.ready_engine.version == "new-1")
        assert asked(app, captured) == "new-1", "who comes later is not kept waiting"
        assert not old.closed and services.engines.retiring == 1
        old.gate.set()
        assert running.result(SOON) == "base-0", "the answer tells who gave it"
    until(lambda: old.closed)
    until(lambda: services.engines.retiring == 0)
    assert app.test_client().get("/health").json["version"] == "new-1"
    made["base-0"].closed = False  # it is loaded again
    versions.rollback()
    until(lambda: services.engines.ready_engine.version == "base-0")
    assert asked(app, captured) == "base-0"


def test_annotators_click_through_many_swaps(serve, versions, add, captured):
    app, _services, _made = serve()
    names = [f"new-{number}" for number in range(4)]
    for name in names:
        add(name)
    seen, stop = [], threading.Event()

    def click():
        while not stop.is_set():
            seen.append(asked(app, captured))

    with ThreadPoolExecutor(3) as pool:
        clicking = [pool.submit(click) for _ in range(3)]
        for name in names:
            versions.promote(name)
            until(lambda name=name: name in seen or any(one.done() for one in clicking))
        stop.set()
        for one in clicking:
            one.result(SOON)  # raises what went wrong
    assert set(names) <= set(seen)


@pytest.mark.parametrize(
    ("what", "broken"),
    [
        ("wrong shape", WeightsError("the weights do not fit the configuration (1 keys): misshapen a")),
        ("not finite", Broken("new-1")),
        ("another version", SlowEngine("new-2")),
    ],
)
def test_what_cannot_serve_never_does(serve, versions, add, captured, what, broken):
    app, _services, made = serve({"new-1": broken})
    add("new-1")
    versions.promote("new-1")
    until(lambda: versions.table().versions["new-1"].state == BROKEN)
    assert asked(app, captured) == "base-0" and not made["base-0"].closed
    assert versions.table().current == ""
    assert getattr(broken, "closed", True)


def test_a_file_that_is_damaged_after_it_was_promoted(serve, versions, add, captured):
    add("new-1")
    versions.promote("new-1")
    add("new-2")
    versions.promote("new-2")
    (versions.directory("new-2") / "model.safetensors").write_text("n")
    app, _services, _made = serve()
    assert asked(app, captured) == "new-1", "the start falls back to the one before"
    assert versions.table().versions["new-2"].state == BROKEN


def test_a_library_that_fails_at_the_start(serve, versions, add, captured):
    add("new-1")
    versions.promote("new-1")
    app, _services, _made = serve({"new-1": RuntimeError("CUDA out of memory")})
    assert asked(app, captured) == "base-0"
    assert versions.table().current == "new-1", "another time it may work"


def test_a_version_of_another_model_is_not_used(serve, versions, add, captured):
    add("other-1", root="x2sam-4b-1")
    versions.promote("other-1")
    app, _services, made = serve()
    assert asked(app, captured) == "base-0" and "other-1" not in made


def test_a_request_keeps_its_engine():
    first, second = SlowEngine("a"), SlowEngine("b")
    loader = EngineLoader(lambda: first)
    loader.start()
    loader.wait(SOON)
    with loader.one_engine():
        assert loader.wait(SOON).version == "a"
        loader.replace(second)
        assert loader.wait(SOON).version == loader.ready_engine.version == "a"
    assert loader.wait(SOON).version == "b"
    until(lambda: first.closed)
    loader.close()


def test_the_trial_asks_a_real_engine(build_engine):
    with build_engine() as engine:
        try_out(engine)
