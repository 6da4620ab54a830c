"""The server as a process: how it stops, what it logs, what it does with silent clients, and when it does not start."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
CLIPS = (ROOT / "label_config" / "video_frames_brush.xml").read_text(encoding="utf-8")
SERVE = """
import os, sys, time
sys.path[:0] = [{here!r}]
import fake_engine
original = fake_engine.FakeSession.segment
def slowly(*args, **kwargs):
    print("segmenting", flush=True)
    time.sleep({seconds!r})
    return original(*args, **kwargs)
fake_engine.FakeSession.segment = slowly
import backend.video_frames
if os.environ.get("FRAME_SECONDS"):
    backend.video_frames.VideoFrames.is_signed = lambda *_: True
    backend.video_frames.VideoFrames.read = lambda *_: time.sleep(float(os.environ["FRAME_SECONDS"])) or b"page"
import backend.wsgi
class Engine(fake_engine.FakeEngine):
    vitals = property(lambda self: fake_engine.EngineVitals(lost=os.path.exists("lost")), lambda self, value: None)
def engine(settings):
    engine = Engine()
    if os.path.exists("lost"):
        os.remove("lost")  # another process may use the device
    print("loaded", flush=True)
    engine.on_page = lambda page: time.sleep(float(os.environ.get("PAGE_SECONDS", 0)))
    return engine
backend.wsgi.load_engine = engine
from backend.cli import app
app(["serve"])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def track(pages: int = 30) -> bytes:
    value = {"x": 50, "y": 50, "width": 0.2, "keypointlabels": ["Object 1"]}
    point = {
        "id": "p1", "from_name": "track_point", "to_name": "image", "type": "keypointlabels", "is_positive": True,
        "original_width": 64, "original_height": 48, "image_rotation": 0, "item_index": 0, "value": value,
    }  # fmt: skip
    task = {"id": 78, "data": {"frames": [picture()] * pages}}
    body = {"tasks": [task], "project": "5.1", "label_config": CLIPS, "params": {"context": {"result": [point]}}}
    return json.dumps(body).encode()


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (9, 90, 9)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def click() -> bytes:
    point = {
        "id": "p1", "from_name": "point", "to_name": "image", "type": "keypointlabels", "is_positive": True,
        "original_width": 64, "original_height": 48, "image_rotation": 0,
        "value": {"x": 50, "y": 50, "width": 0.2, "keypointlabels": ["Object"]},
    }  # fmt: skip
    task = {"id": 77, "data": {"image": picture()}}
    body = {"tasks": [task], "project": "5.1", "label_config": CONFIG, "params": {"context": {"result": [point]}}}
    return json.dumps(body).encode()


class Running:
    """A server process with the stand-in engine, each answer of which takes ``seconds``."""

    def __init__(self, folder: Path, seconds: float, **environment: str):
        self.port = free_port()
        code = SERVE.format(here=str(Path(__file__).parent), seconds=seconds)
        own = {
            "PYTHONPATH": str(ROOT),
            "X2SAM_CACHE_DIR": str(folder / "cache"),
            "X2SAM_STATE_DIR": str(folder / "state"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | own | {"PORT": str(self.port), "X2SAM_WARM_TASKS": "0"} | environment,
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, path: str, body: bytes | None = None, timeout: float = 30, **headers: str) -> tuple[int, dict, dict]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        request.headers = {"Content-Type": "application/json", **headers}
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), dict(error.headers)

    def wait_ready(self, **headers: str) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self.process.poll() is None, self.process.stderr.read().decode()
            try:
                if self.ask("/ready", **headers)[0] == 200:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.05)
        raise AssertionError("not ready")

    def wait_segmenting(self) -> None:
        while self.process.stdout.readline().strip() != b"segmenting":
            assert self.process.poll() is None

    def stop(self, seconds: float) -> tuple[str, float]:
        """What it logged, and how long it took to leave."""
        begun = time.monotonic()
        _, errors = self.process.communicate(timeout=seconds)
        return errors.decode(), time.monotonic() - begun


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


def test_told_to_stop_it_leaves_tracks_to_the_next_start(run):
    server, answers = run(PAGE_SECONDS="0.1", X2SAM_TRACK_SECONDS="20"), []
    server.wait_ready()
    thread = threading.Thread(target=lambda: answers.append(server.ask("/predict", track())))
    thread.start()
    time.sleep(0.8)
    server.process.send_signal(signal.SIGTERM)
    thread.join(20)
    log, seconds = server.stop(20)
    assert seconds < 10 and "Traceback" not in log
    ((status, body, _),) = answers
    assert status == 200 and "It goes on" in json.dumps(body), "who waits is told how far it is"
    server = run()
    server.wait_ready()
    until = time.monotonic() + 20
    while "tracked 30 pages." not in json.dumps(body := server.ask("/predict", track())[1]):
        assert time.monotonic() < until
    server.process.send_signal(signal.SIGTERM)
    log, _ = server.stop(20)
    (resumed,) = (line for line in log.splitlines() if "track resumed" in line)
    assert 1 < int(resumed.split("pages=")[1].split()[0]) < 30
    assert len([item for item in body["results"][0]["result"] if item["type"] == "brushlabels"]) == 30


def test_told_to_stop_it_finishes_what_runs_and_takes_nothing_new(run):
    server, answers = run(seconds=2.0), []
    server.wait_ready()
    thread = threading.Thread(target=lambda: answers.append(server.ask("/predict", click())))
    thread.start()
    server.wait_segmenting()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    status, body, _ = server.ask("/predict", click())
    assert status == 503
    assert "stopped" in body["error"]
    assert server.ask("/health")[0] == 200
    status, body, _ = server.ask("/ready")
    assert status == 503
    assert body["problems"] == ["The server is being stopped."]
    thread.join(20)
    assert answers[0][0] == 200
    assert answers[0][1]["results"][0]["result"]
    log, _ = server.stop(15)
    assert server.process.returncode == 0, log
    assert "stopping: 1 requests" in log and "Traceback" not in log


def test_a_worker_whose_device_is_lost_is_replaced(run, tmp_path):
    server = run()
    server.wait_ready()
    assert server.process.stdout.readline().strip() == b"loaded"
    (tmp_path / "lost").touch()
    assert server.process.stdout.readline().strip() == b"loaded", "the model, by another process"
    server.wait_ready()
    assert server.ask("/predict", click())[0] == 200
    server.process.send_signal(signal.SIGTERM)
    log, _ = server.stop(20)
    assert server.process.returncode == 0 and "Traceback" not in log, log
    assert log.count("Booting worker") == 2


def test_what_does_not_end_is_not_waited_for(run):
    server = run(seconds=600.0, X2SAM_DRAIN_SECONDS="0.5")
    server.wait_ready()

    def ask():
        with contextlib.suppress(OSError):  # cut off, as it must be
            server.ask("/predict", click())

    threading.Thread(target=ask, daemon=True).start()
    server.wait_segmenting()
    server.process.send_signal(signal.SIGTERM)
    log, seconds = server.stop(30)
    assert "not finished in time" in log
    assert seconds < 20


def test_a_line_for_each_request_and_nothing_of_the_task(run):
    server = run(LOG_FORMAT="json")
    server.wait_ready()
    body = click()
    _, _, headers = server.ask("/predict", body, **{"X-Request-ID": "from.outside-7"})
    assert headers["X-Request-ID"] == "from.outside-7"
    server.ask("/predict", b'{"tasks": "secret-text"}', **{"X-Request-ID": "not safe\tat all"})
    server.process.send_signal(signal.SIGTERM)
    log, _ = server.stop(20)
    lines = [json.loads(line) for line in log.splitlines()]
    good, bad = [line for line in lines if line["event"] == "request"]
    assert good.items() >= {
        "request": "from.outside-7", "endpoint": "predict", "status": 200, "task": "77", "kind": "click", "masks": 1,
        "project": "5",
    }.items()  # fmt: skip
    assert {"fetch", "decode", "segment", "shape"} <= good["stages"].keys()
    assert len(good["session"]) == 12 and good["ms"] > 0
    assert bad.items() >= {"status": 400, "error": "BadRequestError"}.items()
    assert "secret-text" not in log and "base64" not in log and "not safe" not in log


def test_a_silent_client_does_not_keep_a_thread(run):
    server = run(X2SAM_BODY_SECONDS="0.3", X2SAM_THREADS="2")
    server.wait_ready()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(80)]  # more than there are threads
    for number, connection in enumerate(silent):
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        connection.sendall(head if number % 2 else head + b"\r\n{")
    time.sleep(0.2)
    status, _, _ = server.ask("/health", timeout=20)
    assert status == 200
    for connection in silent:
        connection.close()


def test_a_client_that_does_not_hang_up_keeps_nobody_waiting(run):
    """It wants the connection closed, and leaves its own end open: gunicorn would wait two seconds for each."""
    server = run()
    server.wait_ready()
    open_ends = []
    for _ in range(20):
        open_ends.append(socket.create_connection(("127.0.0.1", server.port)))
        open_ends[-1].sendall(b"GET /versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    for connection in open_ends:
        answer = connection.makefile("rb").read()  # the server closes its end at once
        assert answer.startswith(b"HTTP/1.1 200") and b"versions" in answer
    began = time.monotonic()
    assert server.ask("/health", timeout=20)[0] == 200
    assert time.monotonic() - began < 2, "twenty of these would take 40 s one after the other"
    for connection in open_ends:
        connection.close()


@pytest.mark.parametrize("name", ["Content-Length: 20", "content-length : 20", "Transfer-Encoding: chunked"])
def test_health_with_a_body_that_never_comes(run, name):
    server = run(X2SAM_BODY_SECONDS="3")
    server.wait_ready()
    with socket.create_connection(("127.0.0.1", server.port)) as odd:
        odd.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\n{name}\r\n\r\n".encode())
        time.sleep(0.2)
        began = time.monotonic()
        for _ in range(3):
            assert server.ask("/health", timeout=20)[0] == 200
        assert time.monotonic() - began < 2.5, "nobody waits for the body in the thread that answers /health"


def test_heads_that_come_in_pieces(run):
    server = run()
    server.wait_ready()
    for path in ("health", "versions"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            for piece in (f"GET /{path} HT", "TP/1.1\r\nHost: x\r\nConnection: cl", "ose\r\n\r", "\n"):
                slow.sendall(piece.encode())
                time.sleep(0.05)
            assert slow.makefile("rb").read().startswith(b"HTTP/1.1 200")


def test_health_over_one_connection_again_and_again(run):
    server = run()
    server.wait_ready()
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(3):
        line.request("GET", "/health")
        answer = line.getresponse()
        assert answer.status == 200 and json.load(answer)["status"] == "UP"
    line.close()


def test_pages_of_videos_do_not_keep_health_waiting(run):
    """Eight browsers open a clip at the same time; each asks for six pages, and they wait for one decoder."""
    server, answers = run(X2SAM_THREADS="4", FRAME_SECONDS="6"), []
    server.wait_ready()

    def page(number: int) -> None:
        with contextlib.suppress(ValueError):  # a page is no JSON
            server.ask(f"/frames/clip/{number}.jpg?s=x")
        answers.append(time.monotonic())

    browsers = [threading.Thread(target=page, args=(number,), daemon=True) for number in range(48)]
    begun = time.monotonic()
    for browser in browsers:
        browser.start()
    time.sleep(0.5)
    assert server.ask("/health", timeout=20)[0] == 200
    assert server.ask("/predict", click())[0] == 200
    assert not answers and time.monotonic() - begun < 6, "while all the pages wait"
    for browser in browsers:
        browser.join(30)
    assert len(answers) == 48


def test_everywhere_with_credentials_and_the_health_check_of_containers(run, tmp_path):
    own = {"BASIC_AUTH_USER": "me", "BASIC_AUTH_PASS": "p", "X2SAM_HOST": "0.0.0.0"}
    server = run(**own)
    server.wait_ready(Authorization="Basic " + base64.b64encode(b"me:p").decode())
    assert server.ask("/ready")[0] == 401

    def ready(port: int) -> int:
        environment = os.environ | own | {"PORT": str(port)}
        return subprocess.run([sys.executable, "-m", "backend", "ready"], cwd=ROOT, env=environment).returncode

    assert ready(server.port) == 0
    assert ready(free_port()) == 1
