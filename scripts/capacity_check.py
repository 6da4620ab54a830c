"""Holds the simulation of ``python -m backend capacity`` against what two engines on Ray really do.

    python scripts/capacity_check.py --people 6 --seconds 60 --json FILE

Times of single steps are measured first, with nobody else there; then so many threads click as the simulation's people
do, and the percentiles of both are told. Engines have one thread each, so on two cores they don't slow each other down
more than memory makes them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backend.capacity import Simulation, Steps, Work  # noqa: E402
from backend.engines import Engine, Session  # noqa: E402
from backend.frame_recipes import Kitchen, PagesRecipe  # noqa: E402
from backend.settings import Settings  # noqa: E402
from x2sam.structures import Point, Prompt  # noqa: E402

SIDE = 640
ALONE = 12  # pictures that single steps are measured on


class Album:
    """Pictures that nobody has seen: cut-outs of the samples, a new one each time."""

    def __init__(self, folder: Path, kitchen: Kitchen, seed: int):
        self._folder, self._kitchen, self._random = folder, kitchen, random.Random(seed)
        self._sources = [Image.open(p).convert("RGB") for p in sorted((ROOT / "samples").glob("*.jpg"))]
        self._lock, self._count = threading.Lock(), 0

    def next(self, engine: Engine) -> Session:
        with self._lock:
            self._count += 1
            picture = self._random.choice(self._sources)
            x, y = self._random.randrange(picture.width // 3), self._random.randrange(picture.height // 3)
            part = picture.crop((x, y, x + picture.width * 2 // 3, y + picture.height * 2 // 3)).resize((SIDE, SIDE))
            name = f"{self._count}.png"
        part.save(self._folder / name)
        frames = PagesRecipe((name,)).frames(self._kitchen)
        return engine.open(frames, key=frames.key)


def click(session: Session, chance: random.Random) -> float:
    """Seconds that one click takes."""
    point = Point(chance.uniform(50, SIDE - 50), chance.uniform(50, SIDE - 50))
    begun = time.perf_counter()
    session.segment(Prompt(points=(point,)))
    return time.perf_counter() - begun


def alone(engine: Engine, album: Album) -> Steps:
    """Times of single steps with nobody else there; the first pictures warm the engines up."""
    chance, first, following, encode = random.Random(1), [], [], []
    for number in range(2 * ALONE):
        session = album.next(engine)
        times = [click(session, chance) for _ in range(4)]
        ahead = album.next(engine)
        begun = time.perf_counter()
        ahead.prepare()
        if number >= ALONE:
            first.append(times[0])
            following.extend(times[1:])
            encode.append(time.perf_counter() - begun)
    return Steps(first, following, [0.0], encode)


def crowd(engine: Engine, album: Album, work: Work, people: int, seconds: float) -> list[float]:
    """Latencies of so many people who work at once, the first tenth of the time left out."""
    begun, latencies = time.monotonic(), []

    def person(number: int) -> None:
        chance = random.Random(number)
        time.sleep(chance.random() * work.think)
        while time.monotonic() - begun < seconds:
            session = album.next(engine)
            if work.ahead:
                threading.Thread(target=session.prepare, daemon=True).start()
            time.sleep(work.look)
            for _ in range(work.clicks):
                taken = click(session, chance)
                if time.monotonic() - begun > seconds / 10:
                    latencies.append(taken)
                time.sleep(chance.expovariate(1 / work.think))

    threads = [threading.Thread(target=person, args=(number,)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, nargs="+", default=[2, 6, 12])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=1.0)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from backend.ray_engine import Cluster
    from backend.wsgi import load_engine

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            model=options.model, engine="ray", ray_replicas=(options.engines, options.engines), media_dirs=(folder,),
            media_cache_dir=f"{folder}/cache", state_dir=f"{folder}/state", cpu_threads=1,
        )  # fmt: skip
        engine = Cluster(settings).start(load_engine)
        try:
            album = Album(Path(folder), Kitchen(settings), 0)
            steps = alone(engine, album)
            work = Work(think=options.think, look=options.think)
            result = {"engines": options.engines, "think": options.think, "people": {}}
            for people in options.people:
                real = crowd(engine, album, work, people, options.seconds)
                made = Simulation(steps, work, people, options.engines, 20 * options.seconds).run().latencies
                told = {name: {f"p{q}": round(float(np.percentile(v, q)), 4) for q in (50, 95)} for name, v in
                        (("measured", real), ("simulated", made))}  # fmt: skip
                result["people"][people] = {"clicks": len(real), **told}
                print(people, "people:", json.dumps(result["people"][people]), flush=True)
        finally:
            engine.close()
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
