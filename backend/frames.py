"""The pictures of a task, fetched and decoded when somebody looks at them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np

from backend.errors import MediaError
from backend.geometry import Size
from backend.media import MediaFetcher
from backend.pictures import decode_picture
from x2sam.errors import PromptError


class DecodedPictures:
    """The pictures decoded last, uint8 (H, W, 3), up to a number of bytes."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    @property
    def total_bytes(self) -> int:
        return self._bytes

    def get(self, name: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A picture by name; a missing one is decoded outside the lock, so others are not held up."""
        with self._lock:
            if name in self._pictures:
                self._pictures.move_to_end(name)
                return self._pictures[name]
        picture = decode()
        picture.setflags(write=False)
        with self._lock:
            if name not in self._pictures:
                self._pictures[name] = picture
                self._bytes += picture.nbytes
            while self._bytes > self._max_bytes and len(self._pictures) > 1:
                self._bytes -= self._pictures.popitem(last=False)[1].nbytes
        return picture


class TaskFrames(Sequence):
    """The pages of a task as the engine reads them: ``len()`` and ``[i]``, uint8 (H, W, 3), each of its own size."""

    def __init__(self, addresses: Sequence[str], fetcher: MediaFetcher, decoded: DecodedPictures, max_pixels: int):
        self._addresses = tuple(addresses)
        self._fetcher = fetcher
        self._decoded = decoded
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self._addresses)

    def __getitem__(self, index: int) -> np.ndarray:
        address = self._addresses[index]
        return self._decoded.get(
            self._fetcher.fetch(address).digest,
            lambda: decode_picture(self._fetcher.read(address), self._max_pixels),
        )

    @property
    def key(self) -> str:
        """Names the media: by content for a single picture, by addresses for pages, which are fetched one by one."""
        if len(self) == 1:
            return self._fetcher.fetch(self._addresses[0]).digest
        joined = "\n".join(self._fetcher.absolute(address) for address in self._addresses)
        return sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def size_of(self, frame: int) -> Size:
        """``(H, W)`` of a page.

        :raises PromptError: there is no such page.
        """
        if not 0 <= frame < len(self):
            raise PromptError(f"The prompt is on page {frame + 1}, but the task has {len(self)}; reload the page.")
        return self[frame].shape[:2]


def addresses_of(value: object) -> list[str]:
    """The addresses that a task holds for its Image tag: one text, or a list of them.

    :raises MediaError: anything else, or an empty list.
    """
    addresses = value if isinstance(value, list) else [value]
    if not addresses or not all(isinstance(address, str) and address.strip() for address in addresses):
        raise MediaError("The task holds no address of a picture; check its data against the labeling configuration.")
    return addresses
