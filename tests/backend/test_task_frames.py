from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from picture_server import picture_bytes

from backend.errors import MediaError
from backend.file_cache import FileCache
from backend.frames import DecodedPictures, TaskFrames, addresses_of
from backend.media import MediaFetcher
from backend.pictures import REDUCED, Picture
from x2sam.errors import PromptError

LIMIT = 10_000_000


@pytest.fixture
def frames_of(settings, tmp_path):
    fetcher, decoded = MediaFetcher(settings, FileCache(tmp_path / "cache", 10**8, 3600)), DecodedPictures(10**8)
    return lambda *addresses: TaskFrames(addresses, fetcher, decoded, LIMIT)


def test_the_same_picture_under_two_addresses_has_one_name(frames_of, pictures):
    first, second = picture_bytes(40, 30), picture_bytes(60, 50)
    pictures.files |= {"/data/a": first, "/data/b": first, "/data/c": second}
    assert frames_of("/data/a").key == frames_of("/data/b").key != frames_of("/data/c").key
    clip, other = frames_of("/data/a", "/data/c"), frames_of("/data/c", "/data/b")
    assert clip.digest(0) == other.digest(1) == frames_of("/data/a").key
    assert clip.digest(1) == other.digest(0)
    assert clip.key != other.key
    assert clip[0] is other[1], "decoded once"


def test_pages_are_named_without_fetching_them(frames_of, pictures):
    inline = "data:image/png;base64," + base64.b64encode(picture_bytes(8, 6)).decode()
    clip = frames_of("/data/a", f"{pictures.url}/data/b", inline)
    assert clip.key == frames_of(f"{pictures.url}/data/a", "/data/b", inline).key != frames_of("/data/a", inline).key
    assert pictures.seen == []
    assert clip[2].shape == (6, 8, 3)


def test_sizes(frames_of, pictures):
    pictures.files["/data/a"] = picture_bytes(40, 30)
    frames = frames_of("/data/a")
    assert frames.size_of(0) == frames.shown_size_of(0) == (30, 40)
    assert frames.shown_size_of(0, (60, 80)) == (60, 80)
    assert frames.shown_size_of(0, (1 << 19, 1 << 19)) == (30, 40), "a mask of that size would fill the memory"
    assert frames.shown_size_of(0, (1, REDUCED * LIMIT)) == (1, REDUCED * LIMIT)
    with pytest.raises(PromptError, match="page 2"):
        frames.shown_size_of(1)


def test_addresses_in_a_task():
    assert addresses_of("/data/a") == ["/data/a"]
    assert addresses_of(["s3://b/1.png", "/data/a"], "7")[0].startswith("/tasks/7/presign/?fileuri=")
    for value in ([], [""], [3], None, {"a": 1}):
        with pytest.raises(MediaError, match="no address"):
            addresses_of(value)


def test_many_ask_and_one_decodes():
    decoded, calls, ready = DecodedPictures(100), [], threading.Barrier(4)

    def decode():
        calls.append(1)
        return Picture(np.zeros((4, 4, 3), np.uint8), (4, 4))

    def ask(_):
        ready.wait(10)
        return decoded.get("a", decode)

    with ThreadPoolExecutor(4) as pool:
        assert len({id(picture) for picture in pool.map(ask, range(4))}) == 1
    assert len(calls) == 1
    assert (decoded.hits, decoded.misses) == (3, 1)
    with pytest.raises(ValueError, match="read-only"):
        decoded.get("a", decode).pixels[0] = 1


def test_what_fails_is_tried_again_and_old_ones_go():
    decoded = DecodedPictures(100)

    def fail():
        raise MediaError("no")

    for _ in range(2):
        with pytest.raises(MediaError):
            decoded.get("a", fail)
    for name in "abc":
        decoded.get(name, lambda: Picture(np.zeros((4, 4, 3), np.uint8), (4, 4)))
    assert decoded.total_bytes == 96
    with pytest.raises(MediaError):
        decoded.get("a", fail)
