"""The pictures of a task, fetched and decoded when somebody looks at them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np

from backend.cloud_storage import through_label_studio
from backend.errors import MediaError
from backend.geometry import Size
from backend.media import KeyedLocks, MediaFetcher
from backend.pictures import REDUCED, Picture, decode_picture
from x2sam.errors import PromptError
from x2sam.stages import stage

_AT_ONCE = 4  # pictures that are decoded at the same time: each may take some hundred megabytes


class DecodedPictures:
    """The pictures decoded last, up to a number of bytes. Each is decoded once, however many ask for it."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting = KeyedLocks()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0
        self.hits = self.misses = 0

    @property
    def total_bytes(self) -> int:
        return self._bytes

    def get(self, name: str, decode: Callable[[], Picture]) -> Picture:
        """A picture by name; a missing one is decoded outside the lock, so others are not held up."""
        picture = self._known(name)
        if picture is None:
            with self._waiting.hold(name):
                picture = self._known(name)
                if picture is None:
                    with self._slots:
                        picture = decode()
                    self._keep(name, picture)
                    return picture
        with self._lock:
            self.hits += 1
        return picture

    def _known(self, name: str) -> Picture | None:
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
            return self._pictures.get(name)

    def _keep(self, name: str, picture: Picture) -> None:
        picture.pixels.setflags(write=False)
        with self._lock:
            self.misses += 1
            self._pictures[name] = picture
            self._bytes += picture.pixels.nbytes
            while self._bytes > self._max_bytes and len(self._pictures) > 1:
                self._bytes -= self._pictures.popitem(last=False)[1].pixels.nbytes


class TaskFrames(Sequence):
    """The pages of a task as the engine reads them: ``len()`` and ``[i]``, uint8 (H, W, 3), each of its own size.

    A huge picture is read smaller than the browser shows it: :meth:`size_of` is the size that is read, in which
    prompts are asked and masks come; :meth:`shown_size_of` the browser's, in which masks are answered.
    """

    def __init__(self, addresses: Sequence[str], fetcher: MediaFetcher, decoded: DecodedPictures, max_pixels: int):
        self._addresses = tuple(addresses)
        self._fetcher = fetcher
        self._decoded = decoded
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self._addresses)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._picture(index).pixels

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the pages are."""
        return self._addresses

    @property
    def key(self) -> str:
        """Names the media: by content for a single picture, by addresses for pages, which are fetched one by one."""
        if len(self) == 1:
            return self.digest(0)
        joined = "\n".join(self._fetcher.name_of(address) for address in self._addresses)
        return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def digest(self, index: int) -> str:
        """Names the content of one page, wherever else the same picture is found; it is fetched if need be."""
        with stage("fetch"):
            return self._fetcher.fetch(self._addresses[index]).digest

    def size_of(self, frame: int) -> Size:
        """``(H, W)`` of a page as it is read.

        :raises PromptError: there is no such page.
        """
        return self._page(frame).pixels.shape[:2]

    def shown_size_of(self, frame: int, told: Size | None = None) -> Size:
        """``(H, W)`` of a page in the browser: what the browser told, unless no picture that is read can be so large.

        :raises PromptError: there is no such page.
        """
        if told is not None and told[0] * told[1] <= REDUCED * self._max_pixels:
            return told
        return self._page(frame).size

    def _page(self, frame: int) -> Picture:
        if not 0 <= frame < len(self):
            raise PromptError(f"The prompt is on page {frame + 1}, but the task has {len(self)}; reload the page.")
        return self._picture(frame)

    def _picture(self, index: int) -> Picture:
        address = self._addresses[index]
        with stage("decode"):
            return self._decoded.get(
                self.digest(index), lambda: decode_picture(self._fetcher.read(address), self._max_pixels)
            )


def addresses_of(value: object, task_id: str = "") -> list[str]:
    """The addresses that a task holds for its Image tag: one text, or a list of them.

    Those in buckets become paths of Label Studio, which opens the storages of the task's project for them.

    :raises MediaError: anything else, or an empty list.
    """
    addresses = value if isinstance(value, list) else [value]
    if not addresses or not all(isinstance(address, str) and address.strip() for address in addresses):
        raise MediaError("The task holds no address of a picture; check its data against the labeling configuration.")
    return [through_label_studio(address, task_id) for address in addresses]
