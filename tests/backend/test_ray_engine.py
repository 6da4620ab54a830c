"""Two engines on a Ray cluster of this machine: where pictures are looked at, lost processes, equal answers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray_stand_in
from PIL import Image, ImageDraw
from workplace import NANO, ROOT

from backend.app import create_app
from backend.carried import Carried, Known
from backend.errors import MediaError, ModelUnavailableError, SettingsError
from backend.frame_recipes import Kitchen, PagesRecipe, recipe_of
from backend.remembered import PackedMask
from backend.settings import Settings
from backend.tracking import Reach, Track, session_opener
from x2sam.errors import PromptError
from x2sam.structures import Point, Prompt

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")

PAGES = 24
CLICK = Prompt(points=(Point(60, 60),))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("ray")
    for number in range(PAGES):
        picture = Image.new("RGB", (160, 120), (40, 90, 40))
        ImageDraw.Draw(picture).ellipse((30 + 2 * number, 30, 80 + 2 * number, 80), fill=(210, 60, 40))
        picture.save(folder / f"{number:02}.png")
    return Settings(
        model="nano", engine="ray", ray_replicas=(2, 2), ray_cpus=0.5, media_dirs=(str(folder),),
        media_cache_dir=str(folder / "cache"), state_dir=str(folder / "state"), cpu_threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def breaks(tmp_path_factory) -> Path:
    """While this file is there, the next device that is asked for it breaks."""
    return tmp_path_factory.mktemp("breaks") / "one"


@pytest.fixture(scope="module")
def cluster(settings, breaks):
    """A cluster whose processes find the stand-in engine."""
    with pytest.MonkeyPatch.context() as patch:
        places = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]
        patch.setenv("PYTHONPATH", os.pathsep.join(places))
        patch.setenv("X2SAM_TEST_BREAKS", str(breaks))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="x2sam")
        yield
        ray.serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def started(cluster, settings):
    """(function that builds an engine) to the engines; one kind at a time."""
    from backend.ray_engine import Cluster

    running, cluster_of_ours = {}, Cluster(settings)

    def engine(build):
        if build not in running:
            for name in list(running):
                running.pop(name).close()
            running[build] = cluster_of_ours.start(build)
        return running[build]

    yield engine
    for one in running.values():
        one.close()


@pytest.fixture
def engine(started):
    engine = started(ray_stand_in.build)
    until(lambda: engine.replicas == 2, "two replicas")
    return engine


@pytest.fixture(scope="module")
def kitchen(settings):
    return Kitchen(replace(settings, media_cache_dir=settings.media_cache_dir + "-here"))


@pytest.fixture
def frames(kitchen):
    """Numbers of pictures to frames as a task has them."""
    return lambda *numbers: PagesRecipe(tuple(f"{number:02}.png" for number in numbers)).frames(kitchen)


def until(true, what, seconds=90.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"no {what} in {seconds:g} s"
        time.sleep(0.1)


def test_each_picture_is_looked_at_by_one_replica(engine, frames):
    before = engine.features.misses
    places = {}
    for _ in range(3):
        for number in range(8):
            page = frames(number)
            session = engine.open(page, key=page.key)
            (mask,) = session.segment(CLICK)
            assert mask.mask[60, 60] and mask.mask.shape == (120, 160)
            places.setdefault(number, set()).add(session.chat("where?")[0])
    assert all(len(where) == 1 for where in places.values())
    assert len(set.union(*places.values())) == 2  # both have work
    # 8 pictures, each encoded once wherever it is; 24 clicks
    until(lambda: engine.features.misses - before == 8, "count of eight pictures", 10)


def test_it_tells_what_its_replicas_tell_of_themselves(engine):
    assert (engine.name, engine.remembers, engine.words) == ("fake", True, ("cup", "the"))


def test_errors_arrive_as_they_were(engine, frames, kitchen):
    page = frames(0)
    with pytest.raises(PromptError, match=r"^The prompt is empty\.$"):
        engine.open(page, key=page.key).segment(Prompt())
    missing = PagesRecipe(("not there.png",)).frames(kitchen)
    with pytest.raises(MediaError):
        engine.open(missing, key="missing").segment(CLICK)


def test_a_click_on_a_lost_replica_is_answered_by_another(engine, frames):
    page = frames(3)
    session = engine.open(page, key=page.key)
    lost = session.chat("where?")[0]
    os.kill(int(lost), signal.SIGKILL)
    assert session.segment(CLICK)[0].mask[60, 60]
    assert session.chat("where?")[0] != lost


def test_a_track_outlives_the_replica_that_walks_it(engine, frames):
    pages = frames(*range(PAGES))
    first = np.zeros((120, 160), bool)
    first[30:80, 30:80] = True
    objects = [Carried("disc", "Object", {0: Known(PackedMask.of(first), 1.0)})]
    track = Track(session_opener(engine, pages, pages.key), PAGES, objects, Reach("forward"))
    walked, lost = [], None
    for stride in track.walk():
        if stride is not None:
            walked.append(stride.page)
        if len(walked) == 6 and lost is None:
            lost = engine.open(pages, key=pages.key).chat("where?")[0]
            os.kill(int(lost), signal.SIGKILL)
    # page 0 is known; each of the others came once, in order
    assert walked == list(range(1, PAGES))
    for page in range(PAGES):  # the stand-in moves masks by two pixels a page
        assert (track.found[page]["disc"].mask.unpack() == np.roll(first, 2 * page, axis=1)).all()


def test_a_question_to_a_lost_device_is_answered_by_another(engine, frames, breaks):
    page = frames(4)
    session = engine.open(page, key=page.key)
    lost = session.chat("where?")[0]
    breaks.touch()
    assert session.segment(Prompt(text=ray_stand_in.BREAKS))[0].mask.any() and not breaks.exists()
    until(lambda: not Path(f"/proc/{lost}").exists(), "end of the process that lost its device", 20)
    assert session.chat("where?")[0] != lost


def test_a_track_outlives_the_device_that_walks_it(engine, frames, breaks):
    pages = frames(*range(9))
    first = np.zeros((120, 160), bool)
    first[30:80, 30:80] = True
    objects = [Carried("breaks", "Object", {0: Known(PackedMask.of(first), 1.0)})]
    breaks.touch()
    track = Track(session_opener(engine, pages, pages.key), 9, objects, Reach("forward"))
    assert [stride.page for stride in track.walk() if stride is not None] == list(range(1, 9)) and not breaks.exists()


def test_an_annotator_is_told_that_the_device_was_lost(engine, settings, breaks, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.ray_engine._TRIES", 1)
    own = replace(settings, state_dir=str(tmp_path), engine="local", warm_tasks=0)
    app = create_app(own, lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    typed = {"id": "t", "from_name": "prompt", "to_name": "image", "type": "textarea"}
    typed["value"] = {"text": [ray_stand_in.BREAKS]}
    body = {
        "tasks": [{"id": 1, "data": {"image": "05.png"}}], "params": {"context": {"result": [typed]}},
        "label_config": (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8"),
    }  # fmt: skip
    breaks.touch()
    (told,) = app.test_client().post("/predict", json=body).json["results"][0]["result"]
    assert told["value"]["text"] == ["The process with the model was lost while it worked on this; ask again."]
    app.extensions["x2sam"].journal.close()


@pytest.mark.parametrize("fails", ["start", "run"])
def test_why_the_cluster_did_not_start_is_told_whatever_else_fails(settings, monkeypatch, fails):
    from backend import ray_engine

    def raising(kind):
        def call(*_, **__):
            raise kind

        return call

    ended = []
    cluster = ray_engine.Cluster(settings)
    monkeypatch.setattr(cluster, "_enter", lambda: None)
    monkeypatch.setattr(cluster, "_leave", lambda: ended.append("left"))
    serve = SimpleNamespace(
        start=lambda **_: None, deployment=ray.serve.deployment, delete=raising(RuntimeError("the controller is gone"))
    )
    serve.run = raising(OSError("no room"))
    if fails == "start":
        serve.start = raising(OSError("no room"))
    monkeypatch.setattr(ray_engine, "serve", serve)
    actor = SimpleNamespace(remote=lambda *_: "board")
    stand_in = SimpleNamespace(remote=lambda **_: lambda _: actor, kill=raising(ValueError("no such actor")))
    monkeypatch.setattr(ray_engine, "ray", stand_in)
    with pytest.raises(ModelUnavailableError, match=r"^No replica came up on the Ray cluster \(OSError\)"):
        cluster.start(lambda _: None)
    assert ended == ["left"]


def test_words_over_a_clip(engine, frames):
    pages = frames(*range(9))
    search = engine.open(pages, key=pages.key).find_in_clip(Prompt(text="a disc"))
    seen = [masks.frame for masks in search if masks is not None]
    assert seen == [0, 4, 8] and list(search.looked) == seen
    assert search.finished and [sorted(one.findings) for one in search.found()] == [[0, 4, 8]]


@pytest.mark.skipif(not NANO.is_file(), reason="x2sam/checkpoints/nano is not there")
def test_answers_equal_those_of_one_process(started, settings, frames):
    from backend.wsgi import load_engine

    engine = started(load_engine)
    pages = frames(*range(6))
    with load_engine(replace(settings, engine="local")) as alone:
        assert (engine.name, engine.version) == (alone.name, alone.version)
        answers = [one.open(pages, key=pages.key).segment(CLICK, frame=2)[0] for one in (engine, alone)]
        assert (answers[0].mask == answers[1].mask).all() and answers[0].score == answers[1].score
        walks = []
        for one in (engine, alone):
            session = one.open(pages, key=pages.key)
            session.correct(2, "disc", answers[0].mask)
            walks.append([(m.frame, m.masks[0].mask) for m in session.track(["disc"], direction="both")])
    assert [frame for frame, _ in walks[0]] == [frame for frame, _ in walks[1]] == [2, 3, 4, 5, 1, 0]
    assert all((a == b).all() for (_, a), (_, b) in zip(*walks, strict=True))


def test_recipes_are_of_what_was_opened(frames, kitchen):
    assert recipe_of(frames(1, 2)) == PagesRecipe(("01.png", "02.png"))
    assert frames(1).key == recipe_of(frames(1)).frames(kitchen).key


def test_features_on_disk_are_of_one_process():
    with pytest.raises(SettingsError, match="X2SAM_FEATURES_DIR"):
        Settings(engine="ray", features_dir="/somewhere", features_disk_bytes=1)


def test_it_has_the_face_of_an_engine():
    """Every method of the protocols, with the same parameters: what calls one calls the other."""
    import inspect

    from backend import engines
    from backend.ray_engine import RayEngine, RaySearch, RaySession

    for ours, face in ((RayEngine, engines.Engine), (RaySession, engines.Session), (RaySearch, engines.ClipSearch)):
        for name, member in vars(face).items():
            if not name.startswith("_") and inspect.isfunction(member):
                assert list(inspect.signature(getattr(ours, name)).parameters) == list(
                    inspect.signature(member).parameters
                ), (face, name)
        assert all(hasattr(ours, name) for name, member in vars(face).items() if isinstance(member, property))
