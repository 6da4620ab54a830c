"""What goes wrong around a server, caused for real: damaged files, clocks that are set, a crowd, a Label Studio that
restarts. (Kills: ``test_killed.py``; memory: ``test_out_of_memory*.py``; upgrades: ``test_state_upgrades.py``.)"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from picture_server import PictureServer
from prompting import Asker, click
from reading import regions, sentences
from test_server_process import Running
from test_server_process import click as a_click

from backend.app import close_app, create_app
from backend.file_cache import FileCache
from backend.journal import Journal, Row
from backend.journal_tracks import state_rows
from backend.remembered import PackedMask, Step
from backend.settings import Settings
from backend.steady_clock import SteadyClock

ROOT = Path(__file__).parents[2]
NANO = ROOT / "x2sam" / "checkpoints" / "nano"
DAY = 86_400.0
CROWD = 1000


@pytest.fixture
def run(tmp_path):
    servers = []

    def run(seconds: float = 0.0, **environment: str) -> Running:
        servers.append(Running(tmp_path, seconds, **environment))
        return servers[-1]

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def test_damaged_state_is_set_aside_and_people_go_on(run, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    for name in ("journal.sqlite3", "videos.sqlite3"):
        (state / name).write_bytes(b"\x00no database\xff" * 500)
    server = run()
    server.wait_ready()
    status, body, _ = server.ask("/predict", a_click())
    assert status == 200 and regions(body["results"][0])
    server.process.terminate()
    log, _ = server.stop(30)
    (aside,) = state.glob("journal-damaged-*.sqlite3")
    assert aside.read_bytes().startswith(b"\x00no database") and aside.name in log and "Traceback" not in log
    again = run()
    again.wait_ready()
    assert len(list(state.glob("journal-damaged-*.sqlite3"))) == 1, "what was begun anew is good"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_half_written_weights_are_told_and_nothing_is_answered_from_them(tmp_path, share):
    """Not a process: the loader is the same, and the start of a real one takes seconds."""
    from backend.wsgi import load_engine

    half = tmp_path / "half"
    shutil.copytree(NANO, half)
    with (half / "model.safetensors").open("r+b") as file:
        file.truncate(int(share * (NANO / "model.safetensors").stat().st_size))
    chosen = Settings(
        model=str(half), media_cache_dir=str(tmp_path / "media"), state_dir=str(tmp_path / "state"), load_wait=60
    )
    app = create_app(chosen, lambda: load_engine(chosen))
    try:
        client = app.test_client()
        end = time.monotonic() + 60
        while app.extensions["x2sam"].engines.state == "loading" and time.monotonic() < end:
            time.sleep(0.05)
        assert client.get("/health").json["state"] == "failed" and client.get("/ready").status_code == 503
        answer = client.post("/predict", data=a_click(), content_type="application/json")
        told = answer.json.get("error") or sentences(answer.json["results"][0])[0]
        assert "Traceback" not in told and "model" in told.lower()
    finally:
        close_app(app)


class Clock:
    """A clock on the wall that somebody sets, beside one that nobody does."""

    def __init__(self, monkeypatch):
        self.set_by = 0.0
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + self.set_by)


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY])
def test_a_clock_that_is_set_makes_nothing_old(jump, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    journal = Journal(tmp_path / "state", 1 << 20, 30 * DAY)
    cache = FileCache(tmp_path / "media", 1 << 20, 3600.0)
    cache.put("http://a/b.png", [b"picture"])
    mask = PackedMask.of(_square())
    journal.note(journal.step_rows("7", "before", (), Step("Object", 0, mask, 0.5)))
    values = ("a", "7", "finished", None, 0, b"", time.time(), time.time())
    journal.note([Row("INSERT INTO track VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)])
    assert journal.flush()
    clock.set_by = jump
    for number in range(80):  # enough for the journal to look for what is old
        journal.note(journal.step_rows("7", f"after{number}", (), Step("Object", 0, mask, 0.5)))
        journal.note(state_rows("a", "finished"))
        assert journal.flush()
    journal._unchecked = 1 << 30
    journal.note(journal.step_rows("7", "last", (), Step("Object", 0, mask, 0.5)))
    assert journal.flush()
    names = [name for _, name, _ in journal.steps(1 << 20)]
    assert "before" in names and len(names) == 82
    assert journal.read("SELECT count(*) FROM track")[0][0] == 1
    journal.close()
    assert cache.get("http://a/b.png") is not None, "and nothing is fetched anew"


def _square():
    import numpy as np

    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    return mask


def test_time_goes_on_all_the_same():
    wall, passed = [1000.0], [50.0]
    clock = SteadyClock(lambda: wall[0], lambda: passed[0])
    assert clock() == 1000.0
    wall[0], passed[0] = 9999.0, 53.0
    assert clock() == 1003.0


def test_a_thousand_connections_leave_room_for_a_click(run):
    server = run(X2SAM_BODY_SECONDS="5")
    server.wait_ready()
    crowd = []
    try:
        for number in range(CROWD):
            crowd.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            if number % 10 == 0:  # one in ten begins to ask and says no more
                crowd[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        status, body, _ = server.ask("/predict", a_click(), timeout=60)
        assert status == 200 and regions(body["results"][0])
        assert server.ask("/health", timeout=60)[0] == 200
    finally:
        for connection in crowd:
            connection.close()
    assert server.ask("/predict", a_click(), timeout=60)[0] == 200 and server.process.poll() is None


def test_label_studio_restarts(settings, engine, captured, pictures, tmp_path):
    """Gone while somebody clicks: the annotator reads so. Back at the same address: the next click is answered."""
    port = int(pictures.url.rsplit(":", 1)[1])
    files = dict(pictures.files)
    app = create_app(settings, lambda: engine)
    app.extensions["x2sam"].engines.wait(5)
    ask = Asker(app.test_client(), captured)
    try:
        pictures.close()
        entry = ask(click(50, 50))
        assert not regions(entry) and sentences(entry)[0]
        back = PictureServer(port=port)
        back.files.update(files)
        try:
            assert regions(ask(click(50, 50)))
            threading.Event().wait(0.05)
            assert regions(ask(click(40, 50)))
        finally:
            back.close()
    finally:
        close_app(app)
