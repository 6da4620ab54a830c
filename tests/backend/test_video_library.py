"""Known videos and signing keys: kept in a file, found again, refused when the video is not what it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading

import pytest
from video_clips import number_in, write_clip

from backend.video_addresses import frame_address, is_signed, same_pages, signature, split_address
from backend.video_library import LibraryError, UnknownVideoError, VideoGoneError, VideoLibrary
from x2sam.data.video import VideoReader
from x2sam.errors import FramesError


@pytest.fixture
def library(tmp_path):
    return VideoLibrary(tmp_path / "state")


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


def test_a_video_is_known_after_a_restart(library, clip, tmp_path):
    video = library.add(clip)
    assert (video.name, video.frames, video.fps, video.size) == ("clip.mp4", 20, 10.0, (64, 160))
    again = VideoLibrary(tmp_path / "state")
    assert again.get(video.id) == video
    with again.open(video.id, 1) as reader:
        assert number_in(reader[13]) == 13


def test_a_known_file_is_not_read_again(library, clip, monkeypatch):
    video = library.add(clip)
    monkeypatch.setattr("backend.video_library.VideoReader", None)
    assert library.add(clip) == video


def test_opening_takes_the_stored_index(library, clip, monkeypatch):
    video = library.add(clip)
    monkeypatch.setattr(VideoReader, "_read_index", None)
    with library.open(video.id, 1) as reader:
        assert number_in(reader[19]) == 19


def test_the_same_content_elsewhere_is_the_same_video(library, clip, tmp_path):
    video = library.add(clip)
    moved = tmp_path / "moved.mp4"
    shutil.move(clip, moved)
    with pytest.raises(VideoGoneError, match=r"clip\.mp4 is gone; import it again"):
        library.open(video.id, 1)
    assert library.add(moved).id == video.id
    with library.open(video.id, 1) as reader:
        assert number_in(reader[3]) == 3


def test_a_changed_file_is_another_video(library, clip):
    video = library.add(clip)
    write_clip(clip, shift=100)
    os.utime(clip, ns=(0, video.modified_ns + 10**9))
    with pytest.raises(VideoGoneError, match="was changed"):
        library.open(video.id, 1)
    other = library.add(clip)
    assert other.id != video.id
    with library.open(other.id, 1) as reader:
        assert number_in(reader[3]) == 103
    with pytest.raises(VideoGoneError, match="was changed"):
        library.open(video.id, 1)


def test_what_is_not_there(library, tmp_path):
    with pytest.raises(UnknownVideoError, match="import it again"):
        library.get("0" * 16)
    with pytest.raises(VideoGoneError, match=r"no file missing\.mp4"):
        library.add(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(FramesError, match="player"):
        library.add(tmp_path / "text.mp4")


def test_nothing_is_written_before_an_import(library, tmp_path):
    assert library.keys() == []
    assert not (tmp_path / "state").exists()


def test_the_file_is_for_its_owner(library, tmp_path):
    library.signing_key()
    assert stat.S_IMODE((tmp_path / "state" / "videos.sqlite3").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_threads_make_one_first_key(tmp_path):
    libraries = [VideoLibrary(tmp_path / "state") for _ in range(6)]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.signing_key())) for one in libraries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1 and len(libraries[0].keys()) == 1


def test_reading_waits_for_no_writer(library, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.video_library._BUSY_MS", 50)
    video, key = library.add(clip), library.signing_key()
    writer = sqlite3.connect(tmp_path / "state" / "videos.sqlite3", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert library.keys() == [key] and library.get(video.id) == video and library.add(clip) == video
    with pytest.raises(LibraryError):
        library.add_key()
    writer.close()


def test_old_keys_end_when_nobody_needs_them(library):
    old = library.signing_key()
    library.remember_place("http://a", 1)
    library.remember_place("http://b", 2)
    new = library.add_key()
    library.remember_place("http://c", 3)
    library.remember_place("http://a", 1)  # an import into a project with old tasks does not renew those
    assert library.keys() == [new, old] and library.signing_key() == new
    assert library.drop_old_keys() == [("http://a", 1), ("http://b", 2)]
    library.renewed_place("http://a", 1)
    assert library.drop_old_keys() == [("http://b", 2)] and library.keys() == [new, old]
    library.forget_place("http://b", 2)
    assert library.drop_old_keys() == [] and library.keys() == [new]


def test_a_file_of_a_newer_release_is_left_alone(library, tmp_path):
    library.signing_key()
    with sqlite3.connect(tmp_path / "state" / "videos.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(LibraryError, match="newer release"):
        VideoLibrary(tmp_path / "state").keys()


def test_a_damaged_file_says_so(tmp_path):
    (tmp_path / "videos.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(LibraryError, match="X2SAM_STATE_DIR"):
        VideoLibrary(tmp_path).signing_key()


def test_addresses():
    key, other = b"k" * 32, b"o" * 32
    address = frame_address("https://host/x2sam/", key, "0123456789abcdef", 7)
    assert address.startswith("https://host/x2sam/frames/0123456789abcdef/7.jpg?s=")
    video, frame, given = split_address(address)
    assert (video, frame) == ("0123456789abcdef", 7)
    assert is_signed([other, key], video, frame, given)
    assert not is_signed([other], video, frame, given)
    assert not is_signed([key], video, 8, given)
    assert not is_signed([key], "1123456789abcdef", frame, given)
    assert not is_signed([key], video, frame, "") and not is_signed([key], video, frame, given[:-1])
    assert not is_signed([key], video, frame, "é" + given[1:]) and not is_signed([], video, frame, given)
    assert signature(key, video, 7) != signature(key, video, 70)


def test_pages_are_the_same_under_new_addresses():
    servers = (("http://old", b"k"), ("https://new/x", b"o"))
    old, new = ([frame_address(base, key, "0" * 16, n) for n in (1, 2)] for base, key in servers)
    assert same_pages(old, new) and same_pages(["x.jpg", old[0]], ("x.jpg", new[0])) and same_pages([], ())
    assert not same_pages(old, new[::-1]) and not same_pages(old, new[:1]) and not same_pages(["x.jpg"], ["y.jpg"])


@pytest.mark.parametrize(
    "address",
    [
        "", "http://[", "/data/upload/1/a.jpg", "http://h/frames/0123456789abcdef/7.png?s=0",
        "http://h/frames/0123456789abcdef/07.jpg?s=0", "http://h/frames/../7.jpg?s=0",
        "http://h/frames/0123456789abcdef/7.jpg", "http://h/frames/0123456789abcdef/7.jpg/more?s=0",
        "http://h/frames/0123456789abcdef/-7.jpg?s=0", "http://h/?x=/frames/0123456789abcdef/7.jpg?s=0",
    ],
)  # fmt: skip
def test_what_is_no_address_of_ours(address):
    assert split_address(address) is None
