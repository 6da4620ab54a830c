"""What was answered before: the prompts and the mask of each object that we named, so that later clicks correct it.

Nothing here is found by task and label alone, which two annotators share: one gets at it by the id of an object or of
a prompt, both of which come with the request of the person who has them on the screen. Everything is bounded by number
and by bytes; the oldest goes first. With a journal it is there again after a restart; what is not, drafts stand in for
(:mod:`backend.history`).
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry import Box, Size, mask_to_box
from x2sam.structures import Point

if TYPE_CHECKING:
    from backend.journal import Journal

STEPS = 12
_OVERHEAD = 512  # bytes of a step or an entry besides its masks, roughly


@dataclass(frozen=True)
class PackedMask:
    """A bool mask (H, W) in few bytes, with the box around it; the box is None for an empty mask."""

    size: Size
    box: Box | None
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        height, width = mask.shape
        return cls((height, width), mask_to_box(mask), zlib.compress(np.packbits(mask).tobytes(), 1))

    def unpack(self) -> np.ndarray:
        height, width = self.size
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)


@dataclass(frozen=True)
class Step:
    """One answer about one object on one page, and all that led to it, in pixels of the page.

    ``clicks`` are the clicks with the ids that the browser gave them, in order; the first ``kept`` of them are no
    longer on the screen, since accepting took them away. ``previous`` is what the clicks corrected; ``saved`` tells
    when the draft that came with the request had been saved. ``tracked``: the object was carried here from other pages.
    ``version`` is that of the model that answered, empty where nobody knows.
    """

    label: str
    page: int
    mask: PackedMask
    score: float
    clicks: tuple[tuple[str, Point], ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[PackedMask, ...] = ()
    previous: PackedMask | None = None
    kept: int = 0
    saved: str | None = None
    tracked: bool = False
    version: str = ""

    @property
    def worded(self) -> bool:
        """Whether nothing was drawn to get this answer."""
        return not (self.clicks or self.boxes or self.masks or self.previous)

    @property
    def nbytes(self) -> int:
        packed = (self.mask, *self.masks, *([self.previous] if self.previous else []))
        return _OVERHEAD + sum(len(mask.data) for mask in packed)


@dataclass
class _Entry:
    steps: dict[int, list[Step]] = field(default_factory=dict)  # by page
    prompts: set[tuple] = field(default_factory=set)
    nbytes: int = _OVERHEAD

    def put(self, page: int, steps: list[Step], prompts: Sequence[tuple]) -> int:
        """Sets the steps of a page; by how many bytes it is larger now."""
        before = self.nbytes
        self.nbytes += sum(step.nbytes for step in steps) - sum(step.nbytes for step in self.steps.get(page, ()))
        self.nbytes += _OVERHEAD * len(set(prompts) - self.prompts)
        self.steps[page] = steps
        self.prompts.update(prompts)
        return self.nbytes - before


class Remembered:
    """Steps by object, objects by prompt. Threads may share one. ``version`` tells that of the model that answers."""

    def __init__(
        self, max_objects: int = 4096, max_bytes: int = 64 * 2**20, journal: Journal | None = None,
        version: Callable[[], str] = str,
    ):  # fmt: skip
        self._max_objects, self._max_bytes, self._journal, self._version = max_objects, max_bytes, journal, version
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # by task and object
        self._by_prompt: dict[tuple, str] = {}
        self._seen: OrderedDict[tuple, None] = OrderedDict()
        self._decoded: OrderedDict[bytes, PackedMask] = OrderedDict()
        self._bytes = self._decoded_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def total_bytes(self) -> int:
        return self._bytes + self._decoded_bytes

    def add(self, task_id: str, object_id: str, prompt_ids: Iterable[str], step: Step) -> None:
        """Takes note of an answer to the prompts with these ids."""
        step = step if step.version else replace(step, version=self._version())
        keys = [(task_id, step.label, prompt_id) for prompt_id in prompt_ids]
        again = self._keep(task_id, object_id, keys, step)
        if self._journal is not None and not again:
            self._journal.note(self._journal.step_rows(task_id, object_id, keys, step))

    def restore(self) -> None:
        """Takes what the journal has; before anything is asked."""
        if self._journal is None:
            return
        prompts: dict[tuple[str, str], list[tuple]] = {}
        for key, task_id, object_id in self._journal.prompts():
            prompts.setdefault((task_id, object_id), []).append(key)
        for task_id, object_id, step in self._journal.steps(self._max_bytes):
            self._keep(task_id, object_id, prompts.pop((task_id, object_id), ()), step)
        with self._lock:
            self._seen.update(dict.fromkeys(self._journal.asked()))

    def _keep(self, task_id: str, object_id: str, keys: Sequence[tuple], step: Step) -> bool:
        """Whether the same was answered just before."""
        with self._lock:
            entry = self._entries.get((task_id, object_id))
            if entry is None:
                entry = self._entries[task_id, object_id] = _Entry()
                self._bytes += entry.nbytes
            self._entries.move_to_end((task_id, object_id))
            own = entry.steps.get(step.page, [])
            again = bool(own) and replace(own[-1], saved=step.saved) == step
            steps = [*(own[:-1] if again else own[-STEPS + 1 :]), step]
            self._bytes += entry.put(step.page, steps, keys)
            for key in keys:
                again &= self._by_prompt.get(key) == object_id
                self._by_prompt[key] = object_id
            while len(self._entries) > self._max_objects or (self._bytes > self._max_bytes and len(self._entries) > 1):
                self._forget(self._entries.popitem(last=False)[1])
            return again

    def steps(self, task_id: str, object_id: str, page: int) -> tuple[Step, ...]:
        """The answers about an object on a page of a task, oldest first: several tasks of a video have the same
        objects."""
        with self._lock:
            entry = self._entries.get((task_id, object_id))
            return tuple(entry.steps.get(page, ())) if entry else ()

    def pages(self, task_id: str, object_id: str) -> list[int]:
        """The pages of a task on which something was answered about an object."""
        with self._lock:
            entry = self._entries.get((task_id, object_id))
            return sorted(entry.steps) if entry else []

    def object_of(self, task_id: str, label: str, prompt_ids: Iterable[str]) -> str | None:
        """The object that one of these prompts was about."""
        with self._lock:
            found = (self._by_prompt.get((task_id, label, prompt_id)) for prompt_id in prompt_ids)
            return next((object_id for object_id in found if object_id), None)

    def family(self, task_id: str, object_id: str) -> list[str]:
        """The objects of the same answer, which are called ``obj``, ``objn2``, ``objn3`` ..., itself included."""
        root = object_id.split("n", 1)[0]
        with self._lock:
            own = [name for task, name in self._entries if task == task_id]
        return [name for name in own if name == root or name.startswith(f"{root}n")]

    def first_time(self, key: tuple) -> bool:
        """True when this is asked with ``key`` for the first time."""
        with self._lock:
            known = key in self._seen
            self._seen[key] = None
            self._seen.move_to_end(key)
            if len(self._seen) > self._max_objects:
                self._seen.popitem(last=False)
        if self._journal is not None and not known:
            self._journal.note([self._journal.asked_row(key)])
        return not known

    def was_asked(self, key: tuple) -> bool:
        """Whether :meth:`first_time` was asked with ``key``."""
        with self._lock:
            return key in self._seen

    def tasks(self) -> frozenset[str]:
        """The tasks that anything is remembered of."""
        with self._lock:
            return frozenset(task for task, _ in self._entries) | {key[1] for key in self._seen}

    def decoded(self, digest: bytes, decode: Callable[[], np.ndarray]) -> PackedMask:
        """The mask with this digest, decoded once: drafts come again with every click."""
        with self._lock:
            if digest in self._decoded:
                self._decoded.move_to_end(digest)
                return self._decoded[digest]
        packed = PackedMask.of(decode())
        with self._lock:
            if digest not in self._decoded:
                self._decoded[digest] = packed
                self._decoded_bytes += _OVERHEAD + len(packed.data)
            while self._decoded_bytes > self._max_bytes // 4 and len(self._decoded) > 1:
                self._decoded_bytes -= _OVERHEAD + len(self._decoded.popitem(last=False)[1].data)
        return packed

    def _forget(self, entry: _Entry) -> None:
        self._bytes -= entry.nbytes
        for key in entry.prompts:
            self._by_prompt.pop(key, None)
