"""Lets simulated annotators work for half an hour against a real server, and tells whether it holds.

    python scripts/soak.py [--data DIR] [--model nano] [--seconds 1800] [--annotators 8] [--json FILE]

They click, correct, draw boxes, type, track over the pages of clips, stop tracks, and click again before an answer is
there, on the pictures and clips below DIR (samples/ by default), each at a person's pace. Exit code 1 if a request was
not answered as it should, the server logged an error, its memory grew after the first third by more than it wavers, or
clicks in the end took much longer than after the first third (95th percentile). Runs of less than ten minutes are too
short for the last two: their clicks are told only, and their memory must not double, since caches still fill.
``--url`` takes a server that runs already; it must find the media, so DIR must be in its X2SAM_MEDIA_DIRS.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import requests
from label_studio_server import ChildServer, free_port
from PIL import Image, ImageOps
from scipy.stats import theilslopes

ROOT = Path(__file__).resolve().parents[1]
IMAGE_CONFIG = (ROOT / "label_config" / "image_text.xml").read_text(encoding="utf-8")
CLIP_CONFIG = (ROOT / "label_config" / "video_frames.xml").read_text(encoding="utf-8")
WORDS = ("the largest thing", "the red thing", "sky", "a person", "the thing on the left", "chair", "describe")
PAGES, PAGE_SIDE = 24, 480
CACHES = {
    "X2SAM_FEATURES_MB": "128", "X2SAM_DECODED_MB": "32", "X2SAM_REMEMBERED_MB": "4", "X2SAM_JOURNAL_MB": "16",
    "X2SAM_MAX_SESSIONS": "8",
}  # fmt: skip
"""Small, so that they are full before the first third is over: what grows then is no cache. The report tells them."""
WARM_UP = 1 / 3
WINDOWS = 6
SLOWER = 2.0
"""How much longer the 95th percentile of clicks may be at the end than after the first third."""
JUDGED_SECONDS = 600.0
"""Shorter runs have too few clicks in a window, and caches that are not full yet."""
SHORT_GROWTH = 1.0
LEAST_NOISE_MB = 16.0
PAUSE = (0.3, 1.6)  # seconds that an annotator looks at an answer
ALLOWED = {"CancelledError"}
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Medium:
    """A picture (one address) or the pages of a clip; (H, W) as people see it."""

    addresses: tuple[str, ...]
    size: tuple[int, int]


@dataclass
class Diary:
    """What was asked, when, and how it was answered."""

    rows: list[tuple[float, str, float, int]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    sentences: Counter = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, seconds: float, status: int, odd: str = "", told: Sequence[str] = ()) -> None:
        """``told``: the sentences of an answer that has no masks."""
        with self._lock:
            self.sentences.update(f"{kind}: {re.sub(r'[0-9]+', '#', one)}" for one in told)
            self.rows.append((time.monotonic(), kind, seconds, status))
            if odd and len(self.odd) < 20:
                self.odd.append(f"{kind}: {odd}")


class Annotator:
    """One person at one task after another. ``number`` makes tasks and choices their own."""

    def __init__(self, number: int, url: str, media: Sequence[Medium], diary: Diary, auth: tuple[str, str] | None):
        self._url, self._media, self._diary, self._auth = url, media, diary, auth
        self._dice, self._number = random.Random(number), number
        self._tasks = itertools.count(number * 1_000_000)
        self._names = itertools.count()

    def work(self, until: float) -> None:
        """Task after task, until it is time to go."""
        while time.monotonic() < until:
            medium = self._dice.choice(self._media)
            for _ in self._on_clip(medium) if len(medium.addresses) > 1 else self._on_picture(medium):
                if time.monotonic() > until:
                    break
                time.sleep(self._dice.uniform(*PAUSE))

    def _on_picture(self, medium: Medium) -> Iterator[None]:
        task = {"id": next(self._tasks), "data": {"image": medium.addresses[0]}}
        if self._dice.random() < 0.3:
            self._ask("open", task, IMAGE_CONFIG, None)
            yield
        if self._dice.random() < 0.3:
            self._ask("text", task, IMAGE_CONFIG, [self._typed(self._dice.choice(WORDS))])
            yield
        first = self._dice.random()
        prompts = [self._box(medium) if first < 0.25 else self._click(medium, "Object", "point")]
        self._ask("box" if first < 0.25 else "click", task, IMAGE_CONFIG, prompts)
        yield
        prompts = [] if first < 0.25 else prompts
        for _ in range(self._dice.randrange(4)):
            prompts.append(self._click(medium, "Object", "point", positive=not prompts or self._dice.random() < 0.6))
            if self._dice.random() < 0.2:  # and the next one before this is answered
                waiting = threading.Thread(target=self._ask, args=("hasty", task, IMAGE_CONFIG, list(prompts)))
                waiting.start()
                time.sleep(0.02)
                prompts.append(self._click(medium, "Object", "point"))
                self._ask("click", task, IMAGE_CONFIG, prompts)
                waiting.join()
            else:
                self._ask("click", task, IMAGE_CONFIG, prompts)
            yield

    def _on_clip(self, medium: Medium) -> Iterator[None]:
        task = {"id": next(self._tasks), "data": {"frames": list(medium.addresses)}}
        page = self._dice.randrange(len(medium.addresses) // 2)
        click = self._click(medium, "Object 1", "track_point", page)
        shown = self._ask("track", task, CLIP_CONFIG, [click])
        yield
        for order in ("stop",) if self._dice.random() < 0.5 else ("track", "stop"):
            task["drafts"] = [{"id": 1, "user": f"a{self._number}@example.com", "result": shown}]
            shown = self._ask(order, task, CLIP_CONFIG, [self._typed(order, page)]) or shown
            yield
        task["drafts"] = []
        self._ask("click", task, CLIP_CONFIG, [self._click(medium, "Object 2", "point", page)])
        yield

    def _ask(self, kind: str, task: dict, config: str, prompts: list[dict] | None) -> list[dict]:
        """The regions of the answer."""
        context = None if prompts is None else {"result": prompts}
        body = {"tasks": [task], "project": "1.1", "label_config": config, "params": {"context": context}}
        begun = time.perf_counter()
        try:
            answer = requests.post(f"{self._url}/predict", json=body, timeout=120, auth=self._auth)
            items = answer.json()["results"][0].get("result", []) if answer.status_code == 200 else []
            status, odd = answer.status_code, "" if answer.status_code == 200 else answer.text[:200]
        except (requests.RequestException, ValueError, LookupError) as error:
            items, status, odd = [], 0, f"{type(error).__name__}: {error}"[:200]
        told = [item["value"]["text"][0] for item in items if item["type"] == "textarea"]
        self._diary.note(kind, time.perf_counter() - begun, status, odd, told if len(told) == len(items) else ())
        return [item for item in items if item["type"] != "textarea"]

    def _click(self, medium: Medium, label: str, tag: str, page: int = 0, positive: bool = True) -> dict:
        value = {"x": self._dice.uniform(5, 95), "y": self._dice.uniform(5, 95), "width": 0.2}
        return self._region("keypointlabels", tag, value, label, medium, page) | {"is_positive": positive}

    def _box(self, medium: Medium) -> dict:
        x, y = self._dice.uniform(0, 50), self._dice.uniform(0, 50)
        value = {"x": x, "y": y, "width": self._dice.uniform(10, 45), "height": self._dice.uniform(10, 45)}
        return self._region("rectanglelabels", "box", value | {"rotation": 0}, "Object", medium, 0)

    def _region(self, kind: str, tag: str, value: dict, label: str, medium: Medium, page: int) -> dict:
        height, width = medium.size
        return {
            "id": f"p{self._number}-{next(self._names)}", "from_name": tag, "to_name": "image", "type": kind,
            "origin": "manual", "original_width": width, "original_height": height, "image_rotation": 0,
            "item_index": page, "value": value | {kind: [label], "labels": [label]},
        }  # fmt: skip

    def _typed(self, text: str, page: int = 0) -> dict:
        name = f"t{self._number}-{next(self._names)}"
        return {"id": name, "from_name": "prompt", "to_name": "image", "type": "textarea", "item_index": page,
                "value": {"text": [text]}}  # fmt: skip


def media_below(data: Path, pages: Path, limit: int = 24) -> list[Medium]:
    """Pictures and clips below a folder, ``limit`` of each at most; pages of clips are written into ``pages``."""
    found = []
    pictures = sorted(p for kind in ("jpg", "jpeg", "png") for p in data.rglob(f"*.{kind}") if "masks" not in p.parts)
    for path in pictures[:: max(1, len(pictures) // limit)][:limit]:
        with Image.open(path) as image:
            size = ImageOps.exif_transpose(image).size[::-1]
        found.append(Medium((f"/data/local-files/?d={path.relative_to(data)}",), size))
    clips = sorted(path for kind in ("mp4", "webm", "avi", "mkv") for path in data.rglob(f"*.{kind}"))
    return found + [pages_of(path, pages) for path in clips[:limit]]


def pages_of(path: Path, folder: Path) -> Medium:
    """The first pages of a clip as JPEG files."""
    addresses, size = [], (0, 0)
    with av.open(str(path)) as file:
        for number, frame in enumerate(itertools.islice(file.decode(video=0), PAGES)):
            image = frame.to_image()
            image.thumbnail((PAGE_SIDE, PAGE_SIDE))
            name, size = f"{path.stem}-{number}.jpg", image.size[::-1]
            image.save(folder / name, quality=90)
            addresses.append(f"/data/local-files/?d={name}")
    return Medium(tuple(addresses), size)


class Watch(threading.Thread):
    """Looks at the server's memory again and again."""

    def __init__(self, url: str, auth: tuple[str, str] | None):
        super().__init__(daemon=True)
        self._url, self._auth, self._end = url, auth, threading.Event()
        self.samples: list[tuple[float, float]] = []

    def run(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            found = re.search(r"^process_resident_memory_bytes (\S+)", self.numbers(), re.M)
            if found:
                self.samples.append((time.monotonic(), float(found[1]) / 2**20))

    def numbers(self) -> str:
        """What /metrics tells; nothing when it does not answer in time."""
        try:
            return requests.get(f"{self._url}/metrics", timeout=30, auth=self._auth).text
        except requests.RequestException:
            return ""

    def errors(self) -> Counter:
        """How often each kind of error was told so far."""
        found = re.findall(r'^x2sam_(?:predict|http)_errors_total\{error="(\w+)"\} (\S+)', self.numbers(), re.M)
        return Counter({kind: int(float(count)) for kind, count in found})

    def sizes(self) -> dict[str, float]:
        """What the server says about the sizes of its caches and files, in MiB, and its open sessions."""
        found = re.findall(r"^(x2sam_(?:\w+_bytes|sessions)) (\S+)", self.numbers(), re.M)
        return {name: round(float(v) / (2**20 if name.endswith("_bytes") else 1), 1) for name, v in found}

    def stop(self) -> None:
        self._end.set()
        self.join(60)


def growth(samples: Sequence[tuple[float, float]]) -> dict[str, float | bool]:
    """Of (seconds, MiB): the slope that most pairs of samples agree on (Theil and Sen), what it adds up to over the
    time, and how far samples lie from it (5th to 95th percentile). Growing: it adds up to more than they waver."""
    times, sizes = np.array(samples[:: max(1, len(samples) // 400)], float).T
    slope, start, *_ = theilslopes(sizes, times - times[0])
    low, high = np.percentile(sizes - start - slope * (times - times[0]), (5, 95))
    grown, noise = float(slope * (times[-1] - times[0])), max(float(high - low), LEAST_NOISE_MB)
    return {
        "median_mb": round(float(np.median(sizes)), 1), "slope_mb_per_hour": round(slope * 3600, 2),
        "grown_mb": round(grown, 2), "noise_mb": round(noise, 2), "steady": grown <= noise,
    }  # fmt: skip


def slowing(rows: Sequence[tuple[float, str, float, int]], begin: float, end: float) -> dict[str, object]:
    """The 95th percentile of clicks, in milliseconds, in equal windows; slower: the last two beside the first two."""
    edges = np.linspace(begin, end, WINDOWS + 1)
    windows = [[s for at, kind, s, _ in rows if kind == "click" and a <= at < b] for a, b in itertools.pairwise(edges)]
    p95 = [round(float(np.percentile(one, 95)) * 1e3, 1) if one else None for one in windows]
    if None in p95:
        return {"p95_ms": p95, "ratio": None, "steady": True}
    ratio = float(np.mean(p95[-2:]) / np.mean(p95[:2]))
    return {"p95_ms": p95, "ratio": round(ratio, 2), "steady": ratio <= SLOWER}


def report(diary: Diary, watch: Watch, begin: float, end: float, errors: Counter, log: str) -> dict[str, object]:
    """Everything that was measured, and whether it holds."""
    warm = begin + WARM_UP * (end - begin)
    kinds = {}
    for kind in sorted({row[1] for row in diary.rows}):
        seconds = [row[2] for row in diary.rows if row[1] == kind]
        p50, p95, longest = (round(float(v) * 1e3, 1) for v in np.percentile(seconds, (50, 95, 100)))
        kinds[kind] = {"n": len(seconds), "p50_ms": p50, "p95_ms": p95, "max_ms": longest}
    bad = Counter(row[3] for row in diary.rows if row[3] != 200)
    unexpected = {kind: n for kind, n in errors.items() if kind not in ALLOWED}
    logged = [line[:300] for line in log.splitlines() if re.search(r"\b(ERROR|CRITICAL)\b|Traceback", line)][:20]
    memory = growth([sample for sample in watch.samples if sample[0] >= warm])
    clicks = slowing(diary.rows, warm, end)
    judged = end - begin >= JUDGED_SECONDS
    if not judged:
        memory["steady"] = memory["grown_mb"] <= SHORT_GROWTH * memory["median_mb"]
    return {
        "seconds": round(end - begin), "requests": len(diary.rows), "kinds": kinds, "memory": memory, "clicks": clicks,
        "long_enough": judged, "bad_statuses": {str(k): n for k, n in bad.items()}, "odd": diary.odd,
        "errors": unexpected, "cancelled": errors["CancelledError"], "logged": logged,
        "holds": not (bad or unexpected or logged) and memory["steady"] and (clicks["steady"] or not judged),
    }  # fmt: skip


def started(folder: Path, places: Sequence[Path], model: str) -> tuple[ChildServer, str]:
    """A server with caches of its own, which must not be those of others."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    own = CACHES | {
        "X2SAM_CACHE_DIR": str(folder / "cache"), "X2SAM_STATE_DIR": str(folder / "state"), "X2SAM_WARM_TASKS": "0",
        "X2SAM_TRACK_SECONDS": "4", "X2SAM_MEDIA_DIRS": ":".join(map(str, places)),
    }  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BASIC_AUTH_", "X2SAM_", "LABEL_STUDIO_"))}
    command = [sys.executable, "-m", "backend", "serve", "--port", str(port), "--model", model]
    server = ChildServer("the ML backend", command, folder / "backend.log", f"{url}/ready", kept | own, ROOT)
    server.wait_ready(180)
    return server, url


def soak(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Runs it all; the report."""
    pages = folder / "pages"
    pages.mkdir()
    data = options.data.resolve()
    media = media_below(data, pages)
    if not media:
        raise SystemExit(f"{data} has no pictures and no clips")
    user = os.environ.get("BASIC_AUTH_USER")
    auth = (user, os.environ.get("BASIC_AUTH_PASS", "")) if options.url and user else None
    server, url = (None, options.url) if options.url else started(folder, [data, pages], options.model)
    diary, watch, load = Diary(), Watch(url, auth), os.getloadavg()
    try:
        before = watch.errors()
        begin = time.monotonic()
        watch.start()
        people = [Annotator(n, url, media, diary, auth) for n in range(1, options.annotators + 1)]
        threads = [threading.Thread(target=one.work, args=(begin + options.seconds,), daemon=True) for one in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(5)
                if sys.stderr.isatty():
                    left = max(0, begin + options.seconds - time.monotonic())
                    print(f"\r{len(diary.rows)} requests, {left:.0f} s left ", end="", file=sys.stderr)
        end = time.monotonic()
        errors, sizes = watch.errors() - before, watch.sizes()
        watch.stop()
    finally:
        if server is not None:
            server.stop()
            if options.log:
                shutil.copy(folder / "backend.log", options.log)
    log = (folder / "backend.log").read_text(errors="replace") if server is not None else ""
    told = {"model": options.model, "annotators": options.annotators, "media": len(media), "cores": os.cpu_count()}
    told |= {"settings": {} if options.url else CACHES}
    told |= {"sentences": dict(diary.sentences.most_common(20)), "sizes_mb": sizes}
    told |= {"load_average": {"begin": round(load[0], 1), "end": round(os.getloadavg()[0], 1)}}
    return told | report(diary, watch, begin, end, errors, log)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "samples", metavar="DIR")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--url")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = soak(options, Path(folder))
    print(json.dumps(told, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if told["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
