"""Measures how fast /health and /setup are answered while annotators click, a track and a batch run.

    python scripts/load_check.py [--url http://127.0.0.1:9090] [--seconds 30] [--json FILE]

Without ``--url`` it starts a server with ``nano`` for itself. Pictures travel inside the tasks, so neither Label Studio
nor files are needed. Exit code 1: a time is above its limit, or a click or a track was not answered. Credentials:
BASIC_AUTH_USER and BASIC_AUTH_PASS.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from label_studio_server import ChildServer, free_port
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (ROOT / "label_config" / "image_clicks.xml").read_text(encoding="utf-8")
CLIP_CONFIG = (ROOT / "label_config" / "video_frames.xml").read_text(encoding="utf-8")
LIMITS = {"/health": (0.050, 0.500), "/setup": (0.300, 0.500)}
"""Seconds by path: the 99th percentile, and what is never exceeded."""
SIDE = 960
LONG_JOB_TASKS = 40  # about 2 MB
LONG_JOB_PICTURES = 20
CLIP_PAGES = 24
CLIP_TASK = 5000
RATES = {"/health": 20.0, "/setup": 10.0}  # requests per second


@dataclass
class Target:
    """Where the server is, and the headers that it wants."""

    host: str
    port: int
    headers: Mapping[str, str]

    def ask(self, method: str, path: str, body: bytes | None = None, timeout: float = 120.0) -> tuple[int, float]:
        """Status (0: no answer) and seconds of one request over a connection of its own, as Label Studio makes them."""
        begun = time.perf_counter()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **self.headers})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            status = 0
        finally:
            connection.close()
        return status, time.perf_counter() - begun


@dataclass
class Answers:
    """Status and seconds of requests of one kind."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        self.seconds.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def told(self) -> dict[str, object]:
        """Milliseconds at the median, the 99th percentile and the longest; how many, with which status."""
        p50, p99, longest = np.percentile(self.seconds or [0.0], (50, 99, 100)) * 1e3
        ms = {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(longest, 1)}
        return {"n": len(self.seconds), **ms, "status": {str(k): v for k, v in sorted(self.statuses.items())}}


def picture(seed: int) -> str:
    """A data URL of a picture with some shapes on an uneven ground, about 50 kB."""
    dice = random.Random(seed)
    noise = np.random.default_rng(seed).integers(60, 180, (18, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((SIDE, SIDE * 3 // 4), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = dice.randrange(SIDE), dice.randrange(SIDE * 3 // 4), dice.randrange(30, 160)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(dice.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def click_body(annotator: int, number: int, url: str, filler: Sequence[dict]) -> bytes:
    """A click somewhere on the annotator's picture; ``filler`` are the regions that the task has already."""
    task = {"id": annotator + 1, "data": {"image": url}, "annotations": [{"id": 1, "result": list(filler)}]}
    dice = random.Random(annotator * 10007 + number)
    return asked(task, CONFIG, click(f"p{annotator}-{number}", "point", "Object", dice))


def track_body(number: int, pages: Sequence[str]) -> bytes:
    """A click that tracks over all pages of a clip; another object each time."""
    one = click(f"t{number}", "track_point", "Object 1", random.Random(number)) | {"item_index": 0}
    return asked({"id": CLIP_TASK + number, "data": {"frames": list(pages)}}, CLIP_CONFIG, one)


def click(name: str, tag: str, label: str, dice: random.Random) -> dict:
    value = {"x": dice.uniform(5, 95), "y": dice.uniform(5, 95), "width": 0.2, "keypointlabels": [label]}
    return {
        "id": name, "from_name": tag, "to_name": "image", "type": "keypointlabels", "origin": "manual",
        "is_positive": True, "original_width": SIDE, "original_height": SIDE * 3 // 4, "image_rotation": 0,
        "value": value | {"labels": [label]},
    }  # fmt: skip


def asked(task: dict, config: str, prompt: dict) -> bytes:
    body = {"tasks": [task], "project": "1.1", "label_config": config, "params": {"context": {"result": [prompt]}}}
    return json.dumps(body).encode()


def regions(total_bytes: int, seed: int) -> list[dict]:
    """Brush regions as an annotated task carries them, about so many bytes of JSON."""
    dice, made, size = random.Random(seed), [], 0
    while size < total_bytes:
        rle = [dice.randrange(256) for _ in range(min(8000, (total_bytes - size) // 5 + 1))]
        value = {"format": "rle", "rle": rle, "brushlabels": ["Object"]}
        made.append(
            {"id": f"r{len(made)}", "type": "brushlabels", "from_name": "brush", "to_name": "image", "value": value}
        )
        size += len(json.dumps(made[-1]))
    return made


def annotate(target: Target, annotator: int, bodies: Sequence[bytes], until: float, answers: Answers) -> None:
    """Clicks again and again, with a short look at each answer."""
    number = 0
    while time.monotonic() < until:
        answers.add(*target.ask("POST", "/predict", bodies[number % len(bodies)]))
        number += 1
        time.sleep(0.05)


def batch_body() -> bytes:
    """Many tasks without a prompt, as "Retrieve predictions" sends them."""
    pictures = [picture(100 + n) for n in range(LONG_JOB_PICTURES)]
    tasks = [{"id": 1000 + n, "data": {"image": pictures[n % LONG_JOB_PICTURES]}} for n in range(LONG_JOB_TASKS)]
    return json.dumps({"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {"context": None}}).encode()


def long_job(target: Target, next_body: Callable[[], bytes], until: float, answers: Answers) -> None:
    """One request that takes seconds, again and again."""
    while time.monotonic() < until:
        answers.add(*target.ask("POST", "/predict", next_body()))


def probe(target: Target, path: str, seconds: float, rate: float, found) -> None:
    """Asks one path at a steady rate; runs in a process of its own, so that the load does not slow the clock."""
    body = None
    if path == "/setup":
        setup = {"project": "1.1", "schema": CONFIG, "hostname": "", "access_token": "", "extra_params": None}
        body = json.dumps(setup).encode()
    answers, begun = Answers(), time.monotonic()
    for tick in range(int(seconds * rate)):
        time.sleep(max(0.0, begun + tick / rate - time.monotonic()))
        answers.add(*target.ask("GET" if body is None else "POST", path, body, timeout=10.0))
    found.put((path, answers))


def measure(target: Target, seconds: float, annotators: int, megabytes: float) -> dict[str, Answers]:
    """All answers by what was asked, under load."""
    bodies = []
    for annotator in range(annotators):
        url, filler = picture(annotator), regions(int(megabytes * 2**20 * (annotator + 1) / annotators), annotator)
        bodies.append([click_body(annotator, number, url, filler) for number in range(6)])
    for each in bodies:
        target.ask("POST", "/predict", each[0])
    batch = batch_body()
    idle = probed(target, seconds / 4)
    until = time.monotonic() + seconds + 3
    clicks, batches, tracks = [Answers() for _ in range(annotators)], Answers(), Answers()
    pages, numbers = [picture(200 + n) for n in range(CLIP_PAGES)], itertools.count()
    jobs = ((lambda: batch, batches), (lambda: track_body(next(numbers), pages), tracks))
    load = [
        threading.Thread(target=annotate, args=(target, n, bodies[n], until, clicks[n]), daemon=True)
        for n in range(annotators)
    ]
    load += [
        threading.Thread(target=long_job, args=(target, body, until, answers), daemon=True) for body, answers in jobs
    ]
    for thread in load:
        thread.start()
    time.sleep(1)
    answers = probed(target, seconds)
    for thread in load:
        thread.join(150)
    every = Answers()
    for one in clicks:
        for status, count in one.statuses.items():
            every.statuses[status] = every.statuses.get(status, 0) + count
        every.seconds += one.seconds
    quiet = {f"{path} idle": answers for path, answers in idle.items()}
    return quiet | answers | {"click": every, "track": tracks, "batch": batches}


def probed(target: Target, seconds: float) -> dict[str, Answers]:
    """What the probes found, by path."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    probes = [context.Process(target=probe, args=(target, path, seconds, rate, found)) for path, rate in RATES.items()]
    for process in probes:
        process.start()
    answers = dict(found.get(timeout=seconds + 120) for _ in probes)
    for process in probes:
        process.join()
    return dict(sorted(answers.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=2.0, help="largest body of a click")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = None if options.url else started(Path(folder))
        try:
            url = options.url or server[1]
            parts = urlsplit(url)
            target = Target(parts.hostname, parts.port or 80, credentials())
            found = measure(target, options.seconds, options.annotators, options.megabytes)
        finally:
            if server is not None:
                server[0].stop()
    return report(found, options.json)


def credentials() -> dict[str, str]:
    user, password = os.environ.get("BASIC_AUTH_USER"), os.environ.get("BASIC_AUTH_PASS")
    if not user:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def started(folder: Path) -> tuple[ChildServer, str]:
    """A server with nano on this machine, with caches of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = {"X2SAM_CACHE_DIR": str(folder / "cache"), "X2SAM_STATE_DIR": str(folder / "state")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BASIC_AUTH_")} | own
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port), "--model", "nano"]
    server = ChildServer("the ML backend", command, folder / "backend.log", f"{url}/ready", environment, ROOT)
    server.wait_ready(120)
    return server, url


def report(found: Mapping[str, Answers], path: Path | None) -> int:
    told = {name: answers.told() for name, answers in found.items()}
    good = True
    for name, row in told.items():
        line = f"{name:<12} n {row['n']:>5}   p50 {row['p50_ms']:>8} ms   p99 {row['p99_ms']:>8} ms   "
        line += f"max {row['max_ms']:>8} ms   status {row['status']}"
        if name in LIMITS:
            p99, longest = (1e3 * limit for limit in LIMITS[name])
            met = row["p99_ms"] <= p99 and row["max_ms"] <= longest and set(row["status"]) == {"200"}
            line += f"   limits {p99:.0f}, {longest:.0f} ms: {'met' if met else 'MISSED'}"
            good &= met
        elif set(row["status"]) != {"200"}:
            line += "   NOT ALL ANSWERED"
            good = False
        print(line)
    if path is not None:
        path.write_text(json.dumps(told, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
