"""A short annotation session on the sample pictures: clicks, a box, words, a correction of what was accepted, a track.

``python tests/backend/recorded_session.py FILE`` records it anew with the embedded model, as
``tests/backend/data/session.recording.jsonl`` was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
PICTURE = (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8")
CLIP = (ROOT / "label_config" / "video_frames.xml").read_text(encoding="utf-8")
PERSON, COMMENT, NAME = "ann.other@example.com", "the patient came late", "Jane Doe"
"""What no recording may hold."""


def region(name, tag, kind, value, size, label="Object", page=None, **fields):
    place = {} if page is None else {"item_index": page}
    return {
        "id": name, "from_name": tag, "to_name": "image", "type": kind, "origin": "manual", "image_rotation": 0,
        "original_width": size[0], "original_height": size[1], "value": value | {kind: [label]}, **place, **fields,
    }  # fmt: skip


def click(name, x, y, size, positive=True, tag="point", **more):
    value = {"x": x, "y": y, "width": 0.25}
    return region(name, tag, "keypointlabels", value, size, is_positive=positive, **more)


def typed(name, text):
    return {"id": name, "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": [text]}}


def bodies(answers):
    """The requests of the session, one by one; ``answers`` has the result items of those before."""
    sign, bus, plane = (480, 640), (640, 427), (640, 427)

    def about(task, data, config, prompts, drafts=()):
        raw = {"id": task, "project": 3, "data": data | {"patient": NAME}, "drafts": list(drafts)}
        params = {"login": "ann", "password": "hidden", "context": {"result": prompts} if prompts else None}
        return {"tasks": [raw], "project": "3.1700000000", "label_config": config, "params": params}

    first = click("signclick1", 50, 40, sign)
    yield about(31, {"image": "stop_sign.jpg"}, PICTURE, [first])
    yield about(31, {"image": "stop_sign.jpg"}, PICTURE, [first, click("signclick2", 50, 85, sign, positive=False)])
    accepted = [item for item in answers[-1] if item["type"] == "brushlabels"]
    comment = {"id": "c", "from_name": "notes", "to_name": "image", "type": "textarea", "value": {"text": [COMMENT]}}
    draft = {"id": 7, "user": PERSON, "updated_at": "2026-01-01T00:00:05Z", "result": [*accepted, comment]}
    yield about(31, {"image": "stop_sign.jpg"}, PICTURE, [click("signclick3", 50, 25, sign)], [draft])
    square = {"x": 5, "y": 15, "width": 90, "height": 75, "rotation": 0}
    yield about(32, {"image": "bus.jpg"}, PICTURE, [region("busbox", "box", "rectanglelabels", square, bus)])
    yield about(33, {"image": "room.jpg"}, PICTURE, [typed("roomwords", "the chair")])
    pages = {"frames": ["airplane.jpg", "bus.jpg", "airplane.jpg"]}
    tracked = click("planeclick", 50, 50, plane, tag="track_point", label="Object 1", page=0)
    yield about(34, pages, CLIP, [tracked])
    yield about(34, pages, CLIP, [tracked, click("planeother", 50, 45, plane, label="Object 2", page=1)])


def ask(url, body):
    """The result items of one answer."""
    request = urllib.request.Request(
        f"{url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        (entry,) = json.load(answer)["results"]
    return entry.get("result", [])


def hold_session(url, most=None):
    """Asks everything, or the first ones; the result items of each answer."""
    answers: list = []
    for body in bodies(answers):
        if most is not None and len(answers) == most:
            break
        answers.append(ask(url, body))
    return answers


class RecordingServer:
    """``python -m backend serve`` that records; its processes are a group of their own, so that all can be killed."""

    def __init__(self, folder: Path, model: str = "nano", **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.recordings = f"http://127.0.0.1:{port}", folder / "recordings"
        known = {k: v for k, v in os.environ.items() if not k.startswith(("X2SAM_", "BASIC_AUTH_", "LABEL_STUDIO_"))}
        own = {
            "X2SAM_RECORD_DIR": str(self.recordings), "X2SAM_STATE_DIR": str(folder / "state"),
            "X2SAM_CACHE_DIR": str(folder / "cache"), "X2SAM_MEDIA_DIRS": str(SAMPLES), "X2SAM_WARM_TASKS": "0",
            "X2SAM_CPU_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "backend", "serve", "--port", str(port), "--model", model]
        with (folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=known | own | environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/ready", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)

    def recording(self, requests: int, seconds: float = 20.0) -> Path:
        """The file, once it has so many requests."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for path in self.recordings.glob("*.jsonl"):
                if path.read_bytes().count(b'{"asked":') >= requests:
                    return path
            time.sleep(0.05)
        raise AssertionError(f"no recording with {requests} requests after {seconds:g} s")


def main() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # as the tests run where nobody says otherwise
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        server = RecordingServer(Path(folder))
        try:
            server.wait()
            recorded = server.recording(len(hold_session(server.url)))
            server.stop()
            shutil.copyfile(recorded, sys.argv[1])
        finally:
            if server.process.poll() is None:
                server.kill()


if __name__ == "__main__":
    main()
