"""A server that is killed again and again in the middle of a track loses nothing: ``X2SAM_TEST_SEED`` repeats a run."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fake_engine import STEP
from PIL import Image
from prompting import draft
from reading import pixels, regions, sentences

from backend.journal_codec import unpack
from backend.rle import encode_mask

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "label_config" / "video_frames_brush.xml").read_text(encoding="utf-8")
HEIGHT, WIDTH, PAGES, KILLS = 48, 160, 90, 10
KNOWN = (0, 31, 40)
STARTER = """
import os, random, signal, sys, threading, time
sys.path[:0] = [{here!r}]
import fake_engine
from backend.app import create_app
from backend.journal import Journal
from backend.settings import Settings
flush = Journal.flush

def serve(port, pause, chance):
    chance = random.Random(chance)
    def between(self):
        if threading.current_thread().name != "track" or chance.random() < 0.5:
            return flush(self)
        print("between", flush=True)
        time.sleep(pause)
        done = flush(self)
        time.sleep(pause / 2)
        return done
    Journal.flush = between
    engine = fake_engine.FakeEngine()
    engine.on_page = lambda page: time.sleep(pause)
    create_app(Settings.from_environment(), lambda: engine).run(port=port, threaded=True)

for line in sys.stdin:
    port, pause, chance = line.split()
    child = os.fork()
    if child == 0:
        serve(int(port), float(pause), int(chance))
    print("process", child, flush=True)
    os.waitpid(child, 0)
"""


class Starter:
    """Starts servers fast: a process that has loaded everything forks for each. One runs at a time."""

    def __init__(self, folder: Path):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "X2SAM_CACHE_DIR": str(folder / "cache"), "X2SAM_STATE_DIR": str(folder / "state"),
            "X2SAM_WARM_TASKS": "0", "X2SAM_TRACK_SECONDS": "0.3",
        }  # fmt: skip
        code = STARTER.format(here=str(Path(__file__).parent))
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", code], env=environment, cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
        )  # fmt: skip

    def start(self, port: int, pause: float, chance: int) -> Server:
        self.process.stdin.write(f"{port} {pause} {chance}\n".encode())
        while not (line := self.process.stdout.readline()).startswith(b"process "):
            assert line
        return Server(self, int(line.split()[1]), port)

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.log.close()


class Server:
    """A process with the stand-in engine that takes a while for each page."""

    def __init__(self, starter: Starter, pid: int, port: int):
        self.starter, self.pid, self.url = starter, pid, f"http://127.0.0.1:{port}"
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                return
            time.sleep(0.02)
        raise AssertionError("not ready")

    def ask(self, *prompts, on_screen=()):
        page = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), (9, 90, 9)).save(page, "PNG")
        frames = ["data:image/png;base64," + base64.b64encode(page.getvalue()).decode()] * PAGES
        task = {"id": 5, "data": {"frames": frames}, "drafts": [draft(*on_screen)], "annotations": []}
        body = {"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": {"result": prompts}}}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/predict", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            (entry,) = json.load(answer)["results"]
        return entry

    def wait_between(self, seconds: float):
        """Until it is between a mask and its place in the journal, or so long."""
        output = self.starter.process.stdout
        while select.select([output], [], [], 0)[0]:
            output.readline()
        if select.select([output], [], [], seconds)[0]:
            output.readline()

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path):
    starter, servers = Starter(tmp_path), []

    def start(port, pause, chance):
        servers.append(starter.start(port, pause, chance))
        return servers[-1]

    yield start
    if servers:
        servers[-1].kill()
    starter.close()


def drawn(mask, page):
    value = {"format": "rle", "rle": encode_mask(mask), "brushlabels": ["Object 1"]}
    return _item("brushlabels", "mask", value, page, f"drawn{page}")


def click(number):
    value = {"x": 20 + 5 * number, "y": 50, "width": 0.2, "keypointlabels": ["Object 2"]}
    return _item("keypointlabels", "point", value, 3, f"click{number}", is_positive=True)


def typed(text):
    value = {"text": [text]}
    return {"id": "typed", "from_name": "prompt", "to_name": "image", "type": "textarea", "item_index": 0,
            "value": value}  # fmt: skip


def _item(kind, tag, value, page, name, **fields):
    return {
        "id": name, "from_name": tag, "to_name": "image", "type": kind, "origin": "manual", "item_index": page,
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value, **fields,
    }  # fmt: skip


def test_killed_ten_times_in_the_middle_of_a_track(start, tmp_path, unused_port):
    seed = int(os.environ.get("X2SAM_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"X2SAM_TEST_SEED={seed}")
    chance = random.Random(seed)
    masks = {page: np.zeros((HEIGHT, WIDTH), bool) for page in KNOWN}
    for page, mask in masks.items():
        mask[10 : 20 + page // 10, 20 + page : 50 + page] = True
    mine = [drawn(mask, page) for page, mask in masks.items()]

    server = start(unused_port, 0.06, chance.randrange(99))
    entry = server.ask(typed("track"), on_screen=mine)
    assert "stop to end it" in sentences(entry)[0]
    told = {item["item_index"]: pixels(item) for item in regions(entry)}
    clicks, written = 0, []
    for kill in range(KILLS):
        if kill % 2:  # between a mask and its place in the journal
            server.wait_between(2.0)
            time.sleep(chance.uniform(0, 0.08))
        else:
            time.sleep(chance.uniform(0.1, 1.2))
        server.kill()
        written.append(_written(tmp_path))
        server = start(unused_port, 0.06 if kill < KILLS - 1 else 0.01, chance.randrange(99))
        entry = server.ask(*(click(number) for number in range(clicks + 1)), on_screen=mine)
        clicks += 1
        assert any(item["item_index"] == 3 for item in regions(entry))
        told |= {
            item["item_index"]: pixels(item) for item in regions(entry) if item["value"]["brushlabels"] == ["Object 1"]
        }

    print("pages written at each kill:", [pages for _, pages in written])
    assert {state for state, _ in written} == {"running"}, "each time in the middle of the track"
    assert [pages for _, pages in written] == sorted(pages for _, pages in written)
    end = time.monotonic() + 20
    while f"tracked {PAGES} pages." not in sentences(entry := server.ask(typed("track"), on_screen=mine))[0]:
        assert time.monotonic() < end, sentences(entry)
        time.sleep(0.1)
    found = [item for item in regions(entry) if item["value"]["brushlabels"] == ["Object 1"]]
    pages = [item["item_index"] for item in found]
    assert sorted(pages) == [page for page in range(PAGES) if page not in KNOWN], "each page once, a person's never"
    for item in found:
        page = item["item_index"]
        nearest = min(KNOWN, key=lambda known: (abs(page - known), known))
        np.testing.assert_array_equal(pixels(item), np.roll(masks[nearest], STEP * (page - nearest), axis=1))
    assert told.keys() <= set(pages)
    server.kill()
    _check_journal(tmp_path / "state" / "journal.sqlite3", masks, clicks)


def _written(folder):
    """The state of the track, and how many pages of it are in the journal."""
    with contextlib.closing(sqlite3.connect(folder / "state" / "journal.sqlite3")) as database:
        (state,) = database.execute("SELECT state FROM track").fetchone()
        return state, database.execute("SELECT count(*) FROM mask").fetchone()[0]


def _check_journal(path, masks, clicks):
    with contextlib.closing(sqlite3.connect(path)) as database:
        ((state, about),) = database.execute("SELECT state, about FROM track").fetchall()
        words, known = unpack(about)
        (one,) = words["objects"]
        assert state == "finished"
        assert {page for page, *_ in one["known"]} == set(KNOWN) == set(one["kept"])
        for page, _, number in one["known"]:
            np.testing.assert_array_equal(known[number].unpack(), masks[page])
        rows = database.execute("SELECT page, count(*) FROM mask GROUP BY page").fetchall()
        assert rows == [(page, 1) for page in range(PAGES) if page not in KNOWN]
        (steps,) = database.execute("SELECT count(*) FROM step WHERE NOT tracked").fetchone()
        assert steps == clicks, "each click that was answered"
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert path.stat().st_mode & 0o77 == 0, "for its owner alone"


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
