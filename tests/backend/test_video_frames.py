"""Pages of videos: made on demand, the same for browser and model, opened by their signature alone."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace

import pytest
from video_clips import number_in, write_clip

from backend.app import close_services, create_app
from backend.errors import MediaDiskError, MediaError, MediaRefusedError
from backend.file_cache import FileCache
from backend.media import MediaFetcher
from backend.settings import Settings
from backend.video_addresses import frame_address
from backend.video_frames import BROWSER, MODEL, VideoFrames
from backend.video_library import UnknownVideoError, VideoLibrary


@pytest.fixture
def library(tmp_path):
    return VideoLibrary(tmp_path / "state")


@pytest.fixture
def video(library, tmp_path):
    return library.add(write_clip(tmp_path / "clip.mp4"))


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(
        label_studio_url="http://127.0.0.1:1",
        media_cache_dir=str(tmp_path / "media"),
        state_dir=str(tmp_path / "state"),
        public_url="http://pages.test:9090",
        load_wait=5,
    )


@pytest.fixture
def client(settings, engine):
    app = create_app(settings, lambda: engine)
    yield app.test_client()
    close_services(app.extensions["x2sam"])


def path_of(library, video, frame, key=None):
    return frame_address("", key or library.signing_key(), video.id, frame)


def test_each_frame_is_its_own(library, video, tmp_path):
    frames = VideoFrames(library, tmp_path / "frames", 10**7)
    for frame in (7, 0, 19, 3, 4, 12):
        assert number_in(frames.read(video.id, frame)) == frame
        assert number_in(frames.read(video.id, frame, BROWSER)) == frame


def test_the_disk_has_a_budget(library, video, tmp_path):
    frames = VideoFrames(library, tmp_path / "frames", 1)
    size = len(frames.read(video.id, 0))
    frames = VideoFrames(library, tmp_path / "frames", 3 * size)
    for frame in range(20):
        assert number_in(frames.read(video.id, frame)) == frame
    assert frames.total_bytes <= 3 * size
    stored = list((tmp_path / "frames").iterdir())
    assert 1 <= len(stored) <= 4 and not [path for path in stored if path.suffix == ".part"]


def test_a_page_is_decoded_once(library, video, tmp_path, monkeypatch):
    frames = VideoFrames(library, tmp_path / "frames", 10**7)
    opened = []
    open_video = library.open
    monkeypatch.setattr(library, "open", lambda *args: (opened.append(args[0]), open_video(*args))[1])
    for _ in range(3):
        frames.file(video.id, 5)
        frames.file(video.id, 6)
    assert opened == [video.id]
    VideoFrames(library, tmp_path / "frames", 10**7).file(video.id, 5)  # still on disk after a restart
    assert opened == [video.id]


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_and_people_still_see_their_pages(client, library, video, settings, tmp_path, monkeypatch):
    client.get(path_of(library, video, 3))
    with monkeypatch.context() as patch:
        patch.setattr("backend.file_cache.tempfile.mkstemp", no_room)
        assert number_in(client.get(path_of(library, video, 7)).data) == 7
        assert number_in(client.get(path_of(library, video, 3)).data) == 3, "what is there stays"
        with pytest.raises(MediaDiskError, match=r"No space left on device.*X2SAM_CACHE_DIR"):
            VideoFrames(library, tmp_path / "frames", 10**7).file(video.id, 7)
    with monkeypatch.context() as patch:
        patch.setattr("backend.file_cache.os.replace", no_room)
        with pytest.raises(MediaDiskError):
            VideoFrames(library, tmp_path / "frames", 10**7).file(video.id, 7)
    assert not list((tmp_path / "frames").glob("*.part")), "nothing half written is left"


def test_few_videos_are_open_at_once(library, tmp_path):
    videos = [library.add(write_clip(tmp_path / f"{i}.mp4", count=4, shift=20 * i)) for i in range(4)]
    frames = VideoFrames(library, tmp_path / "frames", 10**7, open_videos=2)
    for frame in range(4):
        for i, video in enumerate(videos):
            assert number_in(frames.read(video.id, frame)) == 20 * i + frame
        assert len(frames._entries) <= 2


def test_many_readers_at_once(library, video, tmp_path):
    frames = VideoFrames(library, tmp_path / "frames", 20_000, open_videos=1)
    wrong = []

    def read(purpose, order):
        wrong.extend(n for n in order if number_in(frames.read(video.id, n, purpose)) != n)

    orders = [range(20), range(19, -1, -1), [*range(0, 20, 3)] * 2, [5] * 10]
    threads = [threading.Thread(target=read, args=(p, order)) for p in (BROWSER, MODEL) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_page_that_never_stays_is_told(library, video, tmp_path, monkeypatch):
    frames = VideoFrames(library, tmp_path / "frames", 10**7)
    gone = replace(frames.file(video.id, 0), path=tmp_path / "gone")
    monkeypatch.setattr(frames, "file", lambda *_: gone)
    with pytest.raises(MediaError, match="X2SAM_FRAMES_MB"):
        frames.read(video.id, 0)


def test_the_browser_gets_a_page(client, library, video):
    answer = client.get(path_of(library, video, 7))
    assert answer.status_code == 200 and answer.mimetype == "image/jpeg"
    assert number_in(answer.data) == 7
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    same = client.get(path_of(library, video, 7), headers={"If-None-Match": answer.headers["ETag"]})
    assert same.status_code == 304 and not same.data and same.headers["Access-Control-Allow-Origin"] == "*"
    assert client.head(path_of(library, video, 7)).content_length == len(answer.data)


def test_only_the_signature_opens_it(client, library, video):
    good = path_of(library, video, 7)
    for wrong in (good.partition("?")[0], good[:-1], good.replace("/7.", "/8."), path_of(library, video, 7, b"x" * 32)):
        answer = client.get(wrong)
        assert answer.status_code == 403 and "not signed" in answer.json["error"]
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_what_is_not_there_is_told(client, library, video, tmp_path):
    assert client.get(path_of(library, video, 20)).status_code == 404
    assert client.get(frame_address("", library.signing_key(), "0" * 16, 0)).status_code == 404
    (tmp_path / "clip.mp4").unlink()
    answer = client.get(path_of(library, video, 7))
    assert answer.status_code == 410 and "import it again" in answer.json["error"]
    assert str(tmp_path) not in answer.text


def test_a_file_that_came_back_is_read_again(client, library, video, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.rename(tmp_path / "away.mp4")
    assert client.get(path_of(library, video, 7)).status_code == 410
    (tmp_path / "away.mp4").rename(clip)
    assert number_in(client.get(path_of(library, video, 7)).data) == 7


def test_no_password_is_asked_for_pages(settings, engine, library, video):
    locked = replace(settings, basic_auth_user="u", basic_auth_pass="p")
    app = create_app(locked, lambda: engine)
    try:
        assert app.test_client().get("/versions").status_code == 401
        assert app.test_client().get(path_of(library, video, 1)).status_code == 200
    finally:
        close_services(app.extensions["x2sam"])


def test_the_model_needs_no_http(settings, library, video, tmp_path):
    fetcher = MediaFetcher(settings, FileCache(tmp_path / "cache", 10**7, 60))
    key = library.signing_key()
    for base in ("http://pages.test:9090", "https://other.name/below"):
        assert number_in(fetcher.read(frame_address(base, key, video.id, 11))) == 11
    with pytest.raises(MediaRefusedError, match="X2SAM_MEDIA_HOSTS"):
        fetcher.read(frame_address("http://pages.test:9090", b"wrong", video.id, 11))
    with pytest.raises(UnknownVideoError):
        fetcher.read(frame_address("http://pages.test:9090", key, "0" * 16, 11))


def test_a_click_on_a_page_is_answered(client, library, video, settings):
    xml = (
        '<View><Image name="image" valueList="$frames"/>'
        '<BitmaskLabels name="mask" toName="image" smart="false"><Label value="Object"/></BitmaskLabels>'
        '<KeyPointLabels name="point" toName="image" smart="true"><Label value="Object"/></KeyPointLabels></View>'
    )
    key = library.signing_key()
    addresses = [frame_address(settings.public_url, key, video.id, frame) for frame in range(8, 20)]
    click = {
        "id": "a", "from_name": "point", "to_name": "image", "type": "keypointlabels", "is_positive": True,
        "item_index": 5, "original_width": 160, "original_height": 64, "image_rotation": 0,
        "value": {"x": 50, "y": 50, "width": 0.2, "keypointlabels": ["Object"]},
    }  # fmt: skip
    body = {
        "tasks": [{"id": 3, "data": {"frames": addresses}}],
        "project": "1.1",
        "label_config": xml,
        "params": {"context": {"result": [click]}},
    }
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    (item,) = [item for item in answer.json["results"][0]["result"] if item["type"] == "bitmasklabels"]
    assert (item["item_index"], item["original_width"], item["original_height"]) == (5, 160, 64)


def test_metrics_tell_the_size_on_disk(client, library, video):
    client.get(path_of(library, video, 1))
    text = client.get("/metrics").text
    size = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("x2sam_frames_bytes "))
    assert size > 100
