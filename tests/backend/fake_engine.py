"""A stand-in for the engine that draws what it is asked for, so that tests know every pixel of the answer."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from x2sam.errors import PromptError
from x2sam.inference.clip_objects import ClipObject, Finding
from x2sam.inference.feature_cache import FeatureCounts
from x2sam.structures import FrameMasks, Mask, Prompt
from x2sam.vitals import EngineVitals

CLICK_SCORE, BOX_SCORE, TEXT_SCORE, CATEGORY_SCORE, ALL_SCORE = 0.97, 0.91, 0.83, 0.64, 0.88
STEP = 2


class FakeSession:
    """Clicks give discs (negative ones cut) on top of the mask so far, boxes and masks themselves, "all like this" the
    same again in the mirror, a text a square, categories columns. Tracks move the nearest known mask by ``STEP`` pixels
    a page to the right; between two known ones the nearer counts."""

    def __init__(self, engine, frames, key):
        self.engine, self.frames, self.key, self.closed = engine, frames, key, False
        self.known: dict[str, dict[int, np.ndarray]] = {}
        self.walked: dict[str, dict[int, Mask]] = {}

    def segment(self, prompt: Prompt, frame: int = 0, priority=None, replaces=None) -> list[Mask]:
        self.engine.asked.append((self.key, frame, prompt))
        self.engine.urgency.append((priority, replaces))
        self.engine.prepare(self.frames, frame)
        if self.engine.raises is not None:
            raise self.engine.raises
        height, width = self.frames[frame].shape[:2]
        y, x = np.mgrid[:height, :width] + 0.5
        if prompt.categories:
            return self._categories(prompt, x, width)
        if prompt.text == "describe":
            return [replace(self._square(prompt, x, y, width, height), phrase=name) for name in ("a dog", "a cat")]
        if prompt.text:
            return [] if "nothing" in prompt.text else [self._square(prompt, x, y, width, height)]
        if not prompt.has_region and prompt.previous is None:
            raise PromptError("The prompt is empty.")
        mask = np.zeros((height, width), bool) if prompt.previous is None else prompt.previous.copy()
        radius = max(height, width) / 16
        for x0, y0, x1, y1 in prompt.boxes:
            mask |= (x > x0) & (x < x1) & (y > y0) & (y < y1)
        for drawn in prompt.masks:
            mask |= drawn
        for point in prompt.points:
            reach = radius if point.positive else radius / 2
            disc = (x - point.x) ** 2 + (y - point.y) ** 2 < reach**2
            mask = mask | disc if point.positive else mask & ~disc
        if prompt.task == "vgdseg":
            return [Mask(mask, ALL_SCORE), Mask(mask, ALL_SCORE - 0.1), Mask(mask[:, ::-1], ALL_SCORE - 0.2)]
        score = CLICK_SCORE if prompt.points else BOX_SCORE
        return [Mask(mask, score, prompt.object_id or "")]

    def segment_all(self, asked, priority=None, replaces=None) -> list[list[Mask]]:
        return [self.segment(prompt, frame, priority, replaces) for prompt, frame in asked]

    def survey(self, prompt: Prompt, frame: int = 0, priority=None) -> SimpleNamespace:
        """Bright pictures are answered badly; a picture looks like its colours, in sixteen places."""
        pixels = self.frames[frame].astype(np.float32) / 255
        rows, cols = (np.linspace(0, side, 5).astype(int) for side in pixels.shape[:2])
        places = [pixels[a:b, c:d].mean((0, 1)) for a, b in pairwise(rows) for c, d in pairwise(cols)]
        return SimpleNamespace(error=float(pixels.mean()), vector=np.concatenate(places))

    def find_in_clip(self, prompt: Prompt, frames=None, first=None, memory=None, priority=None, replaces=None):
        return FakeSearch(self, prompt, first, priority, replaces)

    def prepare(self, frame: int = 0) -> int:
        self.engine.prepare(self.frames, frame)
        return self.frames[frame].nbytes

    def chat(self, question: str, frame: int = 0, replaces=None) -> tuple[str, list[Mask]]:
        if question == "describe":
            return "A dog lies beside a cat.", self.segment(Prompt(text=question), frame, replaces=replaces)
        self.engine.asked.append((self.key, frame, Prompt(text=question)))
        return "There are two.", []

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        assert mask.shape == self.frames[frame].shape[:2]
        assert mask.any() or object_id in self.known, "an object is made from a mask that shows it"
        self.engine.corrected.append((frame, object_id, mask))
        self.known.setdefault(object_id, {})[frame] = mask

    def recall(self, frame: int, object_id: str, mask: np.ndarray, score: float = 1.0) -> None:
        assert mask.shape == self.frames[frame].shape[:2] and object_id in self.known
        self.engine.recalled.append((frame, object_id))
        self.walked.setdefault(object_id, {}).setdefault(frame, Mask(mask, score, object_id))

    def track(self, object_ids, start=0, stop=None, direction="forward", *, pauses=False, skip=()):
        pages = sorted({page for name in object_ids for page in self.known[name]})
        stop = len(self.frames) if stop is None else min(stop, len(self.frames))
        walk = range(pages[0], stop) if direction == "forward" else range(pages[-1], start - 1, -1)
        for page in (page for page in walk if page not in skip):
            self.engine.walked.append((direction, page))
            self.engine.on_page(page)
            assert self.frames[page].ndim == 3
            if pauses:
                yield None
            masks = [self._carried(name, page, walk.step) for name in object_ids]
            yield FrameMasks(page, [mask for mask in masks if mask is not None])

    def _carried(self, name: str, page: int, step: int) -> Mask | None:
        known = self.known[name]
        if page in known:
            return Mask(known[page], 1.0, name)
        if page in self.walked.get(name, ()):
            return self.walked[name][page]
        if not any((page - one) * step > 0 for one in known):
            return None  # not met yet
        nearest = min(known, key=lambda one: (abs(page - one), one))
        away = page - nearest
        mask = np.roll(known[nearest], STEP * away, axis=1) & (page not in self.engine.out_of_sight)
        return Mask(mask, max(1 - 0.02 * abs(away), 0.0) if mask.any() else 0.0, name)

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _square(prompt, x, y, width, height) -> Mask:
        inside = (abs(x - width / 2) < height / 8) & (abs(y - height / 2) < height / 8)
        return Mask(inside, TEXT_SCORE, phrase=prompt.text)

    @staticmethod
    def _categories(prompt, x, width) -> list[Mask]:
        count = len(prompt.categories)
        return [
            Mask((x >= k * width / count) & (x < (k + 1) * width / count), CATEGORY_SCORE + k / 100, category=k)
            for k, name in enumerate(prompt.categories)
            if name.removeprefix("sem: ") != "unseen"
        ]


class FakeSearch:
    """Looks at the first, the middle and the last page, and at ``first``, with what a session finds there by itself.
    The n-th thing of a category is the same on all pages where the engine has it ``in_sight``; things move as tracks
    do."""

    def __init__(self, session: FakeSession, prompt: Prompt, first, priority, replaces):
        self.looked: list[int] = []
        self.text = "A dog and a cat." if prompt.text == "describe" else None
        self.finished, self.left_out, self.closed = False, 0, False
        self._found: dict[tuple[int, int], dict[int, Mask]] = {}
        self._steps = self._search(session, prompt, first, priority, replaces)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._steps)

    def _search(self, session, prompt, first, priority, replaces):
        last = len(session.frames) - 1
        pages = sorted({0, last // 2, last} | ({first} if first is not None else set()))
        start = pages[0] if first is None else first
        for page in pages:
            session.engine.on_page(page)
            masks = session.segment(prompt, page, priority, replaces)
            if prompt.task == "vgdseg":
                masks = [masks[0], masks[2]]  # without the double
            seen: dict[int, int] = {}
            for mask in masks:
                number = seen[mask.category] = seen.get(mask.category, 0) + 1
                key = (mask.category, number) if prompt.text != "describe" else (len(self._found) % 2, 1)
                if page in session.engine.in_sight(mask.category):
                    moved = np.roll(mask.mask, STEP * (page - start), axis=1)
                    score = round(mask.score - 0.001 * abs(page - start), 4)
                    self._found.setdefault(key, {})[page] = replace(mask, mask=moved, score=score)
            self.looked.append(page)
            yield FrameMasks(page, masks)
        self.finished = True

    def found(self) -> list[ClipObject]:
        found = []
        for number, masks in enumerate(self._found.values()):
            one = next(iter(masks.values()))
            findings = {page: Finding.of(mask) for page, mask in masks.items()}
            found.append(ClipObject(f"found{number}", findings, one.category, one.phrase))
        return found

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """Has the surface of the real engine that the backend uses; remembers what it was asked."""

    name, version, device, remembers, words = "fake", "fake-0001", "cpu", True, ()

    def __init__(self):
        self.asked: list[tuple[str, int, Prompt]] = []
        self.urgency: list[tuple[int | None, str | None]] = []
        self.corrected: list[tuple[int, str, np.ndarray]] = []
        self.walked: list[tuple[str, int]] = []
        self.recalled: list[tuple[int, str]] = []
        self.on_page = lambda page: None
        self.out_of_sight: set[int] = set()
        self.in_sight = lambda category: range(10_000)  # pages where words find things of a category
        self.sessions: list[FakeSession] = []
        self.raises: Exception | None = None
        self.encoded: list[str] = []
        self.reused = 0
        self.closed = False
        self.vitals = EngineVitals()
        self._lock = threading.Lock()

    def prepare(self, frames, frame: int) -> None:
        """Encodes a page unless its content was encoded before; ``encoded`` has the digests in order."""
        digest = frames.digest(frame)
        with self._lock:
            if digest in self.encoded:
                self.reused += 1
            else:
                self.encoded.append(digest)

    @property
    def features(self) -> FeatureCounts:
        return FeatureCounts(hits=self.reused, misses=len(self.encoded), bytes=len(self.encoded))

    def open(self, frames, key=None) -> FakeSession:
        with self._lock:
            self.sessions.append(FakeSession(self, frames, key))
            return self.sessions[-1]

    def close(self) -> None:
        self.closed = True
